//! Clients that have not logged in yet: so many at a time.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The logins that are under way.
#[derive(Default)]
pub(super) struct Logins {
    under_way: AtomicUsize,
    over: Notify,
}

/// Counts one login, until it is dropped.
pub(super) struct Permit(Arc<Logins>);

impl Logins {
    /// Waits until fewer than `max()` are under way. Whoever wants in meanwhile waits with the operating system, which
    /// turns away whom it has no room for.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn room(&self, max: impl Fn() -> usize) {
        loop {
            let mut over = pin!(self.over.notified());
            // Before the look, so that none is missed that ends between the two.
            over.as_mut().enable();
            if self.under_way.load(Ordering::Relaxed) < max() {
                return;
            }
            over.await;
        }
    }

    /// A login begins. Two listeners that find the last room together make it one too many.
    pub(super) fn enter(self: &Arc<Self>) -> Permit {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Permit(self.clone())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        self.0.over.notify_waiters();
    }
}
