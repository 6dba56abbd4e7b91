//! How far behind a replica may be: for all, for a zone, for a node.

use std::time::Duration;

use super::units::ByteSize;

/// A replica leaves the choice above `max` and returns at `recovery`; both by time and by bytes of log, where those are limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LagLimits {
    pub max: Duration,
    pub recovery: Duration,
    /// `None`: any number of bytes.
    pub bytes: Option<ByteLimits>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteLimits {
    pub max: ByteSize,
    pub recovery: ByteSize,
}

/// What one section says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct LagKeys {
    pub(super) max: Option<Duration>,
    pub(super) recovery: Option<Duration>,
    pub(super) max_bytes: Option<ByteSize>,
    pub(super) recovery_bytes: Option<ByteSize>,
}

impl LagLimits {
    pub fn by_time(max: Duration, recovery: Duration) -> Self {
        Self { max, recovery, bytes: None }
    }

    /// These limits, but for what `keys` say. A limit that is set anew has half of it for its recovery, unless that is set, too.
    pub(super) fn with(self, keys: LagKeys) -> Self {
        let recovery = keys.recovery.or(keys.max.map(|max| max / 2)).unwrap_or(self.recovery);
        let max_bytes = keys.max_bytes.or(self.bytes.map(|bytes| bytes.max));
        let bytes = max_bytes.map(|max| {
            let outer = self.bytes.map(|bytes| bytes.recovery);
            let half = ByteSize(max.0 / 2);
            let recovery = if keys.max_bytes.is_some() { half } else { outer.unwrap_or(half) };
            ByteLimits { max, recovery: keys.recovery_bytes.unwrap_or(recovery) }
        });
        Self { max: keys.max.unwrap_or(self.max), recovery, bytes }
    }
}
