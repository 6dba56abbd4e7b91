//! What a session wrote and saw, and so how new its reads must be.

use std::time::Instant;

use crate::decide::position::{Lsn, Position, Timeline};

use super::patience::Patience;
use super::snapshot::{NodeId, NodeView, Role, Snapshot, State};

/// A session's side of the promise that it sees its own writes and never goes back in time.
///
/// The session notes *when* it was served by the primary. Everything that it did or saw there is covered by any mark
/// that was asked for later; so is, for a read on a replica, everything by that replica's own later position. Until such
/// a position is known, only the node that served it last is known to be new enough. What a node showed covers all that
/// the session had seen before, or it would not have been chosen: the last contact is all that has to be kept.
#[derive(Debug, Clone, Default)]
pub struct Freshness {
    /// `need` is a position in the log of this epoch's primary.
    epoch: u64,
    need: Lsn,
    last: Last,
    last_at: Option<Instant>,
    /// From `pgpilot.min_lsn`.
    token: Option<Position>,
    /// The replica that was chosen last, as it was then.
    chosen: Option<(NodeId, u32)>,
    pub(super) patience: Patience,
}

/// The last contact, as far as `need` does not cover it yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Last {
    #[default]
    Covered,
    Primary(Instant),
    Replica {
        node: NodeId,
        incarnation: u32,
        at: Instant,
    },
}

impl Freshness {
    /// A statement ended on the primary at `at`: it wrote, or may have.
    pub fn wrote(&mut self, at: Instant) {
        self.served_by_primary(at);
        self.patience.wrote();
    }

    /// A read ended on `node`, the one that it was routed to, at `at`.
    pub fn read_from(&mut self, node: NodeId, at: Instant) {
        match self.chosen {
            Some((chosen, incarnation)) if chosen == node => {
                self.last = Last::Replica { node, incarnation, at };
                self.last_at = Some(at);
            }
            _ => self.served_by_primary(at),
        }
    }

    /// Reads must be at least as new as `position`, from now on. A timeline of 0 stands for any.
    pub fn require(&mut self, position: Position) {
        self.token = Some(position);
    }

    pub fn require_nothing(&mut self) {
        self.token = None;
    }

    /// A position that covers all that the session wrote and saw; `None`: not known yet (ask for a mark), or there is
    /// nothing to cover.
    pub fn position(&mut self, snapshot: &Snapshot) -> Option<Position> {
        self.resolve(snapshot);
        let last_at = self.last_at?;
        let lsn = match self.last {
            Last::Covered => self.need,
            Last::Primary(_) | Last::Replica { .. } => mark_after(snapshot, last_at)?,
        };
        Some(Position { timeline: snapshot.timeline, lsn })
    }

    fn served_by_primary(&mut self, at: Instant) {
        self.last = Last::Primary(at);
        self.last_at = Some(at);
        self.chosen = None;
    }

    /// The decision fell on this replica. One that mode `eventual` chose without having what the session saw before does
    /// not cover it: reading there counts as reading on the primary, which is ahead of both.
    pub(super) fn choose(&mut self, node: NodeId, snapshot: &Snapshot) {
        let covering = snapshot.node(node).filter(|view| self.is_met_by(view, snapshot));
        self.chosen = covering.map(|view| (node, view.incarnation));
    }

    /// The replica that alone is known to be new enough, because it served the session last. To be asked after `resolve`.
    pub(super) fn held_by(&self) -> Option<NodeId> {
        match self.last {
            Last::Replica { node, .. } => Some(node),
            Last::Covered | Last::Primary(_) => None,
        }
    }

    /// Turns the last contact into a position, once one is known.
    pub(super) fn resolve(&mut self, snapshot: &Snapshot) {
        if self.epoch != snapshot.epoch {
            // Positions of different primaries do not compare. What survived is in the new one's log.
            self.epoch = snapshot.epoch;
            self.need = Lsn::default();
            self.last = self.last_at.map_or(Last::Covered, Last::Primary);
        }
        let covered = match self.last {
            Last::Covered => return,
            Last::Primary(at) => mark_after(snapshot, at),
            Last::Replica { node, incarnation, at } => match snapshot.node(node) {
                Some(view) if view.incarnation == incarnation && is_in_service(view) => {
                    let sample = view.position.filter(|sample| sample.asked_at >= at);
                    sample.filter(|sample| sample.timeline == snapshot.timeline).map(|sample| sample.lsn)
                }
                // It is gone, or may have gone back in time itself: the primary is ahead of whatever it showed.
                _ => mark_after(snapshot, at),
            },
        };
        if let Some(lsn) = covered {
            self.need = self.need.max(lsn);
            self.last = Last::Covered;
        }
    }

    /// Whether `node` has all that the session wrote and saw. To be asked after `resolve`.
    pub(super) fn is_met_by(&self, node: &NodeView, snapshot: &Snapshot) -> bool {
        let has = |lsn| has_reached(node, snapshot.timeline, lsn);
        let by_contact = match self.last {
            Last::Covered => true,
            Last::Primary(_) => false,
            Last::Replica { node: last, incarnation, at } => {
                let same = last == node.id && incarnation == node.incarnation;
                // The primary is ahead of whatever the other one showed.
                same || mark_after(snapshot, at).is_some_and(has)
            }
        };
        by_contact && (self.need == Lsn::default() || has(self.need))
    }

    /// Whether `node` has what the session's token asks for.
    pub(super) fn token_is_met_by(&self, node: &NodeView) -> bool {
        let Some(token) = self.token else { return true };
        node.position.is_some_and(|sample| sample.lsn >= token.lsn && sample.timeline >= token.timeline)
    }
}

/// The first mark that covers all that was acknowledged before `at`.
pub(super) fn mark_after(snapshot: &Snapshot, at: Instant) -> Option<Lsn> {
    let newest = snapshot.marks.last()?;
    if newest.asked_at < at {
        return None;
    }
    let first = snapshot.marks.partition_point(|mark| mark.asked_at < at);
    snapshot.marks.get(first).map(|mark| mark.lsn)
}

/// Whether a replica that follows the primary of `timeline` has replayed up to `lsn`.
pub(super) fn has_reached(node: &NodeView, timeline: Timeline, lsn: Lsn) -> bool {
    node.position.is_some_and(|sample| sample.lsn >= lsn && sample.timeline == timeline)
}

/// Whether reads may be sent to this replica at all.
pub fn is_in_service(node: &NodeView) -> bool {
    node.role == Role::Replica && node.state == State::Up && !node.drained && node.weight > 0
}
