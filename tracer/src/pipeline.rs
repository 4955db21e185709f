//! Everything right of the stream: records in, text out. The same for a live kernel and a file.

mod past;

use bytes::BytesMut;
use tracer_common::event::Kind;

use crate::attribution::Names;
use crate::consumer::{Books, Consumer};
use crate::engine::{self, Engine, Output};
use crate::filter::Filter;
use crate::output::{Loss, Summary};
use crate::probes::{RESET_PROBES, SCHEDULE_PROBE, SEGMENT_PROBE, TIMER_PROBES};
use crate::record::CloseKind;
use crate::stream::{AccountReading, Event, Meta, Purpose, Skipped, StreamRecord, Sweep};
use crate::time::{Timestamp, WallOffset};

pub use past::Opened;
use past::Past;

/// The engine between the stream and a consumer.
pub struct Pipeline<C> {
    engine: Engine,
    filter: Filter,
    /// What the filter asks for: empty where it needs none.
    names: Names,
    consumer: C,
    wall: WallOffset,
    started: Timestamp,
    received: u64,
    account: AccountReading,
    told: AccountReading,
    missed_told: u64,
    skips_told: Vec<Skipped>,
    past: Past,
}

impl<C: Consumer> Pipeline<C> {
    /// A pipeline for the host that `meta` tells of, from `started` on. Writes the first line.
    #[must_use]
    pub fn new(
        meta: &Meta,
        started: Timestamp,
        wall: WallOffset,
        filter: Filter,
        mut consumer: C,
        transitions: bool,
        out: &mut BytesMut,
    ) -> Self {
        consumer.meta(meta, started, wall, out);
        let engine = Engine::new(engine::Config {
            hz: meta.hz,
            sees_timers: TIMER_PROBES.iter().all(|probe| meta.has_probe(probe)),
            sees_segments: meta.has_probe(SEGMENT_PROBE),
            sees_resets: RESET_PROBES.iter().all(|probe| meta.has_probe(probe)),
            sees_schedules: meta.has_probe(SCHEDULE_PROBE),
            rows: consumer.wants_rows(),
            transitions: transitions && consumer.wants_rows(),
            holdings: C::WANTS_HOLDINGS,
            connections: consumer.most_connections(),
        });
        Self {
            engine,
            filter,
            names: Names::default(),
            consumer,
            wall,
            started,
            received: 0,
            account: AccountReading::default(),
            told: AccountReading::default(),
            missed_told: 0,
            skips_told: Vec::new(),
            past: Past::default(),
        }
    }

    /// Takes the next record of the stream and appends what it leads to.
    pub fn handle(&mut self, record: &StreamRecord, out: &mut BytesMut) {
        match record {
            StreamRecord::Event(event) => return self.handle_event(event, out),
            StreamRecord::Lost(now) => self.engine.handle_loss(*now),
            StreamRecord::Watermark(now) => self.engine.handle_timeout(*now),
            StreamRecord::Inventory(inventory) => {
                self.engine.handle_inventory(inventory);
                self.consumer.inventory(inventory);
            }
            StreamRecord::Swept(sweep) => self.handle_sweep(sweep, out),
            StreamRecord::Name(name) => {
                if self.filter.needs_names() {
                    self.names.learn(name);
                }
                self.consumer.name(name);
            }
            StreamRecord::Namespace(reading) => {
                let opened = self.past.at(reading.at, Opened::of(&self.engine.totals()));
                self.consumer.namespace(reading, opened);
            }
            StreamRecord::Clock(wall) => self.wall = *wall,
            StreamRecord::Account(reading) => {
                self.handle_account(reading, out);
                self.tick(reading.at);
            }
            // Told once, to new().
            StreamRecord::Meta(_) => {}
        }
        self.write_outputs(out);
    }

    /// The same as [`StreamRecord::Event`], of which there are many: none need be copied into one.
    pub fn handle_event(&mut self, event: &Event, out: &mut BytesMut) {
        self.received += 1;
        if C::WANTS_READINGS && self.past.is_due(event.at) {
            self.past.note(event.at, Opened::of(&self.engine.totals()));
        }
        while self.engine.settle_before(event) {
            self.write_outputs(out);
        }
        self.engine.handle_event(event);
        self.write_outputs(out);
    }

    /// Whether [`StreamRecord::Name`] is of use.
    #[must_use]
    pub fn wants_names(&self) -> bool {
        self.consumer.wants_names() || self.filter.needs_names()
    }

