//! The one loop: ring, clock and signals in, stdout out.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use bytes::BytesMut;
use tokio::select;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::attribution::Resolver;
use crate::config::WatchConfig;
use crate::consumer::Consumer;
use crate::decode;
use crate::host;
use crate::inventory::Inventories;
use crate::output::{Format, Summary, Terminal, Writer};
use crate::pipeline::Pipeline;
use crate::probes::{Probes, Settings, only_adds_precision};
use crate::reader::{Batch, Reader};
use crate::sink::Sink;
use crate::stream::{ProbeState, Skipped, StreamRecord, Sweep};
use crate::time::Timestamp;
use crate::{clock, object};

/// How often the accounts and the wall's clock are read.
const ACCOUNTS: Duration = Duration::from_secs(1);

/// `tracer watch`: traces until the time is over, a signal comes, or nobody reads any more, which
/// gives no summary.
///
/// # Errors
/// Where nothing can be traced, or stdout cannot be written.
pub async fn watch(config: WatchConfig) -> anyhow::Result<Option<Summary>> {
    let mut signals = Signals::new().context("failed to listen for signals")?;
    let settings = Settings {
        without: &config.without,
        ..Settings::new(object::object(), config.buffer.bytes())
    };
    let (probes, ring) = Probes::attach(&settings)?;
    tell_what_is_lost(&probes);
    let reader = Reader::new(ring).context("failed to map the ring buffer")?;
    let sink = Sink::stdout().context("failed to start writing stdout")?;
    let started = clock::monotonic();
    let mut out = BytesMut::new();
    let writer = Writer::new(
        config.format,
        Terminal::stdout(config.color),
        config.transitions,
    );
    let pipeline = Pipeline::new(
        &host::meta(probes.reports()),
        started,
        clock::wall_offset(),
        config.filter,
        writer,
        config.transitions,
        &mut out,
    );
    let mut session = Session {
        probes,
        reader,
        resolver: Resolver::new(),
        inventories: Inventories::new(started),
        pipeline,
        // NDJSON has a line of its own for it.
        skips_told: (config.format == Format::Table).then(Vec::new),
        sink,
        out,
    };
    let end = config.duration.map(|duration| started + duration);
    if session.run(&mut signals, end).await? == Stopped::Unread {
        session
            .sink
            .finish()
            .await
            .context("failed to write stdout")?;
        return Ok(None);
    }
    session.finish(&mut signals).await.map(Some)
}

/// What refused probes cost, a line for each reason, before the first line of output.
fn tell_what_is_lost(probes: &Probes) {
    let mut by_reason: Vec<(&str, Vec<&str>)> = Vec::new();
    for probe in probes.reports() {
        if let ProbeState::Refused(reason) = &probe.state
            && !only_adds_precision(probe.name)
        {
            match by_reason.iter_mut().find(|(known, _)| known == reason) {
                Some((_, purposes)) => purposes.push(probe.purpose),
                None => by_reason.push((reason, vec![probe.purpose])),
            }
        }
    }
    for (reason, purposes) in by_reason {
        // Stderr may be closed; that is no reason not to trace.
        let _ = writeln!(
            io::stderr(),
            "tracer: not seen: {}: {reason}",
            purposes.join("; ")
        );
    }
}

/// What a sweep could not look at, a line for each reason that is new.
fn tell_what_was_skipped(sweep: &Sweep, told: &mut Vec<Skipped>) {
    if !sweep.skips_more_than(told) {
        return;
    }
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for skipped in &sweep.skipped {
        let paths = by_reason.entry(&skipped.reason).or_default();
        paths.push(&skipped.path);
    }
    for (reason, paths) in by_reason {
        // The whole list is in NDJSON.
        let more = match paths.len() {
            0..=3 => String::new(),
            many => format!(" and {} more", many - 3),
        };
        let paths = paths.iter().take(3);
        // Whoever mounts a namespace chooses its name.
        let paths: Vec<String> = paths.map(|path| path.escape_debug().to_string()).collect();
        let _ = writeln!(
            io::stderr(),
            "tracer: not looked at: {}{more}: {reason}",
            paths.join(", ")
        );
    }
    told.clone_from(&sweep.skipped);
}

/// Why the loop has ended.
#[derive(PartialEq, Eq)]
enum Stopped {
    /// The time is over, or a signal came.
    Asked,
    /// Stdout takes no more.
    Unread,
}

struct Session<C> {
    probes: Probes,
    reader: Reader,
    resolver: Resolver,
    inventories: Inventories,
    pipeline: Pipeline<C>,
    /// `None`: what a sweep skipped is not for stderr.
    skips_told: Option<Vec<Skipped>>,
    sink: Sink,
    out: BytesMut,
}

