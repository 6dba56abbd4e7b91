//! The log of slow statements (`log.slow_statement`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::assess::frames;
use super::batch::Batch;
use super::client::Client;
use super::link::{Link, LinkRole};
use super::session::Texts;
use super::shared::Who;
use crate::decide::session::Origin;
use crate::decide::sql::outline;
use crate::wire::frontend::{self, BindHead, Parse};

/// Tells which statements are slow, and logs them, a few a second.
pub(super) struct SlowLog {
    /// In microseconds; `u64::MAX`: nothing is slow.
    threshold: AtomicU64,
    window: Mutex<Window>,
}

/// The second that runs.
struct Window {
    began: Instant,
    logged: u32,
    left_out: u64,
}

/// When everything is slow, a log that is written for every statement makes it slower.
const PER_SECOND: u32 = 10;
/// So much of a text is kept until it is known whether it is slow.
const TEXT_MAX: usize = 4096;

impl SlowLog {
    pub(super) fn new(threshold: Duration) -> Self {
        let window = Mutex::new(Window { began: Instant::now(), logged: 0, left_out: 0 });
        let log = Self { threshold: AtomicU64::new(u64::MAX), window };
        log.set(threshold);
        log
    }

    /// Zero: nothing is slow.
    pub(super) fn set(&self, threshold: Duration) {
        let micros = u64::try_from(threshold.as_micros()).ok().filter(|micros| *micros > 0);
        self.threshold.store(micros.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    #[inline]
    fn is_on(&self) -> bool {
        self.threshold.load(Ordering::Relaxed) != u64::MAX
    }

    /// Logs the batch that has just been answered on `link`, if it was slow.
    #[inline]
    pub(super) fn note(&self, link: &Link, text: Option<&[u8]>, who: &Who, now: Instant) {
        let latency = now - link.started;
        if latency.as_micros() >= u128::from(self.threshold.load(Ordering::Relaxed)) {
            self.log(link, text, who, latency, now);
        }
    }

    #[cold]
    fn log(&self, link: &Link, text: Option<&[u8]>, who: &Who, latency: Duration, now: Instant) {
        let Some(left_out) = self.admit(now) else { return };
        let route = match link.role {
            LinkRole::Primary => "primary",
            LinkRole::Replica => "replica",
        };
        let statement = text.map_or_else(|| "?".to_owned(), outline);
        tracing::warn!(
            user = %who.user, database = %who.database, route, node = link.node().0, reason = link.reason.label(),
            time = ?latency, left_out, statement, "slow statement"
        );
    }

    /// `None`: there have been enough in this second. Else how many were left out before this one.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(window.began) >= Duration::from_secs(1) {
            (window.began, window.logged) = (now, 0);
        }
        if window.logged >= PER_SECOND {
            window.left_out += 1;
            return None;
        }
        window.logged += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

impl Client {
    /// The text of what a batch is going to execute first, should it turn out to be slow; `None` if nobody wants to know.
    #[inline]
    pub(super) fn text_to_remember(&self, batch: Batch) -> Option<Box<[u8]>> {
        if self.shared.slow.is_on() { self.first_text(batch) } else { None }
    }

    #[cold]
    fn first_text(&self, batch: Batch) -> Option<Box<[u8]>> {
        if self.session.texts != Texts::Legible {
            // It is not known where literals end.
            return None;
        }
        let keep = |text: &[u8]| Box::from(&text[..text.len().min(TEXT_MAX)]);
        frames(&self.side.fresh()[..batch.len]).find_map(|frame| match frame.tag {
            frontend::QUERY => frontend::query(frame.body()).ok().map(keep),
            frontend::PARSE => Parse::read(frame.body()).ok().map(|parse| keep(parse.query)),
            frontend::BIND => {
                let head = BindHead::parse(frame.body()).ok()?;
                match &self.session.names.find(head.statement)?.statement.origin {
                    Origin::Parse { query, .. } => Some(keep(query)),
                    Origin::Large => None,
                    Origin::Sql { after, .. } => Some(keep(after.as_bytes())),
                }
            }
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_logged_each_second_and_the_rest_is_counted() {
        let (log, start) = (SlowLog::new(Duration::from_millis(5)), Instant::now());
        assert!(log.is_on());
        for _ in 0..PER_SECOND {
            assert_eq!(log.admit(start), Some(0));
        }
        assert_eq!((log.admit(start), log.admit(start)), (None, None));
        assert_eq!(log.admit(start + Duration::from_secs(2)), Some(2));
        log.set(Duration::ZERO);
        assert!(!log.is_on());
    }
}
