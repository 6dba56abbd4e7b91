use std::time::{Duration, Instant};

use super::*;
use crate::config::{Consistency, NodeName, OnAllLagging};
use crate::decide::position::{Lsn, Position, Timeline};
use crate::decide::sql::Reason;

mod elsewhere;
mod leaving;

const P: NodeId = NodeId(0);
const R: NodeId = NodeId(1);
const S: NodeId = NodeId(2);

/// P at 100, asked at `start`; R and S at 100.
struct World {
    start: Instant,
    snapshot: Snapshot,
    policy: Policy,
    session: Freshness,
    /// Outstanding statements: puts R in front of S.
    load: fn(NodeId) -> u32,
    dice: u64,
    avoid: Option<NodeId>,
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl World {
    fn new(consistency: Consistency) -> Self {
        let start = Instant::now();
        let node = |id: NodeId, role| NodeView {
            role,
            state: State::Up,
            position: Some(Sample { asked_at: start, timeline: Timeline(1), lsn: Lsn(100) }),
            lag: Lag { bytes: Some(0), time: Some(Duration::ZERO) },
            fresh: true,
            ..NodeView::new(id, NodeName::new(&format!("n{}", id.0)).unwrap())
        };
        let snapshot = Snapshot {
            epoch: 1,
            primary: Some(P),
            timeline: Timeline(1),
            nodes: vec![node(P, Role::Primary), node(R, Role::Replica), node(S, Role::Replica)],
            marks: vec![PrimaryMark { asked_at: start, lsn: Lsn(100) }],
            ..Snapshot::default()
        };
        let policy = Policy {
            consistency,
            on_all_lagging: OnAllLagging::Primary,
            replica_wait: Duration::ZERO,
            primary_wait: ms(1000),
            reads_on_primary: false,
            zone: None,
        };
        Self {
            start,
            snapshot,
            policy,
            session: Freshness::default(),
            load: |id| u32::from(id.0),
            dice: 1,
            avoid: None,
        }
    }

    fn at(&self, at: u64) -> Instant {
        self.start + ms(at)
    }

    fn node(&mut self, id: NodeId) -> &mut NodeView {
        &mut self.snapshot.nodes[usize::from(id.0)]
    }

    fn both_replicas(&mut self, change: impl Fn(&mut NodeView)) {
        change(self.node(R));
        change(self.node(S));
    }

    /// Too far behind for a short wait.
    fn keep_replicas_far(&mut self) {
        self.both_replicas(|node| node.lag.time = Some(ms(21)));
    }

    fn mark(&mut self, at: u64, lsn: u64) {
        let asked_at = self.at(at);
        self.snapshot.marks.push(PrimaryMark { asked_at, lsn: Lsn(lsn) });
    }

    fn sample(&mut self, id: NodeId, at: u64, lsn: u64) {
        let asked_at = self.at(at);
        self.node(id).position = Some(Sample { asked_at, timeline: Timeline(1), lsn: Lsn(lsn) });
    }

    /// Arrives at `arrived`, is decided at `now`.
    fn decide(&mut self, need: Need, arrived: u64, now: u64) -> Decision {
        let arrived = self.at(arrived);
        let demand = Demand { need, reason: Reason::PlainRead, promise: None, arrived, avoid: self.avoid };
        let now = self.at(now);
        route(&demand, &mut self.session, &self.snapshot, &self.policy, self.load, self.dice, now)
    }

    fn read(&mut self, now: u64) -> (Route, Reason) {
        let Decision { route, reason, .. } = self.decide(Need::Read, now, now);
        (route, reason)
    }
}

#[test]
fn each_mode_goes_where_it_promises() {
    use Consistency::{Eventual, Primary, Session};
    let table = [
        (Eventual, Need::Primary, Route::Primary(P), Reason::PlainRead),
        (Eventual, Need::Read, Route::Replica(R), Reason::PlainRead),
        (Session, Need::Read, Route::Replica(R), Reason::PlainRead),
        (Primary, Need::Read, Route::Primary(P), Reason::Consistency),
        (Primary, Need::Replica, Route::Replica(R), Reason::PlainRead),
    ];
    for (mode, need, to, reason) in table {
        let decision = World::new(mode).decide(need, 1, 1);
        assert_eq!((decision.route, decision.reason), (to, reason), "{mode:?} {need:?}");
    }
}

#[test]
fn a_write_is_read_back_where_it_has_arrived() {
    let mut world = World::new(Consistency::Session);
    world.keep_replicas_far();
    world.session.wrote(world.at(10));
    let decision = world.decide(Need::Read, 11, 11);
    assert_eq!(decision, Decision { route: Route::Primary(P), reason: Reason::NotCaughtUp, ask: Ask::Nothing });
    assert!(world.session.wants_mark(), "when the detour has ended");
    assert!(!world.session.wants_mark(), "once");
    // A mark that was asked for before the write does not cover it.
    world.mark(9, 150);
    world.sample(R, 12, 150);
    assert_eq!(world.read(12), (Route::Primary(P), Reason::NotCaughtUp));
    world.mark(10, 200);
    assert_eq!(world.read(13), (Route::Primary(P), Reason::NotCaughtUp));
    world.sample(S, 13, 200);
    assert_eq!(world.read(14), (Route::Replica(S), Reason::PlainRead));
    // What was resolved stays so, whatever marks follow.
    world.mark(15, 900);
    assert_eq!(world.read(16), (Route::Replica(S), Reason::PlainRead));
    let position = world.session.position(&world.snapshot);
    assert_eq!(position, Some(Position { timeline: Timeline(1), lsn: Lsn(200) }));
}

#[test]
fn a_session_does_not_go_back_in_time() {
    let mut world = World::new(Consistency::Session);
    assert_eq!(world.read(10).0, Route::Replica(R));
    world.session.read_from(R, world.at(11));
    // R may have shown more than anyone knows: S only once it has what R had afterwards.
    world.load = |id| u32::from(id == R) * 9;
    assert_eq!(world.read(12).0, Route::Replica(R));
    world.sample(R, 12, 300);
    world.sample(S, 12, 299);
    assert_eq!(world.read(13).0, Route::Replica(R));
    world.sample(S, 13, 300);
    assert_eq!(world.read(14).0, Route::Replica(S));
}

#[test]
fn a_replica_that_came_back_from_a_crash_is_no_longer_the_one_last_read_from() {
    let mut world = World::new(Consistency::Session);
    assert_eq!(world.read(10).0, Route::Replica(R));
    world.session.read_from(R, world.at(11));
    world.node(R).incarnation += 1;
    assert_eq!(world.read(12), (Route::Primary(P), Reason::NotCaughtUp));
    world.mark(13, 300);
    world.sample(R, 14, 250);
    world.sample(S, 14, 300);
    assert_eq!(world.read(15).0, Route::Replica(S));
    // Nor is one that is out of service; its last word need not be waited for.
    world.session.read_from(S, world.at(16));
    world.node(S).state = State::Suspect;
    world.mark(17, 310);
    world.sample(R, 18, 310);
    assert_eq!(world.read(19).0, Route::Replica(R));
}

#[test]
fn positions_of_an_earlier_primary_count_for_nothing() {
    let mut world = World::new(Consistency::Session);
    world.keep_replicas_far();
    world.session.wrote(world.at(10));
    world.mark(11, 200);
    world.both_replicas(|node| node.position.as_mut().unwrap().lsn = Lsn(250));
    assert_eq!(world.read(12).0, Route::Replica(R));
    // S is promoted at 250, R stays behind on the old timeline.
    world.snapshot = Snapshot { epoch: 2, primary: Some(S), timeline: Timeline(2), ..world.snapshot.clone() };
    world.snapshot.marks.clear();
    (world.node(S).role, world.node(P).state) = (Role::Primary, State::Down);
    assert_eq!(world.read(13), (Route::Primary(S), Reason::NotCaughtUp));
    world.mark(14, 250);
    assert_eq!(world.read(15), (Route::Primary(S), Reason::NotCaughtUp));
    world.node(R).position.as_mut().unwrap().timeline = Timeline(2);
    assert_eq!(world.read(16).0, Route::Replica(R));
}

#[test]
fn a_read_in_mode_eventual_does_not_make_a_session_forget_its_write() {
    let mut world = World::new(Consistency::Eventual);
    world.session.wrote(world.at(10));
    assert_eq!(world.read(11).0, Route::Replica(R));
    world.session.read_from(R, world.at(12));
    world.policy.consistency = Consistency::Session;
    assert_eq!(world.read(13), (Route::Primary(P), Reason::NotCaughtUp));
}

#[test]
fn strong_reads_need_a_mark_that_is_newer_than_themselves() {
    let mut world = World::new(Consistency::Strong);
    world.policy.replica_wait = ms(50);
    let wait = Route::Wait(WaitFor::Replica { until: world.at(60) });
    assert_eq!(world.decide(Need::Read, 10, 10).route, wait);
    assert_eq!(world.decide(Need::Read, 10, 10).ask, Ask::Mark);
    world.mark(11, 300);
    assert_eq!(world.decide(Need::Read, 10, 12).route, wait);
    world.sample(S, 13, 300);
    assert_eq!(world.decide(Need::Read, 10, 14).route, Route::Replica(S));
    world.sample(S, 13, 299);
    assert_eq!(world.decide(Need::Read, 10, 60).route, Route::Primary(P));
}

#[test]
fn a_token_binds_in_every_mode() {
    for mode in [Consistency::Eventual, Consistency::Session] {
        let mut world = World::new(mode);
        world.session.require(Position { timeline: Timeline(0), lsn: Lsn(200) });
        world.sample(R, 1, 199);
        assert_eq!(world.read(2), (Route::Primary(P), Reason::NotCaughtUp));
        world.sample(S, 1, 200);
        assert_eq!(world.read(3).0, Route::Replica(S));
        world.session.require(Position { timeline: Timeline(2), lsn: Lsn(200) });
        assert_eq!(world.read(4), (Route::Primary(P), Reason::NotCaughtUp));
        world.session.require_nothing();
        assert_eq!(world.read(5).0, Route::Replica(R));
    }
}

#[test]
fn replicas_out_of_service_get_nothing() {
    type Change = fn(&mut NodeView);
    let table: [(Change, Reason); 7] = [
        (|node| node.state = State::Suspect, Reason::NoReplica),
        (|node| node.state = State::Down, Reason::NoReplica),
        (|node| node.state = State::Removed, Reason::NoReplica),
        (|node| node.role = Role::Stray, Reason::NoReplica),
        (|node| node.drained = true, Reason::NoReplica),
        (|node| node.weight = 0, Reason::NoReplica),
        (|node| node.fresh = false, Reason::AllLagging),
    ];
    for (change, reason) in table {
        let mut world = World::new(Consistency::Session);
        change(world.node(R));
        assert_eq!(world.read(1).0, Route::Replica(S));
        change(world.node(S));
        assert_eq!(world.read(1), (Route::Primary(P), reason));
    }
}

#[test]
fn when_all_lag_the_setting_decides() {
    for (setting, to) in [
        (OnAllLagging::Primary, Route::Primary(P)),
        (OnAllLagging::Error, Route::Refuse(Refusal::AllLagging)),
        (OnAllLagging::Stale, Route::Replica(R)),
    ] {
        let mut world = World::new(Consistency::Session);
        world.policy.on_all_lagging = setting;
        world.both_replicas(|node| node.fresh = false);
        assert_eq!(world.read(1), (to, Reason::AllLagging));
        // Not for a session that would miss its own write.
        world.session.wrote(world.at(2));
        if setting == OnAllLagging::Stale {
            assert_eq!(world.read(3), (Route::Primary(P), Reason::NotCaughtUp));
        }
    }
    assert_eq!(Refusal::AllLagging.sqlstate(), "57P03");
}

#[test]
fn without_a_primary_statements_wait_and_then_fail() {
    let mut world = World::new(Consistency::Session);
    world.node(P).state = State::Down;
    let wait = Route::Wait(WaitFor::Primary { until: world.at(1010) });
    assert_eq!(world.decide(Need::Primary, 10, 10).route, wait);
    assert_eq!(world.decide(Need::Primary, 10, 1009).route, wait);
    let decision = world.decide(Need::Primary, 10, 1010);
    assert_eq!(decision.route, Route::Refuse(Refusal::NoPrimary { waited: ms(1000) }));
    assert_eq!(decision.reason, Reason::NoPrimary);
    // Reads that a replica can answer go on.
    assert_eq!(world.read(11).0, Route::Replica(R));
    // A primary that is merely slow is used, one that restarts is waited for.
    for (trouble, to) in [(Trouble::Timeout, Route::Primary(P)), (Trouble::Starting, wait)] {
        (world.node(P).state, world.node(P).trouble) = (State::Suspect, Some(trouble));
        assert_eq!(world.decide(Need::Primary, 10, 11).route, to);
    }
    world.snapshot.primary = None;
    assert_eq!(world.decide(Need::Primary, 10, 11).reason, Reason::NoPrimary);
}

#[test]
fn reads_may_share_the_primary() {
    let mut world = World::new(Consistency::Session);
    world.policy.reads_on_primary = true;
    let mut random = fastrand::Rng::with_seed(5);
    let mut share = |load| {
        world.load = load;
        let reads = (0..300).filter(|_| {
            world.dice = random.u64(..);
            world.read(1) == (Route::Primary(P), Reason::PlainRead)
        });
        reads.count()
    };
    assert!((70..130).contains(&share(|_| 0)));
    // Two of three are drawn, and the less busy one is taken.
    assert!((170..230).contains(&share(|id| u32::from(id != P))));
    assert_eq!(share(|id| u32::from(id == P)), 0);
    // It is no way around the session's own replica having to catch up: that would keep it there for good.
    world.session.wrote(world.at(10));
    assert_eq!(world.read(11), (Route::Primary(P), Reason::NotCaughtUp));
    world.both_replicas(|node| node.state = State::Down);
    assert_eq!(world.read(60), (Route::Primary(P), Reason::NoReplica));
}

#[test]
fn a_session_that_reads_without_a_pause_returns_to_the_replicas_by_one_short_wait() {
    let mut world = World::new(Consistency::Session);
    world.session.wrote(world.at(10));
    let (mut now, mut detours) = (11, 0);
    while let Route::Primary(primary) = world.decide(Need::Read, now, now).route {
        detours += 1;
        now += 1;
        world.session.read_from(primary, world.at(now));
    }
    assert_eq!(detours, 1);
    let waiting = world.decide(Need::Read, now, now);
    assert_eq!(waiting.route, Route::Wait(WaitFor::Replica { until: world.at(now + 20) }));
    assert_eq!(waiting.ask, Ask::Mark);
    // In vain: it does not wait again soon.
    let primary = world.decide(Need::Read, now, now + 20).route;
    assert_eq!(primary, Route::Primary(P));
    now += 20;
    assert_eq!(world.decide(Need::Read, now, now).route, Route::Primary(P));
    assert!(matches!(world.decide(Need::Read, now, now).route, Route::Wait(_)));
    // With success.
    world.mark(now + 1, 400);
    world.sample(R, now + 2, 400);
    assert_eq!(world.decide(Need::Read, now, now + 3).route, Route::Replica(R));
    // Far replicas are not worth a wait.
    let mut world = World::new(Consistency::Session);
    world.keep_replicas_far();
    world.session.wrote(world.at(10));
    assert!((0..100).all(|_| world.read(11).0 == Route::Primary(P)));
}

#[test]
fn only_a_session_that_reads_between_its_writes_and_pauses_asks_for_a_mark_after_each() {
    let mut world = World::new(Consistency::Session);
    let mut now = 10;
    let mut asks_after_write = |world: &mut World, reads: u64, pause: u64| {
        for _ in 0..reads {
            now += pause;
            world.read(now);
            world.session.wants_mark();
            world.session.read_from(R, world.at(now));
        }
        world.session.wrote(world.at(now));
        world.session.wants_mark()
    };
    assert!(!asks_after_write(&mut world, 0, 0));
    assert!(asks_after_write(&mut world, 1, 5));
    assert!(asks_after_write(&mut world, 2, 5));
    assert!(!asks_after_write(&mut world, 0, 0), "two writes in a row");
    assert!(!asks_after_write(&mut world, 3, 0), "its next read will come before any answer");
    assert!(asks_after_write(&mut world, 3, 2));
}

#[test]
fn a_session_that_reads_several_times_between_its_writes_waits_before_the_first_of_them() {
    let mut world = World::new(Consistency::Session);
    for (reads, waits) in [(1, false), (2, true), (1, false)] {
        world.session.wrote(world.at(10));
        for _ in 0..reads {
            world.decide(Need::Read, 10, 10);
        }
        world.session.wrote(world.at(10));
        let route = world.decide(Need::Read, 10, 10).route;
        assert_eq!(route == Route::Wait(WaitFor::Replica { until: world.at(30) }), waits, "after {reads} reads");
    }
}

#[test]
fn strong_reads_wait_a_little_by_themselves_while_it_is_of_use() {
    let mut world = World::new(Consistency::Strong);
    let mut now = 10;
    let waits = |world: &mut World, now: u64| {
        let decision = world.decide(Need::Read, now, now);
        decision.route == Route::Wait(WaitFor::Replica { until: world.at(now + 20) }) && decision.ask == Ask::Mark
    };
    for _ in 0..3 {
        assert!(waits(&mut world, now));
        world.mark(now + 1, 100);
        assert!(matches!(world.decide(Need::Read, now, now + 2).route, Route::Replica(_)));
        now += 10;
    }
    // In vain, ever more rarely.
    for detours in [2, 4, 8] {
        assert!(waits(&mut world, now));
        assert_eq!(world.decide(Need::Read, now, now + 20).route, Route::Primary(P));
        now += 21;
        for _ in 1..detours {
            assert_eq!(world.read(now), (Route::Primary(P), Reason::NotCaughtUp));
        }
    }
    assert!(waits(&mut world, now));
    world.mark(now + 1, 100);
    assert!(matches!(world.decide(Need::Read, now, now + 2).route, Route::Replica(_)));
    assert!(waits(&mut world, now + 10));
    // Far replicas are not worth a wait.
    world.keep_replicas_far();
    assert_eq!(world.read(now + 10), (Route::Primary(P), Reason::NotCaughtUp));
}

#[test]
fn a_session_that_waited_in_vain_tries_again_a_second_later_however_often_it_did() {
    let mut world = World::new(Consistency::Strong);
    let mut now = 10;
    for _ in 0..12 {
        let waits = world.decide(Need::Read, now, now).route;
        assert!(matches!(waits, Route::Wait(WaitFor::Replica { .. })), "{waits:?} at {now}");
        assert_eq!(world.decide(Need::Read, now, now + 20).route, Route::Primary(P), "in vain");
        world.session.read_from(P, world.at(now + 21));
        assert_eq!(world.read(now + 500).0, Route::Primary(P));
        now += 1020;
    }
}

#[test]
fn a_mark_newer_than_the_last_read_sets_free_whoever_has_reached_it() {
    let mut world = World::new(Consistency::Session);
    assert_eq!(world.read(1).0, Route::Replica(R));
    world.session.read_from(R, world.at(5));
    world.load = |id| u32::from(id == R);
    assert_eq!(world.read(6).0, Route::Replica(R));
    // Asked before the read ended: the primary may have written since, and R shown it.
    world.mark(4, 100);
    assert_eq!(world.read(7).0, Route::Replica(R));
    world.mark(8, 100);
    assert_eq!(world.read(9).0, Route::Replica(S));
    // S lacks something that R may have shown.
    world.session.read_from(S, world.at(10));
    world.load = |id| u32::from(id == S);
    world.mark(11, 101);
    assert_eq!(world.read(12).0, Route::Replica(S));
    world.sample(R, 9, 101);
    assert_eq!(world.read(13).0, Route::Replica(R));
}
