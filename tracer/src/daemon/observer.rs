//! The daemon's end of the pipeline.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::watch;

use super::server::{Scrape, Server};
use super::{Health, Losses, systemd};
use crate::attribution::Names;
use crate::cli::AgentArgs;
use crate::config::agent::AgentConfig;
use crate::consumer::{Books, Consumer};
use crate::diagnosis::{NamespaceSeen, Seen};
use crate::history::{self, History, Row, Stats};
use crate::metrics::{Family, Ledger, Outlooks, Sample, Unit, Value, limit};
use crate::output::{Loss, Summary};
use crate::probes::only_adds_precision;
use crate::record::holding::HoldingChange;
use crate::record::{Call, Record};
use crate::stream::{Meta, Name, NamespaceReading, ProbeState, Sweep};
use crate::time::{Timestamp, WallOffset};

/// How often the ports are looked through, in ticks: there may be ten thousand destinations.
const PORTS_EVERY: u64 = 5;

/// Takes everything in, and lays out what is to be told.
pub struct Observer {
    /// As it was at the start, which is what some keys go on to mean.
    started: AgentConfig,
    config: AgentConfig,
    args: AgentArgs,
    /// Until it is started.
    server: Option<Server>,
    scrapes: watch::Sender<Scrape>,
    /// None before the probes are attached.
    ledger: Option<Ledger>,
    losses: Losses,
    /// What is not seen for want of a probe.
    degraded: Vec<String>,
    /// Who holds which ports.
    seen: Seen,
    routes: Outlooks,
    history: Option<History>,
    /// For the history's rows.
    names: Names,
    ticks: u64,
}

impl Observer {
    /// One that is served by `server`, if by any.
    pub fn new(config: AgentConfig, args: AgentArgs, server: Option<Server>) -> Self {
        let (scrapes, _) = watch::channel(Scrape {
            families: Arc::default(),
            health: Health::starting(),
        });
        Self {
            started: config.clone(),
            config,
            args,
            server,
            scrapes,
            ledger: None,
            losses: Losses::default(),
            degraded: Vec::new(),
            seen: Seen::default(),
            routes: Outlooks::default(),
            history: None,
            names: Names::default(),
            ticks: 0,
        }
    }

    /// Starts the history, where one is configured.
    fn remember(&mut self, meta: &Meta) {
        let Some(wanted) = &self.started.history else {
            return;
        };
        let settings = history::Settings {
            roll_bytes: wanted.roll_size,
            roll_after: wanted.roll_after,
            keep: wanted.keep,
            keep_bytes: wanted.keep_size,
            ..history::Settings::new(
                wanted.directory.clone(),
                &self.started.host.name,
                &meta.boot_id,
            )
        };
        match History::start(settings) {
            Ok(history) => self.history = Some(history),
            Err(error) => {
                let directory = wanted.directory.display();
                let problem = format!("no history is kept in {directory}: {error}");
                tracing::error!("{problem}");
                self.degraded.push(problem);
            }
        }
    }

    fn publish(&mut self, books: &Books<'_>) {
        let Some(ledger) = &self.ledger else {
            return;
        };
        let history = self.history.as_ref().map(History::stats);
        // What is left out for the limit's sake is left out from the end.
        let mut families: Vec<Family> = history.iter().flat_map(of_history).collect();
        families.extend(ledger.families(books, &self.routes));
        // What is told of the limit itself is within it.
        let left_out = limit(&mut families, self.config.metrics.series.saturating_sub(1));
        families.insert(
            0,
            Family::new(
                "tracer_series_left_out",
                "Series that are not told because metrics.series is reached",
                Unit::None,
                [Sample::alone(Value::Gauge(left_out as f64))],
            ),
        );
        let losses = self.losses.note(books);
        let limit = self.config.health.losses.value();
        let scrape = Scrape {
            families: Arc::new(families),
            health: Health::of(losses, limit, &self.degraded),
        };
        self.scrapes.send_replace(scrape);
    }
}

impl Consumer for Observer {
    const WANTS_HOLDINGS: bool = true;
    const WANTS_READINGS: bool = true;

    fn meta(&mut self, meta: &Meta, started: Timestamp, _: WallOffset, _: &mut BytesMut) {
        self.seen.began = started;
        self.seen.now = started;
        self.ledger = Some(Ledger::new(meta));
        let refused = |state: &ProbeState| match state {
            ProbeState::Attached => None,
            ProbeState::Refused(reason) => Some(reason.clone()),
        };
        self.degraded = (meta.probes.iter())
            .filter(|probe| !only_adds_precision(probe.name))
            .filter_map(|probe| Some(format!("{}: {}", probe.purpose, refused(&probe.state)?)))
            .collect();
        self.remember(meta);
        if let Some(server) = self.server.take()
            && let Err(error) = server.start(self.scrapes.subscribe())
        {
            tracing::error!("failed to start serving /metrics: {error}");
        }
    }

