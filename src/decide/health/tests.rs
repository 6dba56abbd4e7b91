mod claims;
mod ended;

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::{ByteLimits, ByteSize, LagLimits, NodeName};
use crate::decide::position::{Lsn, WalGeometry};
use crate::decide::route::{Code, Excess, Lag};

const A: NodeId = NodeId(0);
const B: NodeId = NodeId(1);
const C: NodeId = NodeId(2);

struct World {
    now: Instant,
    health: Health,
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn spec(name: &str) -> NodeSpec {
    let lag = LagLimits::by_time(ms(1000), ms(500));
    NodeSpec { name: NodeName::new(name).unwrap(), address: Arc::from(name), zone: None, weight: 1, lag }
}

fn answer(system: u64, timeline: u32, stage: Stage) -> Answer {
    Answer {
        system_identifier: system,
        server_version: 150_004,
        timeline: Timeline(timeline),
        wal: WalGeometry::STANDARD,
        stage,
        recovered: None,
        standby_name: String::new(),
        synchronous: String::new(),
        standbys: Vec::new(),
        marked: 0,
    }
}

fn writable(timeline: u32, lsn: u64) -> Answer {
    answer(1, timeline, Stage::Writable { insert: Lsn(lsn), flush: Lsn(lsn) })
}

fn replica(timeline: u32, lsn: u64) -> Answer {
    let receiver = Some(Receiver { status: "streaming".into(), silent_for: None, sender: None });
    let (replay, receive) = (Some(Lsn(lsn)), Some(Lsn(lsn)));
    answer(1, timeline, Stage::Recovering(Recovery { replay, receive, receiver, ..Recovery::default() }))
}

impl World {
    fn new(names: &[&str]) -> Self {
        let mut health = Health::new(Limits { failures: 3 });
        let now = Instant::now();
        health.on(Event::Configured(names.iter().map(|name| spec(name)).collect()), now);
        Self { now, health }
    }

    /// A is the primary on timeline 1, B and C follow.
    fn steady() -> Self {
        let mut world = Self::new(&["a", "b", "c"]);
        world.answers(A, writable(1, 1000));
        world.answers(B, replica(1, 1000));
        world.answers(C, replica(1, 1000));
        assert_eq!(world.primary(), Some(A));
        world
    }

    fn answers(&mut self, node: NodeId, answer: Answer) -> Actions {
        let asked_at = self.now;
        self.now += ms(1);
        self.health.on(Event::Answered { node, asked_at, answer: Box::new(answer) }, self.now)
    }

    fn fails(&mut self, node: NodeId, failure: Failure) -> Actions {
        self.now += ms(1);
        self.health.on(Event::Failed { node, failure }, self.now)
    }

    fn primary(&self) -> Option<NodeId> {
        self.health.snapshot().primary
    }

    fn view(&self, node: NodeId) -> NodeView {
        self.health.snapshot().node(node).unwrap().clone()
    }

