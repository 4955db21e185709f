//! Makes, in network namespaces of its own, the incidents that `tracer diagnose` is for: with real
//! processes of their own names, on a veth pair, bounded and over by themselves.
//!
//! ```text
//! scene exhaustion    connect() fails for want of a port: its ports wait in TIME_WAIT
//! scene close-wait    a server never closes what its peers have closed
//! scene healthy       much traffic, nothing wrong
//! scene refused       connect() fails beside many TIME_WAITs, which are not the reason
//! scene crowd         six programs, of which one has used up its ports
//! ```
//!
//! It says on stdout, a JSON object a line, when the scene is set (`ready`), and what its programs
//! have done since (`held`); on stdin it is told `go` and `hold`, and the end of stdin ends it.
//! `cargo xtask demo` and the live tests drive it. It needs root.

#![expect(
    clippy::disallowed_methods,
    reason = "a scene is the outside world, with clocks of its own"
)]

mod actor;
mod scenes;
mod stage;

#[path = "../../tests/support/kernel.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod kernel;
#[path = "../../tests/support/namespace.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod namespace;

use clap::{Parser, Subcommand};

use scenes::Scene;

/// Makes incidents to diagnose.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Set a scene.
    #[command(flatten)]
    Scene(Scene),
    /// Play a part in one (for its own processes).
    #[command(hide = true)]
    Act(actor::Part),
}

fn main() {
    match Cli::parse().what {
        What::Scene(scene) => scenes::play(&scene),
        What::Act(part) => actor::play(&part),
    }
}
