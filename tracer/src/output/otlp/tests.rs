//! The messages, decoded again.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value::{AsDouble, AsInt};
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, Metric, metric};
use prost::Message as _;

use super::{Resource, Turn, close, finding, logs, metrics};
use crate::consumer::Books;
use crate::diagnosis::example::{Example, program, route};
use crate::diagnosis::{self, Advice, Finding, LeftOut, Subject};
use crate::engine::Totals;
use crate::exporter::Counts;
use crate::fdinfo::ProgramStatistics;
use crate::history::{Row, samples};
use crate::metrics::{Family, FindingCounts, Histogram, Ledger, Outlooks, Sample, Unit, Value};
use crate::output::prometheus::{self, Exposition};
use crate::ports::Program;
use crate::record::holding::Use;
use crate::record::{CloseCause, CloseKind};
use crate::stream::{AccountReading, Meta, ProbeReport, ProbeState};
use crate::time::Timestamp;

const STARTED: u64 = 1_795_219_080_000_000_000;

fn resource() -> Resource {
    Resource {
        host: "web-1".to_owned(),
    }
}

fn decoded(families: &[Family], now: u64) -> Vec<Metric> {
    let bytes = metrics(families, &resource(), STARTED, now).encode_to_vec();
    let request = ExportMetricsServiceRequest::decode(&*bytes).unwrap();
    let [resource] = &request.resource_metrics[..] else {
        panic!("one resource: {request:?}");
    };
    let attributes = &resource.resource.as_ref().unwrap().attributes;
    let told: Vec<String> = attributes.iter().map(line).collect();
    let version = concat!("service.version = \"", env!("CARGO_PKG_VERSION"), "\"");
    assert_eq!(
        told,
        [
            "service.name = \"tracer\"",
            version,
            "service.instance.id = \"web-1\"",
            "host.name = \"web-1\"",
            "os.type = \"linux\"",
        ]
    );
    let [scope] = &resource.scope_metrics[..] else {
        panic!("one scope: {request:?}");
    };
    scope.metrics.clone()
}

fn line(attribute: &KeyValue) -> String {
    use any_value::Value::{ArrayValue, BoolValue, IntValue, StringValue};
    let value = |value: &any_value::Value| match value {
        StringValue(text) => format!("{text:?}"),
        IntValue(number) => number.to_string(),
        BoolValue(truth) => truth.to_string(),
        other => format!("{other:?}"),
    };
    let known = attribute.value.as_ref().and_then(|any| any.value.as_ref());
    let shown = match known.unwrap() {
        ArrayValue(array) => {
            let values = array.values.iter().filter_map(|any| any.value.as_ref());
            format!("[{}]", values.map(value).collect::<Vec<_>>().join(", "))
        }
        single => value(single),
    };
    format!("{} = {shown}", attribute.key)
}

#[test]
fn every_value_is_what_it_was() {
    let mut histogram = Histogram::new(&[0.5, 60.0]);
    [0.25, 0.5, 61.0]
        .into_iter()
        .for_each(|it| histogram.observe(it));
    let none: [Sample; 0] = [];
    let families = [
        Family::new(
            "tracer.tcp.closes",
            "Closes",
            Unit::None,
            [
                Sample::of(
                    [("kind", "aborted".into()), ("cause", "".into())],
                    Value::Counter(u64::MAX),
                ),
                Sample::of([("kind", "active".into())], Value::Counter(7)),
            ],
        ),
        Family::new(
            "tracer.probe",
            "Time",
            Unit::Seconds,
            [Sample::alone(Value::Sum(1.5))],
        ),
        Family::new(
            "tracer.room",
            "Room",
            Unit::Bytes,
            [Sample::alone(Value::Gauge(0.1))],
        ),
        Family::new("tracer.nothing", "Nothing", Unit::None, none),
        Family::new(
            "tracer.tcp.time_wait",
            "How long",
            Unit::Seconds,
            [Sample::alone(Value::Histogram(histogram))],
        ),
    ];
    let told = decoded(&families, STARTED + 9);
    let [closes, probe, room, time_wait] = &told[..] else {
        panic!("{told:#?}");
    };
    assert_eq!(
        (&*closes.name, &*closes.description),
        ("tracer.tcp.closes", "Closes")
    );
    assert_eq!(
        [closes, probe, room, time_wait].map(|it| &*it.unit),
        ["", "s", "By", "s"]
    );

    let Some(metric::Data::Sum(sum)) = &closes.data else {
        panic!("{closes:?}");
    };
    assert!(sum.is_monotonic);
    assert_eq!(
        sum.aggregation_temporality(),
        AggregationTemporality::Cumulative
    );
    let [aborted, active] = &sum.data_points[..] else {
        panic!("{sum:?}");
    };
    // An empty label is none, and the protocol's numbers end at 63 bits.
    assert_eq!(
        aborted.attributes.iter().map(line).collect::<Vec<_>>(),
        ["kind = \"aborted\""]
    );
    assert_eq!(
        (aborted.value, active.value),
        (Some(AsInt(i64::MAX)), Some(AsInt(7)))
    );
    assert_eq!(
        (active.start_time_unix_nano, active.time_unix_nano),
        (STARTED, STARTED + 9)
    );

    let Some(metric::Data::Sum(sum)) = &probe.data else {
        panic!("{probe:?}");
    };
    assert_eq!(sum.data_points[0].value, Some(AsDouble(1.5)));
    let Some(metric::Data::Gauge(gauge)) = &room.data else {
        panic!("{room:?}");
    };
    assert_eq!(gauge.data_points[0].value, Some(AsDouble(0.1)));

    let Some(metric::Data::Histogram(told)) = &time_wait.data else {
        panic!("{time_wait:?}");
    };
    assert_eq!(
        told.aggregation_temporality(),
        AggregationTemporality::Cumulative
    );
    let point = &told.data_points[0];
    assert_eq!(point.explicit_bounds, [0.5, 60.0]);
    assert_eq!(point.bucket_counts, [2, 0, 1]);
    assert_eq!((point.count, point.sum), (3, Some(61.75)));
    assert_eq!(point.start_time_unix_nano, STARTED);
}

