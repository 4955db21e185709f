//! The exporter against a collector in this process.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use self::receiver::{Answer, Receiver};
use super::{Counts, Exporter, LogRecords, Pace, Settings};
use crate::clock;
use crate::config::agent::{Compression, Otlp};
use crate::history::samples;
use crate::metrics::{Family, Histogram, Sample, Unit, Value};
use crate::output::otlp::{self, LogRecord, Resource, Severity};

#[path = "../../tests/support/receiver.rs"]
mod receiver;

const SECOND: Duration = Duration::from_secs(1);
const STARTED: u64 = 1_795_219_080_000_000_000;

fn settings(url: &str, queue: usize) -> Settings {
    Settings {
        otlp: Otlp {
            endpoint: url.parse().unwrap(),
            interval: Duration::from_millis(50),
            timeout: 5 * SECOND,
            queue,
            compression: Compression::Gzip,
            headers: HeaderMap::new(),
            logs: None,
        },
        resource: Resource {
            host: "web-1".to_owned(),
        },
        started: STARTED,
        pace: Pace {
            first: Duration::from_millis(20),
            longest: Duration::from_millis(100),
            ..Pace::default()
        },
    }
}

fn start(settings: Settings) -> (Exporter, Arc<Counts>) {
    let counts = Arc::<Counts>::default();
    let exporter = Exporter::start(settings, Arc::clone(&counts)).unwrap();
    (exporter, counts)
}

fn record(number: u64) -> LogRecord {
    LogRecord {
        name: "tracer.test",
        severity: Severity::Info,
        at: None,
        observed_at: STARTED,
        body: number.to_string().into(),
        attributes: vec![("number", number.into())],
    }
}

fn offer(exporter: &mut Exporter, numbers: std::ops::Range<u64>) {
    numbers
        .map(record)
        .for_each(|record| exporter.offer(record));
    exporter.tick();
}

fn numbers(receiver: &Receiver) -> Vec<u64> {
    let number = |attributes: &_| receiver::text(attributes, "number")?.parse().ok();
    let inbox = receiver.inbox();
    inbox
        .records()
        .filter_map(|it| number(&it.attributes))
        .collect()
}

fn families(count: u64) -> Arc<Vec<Family>> {
    let mut histogram = Histogram::new(&[0.5, 60.0]);
    histogram.observe(0.25);
    histogram.observe(61.0);
    Arc::new(vec![
        Family::new(
            "tracer.events",
            "Events",
            Unit::None,
            [Sample::of(
                [("result", "received".into())],
                Value::Counter(count),
            )],
        ),
        Family::new(
            "tracer.tcp.time_wait",
            "How long",
            Unit::Seconds,
            [Sample::alone(Value::Histogram(histogram))],
        ),
    ])
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..1_000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("never: {what}");
}

