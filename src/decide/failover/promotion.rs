//! The promotion: of the candidate that was written down, or of another once that one is given up.

use std::time::{Duration, Instant};

use super::change::{Sealing, Step};
use super::elect::{Choice, Terms};
use super::event::{Actions, Ended, Fact, Job, Outcome, Proof, Purpose, Routing, Ticket, Writing};
use super::machine::{Machine, Phase};
use super::repair::{Cause, Scope, Way};
use super::world::{Contact, Hearing};
use super::{Guards, Progress, Record};
use crate::config::NodeName;
use crate::decide::position::{Lsn, Timeline};
use crate::decide::route::{NodeId, Role};

/// Between two tries to promote a candidate that does not answer.
const RETRY: Duration = Duration::from_millis(500);

impl Machine {
    pub(super) fn promote(&mut self, choice: Choice, now: Instant, actions: &mut Actions) {
        let Phase::Changing(change) = &mut self.phase else { return };
        let Some(node) = self.world.node(choice.candidate) else { return };
        self.record.progress = Progress::Promoting { candidate: node.name.clone(), decided: choice.log.replayed };
        actions.record = Some(Writing::First(self.record.clone()));
        actions.inform(Some(choice.candidate), format!("is promoted, with the log up to {}", choice.log.end));
        if node.drained && change.terms.to != Some(node.id) {
            actions.alarm(Some(node.id), "is drained, and promoted all the same: of the others, nobody may be");
        }
        if change.purpose == Purpose::Failover && self.world.rule().is_asynchronous() {
            let missing = self.world.written.map_or_else(
                || "nobody knows how much that is".to_owned(),
                |written| format!("of what was seen of it, {} bytes", written.since(choice.log.end)),
            );
            actions.alarm(
                Some(change.old),
                format!("commits are not replicated synchronously: what it had written behind that is lost: {missing}"),
            );
        }
        change.step = Step::promoting(choice, now);
        actions.jobs.push(Job::Promote { node: choice.candidate });
        // Those that follow already when the promotion comes go over to the new timeline by themselves.
        self.repairs.forget();
        if change.purpose != Purpose::Adoption {
            self.expect_others(choice.candidate);
        }
        self.welcome(choice.candidate, now, actions);
    }

    /// All but the candidate and those that come back another way, if they do, have to be told whom to follow.
    pub(super) fn expect_others(&mut self, candidate: NodeId) {
        let old = self.record.primary.as_ref();
        let others = self.world.present().filter(|node| {
            node.id != candidate && Some(&node.name) != old && !self.record.abandoned.contains_key(&node.name)
        });
        self.repairs.expect(others.map(|node| node.id));
    }

    pub(super) fn welcome(&mut self, candidate: NodeId, now: Instant, actions: &mut Actions) {
        self.repairs.welcome(&self.world, now);
        self.repairs.begin(candidate, Scope::Decided, now, actions);
    }

    pub(super) fn promotion_ended(&mut self, outcome: Outcome, now: Instant, actions: &mut Actions) {
        let Phase::Changing(change) = &mut self.phase else { return };
        let Step::Promoting { choice, since, retry_at, failures } = &mut change.step else { return };
        let choice = *choice;
        let (why, is_writable) = match outcome {
            Ok(Fact::Promoted { system, timeline, switched_at }) => {
                match verify(choice, self.record.system, system, timeline, switched_at) {
                    Ok(()) => return self.open(choice.candidate, timeline, switched_at, now, actions),
                    Err(why) => (why, true),
                }
            }
            Ok(_) => return,
            Err(why) => (why, false),
        };
        *failures += 1;
        // One that takes writes and is not what it should be does not come to be that by waiting.
        let is_wrong = is_writable && *failures == 1;
        if !is_wrong && now.saturating_duration_since(*since) < self.rules.start_timeout {
            *retry_at = Some(now + RETRY);
            actions.inform(Some(choice.candidate), format!("is not promoted yet: {why}"));
            return;
        }
        actions.alarm(Some(choice.candidate), format!("cannot be promoted: {why}"));
        if change.is_resumed {
            if is_writable {
                // No pgpilot has sent it anything: it would not have passed then either. Others may.
                actions.jobs.push(Job::Fence { node: choice.candidate });
            }
            // Fenced, one that does not answer would stay away, and nobody could take its place all the same.
            actions.alarm(
                Some(choice.candidate),
                "may have taken writes before pgpilot was restarted: it is waited for, and nobody else is promoted, until \
                 a forced failover with allow-unfenced and allow-data-loss gives it up",
            );
            change.step = Step::Promoting { choice, since: now, retry_at: Some(now + RETRY), failures: 1 };
            return;
        }
        change.step = Step::Abandoning { choice };
        actions.jobs.push(Job::Fence { node: choice.candidate });
    }

