//! A change of primary, step by step.

use std::collections::BTreeSet;
use std::time::Instant;

use super::elect::{Choice, Terms};
use super::event::{Actions, Ended, Fact, Job, Outcome, Proof, Purpose, Routing, Ticket, Writing};
use super::machine::{Machine, Phase, Rules};
use super::repair::Way;
use super::suspicion::{Testimony, testimony};
use super::world::{Contact, World};
use super::{Guards, Log, Progress};
use crate::decide::route::{NodeId, Role};

/// A change of primary that is under way.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) purpose: Purpose,
    pub(super) old: NodeId,
    pub(super) terms: Terms,
    pub(super) begun: Instant,
    pub(super) step: Step,
    /// Whose order it is; `None`: nobody's.
    pub(super) ticket: Option<Ticket>,
    proof: Proof,
    treatment: Treatment,
    /// The candidate that was given up last, as long as it may turn out that this cannot be written down.
    pub(super) given_up: Option<Choice>,
    /// An earlier pgpilot has begun it: it may have seen the candidate promoted, and sent it writes, without being able
    /// to write that down.
    pub(super) is_resumed: bool,
}

/// What may have been done to the old primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    Nothing,
    /// It may be read-only or shut down: to be resumed if it stays the primary.
    Stopped,
}

/// Where it is. Up to `Promoting` it can be called off.
#[derive(Debug)]
pub(super) enum Step {
    /// A hook may forbid it.
    Approving,
    /// Switchover: what can be done before anybody has to wait.
    Readying,
    /// Switchover: nobody begins anything, and transactions end, at every instance.
    Quiescing {
        waiting: BTreeSet<Job>,
    },
    /// Switchover: the old primary stops.
    Stopping,
    /// Switchover: the candidate gets the end of the log.
    CatchingUp,
    /// Failover: every instance's connections to the old primary are closed, and it is fenced. Replicas that hear nothing
    /// of it any more are sealed meanwhile; `None`: when that is done.
    Fencing {
        waiting: BTreeSet<Job>,
        sealing: Option<Sealing>,
    },
    /// Failover: the replicas' logs come to rest.
    Sealing(Sealing),
    Promoting {
        choice: Choice,
        since: Instant,
        retry_at: Option<Instant>,
        /// So many tries have failed.
        failures: u32,
    },
    /// The candidate cannot be promoted, and may be replaced once it is fenced.
    Abandoning {
        choice: Choice,
    },
    Undoing {
        waiting: BTreeSet<Job>,
        why: String,
    },
}

/// Replicas that are being cut off from the old primary, and those that have been.
#[derive(Debug, Default)]
pub(super) struct Sealing {
    waiting: BTreeSet<NodeId>,
    sealed: Vec<(NodeId, Log)>,
}

impl Sealing {
    /// Gives out the jobs.
    pub(super) fn begin(nodes: impl IntoIterator<Item = NodeId>, actions: &mut Actions) -> Self {
        let waiting: BTreeSet<NodeId> = nodes.into_iter().collect();
        actions.jobs.extend(waiting.iter().map(|&node| Job::Seal { node }));
        Self { waiting, sealed: Vec::new() }
    }

    fn ended(&mut self, node: NodeId, outcome: Outcome, actions: &mut Actions) {
        self.waiting.remove(&node);
        match outcome {
            Ok(Fact::Sealed(log)) => self.sealed.push((node, log)),
            Ok(_) => {}
            Err(why) => actions.alarm(Some(node), format!("could not be cut off from the old primary: {why}")),
        }
    }

    fn undone_by(&self) -> Vec<Job> {
        let sealed = self.sealed.iter().map(|(node, _)| *node);
        self.waiting.iter().copied().chain(sealed).map(|node| Job::Unseal { node }).collect()
    }
}

impl Step {
    pub(super) fn promoting(choice: Choice, now: Instant) -> Self {
        Self::Promoting { choice, since: now, retry_at: None, failures: 0 }
    }

