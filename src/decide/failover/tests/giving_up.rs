//! A candidate that dies while it is promoted, and whose fence nobody can prove.

use std::time::{Duration, Instant};

use super::super::*;
use super::{machine, name, record, rules, world};
use crate::config::NodeName;
use crate::decide::position::{Lsn, Timeline};
use crate::decide::route::{NodeId, Role};

const OLD: NodeId = NodeId(0);
const STUCK: NodeId = NodeId(1);
const OTHER: NodeId = NodeId(2);

fn log(timeline: u32) -> Log {
    Log { timeline: Timeline(timeline), end: Lsn(100), replayed: Lsn(100), tail: Tail::There }
}

/// pg1 is lost, and pg2, which was to be promoted, too.
fn both_lost() -> World {
    let mut world = world(Contact::Refused);
    world.nodes[1].contact = Contact::Refused;
    world
}

fn ended(machine: &mut Machine, job: Job, fact: Fact, now: Instant) -> Actions {
    machine.on(Event::Ended { job, outcome: Ok(fact) }, now)
}

/// A machine that has asked for pg2's promotion, just when pg2 dies.
fn stuck() -> (Machine, Instant) {
    let mut now = Instant::now();
    let mut machine = machine(record(None), now);
    while machine.status().state != "approving" {
        now += Duration::from_millis(100);
        machine.on(Event::Seen(world(Contact::Refused)), now);
    }
    for (job, fact) in [
        (Job::Approve { old: OLD, candidate: None }, Fact::Done),
        (Job::Sever { node: OLD }, Fact::Done),
        (Job::Agree { node: OLD }, Fact::Done),
        (Job::Fence { node: OLD }, Fact::Fenced(Proof::Attempted)),
        (Job::Seal { node: STUCK }, Fact::Sealed(log(1))),
        (Job::Seal { node: OTHER }, Fact::Sealed(log(1))),
    ] {
        ended(&mut machine, job, fact, now);
    }
    assert_eq!((machine.status().state, machine.status().candidate), ("promoting", Some(STUCK)));
    machine.on(Event::Seen(both_lost()), now);
    (machine, now)
}

/// A machine that goes on with pg2's promotion, which was begun before it was started.
fn left_by_another(seen: World) -> (Machine, Instant) {
    let now = Instant::now();
    let progress = Progress::Promoting { candidate: name(1), decided: Lsn(100) };
    let mut machine = Machine::new(rules(), WallClock { unix: 0, at: now });
    machine.on(Event::Restored(Record { progress, ..record(None) }), now);
    machine.on(Event::Seen(seen), now);
    (machine, now)
}

fn force(machine: &mut Machine, waived: Guards, run: Run, now: Instant) -> Actions {
    machine.on(Event::Ordered { order: Order::Failover { to: None, waived, run }, ticket: 9 }, now)
}

fn answer(actions: &Actions) -> &Result<String, String> {
    &actions.answers.iter().find(|(ticket, _)| *ticket == 9).unwrap().1
}

fn promoted(timeline: u32) -> Fact {
    Fact::Promoted { system: 7, timeline: Timeline(timeline), switched_at: Lsn(100) }
}

#[test]
fn an_order_that_waives_the_fence_has_another_promoted() {
    let (mut machine, now) = stuck();
    for waived in [Guards::empty(), Guards::all() - Guards::FENCE] {
        let refused = force(&mut machine, waived, Run::Real, now);
        assert!(answer(&refused).as_ref().is_err_and(|why| why.contains("allow-unfenced gives pg2 up")), "{refused:?}");
    }
    let plan = force(&mut machine, Guards::FENCE, Run::Dry, now);
    assert!(answer(&plan).as_ref().is_ok_and(|plan| plan.contains("pg3 promoted")), "{plan:?}");
    assert!(plan.jobs.is_empty() && plan.record.is_none());

    let begun = force(&mut machine, Guards::FENCE, Run::Real, now);
    let Some(Writing::First(written)) = begun.record else { panic!("{begun:?}") };
    assert_eq!((written.progress, written.epoch), (Progress::Preparing, 5));
    assert!(written.abandoned.contains_key(&name(1)));
    assert_eq!(begun.jobs, [Job::Fence { node: STUCK }, Job::Seal { node: OTHER }]);
    let chosen = ended(&mut machine, Job::Seal { node: OTHER }, Fact::Sealed(log(1)), now);
    assert!(chosen.jobs.contains(&Job::Promote { node: OTHER }), "{chosen:?}");
    // The first one's promotion ends after all: that is not what is waited for.
    let late = ended(&mut machine, Job::Promote { node: STUCK }, promoted(2), now);
    assert_eq!((late.routing, machine.status().candidate), (None, Some(OTHER)));
    let done = ended(&mut machine, Job::Promote { node: OTHER }, promoted(2), now);
    assert!(matches!(done.routing, Some(Routing::Appoint { node: OTHER, epoch: 5, .. })), "{done:?}");
    assert!(answer(&done).is_ok());
}

