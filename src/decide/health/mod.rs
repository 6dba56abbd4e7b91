//! Probe results to node states, and to the [`Snapshot`] that routing reads.
//!
//! [`Health`] follows one primary. Roles are what the nodes say of themselves; which writable node counts is decided in
//! `following`, how far the replicas are behind in `record` and `trail`.

mod event;
mod following;
mod record;
#[cfg(test)]
mod tests;
mod trail;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use event::*;

use crate::decide::position::{Fork, Lsn, Timeline, WalGeometry};
use crate::decide::route::{EndedLog, NodeId, NodeView, PrimaryMark, Role, Snapshot, State, Trouble, Writes};

use following::{Following, Verdict, identify, numbered, unidentified};
use record::{PrimaryLog, Record, Voice, flushed};
use trail::{Point, Trail};

/// Marks in a snapshot: it is copied as a whole, and a session needs one that is not much newer than its last write.
const MARKS: usize = 24;
/// Ended logs in a snapshot: a session that has slept through more changes of primary is not told of its losses.
const ENDED_LOGS: usize = 8;
/// Points of the primary's log for telling lag by time.
const LOG_POINTS: usize = 256;
/// Less does not matter to any lag, and the positions may come every few milliseconds.
const LOG_SPACING: Duration = Duration::from_millis(5);

/// Settings of the `[health]` section that the decisions need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Consecutive failures until a node counts as down.
    pub failures: u32,
}

/// The cluster as probes have shown it so far.
#[derive(Debug)]
pub struct Health {
    limits: Limits,
    records: Vec<Record>,
    views: Vec<NodeView>,
    /// This cluster's system identifier.
    identity: Option<u64>,
    following: Following,
    contested: Vec<NodeId>,
    epoch: u64,
    /// Held: nobody is followed anew.
    writes: Writes,
    forks: Vec<Fork>,
    /// The newest epoch that a primary of this cluster has had written down.
    marked: u64,
    /// This instance's own: without a lease it may not write, whatever the nodes do.
    permission: Writes,
    /// The only node that may be followed; `None`: any.
    bound: Option<NodeId>,
    /// Where the primary's log ended, for sessions that wrote.
    marks: Trail,
    /// Up to where it was flushed, for lag.
    flushes: Trail,
    /// Logs that ended with an epoch.
    ended: Arc<[EndedLog]>,
}