    /// Stable: a metric label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Approving => "approving",
            Self::Readying => "readying",
            Self::Quiescing { .. } => "quiescing",
            Self::Stopping => "stopping",
            Self::CatchingUp => "catching up",
            Self::Fencing { .. } => "fencing",
            Self::Sealing(_) => "sealing",
            Self::Promoting { .. } => "promoting",
            Self::Abandoning { .. } => "abandoning",
            Self::Undoing { .. } => "undoing",
        }
    }
}

impl Change {
    /// One that an earlier pgpilot has begun.
    pub(super) fn resumed(purpose: Purpose, old: NodeId, now: Instant, step: Step) -> Self {
        let terms = Terms { waived: Guards::empty(), to: None, max_data_loss: 0 };
        let (proof, treatment) = (Proof::Attempted, Treatment::Stopped);
        Self { purpose, old, terms, begun: now, step, ticket: None, proof, treatment, given_up: None, is_resumed: true }
    }

    pub(super) fn deadline(&self, rules: &Rules) -> Option<Instant> {
        let before_promotion = matches!(
            self.step,
            Step::Approving | Step::Readying | Step::Quiescing { .. } | Step::Stopping | Step::CatchingUp
        );
        (self.purpose == Purpose::Switchover && before_promotion).then(|| self.begun + rules.switchover_timeout)
    }

    /// Whether a failover is called off because its primary answers again, and nothing keeps that from taking writes.
    pub(super) fn yields(&self, world: &World, waived: Guards) -> bool {
        let old = world.node(self.old);
        let live = old.is_some_and(|node| node.contact == Contact::Up && node.role == Role::Primary);
        live && self.proof == Proof::Attempted && !waived.contains(Guards::LIVE_PRIMARY)
    }

    pub(super) fn candidate(&self) -> Option<NodeId> {
        match &self.step {
            Step::Promoting { choice, .. } | Step::Abandoning { choice } => Some(choice.candidate),
            _ => self.terms.to,
        }
    }
}

impl Machine {
    pub(super) fn begin(
        &mut self,
        purpose: Purpose,
        old: NodeId,
        terms: Terms,
        ticket: Option<Ticket>,
        now: Instant,
        actions: &mut Actions,
    ) {
        if purpose != Purpose::Switchover {
            self.prepare(purpose, actions);
        }
        actions.jobs.push(Job::Approve { old, candidate: terms.to });
        let (step, proof, given_up) = (Step::Approving, Proof::Attempted, None);
        // An earlier switchover may have left it read-only, and that is not undone yet.
        let treatment = if self.repairs.wants(old) { Treatment::Stopped } else { Treatment::Nothing };
        let is_resumed = false;
        let change = Change { purpose, old, terms, begun: now, step, ticket, proof, treatment, given_up, is_resumed };
        self.phase = Phase::Changing(Box::new(change));
    }

    /// From now on nobody begins anything: other instances learn it from the record.
    fn prepare(&mut self, purpose: Purpose, actions: &mut Actions) {
        if self.record.primary.is_none() {
            // The first epoch, which began without a change, could not be written down, or there was no time for it.
            self.record.epoch = self.next_epoch();
            self.record.primary = self.world.primary.and_then(|id| self.world.node(id)).map(|node| node.name.clone());
            (self.record.system, self.record.timeline) = (self.world.system, self.world.timeline);
            self.record.synchronous = self.world.synchronous.clone().unwrap_or_default();
            self.record.strangers = self.world.strangers.unwrap_or_default();
        }
        self.record.epoch = self.next_epoch();
        (self.record.purpose, self.record.progress) = (purpose, Progress::Preparing);
        self.record.written = self.world.written;
        actions.record = Some(Writing::First(self.record.clone()));
        actions.routing = Some(Routing::Hold);
    }

