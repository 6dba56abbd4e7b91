//! What pgpilot says of itself: metrics, a journal of what happened, the log.
//!
//! - [`names`]: every metric, in one place.
//! - [`Metrics`]: the counters and histograms that the client loops write.
//! - [`Sheet`]: one scrape's values; gauges are read from their sources when somebody looks, not kept up to date.
//! - [`Journal`]: the last events of the cluster, for operators.
//! - [`logging`]: the log.

mod counters;
mod histogram;
pub mod journal;
pub mod logging;
mod metrics;
pub mod names;
mod sheet;

pub use journal::{Entry, Journal, Topic};
pub use metrics::{
    Count, Direction, Ending, Login, Lookup, Lost, Metrics, Optimistic, RetryCause, RouteCount, Served, Side,
};
pub use sheet::Sheet;
use std::sync::Arc;

/// The metrics of one proxy. Nothing of it is global to the process, so several can live side by side.
pub struct Telemetry {
    metrics: Arc<Metrics>,
}

impl Telemetry {
    pub fn new() -> Self {
        Self { metrics: Arc::new(Metrics::new()) }
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Everything in Prometheus' text format: the counters, the histograms, and what `sheet` has been filled with.
    pub fn render(&self, mut sheet: Sheet) -> String {
        self.metrics.write_to(&mut sheet);
        sheet.render() + &self.metrics.histograms()
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