#[test]
fn who_was_given_up_is_brought_back_also_by_the_next_pgpilot_and_is_no_successor() {
    let now = Instant::now();
    let abandoned = [(name(1), Timeline(1))].into();
    let left = Record { primary: Some(name(2)), timeline: Timeline(2), abandoned, ..record(None) };
    let mut seen = world(Contact::Up);
    (seen.primary, seen.timeline) = (Some(OTHER), Timeline(2));
    (seen.nodes[2].role, seen.nodes[2].log) = (Role::Primary, Some(log(2)));
    (seen.nodes[1].role, seen.nodes[1].log) = (Role::Stray, Some(log(3)));
    seen.nodes[0].contact = Contact::Refused;
    let mut machine = Machine::new(Rules { automatic: false, ..rules() }, WallClock { unix: 0, at: now });
    machine.on(Event::Restored(left), now);
    let mut gone = seen.clone();
    gone.nodes[2].contact = Contact::Refused;
    machine.on(Event::Seen(gone.clone()), now);
    let without = machine.on(Event::Seen(gone), now + Duration::from_secs(9));
    assert!(without.jobs.is_empty() && machine.status().state == "suspect", "{without:?}");
    let back = machine.on(Event::Seen(seen.clone()), now + Duration::from_secs(10));
    assert_eq!(back.jobs, [Job::Rejoin { node: STUCK, primary: OTHER }]);
    let order = Order::Switchover { to: Some(STUCK), run: Run::Dry };
    let refused = machine.on(Event::Ordered { order, ticket: 9 }, now + Duration::from_secs(10));
    assert!(answer(&refused).as_ref().is_err_and(|why| why.contains("given up")), "{refused:?}");
    // A replica, but not of the new primary yet.
    (seen.nodes[1].role, seen.nodes[1].log) = (Role::Replica, Some(log(1)));
    machine.on(Event::Seen(seen.clone()), now + Duration::from_secs(11));
    assert!(machine.record().abandoned.contains_key(&name(1)));
    seen.nodes[1].log = Some(log(2));
    let whole = machine.on(Event::Seen(seen), now + Duration::from_secs(12));
    assert!(matches!(whole.record, Some(Writing::Also(record)) if record.abandoned.is_empty()));
}

/// To rejoin means to be stopped first, and it is the last one that is left.
#[test]
fn a_replica_that_does_not_follow_a_candidate_which_died_is_not_made_to_rejoin() {
    let (mut machine, mut now) = stuck();
    let follow = Job::Follow { node: OTHER, primary: STUCK };
    for _ in 0..20 {
        let outcome = Err("connecting to pg2: refused".to_owned());
        machine.on(Event::Ended { job: follow, outcome }, now);
        now += Duration::from_secs(2);
        let again = machine.on(Event::Seen(both_lost()), now);
        assert!(again.jobs.contains(&follow), "{again:?}");
        assert!(!again.jobs.iter().any(|job| matches!(job, Job::Rejoin { .. })), "{again:?}");
    }
}

#[test]
fn a_replica_that_had_followed_it_to_its_timeline_can_replace_it() {
    let (mut machine, now) = stuck();
    let mut followed = both_lost();
    followed.nodes[2].log = Some(log(2));
    machine.on(Event::Seen(followed), now);
    let begun = force(&mut machine, Guards::FENCE, Run::Real, now);
    assert!(begun.jobs.contains(&Job::Seal { node: OTHER }), "{begun:?}");
    let chosen = ended(&mut machine, Job::Seal { node: OTHER }, Fact::Sealed(log(2)), now);
    assert!(chosen.jobs.contains(&Job::Promote { node: OTHER }), "{chosen:?}");
    ended(&mut machine, Job::Promote { node: OTHER }, promoted(3), now);
    assert_eq!((machine.record().primary.clone(), machine.record().timeline), (Some(name(2)), Timeline(3)));
}

