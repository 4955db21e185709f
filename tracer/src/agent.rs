//! The one loop: ring, clock and signals in, stdout out.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use tokio::select;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::attribution::Resolver;
use crate::config::agent::AgentConfig;
use crate::config::{DiagnoseConfig, WatchConfig};
use crate::consumer::Consumer;
use crate::decode::{self, DecodeError};
use crate::diagnosis::{self, Report, rules};
use crate::engine::EVENTS_AHEAD;
use crate::filter::Filter;
use crate::host;
use crate::inventory::Inventories;
use crate::output::{Format, Summary, Terminal, Writer};
use crate::pipeline::Pipeline;
use crate::probes::{Probes, Settings, only_adds_precision};
use crate::reader::{Batch, Reader};
use crate::readings::Readings;
use crate::sink::{Outlet, Sink};
use crate::stream::{Event, ProbeState, Skipped, StreamRecord, Sweep};
use crate::time::Timestamp;
use crate::{clock, daemon, heap, object};

/// How often the accounts and the wall's clock are read.
const ACCOUNTS: Duration = Duration::from_secs(1);
/// How often while no event comes and nobody keeps account: waking up is what an idle tracer costs.
const ACCOUNTS_IDLE: Duration = Duration::from_secs(5);
/// What is said where the kernel refuses it.
const RING_UNREADABLE: &str = "failed to read the ring buffer";

/// `tracer watch`: traces until the time is over, a signal comes, or nobody reads any more, which
/// gives no summary.
///
/// # Errors
/// Where nothing can be traced, or stdout cannot be written.
pub async fn watch(config: WatchConfig) -> anyhow::Result<Option<Summary>> {
    let writer = match config.summary {
        true => Writer::of_summary(config.format),
        false => Writer::new(
            config.format,
            Terminal::stdout(config.color),
            config.transitions,
        ),
    };
    let plan = Plan {
        settings: Settings {
            without: &config.without,
            calls: config.calls,
            ..Settings::new(object::object(), config.buffer.bytes())
        },
        filter: config.filter,
        transitions: config.transitions,
        duration: config.duration,
        // Rows of NDJSON come with lines of their own for it.
        tells_skips: config.format == Format::Table || config.summary,
        greeting: None,
        is_daemon: false,
    };
    let outcome = trace(&plan, writer).await?;
    Ok(outcome.map(|(summary, _)| summary))
}

/// `tracer diagnose`: traces until the time is over, a signal comes, or the diagnosis is certain.
/// `None`: nobody reads any more.
///
/// # Errors
/// Where nothing can be traced.
pub async fn diagnose(config: DiagnoseConfig) -> anyhow::Result<Option<Report>> {
    let watch = diagnosis::Watch::new(rules::all(), config.until_certain, config.filter);
    let plan = Plan {
        settings: Settings {
            without: &config.without,
            calls: true,
            ..Settings::new(object::object(), config.buffer.bytes())
        },
        // The account of ports sees everything; findings are chosen from at the end.
        filter: Filter::default(),
        transitions: false,
        duration: Some(config.duration),
        // The report says it.
        tells_skips: false,
        greeting: Some(match config.until_certain {
            true => "watching until something is certain",
            false => "watching",
        }),
        is_daemon: false,
    };
    let outcome = trace(&plan, watch).await?;
    Ok(outcome.map(|(_, watch)| watch.into_report()))
}

/// `tracer agent`: traces for `observer` until a signal asks for the end.
///
/// # Errors
/// Where nothing can be traced.
pub(crate) async fn observe<C: Consumer>(
    config: &AgentConfig,
    observer: C,
) -> anyhow::Result<Option<Summary>> {
    let plan = Plan {
        settings: Settings {
            without: &config.trace.without,
            calls: config.trace.calls,
            ..Settings::new(object::object(), config.trace.buffer.bytes())
        },
        filter: Filter::default(),
        transitions: false,
        duration: None,
        tells_skips: true,
        greeting: None,
        is_daemon: true,
    };
    let outcome = trace(&plan, observer).await?;
    Ok(outcome.map(|(summary, _)| summary))
}

