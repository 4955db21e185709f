//! What the tests that trace the kernel share: who may run, namespaces, the program as its users
//! start it, its lines, and who else saw what happened.

pub mod gate;
pub mod kernel;
pub mod lines;
pub mod namespace;
pub mod ndjson;
pub mod pace;
pub mod receiver;
pub mod sock_diag;
pub mod tracer;
pub mod witness;
