//! What becomes of an order: refused, told what it would do, or begun.

use std::time::Instant;

use super::elect::{Choice, Terms};
use super::event::{Actions, Ended, Purpose, Ticket, Writing};
use super::follow::ELSEWHERE;
use super::machine::{Machine, Phase};
use super::suspicion::{Testimony, testimony};
use super::world::{Applies, Contact, Hearing};
use super::{Guards, Maintenance, Order, Run};
use crate::decide::route::NodeId;

/// Why nothing can be ordered yet.
const UNKNOWN: &str = "it is not known yet what was decided last: is etcd within reach?";

/// A candidate that lacks more bytes of the log may take too long to replay them.
const FAR: u64 = 16 << 20;

/// An order for maintenance, and what is to be again if it cannot be written down.
#[derive(Debug)]
pub(super) struct Maintaining {
    ticket: Ticket,
    before: Maintenance,
}

impl Machine {
    pub(super) fn ordered(&mut self, order: Order, ticket: Ticket, now: Instant, actions: &mut Actions) {
        let answer = match order {
            Order::Maintenance(maintenance) => self.maintain(maintenance, ticket, actions),
            Order::Switchover { to, run } => match self.plan_switchover(to) {
                Ok((old, terms, plan)) => match run {
                    Run::Dry => Ok(plan),
                    Run::Real => return self.begin(Purpose::Switchover, old, terms, Some(ticket), now, actions),
                },
                Err(error) => Err(error),
            },
            Order::Failover { to, waived, run }
                if waived.contains(self.price_of_candidate()) && self.stuck_candidate().is_some() =>
            {
                match self.plan_replacement(to, waived) {
                    Ok((choice, terms, plan)) => match run {
                        Run::Dry => Ok(plan),
                        Run::Real => return self.replace_candidate(choice, terms, ticket, actions),
                    },
                    Err(error) => Err(error),
                }
            }
            Order::Failover { to, waived, run } => match self.plan_failover(to, waived, now) {
                Ok((old, terms, plan)) => match run {
                    Run::Dry => Ok(plan),
                    Run::Real => return self.begin(Purpose::Failover, old, terms, Some(ticket), now, actions),
                },
                Err(error) => Err(error),
            },
        };
        if answer.is_err() {
            actions.ended = match order {
                Order::Switchover { run: Run::Real, .. } => Some((Purpose::Switchover, Ended::Refused)),
                Order::Failover { run: Run::Real, .. } => Some((Purpose::Failover, Ended::Refused)),
                _ => None,
            };
        }
        actions.answers.push((ticket, answer));
    }

    fn maintain(&mut self, maintenance: Maintenance, ticket: Ticket, actions: &mut Actions) -> Result<String, String> {
        match &self.phase {
            Phase::Following(_) => return Err(ELSEWHERE.to_owned()),
            Phase::Asleep => return Err(UNKNOWN.to_owned()),
            Phase::Estranged(why) => return Err(why.clone()),
            Phase::Waking | Phase::Steady | Phase::Suspect(_) | Phase::Changing(_) => {}
        }
        let before = std::mem::replace(&mut self.record.maintenance, maintenance);
        self.maintaining = Some(Maintaining { ticket, before });
        // What was held back is done now, or the other way round.
        self.repairs.tell_again();
        // The next pgpilot is to know of it before anybody relies on it.
        actions.record = Some(Writing::First(self.record.clone()));
        Ok(match maintenance {
            Maintenance::On => "automatic failover is off until maintenance ends".to_owned(),
            Maintenance::Off => "maintenance has ended".to_owned(),
        })
    }

    pub(super) fn not_maintained(&mut self, order: &Maintaining, why: &str, actions: &mut Actions) {
        let why = format!("maintenance stays as it was: it cannot be written down: {why}");
        self.record.maintenance = order.before;
        actions.alarm(None, why.clone());
        actions.answers.push((order.ticket, Err(why)));
    }

    /// The primary, what counts for the choice, and what would be done in words.
    fn plan_switchover(&self, to: Option<NodeId>) -> Result<(NodeId, Terms, String), String> {
        let old = self.idle_with_primary()?;
        if self.world.primary_contact() != Some(Contact::Up) {
            return Err("the primary does not answer: a switchover needs one that does".to_owned());
        }
        // It gets everything before it is promoted: how far it is now does not matter.
        let mut terms = Terms { waived: Guards::DATA_LOSS, to, max_data_loss: u64::MAX };
        let choice = self.preview_switchover(&terms)?;
        terms.to = Some(choice.candidate);
        let name = self.world.name(choice.candidate);
        if self.world.node(choice.candidate).is_some_and(|node| node.applies == Applies::Paused) {
            return Err(format!("{name} cannot take over: its replay is paused (pg_wal_replay_resume() ends that)"));
        }
        let mut plan = format!("{} would hand over to {name}", self.world.name(old));
        if let Some(sender) = self.world.sender(choice.candidate) {
            // It would not hear of the end of the primary's log: that of its own stream is what tells, and this one goes on.
            let (sender, old) = (self.world.name(sender), self.world.name(old));
            plan += &format!("; {name} streams from {sender}, and would be made to stream from {old} first, for good");
        }
        if let Some(flaw) = self.flaw(&choice) {
            plan += &format!("; {name} {flaw}: it would be refused if that is so until its time is over");
        }
        for node in self.world.present() {
            if node.id != old && node.id != choice.candidate && node.contact != Contact::Up {
                plan += &format!("; {} does not answer, and would not be waited for", node.name);
            }
        }
        Ok((old, terms, plan))
    }

