//! SHOW CLIENTS, SHOW PINS.

use std::time::Instant;

use super::node_name;
use crate::admin::sources::{ClientRow, Sources};
use crate::admin::table::{Column, Value, integer, number, text};

pub(super) const CLIENTS: &[Column] = &[
    integer("pid"),
    text("user"),
    text("database"),
    // NULL: a Unix socket.
    text("address"),
    text("application"),
    number("connected_s"),
    // NULL: it has no server connection now.
    text("node"),
    text("pins"),
];

pub(super) fn clients(sources: &dyn Sources) -> Vec<Vec<Value>> {
    let (snapshot, now) = (sources.snapshot(), Instant::now());
    let row = |client: ClientRow| {
        let connected = now.saturating_duration_since(client.since).as_secs_f64();
        let pins: Vec<_> = client.pins.iter().map(|pin| pin.label()).collect();
        vec![
            client.pid.into(),
            (*client.user).into(),
            (*client.database).into(),
            client.address.map(|address| address.to_string()).into(),
            (*client.application).into(),
            ((connected * 10.0).round() / 10.0).into(),
            client.node.map(|node| node_name(&snapshot, node)).into(),
            (!pins.is_empty()).then(|| pins.join(", ")).into(),
        ]
    };
    by_pid(sources).into_iter().map(row).collect()
}

pub(super) const PINS: &[Column] =
    &[integer("pid"), text("user"), text("database"), text("application"), text("node"), text("pin")];

pub(super) fn pins(sources: &dyn Sources) -> Vec<Vec<Value>> {
    let snapshot = sources.snapshot();
    let rows = |client: ClientRow| {
        let row = |pin: &crate::decide::session::Pin| {
            vec![
                client.pid.into(),
                (*client.user).into(),
                (*client.database).into(),
                (*client.application).into(),
                client.node.map(|node| node_name(&snapshot, node)).into(),
                pin.label().into(),
            ]
        };
        client.pins.iter().map(row).collect::<Vec<_>>()
    };
    by_pid(sources).into_iter().flat_map(rows).collect()
}

fn by_pid(sources: &dyn Sources) -> Vec<ClientRow> {
    let mut clients = sources.clients();
    clients.sort_by_key(|client| client.pid);
    clients
}
