//! Families of samples as OpenTelemetry's metrics: the same values as in /metrics.
//!
//! The names and units are such that OpenTelemetry's translation for Prometheus makes of them what
//! /metrics says.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
};

use super::{Resource, scope, text};
use crate::metrics::{Family, Sample, Unit, Value};

/// The metrics of `families` as they stood at `now`, counted since `start`; both in nanoseconds
/// since 1970.
#[must_use]
pub fn metrics(
    families: &[Family],
    resource: &Resource,
    start: u64,
    now: u64,
) -> ExportMetricsServiceRequest {
    // The wall's clock may have been set back since.
    let interval = (start, now.max(start));
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource.message()),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope()),
                metrics: (families.iter())
                    .filter_map(|family| metric(family, interval))
                    .collect(),
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    }
}

/// `None` where there is no sample, and so no kind.
fn metric(family: &Family, interval: (u64, u64)) -> Option<Metric> {
    let points = || family.samples.iter().filter_map(|it| point(it, interval));
    let temporality = AggregationTemporality::Cumulative.into();
    let data = match family.samples.first()?.value {
        Value::Counter(_) | Value::Sum(_) => metric::Data::Sum(Sum {
            data_points: points().collect(),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        Value::Gauge(_) => metric::Data::Gauge(Gauge {
            data_points: points().collect(),
        }),
        Value::Histogram(_) => metric::Data::Histogram(Histogram {
            data_points: (family.samples.iter())
                .filter_map(|sample| histogram(sample, interval))
                .collect(),
            aggregation_temporality: temporality,
        }),
    };
    Some(Metric {
        name: family.name.to_owned(),
        description: family.help.to_owned(),
        unit: match family.unit {
            // "1" would make Prometheus' name end in _ratio.
            Unit::None => "",
            Unit::Seconds => "s",
            Unit::Bytes => "By",
        }
        .to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

fn point(sample: &Sample, (start, now): (u64, u64)) -> Option<NumberDataPoint> {
    use number_data_point::Value::{AsDouble, AsInt};
    let (value, start) = match sample.value {
        Value::Counter(count) => (AsInt(i64::try_from(count).unwrap_or(i64::MAX)), start),
        Value::Sum(sum) => (AsDouble(sum), start),
        // It is no sum, and so has no beginning.
        Value::Gauge(value) => (AsDouble(value), 0),
        Value::Histogram(_) => return None,
    };
    Some(NumberDataPoint {
        attributes: attributes(sample),
        start_time_unix_nano: start,
        time_unix_nano: now,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn histogram(sample: &Sample, (start, now): (u64, u64)) -> Option<HistogramDataPoint> {
    let Value::Histogram(histogram) = &sample.value else {
        return None;
    };
    Some(HistogramDataPoint {
        attributes: attributes(sample),
        start_time_unix_nano: start,
        time_unix_nano: now,
        count: histogram.count(),
        sum: Some(histogram.sum()),
        bucket_counts: histogram.buckets().map(|(_, count)| count).collect(),
        // The last bucket has none.
        explicit_bounds: (histogram.buckets().map(|(bound, _)| bound))
            .filter(|bound| bound.is_finite())
            .collect(),
        ..HistogramDataPoint::default()
    })
}

/// An empty label is to Prometheus one that is not there.
fn attributes(sample: &Sample) -> Vec<KeyValue> {
    let labels = sample.labels.iter().filter(|(_, value)| !value.is_empty());
    labels.map(|(name, value)| text(name, value)).collect()
}
