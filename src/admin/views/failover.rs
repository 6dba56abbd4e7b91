//! SHOW FAILOVER.

use super::nodes::present;
use crate::admin::sources::{FailoverStatus, Sources};
use crate::admin::table::{Column, Value, flag, integer, number, text};
use crate::decide::failover::Maintenance;
use crate::decide::route::State;

pub(super) const FAILOVER: &[Column] = &[
    flag("automatic"),
    flag("maintenance"),
    text("state"),
    integer("epoch"),
    text("primary"),
    text("candidate"),
    // In this state.
    number("since_ms"),
    // Nodes with writes that the primary lacks.
    text("quarantined"),
    text("last_outcome"),
    text("reason"),
];

/// What operators look at; the primary is among the nodes.
pub const FAILOVER_AT_A_GLANCE: &[&str] =
    &["automatic", "maintenance", "state", "epoch", "candidate", "since_ms", "quarantined", "last_outcome", "reason"];

/// One row.
pub(super) fn failover(sources: &dyn Sources) -> Vec<Vec<Value>> {
    let snapshot = sources.snapshot();
    let FailoverStatus { automatic, maintenance, state, epoch, candidate, since, last, reason } = sources.failover();
    let name = |node| super::node_name(&snapshot, node);
    let apart: Vec<_> =
        present(&snapshot).filter(|node| node.state == State::Quarantined).map(|node| node.name.as_str()).collect();
    vec![vec![
        automatic.into(),
        (maintenance == Maintenance::On).into(),
        state.into(),
        epoch.into(),
        snapshot.primary.map(name).into(),
        candidate.map(name).into(),
        super::millis(since).into(),
        (!apart.is_empty()).then(|| apart.join(", ")).into(),
        last.into(),
        reason.into(),
    ]]
}
