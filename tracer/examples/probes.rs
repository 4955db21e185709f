//! The probes alone: attached as `tracer watch` attaches them, and what they put into the ring is
//! taken out of it and thrown away. What a load loses beside this is what the kernel's side costs it;
//! what it loses beside `watch` and not beside this, the agent.
//!
//! `cargo xtask bench overhead` runs it, as root, and ends it with SIGINT. Then it prints a line: what
//! was lost.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracer::probes::{Probes, Settings};
use tracer::reader::Reader;
use tracer::{heap, object};

/// As `tracer watch` has it by default.
const BUFFER: u32 = 32 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let settings = Settings::new(object::object(), BUFFER);
    let (probes, ring) = Probes::attach(&settings)?;
    heap::give_back();
    let mut reader = Reader::new(ring).context("failed to map the ring buffer")?;
    loop {
        tokio::select! {
            biased;
            _ = interrupt.recv() => break,
            batch = reader.next_batch(None) => drop(batch.context("failed to read the ring buffer")?),
        }
    }
    let account = probes.account().context("failed to read the accounts")?;
    eprintln!("tracer: probes alone; {} lost", account.ring_lost);
    Ok(())
}