    fn close(&mut self, record: &Record, _: WallOffset, _: &mut BytesMut) {
        if let Some(ledger) = &mut self.ledger {
            ledger.close(record);
        }
    }

    fn end(&mut self, record: &Record, wall: WallOffset, _: &mut BytesMut) {
        if let Some(ledger) = &mut self.ledger {
            ledger.end(record);
        }
        if let Some(history) = &mut self.history {
            history.offer(Row::of(record, wall, &self.names));
        }
    }

    fn call(&mut self, call: &Call, _: WallOffset, _: &mut BytesMut) {
        if let Some(ledger) = &mut self.ledger {
            ledger.call(call);
        }
    }

    fn wants_names(&self) -> bool {
        self.started.history.is_some()
    }

    fn name(&mut self, name: &Name) {
        self.names.learn(name);
    }

    fn holding(&mut self, change: &HoldingChange) {
        self.seen.ports.handle(change);
    }

    fn namespace(&mut self, reading: &NamespaceReading) {
        let seen = self.seen.namespaces.entry(reading.netns_cookie);
        seen.and_modify(|known| known.latest = reading.clone())
            .or_insert_with(|| NamespaceSeen {
                inode: reading.netns,
                first: reading.clone(),
                latest: reading.clone(),
            });
    }

    fn loss(&mut self, loss: &Loss, _: WallOffset, _: &mut BytesMut) {
        tracing::warn!("{loss}");
    }

    fn sweep(&mut self, _: &Sweep, _: WallOffset, _: &mut BytesMut) {}

    fn tick(&mut self, books: &Books<'_>) {
        self.seen.now = self.seen.now.max(books.now);
        self.seen.ports.age(self.seen.now);
        // A namespace that is no longer read is gone.
        let now = self.seen.now;
        self.seen
            .namespaces
            .retain(|_, seen| now.since(seen.latest.at) < FORGOTTEN);
        if self.ticks.is_multiple_of(PORTS_EVERY) {
            self.routes = Outlooks::of(&self.seen, self.config.metrics.destinations);
        }
        if let Some(history) = &mut self.history {
            history.tick();
        }
        self.publish(books);
        // Now there is something to read.
        if self.ticks == 0 {
            systemd::ready();
        }
        self.ticks += 1;
        let totals = books.totals;
        systemd::alive(&format!(
            "{} connections open, {} in TIME_WAIT; {} events lost, {} missed",
            totals.open, totals.in_time_wait, books.reading.ring_lost, books.missed
        ));
    }

    fn reload(&mut self) {
        systemd::reloading();
        match AgentConfig::load(&self.args) {
            Ok(config) => {
                for key in self.started.needs_restart(&config) {
                    tracing::warn!("{key} has changed: that takes a restart");
                }
                self.config = config;
                tracing::info!("the configuration was read again");
            }
            // What holds goes on to hold.
            Err(error) => tracing::error!("the configuration stays as it was: {error}"),
        }
        systemd::ready();
    }

    fn summary(&mut self, _: &Summary, _: &mut BytesMut) {
        systemd::stopping();
        if let Some(history) = self.history.take() {
            let Stats {
                rows_dropped,
                rows_waiting,
                ..
            } = history.close();
            if rows_dropped + rows_waiting > 0 {
                tracing::warn!(
                    "{rows_dropped} rows of the history were dropped, {rows_waiting} were not \
                     written in time"
                );
            }
        }
        self.scrapes
            .send_modify(|scrape| scrape.health = Health::stopped());
    }
}

/// How long a network namespace is remembered that is no longer read, nanoseconds.
const FORGOTTEN: u64 = 300_000_000_000;

/// What is told of the history.
fn of_history(stats: &Stats) -> [Family; 3] {
    let counter = |name, help, count| {
        let sample = Sample::alone(Value::Counter(count));
        Family::new(name, help, Unit::None, [sample])
    };
    let rows = [
        ("written", stats.rows_written),
        ("dropped", stats.rows_dropped),
    ];
    [
        Family::new(
            "tracer_history_rows",
            "Connections that are in whole files of the history, or in none because the disk or \
             the writer did not keep up",
            Unit::None,
            rows.map(|(result, count)| {
                Sample::of([("result", result.into())], Value::Counter(count))
            }),
        ),
        counter(
            "tracer_history_files",
            "Whole files of the history",
            stats.files,
        ),
        counter(
            "tracer_history_errors",
            "Steps that failed as the history was written",
            stats.errors,
        ),
    ]
}