#[test]
fn time_does_not_go_back_behind_the_start() {
    let family = Family::new(
        "tracer.a",
        "",
        Unit::None,
        [Sample::alone(Value::Counter(1))],
    );
    let told = decoded(&[family], STARTED - 1);
    let Some(metric::Data::Sum(sum)) = &told[0].data else {
        panic!("{told:?}");
    };
    assert_eq!(sum.data_points[0].time_unix_nano, STARTED);
}

/// Everything that the agent may tell.
fn all_families() -> Vec<Family> {
    let mut example = Example::new();
    example.hold(
        route("10.0.0.9:3306"),
        program("php-fpm"),
        Use::TimeWait,
        28_232,
    );
    let meta = Meta {
        host: "web-1".to_owned(),
        boot_id: String::new(),
        kernel: String::new(),
        hz: 250,
        probes: vec![ProbeReport {
            name: "set_state",
            hook: "sock/inet_sock_set_state",
            purpose: "",
            state: ProbeState::Attached,
        }],
    };
    let mut ledger = Ledger::new(&meta, 1_000_000);
    let record = samples::whole(60_960).record;
    ledger.close(&record);
    ledger.end(&record);
    let reading = AccountReading {
        programs: vec![ProgramStatistics {
            name: "set_state",
            runs: 3,
            nanoseconds: 900,
            ..ProgramStatistics::default()
        }],
        ..AccountReading::default()
    };
    let books = Books {
        now: Timestamp(0),
        totals: &Totals::default(),
        reading: &reading,
        received: 0,
        missed: 0,
    };
    let findings = FindingCounts::new(["connects-refused"]);
    let findings = findings.families(&LeftOut::default(), [("routes", 0), ("findings", 0)]);
    let mut families = ledger.families(&books, findings, &Outlooks::of(&example.seen, 3));
    families.extend(Counts::default().families());
    families.retain(|family| !family.samples.is_empty());
    families
}

/// What OpenTelemetry's translation for Prometheus makes of a metric's name and unit.
fn translated(metric: &Metric) -> String {
    let mut name = metric.name.replace('.', "_");
    match &*metric.unit {
        "" => {}
        "s" => name.push_str("_seconds"),
        "By" => name.push_str("_bytes"),
        other => panic!("a unit that nobody uses: {other}"),
    }
    if let Some(metric::Data::Sum(sum)) = &metric.data
        && sum.is_monotonic
    {
        name.push_str("_total");
    }
    name
}

#[test]
fn prometheus_calls_the_translation_as_it_calls_what_it_scrapes() {
    let families = all_families();
    let translated: BTreeSet<String> = decoded(&families, STARTED).iter().map(translated).collect();
    let text = prometheus::write(Arc::new(families), Exposition::Text).unwrap();
    let scraped: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(translated, scraped);
    assert!(scraped.contains("tracer_tcp_closes_total"), "{scraped:?}");
    assert!(
        scraped.contains("tracer_ephemeral_ports_exhaustion_seconds"),
        "{scraped:?}"
    );
    assert!(
        scraped.contains("tracer_probe_seconds_total"),
        "{scraped:?}"
    );
}

