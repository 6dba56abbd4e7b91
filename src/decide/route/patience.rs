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
    /// Reads in a row on a replica that is no longer the best choice.
    held: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { detours: 0, limit: Self::DETOURS, held: 0 }
    }
}

impl Patience {
    const DETOURS: u32 = 16;
    const MAX_DETOURS: u32 = 4096;
    const HELD: u32 = 64;

    pub(super) fn ends_detours(self) -> bool {
        self.detours >= self.limit
    }

    pub(super) fn ends_hold(self) -> bool {
        self.held >= Self::HELD
    }

    /// One more read went to the primary. If it had waited in vain, the next wait comes later.
    pub(super) fn detour(&mut self) {
        if self.ends_detours() {
            *self = Self { detours: 0, limit: (self.limit * 2).min(Self::MAX_DETOURS), held: 0 };
        }
        self.detours += 1;
    }

    /// One more read stayed where another replica would be better. If it had waited in vain, it begins anew.
    pub(super) fn hold(&mut self) {
        self.held = if self.ends_hold() { 0 } else { self.held + 1 };
    }

    pub(super) fn wrote(&mut self) {
        self.detours = 0;
    }

    /// A replica was chosen freely.
    pub(super) fn rest(&mut self) {
        *self = Self::default();
    }
}
