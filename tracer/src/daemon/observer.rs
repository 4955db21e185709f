//! The daemon's end of the pipeline.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::watch;

use super::absence::{Absence, Left};
use super::archive::Archive;
use super::collector::{Collector, unix_nanoseconds};
use super::crowd::Crowd;
use super::findings::{Findings, Notice};
use super::server::{Scrape, Server};
use super::systemd::Manager;
use super::{Health, Losses, Sight, systemd};
use crate::cli::AgentArgs;
use crate::config::agent::AgentConfig;
use crate::consumer::{Books, Consumer};
use crate::diagnosis::{Rolling, rules};
use crate::history::Row;
use crate::metrics::{Family, Ledger, Outlooks, Sample, Unit, Value, limit};
use crate::output::{Loss, Summary};
use crate::pipeline::Opened;
use crate::probes::only_adds_precision;
use crate::record::holding::HoldingChange;
use crate::record::{Call, Record};
use crate::stream::{Inventory, Meta, Name, NamespaceReading, ProbeState, Sweep};
use crate::time::{Timestamp, WallOffset};

/// How often the ports are looked through, in ticks: there may be ten thousand destinations.
const PORTS_EVERY: u64 = 5;
/// How often is left what the next agent goes by, in ticks.
const LEFT_EVERY: u64 = 10;

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
    sight: Sight,
    crowd: Crowd,
    /// What is not seen for want of a probe.
    degraded: Vec<String>,
    /// Who holds which ports, and what the rules look at.
    watch: Rolling,
    findings: Findings,
    routes: Outlooks,
    archive: Option<Archive>,
    /// Where everything is sent. None before the probes are attached.
    collector: Option<Collector>,
    /// What came while no agent ran; `None`: before the probes are attached.
    absence: Option<Absence>,
    /// Openings that the kernel has counted and we have met.
    met: Opened,
    manager: Manager,
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
            watch: Rolling::new(rules::all(), config.diagnose.enabled),
            started: config.clone(),
            config,
            args,
            server,
            scrapes,
            ledger: None,
            losses: Losses::default(),
            sight: Sight::default(),
            crowd: Crowd::default(),
            degraded: Vec::new(),
            findings: Findings::new(),
            routes: Outlooks::default(),
            archive: None,
            collector: None,
            absence: None,
            met: Opened::default(),
            manager: Manager::default(),
            ticks: 0,
        }
    }

    /// Starts the history, where one is configured.
    fn remember(&mut self, meta: &Meta) {
        let host = &self.started.host.name;
        let archive = (self.started.history.as_ref())
            .map(|wanted| Archive::start(wanted, host, &meta.boot_id));
        match archive.transpose() {
            Ok(archive) => self.archive = archive,
            Err(problem) => self.degraded.push(problem),
        }
    }

    /// Looks what the last agent left.
    fn look_back(&mut self, meta: &Meta) {
        let history = self.started.history.as_ref();
        let directory = systemd::state_directory().or(history.map(|it| it.directory.clone()));
        let (absence, read) = Absence::begin(directory.as_deref(), &meta.boot_id);
        if let Err(error) = read {
            tracing::warn!("failed to read how the kernel's counters stood before: {error}");
        }
        self.absence = Some(absence);
    }

    /// Openings that the kernel has counted and we have met.
    fn met_by(&self, opened: Opened) -> Opened {
        let unsent = self.ledger.as_ref().map_or(0, Ledger::unsent);
        Opened {
            clients: opened.clients.saturating_sub(unsent),
            ..opened
        }
    }

    /// What is to be left for the next agent.
    fn left(&mut self, stopped: bool) -> Option<Left> {
        let met = self.met;
        self.absence.as_mut()?.leave(met, stopped)
    }

    /// Starts to send to the collector, where one is configured.
    fn send(&mut self, started: Timestamp, wall: WallOffset) {
        let started = unix_nanoseconds(started, wall);
        let mut collector = Collector::new(&self.started.host.name, started);
        if let Err(error) = collector.set(self.started.otlp.as_ref()) {
            let problem = format!(
                "nothing is sent to the collector: {:#}",
                anyhow::Error::from(error)
            );
            tracing::error!("{problem}");
            self.degraded.push(problem);
        }
        self.collector = Some(collector);
    }

    /// Tells that a finding has begun, changed or ended.
    fn tell(&mut self, notice: &Notice) {
        notice.log();
        if let Some(collector) = &mut self.collector {
            collector.find(notice);
        }
    }

    fn publish(&mut self, books: &Books<'_>) {
        let Some(ledger) = &self.ledger else {
            return;
        };
        // What is left out for the limit's sake is left out from the end.
        let mut families: Vec<Family> = self.archive.iter().flat_map(Archive::families).collect();
        families.extend(self.collector.iter().flat_map(Collector::families));
        let findings = self.watch.is_on().then(|| {
            let forgotten = self.watch.seen().ports.forgotten();
            self.findings.families(&self.watch.left_out(), forgotten)
        });
        let findings = findings.into_iter().flatten();
        families.extend(ledger.families(books, findings, &self.routes));
        families.extend(
            self.absence
                .as_ref()
                .and_then(Absence::unwatched)
                .map(|unwatched| unwatched.family()),
        );
        // What is told of the limit itself is within it.
        let left_out = limit(&mut families, self.config.metrics.series.saturating_sub(1));
        families.insert(
            0,
            Family::new(
                "tracer.series.left_out",
                "Series that are not told because metrics.series is reached",
                Unit::None,
                [Sample::alone(Value::Gauge(left_out as f64))],
            ),
        );
        let losses = self.losses.note(books);
        let limit = self.config.health.losses.value();
        let families = Arc::new(families);
        if let Some(collector) = &mut self.collector {
            collector.publish(&families, books.now);
        }
        let scrape = Scrape {
            families,
            health: Health::of(
                losses,
                limit,
                &self.degraded,
                &books.reading.gone,
                self.sight.look(books),
            ),
        };
        self.scrapes.send_replace(scrape);
    }
}