    /// Who is named, or the best of those that operators have not drained.
    fn preview_switchover(&self, terms: &Terms) -> Result<Choice, String> {
        let choice = self.preview(terms).map_err(|error| error.to_string())?;
        let is_drained = |id| self.world.node(id).is_some_and(|node| node.drained);
        if terms.to.is_some() || !is_drained(choice.candidate) {
            return Ok(choice);
        }
        // It may only be the one that has most at this moment.
        let mut others = self.logs();
        others.retain(|(id, _)| !is_drained(*id));
        self.choose(&others, terms).map_err(|why| {
            let name = self.world.name(choice.candidate);
            format!(
                "only a drained replica could take over, {name}, and it has to be named for that; of the others, {why}"
            )
        })
    }

    /// What keeps a candidate from getting the end of the primary's log, as it is now.
    fn flaw(&self, choice: &Choice) -> Option<String> {
        let node = self.world.node(choice.candidate)?;
        let behind = self.world.written.map_or(0, |written| written.since(choice.log.replayed));
        if node.hearing == Hearing::Nothing {
            Some("does not stream".to_owned())
        } else {
            (behind > FAR).then(|| format!("is {behind} bytes behind"))
        }
    }

    fn plan_failover(
        &self,
        to: Option<NodeId>,
        waived: Guards,
        now: Instant,
    ) -> Result<(NodeId, Terms, String), String> {
        let old = self.idle_with_primary()?;
        if !waived.contains(Guards::LIVE_PRIMARY) {
            if self.world.primary_contact() == Some(Contact::Up) {
                return Err(
                    "the primary answers: hand over by a switchover, or waive that with allow-live-primary".to_owned()
                );
            }
            if let Testimony::Alive(witness) = testimony(&self.world) {
                let name = self.world.name(witness);
                return Err(format!("replica {name} hears the primary: waive that with allow-live-primary"));
            }
        }
        if !waived.contains(Guards::INTERVAL) && self.too_soon(now) {
            return Err("the last change of primary was a moment ago: waive that with ignore-interval".to_owned());
        }
        let terms = Terms { waived, to, max_data_loss: self.rules.max_data_loss };
        // While the primary writes, its replicas are always behind what is known of it: what counts is where it stops.
        let writes = self.world.primary_contact() == Some(Contact::Up);
        let outlook = Terms { waived: if writes { waived | Guards::DATA_LOSS } else { waived }, ..terms };
        let choice = self.preview(&outlook).map_err(|error| error.to_string())?;
        let (name, end) = (self.world.name(choice.candidate), choice.log.end);
        let mut plan = format!("{name} would be promoted with the log up to {end}");
        if self.world.node(choice.candidate).is_some_and(|node| node.drained) {
            plan += ", though it is drained";
        }
        Ok((old, terms, plan))
    }

    /// Another candidate, for one whose promotion does not end and which nobody can prove to be fenced.
    fn plan_replacement(&self, to: Option<NodeId>, waived: Guards) -> Result<(Choice, Terms, String), String> {
        let (Phase::Changing(change), Some(stuck)) = (&self.phase, self.stuck_candidate()) else {
            return Err("nobody is being promoted".to_owned());
        };
        let name = self.world.name(stuck.candidate);
        if to == Some(stuck.candidate) {
            return Err(format!("{name} is the candidate that does not come to be the primary"));
        }
        let terms = Terms { waived, to, max_data_loss: self.rules.max_data_loss };
        if change.yields(&self.world, waived) {
            let old = self.world.name(change.old);
            return Ok((stuck, terms, format!("{name} would be given up, and {old}, which answers, stay the primary")));
        }
        let choice = self.preview(&terms).map_err(|error| error.to_string())?;
        let (other, end) = (self.world.name(choice.candidate), choice.log.end);
        Ok((stuck, terms, format!("{name} would be given up, and {other} promoted with the log up to {end}")))
    }

    fn idle_with_primary(&self) -> Result<NodeId, String> {
        match &self.phase {
            Phase::Steady | Phase::Suspect(_) => self.world.primary.ok_or_else(|| "there is no primary".to_owned()),
            Phase::Changing(change) => {
                let (step, epoch) = (change.step.label(), self.record.epoch);
                let stuck = self.stuck_candidate().map(|choice| self.world.name(choice.candidate));
                let remedy =
                    stuck.map(|name| format!(": allow-unfenced gives {name} up for another")).unwrap_or_default();
                Err(format!("a change of primary is still running ({step}), epoch {epoch}{remedy}"))
            }
            Phase::Asleep => Err(UNKNOWN.to_owned()),
            Phase::Estranged(why) => Err(why.clone()),
            Phase::Waking => Err("pgpilot has only just started".to_owned()),
            Phase::Following(_) => Err(ELSEWHERE.to_owned()),
        }
    }
}
