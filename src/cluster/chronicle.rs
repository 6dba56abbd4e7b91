//! Changes in words, for the journal.

use crate::decide::health::Change;
use crate::decide::route::{Excess, Lag, NodeId, NodeView, Snapshot};
use crate::telemetry::{Journal, Topic};

/// Notes a change, with the names that the nodes have in `snapshot`.
pub(super) fn write(journal: &Journal, change: &Change, snapshot: &Snapshot) {
    let name = |id: &NodeId| snapshot.node(*id).map_or("?", |node| node.name.as_str());
    let (topic, node, text) = match change {
        Change::Following { node, epoch, timeline } => {
            (Topic::Primary, Some(node), format!("is the primary of epoch {epoch}, timeline {}", timeline.0))
        }
        Change::Leaderless { was } => {
            (Topic::Primary, Some(was), "stepped down as primary, and no successor is known".to_owned())
        }
        Change::LogLost { node, epoch, from, to } => {
            let text = format!("came back without the end of its log: {to} instead of {from}; epoch {epoch}");
            (Topic::Primary, Some(node), text)
        }
        Change::LogLeft { node, was, kept, end } => {
            let text = format!(
                "was promoted to the same timeline as {}, of whose log it has what was written up to {kept}: the rest, up \
                 to {end}, is lost",
                name(was)
            );
            (Topic::Primary, Some(node), text)
        }
        Change::Contested { nodes } => {
            let names: Vec<_> = nodes.iter().map(name).collect();
            (Topic::Primary, None, format!("cannot tell which node is the primary: {}", names.join(", ")))
        }
        Change::Role { node, from, to } => {
            (Topic::Node, Some(node), format!("role {} to {}", from.label(), to.label()))
        }
        Change::State { node, from, to, trouble } => {
            let why = trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
            (Topic::Node, Some(node), format!("state {} to {}{why}", from.label(), to.label()))
        }
        Change::Lagging { node, lag } => {
            let over = snapshot.node(*node).and_then(NodeView::excess).map_or("nothing", Excess::label);
            (Topic::Lag, Some(node), format!("lags, takes no more reads ({}; over its limit: {over})", show(*lag)))
        }
        Change::CaughtUp { node, lag } => (Topic::Lag, Some(node), format!("caught up, takes reads ({})", show(*lag))),
    };
    journal.note(topic, node.map(name), text);
}

fn show(lag: Lag) -> String {
    let time = lag.time.map(|time| format!("{:.1} ms", time.as_secs_f64() * 1e3));
    let bytes = lag.bytes.map(|bytes| format!("{bytes} bytes"));
    let known: Vec<_> = time.into_iter().chain(bytes).collect();
    if known.is_empty() { "not known".to_owned() } else { known.join(", ") }
}
