//! Ephemeral ports: who holds them, how many there are, and when they will be used up.
//!
//! What connect() can have is a matter of (network namespace, source address, destination address
//! and port), here a [`Route`]: one local port serves any number of destinations, but each of them
//! once. Changes of holdings and readings of sysctls go in; nothing here does I/O.

mod account;
mod forecast;
mod pace;
mod space;

pub use account::{Account, Counts, Holders, Program, Route, RouteUse, Service, ServiceUse, tenth};
pub use forecast::{Dwell, DwellBasis, Forecast, Habits, Outlook, forecast};
pub use space::{Space, collisions, reservation};
