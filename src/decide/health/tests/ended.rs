//! Where the log of an earlier primary was left.

use super::*;
use crate::decide::position::Fork;
use crate::decide::route::EndedLog;

/// A has written up to 1800.
fn written() -> World {
    let mut world = World::steady();
    writing(&mut world, 1800);
    world
}

/// Of each ended log: its epoch, its timeline, its last mark, and up to where it was kept.
fn ended(world: &World) -> Vec<(u64, u32, u64, Option<u64>)> {
    let of = |log: &EndedLog| (log.epoch, log.timeline.0, log.marks.last().unwrap().lsn.0, log.kept.map(|lsn| lsn.0));
    world.health.snapshot().ended.iter().map(of).collect()
}

fn promoted(timeline: u32, lsn: u64, recovered: Option<u64>) -> Answer {
    Answer { recovered: recovered.map(Lsn), ..writable(timeline, lsn) }
}

#[test]
fn a_promoted_primary_tells_where_its_recovery_ended() {
    let mut world = written();
    world.fails(A, Failure::Refused);
    world.answers(B, promoted(2, 1900, Some(1750)));
    assert_eq!(ended(&world), [(1, 1, 1800, Some(1750))]);
    // That it says so again, of later promotions, changes nothing of what is known.
    world.fails(B, Failure::Refused);
    world.answers(C, promoted(3, 2100, Some(2000)));
    assert_eq!(ended(&world), [(1, 1, 1800, Some(1750)), (2, 2, 1900, Some(2000))]);
}

#[test]
fn nobody_knows_before_the_appointed_one_has_been_asked() {
    let mut world = written();
    world.answers(B, replica(1, 1750));
    world.health.on(Event::Held, world.now);
    world.health.on(Event::Appointed { node: B, epoch: 2, timeline: Timeline(2) }, world.now);
    assert_eq!(ended(&world), [(1, 1, 1800, None)]);
    world.now += ms(5);
    world.answers(B, promoted(2, 1900, Some(1760)));
    assert_eq!(ended(&world), [(1, 1, 1800, Some(1760))]);
    // One that was started anew in between does not know, and does not invent anything.
    let mut world = written();
    world.fails(A, Failure::Refused);
    world.answers(B, promoted(2, 1900, None));
    assert_eq!(ended(&world), [(1, 1, 1800, None)]);
}

#[test]
fn a_primary_that_lost_the_end_of_its_log_kept_what_it_has() {
    for (recovered, kept) in [(Some(1200), 1200), (None, 1300)] {
        let mut world = written();
        world.fails(A, Failure::Lost);
        world.answers(A, promoted(1, 1300, recovered));
        assert_eq!(ended(&world), [(1, 1, 1800, Some(kept))]);
    }
}

#[test]
fn the_last_logs_are_kept() {
    let mut world = written();
    for n in 2..30 {
        let (old, new) = if n % 2 == 0 { (A, B) } else { (B, A) };
        world.fails(old, Failure::Refused);
        world.answers(new, promoted(n, 2000 + u64::from(n), Some(2000)));
    }
    let epochs: Vec<_> = ended(&world).iter().map(|log| log.0).collect();
    assert_eq!(epochs, (21..29).collect::<Vec<_>>());
}

/// A sample of its position may be of the new timeline, though the replica was last asked when it was on the old one.
#[test]
fn a_replica_has_left_the_history_only_by_what_it_said_with_its_timeline() {
    let mut world = written();
    world.fails(A, Failure::Refused);
    world.answers(B, promoted(2, 1900, Some(1800)));
    let forks = vec![Fork { timeline: Timeline(2), at: Lsn(1800) }];
    world.health.on(Event::Forked(forks), world.now);
    let (asked_at, progress) = (world.now, Progress::Replayed(Lsn(1900)));
    world.health.on(Event::Sampled { node: C, asked_at, progress }, world.now);
    assert_eq!(world.view(C).state, State::Up);
    world.answers(C, replica(1, 1900));
    assert_eq!(world.view(C).state, State::Quarantined);
    world.answers(C, replica(2, 1900));
    assert_eq!(world.view(C).state, State::Up);
}
