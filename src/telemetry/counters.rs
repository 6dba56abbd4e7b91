//! Counters that many threads write and few read.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Threads beyond so many share.
const SHARDS: usize = 16;

/// `N` counters. Each thread has its own copy of them, so that counting never waits for another core's cache line.
pub(super) struct Counters<const N: usize>(Box<[Shard<N>]>);

/// Starts on cache lines of its own; two, because processors fetch them in pairs.
#[repr(align(128))]
struct Shard<const N: usize>([AtomicU64; N]);

impl<const N: usize> Counters<N> {
    pub(super) fn new() -> Self {
        Self((0..SHARDS).map(|_| Shard(std::array::from_fn(|_| AtomicU64::new(0)))).collect())
    }

    #[inline]
    pub(super) fn add(&self, slot: usize, amount: u64) {
        self.0[shard()].0[slot].fetch_add(amount, Ordering::Relaxed);
    }

    pub(super) fn get(&self, slot: usize) -> u64 {
        self.0.iter().map(|shard| shard.0[slot].load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }
}

#[inline]
fn shard() -> usize {
    const UNSET: usize = usize::MAX;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static SHARD: Cell<usize> = const { Cell::new(UNSET) });
    SHARD.with(|shard| {
        if shard.get() == UNSET {
            shard.set(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        }
        shard.get()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_between_threads() {
        let counters = Counters::<3>::new();
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| (0..1000).for_each(|_| counters.add(1, 2)));
            }
        });
        assert_eq!([counters.get(0), counters.get(1), counters.get(2)], [0, 64_000, 0]);
    }
}
