//! How long it takes to find out that the primary is lost, at most, by the settings on both sides.

use std::time::Duration;

use super::machine::LOOK;
use super::world::HEARING_MARGIN;

/// The settings that it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// `health.interval` and `health.timeout`.
    pub interval: Duration,
    pub timeout: Duration,
    /// Of `[failover]`.
    pub refused_after: Duration,
    pub detect_after: Duration,
    /// The replicas' `wal_receiver_timeout`; zero: never.
    pub receivers: Vec<Duration>,
}

impl Pace {
    /// The kept connection breaks at once, and new ones are refused.
    pub fn killed(&self) -> Duration {
        self.refused_after + LOOK
    }

    /// No answer any more: first pgpilot has to lose its patience, then no replica may hear the primary any more.
    /// `None`: there is a replica without a time-out, which never says that it hears nothing.
    pub fn frozen(&self) -> Option<Duration> {
        Some(self.lost_patience().max(self.last_heard()?) + LOOK)
    }

    /// From the last answer to a probe.
    pub fn lost_patience(&self) -> Duration {
        self.interval + self.timeout + self.detect_after
    }

    /// How long the replicas go on believing in the primary.
    pub fn last_heard(&self) -> Option<Duration> {
        let never = self.receivers.iter().any(Duration::is_zero);
        (!never).then(|| self.receivers.iter().max().map_or(Duration::ZERO, |slowest| *slowest / 2 + HEARING_MARGIN))
    }
}
