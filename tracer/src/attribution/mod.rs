//! Whose a connection is: names for the numbers that the kernel shows.

mod container;
mod names;

pub use container::{Container, Runtime};
pub use names::Names;
