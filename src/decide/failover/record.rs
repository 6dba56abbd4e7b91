//! What is written down before it is acted upon.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Maintenance, Purpose};
use crate::config::NodeName;
use crate::decide::position::{Fork, Lsn, Timeline};

/// The newest decision. A pgpilot that starts anew goes on from here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Record {
    /// Grows with each change of primary.
    pub epoch: u64,
    /// The cluster that this is about, by its servers' system identifier.
    pub system: Option<u64>,
    pub primary: Option<NodeName>,
    /// The history that it writes.
    pub timeline: Timeline,
    /// The primary's `synchronous_standby_names`, when it was last heard.
    pub synchronous: String,
    /// How many standbys that are no nodes counted by that, then.
    #[serde(default)]
    pub strangers: usize,
    /// The newest epoch that was seen to be written down in a primary's database: whoever lacks it has left before, and
    /// takes nobody's place.
    #[serde(default)]
    pub marked: u64,
    pub maintenance: Maintenance,
    /// Why the primary is changed, or was last.
    #[serde(default)]
    pub purpose: Purpose,
    pub progress: Progress,
    /// While the primary is being changed: how far its log was known to go. Whoever goes on from here may not hear it.
    #[serde(default)]
    pub written: Option<Lsn>,
    /// Candidates that were given up, and on which timeline the cluster was then. They may have been promoted: none is a
    /// candidate, or the primary's successor, until it follows the primary.
    #[serde(default)]
    pub abandoned: BTreeMap<NodeName, Timeline>,
    /// Primaries that gave their place up, and do not follow their successor yet. They are brought back also by a pgpilot
    /// that does nothing else without an order.
    #[serde(default)]
    pub replaced: BTreeSet<NodeName>,
    /// Other nodes that the hook for rejoining was asked to bring back, and may have been stopped for that: a pgpilot that
    /// is started meanwhile goes on with them.
    #[serde(default)]
    pub rejoining: BTreeSet<NodeName>,
    /// When the last change of primary ended: seconds since 1970, by the clock of whoever carried it out.
    #[serde(default)]
    pub changed_at: Option<u64>,
    /// Where the last timelines of this cluster's history began, oldest first.
    #[serde(default)]
    pub forks: Vec<Fork>,
}

/// A replica that slept through more changes of primary than these is known by its silence.
const FORKS: usize = 16;

impl Record {
    /// Whether a candidate was given up, and nobody has become the primary since.
    pub(super) fn is_bereft(&self) -> bool {
        self.abandoned.values().any(|&timeline| timeline == self.timeline)
    }

    pub(super) fn fork(&mut self, timeline: Timeline, at: Lsn) {
        self.forks.retain(|fork| fork.timeline < timeline);
        self.forks.push(Fork { timeline, at });
        let surplus = self.forks.len().saturating_sub(FORKS);
        self.forks.drain(..surplus);
    }
}

/// How far a change of primary has come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Progress {
    /// None is under way.
    #[default]
    Steady,
    /// Nothing has been promoted: it can be called off.
    Preparing,
    /// Nobody but this candidate may become the primary of this epoch.
    Promoting {
        candidate: NodeName,
        /// It had replayed so much of the old primary's log when it was chosen.
        decided: Lsn,
    },
}
