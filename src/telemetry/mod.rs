//! What pgpilot says of itself: metrics, a journal of what happened, the log.
//!
//! - [`names`]: every metric, in one place.
//! - [`Metrics`]: the counters and histograms that the client loops write.
//! - [`Sheet`]: one scrape's values; gauges are read from their sources when somebody looks, not kept up to date.
//! - [`Journal`]: the last events of the cluster, for operators.
//! - [`logging`]: the log.

mod counters;
pub mod journal;
pub mod logging;
mod metrics;
pub mod names;
mod sheet;

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::task::AbortOnDropHandle;

pub use journal::{Entry, Journal, Topic};
pub use metrics::{Count, Direction, Ending, Login, Lookup, Metrics, RetryCause, RouteCount, Served, Side};
pub use sheet::Sheet;

/// Histograms collect samples until somebody sorts them into buckets.
const UPKEEP: Duration = Duration::from_secs(1);

/// The metrics of one proxy. Nothing of it is global to the process, so several can live side by side.
pub struct Telemetry {
    metrics: Arc<Metrics>,
    histograms: PrometheusHandle,
}

impl Telemetry {
    pub fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for metric in [&names::STATEMENT_SECONDS, &names::CHECKOUT_SECONDS] {
            let matcher = Matcher::Full(metric.name.to_owned());
            builder = builder
                .set_buckets_for_metric(matcher, names::LATENCY_BUCKETS)
                .expect("the list of buckets is not empty");
        }
        let recorder = builder.build_recorder();
        Self { metrics: Arc::new(Metrics::new(&recorder)), histograms: recorder.handle() }
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Keeps the histograms' memory small for as long as what it returns is kept. Needs to be called within a runtime.
    pub fn keep_up(&self) -> AbortOnDropHandle<()> {
        let histograms = self.histograms.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut interval = tokio::time::interval(UPKEEP);
            loop {
                interval.tick().await;
                histograms.run_upkeep();
            }
        }))
    }

    /// Everything in Prometheus' text format: the counters, the histograms, and what `sheet` has been filled with.
    pub fn render(&self, mut sheet: Sheet) -> String {
        self.metrics.write_to(&mut sheet);
        self.histograms.run_upkeep();
        sheet.render() + &self.histograms.render()
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}
