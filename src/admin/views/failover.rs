//! SHOW FAILOVER.

use crate::admin::sources::{FailoverStatus, Sources};
use crate::admin::table::{Column, Value, flag, integer, number, text};
use crate::decide::failover::Maintenance;

pub(super) const FAILOVER: &[Column] = &[
    flag("automatic"),
    flag("maintenance"),
    text("state"),
    integer("epoch"),
    text("primary"),
    text("candidate"),
    // In this state.
    number("since_ms"),
    text("last_outcome"),
    text("reason"),
];

/// One row.
pub(super) fn failover(sources: &dyn Sources) -> Vec<Vec<Value>> {
    let snapshot = sources.snapshot();
    let FailoverStatus { automatic, maintenance, state, epoch, candidate, since, last, reason } = sources.failover();
    let name = |node| super::node_name(&snapshot, node);
    vec![vec![
        automatic.into(),
        (maintenance == Maintenance::On).into(),
        state.into(),
        epoch.into(),
        snapshot.primary.map(name).into(),
        candidate.map(name).into(),
        super::millis(since).into(),
        last.into(),
        reason.into(),
    ]]
}