    fn quiesce(&mut self, actions: &mut Actions) {
        let Phase::Changing(change) = &mut self.phase else { return };
        let jobs = [Job::Quiesce { node: change.old }, Job::Agree { node: change.old }];
        change.step = Step::Quiescing { waiting: jobs.into_iter().collect() };
        actions.jobs.extend(jobs);
        actions.inform(Some(change.old), "hands over: from now on nobody begins anything, and transactions end");
        self.prepare(Purpose::Switchover, actions);
    }

    /// The world has changed, or some time has passed.
    pub(super) fn change_seen(&mut self, now: Instant, actions: &mut Actions) {
        let Phase::Changing(change) = &mut self.phase else { return };
        // The jobs of the other steps end by this time themselves, and say why they did not succeed.
        let overdue = change.deadline(&self.rules).is_some_and(|at| at <= now);
        let yields = change.purpose != Purpose::Switchover && change.yields(&self.world, change.terms.waived);
        match &mut change.step {
            Step::Approving | Step::Fencing { .. } | Step::Sealing(_) if yields => {
                self.undo("the primary answers again".to_owned(), now, actions);
            }
            // There was nobody to be sealed when a candidate was given up.
            Step::Sealing(Sealing { waiting, .. }) if waiting.is_empty() => self.sealed(now, actions),
            Step::Quiescing { .. } | Step::CatchingUp if overdue => {
                let what = change.step.label();
                self.undo(format!("it was still {what} when its time was over"), now, actions);
            }
            Step::Promoting { choice, retry_at, .. } => {
                let node = choice.candidate;
                if retry_at.take_if(|at| *at <= now).is_some() {
                    actions.jobs.push(Job::Promote { node });
                }
                self.welcome(node, now, actions);
            }
            _ => {}
        }
    }

    /// One of the change's jobs has ended. One that the present step does not wait for is of a step that was given up.
    pub(super) fn change_ended(&mut self, job: Job, outcome: Outcome, now: Instant, actions: &mut Actions) {
        let Phase::Changing(change) = &mut self.phase else { return };
        match (&mut change.step, job) {
            (Step::Approving, Job::Approve { .. }) => self.approved(outcome, now, actions),
            (Step::Readying, Job::Ready { .. }) => match outcome {
                Ok(_) => self.quiesce(actions),
                Err(why) => self.undo(why, now, actions),
            },
            (Step::Quiescing { waiting }, job) if waiting.contains(&job) => {
                waiting.remove(&job);
                self.quiesced(outcome, now, actions);
            }
            (Step::Stopping, Job::Stop { to, .. }) => match outcome {
                Ok(Fact::Stopped(lsn)) => {
                    change.step = Step::CatchingUp;
                    actions.inform(Some(to), "gets the end of the log");
                    actions.jobs.push(Job::CatchUp { node: to, lsn });
                }
                Ok(_) => {}
                Err(why) => self.undo(why, now, actions),
            },
            (Step::CatchingUp, Job::CatchUp { node, .. }) => match outcome {
                Ok(Fact::Sealed(log)) => self.promote(Choice { candidate: node, log }, now, actions),
                Ok(_) => {}
                Err(why) => self.undo(why, now, actions),
            },
            (Step::Fencing { sealing: Some(sealing), .. }, Job::Seal { node }) => sealing.ended(node, outcome, actions),
            (Step::Fencing { waiting, .. }, job) if waiting.contains(&job) => {
                waiting.remove(&job);
                if let (Job::Agree { .. }, Err(why)) = (job, &outcome) {
                    // Somebody may still write there.
                    return self.undo(why.clone(), now, actions);
                }
                let done = waiting.is_empty();
                match outcome {
                    Ok(Fact::Fenced(proof)) => change.proof = proof,
                    Ok(_) => {}
                    Err(why) => actions.alarm(Some(change.old), format!("is not fenced: {why}")),
                }
                if done {
                    self.fenced(now, actions);
                }
            }
            (Step::Sealing(sealing), Job::Seal { node }) => {
                sealing.ended(node, outcome, actions);
                if sealing.waiting.is_empty() {
                    self.sealed(now, actions);
                }
            }
            // Not that of a candidate which was given up meanwhile.
            (Step::Promoting { choice, .. }, Job::Promote { node }) if choice.candidate == node => {
                self.promotion_ended(outcome, now, actions);
            }
            (Step::Abandoning { choice }, Job::Fence { node }) if choice.candidate == node => {
                let choice = *choice;
                self.candidate_fenced(choice, &outcome, now, actions);
            }
            (Step::Undoing { waiting, .. }, job) if waiting.contains(&job) => {
                waiting.remove(&job);
                self.undone(job, outcome, now, actions);
            }
            _ => {}
        }
    }

