//! The two kinds of things that are sent, beside each other: each keeps a pace of its own.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message as _;
use tokio::select;
use tokio::sync::watch;

use super::backoff::Backoff;
use super::complaints::Complaints;
use super::counts::{Counts, Requests};
use super::link::{Answer, Body, Link};
use super::queue::{Entry, Queue};
use super::{Pace, Settings};
use crate::clock;
use crate::metrics::Family;
use crate::output::otlp;

/// Log records in one request.
const BATCH: usize = 512;
/// The longest of the words of others that our log shows.
const LONGEST_WORDS: usize = 200;

/// The metrics at one time, in nanoseconds since 1970.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub families: Arc<Vec<Family>>,
    pub at: u64,
}

/// What the thread does.
pub(super) struct Signals {
    link: Link,
    settings: Settings,
    counts: Arc<Counts>,
    queue: Arc<Queue>,
    snapshots: watch::Receiver<Option<Snapshot>>,
    stop: watch::Receiver<bool>,
    /// Log records that were taken from the queue, of which it is not known what becomes.
    under_way: Cell<u64>,
}

impl Signals {
    pub const fn new(
        link: Link,
        settings: Settings,
        counts: Arc<Counts>,
        queue: Arc<Queue>,
        snapshots: watch::Receiver<Option<Snapshot>>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            link,
            settings,
            counts,
            queue,
            snapshots,
            stop,
            under_way: Cell::new(0),
        }
    }

    /// Sends until the end is asked for and all is sent.
    pub async fn send(&self) {
        tokio::join!(self.send_metrics(), self.send_logs());
    }

    /// The end has come: what was not sent is not sent any more.
    pub fn give_up(&self) {
        let waiting = self.queue.take_all().len() as u64;
        self.counts.given_up(self.under_way.take() + waiting);
    }

    async fn send_metrics(&self) {
        let counts = &self.counts.metrics;
        let mut courier = self.courier("metrics", self.link.metrics(), counts);
        let (mut snapshots, mut stop) = (self.snapshots.clone(), self.stop.clone());
        let mut settled = None;
        loop {
            let newest = snapshots.borrow_and_update().clone();
            let newest = newest.filter(|snapshot| settled != Some(snapshot.at));
            let Some(Snapshot { families, at }) = newest else {
                if has_ended(&stop) {
                    return;
                }
                select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => {}
                    Ok(()) = snapshots.changed() => {}
                }
                continue;
            };
            let (resource, started) = (&self.settings.resource, self.settings.started);
            let message = otlp::metrics(&families, resource, started, at);
            match courier.post(self.link.body(&message)).await {
                // What is sent again is the newest by then.
                Delivery::Later(wait) => pause(wait, &mut stop).await,
                Delivery::Refused => settled = Some(at),
                Delivery::Taken(answer) => {
                    settled = Some(at);
                    self.settle_points(answer, &mut courier);
                }
            }
            if settled == Some(at) && !has_ended(&stop) {
                pause(self.settings.otlp.interval, &mut stop).await;
            }
        }
    }

    async fn send_logs(&self) {
        let mut courier = self.courier("log records", self.link.logs(), &self.counts.logs);
        let mut stop = self.stop.clone();
        let patience = self.settings.pace.patience;
        while let Some(entries) = self.queue.next(BATCH).await {
            let count = entries.len() as u64;
            self.under_way.set(count);
            let records = entries.into_iter().map(Entry::into_record).collect();
            let body = self
                .link
                .body(&otlp::logs(records, &self.settings.resource));
            let give_up_at = clock::monotonic() + patience;
            loop {
                match courier.post(body.clone()).await {
                    Delivery::Later(_) if clock::monotonic() >= give_up_at => {
                        self.counts.given_up(count);
                        break;
                    }
                    Delivery::Later(wait) => pause(wait, &mut stop).await,
                    Delivery::Refused => {
                        self.counts.rejected(count);
                        break;
                    }
                    Delivery::Taken(answer) => {
                        self.settle_records(answer, count, &mut courier);
                        break;
                    }
                }
            }
            self.under_way.set(0);
        }
    }

    fn courier<'a>(
        &'a self,
        what: &'static str,
        uri: &'a Uri,
        counts: &'a Requests,
    ) -> Courier<'a> {
        let pace = &self.settings.pace;
        Courier {
            link: &self.link,
            uri,
            pace,
            counts,
            failures: Complaints::new(what, pace.told_every),
            rejections: Complaints::new(what, pace.told_every),
            backoff: Backoff::default(),
        }
    }

    /// An answer that cannot be read says nothing against what was sent.
    fn settle_points(&self, answer: Bytes, courier: &mut Courier<'_>) {
        let answer = ExportMetricsServiceResponse::decode(answer).unwrap_or_default();
        if let Some(partial) = answer.partial_success {
            let rejected = u64::try_from(partial.rejected_data_points).unwrap_or(0);
            self.counts.points_rejected(rejected);
            courier.complain_of_part(rejected, &partial.error_message);
        }
    }

    fn settle_records(&self, answer: Bytes, count: u64, courier: &mut Courier<'_>) {
        let answer = ExportLogsServiceResponse::decode(answer).unwrap_or_default();
        let partial = answer.partial_success.unwrap_or_default();
        let rejected = u64::try_from(partial.rejected_log_records).unwrap_or(0);
        let rejected = rejected.min(count);
        self.counts.rejected(rejected);
        self.counts.sent(count - rejected);
        courier.complain_of_part(rejected, &partial.error_message);
    }
}

