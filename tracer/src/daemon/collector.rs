//! What the observer tells an OpenTelemetry collector, where one is configured.

use std::sync::Arc;

use super::{Change, Notice};
use crate::attribution::Names;
use crate::clock;
use crate::config::agent::Otlp;
use crate::exporter::{Counts, Exporter, Finishing, LogRecords, Pace, Settings, StartError};
use crate::history::Row;
use crate::metrics::Family;
use crate::output::otlp::{self, Resource, Turn};
use crate::record::{CloseKind, Record};
use crate::time::{Timestamp, WallOffset};

/// The collector, or none.
#[derive(Debug)]
pub struct Collector {
    resource: Resource,
    /// Since when the metrics are counted.
    started: u64,
    exporter: Option<Exporter>,
    /// Which closes are sent; `None`: none are.
    logs: Option<Choice>,
    counts: Arc<Counts>,
}

impl Collector {
    /// For the host called `host`, whose metrics are counted since `started`, in nanoseconds since
    /// 1970. Nothing is sent yet.
    pub fn new(host: &str, started: u64) -> Self {
        Self {
            resource: Resource {
                host: host.to_owned(),
            },
            started,
            exporter: None,
            logs: None,
            counts: Arc::default(),
        }
    }

    /// Sends from now on to where `otlp` says: at the start, and on a reload that changes it. What
    /// waits goes there too; the end of the old one happens in the background.
    ///
    /// # Errors
    /// Where that cannot be. Then all stays as it was.
    pub fn set(&mut self, otlp: Option<&Otlp>) -> Result<(), StartError> {
        let started = otlp.map(|otlp| {
            let settings = Settings {
                otlp: otlp.clone(),
                resource: self.resource.clone(),
                started: self.started,
                pace: Pace::default(),
            };
            Exporter::start(settings, Arc::clone(&self.counts))
        });
        let before = std::mem::replace(&mut self.exporter, started.transpose()?);
        let logs = otlp.and_then(|otlp| otlp.logs.as_ref());
        self.logs = logs.map(|logs| Choice::new(&logs.kinds, logs.sample.value()));
        match (before, &mut self.exporter) {
            (Some(before), Some(exporter)) => exporter.inherit(before),
            (Some(before), None) => drop(before.finish()),
            (None, _) => {}
        }
        Ok(())
    }

    /// A verdict.
    #[inline]
    pub fn close(&mut self, record: &Record, wall: WallOffset, names: &Names) {
        let (Some(exporter), Some(logs)) = (&mut self.exporter, &self.logs) else {
            return;
        };
        if logs.contains(record) {
            let observed_at = unix_nanoseconds(clock::monotonic(), wall);
            exporter.offer_close(Row::of(record, wall, names), observed_at);
        }
    }

    /// A finding has begun, changed or ended: it is sent whatever is chosen of the closes.
    pub fn find(&mut self, notice: &Notice) {
        if let Some(exporter) = &mut self.exporter {
            let at = unix_nanoseconds(notice.at, clock::wall_offset());
            let turn = match notice.change {
                Change::Began => Turn::Began,
                Change::Severity(_) => Turn::Changed,
                Change::Ended { .. } => Turn::Ended,
            };
            let body = notice.to_string();
            exporter.offer(otlp::finding(&notice.finding, turn, body, at));
        }
    }

    /// How the metrics stand at `now`: about once a second.
    pub fn publish(&mut self, families: &Arc<Vec<Family>>, now: Timestamp) {
        if let Some(exporter) = &mut self.exporter {
            let at = unix_nanoseconds(now, clock::wall_offset());
            exporter.publish(Arc::clone(families), at);
            exporter.tick();
        }
    }

    /// What is told of the sending itself: nothing where nothing is sent.
    pub fn families(&self) -> Vec<Family> {
        match &self.exporter {
            Some(_) => self.counts.families(),
            None => Vec::new(),
        }
    }

    /// Sends the last, in the background until somebody waits for it.
    pub fn finish(&mut self) -> Option<Finishing> {
        Some(self.exporter.take()?.finish())
    }

    /// Says in the log which log records never arrived.
    pub fn tell_what_is_missing(&self) {
        let LogRecords {
            rejected,
            dropped,
            given_up,
            waiting,
            ..
        } = self.counts.log_records();
        let unsent = given_up + waiting;
        if rejected + dropped + unsent > 0 {
            tracing::warn!(
                "of the log records for the collector {dropped} found no room, {rejected} were \
                 rejected, {unsent} were not sent in time"
            );
        }
    }
}

