//! `/metrics`: the gauges, read when somebody looks.

use super::sources::{CatalogueRow, InstanceStanding, Service, Sources};
use super::views::{node_name, present, takes_reads};
use crate::decide::failover::Maintenance;
use crate::decide::route::{NodeView, Role, State};
use crate::decide::session::Pin;
use crate::telemetry::{Sheet, names};

pub(super) fn metrics(sources: &dyn Sources) -> String {
    let mut sheet = Sheet::new();
    let snapshot = sources.snapshot();
    sheet.gauge(&names::INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
    sheet.gauge(&names::EPOCH, &[], float(snapshot.epoch));
    for state in [Service::Running, Service::Paused, Service::Draining] {
        sheet.gauge(&names::SERVICE, &[state.label()], f64::from(sources.service() == state));
    }
    let failover = sources.failover();
    sheet.gauge(&names::FAILOVER_STATE, &[&failover.state], 1.0);
    sheet.gauge(&names::FAILOVER_AUTOMATIC, &[], f64::from(failover.automatic));
    sheet.gauge(&names::FAILOVER_EPOCH, &[], float(failover.epoch));
    sheet.gauge(&names::MAINTENANCE, &[], f64::from(failover.maintenance == Maintenance::On));
    instances(&mut sheet, sources);
    present(&snapshot).for_each(|view| node(&mut sheet, sources, view));
    let mut waiting = 0;
    for pool in sources.pools() {
        let node = node_name(&snapshot, pool.node);
        let labels = [&*node, &*pool.user, &*pool.database];
        let counts =
            [("idle", pool.counts.idle), ("leased", pool.counts.leased), ("connecting", pool.counts.connecting)];
        for (state, count) in counts {
            let labels = [labels[0], labels[1], labels[2], state];
            sheet.gauge(&names::POOL_CONNECTIONS, &labels, float(count as u64));
        }
        sheet.gauge(&names::POOL_WAITING, &labels, float(pool.counts.waiting as u64));
        waiting += pool.counts.waiting;
    }
    sheet.gauge(&names::CLIENTS_WAITING, &[], float(waiting as u64));
    sheet.gauge(&names::CLIENTS_HELD, &[], float(sources.held() as u64));
    let clients = sources.clients();
    sheet.gauge(&names::CLIENTS, &[], float(clients.len() as u64));
    for pin in Pin::ALL {
        let pinned = clients.iter().filter(|client| client.pins.contains(&pin)).count();
        sheet.gauge(&names::PINNED, &[pin.label()], float(pinned as u64));
    }
    let catalogues = sources.catalogues();
    for state in CatalogueRow::STATES {
        let count = catalogues.iter().filter(|row| row.state() == state).count();
        sheet.gauge(&names::CATALOGUES, &[state], float(count as u64));
    }
    sources.telemetry().render(sheet)
}

fn instances(sheet: &mut Sheet, sources: &dyn Sources) {
    let all = sources.instances();
    for standing in [InstanceStanding::Alone, InstanceStanding::Leader, InstanceStanding::Follower] {
        let count = all.iter().filter(|instance| instance.standing == standing).count();
        sheet.gauge(&names::INSTANCES, &[standing.label()], float(count as u64));
    }
    let leads = all.iter().any(|it| it.is_this && it.standing != InstanceStanding::Follower);
    sheet.gauge(&names::LEADS, &[], f64::from(leads));
    if let Some(lease) = sources.lease() {
        sheet.gauge(&names::LEASE, &[], lease.as_secs_f64());
    }
}

fn node(sheet: &mut Sheet, sources: &dyn Sources, node: &NodeView) {
    let name = node.name.as_str();
    for role in [Role::Unknown, Role::Primary, Role::Replica, Role::Stray] {
        sheet.gauge(&names::NODE_ROLE, &[name, role.label()], f64::from(node.role == role));
    }
    for state in [State::Unknown, State::Up, State::Suspect, State::Down, State::Quarantined] {
        sheet.gauge(&names::NODE_STATE, &[name, state.label()], f64::from(node.state == state));
    }
    sheet.gauge(&names::NODE_READS, &[name], f64::from(takes_reads(node)));
    sheet.gauge(&names::NODE_DRAINED, &[name], f64::from(node.drained));
    // What is not known has no sample: a zero would look like a replica that has caught up.
    if let Some(lag) = node.lag.time {
        sheet.gauge(&names::LAG_SECONDS, &[name], lag.as_secs_f64());
    }
    if let Some(lag) = node.lag.bytes {
        sheet.gauge(&names::LAG_BYTES, &[name], float(lag));
    }
    if let Some(sample) = node.position {
        sheet.gauge(&names::NODE_LSN, &[name], float(sample.lsn.0));
        sheet.gauge(&names::NODE_TIMELINE, &[name], f64::from(sample.timeline.0));
    }
    let facts = sources.node(node.id);
    sheet.gauge(&names::NODE_OUTSTANDING, &[name], f64::from(facts.outstanding));
    sheet.counter(&names::DIALS, &[name, "opened"], facts.dials);
    sheet.counter(&names::DIALS, &[name, "failed"], facts.dial_failures);
    sheet.counter(&names::NODE_STATEMENTS, &[name], sources.telemetry().metrics().on_node(node.id));
}

/// Prometheus knows only doubles; above 2^53 the last digits go.
#[expect(clippy::cast_precision_loss)]
fn float(n: u64) -> f64 {
    n as f64
}
