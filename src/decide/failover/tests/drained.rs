//! Nodes that operators have taken out, to work upon them.

use std::time::{Duration, Instant};

use super::super::*;
use super::{machine, record, world};
use crate::decide::position::{Lsn, Timeline};
use crate::decide::route::NodeId;

const OLD: NodeId = NodeId(0);

fn drained(contact: Contact, nodes: &[usize]) -> World {
    let mut world = world(contact);
    nodes.iter().for_each(|&node| world.nodes[node].drained = true);
    world
}

fn with_log(mut world: World, node: usize, end: u64) -> World {
    world.nodes[node].log = Some(Log { timeline: Timeline(1), end: Lsn(end), replayed: Lsn(end), tail: Tail::There });
    world
}

fn plan(machine: &mut Machine, world: World, order: Order, now: Instant) -> String {
    machine.on(Event::Seen(world), now);
    machine.on(Event::Ordered { order, ticket: 1 }, now).answers.remove(0).1.unwrap_or_else(|why| why)
}

#[test]
fn nobody_hands_over_to_a_drained_replica_that_is_not_named() {
    let now = Instant::now();
    let mut machine = machine(record(None), now);
    let order = |to: Option<u16>| Order::Switchover { to: to.map(NodeId), run: Run::Dry };
    let handed = |to: &str| format!("pg1 would hand over to {to}");
    let up = Contact::Up;
    assert_eq!(plan(&mut machine, drained(up, &[]), order(None), now), handed("pg2"));
    assert_eq!(plan(&mut machine, drained(up, &[1]), order(None), now), handed("pg3"));
    // How far it is now does not matter.
    let behind = with_log(drained(up, &[1]), 2, 40);
    assert_eq!(plan(&mut machine, behind, order(None), now), handed("pg3"));
    assert_eq!(plan(&mut machine, drained(up, &[1]), order(Some(1)), now), handed("pg2"));
    let refused = plan(&mut machine, drained(up, &[1, 2]), order(None), now);
    assert!(refused.starts_with("only a drained replica could take over, pg2, and it has to be named"), "{refused}");
}

#[test]
fn a_drained_replica_is_the_last_to_be_promoted() {
    let lost = Contact::Refused;
    for (seen, synchronous, chosen) in [
        (drained(lost, &[]), "", 1),
        (drained(lost, &[1]), "", 2),
        (drained(lost, &[1]), "ANY 1 (pg2, pg3)", 2),
        (drained(lost, &[1, 2]), "", 1),
        // Something would be lost with the other one.
        (with_log(drained(lost, &[1]), 2, 60), "", 1),
        (with_log(drained(lost, &[1]), 2, 60), "ANY 1 (pg2, pg3)", 1),
    ] {
        let mut now = Instant::now();
        let mut machine = machine(record(None), now);
        let seen = World { synchronous: Some(synchronous.to_owned()), ..seen };
        let logs: Vec<_> = seen.nodes.iter().map(|node| node.log.unwrap()).collect();
        while machine.status().state != "approving" {
            now += Duration::from_millis(100);
            machine.on(Event::Seen(seen.clone()), now);
        }
        let is_drained = seen.nodes[chosen].drained;
        let mut actions = Actions::default();
        for (job, fact) in [
            (Job::Approve { old: OLD, candidate: None }, Fact::Done),
            (Job::Sever { node: OLD }, Fact::Done),
            (Job::Agree { node: OLD }, Fact::Done),
            (Job::Seal { node: NodeId(1) }, Fact::Sealed(logs[1])),
            (Job::Seal { node: NodeId(2) }, Fact::Sealed(logs[2])),
            (Job::Fence { node: OLD }, Fact::Fenced(Proof::Proven)),
        ] {
            actions = machine.on(Event::Ended { job, outcome: Ok(fact) }, now);
        }
        let node = NodeId(u16::try_from(chosen).unwrap());
        assert!(actions.jobs.contains(&Job::Promote { node }), "{seen:?} {actions:?}");
        let told = actions.notes.iter().any(|note| note.text.contains("is drained, and promoted all the same"));
        assert_eq!(told, is_drained, "{actions:?}");
    }
}

/// Who allows a loss does not ask for one.
#[test]
fn no_more_is_lost_than_has_to_be_for_the_sake_of_a_drained_replica() {
    let now = Instant::now();
    let order = Order::Failover { to: None, waived: Guards::DATA_LOSS, run: Run::Dry };
    for (missing, expected) in [
        (40, "pg2 would be promoted with the log up to 0/64, though it is drained"),
        (0, "pg3 would be promoted with the log up to 0/64"),
    ] {
        let mut machine = machine(record(None), now);
        let lost = with_log(drained(Contact::Refused, &[1]), 2, 100 - missing);
        assert_eq!(plan(&mut machine, lost.clone(), order, now), expected);
        let unheard = World { written: None, ..lost };
        assert_eq!(plan(&mut machine, unheard, order, now), expected);
    }
}
