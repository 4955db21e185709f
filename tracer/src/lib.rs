//! tracer: how TCP connections end on this host, measured.
//!
//! Data goes one way: the kernel's ring buffer → [`stream`] → engine → output.

pub mod object;
pub mod record;
pub mod stream;
pub mod time;
