//! What is known of one node.

use std::time::{Duration, Instant};

use crate::decide::position::{Fork, Lsn, Timeline};
use crate::decide::route::{Lag, NodeId, NodeView, Role, Sample, State, Trouble};

use super::event::{Answer, Applying, Door, Failure, NodeSpec, Progress, Recovery, Stage};
use super::trail::{Reached, Trail};
use super::{Following, Limits};

/// A node's probes so far.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) spec: NodeSpec,
    standing: Standing,
    answer: Option<Answer>,
    /// What a replica had replayed when it told its timeline: later samples of its position do not tell that.
    replayed: Option<Lsn>,
    position: Option<Sample>,
    incarnation: u32,
    lag: Lag,
    /// The replica has everything that the primary had written by then.
    complete: Option<Instant>,
    fresh: bool,
    pub(super) door: Door,
    pub(super) drained: bool,
    /// It was made the primary then: what it was asked before tells of the replica that it was.
    appointed_at: Option<Instant>,
    /// The timeline that it writes without being anybody's successor there: it was seen to write it while the primary wrote
    /// one of the same number, or was a replica on it and has not been promoted.
    barred_on: Option<Timeline>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// No probe has ended yet.
    Unproven,
    Answering,
    /// Alive by its own words, but with something that it cannot do.
    Limited(Trouble),
    Failing {
        times: u32,
        trouble: Trouble,
    },
    Removed,
}

/// A node that was never heard has nothing to say after so many time-outs.
const SILENT: u32 = 3;

impl Record {
    pub(super) fn new(spec: NodeSpec) -> Self {
        Self {
            spec,
            standing: Standing::Unproven,
            answer: None,
            replayed: None,
            position: None,
            incarnation: 0,
            lag: Lag::default(),
            complete: None,
            fresh: false,
            door: Door::Open,
            drained: false,
            appointed_at: None,
            barred_on: None,
        }
    }

    pub(super) fn answer(&self) -> Option<&Answer> {
        self.answer.as_ref()
    }

    pub(super) fn position(&self) -> Option<Sample> {
        self.position
    }

    /// Another server under the same name: what was known of the old one is void.
    pub(super) fn replaced(&mut self, spec: NodeSpec) {
        let incarnation = self.incarnation + 1;
        *self = Self { incarnation, drained: self.drained, ..Self::new(spec) };
    }

    pub(super) fn removed(&mut self) {
        self.forget_position();
        self.standing = Standing::Removed;
    }

    pub(super) fn is_removed(&self) -> bool {
        self.standing == Standing::Removed
    }

    /// Whether it has had its say, or has none. A time-out or two may only mean that somebody is busy: what such a node would
    /// say of another history is waited for.
    pub(super) fn is_proven(&self) -> bool {
        match self.standing {
            Standing::Unproven => false,
            Standing::Failing { times, trouble: Trouble::Timeout } => times >= SILENT || self.answer.is_some(),
            _ => true,
        }
    }

    pub(super) fn is_answering(&self) -> bool {
        self.standing == Standing::Answering
    }

    /// The fork behind which a replica has replayed an older timeline's log: it can follow nobody any more.
    pub(super) fn left_at(&self, forks: &[Fork]) -> Option<Fork> {
        let Some(Answer { timeline, stage: Stage::Recovering(_), .. }) = &self.answer else { return None };
        let replayed = self.replayed?;
        forks.iter().copied().find(|fork| fork.timeline > *timeline && replayed > fork.at)
    }

    /// Whether a primary that said so before can still be one: it answers, or is alive and merely cannot be asked.
    pub(super) fn holds_on(&self) -> bool {
        match self.standing {
            Standing::Answering => true,
            Standing::Limited(trouble) => trouble != Trouble::Starting,
            Standing::Unproven | Standing::Failing { .. } | Standing::Removed => false,
        }
    }

    pub(super) fn voice(&self) -> Voice {
        match self.standing {
            Standing::Answering => Voice::Speaking,
            _ if self.holds_on() => Voice::Mute,
            _ => Voice::Gone,
        }
    }

    /// The timeline on which the node, by its last answer, is writable.
    pub(super) fn writable_on(&self) -> Option<Timeline> {
        match &self.answer {
            Some(Answer { stage: Stage::Writable { .. }, timeline, .. }) => Some(*timeline),
            _ => None,
        }
    }

    /// Whether it is writable, but has left the cluster's history before this epoch began.
    pub(super) fn is_outdated(&self, marked: u64) -> bool {
        self.writable_on().is_some() && self.marked() < marked
    }

    /// Whether it was found to be a replica when it was asked last, and answers.
    pub(super) fn is_recovering(&self) -> bool {
        let recovers = matches!(&self.answer, Some(Answer { stage: Stage::Recovering(_), .. }));
        self.is_answering() && recovers
    }

