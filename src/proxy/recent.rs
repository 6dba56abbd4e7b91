//! What has been met before: so that texts that never come again are not kept.

use std::sync::atomic::{AtomicU64, Ordering};

/// A set of the most recent hashes, of a fixed size: a newer one takes the place of an older one. It may forget, and (once in 2^64) be wrong.
pub(super) struct Recent {
    slots: Box<[AtomicU64]>,
}

impl Recent {
    /// Takes eight bytes for each of `slots`, of which there is at least one.
    pub(super) fn new(slots: usize) -> Self {
        Self { slots: (0..slots.max(1)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Whether this hash has been met, and notes it.
    pub(super) fn meet(&self, hash: u64) -> bool {
        let at = hash % self.slots.len() as u64;
        let slot = usize::try_from(at).ok().and_then(|at| self.slots.get(at));
        slot.is_some_and(|slot| slot.swap(hash, Ordering::Relaxed) == hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_time_is_known_until_its_place_is_taken() {
        let recent = Recent::new(8);
        assert!(!recent.meet(3));
        assert!(recent.meet(3));
        assert!(!recent.meet(4), "another place");
        assert!(recent.meet(3));
        assert!(!recent.meet(11), "the same place");
        assert!(!recent.meet(3));
    }
}
