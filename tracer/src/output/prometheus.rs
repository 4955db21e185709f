//! Families of samples in the formats that Prometheus scrapes: OpenMetrics, and the older text.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{self, Registry};

use crate::metrics::{Family, Unit, Value};

/// How samples are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
    /// `text/plain; version=0.0.4`.
    Text,
}

impl Exposition {
    /// The one that a scraper asks for in its `Accept`: the older text is what everybody reads.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        match accept.contains("application/openmetrics-text") {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    /// The `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The text of `families`.
///
/// # Errors
/// None that the world can cause: text takes all that is written to it.
pub fn write(families: Arc<Vec<Family>>, exposition: Exposition) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(families)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(match exposition {
        Exposition::OpenMetrics => text,
        Exposition::Text => older(&text),
    })
}

#[derive(Debug)]
struct Scrape(Arc<Vec<Family>>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &*self.0 {
            let Some(first) = family.samples.first() else {
                continue;
            };
            let kind = match first.value {
                Value::Counter(_) | Value::Sum(_) => MetricType::Counter,
                Value::Gauge(_) => MetricType::Gauge,
                Value::Histogram(_) => MetricType::Histogram,
            };
            let unit = match family.unit {
                Unit::None => None,
                Unit::Seconds => Some(registry::Unit::Seconds),
                Unit::Bytes => Some(registry::Unit::Bytes),
            };
            let (name, help) = (name(family), family.help);
            let mut metric = encoder.encode_descriptor(&name, help, unit.as_ref(), kind)?;
            for sample in &family.samples {
                let labels: Vec<(&str, &str)> = (sample.labels.iter())
                    .map(|(name, value)| (*name, &**value))
                    .collect();
                match labels.is_empty() {
                    true => encode(&sample.value, &mut metric)?,
                    false => encode(&sample.value, &mut metric.encode_family(&labels)?)?,
                }
            }
        }
        Ok(())
    }
}

/// Prometheus knows no dots. OpenTelemetry's translation into its names does the same.
fn name(family: &Family) -> String {
    family.name.replace('.', "_")
}

fn encode(value: &Value, metric: &mut MetricEncoder<'_>) -> fmt::Result {
    match value {
        Value::Counter(count) => metric.encode_counter::<NoLabelSet, _, u64>(count, None),
        Value::Sum(sum) => metric.encode_counter::<NoLabelSet, _, f64>(sum, None),
        Value::Gauge(value) => metric.encode_gauge(value),
        Value::Histogram(histogram) => {
            let buckets: Vec<_> = histogram.buckets().collect();
            let (sum, count) = (histogram.sum(), histogram.count());
            metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
        }
    }
}

/// OpenMetrics as the older text has it: there a counter's `_total` belongs to its name, and neither
/// units nor an end are told.
fn older(text: &str) -> String {
    let mut older = String::with_capacity(text.len());
    let lines: Vec<&str> = text.lines().collect();
    let is_counter = |name: &str| {
        let kind = |line: &&str| {
            let told = line
                .strip_prefix("# TYPE ")
                .and_then(|rest| rest.split_once(' '));
            told == Some((name, "counter"))
        };
        lines.iter().any(kind)
    };
    for line in &lines {
        let described = ["# HELP ", "# TYPE "]
            .into_iter()
            .find_map(|what| Some((what, line.strip_prefix(what)?)));
        match described.and_then(|(what, rest)| Some((what, rest.split_once(' ')?))) {
            Some((what, (name, rest))) if is_counter(name) => {
                older.extend([what, name, "_total ", rest]);
            }
            _ if line.starts_with("# UNIT ") || *line == "# EOF" => continue,
            _ => older.push_str(line),
        }
        older.push('\n');
    }
    older
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Histogram, Sample};

    fn families() -> Arc<Vec<Family>> {
        let mut histogram = Histogram::new(&[0.5, 60.0]);
        histogram.observe(0.25);
        histogram.observe(61.0);
        let hostile = "a\"b\\c\nd 1";
        Arc::new(vec![
            Family::new(
                "tracer.events",
                "Events",
                Unit::None,
                [Sample::of([("result", hostile.into())], Value::Counter(7))],
            ),
            Family::new(
                "tracer.probe",
                "Time in a program",
                Unit::Seconds,
                [Sample::of([("probe", "set_state".into())], Value::Sum(1.5))],
            ),
            Family::new(
                "tracer.connections.tracked",
                "Connections",
                Unit::None,
                [Sample::alone(Value::Gauge(3.0))],
            ),
            Family::new(
                "tracer.tcp.time_wait",
                "How long",
                Unit::Seconds,
                [Sample::alone(Value::Histogram(histogram))],
            ),
        ])
    }

    #[test]
    fn openmetrics_has_units_and_an_end() {
        let text = write(families(), Exposition::OpenMetrics).unwrap();
        assert_eq!(
            text,
            r##"# HELP tracer_events Events
# TYPE tracer_events counter
tracer_events_total{result="a\"b\\c\nd 1"} 7
# HELP tracer_probe_seconds Time in a program
# TYPE tracer_probe_seconds counter
# UNIT tracer_probe_seconds seconds
tracer_probe_seconds_total{probe="set_state"} 1.5
# HELP tracer_connections_tracked Connections
# TYPE tracer_connections_tracked gauge
tracer_connections_tracked 3.0
# HELP tracer_tcp_time_wait_seconds How long
# TYPE tracer_tcp_time_wait_seconds histogram
# UNIT tracer_tcp_time_wait_seconds seconds
tracer_tcp_time_wait_seconds_sum 61.25
tracer_tcp_time_wait_seconds_count 2
tracer_tcp_time_wait_seconds_bucket{le="0.5"} 1
tracer_tcp_time_wait_seconds_bucket{le="60.0"} 1
tracer_tcp_time_wait_seconds_bucket{le="+Inf"} 2
# EOF
"##
        );
    }

    #[test]
    fn the_older_text_names_counters_in_full() {
        let text = write(families(), Exposition::Text).unwrap();
        assert!(text.starts_with("# HELP tracer_events_total Events\n"));
        assert!(text.contains("\n# TYPE tracer_probe_seconds_total counter\n"));
        assert!(text.contains("\n# TYPE tracer_tcp_time_wait_seconds histogram\n"));
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"));
    }

    #[test]
    fn who_does_not_ask_for_openmetrics_gets_the_older_text() {
        let asked = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
        assert_eq!(Exposition::accepted(asked), Exposition::OpenMetrics);
        assert_eq!(Exposition::accepted("*/*"), Exposition::Text);
    }
}
