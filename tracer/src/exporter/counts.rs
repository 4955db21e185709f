//! What became of all that was to be sent.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::metrics::{Family, Sample, Unit, Value};

/// Counts since the start, of all exporters one after another. Every log record that was offered is
/// sent, rejected, dropped, given up, or waits.
#[derive(Debug, Default)]
pub struct Counts {
    offered: AtomicU64,
    sent: AtomicU64,
    rejected: AtomicU64,
    dropped: AtomicU64,
    given_up: AtomicU64,
    points_rejected: AtomicU64,
    pub(super) metrics: Requests,
    pub(super) logs: Requests,
}

/// What became of the requests of one kind.
#[derive(Debug, Default)]
pub(super) struct Requests {
    sent: AtomicU64,
    failed: AtomicU64,
    rejected: AtomicU64,
}

/// What became of the log records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRecords {
    /// The collector has taken them.
    pub sent: u64,
    /// The collector would not have them.
    pub rejected: u64,
    /// They found no room in the queue.
    pub dropped: u64,
    /// They were tried for minutes, or the end came.
    pub given_up: u64,
    /// They are on their way.
    pub waiting: u64,
}

impl Counts {
    /// What became of the log records so far.
    #[must_use]
    pub fn log_records(&self) -> LogRecords {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let [sent, rejected] = [of(&self.sent), of(&self.rejected)];
        let [dropped, given_up] = [of(&self.dropped), of(&self.given_up)];
        LogRecords {
            sent,
            rejected,
            dropped,
            given_up,
            waiting: of(&self.offered).saturating_sub(sent + rejected + dropped + given_up),
        }
    }

    /// What is told of it all.
    #[must_use]
    pub fn families(&self) -> Vec<Family> {
        let LogRecords {
            sent,
            rejected,
            dropped,
            given_up,
            waiting,
        } = self.log_records();
        let records = [
            ("sent", sent),
            ("rejected", rejected),
            ("dropped", dropped),
            ("given_up", given_up),
        ];
        let records = records
            .map(|(result, count)| Sample::of([("result", result.into())], Value::Counter(count)));
        let alone = |value| [Sample::alone(value)];
        let requests = [("metrics", &self.metrics), ("logs", &self.logs)]
            .into_iter()
            .flat_map(|(signal, requests)| requests.samples(signal));
        let points_rejected = self.points_rejected.load(Ordering::Relaxed);
        vec![
            Family::new(
                "tracer.otlp.exports",
                "Requests to the OpenTelemetry collector: sent, failed and to be tried again, or \
                 rejected for good",
                Unit::None,
                requests,
            ),
            Family::new(
                "tracer.otlp.log_records",
                "Log records: sent, rejected by the collector, dropped for want of room in the \
                 queue, or given up after minutes of failures",
                Unit::None,
                records,
            ),
            Family::new(
                "tracer.otlp.log_records_waiting",
                "Log records that wait to be sent",
                Unit::None,
                alone(Value::Gauge(waiting as f64)),
            ),
            Family::new(
                "tracer.otlp.points_rejected",
                "Samples that the collector would not have",
                Unit::None,
                alone(Value::Counter(points_rejected)),
            ),
        ]
    }

    pub(super) fn offered(&self) {
        self.offered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sent(&self, records: u64) {
        self.sent.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn rejected(&self, records: u64) {
        self.rejected.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self, records: u64) {
        self.dropped.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn given_up(&self, records: u64) {
        self.given_up.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn points_rejected(&self, points: u64) {
        self.points_rejected.fetch_add(points, Ordering::Relaxed);
    }
}

impl Requests {
    pub fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub fn rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    fn samples(&self, signal: &'static str) -> [Sample; 3] {
        [
            ("sent", &self.sent),
            ("failed", &self.failed),
            ("rejected", &self.rejected),
        ]
        .map(|(result, count)| {
            let labels = [("signal", signal.into()), ("result", result.into())];
            Sample::of(labels, Value::Counter(count.load(Ordering::Relaxed)))
        })
    }
}
