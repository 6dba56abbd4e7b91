//! SHOW POOLS, SHOW SERVERS.

use super::node_name;
use crate::admin::sources::{PoolRow, ServerRow, ServerState, Sources};
use crate::admin::table::{Column, Value, integer, number, text};

pub(super) const POOLS: &[Column] = &[
    text("node"),
    text("user"),
    text("database"),
    integer("idle"),
    integer("leased"),
    integer("connecting"),
    integer("waiting"),
];

pub(super) fn pools(sources: &dyn Sources) -> Vec<Vec<Value>> {
    let snapshot = sources.snapshot();
    let row = |PoolRow { node, user, database, counts }: PoolRow| {
        vec![
            node_name(&snapshot, node).into(),
            (*user).into(),
            (*database).into(),
            counts.idle.into(),
            counts.leased.into(),
            counts.connecting.into(),
            counts.waiting.into(),
        ]
    };
    let mut pools = sources.pools();
    pools.sort_by(|a, b| (a.node, &a.user, &a.database).cmp(&(b.node, &b.user, &b.database)));
    pools.into_iter().map(row).collect()
}

pub(super) const SERVERS: &[Column] = &[
    text("node"),
    text("user"),
    text("database"),
    text("state"),
    integer("backend_pid"),
    integer("client_pid"),
    number("age_s"),
];

pub(super) fn servers(sources: &dyn Sources) -> Vec<Vec<Value>> {
    let snapshot = sources.snapshot();
    let row = |ServerRow { node, user, database, state, backend, age }: ServerRow| {
        let (state, client) = match state {
            ServerState::Idle => ("idle", None),
            ServerState::Leased(client) => ("leased", client),
        };
        vec![
            node_name(&snapshot, node).into(),
            (*user).into(),
            (*database).into(),
            state.into(),
            backend.into(),
            client.into(),
            age.map(|age| (age.as_secs_f64() * 10.0).round() / 10.0).into(),
        ]
    };
    sources.servers().into_iter().map(row).collect()
}
