//! Where a read goes that a node has just failed.

use super::*;

fn failed_on(avoid: NodeId, consistency: Consistency) -> World {
    World { avoid: Some(avoid), ..World::new(consistency) }
}

#[test]
fn another_replica_is_better_wherever_it_is_and_however_busy() {
    for consistency in [Consistency::Eventual, Consistency::Session] {
        let mut world = failed_on(R, consistency);
        world.load = |id| u32::from(id == S) * 1000;
        world.policy.zone = Some("a".into());
        world.node(R).zone = Some("a".into());
        assert_eq!(world.read(1).0, Route::Replica(S), "{consistency:?}");
        world.avoid = Some(P);
        assert_eq!(world.read(1).0, Route::Replica(R), "{consistency:?}");
    }
}

#[test]
fn one_that_holds_its_session_waits_a_little_for_another() {
    let mut world = failed_on(R, Consistency::Session);
    world.avoid = None;
    assert_eq!(world.read(1).0, Route::Replica(R));
    world.session.read_from(R, world.at(5));
    world.avoid = Some(R);
    let waiting = world.decide(Need::Read, 6, 6);
    let until = world.at(26);
    assert_eq!((waiting.route, waiting.ask), (Route::Wait(WaitFor::Replica { until }), Ask::Mark));
    assert_eq!(world.decide(Need::Read, 6, 26).route, Route::Primary(P), "in vain");
    world.mark(7, 100);
    assert_eq!(world.decide(Need::Read, 6, 8).route, Route::Replica(S));
    // Not for one that is far behind.
    world.session.read_from(R, world.at(9));
    world.keep_replicas_far();
    assert_eq!(world.read(10).0, Route::Primary(P));
}

#[test]
fn the_primary_is_better_and_the_same_one_better_than_nothing() {
    let mut world = failed_on(R, Consistency::Eventual);
    world.policy.on_all_lagging = OnAllLagging::Error;
    for change in [|node: &mut NodeView| node.fresh = false, |node: &mut NodeView| node.state = State::Down] {
        change(world.node(S));
        assert_eq!(world.read(1).0, Route::Primary(P));
        world.node(P).state = State::Down;
        assert_eq!(world.read(1).0, Route::Replica(R));
        world.node(P).state = State::Up;
    }
    world.node(R).state = State::Down;
    assert_eq!(world.read(1), (Route::Primary(P), Reason::NoReplica));
}

#[test]
fn a_lost_primary_is_not_asked_again_where_reads_may_go_to_replicas() {
    let mut world = failed_on(P, Consistency::Eventual);
    world.policy.reads_on_primary = true;
    world.load = |id| u32::from(id != P);
    assert!(matches!(world.read(1).0, Route::Replica(_)));
    world.avoid = None;
    world.dice = u64::MAX / 3;
    let mut seen = Vec::new();
    for dice in 0..64_u64 {
        world.dice = dice << 58 | dice << 26;
        seen.push(world.read(1).0);
    }
    assert!(seen.contains(&Route::Primary(P)), "else it is");
}
