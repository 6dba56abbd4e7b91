//! One scrape's values.

use std::collections::HashSet;

use metrics::{Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::names::{Kind, Metric};

/// Counters and gauges as they are at one moment. A sheet lives for one scrape: what has gone away since the last one, a
/// removed node or pool, is not on it.
pub struct Sheet {
    recorder: PrometheusRecorder,
    described: HashSet<&'static str>,
}

impl Sheet {
    pub fn new() -> Self {
        Self { recorder: PrometheusBuilder::new().build_recorder(), described: HashSet::new() }
    }

    /// `labels`: the values, in the order of the metric's labels.
    pub fn gauge(&mut self, metric: &Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(metric.kind, Kind::Gauge, "{}", metric.name);
        if self.described.insert(metric.name) {
            self.recorder.describe_gauge(metric.name.into(), Some(metric.unit), metric.help.into());
        }
        self.recorder.register_gauge(&key(metric, labels), &metadata()).set(value);
    }

    /// As [`gauge`](Self::gauge); `value` is the sum so far.
    pub fn counter(&mut self, metric: &Metric, labels: &[&str], value: u64) {
        debug_assert_eq!(metric.kind, Kind::Counter, "{}", metric.name);
        if self.described.insert(metric.name) {
            self.recorder.describe_counter(metric.name.into(), Some(metric.unit), metric.help.into());
        }
        self.recorder.register_counter(&key(metric, labels), &metadata()).absolute(value);
    }

    pub(super) fn render(&self) -> String {
        self.recorder.handle().render()
    }
}

impl Default for Sheet {
    fn default() -> Self {
        Self::new()
    }
}

pub(super) fn key(metric: &Metric, labels: &[&str]) -> Key {
    debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
    let labels = metric.labels.iter().zip(labels).map(|(name, value)| Label::new(*name, (*value).to_owned()));
    Key::from_parts(metric.name, labels.collect::<Vec<_>>())
}

pub(super) fn metadata() -> Metadata<'static> {
    Metadata::new(module_path!(), Level::INFO, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::names;

    #[test]
    fn label_values_cannot_break_out() {
        let mut sheet = Sheet::new();
        sheet.gauge(&names::POOL_WAITING, &["pg1", "a\"b\nc", "d"], 2.0);
        let text = sheet.render();
        assert!(text.contains(r#"pgpilot_pool_waiting{node="pg1",user="a\"b\nc",database="d"} 2"#), "{text}");
        assert!(text.contains("# HELP pgpilot_pool_waiting Clients that wait"), "{text}");
    }
}