#[test]
fn names_are_parts_joined_by_dots() {
    for family in all_families() {
        let parts: Vec<&str> = family.name.split('.').collect();
        assert!(parts.len() > 1 && parts[0] == "tracer", "{}", family.name);
    }
}

fn told(row: &Row) -> LogRecord {
    let bytes = logs(vec![close(row, STARTED)], &resource()).encode_to_vec();
    let request = ExportLogsServiceRequest::decode(&*bytes).unwrap();
    let scope = &request.resource_logs[0].scope_logs[0];
    assert_eq!(scope.log_records.len(), 1);
    scope.log_records[0].clone()
}

/// A log record, a line for each fact.
fn shown(record: &LogRecord) -> String {
    let mut text = String::new();
    let LogRecord {
        time_unix_nano,
        observed_time_unix_nano,
        severity_number,
        severity_text,
        event_name,
        body,
        attributes,
        ..
    } = record;
    writeln!(
        text,
        "{event_name} at {time_unix_nano}, seen at {observed_time_unix_nano}"
    )
    .unwrap();
    writeln!(text, "{severity_number} {severity_text}").unwrap();
    let body = body.as_ref().and_then(|any| any.value.as_ref());
    writeln!(text, "{body:?}").unwrap();
    let lines = attributes.iter().map(line);
    lines.for_each(|line| writeln!(text, "{line}").unwrap());
    text
}

#[test]
fn a_close_tells_all_that_is_known() {
    insta::assert_snapshot!("whole", shown(&told(&samples::whole(60_960))));
}

#[test]
fn what_is_not_known_is_not_told() {
    let record = told(&samples::blank(7));
    let text = shown(&record);
    insta::assert_snapshot!("blank", text);
    for attribute in &record.attributes {
        let line = line(attribute);
        let zero = line.ends_with(" = 0") && attribute.key != "tracer.generation";
        assert!(
            !zero && !line.contains("0.0.0.0") && !line.ends_with("\"\""),
            "{line}"
        );
    }
}

#[test]
fn a_failure_is_a_warning_with_an_error_and_an_orderly_close_is_none() {
    for kind in CloseKind::ALL {
        let mut row = samples::whole(0);
        row.record.close.kind = kind;
        row.record.close.cause = Some(CloseCause::PeerReset);
        let record = told(&row);
        let error = record.attributes.iter().find(|it| it.key == "error.type");
        let is_failure = !matches!(
            kind,
            CloseKind::Active
                | CloseKind::Passive
                | CloseKind::Simultaneous
                | CloseKind::ListenerClosed
                | CloseKind::Unknown
        );
        assert_eq!(record.severity_text == "WARN", is_failure, "{kind}");
        assert_eq!(record.severity_text == "INFO", !is_failure, "{kind}");
        assert_eq!(error.is_some(), is_failure, "{kind}");
    }
}

#[test]
fn a_finding_is_told_in_the_words_of_diagnose_and_is_no_error_once_it_is_over() {
    let found = Finding {
        rule: "connects-refused",
        severity: diagnosis::Severity::Error,
        subject: Subject {
            netns: Some(4_026_531_840),
            program: Some(Program {
                name: Some(*b"web\x1b[31m\xff\0\0\0\0\0\0\0"),
                cgroup_id: None,
            }),
            destination: Some(route("10.0.0.9:80").destination),
            failed: Some(5),
            ..Subject::default()
        },
        summary: "web: 5 are refused".to_owned(),
        evidence: vec!["It is so.".to_owned()],
        dwell: None,
        advice: vec![Advice {
            what: "see".to_owned(),
            command: Some("ss -ltn".to_owned()),
            ..Advice::default()
        }],
        warnings: Vec::new(),
        weight: 5,
    };
    let told = |turn| {
        let body = "connects-refused began".to_owned();
        let message = logs(vec![finding(&found, turn, body, 7)], &resource());
        let bytes = message.encode_to_vec();
        let mut message = ExportLogsServiceRequest::decode(&*bytes).unwrap();
        message.resource_logs[0].scope_logs[0].log_records.remove(0)
    };
    insta::assert_snapshot!("finding", shown(&told(Turn::Began)));
    let over = told(Turn::Ended);
    assert_eq!(over.severity_text, "INFO");
}
