//! tracer: how TCP connections end on this host, measured.
//!
//! Data goes one way: the kernel's ring buffer → [`stream`] → engine → output.

pub mod engine;
pub mod record;
pub mod stream;
pub mod time;