    /// Whether there is nobody that could be asked, also not somebody who only does not come to answering.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.standing, Standing::Failing { times: SILENT.., trouble: Trouble::Refused | Trouble::Lost })
    }

    pub(super) fn barred_on(&self) -> Option<Timeline> {
        self.barred_on
    }

    /// The primary has been heard at `heard`: if this one wrote its timeline before, there were two at one time.
    pub(super) fn compare(&mut self, timeline: Timeline, heard: Instant) {
        let wrote_before = self.position.is_some_and(|sample| sample.asked_at < heard);
        if wrote_before && self.is_answering() && self.writable_on() == Some(timeline) {
            self.barred_on = Some(timeline);
        }
    }

    /// The newest epoch that is written down in its database.
    pub(super) fn marked(&self) -> u64 {
        self.answer.as_ref().map_or(0, |answer| answer.marked)
    }

    /// It is the primary now, whatever its last answer says.
    pub(super) fn appointed(&mut self, timeline: Timeline, now: Instant) {
        self.appointed_at = Some(now);
        self.standing = Standing::Answering;
        if let Some(answer) = &mut self.answer {
            answer.timeline = answer.timeline.max(timeline);
            if let Stage::Recovering(recovery) = &answer.stage {
                let end = recovery.receive.max(recovery.replay).unwrap_or_default();
                answer.stage = Stage::Writable { insert: end, flush: end };
            }
        }
    }

    pub(super) fn answered(&mut self, asked_at: Instant, mut answer: Answer) {
        let recovering = matches!(answer.stage, Stage::Recovering(_));
        if recovering && self.appointed_at.is_some_and(|appointed| asked_at <= appointed) {
            return;
        }
        // Without a running receiver a replica knows its timeline only from its control file, which lags behind.
        if let (Some(old), Stage::Recovering(Recovery { receiver: None, .. })) = (&self.answer, &answer.stage) {
            answer.timeline = answer.timeline.max(old.timeline);
        }
        self.barred_on = match (&answer.stage, &self.answer) {
            (Stage::Recovering(_), _) => None,
            (_, Some(Answer { stage: Stage::Recovering(_), timeline, .. })) if *timeline >= answer.timeline => {
                Some(answer.timeline)
            }
            _ => self.barred_on,
        };
        self.standing = Standing::Answering;
        let lsn = match &answer.stage {
            Stage::Writable { insert, .. } => Some(answer.wal.record_end(*insert)),
            Stage::Recovering(recovery) => recovery.replay,
        };
        let timeline = answer.timeline;
        self.replayed = match &answer.stage {
            Stage::Recovering(recovery) => recovery.replay,
            Stage::Writable { .. } => None,
        };
        self.answer = Some(answer);
        if let Some(lsn) = lsn {
            self.at(Sample { asked_at, timeline, lsn });
        }
    }

    /// The short answer says nothing of the timeline: it counts on the one last heard of, which is never too high.
    pub(super) fn sampled(&mut self, asked_at: Instant, progress: Progress) {
        let Some(answer) = &mut self.answer else { return };
        let lsn = match (&mut answer.stage, progress) {
            (Stage::Writable { insert, flush }, Progress::Written { insert: new_insert, flush: new_flush }) => {
                (*insert, *flush) = (new_insert, new_flush);
                answer.wal.record_end(new_insert)
            }
            (Stage::Recovering(recovery), Progress::Replayed(lsn)) => {
                recovery.replay = Some(lsn);
                recovery.applying = Applying::Busy;
                lsn
            }
            // It changed sides: the next whole probe tells.
            (Stage::Writable { .. }, Progress::Replayed(_)) | (Stage::Recovering(_), Progress::Written { .. }) => {
                return;
            }
        };
        let timeline = answer.timeline;
        self.at(Sample { asked_at, timeline, lsn });
    }

    fn at(&mut self, sample: Sample) {
        match self.position {
            Some(old) if sample.asked_at <= old.asked_at => {}
            Some(old) if sample.lsn < old.lsn => {
                self.forget_position();
                self.position = Some(sample);
            }
            _ => self.position = Some(sample),
        }
    }

    fn forget_position(&mut self) {
        self.incarnation += 1;
        self.position = None;
        self.lag = Lag::default();
        self.complete = None;
        self.fresh = false;
    }

    pub(super) fn failed(&mut self, failure: Failure) {
        if self.is_removed() {
            return;
        }
        // Whether it takes connections is asked of a node that answers.
        self.door = Door::Open;
        let trouble = failure.trouble();
        if matches!(failure, Failure::Lost | Failure::Refused) && self.position.is_some() {
            self.forget_position();
        }
        self.standing = match (failure, self.standing) {
            (Failure::Alive(_), _) => Standing::Limited(trouble),
            (_, Standing::Failing { times, .. }) => Standing::Failing { times: times.saturating_add(1), trouble },
            _ => Standing::Failing { times: 1, trouble },
        };
    }

    /// Compares the replica's newest position with the primary's log.
    pub(super) fn measure(&mut self, primary: &PrimaryLog<'_>, now: Instant) {
        let (Some(sample), Some(Answer { stage: Stage::Recovering(recovery), .. })) = (self.position, &self.answer)
        else {
            return;
        };
        // Of a whole record's beginning nothing can be replayed: what counts is that all that came has been.
        let reached = match (recovery.applying, recovery.receive) {
            (Applying::Waiting, Some(receive)) => receive.max(sample.lsn),
            _ => sample.lsn,
        };
        let Some(newest) = primary.trail.newest() else { return };
        // Once the primary is gone nothing more is written: the lag is that of its last word. While it is only mute, it
        // may write on.
        let (reference, all) = match primary.voice {
            Voice::Speaking => (now, now),
            Voice::Mute => (now, newest.at),
            Voice::Gone => (newest.at, newest.at),
        };
        let mut at_least = None;
        if sample.timeline == primary.timeline {
            match primary.trail.reached(reached) {
                Some(Reached::Everything) => self.complete = self.complete.max(Some(all)),
                Some(Reached::Until(at)) => self.complete = self.complete.max(Some(at)),
                Some(Reached::Before(at)) => at_least = Some(at),
                None => {}
            }
            self.lag.bytes = Some(newest.lsn.since(reached));
        } else {
            self.lag.bytes = None;
        }
        let since = |at: Instant| reference.saturating_duration_since(at);
        self.lag.time = self.complete.or(at_least).map(since);
        let limits = self.spec.lag;
        let (time, bytes) = match self.fresh {
            true => (limits.max, limits.bytes.map(|bytes| bytes.max)),
            false => (limits.recovery, limits.bytes.map(|bytes| bytes.recovery)),
        };
        let few_bytes = match (self.lag.bytes, bytes) {
            (_, None) => true,
            (Some(lag), Some(limit)) => lag <= limit.0,
            // On another timeline bytes do not compare: as it was, and the time counts.
            (None, Some(_)) => self.fresh,
        };
        self.fresh = few_bytes && self.complete.is_some_and(|at| since(at) <= time);
    }

    pub(super) fn role(&self, id: NodeId, following: &Following, identity: Option<u64>) -> Role {
        let Some(answer) = self.answer.as_ref().filter(|answer| identity == Some(answer.system_identifier)) else {
            return Role::Unknown;
        };
        match (&answer.stage, following) {
            (Stage::Recovering(_), _) => Role::Replica,
            (Stage::Writable { .. }, Following::Node { id: primary, .. }) if *primary == id => Role::Primary,
            (Stage::Writable { .. }, Following::Undecided) => Role::Unknown,
            (Stage::Writable { .. }, _) => Role::Stray,
        }
    }

    pub(super) fn view(&self, id: NodeId, role: Role, identity: Option<u64>, limits: &Limits) -> NodeView {
        let (state, trouble) = match self.standing {
            Standing::Unproven => (State::Unknown, None),
            Standing::Removed => (State::Removed, None),
            Standing::Failing { times, trouble } if times >= limits.failures => (State::Down, Some(trouble)),
            Standing::Failing { trouble, .. } => (State::Suspect, Some(trouble)),
            Standing::Limited(trouble) if self.holds_on() && self.answer.is_some() => (State::Up, Some(trouble)),
            Standing::Limited(trouble) => (State::Suspect, Some(trouble)),
            Standing::Answering => (State::Up, self.misfit(role, identity)),
        };
        let (lag, fresh) = match role {
            Role::Primary => (Lag { bytes: Some(0), time: Some(Duration::ZERO) }, self.position.is_some()),
            Role::Replica => (self.lag, self.fresh),
            Role::Unknown | Role::Stray => (Lag::default(), false),
        };
        NodeView {
            id,
            name: self.spec.name.clone(),
            zone: self.spec.zone.clone(),
            weight: self.spec.weight,
            role,
            state,
            trouble,
            incarnation: self.incarnation,
            position: self.position,
            lag,
            limits: self.spec.lag,
            fresh,
            drained: self.drained,
        }
    }

    fn misfit(&self, role: Role, identity: Option<u64>) -> Option<Trouble> {
        let found = self.answer.as_ref()?.system_identifier;
        match (role, identity) {
            (Role::Unknown, Some(expected)) if found != expected => Some(Trouble::ForeignSystem { found, expected }),
            (Role::Stray, _) => Some(Trouble::SecondPrimary),
            _ if self.door == Door::Shut => Some(Trouble::DoorShut),
            _ => None,
        }
    }
}

/// What replicas are measured against.
pub(super) struct PrimaryLog<'a> {
    pub(super) trail: &'a Trail,
    pub(super) timeline: Timeline,
    pub(super) voice: Voice,
}

/// What is heard of the primary at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    Speaking,
    /// It is alive, and cannot be asked.
    Mute,
    Gone,
}

/// Flushed positions count for lag: what is not flushed is not sent, and needs no waiting for.
pub(super) fn flushed(stage: &Stage) -> Option<Lsn> {
    match stage {
        Stage::Writable { flush, .. } => Some(*flush),
        Stage::Recovering(_) => None,
    }
}
