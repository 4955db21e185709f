//! tracer: how TCP connections end on this host, measured.
//!
//! Data goes one way: the kernel's ring buffer → [`stream`] → engine → output.

pub mod btf;
pub mod clock;
pub mod decode;
pub mod fdinfo;
pub mod kallsyms;
pub mod probes;
pub mod reader;
pub mod record;
pub mod stream;
pub mod time;