    /// This instance has come to rest, or all the others have, or somebody cannot.
    fn quiesced(&mut self, outcome: Outcome, now: Instant, actions: &mut Actions) {
        let Phase::Changing(change) = &mut self.phase else { return };
        if let Err(why) = outcome {
            return self.undo(why, now, actions);
        }
        if matches!(&change.step, Step::Quiescing { waiting } if waiting.is_empty()) {
            let (node, to) = (change.old, change.terms.to.unwrap_or(change.old));
            change.step = Step::Stopping;
            change.treatment = Treatment::Stopped;
            actions.inform(Some(node), "is stopped");
            actions.jobs.push(Job::Stop { node, to });
        }
    }

    fn approved(&mut self, outcome: Outcome, now: Instant, actions: &mut Actions) {
        let Phase::Changing(change) = &mut self.phase else { return };
        let node = change.old;
        match (outcome, change.purpose) {
            (Err(why), _) => self.undo(format!("pre_promote forbids it: {why}"), now, actions),
            (Ok(_), Purpose::Switchover) => {
                change.step = Step::Readying;
                let to = change.terms.to.unwrap_or(node);
                actions.jobs.push(Job::Ready { node, to, sender: self.world.sender(to) });
            }
            (Ok(_), Purpose::Failover | Purpose::Adoption) => {
                let jobs = [Job::Sever { node }, Job::Agree { node }, Job::Fence { node }];
                actions.jobs.extend(jobs);
                let fails_over = change.purpose == Purpose::Failover;
                let lost = fails_over && testimony(&self.world) == Testimony::Lost;
                // One that still hears the old primary gets what that writes until it is fenced.
                let sealing = lost.then(|| Sealing::begin(self.eligible().map(|node| node.id), actions));
                let Phase::Changing(change) = &mut self.phase else { return };
                // A fence stops it, too, one way or the other.
                change.treatment = Treatment::Stopped;
                change.step = Step::Fencing { waiting: jobs.into_iter().collect(), sealing };
            }
        }
    }

    fn fenced(&mut self, now: Instant, actions: &mut Actions) {
        let Phase::Changing(change) = &mut self.phase else { return };
        let unproven = change.proof != Proof::Proven && !change.terms.waived.contains(Guards::FENCE);
        if self.rules.require_fence && unproven {
            return self.undo("the old primary is not proven to be fenced".to_owned(), now, actions);
        }
        if let (Purpose::Adoption, Some(candidate)) = (change.purpose, change.terms.to) {
            // It is a primary already, and its log is what it is.
            let log = Log { timeline: self.record.timeline, ..Log::default() };
            return self.promote(Choice { candidate, log }, now, actions);
        }
        let begun = match &mut change.step {
            Step::Fencing { sealing, .. } => sealing.take(),
            _ => None,
        };
        let sealing = begun.unwrap_or_else(|| Sealing::begin(self.eligible().map(|node| node.id), actions));
        let Phase::Changing(change) = &mut self.phase else { return };
        if sealing.waiting.is_empty() && sealing.sealed.is_empty() {
            return self.undo("no replica answers any more".to_owned(), now, actions);
        }
        let done = sealing.waiting.is_empty();
        change.step = Step::Sealing(sealing);
        if done {
            self.sealed(now, actions);
        }
    }

