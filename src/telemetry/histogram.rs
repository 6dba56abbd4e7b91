//! How often something took how long.

use std::fmt::Write as _;
use std::time::Duration;

use super::counters::Counters;
use super::names::{LATENCY_BUCKETS, Metric};

/// So many histograms, all with the same buckets. Recording is three additions, on cache lines of the thread's own.
pub(super) struct Histograms<const N: usize>([Counters<SLOTS>; N]);

const BUCKETS: usize = LATENCY_BUCKETS.len();
/// What is above the last bound.
const BEYOND: usize = BUCKETS;
/// In nanoseconds.
const SUM: usize = BUCKETS + 1;
const SLOTS: usize = BUCKETS + 2;

/// The buckets' upper bounds, in nanoseconds.
const BOUNDS: [u64; BUCKETS] = {
    let mut bounds = [0; BUCKETS];
    let mut at = 0;
    while at < BUCKETS {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ten seconds at most")]
        {
            bounds[at] = (LATENCY_BUCKETS[at] * 1e9 + 0.5) as u64;
        }
        at += 1;
    }
    bounds
};

impl<const N: usize> Histograms<N> {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| Counters::new()))
    }

    #[inline]
    pub(super) fn record(&self, which: usize, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0[which].add(BOUNDS.partition_point(|bound| *bound < nanos), 1);
        self.0[which].add(SUM, nanos);
    }

    /// In Prometheus' text format: one series for each of these histograms, with the values of its labels.
    pub(super) fn render<'a>(
        &self,
        out: &mut String,
        metric: &Metric,
        series: impl IntoIterator<Item = (usize, &'a [&'a str])>,
    ) {
        let name = metric.name;
        let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} histogram", metric.help);
        for (which, values) in series {
            debug_assert_eq!(metric.labels.len(), values.len(), "{name}");
            let mut labels = String::new();
            for (label, value) in metric.labels.iter().zip(values) {
                let _ = write!(labels, "{label}=\"{value}\",");
            }
            let counters = &self.0[which];
            let mut count = 0;
            for (slot, bound) in LATENCY_BUCKETS.iter().enumerate() {
                count += counters.get(slot);
                let _ = writeln!(out, "{name}_bucket{{{labels}le=\"{bound}\"}} {count}");
            }
            count += counters.get(BEYOND);
            let _ = writeln!(out, "{name}_bucket{{{labels}le=\"+Inf\"}} {count}");
            let labels = labels.trim_end_matches(',');
            let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
            let seconds = Duration::from_nanos(counters.get(SUM)).as_secs_f64();
            let _ = writeln!(out, "{name}_sum{labels} {seconds}\n{name}_count{labels} {count}");
        }
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::names::CHECKOUT_SECONDS;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histograms = Histograms::<1>::new();
        for nanos in [0, 50_000, 50_001, 10_000_000_000, 10_000_000_001] {
            histograms.record(0, Duration::from_nanos(nanos));
        }
        let mut text = String::new();
        histograms.render(&mut text, &CHECKOUT_SECONDS, [(0, &[][..])]);
        let lines =
            ["bucket{le=\"0.00005\"} 2", "bucket{le=\"0.0001\"} 3", "bucket{le=\"10\"} 4", "bucket{le=\"+Inf\"} 5"];
        for line in lines.iter().chain(&["count 5", "sum 20.000100002"]) {
            let line = format!("pgpilot_checkout_seconds_{line}");
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
