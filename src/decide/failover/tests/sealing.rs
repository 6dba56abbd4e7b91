//! When replicas are cut off from the old primary.

use std::time::{Duration, Instant};

use super::super::*;
use super::{machine, record, rules, world};
use crate::decide::position::{Lsn, Timeline};
use crate::decide::route::NodeId;

const OLD: NodeId = NodeId(0);
const REPLICAS: [NodeId; 2] = [NodeId(1), NodeId(2)];

fn ended(machine: &mut Machine, job: Job, fact: Fact, now: Instant) -> Actions {
    machine.on(Event::Ended { job, outcome: Ok(fact) }, now)
}

fn sealed() -> Fact {
    Fact::Sealed(Log { timeline: Timeline(1), end: Lsn(100), replayed: Lsn(100), tail: Tail::There })
}

/// A failover that nothing forbids; returns what is to be done first.
fn begun(rules: Rules, now: &mut Instant) -> (Machine, Actions) {
    let mut machine = machine(record(None), *now);
    machine.set_rules(rules);
    while machine.status().state != "approving" {
        *now += Duration::from_millis(100);
        machine.on(Event::Seen(world(Contact::Refused)), *now);
    }
    let actions = ended(&mut machine, Job::Approve { old: OLD, candidate: None }, Fact::Done, *now);
    for job in [Job::Sever { node: OLD }, Job::Agree { node: OLD }] {
        ended(&mut machine, job, Fact::Done, *now);
    }
    (machine, actions)
}

#[test]
fn replicas_of_a_lost_primary_are_sealed_while_it_is_fenced() {
    let mut now = Instant::now();
    let (mut machine, begun) = begun(rules(), &mut now);
    assert!(REPLICAS.iter().all(|&node| begun.jobs.contains(&Job::Seal { node })), "{begun:?}");
    for node in REPLICAS {
        let waits = ended(&mut machine, Job::Seal { node }, sealed(), now);
        assert!(waits.jobs.is_empty() && waits.record.is_none(), "nobody is promoted before the fence: {waits:?}");
    }
    let fenced = ended(&mut machine, Job::Fence { node: OLD }, Fact::Fenced(Proof::Proven), now);
    assert!(fenced.jobs.contains(&Job::Promote { node: REPLICAS[0] }), "{fenced:?}");
}

#[test]
fn a_fence_is_not_waited_for_longer_than_for_the_replicas() {
    let mut now = Instant::now();
    let (mut machine, _) = begun(rules(), &mut now);
    ended(&mut machine, Job::Seal { node: REPLICAS[1] }, sealed(), now);
    let fenced = ended(&mut machine, Job::Fence { node: OLD }, Fact::Fenced(Proof::Proven), now);
    assert_eq!((machine.status().state, &fenced.jobs[..]), ("sealing", &[][..]));
    let done = ended(&mut machine, Job::Seal { node: REPLICAS[0] }, sealed(), now);
    assert!(done.jobs.contains(&Job::Promote { node: REPLICAS[0] }), "{done:?}");
}

#[test]
fn what_was_sealed_for_a_fence_that_fails_is_undone() {
    let mut now = Instant::now();
    let (mut machine, _) = begun(Rules { require_fence: true, ..rules() }, &mut now);
    ended(&mut machine, Job::Seal { node: REPLICAS[0] }, sealed(), now);
    let undone = ended(&mut machine, Job::Fence { node: OLD }, Fact::Fenced(Proof::Attempted), now);
    let jobs = [Job::Unseal { node: REPLICAS[1] }, Job::Unseal { node: REPLICAS[0] }, Job::Resume { node: OLD }];
    assert_eq!((machine.status().state, &undone.jobs[..]), ("undoing", &jobs[..]));
}

#[test]
fn a_primary_that_is_heard_goes_on_filling_its_replicas_until_it_is_fenced() {
    let now = Instant::now();
    let mut machine = machine(record(None), now);
    let order = Order::Failover { to: None, waived: Guards::LIVE_PRIMARY, run: Run::Real };
    machine.on(Event::Ordered { order, ticket: 1 }, now);
    let begun = ended(&mut machine, Job::Approve { old: OLD, candidate: None }, Fact::Done, now);
    assert!(!begun.jobs.iter().any(|job| matches!(job, Job::Seal { .. })), "{begun:?}");
    for job in [Job::Sever { node: OLD }, Job::Agree { node: OLD }] {
        ended(&mut machine, job, Fact::Done, now);
    }
    let fenced = ended(&mut machine, Job::Fence { node: OLD }, Fact::Fenced(Proof::Attempted), now);
    assert_eq!(fenced.jobs, REPLICAS.map(|node| Job::Seal { node }));
}

#[test]
fn a_promotion_that_could_not_be_written_down_is_not_left_to_the_next_pgpilot() {
    let mut now = Instant::now();
    let (mut machine, _) = begun(rules(), &mut now);
    for node in REPLICAS {
        ended(&mut machine, Job::Seal { node }, sealed(), now);
    }
    let chosen = ended(&mut machine, Job::Fence { node: OLD }, Fact::Fenced(Proof::Proven), now);
    let failed = machine.on(Event::NotRecorded(chosen.record.unwrap(), "disk full".to_owned()), now);
    assert!(failed.jobs.contains(&Job::Resume { node: OLD }), "{failed:?}");
    for node in REPLICAS {
        ended(&mut machine, Job::Unseal { node }, Fact::Done, now);
    }
    let outcome = Err("no connection".to_owned());
    let undone = machine.on(Event::Ended { job: Job::Resume { node: OLD }, outcome }, now);
    assert!(matches!(undone.record, Some(Writing::Also(record)) if record.progress == Progress::Preparing));
    assert_eq!(undone.routing, Some(Routing::Release));
}
