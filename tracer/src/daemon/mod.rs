//! `tracer agent`: the daemon. It traces as `watch` does, and what comes of it goes to who asks.
//!
//! ```text
//! the one loop ─> Observer ─> Ledger ─> Scrape ─> /metrics, /healthz     (a thread of their own)
//!                     ├─> Rolling ─> Findings ─> log
//!                     │                  v
//!                     ├─> Archive ─> History ─> Parquet files             (a thread of its own)
//!                     ├─> Collector ─> Exporter ─> an OpenTelemetry collector    (another one)
//!                     └─> systemd: ready, alive, stopping
//! ```
//!
//! The loop never waits for a reader: once a second it lays what there is to tell where the server
//! finds it.

mod absence;
mod archive;
mod capabilities;
mod collector;
mod crowd;
mod findings;
mod health;
mod observer;
mod server;
mod systemd;

use std::net::TcpListener;

use anyhow::Context as _;

use crate::agent;
use crate::cli::AgentArgs;
use crate::config::agent::AgentConfig;
use crate::output::Summary;

pub use capabilities::narrow;
pub use findings::{Change, Notice};
pub use health::{Health, Losses, Sight};

use observer::Observer;
use server::Server;

/// Traces until SIGINT or SIGTERM. `args` are kept for SIGHUP, on which the configuration is read
/// again. It gives the account of the whole run.
///
/// # Errors
/// Where nothing can be traced, or the address cannot be listened on.
pub async fn run(config: AgentConfig, args: AgentArgs) -> anyhow::Result<Option<Summary>> {
    let listener = config.http.listen.address().map(|address| {
        TcpListener::bind(address).with_context(|| format!("failed to listen on {address}"))
    });
    let listener = listener.transpose()?;
    if config.http.listen.is_exposed() {
        tracing::warn!("/metrics can be read from other hosts: it is not bound to loopback");
    }
    let observer = Observer::new(config.clone(), args, listener.map(Server::new));
    agent::observe(&config, observer).await
}