    pub(super) fn candidate_fenced(&mut self, choice: Choice, outcome: &Outcome, now: Instant, actions: &mut Actions) {
        let Phase::Changing(change) = &mut self.phase else { return };
        if *outcome != Ok(Fact::Fenced(Proof::Proven)) {
            actions.alarm(
                Some(choice.candidate),
                "is not proven to be fenced, so nobody else may be promoted: it is tried again, until a forced \
                 failover with allow-unfenced gives it up",
            );
            change.step = Step::Promoting { choice, since: now, retry_at: Some(now + RETRY), failures: 1 };
            return;
        }
        if change.purpose == Purpose::Switchover {
            // This one was to get everything first. Another one has to have it already.
            change.terms = Terms { waived: Guards::empty(), to: None, max_data_loss: self.rules.max_data_loss };
        }
        change.terms.to = change.terms.to.filter(|&to| to != choice.candidate);
        self.give_up(choice, actions);
    }

    /// What an order has to waive to give the candidate up.
    pub(super) fn price_of_candidate(&self) -> Guards {
        match &self.phase {
            Phase::Changing(change) if change.is_resumed => Guards::FENCE | Guards::DATA_LOSS,
            _ => Guards::FENCE,
        }
    }

    /// The candidate of a promotion that does not come to its end.
    pub(super) fn stuck_candidate(&self) -> Option<Choice> {
        let Phase::Changing(change) = &self.phase else { return None };
        match &change.step {
            Step::Promoting { choice, failures, .. } => {
                let contact = self.world.node(choice.candidate).map(|node| node.contact);
                (*failures > 0 || contact != Some(Contact::Up)).then_some(*choice)
            }
            Step::Abandoning { choice } => Some(*choice),
            _ => None,
        }
    }

    /// By an order that says that nobody has to be sure of the candidate's fence.
    pub(super) fn replace_candidate(&mut self, choice: Choice, terms: Terms, ticket: Ticket, actions: &mut Actions) {
        let Phase::Changing(change) = &mut self.phase else { return };
        let (purpose, node) = (Purpose::Failover, choice.candidate);
        let earlier = change.ticket.replace(ticket);
        let why = format!("{} was given up by another order", self.world.name(node));
        actions.answers.extend(earlier.map(|earlier| (earlier, Err(why))));
        if !matches!(change.step, Step::Abandoning { .. }) {
            // What can be done is done, and nobody waits for it.
            actions.jobs.push(Job::Fence { node });
        }
        (change.purpose, self.record.purpose, change.terms) = (purpose, purpose, terms);
        actions.alarm(Some(node), "is given up, though it may have been promoted: it gets no statement");
        self.give_up(choice, actions);
    }

    /// Another candidate is chosen. Nobody knows whether this one has become a primary, so that is written down.
    fn give_up(&mut self, choice: Choice, actions: &mut Actions) {
        let Some(name) = self.world.node(choice.candidate).map(|node| node.name.clone()) else { return };
        self.record.abandoned.insert(name, self.record.timeline);
        self.record.epoch = self.next_epoch();
        self.record.progress = Progress::Preparing;
        actions.record = Some(Writing::First(self.record.clone()));
        self.repairs.forget();
        let sealing = Sealing::begin(self.eligible().map(|node| node.id), actions);
        let Phase::Changing(change) = &mut self.phase else { return };
        change.step = Step::Sealing(sealing);
        change.given_up = Some(choice);
    }

    /// It could not be written down that the candidate is given up: whoever reads the record goes on with it, so does
    /// this one.
    pub(super) fn reinstate(&mut self, choice: Choice, why: &str, now: Instant, actions: &mut Actions) {
        let Phase::Changing(change) = &mut self.phase else { return };
        let Some(node) = self.world.node(choice.candidate) else { return };
        let why = format!("{} remains the candidate: it cannot be written down that it is given up: {why}", node.name);
        self.record.abandoned.remove(&node.name);
        self.record.progress = Progress::Promoting { candidate: node.name.clone(), decided: choice.log.replayed };
        change.step = Step::Promoting { choice, since: now, retry_at: Some(now + RETRY), failures: 1 };
        actions.alarm(Some(choice.candidate), why.clone());
        actions.answers.extend(change.ticket.take().map(|ticket| (ticket, Err(why))));
    }

