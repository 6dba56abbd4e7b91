//! Which nodes may not have yet what was committed on the primary at some instant.

use std::time::Instant;

use crate::decide::position::Lsn;

use super::freshness::{has_reached, mark_after};
use super::snapshot::{NodeId, Snapshot, State};

/// Follows the nodes until each of them has replayed what had been committed before an instant.
#[derive(Debug)]
pub struct Replaying {
    since: Instant,
    epoch: u64,
    /// A position in the log of that epoch's primary that covers it; `None`: not known yet.
    mark: Option<Lsn>,
    behind: Vec<NodeId>,
}

impl Replaying {
    pub fn new(since: Instant, snapshot: &Snapshot) -> Self {
        let behind = snapshot.nodes.iter().filter(|node| Some(node.id) != snapshot.primary).map(|node| node.id);
        Self { since, epoch: snapshot.epoch, mark: None, behind: behind.collect() }
    }

    /// The nodes that are no longer behind, each once. What of it a change of primary has lost nobody will ever have.
    pub fn caught_up(&mut self, snapshot: &Snapshot) -> Vec<NodeId> {
        if self.epoch != snapshot.epoch {
            (self.epoch, self.mark) = (snapshot.epoch, None);
        }
        self.mark = self.mark.or_else(|| mark_after(snapshot, self.since));
        let mark = self.mark;
        let has_it = |id: &mut NodeId| {
            let Some(node) = snapshot.node(*id) else { return true };
            snapshot.primary == Some(*id)
                || node.state == State::Removed
                || mark.is_some_and(|mark| has_reached(node, snapshot.timeline, mark))
        };
        self.behind.extract_if(.., has_it).collect()
    }

    /// Whether the primary is to be asked for its position.
    pub fn wants_mark(&self) -> bool {
        self.mark.is_none() && !self.is_over()
    }

    /// Whether no node is behind.
    pub fn is_over(&self) -> bool {
        self.behind.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::NodeName;
    use crate::decide::position::Timeline;
    use crate::decide::route::{NodeView, PrimaryMark, Sample};

    const MS: Duration = Duration::from_millis(1);

    /// Of so many nodes, with their positions; the first one is the primary.
    fn snapshot(start: Instant, positions: &[u64]) -> Snapshot {
        let node = |(id, lsn): (u16, &u64)| NodeView {
            position: Some(Sample { asked_at: start, timeline: Timeline(1), lsn: Lsn(*lsn) }),
            ..NodeView::new(NodeId(id), NodeName::new(&format!("pg{id}")).unwrap())
        };
        let nodes = (0..).zip(positions).map(node).collect();
        Snapshot { epoch: 1, timeline: Timeline(1), primary: Some(NodeId(0)), nodes, ..Snapshot::default() }
    }

    fn told(snapshot: Snapshot, marks: &[(Instant, u64)]) -> Snapshot {
        let marks = marks.iter().map(|&(asked_at, lsn)| PrimaryMark { asked_at, lsn: Lsn(lsn) }).collect();
        Snapshot { marks, ..snapshot }
    }

    #[test]
    fn each_node_has_it_when_it_has_reached_a_position_that_was_asked_for_later() {
        let start = Instant::now();
        let mut replaying = Replaying::new(start + 5 * MS, &snapshot(start, &[100, 100, 90]));
        // Before that, nothing covers it, and any position will not do.
        assert!(replaying.caught_up(&told(snapshot(start, &[100, 900, 90]), &[(start, 100)])).is_empty());
        assert!(replaying.wants_mark());
        let marks = [(start, 100), (start + 6 * MS, 120), (start + 9 * MS, 150)];
        assert_eq!(replaying.caught_up(&told(snapshot(start, &[150, 119, 120]), &marks)), [NodeId(2)]);
        assert!(!replaying.wants_mark() && !replaying.is_over());
        // The marks need not be kept for that long.
        assert_eq!(replaying.caught_up(&told(snapshot(start, &[200, 120, 120]), &[])), [NodeId(1)]);
        assert!(replaying.is_over());
    }

    #[test]
    fn after_a_change_of_primary_positions_are_those_of_the_new_one() {
        let start = Instant::now();
        let mut replaying = Replaying::new(start, &snapshot(start, &[100, 100, 100]));
        assert!(replaying.caught_up(&told(snapshot(start, &[300, 100, 100]), &[(start + MS, 300)])).is_empty());
        let second = |positions: &[u64], marks: &[(Instant, u64)]| {
            let mut second = told(snapshot(start, positions), marks);
            (second.epoch, second.timeline, second.primary) = (2, Timeline(2), Some(NodeId(1)));
            second.nodes[1..].iter_mut().for_each(|node| node.position.as_mut().unwrap().timeline = Timeline(2));
            second
        };
        assert_eq!(replaying.caught_up(&second(&[300, 110, 400], &[])), [NodeId(1)]);
        assert!(replaying.wants_mark());
        assert_eq!(replaying.caught_up(&second(&[300, 110, 150], &[(start + 2 * MS, 150)])), [NodeId(2)]);
        let mut gone = second(&[300, 110, 150], &[]);
        gone.nodes[2].state = State::Removed;
        let mut replaying = Replaying::new(start, &gone);
        assert_eq!(replaying.caught_up(&gone), [NodeId(2)]);
    }
}