/// Where nobody listens for now.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// The families of the exporter's own counts.
fn told(counts: &Counts, name: &str, labels: &[(&str, &str)]) -> f64 {
    let families = counts.families();
    let family = families.iter().find(|family| family.name == name).unwrap();
    let has = |sample: &&Sample| {
        let mut labels = labels.iter();
        labels.all(|(name, value)| {
            sample
                .labels
                .iter()
                .any(|it| it.0 == *name && it.1 == *value)
        })
    };
    match family.samples.iter().find(has).unwrap().value {
        Value::Counter(count) => count as f64,
        Value::Gauge(value) => value,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn the_collector_gets_the_families_as_they_are_and_the_headers() {
    let receiver = Receiver::start();
    let mut settings = settings(&receiver.url(), 10);
    let mut secret = HeaderValue::from_static("Bearer hush");
    secret.set_sensitive(true);
    settings.otlp.headers.insert("authorization", secret);
    let (exporter, counts) = start(settings.clone());
    exporter.publish(families(7), STARTED + 1);
    receiver.wait_until("metrics", |inbox| inbox.metrics.len() == 1);
    let expected = otlp::metrics(&families(7), &settings.resource, STARTED, STARTED + 1);
    assert_eq!(receiver.inbox().metrics[0], expected);
    let head = receiver.inbox().heads[0].clone();
    assert_eq!(head["authorization"], "Bearer hush");
    assert_eq!(head["content-encoding"], "gzip");
    assert_eq!(
        head["user-agent"],
        concat!("tracer/", env!("CARGO_PKG_VERSION"))
    );
    // What has not changed is not sent again; what has is.
    exporter.publish(families(8), STARTED + 2);
    receiver.wait_until("the next", |inbox| inbox.metrics.len() == 2);
    exporter.finish().wait();
    assert_eq!(receiver.inbox().metrics.len(), 2);
    let sent = [("signal", "metrics"), ("result", "sent")];
    assert_eq!(told(&counts, "tracer.otlp.exports", &sent), 2.0);
}

#[test]
fn what_is_not_to_be_compressed_is_not() {
    let receiver = Receiver::start();
    let mut settings = settings(&receiver.url(), 10);
    settings.otlp.compression = Compression::None;
    let (exporter, _) = start(settings);
    exporter.publish(families(7), STARTED + 1);
    receiver.wait_until("metrics", |inbox| inbox.metrics.len() == 1);
    assert!(!receiver.inbox().heads[0].contains_key("content-encoding"));
}

#[test]
fn metrics_that_failed_are_replaced_by_the_newest() {
    let receiver = Receiver::start();
    receiver.answer([Answer::Status(503, Some("1"))]);
    let (exporter, counts) = start(settings(&receiver.url(), 10));
    let began = clock::monotonic();
    exporter.publish(families(1), STARTED + 1);
    receiver.wait_until("a request", |inbox| inbox.heads.len() == 1);
    exporter.publish(families(2), STARTED + 2);
    exporter.publish(families(3), STARTED + 3);
    receiver.wait_until("metrics", |inbox| inbox.metrics.len() == 1);
    let received = [("result", "received")];
    assert_eq!(
        receiver.inbox().value("tracer.events", &received),
        Some(3.0)
    );
    assert!(
        clock::monotonic() >= began + SECOND,
        "it asked for a second"
    );
    let failed = [("signal", "metrics"), ("result", "failed")];
    assert_eq!(told(&counts, "tracer.otlp.exports", &failed), 1.0);
}

#[test]
fn log_records_arrive_once_and_in_order_after_failures() {
    let receiver = Receiver::start();
    let failures = [429, 502, 503, 504].map(|status| Answer::Status(status, None));
    receiver.answer(failures);
    let (mut exporter, counts) = start(settings(&receiver.url(), 10_000));
    offer(&mut exporter, 0..2_000);
    wait_until("all are sent", || counts.log_records().sent == 2_000);
    assert_eq!(numbers(&receiver), (0..2_000).collect::<Vec<_>>());
    assert!(receiver.inbox().logs.len() >= 4, "in batches");
    let failed = [("signal", "logs"), ("result", "failed")];
    assert_eq!(told(&counts, "tracer.otlp.exports", &failed), 4.0);
    assert_eq!(told(&counts, "tracer.otlp.log_records_waiting", &[]), 0.0);
}

#[test]
fn a_close_arrives_as_its_log_record() {
    let receiver = Receiver::start();
    let (mut exporter, counts) = start(settings(&receiver.url(), 10));
    exporter.offer_close(samples::whole(60_960), STARTED + 5);
    exporter.finish().wait();
    assert_eq!(counts.log_records().sent, 1);
    let record = otlp::close(&samples::whole(60_960), STARTED + 5);
    let resource = Resource {
        host: "web-1".to_owned(),
    };
    assert_eq!(receiver.inbox().logs, [otlp::logs(vec![record], &resource)]);
}

#[test]
fn without_a_collector_nobody_waits_and_what_found_room_arrives_later() {
    let address = free_address();
    let (mut exporter, counts) = start(settings(&format!("http://{address}"), 100));
    let began = clock::monotonic();
    for from in (0..100_000).step_by(1_000) {
        offer(&mut exporter, from..from + 1_000);
    }
    // Two allocations each and no more: on any machine far less than what one answer may take.
    assert!(clock::monotonic() < began + SECOND);
    let failed = [("signal", "logs"), ("result", "failed")];
    wait_until("it fails", || {
        told(&counts, "tracer.otlp.exports", &failed) > 1.0
    });
    let LogRecords {
        dropped, waiting, ..
    } = counts.log_records();
    assert_eq!(dropped + waiting, 100_000);
    // The queue, and a batch that was taken from it.
    assert!((100..=200).contains(&waiting), "{waiting}");
    let receiver = Receiver::start_at(address);
    wait_until("all are sent", || counts.log_records().waiting == 0);
    let numbers = numbers(&receiver);
    assert_eq!(numbers.len() as u64, waiting);
    assert!(numbers.is_sorted());
    assert_eq!(counts.log_records().sent, waiting);
    assert_eq!(counts.log_records().given_up, 0);
}

#[test]
fn a_collector_that_does_not_answer_is_waited_for_no_longer_than_configured() {
    let receiver = Receiver::start();
    receiver.answer([Answer::Silence(30 * SECOND)]);
    let mut settings = settings(&receiver.url(), 10);
    settings.otlp.timeout = Duration::from_millis(100);
    let (mut exporter, counts) = start(settings);
    offer(&mut exporter, 0..3);
    wait_until("they are sent", || counts.log_records().sent == 3);
    let failed = [("signal", "logs"), ("result", "failed")];
    assert_eq!(told(&counts, "tracer.otlp.exports", &failed), 1.0);
}

#[test]
fn what_is_refused_for_good_is_not_sent_again() {
    let receiver = Receiver::start();
    receiver.answer([Answer::Status(400, None)]);
    let (mut exporter, counts) = start(settings(&receiver.url(), 10));
    offer(&mut exporter, 0..3);
    wait_until("they are refused", || counts.log_records().rejected == 3);
    offer(&mut exporter, 3..5);
    wait_until("others are sent", || counts.log_records().sent == 2);
    assert_eq!(numbers(&receiver), [3, 4]);
    let rejected = [("signal", "logs"), ("result", "rejected")];
    assert_eq!(told(&counts, "tracer.otlp.exports", &rejected), 1.0);
}

#[test]
fn a_part_that_is_rejected_is_counted() {
    let receiver = Receiver::start();
    receiver.answer([Answer::Partly(2, "too \x1b[31mred")]);
    let (mut exporter, counts) = start(settings(&receiver.url(), 10));
    offer(&mut exporter, 0..5);
    wait_until("they are sent", || counts.log_records().waiting == 0);
    let LogRecords { sent, rejected, .. } = counts.log_records();
    assert_eq!((sent, rejected), (3, 2));
}

#[test]
fn the_same_records_are_not_tried_for_ever() {
    let receiver = Receiver::start();
    receiver.answer(vec![Answer::Status(503, None); 3]);
    let mut settings = settings(&receiver.url(), 10);
    settings.pace.patience = Duration::from_millis(1);
    let (mut exporter, counts) = start(settings);
    offer(&mut exporter, 0..5);
    wait_until("they are given up", || counts.log_records().given_up == 5);
    receiver.inbox().answers.clear();
    offer(&mut exporter, 5..6);
    wait_until("others are sent", || counts.log_records().sent == 1);
}

#[test]
fn the_end_sends_what_waits_and_the_last_metrics() {
    let receiver = Receiver::start();
    let mut settings = settings(&receiver.url(), 10_000);
    settings.otlp.interval = 3_600 * SECOND;
    let (mut exporter, counts) = start(settings);
    exporter.publish(families(1), STARTED + 1);
    receiver.wait_until("metrics", |inbox| inbox.metrics.len() == 1);
    exporter.publish(families(2), STARTED + 2);
    (0..1_500).map(record).for_each(|it| exporter.offer(it));
    exporter.finish().wait();
    assert_eq!(counts.log_records().sent, 1_500);
    assert_eq!(numbers(&receiver).len(), 1_500);
    let received = [("result", "received")];
    assert_eq!(
        receiver.inbox().value("tracer.events", &received),
        Some(2.0)
    );
}

#[test]
fn the_end_does_not_wait_long_for_a_collector_that_is_gone() {
    let mut settings = settings(&format!("http://{}", free_address()), 10_000);
    settings.pace.last_words = Duration::from_millis(300);
    let (mut exporter, counts) = start(settings);
    exporter.publish(families(1), STARTED + 1);
    offer(&mut exporter, 0..1_500);
    let began = clock::monotonic();
    exporter.finish().wait();
    assert!(clock::monotonic() < began + SECOND);
    assert_eq!(counts.log_records().given_up, 1_500);
    assert_eq!(counts.log_records().waiting, 0);
}

#[test]
fn a_successor_takes_over_what_waits() {
    let old_address = free_address();
    let mut settings_before = settings(&format!("http://{old_address}"), 10_000);
    settings_before.pace.last_words = Duration::from_millis(300);
    let (mut before, counts) = start(settings_before);
    offer(&mut before, 0..2_000);
    let failed = [("signal", "logs"), ("result", "failed")];
    wait_until("it fails", || {
        told(&counts, "tracer.otlp.exports", &failed) > 0.0
    });
    let receiver = Receiver::start();
    let next = settings(&receiver.url(), 10_000);
    let mut exporter = Exporter::start(next, Arc::clone(&counts)).unwrap();
    exporter.inherit(before);
    offer(&mut exporter, 2_000..2_010);
    wait_until("all is settled", || counts.log_records().waiting == 0);
    let LogRecords { sent, given_up, .. } = counts.log_records();
    // The batch under way was lost with the old one's collector: what was handed over at once or
    // twice.
    assert!([256, 512].contains(&given_up), "{given_up}");
    assert_eq!(sent, 2_010 - given_up);
    assert_eq!(numbers(&receiver), (given_up..2_010).collect::<Vec<_>>());
}
