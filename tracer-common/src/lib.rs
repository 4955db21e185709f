//! What the BPF programs and the user side agree on: the records on the wire, the TCP states, and
//! the kernel field offsets that the loader fills in.
//!
//! The crate is `no_std` and depends on nothing unless the `user` feature asks for aya's `Pod`.

#![no_std]

pub mod event;
pub mod layout;
pub mod tcp;

/// Version of the records in [`event`]; a change of any layout there raises it.
pub const WIRE_VERSION: u32 = 1;