    fn roles(&self) -> Vec<Role> {
        self.health.snapshot().nodes.iter().map(|node| node.role).collect()
    }
}

#[test]
fn the_primary_is_known_once_every_node_was_asked() {
    let mut world = World::new(&["a", "b", "c"]);
    world.answers(A, writable(1, 1000));
    world.answers(B, replica(1, 1000));
    (0..2).for_each(|_| drop(world.fails(C, Failure::Timeout)));
    assert_eq!(world.primary(), None);
    let actions = world.fails(C, Failure::Timeout);
    assert_eq!(world.primary(), Some(A));
    assert!(actions.changes.contains(&Change::Following { node: A, epoch: 1, timeline: Timeline(1) }), "{actions:?}");
    assert_eq!(world.roles(), [Role::Primary, Role::Replica, Role::Unknown]);
}

#[test]
fn a_promotion_is_followed_when_the_old_primary_does_not_answer() {
    for failure in [Failure::Refused, Failure::Lost, Failure::Timeout, Failure::Alive(Code(*b"57P03"))] {
        let mut world = World::steady();
        world.fails(A, failure);
        assert_eq!((world.primary(), world.view(A).state), (Some(A), State::Suspect), "{failure:?}");
        let actions = world.answers(B, writable(2, 1100));
        let snapshot = world.health.snapshot();
        assert_eq!((snapshot.primary, snapshot.epoch, snapshot.timeline), (Some(B), 2, Timeline(2)), "{failure:?}");
        assert_eq!(snapshot.marks.iter().map(|mark| mark.lsn).collect::<Vec<_>>(), [Lsn(1100)]);
        assert_eq!(actions.probe, [A, C]);
    }
}

#[test]
fn nobody_replaces_a_primary_that_holds_on() {
    let mut world = World::steady();
    let actions = world.answers(B, writable(2, 1100));
    assert_eq!(world.roles(), [Role::Primary, Role::Stray, Role::Replica]);
    assert_eq!(world.view(B).trouble, Some(Trouble::SecondPrimary));
    assert_eq!(actions.probe, [A], "is it still there?");
    // Alive, and merely out of connections, is holding on.
    world.fails(A, Failure::Alive(Code(*b"53300")));
    assert_eq!((world.primary(), world.view(A).state), (Some(A), State::Up));
    // Demoted is not.
    world.answers(A, replica(2, 1100));
    assert_eq!(world.roles(), [Role::Replica, Role::Primary, Role::Replica]);
}

#[test]
fn writable_without_a_promotion_is_no_successor() {
    let mut world = World::steady();
    for _ in 0..4 {
        world.fails(A, Failure::Refused);
        world.answers(B, writable(1, 1100));
    }
    assert_eq!((world.primary(), world.view(B).role), (Some(A), Role::Stray));
}

#[test]
fn lag_counts_from_the_new_primary_when_the_old_one_had_more() {
    let mut world = World::steady();
    writing(&mut world, 1800);
    world.fails(A, Failure::Lost);
    world.answers(B, writable(2, 1500));
    world.answers(C, replica(2, 1500));
    assert_eq!(world.view(C).lag, Lag { bytes: Some(0), time: Some(Duration::ZERO) });
    assert!(world.view(C).fresh);
}

#[test]
fn the_old_primary_comes_back_as_a_stray() {
    let mut world = World::steady();
    world.fails(A, Failure::Lost);
    world.answers(B, writable(2, 1100));
    world.answers(A, writable(1, 1200));
    assert_eq!(world.roles(), [Role::Stray, Role::Primary, Role::Replica]);
    // Even while the new one is away.
    for _ in 0..5 {
        world.fails(B, Failure::Refused);
        world.answers(A, writable(1, 1300));
    }
    assert_eq!((world.primary(), world.view(B).state, world.health.snapshot().epoch), (Some(B), State::Down, 2));
}

#[test]
fn the_same_primary_comes_back_without_a_new_epoch() {
    let mut world = World::steady();
    for _ in 0..4 {
        world.fails(A, Failure::Refused);
    }
    assert_eq!(world.view(A).state, State::Down);
    world.answers(A, writable(1, 1000));
    let snapshot = world.health.snapshot();
    assert_eq!((snapshot.epoch, snapshot.primary, world.view(A).state), (1, Some(A), State::Up));
    // Unless it lost what it had said to have.
    let actions = world.answers(A, writable(1, 900));
    assert!(matches!(actions.changes[..], [Change::LogLost { epoch: 2, .. }]), "{actions:?}");
    assert_eq!(world.health.snapshot().marks.len(), 1);
}

#[test]
fn two_writable_nodes_at_first_sight() {
    // Timelines decide ..
    let mut world = World::new(&["a", "b", "c"]);
    world.answers(A, writable(1, 1000));
    world.answers(B, writable(2, 900));
    world.answers(C, replica(2, 900));
    assert_eq!(world.roles(), [Role::Stray, Role::Primary, Role::Replica]);
    // .. or nothing does.
    let mut world = World::new(&["a", "b", "c"]);
    world.answers(A, writable(2, 1000));
    world.answers(B, writable(2, 900));
    let actions = world.answers(C, replica(2, 900));
    assert!(actions.changes.contains(&Change::Contested { nodes: vec![A, B] }), "{actions:?}");
    assert_eq!((world.primary(), world.view(A).trouble), (None, Some(Trouble::Contested)));
    world.answers(A, replica(2, 900));
    assert_eq!(world.primary(), Some(B));
}

#[test]
fn a_writable_node_that_replicas_have_left_behind_is_not_believed() {
    let mut world = World::new(&["a", "b", "c"]);
    world.answers(A, writable(1, 1000));
    world.fails(B, Failure::Refused);
    world.answers(C, replica(2, 1200));
    assert_eq!(world.primary(), None);
    world.answers(B, writable(2, 1300));
    assert_eq!(world.roles(), [Role::Stray, Role::Primary, Role::Replica]);
}

#[test]
fn a_node_of_another_cluster_is_rejected() {
    let mut world = World::new(&["a", "b", "c"]);
    let foreign = answer(2, 9, Stage::Writable { insert: Lsn(9000), flush: Lsn(9000) });
    world.answers(C, foreign.clone());
    world.answers(A, writable(1, 1000));
    world.answers(B, replica(1, 1000));
    assert_eq!(world.roles(), [Role::Primary, Role::Replica, Role::Unknown]);
    assert_eq!(world.view(C).trouble, Some(Trouble::ForeignSystem { found: 2, expected: 1 }));
    // Nor does it get its turn later.
    world.fails(A, Failure::Refused);
    world.answers(C, foreign);
    assert_eq!(world.primary(), Some(A));
    // One against one: nothing tells which is meant.
    let mut world = World::new(&["a", "b"]);
    world.answers(A, writable(1, 1000));
    world.answers(B, answer(2, 1, Stage::Writable { insert: Lsn(1), flush: Lsn(1) }));
    assert_eq!((world.primary(), world.view(B).trouble), (None, Some(Trouble::Contested)));
}

#[test]
fn failures_count_until_the_threshold_and_signs_of_life_do_not() {
    let mut world = World::steady();
    for (failure, state) in [
        (Failure::Lost, State::Suspect),
        (Failure::Refused, State::Suspect),
        (Failure::Alive(Code(*b"57P03")), State::Suspect),
        (Failure::Refused, State::Suspect),
        (Failure::Refused, State::Suspect),
        (Failure::Refused, State::Down),
    ] {
        world.fails(B, failure);
        assert_eq!(world.view(B).state, state, "{failure:?}");
    }
    let incarnation = world.view(B).incarnation;
    world.answers(B, replica(1, 900));
    assert_eq!((world.view(B).state, world.view(B).incarnation), (State::Up, incarnation));
    // A position that goes back tells of a crash as well.
    world.answers(B, replica(1, 800));
    assert_eq!(world.view(B).incarnation, incarnation + 1);
}

/// The primary writes 100 bytes every 100 ms from 1000 on.
fn writing(world: &mut World, until: u64) {
    let mut lsn = world.view(A).position.unwrap().lsn.0;
    while lsn < until {
        lsn += 100;
        world.now += ms(99);
        world.answers(A, writable(1, lsn));
    }
}

#[test]
fn lag_is_how_long_ago_the_primary_was_there() {
    let mut world = World::steady();
    writing(&mut world, 1800);
    world.answers(B, replica(1, 1400));
    let Lag { bytes, time } = world.view(B).lag;
    assert_eq!(bytes, Some(400));
    assert!((ms(395)..ms(410)).contains(&time.unwrap()), "{time:?}");
    // It leaves above the one limit and returns below the other.
    writing(&mut world, 2500);
    let actions = world.answers(B, replica(1, 1400));
    assert!(!world.view(B).fresh && matches!(actions.changes[..], [Change::Lagging { node: B, .. }]), "{actions:?}");
    world.answers(B, replica(1, 1900));
    assert!(!world.view(B).fresh, "{:?}", world.view(B).lag);
    let actions = world.answers(B, replica(1, 2100));
    assert!(world.view(B).fresh && matches!(actions.changes[..], [Change::CaughtUp { node: B, .. }]), "{actions:?}");
}

#[test]
fn each_replica_has_limits_of_its_own_by_time_and_by_bytes() {
    let mut world = World::steady();
    let bytes = ByteLimits { max: ByteSize(200), recovery: ByteSize(50) };
    let mut specs = [spec("a"), spec("b"), spec("c")];
    specs[1].lag = LagLimits { bytes: Some(bytes), ..LagLimits::by_time(ms(60_000), ms(30_000)) };
    world.health.on(Event::Configured(specs.into()), world.now);
    world.answers(B, replica(1, 1000));
    world.answers(C, replica(1, 1000));
    writing(&mut world, 1200);
    world.answers(B, replica(1, 1000));
    assert!(world.view(B).fresh, "200 bytes are allowed");
    world.answers(A, writable(1, 1201));
    let actions = world.answers(B, replica(1, 1000));
    assert!(matches!(actions.changes[..], [Change::Lagging { node: B, .. }]), "{actions:?}");
    assert_eq!(world.view(B).excess(), Some(Excess::Bytes));
    world.answers(B, replica(1, 1150));
    assert!(!world.view(B).fresh, "51 are too many for coming back");
    world.answers(B, replica(1, 1151));
    assert_eq!((world.view(B).fresh, world.view(B).excess()), (true, None));
    // C has limits by time, and B longer ones.
    world.now += ms(5000);
    world.answers(A, writable(1, 1210));
    world.now += ms(5000);
    world.answers(A, writable(1, 1220));
    world.answers(B, replica(1, 1200));
    world.answers(C, replica(1, 1200));
    assert_eq!((world.view(B).excess(), world.view(C).excess()), (None, Some(Excess::Time)));
    // On another timeline bytes say nothing: whoever is out stays out.
    writing(&mut world, 1500);
    world.answers(B, replica(1, 1200));
    assert_eq!(world.view(B).excess(), Some(Excess::Bytes));
    world.answers(B, replica(2, 1500));
    assert!(!world.view(B).fresh);
}

#[test]
fn an_idle_primary_leaves_nobody_behind() {
    let mut world = World::steady();
    for _ in 0..100 {
        world.now += ms(200);
        world.answers(A, writable(1, 1000));
        world.answers(B, replica(1, 1000));
        assert_eq!(world.view(B).lag, Lag { bytes: Some(0), time: Some(Duration::ZERO) });
    }
    // A record that is not whole yet cannot be replayed: what came has been.
    world.answers(A, writable(1, 1500));
    let mut waiting = replica(1, 1000);
    if let Stage::Recovering(recovery) = &mut waiting.stage {
        recovery.receive = Some(Lsn(1500));
        recovery.applying = Applying::Waiting;
    }
    world.now += ms(5000);
    world.answers(B, waiting);
    assert_eq!(world.view(B).lag, Lag { bytes: Some(0), time: Some(Duration::ZERO) });
    world.answers(B, replica(1, 1000));
    assert_eq!(world.view(B).lag.bytes, Some(500));
}

#[test]
fn a_replica_that_was_behind_from_the_start_is_not_fresh() {
    let mut world = World::new(&["a", "b"]);
    world.answers(A, writable(1, 1000));
    world.answers(B, replica(1, 900));
    assert!(!world.view(B).fresh && world.view(B).lag.bytes == Some(100), "{:?}", world.view(B));
    world.answers(B, replica(1, 1000));
    assert!(world.view(B).fresh);
}

#[test]
fn replicas_stay_fresh_when_the_primary_is_gone_and_not_when_they_miss_the_promotion() {
    let mut world = World::steady();
    writing(&mut world, 1800);
    world.answers(B, replica(1, 1800));
    world.answers(C, replica(1, 1750));
    for _ in 0..50 {
        world.fails(A, Failure::Refused);
        world.now += ms(200);
        world.answers(B, replica(1, 1800));
        world.answers(C, replica(1, 1750));
    }
    assert!(world.view(B).fresh && world.view(C).fresh, "{:?}", world.view(C).lag);
    world.answers(B, writable(2, 1900));
    for _ in 0..10 {
        world.answers(C, replica(1, 1800));
        world.now += ms(200);
        world.answers(B, writable(2, 1900));
    }
    assert_eq!((world.view(C).fresh, world.view(C).lag.bytes), (false, None));
    world.answers(C, replica(2, 1900));
    assert!(world.view(C).fresh);
}

#[test]
fn an_insert_position_behind_a_page_header_is_reached() {
    let mut world = World::steady();
    let page = (16 << 20) + 8192;
    world.answers(A, answer(1, 1, Stage::Writable { insert: Lsn(page + 24), flush: Lsn(page) }));
    world.answers(B, replica(1, page));
    assert_eq!(world.health.snapshot().marks.last().unwrap().lsn, Lsn(page));
    assert_eq!(world.view(B).lag.bytes, Some(0));
}

#[test]
fn a_replica_without_a_receiver_does_not_go_back_to_an_older_timeline() {
    let mut world = World::steady();
    world.answers(B, replica(3, 1000));
    let mut restarted = replica(1, 1000);
    if let Stage::Recovering(recovery) = &mut restarted.stage {
        recovery.receiver = None;
    }
    world.answers(B, restarted);
    assert_eq!(world.view(B).position.unwrap().timeline, Timeline(3));
}

#[test]
fn nodes_keep_their_numbers_across_reloads() {
    let mut world = World::steady();
    world.health.on(Event::Drained { node: C }, world.now);
    world.health.on(Event::Configured(vec![spec("c"), spec("d"), spec("a")]), world.now);
    let names: Vec<_> = world.health.snapshot().nodes.iter().map(|node| node.name.to_string()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert_eq!((world.view(B).state, world.view(C).drained, world.primary()), (State::Removed, true, Some(A)));
    // An answer that was on its way is of no interest.
    world.answers(B, writable(5, 9000));
    assert_eq!(world.view(B).state, State::Removed);
    // The primary is removed: a promoted one is its successor.
    world.health.on(Event::Configured(vec![spec("b"), spec("c"), spec("d")]), world.now);
    assert_eq!((world.primary(), world.view(B).state), (None, State::Unknown));
    world.answers(B, replica(1, 1000));
    world.answers(C, writable(2, 1100));
    assert_eq!((world.primary(), world.health.snapshot().epoch), (Some(C), 2));
}

proptest! {
    /// Whatever the nodes say in whatever order: one primary at most, which said itself that it is writable; epochs and
    /// positions of one incarnation never go back; within an epoch the primary stays the same.
    #[test]
    fn whatever_the_nodes_say(steps in proptest::collection::vec((0_u16..4, 0_u8..8, 1_u32..4, 900_u64..1100), 1..200)) {
        let mut world = World::new(&["a", "b", "c", "d"]);
        let mut before = world.health.snapshot();
        for (node, what, timeline, lsn) in steps {
            let node = NodeId(node);
            match what {
                0..=2 => drop(world.answers(node, replica(timeline, lsn))),
                3..=4 => drop(world.answers(node, writable(timeline, lsn))),
                5 => drop(world.fails(node, Failure::Lost)),
                6 => drop(world.fails(node, Failure::Timeout)),
                _ => drop(world.answers(node, answer(2, timeline, Stage::Writable { insert: Lsn(lsn), flush: Lsn(lsn) }))),
            }
            let after = world.health.snapshot();
            let primaries: Vec<_> = after.nodes.iter().filter(|n| n.role == Role::Primary).map(|n| n.id).collect();
            prop_assert_eq!(&primaries, &after.primary.into_iter().collect::<Vec<_>>());
            prop_assert!(after.epoch >= before.epoch);
            if after.epoch == before.epoch && before.primary.is_some() {
                prop_assert!(after.primary.is_none() || after.primary == before.primary);
                prop_assert!(after.marks.len() >= before.marks.len());
            }
            prop_assert!(after.marks.is_sorted_by(|a, b| a.asked_at < b.asked_at && a.lsn <= b.lsn));
            for (old, new) in before.nodes.iter().zip(&after.nodes) {
                prop_assert!(new.incarnation >= old.incarnation);
                if let (true, Some(old), Some(new)) = (old.incarnation == new.incarnation, old.position, new.position) {
                    prop_assert!(new.lsn >= old.lsn);
                }
                prop_assert!(!new.fresh || (new.position.is_some() && matches!(new.role, Role::Replica | Role::Primary)));
            }
            before = after;
        }
    }
}

#[test]
fn who_is_appointed_is_the_primary_though_its_last_answers_say_otherwise() {
    let mut world = World::steady();
    world.fails(A, Failure::Lost);
    world.health.on(Event::Held, world.now);
    assert!(world.health.snapshot().usable_primary().is_none());
    let asked_at = world.now;
    world.now += ms(5);
    world.health.on(Event::Appointed { node: B, epoch: 7, timeline: Timeline(2) }, world.now);
    // What was asked before it was promoted comes late.
    world.health.on(Event::Answered { node: B, asked_at, answer: Box::new(replica(1, 1000)) }, world.now);
    let snapshot = world.health.snapshot();
    assert_eq!((snapshot.primary, snapshot.epoch, snapshot.timeline), (Some(B), 7, Timeline(2)));
    assert!(snapshot.usable_primary().is_some());
    // What is asked after it counts.
    world.now += ms(5);
    world.answers(B, replica(2, 1000));
    assert_eq!(world.primary(), None);
}

#[test]
fn nobody_but_the_remembered_primary_is_followed_without_a_promotion_since() {
    let mut world = World::new(&["a", "b", "c"]);
    world.health.on(Event::Remembered { node: B, timeline: Timeline(3) }, world.now);
    world.fails(B, Failure::Refused);
    world.answers(A, writable(2, 5000));
    world.answers(C, replica(3, 1000));
    assert_eq!((world.primary(), world.view(A).role), (None, Role::Stray));
    world.answers(B, writable(3, 1000));
    assert_eq!(world.primary(), Some(B));
}
