//! What an instance does while another one decides, and when somebody else has promoted a node.

use std::time::Instant;

use super::event::{Actions, Job, Outcome, Purpose, Routing};
use super::machine::{Machine, Phase};
use super::world::Contact;
use super::{Progress, Record};
use crate::decide::route::{NodeId, Role};

/// Why nothing can be ordered here.
pub(super) const ELSEWHERE: &str = "another instance decides, or none: SHOW INSTANCES tells which one to ask";

/// Whether what was decided elsewhere is already obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obedience {
    /// The nodes are not known yet.
    Due,
    Done,
}

impl Machine {
    /// Another instance decides. What was under way here ends where it is: whoever decides next goes on from the record.
    pub(super) fn followed(&mut self, record: Record, now: Instant, actions: &mut Actions) {
        if let Phase::Changing(change) = &self.phase {
            let gone = "this instance decides no longer; SHOW EVENTS of the one that does tells how it goes on";
            actions.answers.extend(change.ticket.map(|ticket| (ticket, Err(gone.to_owned()))));
        }
        if self.record.primary.is_some() && record.primary != self.record.primary {
            self.changed_at = Some(now);
        }
        self.repairs.forget();
        (self.unsaved, self.not_before) = (None, None);
        self.record = record;
        self.phase = Phase::Following(Obedience::Due);
        self.obey(actions);
    }

    pub(super) fn obey(&mut self, actions: &mut Actions) {
        if self.world.nodes.is_empty() {
            actions.routing = Some(Routing::Hold);
            return;
        }
        self.phase = Phase::Following(Obedience::Done);
        let primary = self.record.primary.as_ref().and_then(|name| self.world.find(name));
        let (Some(node), Some(name)) = (primary, &self.record.primary) else {
            if let Some(name) = &self.record.primary {
                actions.alarm(None, format!("the primary is {name}, which is not in this topology file: writes wait"));
            }
            actions.routing = Some(Routing::Hold);
            return;
        };
        let (epoch, timeline) = (self.record.epoch, self.record.timeline);
        match (&self.record.progress, self.record.purpose) {
            (Progress::Steady, _) => {
                actions.routing = Some(Routing::Follow { node, epoch, timeline });
                return;
            }
            // What runs may end in peace.
            (Progress::Preparing, Purpose::Switchover) => actions.jobs.push(Job::Quiesce { node }),
            (Progress::Preparing | Progress::Promoting { .. }, _) => actions.jobs.push(Job::Sever { node }),
        }
        actions.inform(Some(node), format!("hands over to another primary, epoch {epoch}: {name} gets no statements"));
        actions.routing = Some(Routing::Hold);
    }

    /// Nothing of this instance writes to the old primary any more, or something still does.
    pub(super) fn let_go(&mut self, job: Job, outcome: &Outcome, actions: &mut Actions) {
        let (Job::Sever { node } | Job::Quiesce { node }) = job else { return };
        match outcome {
            Ok(_) => actions.acknowledge = Some(self.record.epoch),
            Err(error) => actions.inform(Some(node), format!("cannot hand over yet: {error}")),
        }
    }

    /// A node that somebody else has promoted, and the primary that it replaces: that one is out of reach, or is none any
    /// more. With a single instance the probes have followed it already.
    pub(super) fn successor(&self) -> Option<(NodeId, NodeId)> {
        if self.record.progress != Progress::Steady || self.world.primary_contact() == Some(Contact::Up) {
            return None;
        }
        let old = self.record.primary.as_ref().and_then(|name| self.world.find(name))?;
        let newer = self.world.nodes.iter().filter(|node| {
            let timeline = node.log.map(|log| log.timeline);
            node.id != old
                && node.contact == Contact::Up
                && node.role == Role::Stray
                && timeline.is_some_and(|timeline| timeline > self.record.timeline)
        });
        let mut newer = newer.map(|node| node.id);
        match (newer.next(), newer.next()) {
            (Some(new), None) => Some((old, new)),
            _ => None,
        }
    }
}
