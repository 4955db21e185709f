//! OpenTelemetry's protocol: what the agent counts, and closes and findings as log records, as the messages of
//! OTLP. Nothing is sent here, and no clock is read.

mod close;
mod facts;
mod finding;
mod logs;
mod metrics;

#[cfg(test)]
mod tests;

use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1;

pub use close::close;
pub use finding::{Turn, finding};
pub use logs::{Attribute, LogRecord, Severity, Value, logs};
pub use metrics::metrics;

/// Who speaks: it stands above all that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// What this host is called. There is one agent on a host, so it tells the agents apart too, and
    /// goes on to do so after a restart.
    pub host: String,
}

impl Resource {
    fn message(&self) -> v1::Resource {
        let attributes = [
            ("service.name", "tracer"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", &self.host),
            ("host.name", &self.host),
            ("os.type", "linux"),
        ];
        v1::Resource {
            attributes: attributes.map(|(key, value)| text(key, value)).into(),
            ..v1::Resource::default()
        }
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "tracer".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, any_value::Value::StringValue(value.to_owned()))
}

fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(any(value)),
        ..KeyValue::default()
    }
}

const fn any(value: any_value::Value) -> AnyValue {
    AnyValue { value: Some(value) }
}
