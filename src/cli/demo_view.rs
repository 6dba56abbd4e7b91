//! What `pgpilot demo` shows while it runs: where statements go.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use super::output::Rows;
use crate::admin::Sources;
use crate::decide::route::NodeView;

/// Remembers what it showed last, for rates.
pub(super) struct View {
    begun: Instant,
    shown: Instant,
    before: BTreeMap<String, u64>,
}

/// Reasons that are shown, the most frequent first.
const REASONS: usize = 8;

impl View {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), shown: Instant::now(), before: BTreeMap::new() }
    }

    /// Two tables: the nodes, and the reasons.
    pub(super) fn table(&mut self, sources: &dyn Sources) -> String {
        let columns = ["node", "role", "state", "lag_ms", "statements", "per_second"].map(str::to_owned).to_vec();
        let row = |(node, total, rate): (NodeView, u64, u64)| {
            vec![
                json!(node.name.as_str()),
                json!(node.role.label()),
                json!(if node.drained { "drained" } else { node.state.label() }),
                node.lag.time.map_or(Value::Null, |lag| json!((lag.as_secs_f64() * 1e4).round() / 10.0)),
                json!(total),
                json!(rate),
            ]
        };
        let nodes = Rows { columns, rows: self.nodes(sources).into_iter().map(row).collect() };
        let columns = ["route", "reason", "statements"].map(str::to_owned).to_vec();
        let reasons =
            reasons(sources).into_iter().map(|(route, reason, count)| vec![json!(route), json!(reason), json!(count)]);
        let reasons = Rows { columns, rows: reasons.take(REASONS).collect() };
        format!("{}\n{}", nodes.to_table(), reasons.to_table())
    }

    /// One line with the same in short.
    pub(super) fn line(&mut self, sources: &dyn Sources) -> String {
        let nodes = self.nodes(sources).into_iter().map(|(node, total, rate)| {
            let lag = node.lag.time.map(|lag| format!(", lag {:.1} ms", lag.as_secs_f64() * 1e3)).unwrap_or_default();
            format!("{} ({}{lag}) {total} (+{rate}/s)", node.name, node.role.label())
        });
        let reasons = reasons(sources).into_iter().take(REASONS).map(|(_, reason, count)| format!("{reason} {count}"));
        let at = self.begun.elapsed().as_secs();
        format!("{at:>4}s  {}  |  {}", nodes.collect::<Vec<_>>().join("  "), reasons.collect::<Vec<_>>().join(", "))
    }

    /// Each node with its statements so far, and a second.
    fn nodes(&mut self, sources: &dyn Sources) -> Vec<(NodeView, u64, u64)> {
        let seconds = self.shown.elapsed().as_secs_f64().max(0.001);
        self.shown = Instant::now();
        let snapshot = sources.snapshot();
        let row = |node: &NodeView| {
            let total = sources.telemetry().metrics().on_node(node.id);
            let before = self.before.insert(node.name.to_string(), total).unwrap_or(0);
            (node.clone(), total, per_second(total.saturating_sub(before), seconds))
        };
        snapshot.nodes.iter().map(row).collect()
    }
}

/// Rounded.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn per_second(count: u64, seconds: f64) -> u64 {
    (count as f64 / seconds).round() as u64
}

/// (route, reason, count), the most frequent first.
fn reasons(sources: &dyn Sources) -> Vec<(&'static str, &'static str, u64)> {
    let mut counts = sources.telemetry().metrics().routes();
    counts.sort_by_key(|count| std::cmp::Reverse(count.statements));
    counts.into_iter().map(|count| (count.route, count.reason.label(), count.statements)).collect()
}
