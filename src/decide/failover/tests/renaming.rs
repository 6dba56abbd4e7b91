//! Nodes that are taken out of the topology file, or renamed in it.

use std::time::Instant;

use super::super::*;
use super::{record, rules};
use crate::config::{LagLimits, NodeName};
use crate::decide::health::{Answer, Event as Heard, Failure, Health, Limits, NodeSpec, Receiver, Recovery, Stage};
use crate::decide::position::{Lsn, Timeline, WalGeometry};
use crate::decide::route::NodeId;

fn spec(name: &str) -> NodeSpec {
    let second = std::time::Duration::from_secs(1);
    let (name, lag) = (NodeName::new(name).unwrap(), LagLimits::by_time(second, second / 2));
    NodeSpec { address: name.as_str().into(), name, zone: None, weight: 1, lag }
}

fn configured(names: [&str; 3]) -> Heard {
    Heard::Configured(names.map(spec).into())
}

fn answered(node: u16, standby_name: &str, receiver: Option<Receiver>, now: Instant) -> Heard {
    let lsn = Lsn(1000);
    let recovery = Recovery { replay: Some(lsn), receive: Some(lsn), receiver, ..Recovery::default() };
    let is_primary = node == 0;
    let stage = if is_primary { Stage::Writable { insert: lsn, flush: lsn } } else { Stage::Recovering(recovery) };
    let answer = Answer {
        system_identifier: 7,
        server_version: 150_004,
        timeline: Timeline(1),
        wal: WalGeometry::STANDARD,
        stage,
        recovered: None,
        standby_name: standby_name.to_owned(),
        synchronous: if is_primary { "ANY 1 (pg2, pg3)" } else { "" }.to_owned(),
        standbys: Vec::new(),
        marked: 0,
    };
    Heard::Answered { node: NodeId(node), asked_at: now, answer: Box::new(answer) }
}

fn world(health: &Health, now: Instant) -> World {
    let profile = |id: NodeId| Some(Profile { priority: 100, zone: Zone::Own, host: "h".to_owned(), port: id.0 });
    World::new(&health.snapshot(), profile, |id| health.answer(id).cloned(), now)
}

fn plan(machine: &mut Machine, order: Order, world: World, now: Instant) -> Result<String, String> {
    machine.on(Event::Seen(world), now);
    machine.on(Event::Ordered { order, ticket: 1 }, now).answers.remove(0).1
}

#[test]
fn a_node_that_was_renamed_counts_once() {
    let now = Instant::now();
    let mut health = Health::new(Limits { failures: 1 });
    let streaming = || Some(Receiver { status: "streaming".to_owned(), silent_for: None, sender: None });
    health.on(configured(["pg1", "pg2", "pg3"]), now);
    health.on(answered(0, "pg1", None, now), now);
    health.on(answered(1, "pg2", streaming(), now), now);
    health.on(answered(2, "pg3", streaming(), now), now);
    // The same server, as its own settings still say.
    health.on(configured(["pg1", "pg2", "new"]), now);
    health.on(answered(3, "pg3", streaming(), now), now);

    let mut machine = Machine::new(rules(), WallClock { unix: 0, at: now });
    machine.on(Event::Restored(record(None)), now);
    let switchover = Order::Switchover { to: Some(NodeId(1)), run: Run::Dry };
    let told = plan(&mut machine, switchover, world(&health, now), now);
    assert_eq!(told, Ok("pg1 would hand over to pg2".to_owned()));

    health.on(Heard::Failed { node: NodeId(0), failure: Failure::Refused }, now);
    health.on(answered(1, "pg2", None, now), now);
    health.on(answered(3, "pg3", None, now), now);
    let failover = Order::Failover { to: Some(NodeId(1)), waived: Guards::empty(), run: Run::Dry };
    let told = plan(&mut machine, failover, world(&health, now), now);
    assert_eq!(told, Ok("pg2 would be promoted with the log up to 0/3E8".to_owned()));
}