/// What a run of the one loop is to do.
struct Plan<'a> {
    settings: Settings<'a>,
    filter: Filter,
    transitions: bool,
    duration: Option<Duration>,
    /// What a sweep could not look at is told on stderr.
    tells_skips: bool,
    /// What is said on stderr once the probes are attached.
    greeting: Option<&'static str>,
    /// Nothing is written to stdout, SIGHUP asks for the configuration, and what it may do is less
    /// once the probes are attached.
    is_daemon: bool,
}

/// Traces for `consumer`, and gives it back with the account. `None`: stdout was closed.
async fn trace<C: Consumer>(plan: &Plan<'_>, consumer: C) -> anyhow::Result<Option<(Summary, C)>> {
    let mut signals = Signals::new(plan.is_daemon).context("failed to listen for signals")?;
    let (probes, ring) = Probes::attach(&plan.settings)?;
    // What was read of the kernel's types and symbols has been dropped by now.
    heap::give_back();
    tell_what_is_lost(&probes);
    let reader = Reader::new(ring).context("failed to map the ring buffer")?;
    let sink = match plan.is_daemon {
        true => {
            daemon::narrow().context("failed to drop capabilities")?;
            Outlet::Nowhere
        }
        false => Outlet::Stdout(Sink::stdout().context("failed to start writing stdout")?),
    };
    let started = clock::monotonic();
    let mut out = BytesMut::new();
    let pipeline = Pipeline::new(
        &host::meta(probes.reports()),
        started,
        clock::wall_offset(),
        plan.filter.clone(),
        consumer,
        plan.transitions,
        &mut out,
    );
    let mut session = Session {
        probes,
        reader,
        resolver: pipeline.wants_names().then(Resolver::new),
        inventories: Inventories::new(started),
        readings: C::WANTS_READINGS.then(|| Readings::new(started)),
        pipeline,
        skips_told: plan.tells_skips.then(Vec::new),
        events: Vec::with_capacity(EVENTS_AHEAD),
        sink,
        out,
    };
    if let (Some(greeting), Some(duration)) = (plan.greeting, plan.duration) {
        // Stderr may be closed; that is no reason not to trace.
        let _ = writeln!(
            io::stderr(),
            "tracer: {greeting}, for {} s at most; Ctrl-C reports at once",
            duration.as_secs_f32()
        );
    }
    let end = plan.duration.map(|duration| started + duration);
    let stopped = session.run(&mut signals, end).await;
    if matches!(stopped, Ok(Stopped::Unread)) {
        session
            .sink
            .finish()
            .await
            .context("failed to write stdout")?;
        return Ok(None);
    }
    // After a failure too: what was seen before it is written.
    let finished = session.finish(&mut signals).await;
    stopped?;
    finished.map(Some)
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
    /// Where somebody wants names.
    resolver: Option<Resolver>,
    inventories: Inventories,
    /// Where somebody wants them.
    readings: Option<Readings>,
    pipeline: Pipeline<C>,
    /// `None`: what a sweep skipped is not for stderr.
    skips_told: Option<Vec<Skipped>>,
    /// The events that are looked ahead at.
    events: Vec<Event>,
    sink: Outlet,
    out: BytesMut,
}