    /// Primaries that were replaced, candidates that were given up, and what else was begun to be brought back: all of
    /// them are, and remembered until they follow the primary.
    pub(super) fn look_after_left(&mut self, primary: NodeId, now: Instant, actions: &mut Actions) {
        let remembered = |it: &Record| it.abandoned.len() + it.replaced.len() + it.rejoining.len();
        let before = remembered(&self.record);
        if before == 0 {
            return;
        }
        let (world, repairs, timeline) = (&self.world, &mut self.repairs, self.record.timeline);
        let mut is_away = |name: &NodeName, cause: Cause| {
            let Some(node) = world.find(name).and_then(|id| world.node(id)) else { return true };
            let heard = matches!(node.hearing, Hearing::Primary | Hearing::Replica(_));
            let streams = heard && node.contact == Contact::Up && node.role == Role::Replica;
            if node.id != primary && !streams {
                repairs.add(node.id, Way::Rejoin, cause, now);
            }
            let follows = streams && node.log.is_some_and(|log| log.timeline == timeline);
            node.id != primary && !follows
        };
        self.record.abandoned.retain(|name, _| is_away(name, Cause::Decided));
        self.record.replaced.retain(|name| is_away(name, Cause::Decided));
        self.record.rejoining.retain(|name| is_away(name, Cause::Found));
        if remembered(&self.record) < before {
            actions.record = Some(Writing::Also(self.record.clone()));
        }
    }

    /// Who is stopped to be brought back looks like any node that is down to a pgpilot that does not know of it.
    pub(super) fn remember_rejoining(&mut self, actions: &mut Actions) {
        let begun = actions.jobs.iter().filter_map(|job| match job {
            Job::Rejoin { node, .. } => Some(&self.world.node(*node)?.name),
            _ => None,
        });
        let known = |name: &&NodeName| {
            self.record.abandoned.contains_key(*name)
                || self.record.replaced.contains(*name)
                || self.record.rejoining.contains(*name)
        };
        let news: Vec<NodeName> = begun.filter(|name| !known(name)).cloned().collect();
        if !news.is_empty() {
            self.record.rejoining.extend(news);
            actions.record = Some(Writing::Also(self.record.clone()));
        }
    }

    pub(super) fn open(
        &mut self,
        node: NodeId,
        timeline: Timeline,
        switched_at: Lsn,
        now: Instant,
        actions: &mut Actions,
    ) {
        let Phase::Changing(change) = std::mem::replace(&mut self.phase, Phase::Steady) else { return };
        // It may be the same one: a hook had made it a replica before its successor was given up.
        let is_replaced = change.purpose != Purpose::Adoption && change.old != node;
        self.record.replaced.extend(self.record.primary.take().filter(|_| is_replaced));
        self.record.primary = self.world.node(node).map(|node| node.name.clone());
        self.record.timeline = timeline;
        self.record.written = None;
        self.record.progress = Progress::Steady;
        self.record.changed_at = Some(self.clock.unix_at(now));
        self.record.fork(timeline, switched_at);
        actions.record = Some(Writing::Also(self.record.clone()));
        let epoch = self.record.epoch;
        actions.routing = Some(Routing::Appoint { node, epoch, timeline });
        actions.jobs.push(Job::Announce { old: change.old, primary: node });
        let took = now.saturating_duration_since(change.begun);
        let text = format!(
            "{} is the primary of epoch {epoch}, timeline {} from {switched_at}, after {} ms",
            self.world.name(node),
            timeline.0,
            took.as_millis()
        );
        actions.alarm(Some(node), text.clone());
        if is_replaced {
            self.repairs.want(change.old, Way::Rejoin, now);
        }
        self.world.primary = Some(node);
        self.world.timeline = timeline;
        if let Some(member) = self.world.nodes.get_mut(usize::from(node.0)) {
            (member.contact, member.role) = (Contact::Up, Role::Primary);
        }
        actions.ended = Some((change.purpose, Ended::Done));
        self.changed_at = Some(now);
        self.not_before = None;
        self.last = Some(text.clone());
        actions.answers.extend(change.ticket.map(|ticket| (ticket, Ok(text))));
    }
}

/// The candidate is what it should be: this cluster's, on a new timeline, with everything that was decided about.
fn verify(choice: Choice, known: Option<u64>, system: u64, timeline: Timeline, switched_at: Lsn) -> Result<(), String> {
    if known.is_some_and(|known| known != system) {
        return Err(format!("it belongs to another cluster ({system})"));
    }
    if timeline <= choice.log.timeline {
        return Err(format!("it writes timeline {}, which is not a new one", timeline.0));
    }
    if switched_at < choice.log.replayed {
        return Err(format!("its timeline begins at {switched_at}, before {}", choice.log.replayed));
    }
    Ok(())
}
