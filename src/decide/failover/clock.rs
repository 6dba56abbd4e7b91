//! The time of day, as far as it is written down.

use std::time::{Duration, Instant};

/// What the wall clock showed at one moment: it relates what earlier pgpilots wrote down to this one's time, and is not
/// looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WallClock {
    /// Seconds since 1970.
    pub unix: u64,
    pub at: Instant,
}

impl WallClock {
    pub(super) fn unix_at(self, now: Instant) -> u64 {
        self.unix + now.saturating_duration_since(self.at).as_secs()
    }

    /// When it was `unix` o'clock. What lies in the future, since the clock was set back, counts as now.
    pub(super) fn moment(self, unix: u64, now: Instant) -> Option<Instant> {
        now.checked_sub(Duration::from_secs(self.unix_at(now).saturating_sub(unix)))
    }
}
