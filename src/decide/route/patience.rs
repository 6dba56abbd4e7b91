//! When a session waits a little for the sake of its later reads.
//!
//! Each read makes the session see newer data, and only the node that served it is known to have them. A session that
//! reads without a pause would therefore stay where it is: on the primary after a detour, or on one replica while
//! another is idle. One short wait, for a mark or a sample that is newer than its last read, sets it free. A session that
//! pauses between its statements needs no wait: the mark is asked for when a write or a detour ends, and is there when the
//! next read comes.

use std::time::{Duration, Instant};

/// Counts the reads that such a session made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// Detours to the primary in a row, since the last write or wait ..
    detours: u32,
    /// .. and after how many of them a read waits.
    limit: u32,
    /// The last wait that did not bring the session back.
    vain_at: Option<Instant>,
    /// Reads in a row on one replica while another would do as well, or better.
    held: u32,
    /// How often a wait for leaving it was in vain.
    vain: u32,
    /// Reads since the last write ..
    reads: u32,
    /// .. and between the two writes before.
    usual_reads: u32,
    pace: Pace,
}

/// How soon after a reply the session's next read comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// Sooner than an answer of the primary's.
    Prompt,
    Pausing,
}

/// What draws a session away from the replica that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pull {
    /// No other would do better.
    Nothing,
    /// Another would do as well.
    Little,
    /// Another would do much better.
    Strong,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            detours: 0,
            limit: Self::DETOURS,
            vain_at: None,
            held: 0,
            vain: 0,
            reads: 0,
            usual_reads: 0,
            pace: Pace::Pausing,
        }
    }
}

impl Patience {
    /// A session that reads once after each write never waits.
    const DETOURS: u32 = 1;
    const MAX_DETOURS: u32 = 4096;
    /// Nor does a wait, of some 20 ms, that is this long after the last one: who reads now and then is not sent to the primary for minutes.
    const LONGEST: Duration = Duration::from_secs(1);
    const HELD: u32 = 64;
    /// A wait takes about as long as a read or two: at so many reads it goes unnoticed.
    const HELD_AMONG_EQUALS: u32 = 1024;
    const MAX_VAIN: u32 = 6;

    /// A read that comes sooner after the reply before it does not find the answer to what was asked then.
    const PROMPT: Duration = Duration::from_millis(1);

    /// Whether a read is to wait for a moment, rather than to go to the primary once more. A session that usually reads
    /// several times between its writes does so at once.
    pub(super) fn ends_detours(self, now: Instant) -> bool {
        let at_once = self.pace == Pace::Prompt && self.usual_reads > 1 && self.limit == Self::DETOURS;
        at_once || self.has_waited_enough(now)
    }

    /// For reads that cannot do without a wait: whether one is worth while, since the last one was not in vain.
    pub(super) fn waits_at_once(self, now: Instant) -> bool {
        self.limit == Self::DETOURS || self.has_waited_enough(now)
    }

    fn has_waited_enough(self, now: Instant) -> bool {
        let since = |at| now.saturating_duration_since(at);
        self.detours >= self.limit || self.vain_at.is_some_and(|at| since(at) >= Self::LONGEST)
    }

    pub(super) fn ends_hold(self, pull: Pull) -> bool {
        match pull {
            Pull::Nothing => false,
            Pull::Little => self.held >= Self::HELD_AMONG_EQUALS << self.vain,
            Pull::Strong => self.held >= Self::HELD,
        }
    }

    /// One more read went to the primary.
    pub(super) fn detour(&mut self) {
        self.detours = self.detours.saturating_add(1);
    }

    /// A wait did not bring the session back to the replicas: the next one comes later.
    pub(super) fn waited_in_vain(&mut self, now: Instant) {
        (self.detours, self.limit) = (0, (self.limit * 2).min(Self::MAX_DETOURS));
        self.vain_at = Some(now);
    }

    /// One more read stayed where it was. If it had waited in vain, it begins anew.
    pub(super) fn hold(&mut self, pull: Pull) {
        if self.ends_hold(pull) {
            (self.held, self.vain) = (0, (self.vain + 1).min(Self::MAX_VAIN));
        } else if pull != Pull::Nothing {
            self.held += 1;
        }
    }

    /// A read has come, so long after the last reply.
    pub(super) fn reads(&mut self, pause: Option<Duration>) {
        self.reads = self.reads.saturating_add(1);
        if let Some(pause) = pause {
            self.pace = if pause < Self::PROMPT { Pace::Prompt } else { Pace::Pausing };
        }
    }

    pub(super) fn wrote(&mut self) {
        (self.detours, self.usual_reads, self.reads) = (0, self.reads, 0);
    }

    /// Whether an answer to what is asked now is likely to be of use to the session's next statement.
    pub(super) fn asks_ahead(self) -> bool {
        self.pace == Pace::Pausing && self.reads.max(self.usual_reads) > 0
    }

    /// A replica was chosen freely.
    pub(super) fn rest(&mut self) {
        let Self { reads, usual_reads, pace, .. } = *self;
        *self = Self { reads, usual_reads, pace, ..Self::default() };
    }
}
