//! What an operator may ask for.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use crate::decide::route::NodeId;

/// A planned or forced change of primary, or a word about automatic ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The primary is well and hands over: no error to anybody, every acknowledged write kept, rolled back whole if it
    /// cannot be done in time.
    Switchover { to: Option<NodeId>, run: Run },
    /// The primary is lost, or shall be. The guards hold as in an automatic failover, but for those that are waived.
    Failover { to: Option<NodeId>, waived: Guards, run: Run },
    /// No automatic failover, until it is ended.
    Maintenance(Maintenance),
}

/// Whether it is to be done, or only to be said what would be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    Real,
    Dry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Maintenance {
    On,
    #[default]
    Off,
}

bitflags! {
    /// What stands between a failover and harm; each can be waived by name.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Guards: u8 {
        /// Acknowledged commits may be lost: `--allow-data-loss`.
        const DATA_LOSS = 1;
        /// The old primary, or a candidate that died while it was promoted, is not proven to be fenced: `--allow-unfenced`.
        const FENCE = 1 << 1;
        /// The primary still answers, or a replica still hears it: `--allow-live-primary`.
        const LIVE_PRIMARY = 1 << 2;
        /// The last failover was a moment ago: `--ignore-interval`.
        const INTERVAL = 1 << 3;
    }
}
