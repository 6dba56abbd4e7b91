//! Nodes that are stopped to be brought back, when pgpilot ends.

use std::time::{Duration, Instant};

use super::super::*;
use super::{machine, record, rules, world};
use crate::decide::position::Timeline;
use crate::decide::route::{NodeId, Role};

const REJOIN: Job = Job::Rejoin { node: NodeId(2), primary: NodeId(0) };

/// What is written down when pg3, which takes writes of its own, is about to be brought back.
fn left(now: Instant) -> Record {
    let mut machine = machine(record(None), now);
    let mut stray = world(Contact::Up);
    stray.nodes[2].role = Role::Stray;
    let begun = machine.on(Event::Seen(stray), now);
    assert_eq!(begun.jobs, [REJOIN]);
    let Some(Writing::Also(left)) = begun.record else { panic!("{begun:?}") };
    left
}

/// The next pgpilot, which has never seen pg3.
fn next(left: Record, now: Instant) -> (Machine, World, Actions) {
    let mut machine = Machine::new(rules(), WallClock { unix: 0, at: now });
    machine.on(Event::Restored(left), now);
    let mut stopped = world(Contact::Up);
    let node = &mut stopped.nodes[2];
    (node.contact, node.role, node.log, node.hearing) = (Contact::Refused, Role::Unknown, None, Hearing::Unknown);
    let seen = machine.on(Event::Seen(stopped.clone()), now);
    (machine, stopped, seen)
}

#[test]
fn the_next_pgpilot_goes_on_with_what_was_stopped_to_be_brought_back() {
    let now = Instant::now();
    let (mut machine, stopped, seen) = next(left(now), now);
    assert_eq!(seen.jobs, [REJOIN]);
    assert!(seen.notes.iter().any(|note| note.text.contains("was being brought back")), "{seen:?}");
    // It is remembered until it follows, and no longer.
    machine.on(Event::Ended { job: REJOIN, outcome: Ok(Fact::Done) }, now);
    assert!(machine.on(Event::Seen(stopped), now).record.is_none());
    let whole = machine.on(Event::Seen(world(Contact::Up)), now);
    assert!(matches!(whole.record, Some(Writing::Also(record)) if record.rejoining.is_empty()));
}

/// Unlike a primary that was replaced, it is nothing that a change of primary takes.
#[test]
fn what_was_stopped_waits_until_maintenance_ends() {
    let now = Instant::now();
    let left = Record { maintenance: Maintenance::On, ..left(now) };
    let (mut machine, stopped, seen) = next(left, now);
    assert!(seen.jobs.is_empty(), "{seen:?}");
    let order = Order::Maintenance(Maintenance::Off);
    machine.on(Event::Ordered { order, ticket: 1 }, now);
    assert_eq!(machine.on(Event::Seen(stopped), now + Duration::from_secs(1)).jobs, [REJOIN]);
}

#[test]
fn a_primary_that_was_replaced_is_remembered_once() {
    let now = Instant::now();
    let replaced = Record { replaced: [super::name(2)].into(), timeline: Timeline(1), ..record(None) };
    let (machine, _, seen) = next(replaced, now);
    assert_eq!(seen.jobs, [REJOIN]);
    assert!(machine.record().rejoining.is_empty());
}
