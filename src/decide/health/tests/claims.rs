//! Who may be the primary: a node of this cluster, which has the newest epoch that was written down in the database.

use super::*;

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
