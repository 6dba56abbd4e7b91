//! Single decisions, which the simulation does not tell apart.

use std::time::{Duration, Instant};

use super::*;
use crate::config::NodeName;
use crate::decide::position::{Fork, Lsn, Timeline};
use crate::decide::route::{NodeId, Role};

mod drained;
mod giving_up;
mod maintained;
mod outsiders;
mod rejoining;
mod renaming;
mod sealing;

const UNIX: u64 = 1_800_000_000;

fn rules() -> Rules {
    Rules {
        automatic: true,
        detect_after: Duration::from_secs(2),
        refused_after: Duration::from_millis(500),
        start_timeout: Duration::from_secs(60),
        min_interval: Duration::from_secs(60),
        switchover_timeout: Duration::from_secs(5),
        max_data_loss: 0,
        require_fence: false,
    }
}

fn name(node: u16) -> NodeName {
    NodeName::new(&format!("pg{}", node + 1)).unwrap()
}

/// pg1 is the primary, pg2 and pg3 have all of its log.
pub(super) fn world(contact: Contact) -> World {
    let lost = contact != Contact::Up;
    let member = |node: u16| Member {
        id: NodeId(node),
        name: name(node),
        zone: Zone::Own,
        priority: 100,
        contact: if node == 0 { contact } else { Contact::Up },
        role: if node == 0 { Role::Primary } else { Role::Replica },
        log: Some(Log { timeline: Timeline(1), end: Lsn(100), replayed: Lsn(100), tail: Tail::There }),
        hearing: if node == 0 || lost { Hearing::Nothing } else { Hearing::Primary },
        history: History::Common,
        applies: Applies::AtOnce,
        standby_name: name(node).to_string(),
        marked: 0,
        drained: false,
    };
    World {
        primary: Some(NodeId(0)),
        timeline: Timeline(1),
        system: Some(7),
        systems: [7].into(),
        nodes: (0..3).map(member).collect(),
        written: Some(Lsn(100)),
        synchronous: Some(String::new()),
        strangers: Some(0),
    }
}

fn record(changed_at: Option<u64>) -> Record {
    let (primary, timeline) = (Some(name(0)), Timeline(1));
    Record { epoch: 3, system: Some(7), primary, timeline, changed_at, ..Record::default() }
}

/// A machine that has been started with this record, and knows the world.
fn machine(record: Record, now: Instant) -> Machine {
    let mut machine = Machine::new(rules(), WallClock { unix: UNIX, at: now });
    machine.on(Event::Restored(record), now);
    machine.on(Event::Seen(world(Contact::Up)), now);
    machine
}

/// Lets the primary be gone for so long, and returns what came of it and how that was counted.
fn after_loss(machine: &mut Machine, mut now: Instant, length: Duration) -> (&'static str, Vec<Ended>) {
    let (end, mut counted) = (now + length, Vec::new());
    while now < end && matches!(machine.status().state, "steady" | "suspect") {
        now += Duration::from_millis(100);
        let actions = machine.on(Event::Seen(world(Contact::Refused)), now);
        counted.extend(actions.ended.map(|(_, ended)| ended));
    }
    (machine.status().state, counted)
}

#[test]
fn the_interval_between_failovers_outlives_a_restart() {
    let now = Instant::now();
    let lost_for = Duration::from_secs(5);
    for (changed_at, state) in [
        (None, "approving"),
        (Some(UNIX - 10), "suspect"),
        (Some(UNIX - 56), "approving"),
        (Some(UNIX - 3600), "approving"),
        // The clock was set back since: nobody knows how long ago it was.
        (Some(UNIX + 3600), "suspect"),
    ] {
        let mut machine = machine(record(changed_at), now);
        assert_eq!(after_loss(&mut machine, now, lost_for).0, state, "{changed_at:?}");
    }
}

#[test]
fn a_refusal_is_counted_once_if_it_lasts() {
    let now = Instant::now();
    let mut machine = machine(record(Some(UNIX)), now);
    assert_eq!(after_loss(&mut machine, now, Duration::from_secs(10)), ("suspect", vec![Ended::Refused]));
    let back = machine.on(Event::Seen(world(Contact::Up)), now + Duration::from_secs(11));
    assert_eq!(back.ended, None);
    // One that the primary's return has ended counts as well.
    let later = now + Duration::from_secs(12);
    assert_eq!(after_loss(&mut machine, later, Duration::from_secs(1)), ("suspect", vec![]));
    let back = machine.on(Event::Seen(world(Contact::Up)), now + Duration::from_secs(14));
    assert_eq!(back.ended, Some((Purpose::Failover, Ended::Refused)));
}

