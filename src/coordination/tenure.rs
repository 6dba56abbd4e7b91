//! For how long an instance may write.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The end of the time in which this instance may send anything to the primary. Whoever sends looks at it first, so that an
/// instance that was stopped for a while sends nothing when it goes on, before anything else of it has come to.
#[derive(Debug)]
pub struct Tenure {
    base: Instant,
    /// Nanoseconds since `base`. Read without the lock.
    until: AtomicU64,
    /// Whose end that is; `None`: nobody has been admitted yet.
    lease: Mutex<Option<i64>>,
}

impl Tenure {
    /// One that is over.
    pub(super) fn new() -> Self {
        Self { base: Instant::now(), until: AtomicU64::new(0), lease: Mutex::new(None) }
    }

    /// Whether nothing may be sent to the primary any more.
    pub fn is_over(&self) -> bool {
        self.nanoseconds(Instant::now()) >= self.until.load(Ordering::Acquire)
    }

    /// For how long something may be sent to the primary, if nothing is renewed.
    pub fn remaining(&self) -> Duration {
        let left = self.until.load(Ordering::Acquire).saturating_sub(self.nanoseconds(Instant::now()));
        Duration::from_nanos(left)
    }

    /// Begins anew with this lease: what has been decided by others is known and obeyed.
    pub fn admit(&self, lease: i64, until: Instant) {
        let mut own = self.lock();
        *own = Some(lease);
        self.until.store(self.nanoseconds(until), Ordering::Release);
    }

    /// The lease with which it began was renewed. As long as that goes on, nobody else can have taken this instance for gone.
    pub(super) fn extend(&self, lease: i64, until: Instant) {
        let own = self.lock();
        if *own == Some(lease) {
            self.until.fetch_max(self.nanoseconds(until), Ordering::AcqRel);
        }
    }

    /// Ends at once.
    pub fn end(&self) {
        let mut own = self.lock();
        *own = None;
        self.until.store(0, Ordering::Release);
    }

    fn nanoseconds(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Option<i64>> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_was_admitted_goes_on() {
        let tenure = Tenure::new();
        let later = Instant::now() + Duration::from_secs(3600);
        assert!(tenure.is_over());
        tenure.extend(7, later);
        assert!(tenure.is_over());
        tenure.admit(7, Instant::now());
        assert!(tenure.is_over());
        tenure.extend(8, later);
        assert!(tenure.is_over());
        tenure.extend(7, later);
        assert!(!tenure.is_over());
        // A late answer to an earlier renewal.
        tenure.extend(7, Instant::now());
        assert!(!tenure.is_over());
        tenure.end();
        tenure.extend(7, later);
        assert!(tenure.is_over());
    }
}
