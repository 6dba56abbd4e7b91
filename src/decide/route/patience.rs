//! When a session waits a little for the sake of its later reads.
//!
//! Each read makes the session see newer data, and only the node that served it is known to have them. A session that
//! reads without a pause would therefore stay where it is: on the primary after a detour, or on one replica while
//! another is idle. One short wait, for a mark or a sample that is newer than its last read, sets it free.

/// Counts the reads that such a session made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience {
    /// Detours to the primary in a row ..
    detours: u32,
    /// .. and after how many of them a read waits.
    limit: u32,
    /// Reads in a row on one replica while another would do as well, or better.
    held: u32,
    /// How often a wait for leaving it was in vain.
    vain: u32,
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
        Self { detours: 0, limit: Self::DETOURS, held: 0, vain: 0 }
    }
}

impl Patience {
    const DETOURS: u32 = 16;
    const MAX_DETOURS: u32 = 4096;
    const HELD: u32 = 64;
    /// A wait takes about as long as a read or two: at so many reads it goes unnoticed.
    const HELD_AMONG_EQUALS: u32 = 1024;
    const MAX_VAIN: u32 = 6;

    pub(super) fn ends_detours(self) -> bool {
        self.detours >= self.limit
    }

    pub(super) fn ends_hold(self, pull: Pull) -> bool {
        match pull {
            Pull::Nothing => false,
            Pull::Little => self.held >= Self::HELD_AMONG_EQUALS << self.vain,
            Pull::Strong => self.held >= Self::HELD,
        }
    }

    /// One more read went to the primary. If it had waited in vain, the next wait comes later.
    pub(super) fn detour(&mut self) {
        if self.ends_detours() {
            *self = Self { detours: 0, limit: (self.limit * 2).min(Self::MAX_DETOURS), ..Self::default() };
        }
        self.detours += 1;
    }

    /// One more read stayed where it was. If it had waited in vain, it begins anew.
    pub(super) fn hold(&mut self, pull: Pull) {
        if self.ends_hold(pull) {
            (self.held, self.vain) = (0, (self.vain + 1).min(Self::MAX_VAIN));
        } else if pull != Pull::Nothing {
            self.held += 1;
        }
    }

    pub(super) fn wrote(&mut self) {
        self.detours = 0;
    }

    /// A replica was chosen freely.
    pub(super) fn rest(&mut self) {
        *self = Self::default();
    }
}
