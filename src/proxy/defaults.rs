//! What servers begin sessions with (`ALTER ROLE .. SET`, `ALTER DATABASE .. SET`) has changed: connections that were
//! opened before are of no use to whoever comes now.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::shared::Shared;
use crate::decide::route::Replaying;

/// How often it has changed: whoever follows an earlier change need not, once there is a later one.
#[derive(Debug, Default)]
pub(super) struct Changes(AtomicU64);

/// Without a change of the snapshot, it is looked at again after so long.
const LOOK: Duration = Duration::from_secs(10);

impl Shared {
    /// Somebody has committed such a change, here or elsewhere.
    pub(super) fn defaults_changed(self: &Arc<Self>) {
        let number = self.changes.0.fetch_add(1, Ordering::Relaxed) + 1;
        self.greetings.forget();
        self.pools.outdate();
        let replaying = Replaying::new(Instant::now(), &self.cluster.snapshot());
        drop(tokio::spawn(outdate_as_replayed(Arc::downgrade(self), replaying, number)));
    }
}

/// A replica begins sessions as before until it has replayed the change. Ends with `shared`, or with a later change.
async fn outdate_as_replayed(shared: Weak<Shared>, mut replaying: Replaying, number: u64) {
    loop {
        let Some(now) = shared.upgrade().filter(|shared| shared.changes.0.load(Ordering::Relaxed) == number) else {
            return;
        };
        let snapshot = now.cluster.snapshot();
        let caught_up = replaying.caught_up(&snapshot);
        if !caught_up.is_empty() {
            now.greetings.forget();
            now.pools.outdate_on(&caught_up);
        }
        if replaying.is_over() {
            return;
        }
        if replaying.wants_mark() {
            now.cluster.want_mark();
        }
        let cluster = Arc::clone(&now.cluster);
        drop(now);
        cluster.wait_change(&snapshot, Instant::now() + LOOK).await;
    }
}