/// One request after another to the same place, and what is said of them.
struct Courier<'a> {
    link: &'a Link,
    uri: &'a Uri,
    pace: &'a Pace,
    counts: &'a Requests,
    failures: Complaints,
    /// Of a part of what was taken.
    rejections: Complaints,
    backoff: Backoff,
}

/// What became of a request.
enum Delivery {
    /// It was taken; the answer.
    Taken(Bytes),
    /// It is to be tried again after this time.
    Later(Duration),
    /// It will never be taken.
    Refused,
}

impl Courier<'_> {
    async fn post(&mut self, body: Body) -> Delivery {
        match self.link.post(self.uri, body).await {
            Answer::Taken(answer) => {
                self.counts.sent();
                self.backoff.reset();
                if let Some(said) = self.failures.on_success() {
                    tracing::info!("{said}");
                }
                Delivery::Taken(answer)
            }
            Answer::Later(why, asked) => {
                self.counts.failed();
                self.complain(&why);
                Delivery::Later(self.backoff.next(self.pace, fastrand::f64(), asked))
            }
            Answer::Refused(why) => {
                self.counts.rejected();
                self.backoff.reset();
                self.complain(&why);
                Delivery::Refused
            }
        }
    }

    fn complain(&mut self, why: &str) {
        let why = format!("{}: {why}", self.uri);
        if let Some(said) = self.failures.on_failure(&why, clock::monotonic()) {
            tracing::error!("{said}");
        }
    }

    /// The collector's words are data: escaped, and not too many of them.
    fn complain_of_part(&mut self, rejected: u64, words: &str) {
        if rejected == 0 && words.is_empty() {
            return;
        }
        let words: String = words.chars().take(LONGEST_WORDS).collect();
        let why = format!("{}: it rejected {rejected} of them: {words:?}", self.uri);
        if let Some(said) = self.rejections.on_failure(&why, clock::monotonic()) {
            tracing::warn!("{said}");
        }
    }
}

/// Waits, but not beyond the moment when the end is asked for: then it is tried once more at once.
async fn pause(wait: Duration, stop: &mut watch::Receiver<bool>) {
    let sleep = tokio::time::sleep(wait);
    if has_ended(stop) {
        sleep.await;
    } else {
        select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            () = sleep => {}
        }
    }
}

/// Whether the end was asked for, or nobody is left who could.
fn has_ended(stop: &watch::Receiver<bool>) -> bool {
    *stop.borrow() || stop.has_changed().is_err()
}
