//! Log records, and OpenTelemetry's message of them.

use std::borrow::Cow;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{ArrayValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{self, ResourceLogs, ScopeLogs, SeverityNumber};

use super::{Resource, any, attribute, scope};

/// Something that happened, to be told once.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRecord {
    /// What kind of event it is: `tracer.tcp.close`, `tracer.finding`. All of a name have the same attributes.
    pub name: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// When it happened, in nanoseconds since 1970; `None`: not known.
    pub at: Option<u64>,
    /// When we came to know of it, in nanoseconds since 1970.
    pub observed_at: u64,
    /// A sentence for people.
    pub body: Cow<'static, str>,
    /// What is known of it; what is not known is left out.
    pub attributes: Vec<Attribute>,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It is as it should be.
    Info,
    /// It failed.
    Warn,
    /// Something must be done.
    Error,
}

/// A fact: its name and its value.
pub type Attribute = (&'static str, Value);

/// The value of a fact.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text: data, never markup.
    Text(Cow<'static, str>),
    /// Several texts.
    Texts(Vec<Cow<'static, str>>),
    /// A whole number; one beyond 63 bits is told as the largest.
    Whole(u64),
    /// Yes or no.
    Truth(bool),
}

/// The message of `records`.
#[must_use]
pub fn logs(records: Vec<LogRecord>, resource: &Resource) -> ExportLogsServiceRequest {
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs {
            resource: Some(resource.message()),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope()),
                log_records: records.into_iter().map(message).collect(),
                ..ScopeLogs::default()
            }],
            ..ResourceLogs::default()
        }],
    }
}

fn message(record: LogRecord) -> v1::LogRecord {
    let (number, name) = match record.severity {
        Severity::Info => (SeverityNumber::Info, "INFO"),
        Severity::Warn => (SeverityNumber::Warn, "WARN"),
        Severity::Error => (SeverityNumber::Error, "ERROR"),
    };
    v1::LogRecord {
        // 0 is the protocol's word for what is not known.
        time_unix_nano: record.at.unwrap_or(0),
        observed_time_unix_nano: record.observed_at,
        severity_number: number.into(),
        severity_text: name.to_owned(),
        body: Some(any(any_value::Value::StringValue(record.body.into_owned()))),
        attributes: (record.attributes.into_iter())
            .map(|(name, value)| attribute(name, value.into()))
            .collect(),
        event_name: record.name.to_owned(),
        ..v1::LogRecord::default()
    }
}

impl From<Value> for any_value::Value {
    fn from(value: Value) -> Self {
        let text = |text: Cow<'static, str>| any(Self::StringValue(text.into_owned()));
        match value {
            Value::Text(text) => Self::StringValue(text.into_owned()),
            Value::Texts(texts) => Self::ArrayValue(ArrayValue {
                values: texts.into_iter().map(text).collect(),
            }),
            Value::Whole(number) => Self::IntValue(i64::try_from(number).unwrap_or(i64::MAX)),
            Value::Truth(truth) => Self::BoolValue(truth),
        }
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Whole(number.into())
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Truth(truth)
    }
}