#[test]
fn it_remains_the_candidate_when_that_cannot_be_written_down() {
    let (mut machine, now) = stuck();
    let begun = force(&mut machine, Guards::FENCE, Run::Real, now);
    let failed = machine.on(Event::NotRecorded(begun.record.unwrap(), "disk full".to_owned()), now);
    assert!(answer(&failed).as_ref().is_err_and(|why| why.contains("disk full")), "{failed:?}");
    assert_eq!((machine.status().state, machine.status().candidate), ("promoting", Some(STUCK)));
    assert!(matches!(machine.record().progress, Progress::Promoting { .. }) && machine.record().abandoned.is_empty());
    let again = machine.on(Event::Seen(both_lost()), now + Duration::from_secs(1));
    assert_eq!(again.jobs, [Job::Promote { node: STUCK }]);
}

#[test]
fn the_old_primary_stays_if_it_answers_and_nobody_else_can_be_promoted() {
    let (mut machine, now) = stuck();
    let mut back = both_lost();
    (back.nodes[0].contact, back.nodes[2].contact) = (Contact::Up, Contact::Refused);
    machine.on(Event::Seen(back.clone()), now);
    let begun = force(&mut machine, Guards::FENCE, Run::Real, now);
    assert!(matches!(begun.record, Some(Writing::First(_))) && begun.routing.is_none(), "{begun:?}");
    let undone = machine.on(Event::Seen(back), now);
    assert_eq!(undone.jobs, [Job::Resume { node: OLD }]);
    let released = ended(&mut machine, Job::Resume { node: OLD }, Fact::Done, now);
    assert_eq!(released.routing, Some(Routing::Release));
    assert!(answer(&released).as_ref().is_err_and(|why| why.contains("answers again")), "{released:?}");
    assert!(machine.record().abandoned.contains_key(&name(1)));
}

/// Whoever began it may have seen the candidate promoted, and died before that was written down.
#[test]
fn a_promotion_of_an_earlier_pgpilot_is_given_up_only_by_who_accepts_a_loss() {
    let (mut machine, now) = left_by_another(both_lost());
    let later = now + rules().start_timeout;
    let outcome = Err("no connection".to_owned());
    let failed = machine.on(Event::Ended { job: Job::Promote { node: STUCK }, outcome }, later);
    // Nobody can take its place yet, so it must be able to come back.
    assert!(failed.jobs.is_empty() && failed.record.is_none(), "{failed:?}");
    assert_eq!(machine.status().state, "promoting");
    assert!(answer(&force(&mut machine, Guards::FENCE, Run::Real, later)).is_err());
    let begun = force(&mut machine, Guards::FENCE | Guards::DATA_LOSS, Run::Real, later);
    assert!(begun.jobs.contains(&Job::Seal { node: OTHER }), "{begun:?}");
}

/// It had got everything before it was to be promoted; nobody has seen to that with the others.
#[test]
fn what_a_switchover_waives_for_its_candidate_is_not_waived_for_another() {
    let now = Instant::now();
    let mut machine = machine(record(None), now);
    let order = Order::Switchover { to: Some(STUCK), run: Run::Real };
    machine.on(Event::Ordered { order, ticket: 9 }, now);
    for (job, fact) in [
        (Job::Approve { old: OLD, candidate: Some(STUCK) }, Fact::Done),
        (Job::Ready { node: OLD, to: STUCK, sender: None }, Fact::Done),
        (Job::Quiesce { node: OLD }, Fact::Done),
        (Job::Agree { node: OLD }, Fact::Done),
        (Job::Stop { node: OLD, to: STUCK }, Fact::Stopped(Some(Lsn(100)))),
        (Job::CatchUp { node: STUCK, lsn: Some(Lsn(100)) }, Fact::Sealed(log(1))),
    ] {
        ended(&mut machine, job, fact, now);
    }
    let later = now + rules().start_timeout;
    let outcome = Err("no connection".to_owned());
    machine.on(Event::Ended { job: Job::Promote { node: STUCK }, outcome }, later);
    let sealing = ended(&mut machine, Job::Fence { node: STUCK }, Fact::Fenced(Proof::Proven), later);
    assert!(sealing.jobs.contains(&Job::Seal { node: OTHER }), "{sealing:?}");
    let behind = Log { end: Lsn(57), replayed: Lsn(57), ..log(1) };
    let undone = ended(&mut machine, Job::Seal { node: OTHER }, Fact::Sealed(behind), later);
    assert!(undone.jobs.contains(&Job::Resume { node: OLD }) && machine.status().state == "undoing", "{undone:?}");
}