impl Health {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            records: Vec::new(),
            views: Vec::new(),
            identity: None,
            following: Following::Undecided,
            contested: Vec::new(),
            epoch: 0,
            writes: Writes::Open,
            forks: Vec::new(),
            marked: 0,
            permission: Writes::Open,
            bound: None,
            marks: Trail::new(MARKS, Duration::ZERO),
            flushes: Trail::new(LOG_POINTS, LOG_SPACING),
            ended: Arc::default(),
        }
    }

    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// What a node said of itself last.
    pub fn answer(&self, node: NodeId) -> Option<&Answer> {
        self.records.get(usize::from(node.0))?.answer()
    }

    /// Takes note of one event. Events of one node come in the order in which its questions were answered; between
    /// nodes any order will do. An event of a node that is not known, or was removed, is ignored.
    pub fn on(&mut self, event: Event, now: Instant) -> Actions {
        let mut actions = Actions::default();
        let heard = self.note(event, now, &mut actions);
        if self.identity.is_none() {
            self.identity = identify(&self.records);
        }
        self.follow(&mut actions);
        if let Some(node) = heard {
            self.hear(node, now, &mut actions);
        }
        self.refresh(&mut actions);
        actions
    }

    pub fn snapshot(&self) -> Snapshot {
        let (primary, timeline) = match self.following {
            Following::Undecided => (None, Timeline::default()),
            Following::Node { id, timeline } => (Some(id), timeline),
            Following::Vacant { timeline, .. } => (None, timeline),
        };
        Snapshot {
            epoch: self.epoch,
            primary,
            writes: if self.permission == Writes::Held { Writes::Held } else { self.writes },
            timeline,
            wal: self.wal(primary),
            nodes: self.views.clone(),
            marks: self.primary_marks(),
            recovered: primary.and_then(|id| self.answer(id)).and_then(|answer| answer.recovered),
            ended: Arc::clone(&self.ended),
        }
    }

    /// The nodes of a cluster share it.
    fn wal(&self, primary: Option<NodeId>) -> WalGeometry {
        let answer = primary.and_then(|id| self.answer(id)).or_else(|| self.records.iter().find_map(Record::answer));
        answer.map_or(WalGeometry::STANDARD, |answer| answer.wal)
    }

    fn primary_marks(&self) -> Vec<PrimaryMark> {
        self.marks.points().iter().map(|point| PrimaryMark { asked_at: point.at, lsn: point.lsn }).collect()
    }

    /// Returns the node whose position was heard, if the event brought one.
    fn note(&mut self, event: Event, now: Instant, actions: &mut Actions) -> Option<NodeId> {
        match event {
            Event::Answered { node, asked_at, answer } => {
                self.known(node)?.answered(asked_at, *answer);
                return Some(node);
            }
            Event::Sampled { node, asked_at, progress } => {
                self.known(node)?.sampled(asked_at, progress);
                return Some(node);
            }
            Event::Configured(specs) => self.configure(specs),
            Event::Failed { node, failure } => self.known(node)?.failed(failure),
            Event::Knocked { node, door } => self.known(node)?.door = door,
            Event::Drained { node } => self.known(node)?.drained = true,
            Event::Undrained { node } => self.known(node)?.drained = false,
            Event::Held => self.writes = Writes::Held,
            Event::Released => self.writes = Writes::Open,
            Event::Forked(forks) => self.forks = forks,
            Event::Marked(epoch) => self.marked = epoch,
            Event::Appointed { node, epoch, timeline } => {
                self.known(node)?;
                self.bound = self.bound.and(Some(node));
                self.appoint(node, epoch, timeline, now, actions);
            }
            Event::Recorded { node, epoch, timeline } => {
                self.known(node)?;
                self.bound = Some(node);
                self.recorded(node, epoch, timeline, now, actions);
            }
            Event::Bound { node } => self.bound = node,
            Event::Barred => self.permission = Writes::Held,
            Event::Admitted => self.permission = Writes::Open,
            Event::Remembered { node, timeline } => {
                self.known(node)?;
                if self.following == Following::Undecided {
                    // Nobody else may be the primary, but by a promotion since.
                    self.following = Following::Vacant { was: node, timeline };
                }
            }
        }
        None
    }

    fn known(&mut self, node: NodeId) -> Option<&mut Record> {
        self.records.get_mut(usize::from(node.0)).filter(|record| !record.is_removed())
    }

    /// Nodes keep their numbers by name, also when they are removed and come back.
    fn configure(&mut self, specs: Vec<NodeSpec>) {
        for record in &mut self.records {
            if !record.is_removed() && !specs.iter().any(|spec| spec.name == record.spec.name) {
                record.removed();
            }
        }
        for spec in specs {
            match self.records.iter_mut().find(|record| record.spec.name == spec.name) {
                Some(record) if record.is_removed() || record.spec.address != spec.address => record.replaced(spec),
                Some(record) => record.spec = spec,
                None => self.records.push(Record::new(spec)),
            }
        }
        let ours = |record: &Record| {
            !record.is_removed() && record.answer().map(|answer| answer.system_identifier) == self.identity
        };
        if self.identity.is_some() && !self.records.iter().any(ours) {
            // None of the nodes that made up the cluster is left: this is another one.
            self.identity = None;
            self.following = Following::Undecided;
        }
    }

    /// Follows a node that has been made the primary.
    fn appoint(&mut self, id: NodeId, epoch: u64, timeline: Timeline, now: Instant, actions: &mut Actions) {
        self.records[usize::from(id.0)].appointed(timeline, now);
        self.writes = Writes::Open;
        self.epoch = self.epoch.max(epoch.saturating_sub(1));
        self.take(id, timeline, actions);
    }

    /// Follows the node that others have made the primary.
    fn recorded(&mut self, id: NodeId, epoch: u64, timeline: Timeline, now: Instant, actions: &mut Actions) {
        self.writes = Writes::Open;
        match self.following {
            Following::Node { id: current, timeline: known } if current == id && known >= timeline => {}
            _ if self.records[usize::from(id.0)].answer().is_some() => {
                self.appoint(id, epoch, timeline, now, actions);
            }
            // As soon as it says so itself.
            _ => {
                self.following = Following::Vacant { was: id, timeline };
                self.epoch = self.epoch.max(epoch.saturating_sub(1));
            }
        }
    }

    fn take(&mut self, id: NodeId, timeline: Timeline, actions: &mut Actions) {
        let left = self.leave_for(id, timeline);
        self.begin_epoch();
        if let Some(Change::LogLeft { kept, .. }) = left {
            self.end_logs(|_| Some(kept));
        }
        self.following = Following::Node { id, timeline };
        self.mark(id, actions);
        actions.changes.extend(left);
        actions.changes.push(Change::Following { node: id, epoch: self.epoch, timeline });
        // The replicas' timelines tell who follows it.
        let others = numbered(&self.records).filter(|(other, record)| *other != id && !record.is_removed());
        actions.probe.extend(others.map(|(other, _)| other));
    }

    /// What is left behind with a primary whose timeline has the same number as that of its successor, but is another one.
    fn leave_for(&self, node: NodeId, timeline: Timeline) -> Option<Change> {
        let (was, before) = match self.following {
            Following::Node { id, timeline } | Following::Vacant { was: id, timeline } => (id, timeline),
            Following::Undecided => return None,
        };
        let renamed = self.records[usize::from(was.0)].is_removed();
        if was == node || before != timeline || renamed {
            return None;
        }
        let recovered = |id| self.answer(id).and_then(|answer| answer.recovered);
        let oldest = self.marks.points().first().map(|point| point.lsn);
        // Both began at their recovery's end. Who does not know where that was began before it was first heard.
        let kept = [recovered(node), recovered(was), oldest].into_iter().flatten().min()?;
        let end = self.marks.newest()?.lsn;
        Some(Change::LogLeft { node, was, kept, end })
    }

    fn follow(&mut self, actions: &mut Actions) {
        if self.writes == Writes::Held {
            return;
        }
        let verdict = self.following.judge(&self.records, self.identity, self.bound, self.marked, &self.forks);
        let contested = match &verdict {
            Verdict::Contested(nodes) => nodes.clone(),
            _ if self.identity.is_none() => unidentified(&self.records),
            _ => Vec::new(),
        };
        if contested != self.contested {
            if !contested.is_empty() {
                actions.changes.push(Change::Contested { nodes: contested.clone() });
            }
            self.contested = contested;
        }
        match verdict {
            Verdict::Keep | Verdict::Contested(_) => {}
            Verdict::Follow { id, timeline } => {
                self.take(id, timeline, actions);
            }
            Verdict::StepDown { was, timeline } => {
                self.following = Following::Vacant { was, timeline };
                actions.changes.push(Change::Leaderless { was });
                self.follow(actions);
            }
        }
    }

    fn begin_epoch(&mut self) {
        let timeline = match self.following {
            Following::Undecided => None,
            Following::Node { timeline, .. } | Following::Vacant { timeline, .. } => Some(timeline),
        };
        if let Some(timeline) = timeline {
            let log = EndedLog { epoch: self.epoch, timeline, marks: self.primary_marks(), kept: None };
            let surplus = (self.ended.len() + 1).saturating_sub(ENDED_LOGS);
            self.ended = self.ended.iter().skip(surplus).cloned().chain([log]).collect();
        }
        self.epoch += 1;
        self.marks.clear();
        self.flushes.clear();
    }

    /// A new position: a mark if it is the primary's, a new lag if it is a replica's.
    fn hear(&mut self, node: NodeId, now: Instant, actions: &mut Actions) {
        let index = usize::from(node.0);
        match self.following {
            Following::Node { id, timeline } if id == node => {
                self.mark(node, actions);
                let record = &self.records[index];
                if let (Some(heard), Some(_)) = (record.position(), record.writable_on()) {
                    let others = self.records.iter_mut().enumerate().filter(|(other, _)| *other != index);
                    others.for_each(|(_, other)| other.compare(timeline, heard.asked_at));
                }
            }
            Following::Node { id, timeline } => {
                let record = &self.records[index];
                let rival = record
                    .writable_on()
                    .is_some_and(|claimed| claimed > timeline || (claimed == timeline && record.barred_on().is_none()));
                if rival {
                    // It was promoted: is the primary still there?
                    actions.probe.push(id);
                }
                let voice = self.records[usize::from(id.0)].voice();
                let log = PrimaryLog { trail: &self.flushes, timeline, voice };
                self.records[index].measure(&log, now);
            }
            Following::Vacant { timeline, .. } => {
                let log = PrimaryLog { trail: &self.flushes, timeline, voice: Voice::Gone };
                self.records[index].measure(&log, now);
            }
            Following::Undecided => {}
        }
    }

    fn mark(&mut self, node: NodeId, actions: &mut Actions) {
        let record = &self.records[usize::from(node.0)];
        let (Some(sample), Some(answer)) = (record.position(), record.answer()) else { return };
        let flush = flushed(&answer.stage).unwrap_or(sample.lsn);
        let (recovered, timeline) = (answer.recovered, answer.timeline);
        let shorter = self.marks.newest().filter(|last| sample.asked_at > last.at && sample.lsn < last.lsn);
        if let Some(last) = shorter {
            self.begin_epoch();
            let (from, to) = (last.lsn, sample.lsn);
            actions.changes.push(Change::LogLost { node, epoch: self.epoch, from, to });
        }
        self.end_logs(|log| match recovered {
            // The same log, which is all there unless it has just been found shorter.
            _ if log.timeline == timeline && shorter.is_none() => Some(sample.lsn),
            None if log.timeline == timeline => Some(sample.lsn),
            recovered => recovered.map(|end| end.min(sample.lsn)),
        });
        self.marks.push(Point { at: sample.asked_at, lsn: sample.lsn });
        self.flushes.push(Point { at: sample.asked_at, lsn: flush.min(sample.lsn) });
    }

    /// The primary of this epoch has spoken: up to where does its history have the logs before it?
    fn end_logs(&mut self, kept: impl Fn(&EndedLog) -> Option<Lsn>) {
        if self.ended.iter().any(|log| log.kept.is_none()) {
            let end = |log: &EndedLog| EndedLog { kept: log.kept.or_else(|| kept(log)), ..log.clone() };
            self.ended = self.ended.iter().map(end).collect();
        }
    }

    /// Brings the views up to date, and reports what operators should see.
    fn refresh(&mut self, actions: &mut Actions) {
        for (id, record) in numbered(&self.records) {
            let role = record.role(id, &self.following, self.identity);
            // A candidate is writable for a moment before it is appointed.
            let role = if self.writes == Writes::Held && role == Role::Stray { Role::Unknown } else { role };
            let mut view = record.view(id, role, self.identity, &self.limits);
            if let Some(trouble) = self.quarantine(record, &view) {
                (view.state, view.trouble, view.fresh) = (State::Quarantined, Some(trouble), false);
            }
            if self.contested.contains(&id) {
                view.trouble = view.trouble.or(Some(Trouble::Contested));
            }
            match self.views.get_mut(usize::from(id.0)) {
                Some(old) => {
                    report(old, &view, &mut actions.changes);
                    *old = view;
                }
                None => self.views.push(view),
            }
        }
    }

    /// Why a node that answers must not be used: it has writes of its own, or may get some.
    fn quarantine(&self, record: &Record, view: &NodeView) -> Option<Trouble> {
        match (view.state, view.role) {
            (State::Up, Role::Stray) => Some(Trouble::SecondPrimary),
            (State::Up, Role::Replica) => record.left_at(&self.forks).map(Trouble::Diverged),
            _ => None,
        }
    }
}

fn report(old: &NodeView, new: &NodeView, changes: &mut Vec<Change>) {
    let node = new.id;
    if old.role != new.role {
        changes.push(Change::Role { node, from: old.role, to: new.role });
    }
    if old.state != new.state || (old.trouble != new.trouble && new.trouble.is_some()) {
        changes.push(Change::State { node, from: old.state, to: new.state, trouble: new.trouble });
    }
    if new.role == Role::Replica && new.state == State::Up {
        match (old.fresh, new.fresh) {
            (true, false) => changes.push(Change::Lagging { node, lag: new.lag }),
            (false, true) => changes.push(Change::CaughtUp { node, lag: new.lag }),
            (true, true) | (false, false) => {}
        }
    }
}