impl<C: Consumer> Session<C> {
    async fn run(
        &mut self,
        signals: &mut Signals,
        end: Option<Timestamp>,
    ) -> anyhow::Result<Stopped> {
        let mut accounts_due = clock::monotonic() + ACCOUNTS;
        loop {
            select! {
                biased;
                signal = signals.next() => match signal {
                    Told::End => return Ok(Stopped::Asked),
                    Told::Resized => self.pipeline.resize(Terminal::stdout_size()),
                },
                () = self.sink.send(&mut self.out) => {}
            }
            let due = [
                self.pipeline.poll_timeout(),
                self.inventories.poll_timeout(),
                end,
            ];
            let deadline = due.into_iter().flatten().fold(accounts_due, Timestamp::min);
            select! {
                biased;
                signal = signals.next() => match signal {
                    Told::End => return Ok(Stopped::Asked),
                    Told::Resized => self.pipeline.resize(Terminal::stdout_size()),
                },
                () = self.sink.closed() => return Ok(Stopped::Unread),
                () = self.inventories.next() => {}
                batch = self.reader.next_batch(Some(deadline)) => {
                    self.feed(batch.context("failed to read the ring buffer")?);
                }
            }
            let now = clock::monotonic();
            self.inventories.handle_timeout(now);
            if now >= accounts_due {
                accounts_due = now + ACCOUNTS;
                self.pipeline
                    .handle(&StreamRecord::Clock(clock::wall_offset()), &mut self.out);
                self.read_accounts()?;
            }
            if end.is_some_and(|end| now >= end) || self.pipeline.is_done() {
                return Ok(Stopped::Asked);
            }
        }
    }

    /// Stops the programs, takes what is still in the ring, and writes the last lines.
    async fn finish(mut self, signals: &mut Signals) -> anyhow::Result<Summary> {
        self.probes.detach();
        // A program that was running on another processor comes to its end.
        tokio::time::sleep(Duration::from_millis(5)).await;
        loop {
            let batch = self.reader.drain();
            let is_drained = batch.records.is_empty() && batch.watermark.is_some();
            self.feed(batch);
            select! {
                biased;
                // A second signal, or a reader that has gone: no more is written.
                () = signals.end() => break,
                () = self.sink.send_last(&mut self.out) => {}
            }
            let is_stuck = !self.out.is_empty();
            if is_drained || is_stuck {
                break;
            }
        }
        self.read_accounts()?;
        let summary = self.pipeline.finish(clock::monotonic(), &mut self.out);
        self.sink.send_last(&mut self.out).await;
        self.sink.finish().await.context("failed to write stdout")?;
        Ok(summary)
    }

    fn feed(&mut self, batch: Batch) {
        let Batch {
            mut records,
            watermark,
            lost,
        } = batch;
        while let Some(event) = decode::next_event(&mut records) {
            match event {
                Ok(event) => {
                    self.resolver.resolve(&event, |name| {
                        self.pipeline
                            .handle(&StreamRecord::Name(name), &mut self.out);
                    });
                    self.pipeline
                        .handle(&StreamRecord::Event(event), &mut self.out);
                }
                Err(error) => {
                    self.pipeline.handle_undecodable();
                    tracing::error!("failed to decode a record of the ring buffer: {error}");
                }
            }
        }
        if let Some(now) = watermark {
            if lost {
                self.pipeline
                    .handle(&StreamRecord::Lost(now), &mut self.out);
            }
            self.pipeline
                .handle(&StreamRecord::Watermark(now), &mut self.out);
            self.feed_inventory(now);
        }
    }

    /// Feeds what a sweep has brought, once no event of its time is still to come.
    fn feed_inventory(&mut self, watermark: Timestamp) {
        if let Some(record) = self.inventories.release(watermark) {
            if let StreamRecord::Inventory(inventory) = &record {
                self.resolver
                    .resolve_inventory(inventory, watermark, |name| {
                        self.pipeline
                            .handle(&StreamRecord::Name(name), &mut self.out);
                    });
            }
            self.pipeline.handle(&record, &mut self.out);
            if let (StreamRecord::Swept(sweep), Some(told)) = (&record, &mut self.skips_told) {
                tell_what_was_skipped(sweep, told);
            }
        }
    }

    fn read_accounts(&mut self) -> anyhow::Result<()> {
        self.probes.flush_log();
        let reading = self
            .probes
            .account()
            .context("failed to read the accounts")?;
        let read_at = reading.at;
        self.pipeline
            .handle(&StreamRecord::Account(reading), &mut self.out);
        self.inventories
            .handle_losses(self.pipeline.losses(), read_at);
        Ok(())
    }
}

/// The signals that matter. A closed stream of signals never fires.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    window: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            window: signal(SignalKind::window_change())?,
        })
    }

    /// Waits for the next one.
    async fn next(&mut self) -> Told {
        select! {
            Some(()) = self.interrupt.recv() => Told::End,
            Some(()) = self.terminate.recv() => Told::End,
            Some(()) = self.window.recv() => Told::Resized,
            else => std::future::pending().await,
        }
    }

    /// Waits for one that asks for the end.
    async fn end(&mut self) {
        while matches!(self.next().await, Told::Resized) {}
    }
}

/// What a signal says.
enum Told {
    /// Stop.
    End,
    /// The terminal has another size.
    Resized,
}
