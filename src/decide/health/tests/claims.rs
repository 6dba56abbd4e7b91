//! Who may be the primary: a node of this cluster, which has the newest epoch that was written down in the database.

use super::*;
use crate::decide::position::Fork;

fn marked(timeline: u32, epoch: u64) -> Answer {
    Answer { marked: epoch, ..writable(timeline, 1000) }
}

#[test]
fn who_lacks_the_newest_epoch_replaces_nobody() {
    for (epoch, follows) in [(0, false), (4, false), (5, true), (6, true)] {
        let mut world = World::steady();
        world.health.on(Event::Marked(5), world.now);
        (0..3).for_each(|_| drop(world.fails(A, Failure::Refused)));
        world.answers(B, marked(2, epoch));
        assert_eq!(world.primary() == Some(B), follows, "{epoch}");
    }
}

#[test]
fn an_outdated_node_is_nothing_to_the_primary_that_was_written_down() {
    let mut world = World::new(&["a", "b", "c"]);
    world.health.on(Event::Marked(5), world.now);
    world.health.on(Event::Remembered { node: A, timeline: Timeline(2) }, world.now);
    world.answers(B, marked(3, 4));
    world.answers(C, replica(2, 1000));
    assert_eq!(world.primary(), None);
    // Somebody may have dropped what was written there.
    world.answers(A, marked(2, 0));
    assert_eq!(world.primary(), Some(A));
}

#[test]
fn of_two_promotions_to_the_same_timeline_the_one_with_the_newer_epoch_counts() {
    for (b, c, expected) in [(7, 6, Some(B)), (6, 7, Some(C)), (7, 7, None), (0, 0, None)] {
        let mut world = World::new(&["a", "b", "c"]);
        world.answers(A, replica(1, 1000));
        world.answers(B, marked(2, b));
        world.answers(C, marked(2, c));
        assert_eq!(world.primary(), expected, "{b} {c}");
    }
}

#[test]
fn another_cluster_altogether_is_discovered_anew() {
    let mut world = World::steady();
    world.health.on(Event::Configured(vec![spec("x")]), world.now);
    assert_eq!(world.primary(), None);
    world.answers(NodeId(3), answer(8, 1, Stage::Writable { insert: Lsn(500), flush: Lsn(500) }));
    assert_eq!((world.primary(), world.health.snapshot().epoch), (Some(NodeId(3)), 2));
}

/// A is dead, and B was promoted to timeline 2; C has not seen that.
fn promoted_twice(between: impl Fn(&mut World)) -> World {
    let mut world = World::steady();
    (0..3).for_each(|_| drop(world.fails(A, Failure::Refused)));
    world.answers(B, Answer { recovered: Some(Lsn(1100)), ..writable(2, 1500) });
    world.answers(C, replica(1, 1050));
    assert_eq!(world.primary(), Some(B));
    between(&mut world);
    world
}

fn newer() -> Answer {
    Answer { recovered: Some(Lsn(1050)), ..writable(2, 1200) }
}

#[test]
fn a_second_promotion_to_the_same_timeline_is_followed_when_the_first_one_is_gone() {
    let dies = |world: &mut World| (0..3).for_each(|_| drop(world.fails(B, Failure::Refused)));
    let steps_down = |world: &mut World| drop(world.answers(B, replica(2, 1200)));
    for gone in [&dies as &dyn Fn(&mut World), &steps_down] {
        let mut world = promoted_twice(|world| gone(world));
        let epoch = world.health.snapshot().epoch;
        let followed = world.answers(C, newer());
        assert_eq!((world.primary(), world.health.snapshot().epoch), (Some(C), epoch + 1), "{followed:?}");
        let left = Change::LogLeft { node: C, was: B, kept: Lsn(1050), end: Lsn(1500) };
        assert!(followed.changes.contains(&left), "{followed:?}");
        let ended = world.health.snapshot().ended.last().and_then(|log| log.kept);
        assert_eq!(ended, Some(Lsn(1050)));
    }
}

#[test]
fn it_is_not_followed_while_the_first_one_may_be_there() {
    for between in [
        &(|_: &mut World| ()) as &dyn Fn(&mut World),
        &|world: &mut World| (0..9).for_each(|_| drop(world.fails(B, Failure::Timeout))),
        // Both took writes at one time.
        &|world| {
            world.answers(C, newer());
            world.answers(B, writable(2, 1600));
            (0..3).for_each(|_| drop(world.fails(B, Failure::Refused)));
        },
        // The first one was pgpilot's choice.
        &|world| {
            let fork = Fork { timeline: Timeline(2), at: Lsn(1100) };
            world.health.on(Event::Forked(vec![fork]), world.now);
            (0..3).for_each(|_| drop(world.fails(B, Failure::Refused)));
        },
        // It has an epoch written down that the second one lacks.
        &|world| {
            world.health.on(Event::Marked(5), world.now);
            (0..3).for_each(|_| drop(world.fails(B, Failure::Refused)));
        },
    ] {
        let mut world = promoted_twice(between);
        world.answers(C, newer());
        assert_eq!(world.primary(), Some(B));
    }
}
