//! The machine: what it knows, and what it does while no change of primary is under way.

use std::time::{Duration, Instant};

use super::change::Change;
use super::clock::WallClock;
use super::elect::{Choice, Terms, Unelectable, elect};
use super::event::{Actions, Ended, Event, Job, Outcome, Purpose, Routing, Writing};
use super::follow::Obedience;
use super::ordered::Maintaining;
use super::repair::{Repairs, Scope, Source};
use super::suspicion::{Refusal, Suspicion, Testimony, testimony};
use super::world::{Contact, Log, Member, World};
use super::{Guards, Maintenance, Progress, Record, Synchronous};
use crate::decide::route::{NodeId, Role};

/// After an attempt that was called off, the next one has to wait for so long.
const AFTER_UNDOING: Duration = Duration::from_secs(3);
/// How often things are looked at anew while the primary is suspected.
pub(super) const LOOK: Duration = Duration::from_millis(100);
/// .. and while it is not.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// The `[failover]` section, as far as it decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Whether anything is done without being ordered.
    pub automatic: bool,
    pub detect_after: Duration,
    pub refused_after: Duration,
    pub start_timeout: Duration,
    pub min_interval: Duration,
    pub switchover_timeout: Duration,
    /// Bytes.
    pub max_data_loss: u64,
    pub require_fence: bool,
}

/// Decides about changes of primary. One per pgpilot.
#[derive(Debug)]
pub struct Machine {
    pub(super) rules: Rules,
    pub(super) clock: WallClock,
    pub(super) record: Record,
    pub(super) world: World,
    pub(super) phase: Phase,
    pub(super) repairs: Repairs,
    /// When the last change ended.
    pub(super) changed_at: Option<Instant>,
    /// Nothing is attempted before.
    pub(super) not_before: Option<Instant>,
    /// What the last change came to.
    pub(super) last: Option<String>,
    /// The record could not be written: when to try again.
    pub(super) unsaved: Option<Instant>,
    /// An order for maintenance that is being written down.
    pub(super) maintaining: Option<Maintaining>,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Nothing is known yet of what was decided before.
    Asleep,
    /// It is, but not yet of the nodes.
    Waking,
    /// What was decided is about another cluster than the nodes, for this reason.
    Estranged(String),
    Steady,
    Suspect(Suspicion),
    Changing(Box<Change>),
    /// Another instance decides.
    Following(Obedience),
}

/// What operators see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Stable: a metric label.
    pub state: &'static str,
    pub epoch: u64,
    pub maintenance: Maintenance,
    pub candidate: Option<NodeId>,
    pub since: Option<Instant>,
    /// What the last change came to.
    pub last: Option<String>,
    /// Why nothing is done, if the primary is in trouble.
    pub reason: Option<String>,
}

impl Machine {
    pub fn new(rules: Rules, clock: WallClock) -> Self {
        Self {
            rules,
            clock,
            record: Record::default(),
            world: World::default(),
            phase: Phase::Asleep,
            repairs: Repairs::default(),
            changed_at: None,
            not_before: None,
            last: None,
            unsaved: None,
            maintaining: None,
        }
    }