    /// The consumer has all that it wants.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.consumer.is_done()
    }

    /// Whether it pays to call [`Self::expect`].
    #[must_use]
    pub fn wants_to_expect(&self) -> bool {
        self.engine.wants_to_expect()
    }

    /// Has at hand what the next events will need: call it with some, then with each of them
    /// [`Self::handle_event`].
    pub fn expect(&self, events: &[Event]) {
        self.engine.expect(events);
    }

    /// A record that could not be decoded has been received all the same.
    pub fn handle_undecodable(&mut self) {
        self.received += 1;
    }

    /// How many events have been told as lost or missed so far.
    #[must_use]
    pub const fn losses(&self) -> u64 {
        self.told.ring_lost + self.missed_told
    }

    /// When a watermark is next wanted.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.engine.poll_timeout()
    }

    /// The terminal has another size.
    pub fn resize(&mut self, size: Option<(u16, u16)>) {
        self.consumer.resize(size);
    }

    /// Its consumer, once the stream has ended.
    #[must_use]
    pub fn into_consumer(self) -> C {
        self.consumer
    }

    /// The stream has ended at `now`: gives what is due, writes the last line, returns the account.
    pub fn finish(&mut self, now: Timestamp, out: &mut BytesMut) -> Summary {
        self.engine.finish();
        self.write_outputs(out);
        self.tick(now);
        let summary = self.summary(now);
        self.consumer.summary(&summary, out);
        summary
    }

    /// Tells the consumer how the account stands.
    fn tick(&mut self, now: Timestamp) {
        let totals = self.engine.totals();
        let books = Books {
            now,
            totals: &totals,
            reading: &self.account,
            received: self.received - totals.doubles.min(self.received),
            missed: missed(&self.account, totals.doubles),
        };
        self.consumer.tick(&books);
    }

    /// Tells the consumer that its configuration may have changed.
    pub fn reload(&mut self) {
        self.consumer.reload();
    }

    fn write_outputs(&mut self, out: &mut BytesMut) {
        while let Some(output) = self.engine.poll() {
            match output {
                Output::Transition(row) => {
                    if self.filter.matches_transition(&row, &self.names) {
                        self.consumer.transition(&row, self.wall, out);
                    }
                }
                Output::Close(record) => {
                    if self.filter.matches_record(&record, &self.names) {
                        self.consumer.close(&record, self.wall, out);
                    }
                }
                Output::End(record) => {
                    if self.filter.matches_record(&record, &self.names) {
                        self.consumer.end(&record, self.wall, out);
                    }
                }
                Output::Over(record) => {
                    if self.filter.matches_record(&record, &self.names) {
                        self.consumer.over(&record, self.wall, out);
                    }
                }
                Output::Holding(change) => self.consumer.holding(&change),
                Output::Call(call) => {
                    if self.filter.matches_call(&call) {
                        self.consumer.call(&call, self.wall, out);
                    }
                }
            }
        }
    }

    /// Tells of a sweep. A periodic one is nobody's concern, but for what it could not look at.
    fn handle_sweep(&mut self, sweep: &Sweep, out: &mut BytesMut) {
        self.engine.handle_sweep(sweep);
        if sweep.purpose != Purpose::Periodic || sweep.skips_more_than(&self.skips_told) {
            self.consumer.sweep(sweep, self.wall, out);
            self.skips_told.clone_from(&sweep.skipped);
        }
    }

    /// Tells what was lost since that was last told.
    fn handle_account(&mut self, reading: &AccountReading, out: &mut BytesMut) {
        let missed = missed(reading, self.engine.totals().doubles);
        let told = &self.told;
        let loss = Loss {
            at: reading.at,
            count: reading.ring_lost.saturating_sub(told.ring_lost),
            by_kind: Kind::ALL
                .into_iter()
                .map(|kind| {
                    let number = kind as usize;
                    let lost = reading.lost_by_kind[number];
                    (kind, lost.saturating_sub(told.lost_by_kind[number]))
                })
                .filter(|(_, lost)| *lost > 0)
                .collect(),
            cpus: reading
                .lost_by_cpu
                .iter()
                .filter(|(cpu, lost)| *lost > lost_on(told, *cpu))
                .map(|(cpu, _)| *cpu)
                .collect(),
            missed: missed.saturating_sub(self.missed_told),
        };
        if loss.count > 0 || loss.missed > 0 {
            self.consumer.loss(&loss, self.wall, out);
            self.missed_told += loss.missed;
            self.told = reading.clone();
        }
        self.account = reading.clone();
    }

    fn shown_remaining(&self) -> ShownRemaining {
        let mut shown = ShownRemaining::default();
        if self.filter.is_empty() {
            let totals = self.engine.totals();
            (shown.open, shown.in_time_wait) = (totals.open, totals.in_time_wait);
            return shown;
        }
        for remaining in self.engine.remaining() {
            if self.filter.matches_record(&remaining.record, &self.names) {
                shown.open += u64::from(remaining.open);
                shown.in_time_wait += u64::from(remaining.in_time_wait);
            }
        }
        shown
    }

    fn summary(&self, now: Timestamp) -> Summary {
        let totals = self.engine.totals();
        let shown = self.shown_remaining();
        Summary {
            duration: std::time::Duration::from_nanos(now.since(self.started)),
            opened: totals.opened,
            closed: totals.closed,
            closed_by_kind: CloseKind::ALL
                .into_iter()
                .map(|kind| (kind, totals.closed_by_kind[kind as usize]))
                .filter(|(_, count)| *count > 0)
                .collect(),
            ended: totals.ended,
            time_waits_ended: totals.ended_by.all(),
            open: totals.open,
            evicted: totals.evicted.all(),
            in_time_wait: totals.in_time_wait,
            shown_open: shown.open,
            shown_in_time_wait: shown.in_time_wait,
            hits: self.account.hits,
            received: self.received - totals.doubles.min(self.received),
            ring_lost: self.account.ring_lost,
            missed: missed(&self.account, totals.doubles),
        }
    }
}

