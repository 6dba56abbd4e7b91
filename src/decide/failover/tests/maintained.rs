//! What is done in maintenance: what was ordered, and nothing else.

use std::time::{Duration, Instant};

use super::super::*;
use super::{machine, record, rules, world};
use crate::decide::position::{Lsn, Timeline};
use crate::decide::route::{NodeId, Role};

const SECOND: Duration = Duration::from_secs(1);
const OLD: NodeId = NodeId(0);
const NEW: NodeId = NodeId(1);

fn maintained(now: Instant) -> Machine {
    let mut machine = machine(record(None), now);
    set(&mut machine, Maintenance::On, now);
    machine
}

fn set(machine: &mut Machine, maintenance: Maintenance, now: Instant) -> Actions {
    machine.on(Event::Ordered { order: Order::Maintenance(maintenance), ticket: 1 }, now)
}

/// Orders a switchover, and lets these jobs end; returns what came of the last one.
fn switch(machine: &mut Machine, jobs: &[(Job, Outcome)], now: Instant) -> Actions {
    let order = Order::Switchover { to: Some(NEW), run: Run::Real };
    let mut actions = machine.on(Event::Ordered { order, ticket: 1 }, now);
    let begun = [
        (Job::Approve { old: OLD, candidate: Some(NEW) }, Ok(Fact::Done)),
        (Job::Ready { node: OLD, to: NEW, sender: None }, Ok(Fact::Done)),
        (Job::Quiesce { node: OLD }, Ok(Fact::Done)),
        (Job::Agree { node: OLD }, Ok(Fact::Done)),
    ];
    for (job, outcome) in begun.iter().chain(jobs) {
        actions = machine.on(Event::Ended { job: *job, outcome: outcome.clone() }, now);
    }
    actions
}

fn told(actions: &Actions, text: &str) -> bool {
    actions.notes.iter().any(|note| note.severity == Severity::Alarm && note.text.contains(text))
}

#[test]
fn what_an_ordered_switchover_takes_is_done_to_the_end() {
    let now = Instant::now();
    let mut machine = maintained(now);
    let log = Log { timeline: Timeline(1), end: Lsn(100), replayed: Lsn(100), tail: Tail::There };
    let promoted = Fact::Promoted { system: 7, timeline: Timeline(2), switched_at: Lsn(100) };
    let begun = switch(
        &mut machine,
        &[
            (Job::Stop { node: OLD, to: NEW }, Ok(Fact::Stopped(Some(Lsn(100))))),
            (Job::CatchUp { node: NEW, lsn: Some(Lsn(100)) }, Ok(Fact::Sealed(log))),
        ],
        now,
    );
    assert!(begun.jobs.contains(&Job::Follow { node: NodeId(2), primary: NEW }), "{begun:?}");
    let opened = machine.on(Event::Ended { job: Job::Promote { node: NEW }, outcome: Ok(promoted) }, now);
    let rejoin = Job::Rejoin { node: OLD, primary: NEW };
    assert!(opened.jobs.contains(&rejoin), "{opened:?}");
    machine.on(Event::Ended { job: rejoin, outcome: Err("not yet".to_owned()) }, now);
    let mut seen = world(Contact::Up);
    (seen.primary, seen.timeline) = (Some(NEW), Timeline(2));
    (seen.nodes[0].role, seen.nodes[1].role) = (Role::Stray, Role::Primary);
    let again = machine.on(Event::Seen(seen), now + SECOND);
    assert!(told(&again, "it is fenced and quarantined"), "{again:?}");
    assert_eq!(again.jobs, [rejoin]);
}

