//! SHOW STATS, SHOW REASONS.

use crate::admin::sources::Sources;
use crate::admin::table::{Column, Value, integer, number, text};

pub(super) const STATS: &[Column] = &[text("counter"), text("label"), integer("value")];

pub(super) fn stats(sources: &dyn Sources) -> Vec<Vec<Value>> {
    let metrics = sources.telemetry().metrics();
    let plain = |name: &str, label: &str, value: u64| vec![name.into(), label.into(), value.into()];
    let mut rows = Vec::new();
    for (route, statements, time) in metrics.latencies() {
        rows.push(plain("statements", route, statements));
        rows.push(plain("statement_time_us", route, u64::try_from(time.as_micros()).unwrap_or(u64::MAX)));
    }
    for (metric, label, value) in metrics.totals() {
        let name = metric.name.trim_start_matches("pgpilot_").trim_end_matches("_total");
        rows.push(vec![name.into(), label.into(), value.into()]);
    }
    rows
}

pub(super) const REASONS: &[Column] = &[text("route"), text("reason"), integer("statements"), number("percent")];

pub(super) fn reasons(sources: &dyn Sources) -> Vec<Vec<Value>> {
    let mut counts = sources.telemetry().metrics().routes();
    let total: u64 = counts.iter().map(|count| count.statements).sum();
    counts.sort_by_key(|count| std::cmp::Reverse(count.statements));
    // Shares of more statements than a double can count exactly are still right to the digits shown.
    #[expect(clippy::cast_precision_loss)]
    let percent = |part: u64| (part as f64 / total as f64 * 1e4).round() / 1e2;
    let row = |count: crate::telemetry::RouteCount| {
        let share = percent(count.statements);
        vec![count.route.into(), count.reason.label().into(), count.statements.into(), share.into()]
    };
    counts.into_iter().map(row).collect()
}