    fn sealed(&mut self, now: Instant, actions: &mut Actions) {
        let Phase::Changing(change) = &mut self.phase else { return };
        change.given_up = None;
        let Phase::Changing(change) = &self.phase else { return };
        let Step::Sealing(Sealing { sealed, .. }) = &change.step else { return };
        match self.choose(sealed, &change.terms) {
            Ok(choice) => self.promote(choice, now, actions),
            Err(why) => self.undo(why.to_string(), now, actions),
        }
    }

    /// Calls the change off.
    pub(super) fn undo(&mut self, why: String, now: Instant, actions: &mut Actions) {
        let Phase::Changing(change) = &self.phase else { return };
        let (old, treatment) = (change.old, change.treatment);
        let mut jobs: Vec<Job> = match &change.step {
            Step::Fencing { sealing: Some(sealing), .. } | Step::Sealing(sealing) => sealing.undone_by(),
            // Nobody was promoted: that could not be written down, or the candidate is fenced.
            Step::Promoting { .. } | Step::Abandoning { .. } => {
                self.repairs.forget();
                self.world.replicas().map(|node| Job::Unseal { node: node.id }).collect()
            }
            _ => Vec::new(),
        };
        if self.record.is_bereft() {
            // They were to follow the candidate that was given up.
            self.eligible()
                .map(|node| node.id)
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|id| self.repairs.want(id, Way::Follow, now));
        }
        if treatment == Treatment::Stopped {
            jobs.push(Job::Resume { node: old });
        }
        self.undo_by(jobs, why, now, actions);
    }

    pub(super) fn undo_by(&mut self, jobs: Vec<Job>, why: String, now: Instant, actions: &mut Actions) {
        let Phase::Changing(change) = &mut self.phase else { return };
        actions.alarm(Some(change.old), format!("stays the primary: {why}"));
        actions.jobs.clone_from(&jobs);
        let waiting: BTreeSet<Job> = jobs.into_iter().collect();
        let done = waiting.is_empty();
        change.step = Step::Undoing { waiting, why };
        if done {
            self.all_undone(now, actions);
        }
    }

    fn undone(&mut self, job: Job, outcome: Outcome, now: Instant, actions: &mut Actions) {
        if let Job::Resume { node } = job {
            // What an earlier change had left to be done is done with it, or begins anew.
            self.repairs.done(node);
        }
        match (job, outcome) {
            (Job::Unseal { node }, Err(_)) => self.repairs.want(node, Way::Follow, now),
            (Job::Resume { node }, Err(error)) => {
                actions.alarm(Some(node), format!("is still read-only, or shut down: {error}"));
                self.repairs.want(node, Way::Resume, now);
            }
            _ => {}
        }
        let Phase::Changing(change) = &self.phase else { return };
        if matches!(&change.step, Step::Undoing { waiting, .. } if waiting.is_empty()) {
            self.all_undone(now, actions);
        }
    }

    fn all_undone(&mut self, now: Instant, actions: &mut Actions) {
        let Phase::Changing(change) = std::mem::replace(&mut self.phase, Phase::Steady) else { return };
        let Step::Undoing { why, .. } = change.step else { return };
        let ended = if self.repairs.wants(change.old) {
            // There is something left to be undone, also by another pgpilot.
            Ended::Failed
        } else {
            self.record.progress = Progress::Steady;
            Ended::CalledOff
        };
        actions.record = Some(Writing::Also(self.record.clone()));
        actions.routing = Some(Routing::Release);
        actions.ended = Some((change.purpose, ended));
        self.last = Some(format!("called off: {why}"));
        actions.answers.extend(change.ticket.map(|ticket| (ticket, Err(why))));
        self.back_to_steady(now);
    }
}
