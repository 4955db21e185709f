//! Makes loads in network namespaces of its own, with or without a tool beside them, and measures
//! both: the hands of `cargo xtask bench`, which is the head.
//!
//! It is told on stdin, a JSON object a line, what to do, and answers each with a JSON object a line
//! on stdout; the end of stdin ends it. Everything is bounded, and what it starts ends with it. It
//! needs root; `nginx` and `wrk` must be on PATH.

#![expect(
    clippy::disallowed_methods,
    reason = "a load is the outside world, with clocks of its own"
)]

mod children;
mod clearance;
mod empties;
mod lines;
mod order;
mod programs;
mod saturated;
mod stage;
mod steady;
mod talk;
mod tool;
mod waits;

#[path = "../../tests/support/kernel.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod kernel;
#[path = "../../tests/support/namespace.rs"]
#[expect(dead_code, reason = "shared with tests that need more of it")]
mod namespace;

use std::io::{self, BufRead as _, Write as _};
use std::path::Path;
use std::sync::mpsc;
use std::{process, thread};

use anyhow::{Context as _, Result};
use rustix::mount::MountFlags;
use serde_json::{Value, json};

use order::Order;

fn main() -> Result<()> {
    show_tracefs().context("failed to mount tracefs")?;
    for line in orders() {
        let answer = obey(&line).unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
        let mut out = io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

/// The lines of stdin. Their end ends us, whatever is under way: the kernel then ends our children.
fn orders() -> mpsc::IntoIter<String> {
    let (sender, orders) = mpsc::channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
        process::exit(0);
    });
    orders.into_iter()
}

/// Tools that attach to kernel functions look for tracefs. Where the host has not mounted it, it is
/// mounted for us and our children alone.
fn show_tracefs() -> Result<()> {
    namespace::private_mounts();
    let place = Path::new("/sys/kernel/tracing");
    if !place.join("events").exists() {
        rustix::mount::mount("tracefs", place, "tracefs", MountFlags::empty(), None)?;
    }
    Ok(())
}

fn obey(line: &str) -> Result<Value> {
    let order: Order = serde_json::from_str(line).context("that is no order")?;
    order.carry_out()
}