/// What is left of what the filter shows.
#[derive(Default)]
struct ShownRemaining {
    open: u64,
    in_time_wait: u64,
}

fn lost_on(reading: &AccountReading, cpu: u16) -> u64 {
    let found = reading.lost_by_cpu.iter().find(|(known, _)| *known == cpu);
    found.map_or(0, |(_, lost)| *lost)
}

/// Events that no program was run for: see [`AccountReading`].
fn missed(reading: &AccountReading, doubles: u64) -> u64 {
    u64::try_from(reading.unrecovered.saturating_add_unsigned(doubles)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, Terminal, Writer};

    fn pipeline(out: &mut BytesMut) -> Pipeline<Writer> {
        let meta = Meta {
            host: "host".to_owned(),
            boot_id: String::new(),
            kernel: "6.18".to_owned(),
            hz: 250,
            probes: Vec::new(),
        };
        let writer = Writer::new(Format::Json, Terminal::none(), false);
        let (started, wall) = (Timestamp(0), WallOffset(0));
        Pipeline::new(&meta, started, wall, Filter::default(), writer, false, out)
    }

    fn reading(ring_lost: u64, unrecovered: i64) -> StreamRecord {
        let mut lost_by_kind = [0; Kind::COUNT];
        lost_by_kind[Kind::Close as usize] = ring_lost;
        StreamRecord::Account(AccountReading {
            at: Timestamp(1),
            hits: 100,
            ring_lost,
            lost_by_kind,
            lost_by_cpu: vec![(1, ring_lost)],
            unrecovered,
            programs: Vec::new(),
            gone: Vec::new(),
        })
    }

    /// The lines of type `loss`: `(count, missed)` each.
    fn losses(out: &BytesMut) -> Vec<(u64, u64)> {
        String::from_utf8_lossy(out)
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a JSON line"))
            .filter(|line| line["type"] == "loss")
            .map(|line| (line["count"].as_u64(), line["missed"].as_u64()))
            .map(|(count, missed)| (count.expect("a count"), missed.expect("a count")))
            .collect()
    }

    #[test]
    fn each_loss_is_told_once() {
        let mut out = BytesMut::new();
        let mut pipeline = pipeline(&mut out);
        for record in [reading(0, 0), reading(7, 0), reading(7, 0), reading(9, 2)] {
            pipeline.handle(&record, &mut out);
        }
        assert_eq!(losses(&out), [(7, 0), (2, 2)]);
    }

    #[test]
    fn a_reading_that_comes_before_the_recovery_is_not_told_again() {
        let mut out = BytesMut::new();
        let mut pipeline = pipeline(&mut out);
        for unrecovered in [3, -1, 3, 4] {
            pipeline.handle(&reading(0, unrecovered), &mut out);
        }
        assert_eq!(losses(&out), [(0, 3), (0, 1)]);
        assert_eq!(pipeline.finish(Timestamp(2), &mut out).missed, 4);
    }

    #[test]
    fn a_sweep_that_nothing_called_for_is_told_for_what_it_newly_skips() {
        let mut out = BytesMut::new();
        let mut pipeline = pipeline(&mut out);
        let skipped = |netns, path: &str| Skipped {
            netns: Some(netns),
            path: path.to_owned(),
            reason: "failed to enter it".to_owned(),
        };
        let mut sweep = |purpose, skipped: &[Skipped]| {
            let before = out.len();
            let sweep = Sweep {
                at: Timestamp(1),
                purpose,
                namespaces: 1,
                sockets: 0,
                fin_wait2s: 0,
                time_waits: 0,
                cpu: std::time::Duration::ZERO,
                skipped: skipped.to_vec(),
            };
            pipeline.handle(&StreamRecord::Swept(sweep), &mut out);
            out.len() > before
        };
        let (one, two) = (skipped(1, "/proc/7/ns/net"), skipped(2, "/run/netns/x"));
        assert!(sweep(Purpose::Start, &[]));
        assert!(!sweep(Purpose::Periodic, &[]));
        assert!(sweep(Purpose::Periodic, std::slice::from_ref(&one)));
        // The same namespace by another way.
        assert!(!sweep(Purpose::Periodic, &[skipped(1, "/proc/9/ns/net")]));
        assert!(sweep(Purpose::Periodic, &[one, two]));
        assert!(sweep(Purpose::Resync, &[]));
    }

    #[test]
    fn what_cannot_be_decoded_was_received() {
        let mut out = BytesMut::new();
        let mut pipeline = pipeline(&mut out);
        pipeline.handle_undecodable();
        assert_eq!(pipeline.finish(Timestamp(2), &mut out).received, 1);
    }
}
