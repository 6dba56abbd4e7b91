//! SHOW NODES, SHOW LAG.

use std::time::{Duration, Instant};

use crate::admin::sources::Sources;
use crate::admin::table::{Column, Value, flag, integer, number, text};
use crate::decide::route::{Excess, NodeView, Role, Snapshot, State, is_in_service};

pub(super) const NODES: &[Column] = &[
    text("node"),
    text("address"),
    text("role"),
    text("state"),
    text("trouble"),
    // Whether reads are sent there now.
    flag("reads"),
    flag("drained"),
    text("zone"),
    integer("weight"),
    number("lag_ms"),
    integer("lag_bytes"),
    text("lsn"),
    integer("timeline"),
    integer("statements"),
    integer("outstanding"),
    integer("connections"),
    integer("dials"),
    integer("dial_failures"),
    text("version"),
];

pub(super) fn nodes(sources: &dyn Sources) -> Vec<Vec<Value>> {
    let snapshot = sources.snapshot();
    let (pools, reads_on_primary) = (sources.pools(), sources.config().routing.reads_on_primary);
    let row = |node: &NodeView| {
        let facts = sources.node(node.id);
        let counts = pools.iter().filter(|pool| pool.node == node.id).map(|pool| pool.counts);
        let connections: usize = counts.map(|counts| counts.idle + counts.leased + counts.connecting).sum();
        let primary = reads_on_primary
            && !node.drained
            && node.weight > 0
            && snapshot.usable_primary().is_some_and(|primary| primary.id == node.id);
        vec![
            node.name.to_string().into(),
            facts.address.into(),
            node.role.label().into(),
            node.state.label().into(),
            node.trouble.map(|trouble| trouble.to_string()).into(),
            (primary || takes_reads(node)).into(),
            node.drained.into(),
            node.zone.as_deref().map(Value::from).into(),
            node.weight.into(),
            millis(node.lag.time).into(),
            node.lag.bytes.into(),
            node.position.map(|sample| sample.lsn.to_string()).into(),
            node.position.map(|sample| sample.timeline.0).into(),
            sources.telemetry().metrics().on_node(node.id).into(),
            facts.outstanding.into(),
            connections.into(),
            facts.dials.into(),
            facts.dial_failures.into(),
            facts.server_version.map(version).into(),
        ]
    };
    present(&snapshot).map(row).collect()
}

pub(super) const LAG: &[Column] = &[
    text("node"),
    text("role"),
    text("state"),
    number("lag_ms"),
    integer("lag_bytes"),
    flag("fresh"),
    text("lsn"),
    integer("timeline"),
    number("measured_ms_ago"),
    number("max_lag_ms"),
    number("lag_recovery_ms"),
    integer("max_lag_bytes"),
    integer("lag_recovery_bytes"),
    // What keeps reads from it, as far as that is its lag.
    text("over"),
];

pub(super) fn lag(sources: &dyn Sources) -> Vec<Vec<Value>> {
    let (snapshot, now) = (sources.snapshot(), Instant::now());
    let row = |node: &NodeView| {
        let limits = node.limits;
        let measured = node.position.map(|sample| now.saturating_duration_since(sample.asked_at));
        vec![
            node.name.to_string().into(),
            node.role.label().into(),
            node.state.label().into(),
            millis(node.lag.time).into(),
            node.lag.bytes.into(),
            node.fresh.into(),
            node.position.map(|sample| sample.lsn.to_string()).into(),
            node.position.map(|sample| sample.timeline.0).into(),
            millis(measured).into(),
            millis(Some(limits.max)).into(),
            millis(Some(limits.recovery)).into(),
            limits.bytes.map(|bytes| bytes.max.0).into(),
            limits.bytes.map(|bytes| bytes.recovery.0).into(),
            node.excess().map(Excess::label).into(),
        ]
    };
    present(&snapshot).filter(|node| node.role != Role::Primary).map(row).collect()
}

/// The nodes of the topology file.
pub(in crate::admin) fn present(snapshot: &Snapshot) -> impl Iterator<Item = &NodeView> {
    snapshot.nodes.iter().filter(|node| node.state != State::Removed)
}

/// Whether it is a replica that a read with no position to reach may go to.
pub(in crate::admin) fn takes_reads(node: &NodeView) -> bool {
    is_in_service(node) && node.fresh
}

/// 150004 is 15.4.
fn version(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}

/// With microseconds, and no more digits than that.
pub(in crate::admin) fn millis(duration: Option<Duration>) -> Option<f64> {
    duration.map(|duration| (duration.as_secs_f64() * 1e6).round() / 1e3)
}