#[test]
fn an_order_that_is_refused_is_counted_and_a_rehearsal_is_not() {
    let now = Instant::now();
    let mut machine = machine(record(None), now);
    let mut ended = |run| {
        let order = Order::Failover { to: None, waived: Guards::empty(), run };
        machine.on(Event::Ordered { order, ticket: 1 }, now).ended
    };
    assert_eq!(ended(Run::Real), Some((Purpose::Failover, Ended::Refused)));
    assert_eq!(ended(Run::Dry), None);
}

#[test]
fn a_change_is_written_down_with_its_time_and_its_fork() {
    let now = Instant::now();
    let mut machine = machine(record(None), now);
    let order = Order::Switchover { to: Some(NodeId(1)), run: Run::Real };
    let later = now + Duration::from_secs(30);
    machine.on(Event::Ordered { order, ticket: 1 }, later);
    assert_eq!(machine.deadline(), Some(later + rules().switchover_timeout));
    let (node, log) = (NodeId(0), Log { timeline: Timeline(1), end: Lsn(120), replayed: Lsn(120), tail: Tail::There });
    let promoted = Fact::Promoted { system: 7, timeline: Timeline(2), switched_at: Lsn(120) };
    for (job, fact) in [
        (Job::Approve { old: node, candidate: Some(NodeId(1)) }, Fact::Done),
        (Job::Ready { node, to: NodeId(1), sender: None }, Fact::Done),
        (Job::Quiesce { node }, Fact::Done),
        (Job::Agree { node }, Fact::Done),
        (Job::Stop { node, to: NodeId(1) }, Fact::Stopped(Some(Lsn(120)))),
        (Job::CatchUp { node: NodeId(1), lsn: Some(Lsn(120)) }, Fact::Sealed(log)),
        (Job::Promote { node: NodeId(1) }, promoted),
    ] {
        machine.on(Event::Ended { job, outcome: Ok(fact) }, later);
    }
    let record = machine.record();
    assert_eq!((record.primary.clone(), record.changed_at), (Some(name(1)), Some(UNIX + 30)));
    assert_eq!(record.forks, [Fork { timeline: Timeline(2), at: Lsn(120) }]);
}

#[test]
fn a_replica_with_a_history_of_its_own_is_no_candidate_and_has_to_be_brought_back() {
    let now = Instant::now();
    let mut machine = machine(record(None), now);
    let mut split = world(Contact::Up);
    (split.nodes[1].history, split.nodes[1].hearing) = (History::OfItsOwn, Hearing::Nothing);
    let noted = machine.on(Event::Seen(split.clone()), now);
    assert!(noted.notes.iter().any(|note| note.text.contains("quarantined")), "{noted:?}");
    let order = Order::Switchover { to: Some(NodeId(1)), run: Run::Dry };
    let refused = machine.on(Event::Ordered { order, ticket: 1 }, now).answers;
    assert!(refused[0].1.as_ref().is_err_and(|why| why.contains("another history")), "{refused:?}");
    let later = now + Duration::from_secs(4);
    let jobs = machine.on(Event::Seen(split), later).jobs;
    assert_eq!(jobs, [Job::Rejoin { node: NodeId(1), primary: NodeId(0) }]);
}

#[test]
fn of_two_with_the_same_log_the_one_that_has_replayed_it_is_chosen() {
    let now = Instant::now();
    let mut machine = machine(record(None), now);
    let mut plan = |world: World, to: Option<u16>| {
        machine.on(Event::Seen(world), now);
        let order = Order::Switchover { to: to.map(NodeId), run: Run::Dry };
        machine.on(Event::Ordered { order, ticket: 1 }, now).answers.remove(0).1.unwrap_or_else(|why| why)
    };
    let with = |change: fn(&mut Member)| {
        let mut world = world(Contact::Up);
        change(&mut world.nodes[1]);
        world
    };
    let behind = with(|node| {
        (node.log, node.priority) =
            (Some(Log { timeline: Timeline(1), end: Lsn(100), replayed: Lsn(60), tail: Tail::There }), 200);
    });
    assert_eq!(plan(behind.clone(), None), "pg1 would hand over to pg3");
    assert_eq!(plan(behind, Some(1)), "pg1 would hand over to pg2");
    assert_eq!(plan(with(|node| node.priority = 200), None), "pg1 would hand over to pg2");
    let frozen = with(|node| node.contact = Contact::Silent);
    assert_eq!(plan(frozen, None), "pg1 would hand over to pg3; pg2 does not answer, and would not be waited for");
    let told = "; pg2 does not stream: it would be refused if that is so until its time is over";
    let deaf = with(|node| node.hearing = Hearing::Nothing);
    assert_eq!(plan(deaf, Some(1)), format!("pg1 would hand over to pg2{told}"));
    let cascading = with(|node| node.hearing = Hearing::Replica(NodeId(2)));
    let told = "; pg2 streams from pg3, and would be made to stream from pg1 first, for good";
    assert_eq!(plan(cascading, Some(1)), format!("pg1 would hand over to pg2{told}"));
    let mut far = world(Contact::Up);
    far.written = Some(Lsn(50 << 20));
    assert!(plan(far, Some(1)).contains("; pg2 is 52428700 bytes behind: it would be refused"));
    let paused = plan(with(|node| node.applies = Applies::Paused), Some(1));
    assert!(paused.starts_with("pg2 cannot take over: its replay is paused"), "{paused}");
    assert_eq!(plan(world(Contact::Up), Some(0)), "pg1 cannot be promoted: it is the primary already");
}