    /// After a reload. What is under way goes on by the new rules.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    pub fn on(&mut self, event: Event, now: Instant) -> Actions {
        let mut actions = Actions::default();
        // What it came to is told before anything else happens.
        let maintaining = self.maintaining.take();
        match event {
            Event::Restored(record) => {
                self.changed_at = record.changed_at.and_then(|unix| self.clock.moment(unix, now));
                self.record = record;
                self.phase = Phase::Waking;
                if self.record.progress != Progress::Steady {
                    actions.routing = Some(Routing::Hold);
                }
            }
            Event::Followed(record) => self.followed(record, now, &mut actions),
            Event::Seen(world) => self.seen(world, now, &mut actions),
            Event::Ended { job, outcome } => self.ended(job, outcome, now, &mut actions),
            Event::NotRecorded(writing, why) => match maintaining {
                Some(order) => self.not_maintained(&order, &why, &mut actions),
                None => self.not_recorded(&writing, &why, now, &mut actions),
            },
            Event::Ordered { order, ticket } => self.ordered(order, ticket, now, &mut actions),
        }
        // That order is written down by itself.
        if self.maintaining.is_none() && matches!(self.phase, Phase::Steady | Phase::Suspect(_)) {
            self.keep_watch(now, &mut actions);
        }
        actions.wake = Some(self.next_look(now));
        actions
    }

    /// When a switchover that is under way is to have reached the promotion: nothing before that may take longer.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Changing(change) => change.deadline(&self.rules),
            _ => None,
        }
    }

    pub fn status(&self) -> Status {
        let (state, candidate, since, reason) = match &self.phase {
            Phase::Asleep | Phase::Waking => ("starting", None, None, None),
            Phase::Estranged(why) => ("estranged", None, None, Some(why.clone())),
            Phase::Steady => ("steady", None, None, None),
            Phase::Following(_) => ("following", None, None, None),
            Phase::Suspect(suspicion) => ("suspect", None, Some(suspicion.since), suspicion.blocked.clone()),
            Phase::Changing(change) => (change.step.label(), change.candidate(), Some(change.begun), None),
        };
        let (epoch, maintenance, last) = (self.record.epoch, self.record.maintenance, self.last.clone());
        Status { state, epoch, maintenance, candidate, since, last, reason }
    }

    fn seen(&mut self, world: World, now: Instant, actions: &mut Actions) {
        self.world = world;
        match (&self.phase, self.strangeness()) {
            (Phase::Waking, Some(why)) => return self.estrange(why, actions),
            (Phase::Estranged(_), Some(_)) => return,
            (Phase::Estranged(_), None) => self.phase = Phase::Waking,
            _ => {}
        }
        self.fill_in();
        match &self.phase {
            Phase::Asleep | Phase::Estranged(_) => {}
            Phase::Waking => self.wake_up(now, actions),
            Phase::Steady | Phase::Suspect(_) => self.take_note(actions),
            Phase::Changing(_) => self.change_seen(now, actions),
            Phase::Following(obedience) => self.obey_still(*obedience, actions),
        }
    }

    /// One that no primary has had: what an earlier pgpilot decided may not have been written down.
    pub(super) fn next_epoch(&self) -> u64 {
        let marked = self.world.nodes.iter().map(|node| node.marked).max().unwrap_or_default();
        self.record.epoch.max(self.record.marked).max(marked) + 1
    }

    /// Writes down who the primary is, when that is news.
    pub(super) fn take_note(&mut self, actions: &mut Actions) {
        let Some(primary) = self.world.primary.and_then(|id| self.world.node(id)) else { return };
        if primary.contact != Contact::Up || primary.role != Role::Primary {
            return;
        }
        let known = self.record.primary.as_ref() == Some(&primary.name);
        let record = Record {
            epoch: if known { self.record.epoch } else { self.next_epoch() },
            system: self.world.system,
            primary: Some(primary.name.clone()),
            timeline: self.world.timeline,
            synchronous: self.world.synchronous.clone().unwrap_or_default(),
            strangers: self.world.strangers.unwrap_or_default(),
            marked: self.record.marked.max(primary.marked),
            // It goes on writing.
            written: None,
            ..self.record.clone()
        };
        if record == self.record {
            return;
        }
        let (old, new) = (Synchronous::parse(&self.record.synchronous), Synchronous::parse(&record.synchronous));
        if new.quorum < old.quorum {
            let text = format!(
                "lets commits wait for {} standbys (synchronous_standby_names = '{}'), where they waited for {} ('{}'): \
                 what is acknowledged now may be lost with it",
                new.quorum, record.synchronous, old.quorum, self.record.synchronous
            );
            actions.alarm(Some(primary.id), text);
        }
        if record.primary != self.record.primary {
            self.repairs.forget();
        }
        let promoted_by_others = record.timeline > self.record.timeline;
        self.record = record;
        if promoted_by_others {
            self.record.forks.clear();
        }

        actions.record = Some(Writing::Also(self.record.clone()));
    }

    fn not_recorded(&mut self, writing: &Writing, why: &str, now: Instant, actions: &mut Actions) {
        actions.alarm(None, format!("what was decided cannot be written down: {why}"));
        let given_up = match &mut self.phase {
            Phase::Changing(change) => change.given_up.take(),
            _ => None,
        };
        match (writing, given_up) {
            (Writing::First(_), Some(choice)) => self.reinstate(choice, why, now, actions),
            (Writing::First(_), None) => {
                if let Progress::Promoting { .. } = self.record.progress {
                    // Nobody has been: what is written down while it is undone may not have the next pgpilot do it.
                    self.record.progress = Progress::Preparing;
                }
                self.undo(format!("it cannot be written down: {why}"), now, actions);
            }
            (Writing::Also(_), _) => self.unsaved = Some(now + AFTER_UNDOING),
        }
    }

    fn ended(&mut self, job: Job, outcome: Outcome, now: Instant, actions: &mut Actions) {
        if let Phase::Following(_) = self.phase {
            return self.let_go(job, &outcome, actions);
        }
        let error = outcome.as_ref().err().map(String::as_str);
        match job {
            Job::Follow { node, primary } | Job::Rejoin { node, primary } => {
                let current = self.world.primary == Some(primary) || matches!(self.phase, Phase::Changing(_));
                if current {
                    self.repairs.ended(node, self.soundness(primary), error, now, actions);
                }
            }
            Job::Resume { node } if self.repairs.wants(node) && !matches!(self.phase, Phase::Changing(_)) => {
                self.repairs.ended(node, self.soundness(node), error, now, actions);
                if error.is_none() {
                    self.repairs.done(node);
                    self.record.progress = Progress::Steady;
                    actions.record = Some(Writing::Also(self.record.clone()));
                    actions.inform(Some(node), "takes writes again");
                }
            }
            Job::Announce { primary, .. } => {
                if let Some(error) = error {
                    actions.alarm(Some(primary), format!("post_promote failed: {error}"));
                }
            }
            job => self.change_ended(job, outcome, now, actions),
        }
    }

    /// Whether a node that does not follow this one has itself to blame.
    fn soundness(&self, primary: NodeId) -> Source {
        let is_changing = matches!(self.phase, Phase::Changing(_));
        let node = self.world.node(primary).filter(|_| !is_changing && self.world.primary == Some(primary));
        match node {
            Some(node) if node.contact == Contact::Up && node.role == Role::Primary => Source::Sound,
            _ => Source::Doubtful,
        }
    }

    fn keep_watch(&mut self, now: Instant, actions: &mut Actions) {
        if self.unsaved.is_some_and(|at| at <= now) {
            self.unsaved = None;
            actions.record = Some(Writing::Also(self.record.clone()));
        }
        if let Some((old, new)) = self.successor() {
            return self.adopt(old, new, now, actions);
        }
        let (Some(primary), Some(contact)) = (self.world.primary, self.world.primary_contact()) else {
            self.phase = Phase::Steady;
            return;
        };
        match (contact, &mut self.phase) {
            (Contact::Up, phase) => {
                if let Phase::Suspect(suspicion) = phase {
                    actions.inform(Some(primary), "answers again");
                    if let Refusal::Since(_) = suspicion.refusal {
                        actions.ended = Some((Purpose::Failover, Ended::Refused));
                    }
                }
                self.phase = Phase::Steady;
                self.look_after_left(primary, now, actions);
                let scope = self.scope();
                self.repairs.look(&self.world, primary, scope, now, actions);
                self.repairs.begin(primary, scope, now, actions);
                self.remember_rejoining(actions);
            }
            (Contact::Unknown | Contact::Removed, _) => {}
            (_, Phase::Suspect(suspicion)) if suspicion.primary == primary => {
                if now.saturating_duration_since(suspicion.since) >= Suspicion::patience(contact, &self.rules) {
                    self.judge(primary, now, actions);
                }
            }
            (_, phase) => *phase = Phase::Suspect(Suspicion::new(primary, now)),
        }
    }

    /// What is repaired while nothing else is to be done.
    fn scope(&self) -> Scope {
        if self.acts_alone() { Scope::Everything } else { Scope::Decided }
    }

    /// Without an order.
    fn acts_alone(&self) -> bool {
        self.rules.automatic && self.record.maintenance == Maintenance::Off
    }

    /// The primary has been out of reach for long enough.
    fn judge(&mut self, primary: NodeId, now: Instant, actions: &mut Actions) {
        let terms = Terms { waived: Guards::empty(), to: None, max_data_loss: self.rules.max_data_loss };
        let why = match self.obstacle(now).or_else(|| self.preview(&terms).err().map(|error| error.to_string())) {
            None => {
                actions.alarm(Some(primary), "is lost: failover begins");
                return self.begin(Purpose::Failover, primary, terms, None, now, actions);
            }
            Some(why) => why,
        };
        let wanted = self.acts_alone();
        if !wanted {
            // Nobody takes its place.
            self.repairs.begin(primary, Scope::Primary, now, actions);
        }
        let Phase::Suspect(suspicion) = &mut self.phase else { return };
        if wanted && suspicion.counts(&self.rules, now) {
            actions.ended = Some((Purpose::Failover, Ended::Refused));
        }
        if suspicion.blocked.as_ref() != Some(&why) {
            actions.alarm(Some(primary), format!("is out of reach, and no failover is begun: {why}"));
            suspicion.blocked = Some(why);
        }
    }

    /// What forbids an automatic failover, besides the candidates.
    fn obstacle(&self, now: Instant) -> Option<String> {
        if !self.rules.automatic {
            return Some("automatic failover is off".to_owned());
        }
        if self.record.maintenance == Maintenance::On {
            return Some("maintenance".to_owned());
        }
        match testimony(&self.world) {
            Testimony::Lost => {}
            Testimony::Alive(witness) => {
                return Some(format!("replica {} hears it: it is unreachable, not dead", self.world.name(witness)));
            }
            Testimony::NoWitness => return Some("no replica can be asked".to_owned()),
        }
        if self.not_before.is_some_and(|at| now < at) {
            return self.last.clone();
        }
        self.too_soon(now).then(|| "the last change of primary was a moment ago".to_owned())
    }

    pub(super) fn too_soon(&self, now: Instant) -> bool {
        self.changed_at.is_some_and(|at| now.saturating_duration_since(at) < self.rules.min_interval)
    }

    /// Who would be promoted, if what the replicas said last is true.
    pub(super) fn preview(&self, terms: &Terms) -> Result<Choice, Unelectable> {
        self.choose(&self.logs(), terms)
    }

    /// What the replicas said last.
    pub(super) fn logs(&self) -> Vec<(NodeId, Log)> {
        self.eligible().filter_map(|node| Some((node.id, node.log?))).collect()
    }

    /// Replicas that answer, but for those that may be none any more.
    pub(super) fn eligible(&self) -> impl Iterator<Item = &Member> {
        let stuck = self.stuck_candidate().map(|choice| choice.candidate);
        self.world
            .replicas()
            .filter(move |node| Some(node.id) != stuck && !self.record.abandoned.contains_key(&node.name))
    }

    pub(super) fn choose(&self, logs: &[(NodeId, Log)], terms: &Terms) -> Result<Choice, Unelectable> {
        let to = terms.to.and_then(|id| self.world.node(id));
        if let Some(to) = to.filter(|to| self.record.abandoned.contains_key(&to.name)) {
            let why = "it was given up as a candidate, and does not follow the primary yet";
            return Err(Unelectable::Unfit(to.name.to_string(), why));
        }
        if !self.record.is_bereft() && self.stuck_candidate().is_none() {
            return elect(&self.world, &self.world.rule(), logs, terms);
        }
        // Some may have followed the candidate that is given up to its timeline: that one goes on then.
        let newest = logs.iter().map(|(_, log)| log.timeline).max().unwrap_or_default();
        let world = World { timeline: newest.max(self.world.timeline), ..self.world.clone() };
        elect(&world, &world.rule(), logs, terms)
    }

    fn next_look(&self, now: Instant) -> Instant {
        let own = match &self.phase {
            Phase::Asleep | Phase::Waking | Phase::Estranged(_) | Phase::Steady | Phase::Following(_) => {
                now + IDLE_LOOK
            }
            Phase::Suspect(_) | Phase::Changing(_) => now + LOOK,
        };
        let steady = matches!(self.phase, Phase::Steady);
        let repair = self.repairs.next(self.scope()).filter(|_| steady);
        [Some(own), repair, self.unsaved].into_iter().flatten().min().unwrap_or(own).max(now + LOOK / 10)
    }

    /// The attempt is over: the old primary stays.
    pub(super) fn back_to_steady(&mut self, now: Instant) {
        self.phase = Phase::Steady;
        self.not_before = Some(now + AFTER_UNDOING);
    }
}
