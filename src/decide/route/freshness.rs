//! What a session wrote and saw, and so how new its reads must be.

use std::time::Instant;

use crate::decide::position::{Lsn, Position, Timeline};

use super::patience::Patience;
use super::snapshot::{EndedLog, NodeId, NodeView, Role, Snapshot, State};

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
    /// When the session last committed something in this epoch ..
    committed: Option<Committed>,
    /// .. and in one that has ended, as long as it is not known whether its log was kept so far.
    doubt: Option<Doubt>,
    loss: Option<Loss>,
    /// The replica that was chosen last, as it was then.
    chosen: Option<(NodeId, u32)>,
    wants_mark: bool,
    pub(super) patience: Patience,
}

#[derive(Debug, Clone, Copy)]
struct Committed {
    at: Instant,
    /// A position that covers it, if the session has learnt of one.
    by: Option<Lsn>,
}

#[derive(Debug, Clone, Copy)]
struct Doubt {
    epoch: u64,
    committed: Committed,
}

/// Something of a session's that the history of the present primary does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// What it wrote lies at or before `position`, behind the end of what was kept.
    Write { position: Position, kept: Lsn },
    /// It committed something so shortly before the primary was lost that nobody knows where.
    Unknown { kept: Position },
    /// The position that it was told to wait for.
    Token { position: Position, kept: Lsn },
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
        self.wants_mark = self.patience.asks_ahead();
    }

    /// Something that may have written was committed on the primary, which said so at `at`.
    pub fn committed(&mut self, at: Instant) {
        self.committed = Some(Committed { at, by: None });
    }

    /// What a change of primary has cost this session, once.
    pub fn take_loss(&mut self) -> Option<Loss> {
        self.loss.take()
    }

    /// Notices a change of primary, and what of the session's was lost with the one before.
    pub(super) fn follow(&mut self, snapshot: &Snapshot) {
        if self.epoch != snapshot.epoch {
            if let Some(committed) = self.committed.take()
                && self.doubt.is_none()
            {
                self.doubt = Some(Doubt { epoch: self.epoch, committed });
            }
            // Positions of different primaries do not compare. What survived is in the new one's log.
            self.epoch = snapshot.epoch;
            self.need = Lsn::default();
            self.last = self.last_at.map_or(Last::Covered, Last::Primary);
        }
        if let Some(doubt) = self.doubt {
            self.judge(doubt, snapshot);
        }
        if let Some(position) = self.token
            && let Some(kept) = end_before(position, snapshot)
        {
            // It will never be reached: nobody is held back for its sake.
            self.token = None;
            self.loss = Some(Loss::Token { position, kept });
        }
    }

    fn judge(&mut self, doubt: Doubt, snapshot: &Snapshot) {
        let Some(log) = snapshot.ended.iter().find(|log| log.epoch == doubt.epoch) else {
            self.doubt = None;
            return;
        };
        let Some(kept) = log.kept else { return };
        self.doubt = None;
        let position = |lsn| Position { timeline: log.timeline, lsn };
        let first = log.marks.partition_point(|mark| mark.asked_at < doubt.committed.at);
        let by = doubt.committed.by.or(log.marks.get(first).map(|mark| mark.lsn));
        self.loss = match (by, log.marks.last()) {
            (Some(lsn), _) if lsn <= kept => None,
            (Some(lsn), _) => Some(Loss::Write { position: position(lsn), kept }),
            // Later than the last that is known of the log, and that is lost already.
            (None, Some(last)) if last.lsn > kept => Some(Loss::Write { position: position(last.lsn), kept }),
            (None, _) => Some(Loss::Unknown { kept: position(kept) }),
        };
    }

    /// Whether the primary is to be asked for a mark now that it has served this session: before the next read comes, an
    /// answer may be there.
    pub fn wants_mark(&mut self) -> bool {
        std::mem::take(&mut self.wants_mark)
    }

    /// A read goes to the primary for want of a replica that has caught up.
    pub(super) fn detour(&mut self) {
        self.wants_mark = self.patience.asks_ahead();
        self.patience.detour();
    }

    /// A read has come that arrived at `at`.
    pub(super) fn reads(&mut self, at: Instant) {
        self.patience.reads(self.last_at.map(|last| at.saturating_duration_since(last)));
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

    /// The position of the session's token.
    pub fn required(&self) -> Option<Position> {
        self.token
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
        self.follow(snapshot);
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
            if let (Some(committed), Last::Primary(at)) = (&mut self.committed, self.last)
                && committed.at <= at
            {
                committed.by = committed.by.or(Some(lsn));
            }
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
    pub fn token_is_met_by(&self, node: &NodeView, snapshot: &Snapshot) -> bool {
        let Some(token) = self.token else { return true };
        // Applications ask servers themselves, too, and those tell where the next record would begin.
        let lsn = snapshot.wal.record_end(token.lsn);
        node.position.is_some_and(|sample| sample.lsn >= lsn && sample.timeline >= token.timeline)
    }
}

/// Where the history of the present primary leaves the one that `position` belongs to, if that is before it.
fn end_before(position: Position, snapshot: &Snapshot) -> Option<Lsn> {
    let any = Timeline::default();
    let position = Position { lsn: snapshot.wal.record_end(position.lsn), ..position };
    let left_since = |log: &&EndedLog| log.timeline >= position.timeline && log.timeline < snapshot.timeline;
    if position.timeline == any || position.timeline >= snapshot.timeline {
        return None;
    }
    let logs = snapshot.ended.iter().filter(left_since).filter_map(|log| log.kept);
    let forks = snapshot.forks.iter().filter(|fork| fork.timeline > position.timeline);
    let forks = forks.filter(|fork| fork.timeline <= snapshot.timeline).map(|fork| fork.at);
    // Later timelines begin at or behind it.
    logs.chain(forks).chain(snapshot.recovered).find(|kept| *kept < position.lsn)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::snapshot::{PrimaryMark, Sample};
    use super::*;
    use crate::config::NodeName;
    use crate::decide::position::Fork;

    struct World {
        start: Instant,
        session: Freshness,
    }

    impl World {
        /// A session on the first primary, which has marks at 100, 200 and 300 ms: as many bytes.
        fn new() -> Self {
            let mut session = Freshness::default();
            session.follow(&Snapshot { epoch: 1, timeline: Timeline(1), ..Snapshot::default() });
            Self { start: Instant::now(), session }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        /// The second primary has the first one's log up to `kept`.
        fn second(&self, kept: Option<u64>) -> Snapshot {
            let marks = [100, 200, 300].map(|n| PrimaryMark { asked_at: self.at(n), lsn: Lsn(n) });
            let log = EndedLog { epoch: 1, timeline: Timeline(1), marks: marks.into(), kept: kept.map(Lsn) };
            Snapshot { epoch: 2, timeline: Timeline(2), ended: Arc::new([log]), ..Snapshot::default() }
        }
    }

    fn first(lsn: u64) -> Position {
        Position { timeline: Timeline(1), lsn: Lsn(lsn) }
    }

    #[test]
    fn a_write_is_lost_if_its_position_lies_behind_the_switch_point() {
        let write = |position, kept| Some(Loss::Write { position: first(position), kept: Lsn(kept) });
        for (committed, kept, expected) in [
            (150, 250, None),
            (200, 200, None),
            (150, 199, write(200, 199)),
            (250, 299, write(300, 299)),
            (250, 300, None),
            // Nobody asked after it was committed.
            (310, 299, write(300, 299)),
            (310, 300, Some(Loss::Unknown { kept: first(300) })),
        ] {
            let mut world = World::new();
            world.session.committed(world.at(committed));
            // At first the new primary has not been asked.
            world.session.follow(&world.second(None));
            assert_eq!(world.session.take_loss(), None);
            world.session.follow(&world.second(Some(kept)));
            assert_eq!(world.session.take_loss(), expected, "committed at {committed}, kept up to {kept}");
            world.session.follow(&world.second(Some(kept)));
            assert_eq!(world.session.take_loss(), None, "once");
        }
    }

    #[test]
    fn a_position_that_was_known_is_not_forgotten_with_the_marks() {
        let mut world = World::new();
        (world.session.last, world.session.last_at) = (Last::Primary(world.at(110)), Some(world.at(110)));
        world.session.committed(world.at(110));
        let mark = PrimaryMark { asked_at: world.at(120), lsn: Lsn(120) };
        let first = Snapshot { epoch: 1, timeline: Timeline(1), marks: vec![mark], ..Snapshot::default() };
        world.session.resolve(&first);
        world.session.follow(&world.second(Some(150)));
        assert_eq!(world.session.take_loss(), None, "though the marks that are left say 200");
    }

    #[test]
    fn who_wrote_nothing_has_lost_nothing() {
        let mut world = World::new();
        world.session.wrote(world.at(250));
        world.session.follow(&world.second(Some(100)));
        assert_eq!(world.session.take_loss(), None);
        // What is written on the new primary is not judged by the end of the old one.
        world.session.committed(world.at(310));
        world.session.follow(&world.second(Some(100)));
        assert_eq!(world.session.take_loss(), None);
        let later = Snapshot { epoch: 30, ..world.second(Some(100)) };
        world.session.follow(&later);
        assert_eq!(world.session.take_loss(), None, "too long ago to be told");
    }

    #[test]
    fn a_token_from_a_server_is_met_by_who_has_replayed_all_that_there_is() {
        let mut world = World::new();
        let snapshot = Snapshot { epoch: 1, timeline: Timeline(1), ..Snapshot::default() };
        let segment = 3 * snapshot.wal.segment;
        let mut node = NodeView::new(NodeId(1), NodeName::new("a").unwrap());
        // What pg_current_wal_insert_lsn() says of a new log file, and a replica that has replayed all before it.
        for (token, replayed, met) in [(40, 0, true), (48, 0, false), (48, 48, true), (8192 + 24, 8192, true)] {
            world.session.require(first(segment + token));
            let sample = Sample { asked_at: world.start, timeline: Timeline(1), lsn: Lsn(segment + replayed) };
            node.position = Some(sample);
            assert_eq!(world.session.token_is_met_by(&node, &snapshot), met, "{token} {replayed}");
        }
        // Nor is it lost if the log was left there.
        let kept = Snapshot { epoch: 2, ..world.second(Some(segment)) };
        world.session.require(first(segment + 40));
        world.session.follow(&kept);
        assert_eq!(world.session.take_loss(), None);
    }

    #[test]
    fn a_token_is_judged_by_where_its_timeline_was_left() {
        for (token, kept, lost) in [
            (first(201), Some(200), true),
            (first(200), Some(200), false),
            (first(201), None, false),
            // Without a timeline, or of the present one, or of one to come.
            (Position { timeline: Timeline(0), ..first(900) }, Some(200), false),
            (Position { timeline: Timeline(2), ..first(900) }, Some(200), false),
            (Position { timeline: Timeline(3), ..first(900) }, Some(200), false),
        ] {
            let mut world = World::new();
            let snapshot = world.second(kept);
            world.session.require(token);
            world.session.follow(&snapshot);
            let loss = lost.then_some(Loss::Token { position: token, kept: Lsn(200) });
            assert_eq!(world.session.take_loss(), loss, "{token} {kept:?}");
            assert_eq!(world.session.required().is_none(), lost, "who waits for what will never come waits no longer");
        }
        // Who was started after the failover has the word of the present primary.
        for (token, lost) in
            [(first(201), true), (first(200), false), (Position { timeline: Timeline(2), ..first(201) }, false)]
        {
            let mut world = World::new();
            world.session.require(token);
            let second = Snapshot { ended: Arc::default(), recovered: Some(Lsn(200)), ..world.second(None) };
            world.session.follow(&second);
            assert_eq!(world.session.take_loss().is_some(), lost, "{token}");
        }
        // Be that one started again since then, after which it tells of another recovery, or of none.
        for (token, recovered, lost) in [
            (first(201), None, true),
            (first(201), Some(Lsn(300)), true),
            (first(200), Some(Lsn(300)), false),
            (Position { timeline: Timeline(2), ..first(201) }, None, false),
        ] {
            let mut world = World::new();
            world.session.require(token);
            let forks = [(2, 200), (3, 100)].map(|(timeline, at)| Fork { timeline: Timeline(timeline), at: Lsn(at) });
            let second = Snapshot { ended: Arc::default(), recovered, forks: Arc::new(forks), ..world.second(None) };
            world.session.follow(&second);
            let loss = lost.then_some(Loss::Token { position: token, kept: Lsn(200) });
            assert_eq!(world.session.take_loss(), loss, "{token} {recovered:?}");
        }
        // A third primary left the second one's history: the first one's was left before.
        let mut world = World::new();
        let mut third = world.second(Some(200));
        let of_second = EndedLog { epoch: 2, timeline: Timeline(2), kept: Some(Lsn(500)), marks: Vec::new() };
        (third.epoch, third.timeline) = (3, Timeline(3));
        third.ended = third.ended.iter().cloned().chain([of_second]).collect();
        for (token, lost) in [
            (first(201), true),
            (first(150), false),
            (Position { timeline: Timeline(2), lsn: Lsn(500) }, false),
            (Position { timeline: Timeline(2), lsn: Lsn(501) }, true),
        ] {
            world.session.require(token);
            world.session.follow(&third);
            assert_eq!(world.session.take_loss().is_some(), lost, "{token}");
        }
    }
}