#[test]
fn a_replica_of_a_replica_is_made_to_stream_from_the_primary_before_anybody_waits() {
    let now = Instant::now();
    for hearing in [Hearing::Primary, Hearing::Replica(NodeId(2))] {
        let mut machine = machine(record(None), now);
        let mut seen = world(Contact::Up);
        seen.nodes[1].hearing = hearing;
        machine.on(Event::Seen(seen), now);
        let order = Order::Switchover { to: Some(NodeId(1)), run: Run::Real };
        machine.on(Event::Ordered { order, ticket: 1 }, now);
        let approved = Job::Approve { old: NodeId(0), candidate: Some(NodeId(1)) };
        let ready = machine.on(Event::Ended { job: approved, outcome: Ok(Fact::Done) }, now);
        let sender = (hearing != Hearing::Primary).then_some(NodeId(2));
        assert_eq!(ready.jobs, [Job::Ready { node: NodeId(0), to: NodeId(1), sender }]);
        assert!(ready.record.is_none() && ready.routing.is_none(), "{ready:?}");
    }
}

#[test]
fn a_switchover_whose_candidate_is_not_ready_is_called_off_before_anybody_waits() {
    let now = Instant::now();
    let mut machine = machine(record(None), now);
    let order = Order::Switchover { to: Some(NodeId(1)), run: Run::Real };
    machine.on(Event::Ordered { order, ticket: 1 }, now);
    let node = NodeId(0);
    let approved = Job::Approve { old: node, candidate: Some(NodeId(1)) };
    machine.on(Event::Ended { job: approved, outcome: Ok(Fact::Done) }, now);
    let ready = Job::Ready { node, to: NodeId(1), sender: None };
    let ended = machine.on(Event::Ended { job: ready, outcome: Err("pg2 does not keep up".to_owned()) }, now);
    assert_eq!(ended.answers, [(1, Err("pg2 does not keep up".to_owned()))]);
    assert!(ended.jobs.is_empty() && ended.routing != Some(Routing::Hold), "{ended:?}");
    assert_eq!((machine.status().state, machine.record().epoch), ("steady", 3));
}

#[test]
fn a_promotion_that_is_resumed_tells_the_other_replicas_whom_to_follow() {
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    let follow = Job::Follow { node: NodeId(2), primary: NodeId(1) };
    let promoted = Fact::Promoted { system: 7, timeline: Timeline(2), switched_at: Lsn(100) };
    let promoted = Event::Ended { job: Job::Promote { node: NodeId(1) }, outcome: Ok(promoted) };
    let mut seen = world(Contact::Refused);
    let known = seen.clone();
    // Nobody has asked it yet.
    (seen.nodes[2].contact, seen.nodes[2].role) = (Contact::Unknown, Role::Unknown);
    let mut opened = known.clone();
    (opened.primary, opened.timeline, opened.nodes[1].role) = (Some(NodeId(1)), Timeline(2), Role::Primary);
    for turns_up in ["while it is promoted", "later"] {
        let mut machine = Machine::new(Rules { automatic: false, ..rules() }, WallClock { unix: UNIX, at: now });
        let progress = Progress::Promoting { candidate: name(1), decided: Lsn(100) };
        machine.on(Event::Restored(Record { progress, ..record(None) }), now);
        let resumed = machine.on(Event::Seen(seen.clone()), now);
        assert_eq!(resumed.jobs, [Job::Promote { node: NodeId(1) }]);
        let told = if turns_up == "later" {
            machine.on(promoted.clone(), now);
            machine.on(Event::Seen(opened.clone()), later)
        } else {
            machine.on(Event::Seen(known.clone()), later)
        };
        assert_eq!(told.jobs, [follow], "{turns_up}");
    }
}