impl Consumer for Observer {
    const WANTS_HOLDINGS: bool = true;
    const WANTS_READINGS: bool = true;

    fn meta(&mut self, meta: &Meta, started: Timestamp, wall: WallOffset, _: &mut BytesMut) {
        self.watch.begin(started);
        self.ledger = Some(Ledger::new(meta, self.most_connections()));
        let refused = |state: &ProbeState| match state {
            ProbeState::Attached => None,
            ProbeState::Refused(reason) => Some(reason.clone()),
        };
        self.degraded = (meta.probes.iter())
            .filter(|probe| !only_adds_precision(probe.name))
            .filter_map(|probe| Some(format!("{}: {}", probe.purpose, refused(&probe.state)?)))
            .collect();
        self.manager = Manager::of_environment();
        self.remember(meta);
        self.look_back(meta);
        self.send(started, wall);
        if let Some(server) = self.server.take()
            && let Err(error) = server.start(self.scrapes.subscribe())
        {
            tracing::error!("failed to start serving /metrics: {error}");
        }
    }

    fn close(&mut self, record: &Record, wall: WallOffset, _: &mut BytesMut) {
        if let Some(ledger) = &mut self.ledger {
            ledger.close(record);
        }
        if let Some(collector) = &mut self.collector {
            collector.close(record, wall, &self.watch.seen().names);
        }
        self.watch.close(record);
    }

    fn end(&mut self, record: &Record, wall: WallOffset, _: &mut BytesMut) {
        if let Some(ledger) = &mut self.ledger {
            ledger.end(record);
        }
        self.watch.end(record);
        if let Some(archive) = &mut self.archive {
            archive.offer(Row::of(record, wall, &self.watch.seen().names));
        }
    }

    fn call(&mut self, call: &Call, _: WallOffset, _: &mut BytesMut) {
        if let Some(ledger) = &mut self.ledger {
            ledger.call(call);
        }
        self.watch.call(call);
    }

    fn most_connections(&self) -> usize {
        self.started.trace.connections
    }

