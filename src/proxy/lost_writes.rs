//! Telling of sessions that have lost something by a change of primary.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::shared::Who;
use crate::decide::route::Loss;
use crate::telemetry::{Count, Lost, Metrics};

/// Thousands of sessions may find out at the same moment: all are counted, and so many of them get a line in the log ..
const LINES: u32 = 20;
/// .. each time that this has passed.
const WINDOW: Duration = Duration::from_secs(1);

/// What has been said in the present window.
#[derive(Debug, Default)]
pub(super) struct LostWrites(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    since: Option<Instant>,
    lines: u32,
    /// Those that got no line, and were not mentioned yet.
    unsaid: u64,
}

impl LostWrites {
    /// `pid`: the session's, as SHOW CLIENTS has it.
    pub(super) fn tell(&self, loss: Loss, who: &Who, pid: u32, metrics: &Metrics) {
        let what = match loss {
            Loss::Write { .. } => Lost::Write,
            Loss::Unknown { .. } => Lost::Unknown,
            Loss::Token { .. } => Lost::Token,
        };
        metrics.count(Count::Lost(what));
        let Some(unsaid) = self.0.lock().unwrap_or_else(PoisonError::into_inner).may_speak(Instant::now()) else {
            return;
        };
        let (user, database) = (&*who.user, &*who.database);
        match loss {
            Loss::Write { position, kept } => {
                tracing::warn!(pid, user, database, %position, %kept, unsaid, "what a session wrote was lost with the old primary");
            }
            Loss::Unknown { kept } => {
                tracing::debug!(pid, user, database, %kept, unsaid, "what a session wrote last may have been lost with the old primary");
            }
            Loss::Token { position, kept } => {
                tracing::warn!(pid, user, database, %position, %kept, unsaid, "the position that a session waits for was lost with the old primary");
            }
        }
    }
}

impl Said {
    /// How many were not mentioned before, if a line may be written now.
    fn may_speak(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines == LINES {
            self.unsaid += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_not_written_out() {
        let (mut said, now) = (Said::default(), Instant::now());
        let lines = (0..1000).filter(|_| said.may_speak(now).is_some()).count();
        assert_eq!(lines, LINES as usize);
        assert_eq!(said.may_speak(now + WINDOW), Some(1000 - u64::from(LINES)));
        assert_eq!(said.may_speak(now + WINDOW), Some(0));
    }
}