#[test]
fn nothing_can_be_ordered_before_it_is_known_what_was_decided() {
    let now = Instant::now();
    let mut machine = Machine::new(rules(), WallClock { unix: UNIX, at: now });
    machine.on(Event::Seen(world(Contact::Up)), now);
    let run = Run::Real;
    for order in [
        Order::Maintenance(Maintenance::On),
        Order::Switchover { to: None, run },
        Order::Failover { to: None, waived: Guards::all(), run },
    ] {
        let refused = machine.on(Event::Ordered { order, ticket: 1 }, now);
        let why = refused.answers[0].1.clone().unwrap_err();
        assert!(why.contains("not known yet") && refused.record.is_none(), "{refused:?}");
    }
    assert_eq!(machine.record().maintenance, Maintenance::Off);
}

/// The disk was full when the first record was to be written, or that of a successor that somebody else had promoted.
#[test]
fn an_epoch_that_was_not_written_down_is_not_used_again() {
    let now = Instant::now();
    let mut marked = world(Contact::Up);
    marked.nodes[2].marked = 8;
    for (left, seen, epoch) in
        [(Record::default(), world(Contact::Up), 2), (Record::default(), marked.clone(), 10), (record(None), marked, 9)]
    {
        let mut machine = Machine::new(rules(), WallClock { unix: UNIX, at: now });
        machine.on(Event::Restored(left), now);
        // It is lost before anything was noted.
        let mut lost = seen;
        lost.nodes[0].contact = Contact::Refused;
        lost.nodes.iter_mut().for_each(|node| node.hearing = Hearing::Nothing);
        machine.on(Event::Seen(lost.clone()), now);
        let begun = machine.on(Event::Seen(lost), now + Duration::from_secs(1)).record;
        let Some(Writing::First(begun)) = begun else { panic!("{begun:?}") };
        assert_eq!((begun.epoch, begun.primary, begun.timeline), (epoch, Some(name(0)), Timeline(1)));
    }
}

/// One of several instances reaches the primary when another does not.
#[test]
fn what_others_had_seen_of_the_log_counts() {
    let now = Instant::now();
    for (written, state) in [(100, "approving"), (150, "suspect")] {
        let mut machine = Machine::new(rules(), WallClock { unix: UNIX, at: now });
        let left = Record { written: Some(Lsn(written)), ..record(None) };
        machine.on(Event::Restored(left), now);
        machine.on(Event::Seen(world(Contact::Refused)), now);
        assert_eq!(after_loss(&mut machine, now, Duration::from_secs(5)).0, state, "{written}");
    }
}

#[test]
fn a_primary_that_promises_less_than_the_one_before_is_told_of() {
    let now = Instant::now();
    let left = Record { synchronous: "ANY 1 (pg2, pg3)".to_owned(), ..record(None) };
    for (primary, synchronous, expected) in [
        (0, "ANY 1 (pg2, pg3)", None),
        (1, "FIRST 2 (pg1, pg3)", None),
        (
            1,
            "",
            Some("wait for 0 standbys (synchronous_standby_names = ''), where they waited for 1 ('ANY 1 (pg2, pg3)')"),
        ),
        (0, "", Some("wait for 0 standbys")),
    ] {
        let mut machine = Machine::new(rules(), WallClock { unix: UNIX, at: now });
        let mut seen = world(Contact::Up);
        (seen.primary, seen.synchronous) = (Some(NodeId(primary)), Some(synchronous.to_owned()));
        seen.nodes[0].role = Role::Replica;
        seen.nodes[usize::from(primary)].role = Role::Primary;
        machine.on(Event::Restored(left.clone()), now);
        let told = machine.on(Event::Seen(seen.clone()), now);
        let again = machine.on(Event::Seen(seen), now);
        let alarms = |actions: Actions| -> Vec<String> {
            let notes = actions.notes.into_iter().filter(|note| note.text.contains("synchronous_standby_names"));
            notes.map(|note| note.text).collect()
        };
        let (told, again) = (alarms(told), alarms(again));
        assert_eq!(told.len() + again.len(), usize::from(expected.is_some()), "{told:?} {again:?}");
        assert!(expected.is_none_or(|part| told.iter().chain(&again).any(|text| text.contains(part))), "{told:?}");
    }
}
