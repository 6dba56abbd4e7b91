//! What an earlier pgpilot left in the record, and what becomes of it.

use std::time::Instant;

use super::change::{Change, Step};
use super::elect::Choice;
use super::event::{Actions, Ended, Job, Purpose, Routing, Writing};
use super::machine::{Machine, Phase};
use super::world::Log;
use super::{Progress, Tail};
use crate::decide::route::{NodeId, Role};

impl Machine {
    /// Goes on with what the last pgpilot left.
    pub(super) fn wake_up(&mut self, now: Instant, actions: &mut Actions) {
        if self.record.system.is_some() && self.world.systems.is_empty() {
            // Whether it is about these nodes is told by the first that answers.
            return;
        }
        let Some(name) = self.record.primary.clone() else {
            self.phase = Phase::Steady;
            actions.routing = Some(Routing::Release);
            return self.take_note(actions);
        };
        let Some(primary) = self.world.find(&name) else {
            // The nodes are not known yet, or this one has been removed from the topology file.
            if !self.world.nodes.is_empty() {
                self.drop_promotion(actions);
                self.phase = Phase::Steady;
                actions.routing = Some(Routing::Release);
            }
            return;
        };
        match self.record.progress.clone() {
            Progress::Steady => {
                self.phase = Phase::Steady;
                // While it was not known what was decided, or another instance was about to, they may have been held.
                actions.routing = Some(Routing::Release);
                for node in self.record.rejoining.iter().filter_map(|name| self.world.find(name)) {
                    actions
                        .inform(Some(node), "was being brought back when the last pgpilot ended: that is not over yet");
                }
            }
            Progress::Preparing => {
                actions.alarm(None, "a change of primary had been begun: it is called off");
                self.phase =
                    Phase::Changing(Box::new(Change::resumed(self.record.purpose, primary, now, Step::Approving)));
                let all = self.world.present().map(|node| node.id).filter(|id| *id != primary);
                let mut jobs: Vec<Job> = all.map(|node| Job::Unseal { node }).collect();
                jobs.push(Job::Resume { node: primary });
                self.undo_by(jobs, "pgpilot was restarted".to_owned(), now, actions);
            }
            Progress::Promoting { candidate, decided } => {
                let Some(candidate) = self.world.find(&candidate) else {
                    self.drop_promotion(actions);
                    self.phase = Phase::Steady;
                    actions.routing = Some(Routing::Release);
                    actions.ended = Some((Purpose::Failover, Ended::Failed));
                    return;
                };
                actions.alarm(Some(candidate), "a promotion had been begun: it goes on");
                // The probes may have found its new one already.
                let timeline = self.record.timeline;
                let log = Log { timeline, end: decided, replayed: decided, tail: Tail::There };
                let step = Step::promoting(Choice { candidate, log }, now);
                self.phase = Phase::Changing(Box::new(Change::resumed(self.record.purpose, primary, now, step)));
                actions.jobs.push(Job::Promote { node: candidate });
                if self.record.purpose != Purpose::Adoption {
                    self.expect_others(candidate);
                    self.welcome(candidate, now, actions);
                }
            }
        }
    }

    /// One that cannot be gone on with, since a node of it is not in the topology file any more, is none any more: left in
    /// the record, it would be gone on with once that one is put back, whoever has taken the writes till then.
    fn drop_promotion(&mut self, actions: &mut Actions) {
        let Progress::Promoting { candidate, .. } = &self.record.progress else { return };
        let why = "it or the primary is not in the topology file any more";
        actions.alarm(None, format!("{candidate}, which was about to be promoted, is given up: {why}"));
        self.record.abandoned.insert(candidate.clone(), self.record.timeline);
        self.record.epoch = self.next_epoch();
        self.record.progress = Progress::Steady;
        actions.record = Some(Writing::Also(self.record.clone()));
    }

    /// Why the record is not gone on with, if none of the nodes that have answered belongs to the cluster that it is about.
    pub(super) fn strangeness(&self) -> Option<String> {
        let (known, found) = (self.record.system?, self.world.systems.first()?);
        (!self.world.systems.contains(&known)).then(|| {
            format!(
                "the record is of another cluster: it is about system {known}, and the nodes are of system {found}. \
                 Nothing is decided, and writes wait: if these are the right nodes, stop pgpilot, remove the record \
                 (failover.state_file, or what is below coordination.prefix in etcd), and start it again"
            )
        })
    }

    /// Nobody is promoted, fenced or remembered by it, and it is not written over: it may be somebody's.
    pub(super) fn estrange(&mut self, why: String, actions: &mut Actions) {
        actions.alarm(None, why.clone());
        actions.routing = Some(Routing::Hold);
        self.phase = Phase::Estranged(why);
    }

    /// What is not seen, since pgpilot started without a primary, is taken from the record.
    pub(super) fn fill_in(&mut self) {
        if self.world.primary.is_none() && !matches!(self.record.progress, Progress::Promoting { .. }) {
            let known = self.record.primary.as_ref().and_then(|name| self.world.find(name));
            let silent = |id: &NodeId| self.world.node(*id).is_some_and(|node| node.role == Role::Unknown);
            self.world.primary = known.filter(silent);
            if self.world.primary.is_some() {
                self.world.timeline = self.record.timeline;
            }
        }
        if self.world.synchronous.is_none() {
            self.world.synchronous = Some(self.record.synchronous.clone());
        }
        // Whoever decided before may have seen more of the primary's log.
        self.world.written = self.world.written.max(self.record.written);
        if self.world.strangers.is_none() {
            self.world.strangers = Some(self.record.strangers);
        }
    }
}