    fn wants_names(&self) -> bool {
        let started = &self.started;
        started.history.is_some() || started.diagnose.enabled || sends_closes(started)
    }

    fn name(&mut self, name: &Name) {
        self.watch.name(name);
    }

    fn holding(&mut self, change: &HoldingChange) {
        self.watch.holding(change);
    }

    fn namespace(&mut self, reading: &NamespaceReading, opened: Opened) {
        let met = self.met_by(opened);
        let absence = self.absence.as_mut();
        if let Some(unwatched) = absence.and_then(|absence| absence.read(reading, met)) {
            tracing::info!("{unwatched}");
        }
        self.sight.note(reading);
        self.watch.namespace(reading);
    }

    fn inventory(&mut self, inventory: &Inventory) {
        self.watch.inventory(inventory);
    }

    fn loss(&mut self, loss: &Loss, _: WallOffset, _: &mut BytesMut) {
        tracing::warn!("{loss}");
    }

    fn sweep(&mut self, sweep: &Sweep, _: WallOffset, _: &mut BytesMut) {
        self.watch.sweep(sweep);
    }

    fn tick(&mut self, books: &Books<'_>) {
        if let Some(answer) = self.watch.tick(books.now) {
            for notice in self.findings.take(answer.findings, books.now) {
                self.tell(&notice);
            }
        }
        if self.ticks.is_multiple_of(PORTS_EVERY) {
            self.routes = Outlooks::of(self.watch.seen(), self.config.metrics.destinations);
        }
        if let Some(crowded) = self.crowd.note(books.now, books.totals) {
            tracing::warn!("{crowded}");
        }
        if let Some(archive) = &mut self.archive {
            archive.tick();
        }
        self.met = self.met_by(Opened::of(books.totals));
        if self.ticks.is_multiple_of(LEFT_EVERY)
            && let Some(left) = self.left(false)
        {
            // The disk may be slow.
            tokio::task::spawn_blocking(move || left.keep());
        }
        self.publish(books);
        // Now there is something to read.
        if self.ticks == 0 {
            self.manager.ready();
        }
        self.ticks += 1;
        let totals = books.totals;
        self.manager.alive(format!(
            "{} connections open, {} in TIME_WAIT; {} events lost, {} missed",
            totals.open, totals.in_time_wait, books.reading.ring_lost, books.missed
        ));
    }

    fn reload(&mut self) {
        self.manager.reloading();
        match AgentConfig::load(&self.args) {
            Ok(config) => {
                for key in self.started.needs_restart(&config) {
                    tracing::warn!("{key} has changed: that takes a restart");
                }
                if sends_closes(&config) && !self.wants_names() {
                    tracing::warn!(
                        "no control groups and containers are in the log records: that takes a restart"
                    );
                }
                if config.otlp != self.config.otlp
                    && let Some(collector) = &mut self.collector
                    && let Err(error) = collector.set(config.otlp.as_ref())
                {
                    let error = anyhow::Error::from(error);
                    tracing::error!("the collector stays what it was: {error:#}");
                }
                self.watch.turn(config.diagnose.enabled);
                if !config.diagnose.enabled {
                    self.findings.stop();
                }
                self.config = config;
                tracing::info!("the configuration was read again");
            }
            // What holds goes on to hold.
            Err(error) => tracing::error!("the configuration stays as it was: {error}"),
        }
        self.manager.ready();
    }

    fn summary(&mut self, _: &Summary, _: &mut BytesMut) {
        self.manager.stopping();
        if let Some(left) = self.left(true) {
            left.keep();
        }
        // Both may take seconds: at the same time.
        let sending = self.collector.as_mut().and_then(Collector::finish);
        if let Some(archive) = self.archive.take() {
            archive.close();
        }
        if let (Some(sending), Some(collector)) = (sending, &self.collector) {
            sending.wait();
            collector.tell_what_is_missing();
        }
        self.scrapes
            .send_modify(|scrape| scrape.health = Health::stopped());
    }
}

fn sends_closes(config: &AgentConfig) -> bool {
    config.otlp.as_ref().is_some_and(|otlp| otlp.logs.is_some())
}