/// What was ordered is done to the end also by the next pgpilot.
#[test]
fn an_old_primary_is_brought_back_by_the_next_pgpilot() {
    let now = Instant::now();
    let mut before = maintained(now);
    let log = Log { timeline: Timeline(1), end: Lsn(100), replayed: Lsn(100), tail: Tail::There };
    let promoted = Fact::Promoted { system: 7, timeline: Timeline(2), switched_at: Lsn(100) };
    let done = [
        (Job::Stop { node: OLD, to: NEW }, Ok(Fact::Stopped(Some(Lsn(100))))),
        (Job::CatchUp { node: NEW, lsn: Some(Lsn(100)) }, Ok(Fact::Sealed(log))),
        (Job::Promote { node: NEW }, Ok(promoted)),
    ];
    let opened = switch(&mut before, &done, now);
    let Some(Writing::Also(left)) = opened.record else { panic!("{opened:?}") };
    let mut next = Machine::new(rules(), WallClock { unix: 0, at: now });
    next.on(Event::Restored(left), now);
    let mut seen = world(Contact::Up);
    (seen.primary, seen.timeline) = (Some(NEW), Timeline(2));
    (seen.nodes[0].role, seen.nodes[1].role) = (Role::Stray, Role::Primary);
    let rejoin = Job::Rejoin { node: OLD, primary: NEW };
    next.on(Event::Seen(seen.clone()), now);
    let again = next.on(Event::Ended { job: rejoin, outcome: Err("not yet".to_owned()) }, now);
    assert!(again.jobs.is_empty(), "{again:?}");
    assert_eq!(next.on(Event::Seen(seen.clone()), now + SECOND * 2).jobs, [rejoin]);
    (seen.nodes[0].role, seen.nodes[0].hearing) = (Role::Replica, Hearing::Primary);
    seen.nodes[0].log = Some(Log { timeline: Timeline(2), ..log });
    let whole = next.on(Event::Seen(seen), now + SECOND * 3);
    assert!(matches!(whole.record, Some(Writing::Also(record)) if record.replaced.is_empty()));
}

#[test]
fn what_is_only_found_waits_until_maintenance_ends() {
    let now = Instant::now();
    let mut machine = maintained(now);
    let mut seen = world(Contact::Up);
    (seen.nodes[1].role, seen.nodes[2].hearing) = (Role::Stray, Hearing::Nothing);
    let found = machine.on(Event::Seen(seen.clone()), now);
    assert!(told(&found, "it is not fenced") && !told(&found, "it is fenced"), "{found:?}");
    let later = machine.on(Event::Seen(seen.clone()), now + SECOND * 10);
    assert!(found.jobs.is_empty() && later.jobs.is_empty(), "{found:?} {later:?}");
    assert!(later.wake.unwrap() >= now + SECOND * 11, "there is nothing to be looked at so often");
    let ended = set(&mut machine, Maintenance::Off, now + SECOND * 10);
    assert!(matches!(ended.record, Some(Writing::First(_))) && ended.jobs.is_empty(), "{ended:?}");
    let found = machine.on(Event::Seen(seen), now + SECOND * 10);
    assert!(told(&found, "it is fenced and quarantined"), "{found:?}");
    assert_eq!(found.jobs, [Job::Rejoin { node: NEW, primary: OLD }, Job::Follow { node: NodeId(2), primary: OLD }]);
}

/// The next pgpilot would not know of it.
#[test]
fn an_order_that_cannot_be_written_down_is_refused() {
    let now = Instant::now();
    for suspected in [false, true] {
        let mut machine = machine(record(None), now);
        if suspected {
            machine.on(Event::Seen(world(Contact::Refused)), now);
        }
        let ordered = set(&mut machine, Maintenance::On, now);
        let Some(writing @ Writing::First(_)) = ordered.record else { panic!("{ordered:?}") };
        let refused = machine.on(Event::NotRecorded(writing, "disk full".to_owned()), now);
        assert!(matches!(&refused.answers[..], [(1, Err(why))] if why.contains("disk full")), "{refused:?}");
        assert_eq!(machine.record().maintenance, Maintenance::Off);
    }
}

#[test]
fn a_primary_that_was_left_read_only_or_shut_down_is_tried_again() {
    for contact in [Contact::Up, Contact::Refused] {
        let mut now = Instant::now();
        let mut machine = maintained(now);
        let resume = Job::Resume { node: OLD };
        let failed = switch(
            &mut machine,
            &[
                (Job::Stop { node: OLD, to: NEW }, Err("it took too long".to_owned())),
                (resume, Err("no connection".to_owned())),
            ],
            now,
        );
        assert_eq!(failed.ended, Some((Purpose::Switchover, Ended::Failed)));
        let (mut actions, mut tries) = (failed, 0);
        for _ in 0..100 {
            for job in actions.jobs {
                assert_eq!(job, resume);
                tries += 1;
                machine.on(Event::Ended { job, outcome: Err("no connection".to_owned()) }, now);
            }
            now += Duration::from_millis(100);
            actions = machine.on(Event::Seen(world(contact)), now);
        }
        assert!((3..8).contains(&tries), "{tries} {contact:?}");
        now += SECOND * 60;
        machine.on(Event::Seen(world(contact)), now);
        let done = machine.on(Event::Ended { job: resume, outcome: Ok(Fact::Done) }, now);
        assert!(matches!(done.record, Some(Writing::Also(record)) if record.progress == Progress::Steady));
    }
}
