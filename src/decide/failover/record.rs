//! What is written down before it is acted upon.

use serde::{Deserialize, Serialize};

use super::{Maintenance, Purpose};
use crate::config::NodeName;
use crate::decide::position::{Lsn, Timeline};

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
    pub maintenance: Maintenance,
    /// Why the primary is changed, or was last.
    #[serde(default)]
    pub purpose: Purpose,
    pub progress: Progress,
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
