//! Servers that are not what they seem to be.

use std::time::{Duration, Instant};

use super::super::*;
use super::{machine, record, world};
use crate::decide::position::{Lsn, Timeline};
use crate::decide::route::{NodeId, Role};

/// Somebody else's promotion.
fn stray(timeline: u32, marked: u64) -> World {
    let mut world = world(Contact::Refused);
    let node = &mut world.nodes[1];
    (node.role, node.marked) = (Role::Stray, marked);
    node.log = node.log.map(|log| Log { timeline: Timeline(timeline), ..log });
    world
}

#[test]
fn a_node_that_has_left_before_the_last_epoch_takes_nobodys_place() {
    let now = Instant::now();
    let mut machine = machine(record(None), now);
    let mut marked = world(Contact::Up);
    marked.nodes[0].marked = 5;
    let noted = machine.on(Event::Seen(marked), now).record;
    assert!(matches!(noted, Some(Writing::Also(record)) if record.marked == 5));
    let left = machine.on(Event::Seen(stray(9, 4)), now);
    assert!(left.jobs.is_empty() && machine.status().state == "suspect", "{left:?}");
    let adopted = machine.on(Event::Seen(stray(9, 5)), now);
    assert_eq!(adopted.jobs, [Job::Sever { node: NodeId(0) }, Job::Agree { node: NodeId(0) }]);
}

#[test]
fn a_standby_that_nobody_can_ask_may_have_what_no_node_has() {
    for (rule, strangers, state) in [
        ("ANY 1 (*)", 0, "approving"),
        ("ANY 1 (*)", 1, "suspect"),
        ("ANY 2 (*)", 1, "approving"),
        ("ANY 2 (*)", 2, "suspect"),
    ] {
        let now = Instant::now();
        let mut seen = world(Contact::Up);
        (seen.synchronous, seen.strangers) = (Some(rule.to_owned()), Some(strangers));
        let mut machine = machine(record(None), now);
        machine.on(Event::Seen(seen), now);
        // The next pgpilot knows of them, too.
        let record = machine.record().clone();
        let mut next = Machine::new(super::rules(), WallClock { unix: super::UNIX, at: now });
        next.on(Event::Restored(record), now);
        let mut unheard = world(Contact::Refused);
        (unheard.synchronous, unheard.strangers) = (None, None);
        let (mut later, end) = (now, now + Duration::from_secs(5));
        while later < end && next.status().state != "approving" {
            later += Duration::from_millis(100);
            next.on(Event::Seen(unheard.clone()), later);
        }
        assert_eq!(next.status().state, state, "{rule} {strangers}: {:?}", next.status());
    }
}

/// The state file was taken over from somewhere else, or the nodes were made anew.
#[test]
fn a_record_of_another_cluster_is_not_gone_on_with() {
    let promoting = Progress::Promoting { candidate: super::name(1), decided: Lsn(100) };
    for progress in [Progress::Steady, Progress::Preparing, promoting] {
        let now = Instant::now();
        let left = Record { system: Some(8), progress, ..record(None) };
        let mut machine = Machine::new(super::rules(), WallClock { unix: super::UNIX, at: now });
        machine.on(Event::Restored(left.clone()), now);
        // Nobody has answered.
        let unheard = World { systems: [].into(), ..world(Contact::Unknown) };
        assert!(machine.on(Event::Seen(unheard), now).jobs.is_empty());
        let refused = machine.on(Event::Seen(world(Contact::Up)), now);
        assert!(refused.jobs.is_empty() && refused.record.is_none(), "{refused:?}");
        assert_eq!(refused.routing, Some(Routing::Hold));
        assert!(refused.notes[0].text.contains("is about system 8, and the nodes are of system 7"), "{refused:?}");
        let later = machine.on(Event::Seen(world(Contact::Refused)), now + Duration::from_secs(60));
        assert!(later.jobs.is_empty() && later.notes.is_empty() && later.record.is_none(), "{later:?}");
        for order in [Order::Maintenance(Maintenance::On), Order::Switchover { to: None, run: Run::Real }] {
            let answer = machine.on(Event::Ordered { order, ticket: 1 }, now).answers.remove(0).1;
            assert!(answer.is_err_and(|why| why.starts_with("the record is of another cluster")));
        }
        // Only a guest had answered.
        let own = World { system: Some(8), systems: [7, 8].into(), ..world(Contact::Up) };
        machine.on(Event::Seen(own), now);
        assert_ne!(machine.status().state, "estranged");
    }
}

#[test]
fn what_another_cluster_has_decided_is_not_followed() {
    let now = Instant::now();
    let mut machine = machine(record(None), now);
    let elsewhere = Record { system: Some(8), ..record(None) };
    let refused = machine.on(Event::Followed(elsewhere), now);
    assert_eq!(refused.routing, Some(Routing::Hold));
    assert!(refused.notes[0].text.contains("another cluster"), "{refused:?}");
    assert!(machine.on(Event::Seen(world(Contact::Up)), now).notes.is_empty(), "it is told once");
    let obeyed = machine.on(Event::Followed(record(None)), now).routing;
    assert!(matches!(obeyed, Some(Routing::Follow { node: NodeId(0), .. })), "{obeyed:?}");
}