/// It takes writes of whoever reaches it, and will never be what was decided upon.
#[test]
fn a_candidate_that_takes_writes_and_is_not_what_it_should_be_is_fenced_at_once() {
    for resumed in [false, true] {
        let (mut machine, now) = if resumed { left_by_another(both_lost()) } else { stuck() };
        let wrong = ended(&mut machine, Job::Promote { node: STUCK }, promoted(1), now);
        assert_eq!(wrong.jobs, [Job::Fence { node: STUCK }], "resumed: {resumed}");
        // Nobody takes its place as long as nobody knows what it has.
        let fenced = ended(&mut machine, Job::Fence { node: STUCK }, Fact::Fenced(Proof::Attempted), now);
        assert!(fenced.jobs.is_empty() && fenced.routing.is_none(), "{fenced:?}");
        assert_eq!((machine.status().state, machine.status().candidate), ("promoting", Some(STUCK)));
        let again = machine.on(Event::Seen(both_lost()), now + Duration::from_secs(1));
        assert_eq!(again.jobs, [Job::Promote { node: STUCK }]);
        let soon = ended(&mut machine, Job::Promote { node: STUCK }, promoted(1), now + Duration::from_secs(1));
        assert!(soon.jobs.is_empty(), "it is not fenced at every look: {soon:?}");
    }
}

/// The probes have found it promoted before the record was read.
#[test]
fn a_promotion_that_an_earlier_pgpilot_has_seen_through_is_no_wrong_one() {
    let mut seen = both_lost();
    (seen.timeline, seen.nodes[1].contact) = (Timeline(2), Contact::Up);
    let (mut machine, now) = left_by_another(seen);
    let done = ended(&mut machine, Job::Promote { node: STUCK }, promoted(2), now);
    assert!(matches!(done.routing, Some(Routing::Appoint { node: STUCK, epoch: 3, .. })), "{done:?}");
}

/// Put back later, it would have been promoted beside the primary.
#[test]
fn a_candidate_that_was_removed_from_the_topology_file_is_not_promoted_when_it_is_put_back() {
    let now = Instant::now();
    for removed in [OLD, STUCK] {
        let mut without = world(Contact::Up);
        without.nodes[usize::from(removed.0)].name = NodeName::new("pg9").unwrap();
        let (machine, _) = left_by_another(without);
        let left = machine.record().clone();
        assert_eq!((&left.progress, left.epoch, machine.status().state), (&Progress::Steady, 4, "steady"));
        let mut next = Machine::new(rules(), WallClock { unix: 0, at: now });
        next.on(Event::Restored(left), now);
        for second in 0..5 {
            let seen = next.on(Event::Seen(world(Contact::Up)), now + Duration::from_secs(second));
            assert!(!seen.jobs.iter().any(|job| matches!(job, Job::Promote { .. })), "{seen:?}");
        }
        // Nothing is left of it once it follows the primary.
        assert!(next.record().abandoned.is_empty());
    }
}

#[test]
fn what_was_dropped_is_written_down_at_once() {
    let now = Instant::now();
    let progress = Progress::Promoting { candidate: NodeName::new("pg9").unwrap(), decided: Lsn(100) };
    let mut machine = Machine::new(rules(), WallClock { unix: 0, at: now });
    machine.on(Event::Restored(Record { progress, ..record(None) }), now);
    let dropped = machine.on(Event::Seen(world(Contact::Up)), now);
    let Some(Writing::Also(written)) = dropped.record else { panic!("{dropped:?}") };
    assert!(written.abandoned.contains_key(&NodeName::new("pg9").unwrap()));
    assert_eq!((written.progress, dropped.routing), (Progress::Steady, Some(Routing::Release)));
}
