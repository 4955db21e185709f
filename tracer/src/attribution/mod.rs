//! Whose a connection is: names for the numbers that the kernel shows.

mod cgroups;
mod container;
mod names;
mod recent;
mod resolver;

pub use container::{Container, Runtime};
pub use names::{Group, Names};
pub use resolver::Resolver;