impl<C: Consumer> Session<C> {
    async fn run(
        &mut self,
        signals: &mut Signals,
        end: Option<Timestamp>,
    ) -> anyhow::Result<Stopped> {
        let mut accounts_due = clock::monotonic() + ACCOUNTS;
        // Since the accounts were read last.
        let mut has_events = false;
        loop {
            select! {
                biased;
                signal = signals.next() => match signal {
                    Told::End => return Ok(Stopped::Asked),
                    Told::Resized => self.pipeline.resize(Terminal::stdout_size()),
                    Told::Reload => self.pipeline.reload(),
                },
                () = self.sink.send(&mut self.out) => {}
            }
            let due = [
                self.pipeline.poll_timeout(),
                self.inventories.poll_timeout(),
                self.readings.as_ref().and_then(Readings::poll_timeout),
                end,
            ];
            let deadline = due.into_iter().flatten().fold(accounts_due, Timestamp::min);
            select! {
                biased;
                signal = signals.next() => match signal {
                    Told::End => return Ok(Stopped::Asked),
                    Told::Resized => self.pipeline.resize(Terminal::stdout_size()),
                    Told::Reload => self.pipeline.reload(),
                },
                () = self.sink.closed() => return Ok(Stopped::Unread),
                () = self.inventories.next() => {}
                () = next_reading(&mut self.readings) => {}
                batch = self.reader.next_batch(Some(deadline)) => {
                    let batch = batch.context(RING_UNREADABLE)?;
                    has_events |= !batch.records.is_empty();
                    self.feed(batch);
                }
            }
            let now = clock::monotonic();
            if has_events {
                accounts_due = accounts_due.min(now + ACCOUNTS);
            }
            self.inventories.handle_timeout(now);
            if let Some(readings) = &mut self.readings {
                readings.handle_timeout(now);
            }
            if now >= accounts_due {
                let is_idle = !has_events && !C::WANTS_READINGS;
                accounts_due = now + if is_idle { ACCOUNTS_IDLE } else { ACCOUNTS };
                has_events = false;
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
    async fn finish(mut self, signals: &mut Signals) -> anyhow::Result<(Summary, C)> {
        self.probes.detach();
        // A program that was running on another processor comes to its end.
        tokio::time::sleep(Duration::from_millis(5)).await;
        // The rows so far are written even where no more can be read.
        let mut read = Ok(());
        loop {
            let batch = match self.reader.drain() {
                Ok(batch) => batch,
                Err(error) => {
                    read = Err(error);
                    break;
                }
            };
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
        read.context(RING_UNREADABLE)?;
        Ok((summary, self.pipeline.into_consumer()))
    }

    fn feed(&mut self, batch: Batch) {
        let Batch {
            mut records,
            watermark,
            lost,
        } = batch;
        while !records.is_empty() {
            if self.pipeline.wants_to_expect() {
                self.feed_some(&mut records);
            } else {
                // Looked at where it was decoded: a copy would wait for what was just written.
                match &decode::next_event(&mut records) {
                    Some(Ok(event)) => self.feed_event(event),
                    Some(Err(error)) => self.refuse(*error),
                    None => break,
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
            if let Some(record) = self.readings.as_mut().and_then(|it| it.release(now)) {
                self.pipeline.handle(&record, &mut self.out);
            }
        }
    }

    /// Feeds the next events, looked at together before each is taken.
    fn feed_some(&mut self, records: &mut Bytes) {
        let mut events = std::mem::take(&mut self.events);
        decode::next_events(records, &mut events, |error| self.refuse(error));
        self.pipeline.expect(&events);
        for event in &events {
            self.feed_event(event);
        }
        self.events = events;
    }

    fn feed_event(&mut self, event: &Event) {
        if let Some(resolver) = &mut self.resolver {
            resolver.resolve(event, |name| {
                self.pipeline
                    .handle(&StreamRecord::Name(name), &mut self.out);
            });
        }
        self.pipeline.handle_event(event, &mut self.out);
    }

    #[cold]
    fn refuse(&mut self, error: DecodeError) {
        self.pipeline.handle_undecodable();
        tracing::error!("failed to decode a record of the ring buffer: {error}");
    }

    /// Feeds what a sweep has brought, once no event of its time is still to come.
    fn feed_inventory(&mut self, watermark: Timestamp) {
        if let Some(record) = self.inventories.release(watermark) {
            if let StreamRecord::Inventory(inventory) = &record
                && let Some(resolver) = &mut self.resolver
            {
                resolver.resolve_inventory(inventory, watermark, |name| {
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

/// Waits for the next result of the round that runs, where there are rounds. Cancel safe.
async fn next_reading(readings: &mut Option<Readings>) {
    match readings {
        Some(readings) => readings.next().await,
        None => std::future::pending().await,
    }
}

/// The signals that matter. A closed stream of signals never fires.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    window: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// `hangup`: whether SIGHUP asks for something; else it ends the process, as is usual.
    fn new(hangup: bool) -> io::Result<Self> {
        Ok(Self {
            hangup: hangup.then(|| signal(SignalKind::hangup())).transpose()?,
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
            Some(()) = next_of(&mut self.hangup) => Told::Reload,
            else => std::future::pending().await,
        }
    }

    /// Waits for one that asks for the end.
    async fn end(&mut self) {
        while !matches!(self.next().await, Told::End) {}
    }
}

/// What a signal says.
enum Told {
    /// Stop.
    End,
    /// The terminal has another size.
    Resized,
    /// The configuration is to be read again.
    Reload,
}

/// The next of a signal that is listened for. Cancel safe.
async fn next_of(signal: &mut Option<Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}
