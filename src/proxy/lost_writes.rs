//! Telling of sessions that have lost something by a change of primary.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::shared::Who;
use crate::decide::route::Loss;
use crate::telemetry::{Count, Lost, Metrics};

/// Thousands of sessions may find out at the same moment: all are counted, and so many of them get a line in the log ..
const LINES: u32 = 20;
/// .. of those of which it is certain; whoever has just written when the primary is lost is among the others ..
const LINES_OF_DOUBT: u32 = 1;
/// .. each time that this has passed.
const WINDOW: Duration = Duration::from_secs(1);

/// What has been said in the present window.
#[derive(Debug, Default)]
pub(super) struct LostWrites {
    certain: Mutex<Said>,
    doubtful: Mutex<Said>,
}

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
        self.say(loss, what, &who.user, &who.database, pid);
    }

    fn say(&self, loss: Loss, what: Lost, user: &str, database: &str, pid: u32) {
        let (said, lines) = match what {
            Lost::Unknown => (&self.doubtful, LINES_OF_DOUBT),
            Lost::Write | Lost::Token => (&self.certain, LINES),
        };
        let unsaid = said.lock().unwrap_or_else(PoisonError::into_inner).may_speak(lines, Instant::now());
        let Some(unsaid) = unsaid else { return };
        match loss {
            Loss::Write { position, kept } => {
                tracing::warn!(pid, user, database, %position, %kept, unsaid, "what a session wrote was lost with the old primary");
            }
            Loss::Unknown { kept } => {
                tracing::warn!(pid, user, database, %kept, unsaid, "what sessions wrote last may have been lost with the old primary: pgpilot_lost_writes_total counts them, this is one");
            }
            Loss::Token { position, kept } => {
                tracing::warn!(pid, user, database, %position, %kept, unsaid, "the position that a session waits for was lost with the old primary");
            }
        }
    }
}

impl Said {
    /// How many were not mentioned before, if a line may be written now.
    fn may_speak(&mut self, lines: u32, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines == lines {
            self.unsaid += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;
    use crate::decide::position::{Lsn, Position, Timeline};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_may_be_lost_is_told_in_one_line() {
        let (log, told) = (Log::default(), LostWrites::default());
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(move || writer.clone());
        let loss = Loss::Unknown { kept: Position { timeline: Timeline(1), lsn: Lsn(16) } };
        tracing::subscriber::with_default(subscriber.finish(), || {
            (0..100).for_each(|pid| told.say(loss, Lost::Unknown, "app", "shop", pid));
        });
        let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("may have been lost").count(), 1, "{text}");
    }

    #[test]
    fn a_flood_is_counted_and_not_written_out() {
        let (mut said, now) = (Said::default(), Instant::now());
        let lines = (0..1000).filter(|_| said.may_speak(LINES, now).is_some()).count();
        assert_eq!(lines, LINES as usize);
        assert_eq!(said.may_speak(LINES, now + WINDOW), Some(1000 - u64::from(LINES)));
        assert_eq!(said.may_speak(LINES, now + WINDOW), Some(0));
    }
}