/// `at` in nanoseconds since 1970.
pub fn unix_nanoseconds(at: Timestamp, wall: WallOffset) -> u64 {
    u64::try_from(wall.unix_nanoseconds(at)).unwrap_or(0)
}

/// Which closes are sent as log records.
#[derive(Debug)]
struct Choice {
    /// A bit for each kind.
    kinds: u16,
    /// Closes whose hash is below are chosen.
    below: u128,
}

impl Choice {
    /// Of `kinds`, of all where none is named, the share `sample`.
    fn new(kinds: &[CloseKind], sample: f64) -> Self {
        let bits = kinds.iter().map(|kind| bit(*kind));
        Self {
            kinds: match kinds.is_empty() {
                true => u16::MAX,
                false => bits.fold(0, |all, bit| all | bit),
            },
            below: (sample * 2_f64.powi(64)) as u128,
        }
    }

    #[inline]
    fn contains(&self, record: &Record) -> bool {
        self.kinds & bit(record.close.kind) != 0 && u128::from(hash(record)) < self.below
    }
}

const fn bit(kind: CloseKind) -> u16 {
    1 << kind as u16
}

/// The same for the same close, and spread over all bits: cookies are numbers in a row. What never
/// had a cookie is told apart by its time and ports.
fn hash(record: &Record) -> u64 {
    let ports = u64::from(record.flow.local.port) << 16 | u64::from(record.flow.peer.port);
    let at = record.closed_at.unwrap_or_default().0;
    [record.cookie, u64::from(record.generation), ports, at]
        .into_iter()
        .fold(0, |hash, part| spread(hash ^ part))
}

/// SplitMix64's last steps.
const fn spread(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::samples;

    /// Closes of sockets with cookies in a row.
    fn closes(count: u64) -> impl Iterator<Item = Record> {
        let record = samples::whole(0).record;
        (0..count).map(move |number| Record {
            cookie: 4_096 + number,
            ..record.clone()
        })
    }

    fn chosen(choice: &Choice, count: u64) -> Vec<u64> {
        let chosen = closes(count).filter(|record| choice.contains(record));
        chosen.map(|record| record.cookie).collect()
    }

    #[test]
    fn a_share_of_the_closes_is_chosen_and_always_the_same() {
        let tenth = chosen(&Choice::new(&[], 0.1), 100_000);
        // Five standard deviations.
        assert!((9_525..=10_475).contains(&tenth.len()), "{}", tenth.len());
        assert_eq!(tenth, chosen(&Choice::new(&[], 0.1), 100_000));
        // A smaller share is a part of a larger one.
        let hundredth = chosen(&Choice::new(&[], 0.01), 100_000);
        assert!(hundredth.iter().all(|cookie| tenth.contains(cookie)));
        assert_eq!(chosen(&Choice::new(&[], 0.0), 1_000), [0; 0]);
        assert_eq!(chosen(&Choice::new(&[], 1.0), 1_000).len(), 1_000);
    }

    #[test]
    fn what_never_had_a_cookie_is_chosen_by_its_time_and_port() {
        let tenth = Choice::new(&[], 0.1);
        let mut record = samples::whole(0).record;
        record.cookie = 0;
        let chosen = (0..10_000).filter(|number| {
            record.flow.local.port = *number;
            tenth.contains(&record)
        });
        assert!((850..=1_150).contains(&chosen.count()));
    }

    #[test]
    fn kinds_that_are_not_named_are_not_chosen() {
        let mut record = samples::whole(0).record;
        let named = Choice::new(&[CloseKind::TimedOut, CloseKind::Unknown], 1.0);
        for kind in CloseKind::ALL {
            record.close.kind = kind;
            assert!(Choice::new(&[], 1.0).contains(&record), "{kind}");
            let is_named = matches!(kind, CloseKind::TimedOut | CloseKind::Unknown);
            assert_eq!(named.contains(&record), is_named, "{kind}");
        }
    }

    #[test]
    fn without_a_collector_nothing_is_told_of_one() {
        let mut collector = Collector::new("web-1", 0);
        collector.set(None).unwrap();
        collector.close(&samples::whole(0).record, samples::WALL, &Names::default());
        assert!(collector.families().is_empty());
        assert!(collector.finish().is_none());
    }
}
