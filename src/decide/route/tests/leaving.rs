//! When a session leaves the replica that alone is known to have what it has seen.

use super::*;

#[test]
fn a_session_that_reads_without_a_pause_leaves_a_busy_replica_by_one_short_wait() {
    let mut world = World::new(Consistency::Session);
    world.load = |id| u32::from(id == S);
    assert_eq!(world.read(1).0, Route::Replica(R));
    let mut now = 2;
    let mut stays = |world: &mut World| {
        (0..5000).find(|_| {
            world.session.read_from(R, world.at(now));
            now += 1;
            world.decide(Need::Read, now, now).route != Route::Replica(R)
        })
    };
    assert_eq!(stays(&mut world), None, "R is the less busy one");
    world.load = |id| u32::from(id == R) * 4;
    assert_eq!(stays(&mut world), Some(64));
    let waiting = world.decide(Need::Read, now, now);
    assert_eq!(
        (&waiting.route, waiting.ask),
        (&Route::Wait(WaitFor::Replica { until: world.at(now + 20) }), Ask::Mark)
    );
    // In vain: it stays for a while.
    assert_eq!(world.decide(Need::Read, now, now + 20).route, Route::Replica(R));
    now += 20;
    assert_eq!(world.decide(Need::Read, now, now).route, Route::Replica(R));
    // With success: S has what R had after the last read.
    world.sample(R, now + 1, 300);
    world.sample(S, now + 2, 300);
    assert_eq!(world.decide(Need::Read, now, now + 3).route, Route::Replica(S));
}

#[test]
fn a_session_that_reads_without_a_pause_shares_idle_replicas() {
    let mut world = World::new(Consistency::Session);
    world.load = |_| 0;
    world.session.read_from(P, world.at(1));
    world.mark(1, 100);
    let mut now = 2;
    let mut first_wait = |world: &mut World| {
        (1..100_000).find(|_| {
            now += 1;
            match world.decide(Need::Read, now, now).route {
                Route::Replica(node) => world.session.read_from(node, world.at(now)),
                Route::Wait(wait) => {
                    // In vain.
                    assert_eq!(wait, WaitFor::Replica { until: world.at(now + 20) });
                    now += 20;
                    assert!(matches!(world.decide(Need::Read, now - 20, now).route, Route::Replica(_)));
                    return true;
                }
                other => panic!("{other:?}"),
            }
            false
        })
    };
    let first = first_wait(&mut world).unwrap();
    assert!((1024..1030).contains(&first), "{first}");
    let second = first_wait(&mut world).unwrap();
    assert!((2048..2060).contains(&second), "the wait was in vain: {second}");
    // Not for one that is far behind.
    world.keep_replicas_far();
    assert_eq!(first_wait(&mut world), None);
}
