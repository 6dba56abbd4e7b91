//! Cancelling what a server is doing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::{Breaker, Target};
use crate::wire::startup::put_cancel;

/// What a CancelRequest to a server needs.
pub struct CancelKey {
    pub target: Arc<Target>,
    pub pid: u32,
    pub key: Box<[u8]>,
    /// Ends the connection whose key this is; `None` while it is being opened.
    pub breaker: Option<Breaker>,
    pub requests: Requests,
}

/// Counts the requests of one connection, so that whoever reads its replies knows what they may have hit.
#[derive(Debug, Default)]
pub struct Requests {
    begun: AtomicU32,
    arrived: AtomicU32,
    /// Of those that had arrived, so many were known when it was last looked.
    seen: AtomicU32,
    /// One has been sent, and nobody knows whether it has arrived or ever will.
    strayed: AtomicBool,
}

impl Requests {
    /// Whether a request has come since this was asked last, or was still on its way then. To be asked when a reply ends, by
    /// its one reader: what has arrived by then hits nothing that is sent later.
    #[inline]
    pub fn may_have_hit(&self) -> bool {
        let arrived = self.arrived.load(Ordering::Acquire);
        let hit = self.begun.load(Ordering::Acquire) != self.seen.load(Ordering::Relaxed);
        if hit {
            self.seen.store(arrived, Ordering::Relaxed);
        }
        hit
    }

    /// All requests have arrived, and nothing runs: what is sent from now on is not hit by them.
    pub fn settle(&self) {
        self.seen.store(self.arrived.load(Ordering::Acquire), Ordering::Relaxed);
    }

    /// Whether a request may still arrive at any time: nobody else may get the connection.
    pub fn has_strayed(&self) -> bool {
        self.strayed.load(Ordering::Acquire)
    }

    fn begin(&self) -> OnItsWay<'_> {
        self.begun.fetch_add(1, Ordering::AcqRel);
        OnItsWay(self)
    }
}

/// Counts a request as arrived when it is dropped.
struct OnItsWay<'a>(&'a Requests);

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        self.0.arrived.fetch_add(1, Ordering::AcqRel);
    }
}

/// A server that cannot be reached does not keep a connection from its pool for longer.
const LIMIT: Duration = Duration::from_secs(5);

impl CancelKey {
    /// Sends the request, and returns when the server has closed the connection: by then the signal is delivered
    /// (`processCancelRequest` in `src/backend/postmaster/postmaster.c` sends it before the connection ends), so it cannot hit a later statement.
    ///
    /// # Errors
    /// The server cannot be reached, or takes longer than five seconds.
    pub async fn send(&self) -> io::Result<()> {
        let _counted = self.requests.begin();
        let mut sent = false;
        let attempt = async {
            let mut stream = self.target.open().await.map_err(io::Error::other)?;
            let mut packet = BytesMut::new();
            put_cancel(&mut packet, self.pid, &self.key);
            sent = true;
            stream.write_all(&packet).await?;
            stream.flush().await?;
            let mut nothing = [0; 16];
            while stream.read(&mut nothing).await.is_ok_and(|n| n > 0) {}
            Ok(())
        };
        let outcome =
            tokio::time::timeout(LIMIT, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        if sent && outcome.is_err() {
            self.requests.strayed.store(true, Ordering::Release);
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_for_every_reply_that_ends_before_it_has_arrived_and_for_the_next() {
        let requests = Requests::default();
        assert!(!requests.may_have_hit());
        let first = requests.begin();
        assert!(requests.may_have_hit());
        let second = requests.begin();
        drop(first);
        assert!(requests.may_have_hit() && requests.may_have_hit());
        drop(second);
        assert!(requests.may_have_hit());
        assert!(!requests.may_have_hit());
        let third = requests.begin();
        assert!(requests.may_have_hit());
        drop(third);
        requests.settle();
        assert!(!requests.may_have_hit());
    }
}
