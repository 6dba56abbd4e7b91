//! Waiting on behalf of a client, with an eye on the client: it may leave, or cancel its statement, and pgpilot may be stopped.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::task::Poll;

use super::client::Client;
use super::exchange::{Gone, Side, poll_attend};
use super::fault::{End, Fault, stopping};
use super::registry::Slot;
use super::shutdown::Watch;

/// What is watched while a client waits.
pub(super) struct Vigil<'a> {
    side: &'a mut Side,
    slot: &'a Slot,
    /// `None`: pgpilot may be stopped meanwhile.
    shutdown: Option<&'a mut Watch>,
    /// `None`: no request can mean what is waited for.
    cancels_seen: Option<u32>,
}

/// Why a statement that waited is not going to run.
pub(super) enum Denied {
    Fault(Fault),
    End(End),
}

impl<T: Into<Fault>> From<T> for Denied {
    fn from(fault: T) -> Self {
        Self::Fault(fault.into())
    }
}

impl Client {
    pub(super) fn vigil(&mut self) -> Vigil<'_> {
        let Self { side, registration, shutdown, cancels_seen, .. } = self;
        Vigil { side, slot: &registration.slot, shutdown: Some(shutdown), cancels_seen: Some(*cancels_seen) }
    }

    /// While a statement of pgpilot's own runs before one of the client's. It has a limit: a transaction need not be given
    /// up for it.
    pub(super) fn vigil_before(&mut self) -> Vigil<'_> {
        let is_idle = self.transaction.is_idle();
        let vigil = self.vigil();
        Vigil { shutdown: vigil.shutdown.filter(|_| is_idle), ..vigil }
    }

    /// While a statement of pgpilot's own runs after one of the client's: a cancel request means that one, which is over.
    pub(super) fn vigil_after(&mut self) -> Vigil<'_> {
        Vigil { cancels_seen: None, ..self.vigil_before() }
    }
}

impl Vigil<'_> {
    /// Waits for `what`, until the client leaves or cancels, or pgpilot is stopped.
    ///
    /// # Cancel safety
    /// As safe as `what` is: it is dropped.
    pub(super) async fn until<T>(self, what: impl Future<Output = T>) -> Result<T, Denied> {
        let mut what = pin!(what);
        // Most often there is nothing to wait for.
        if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(what.as_mut().poll(cx))).await {
            return Ok(done);
        }
        let Self { side, slot, shutdown, cancels_seen } = self;
        tokio::select! {
            biased;
            done = what => Ok(done),
            () = cancelled(slot, cancels_seen) => Err(Fault::Cancelled.into()),
            gone = poll_fn(|cx| poll_attend(side, cx)) => Err(Denied::End(match gone {
                Gone::Client(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => End::ClientLost(error),
                _ => End::Left,
            })),
            () = stopped(shutdown) => Err(Denied::End(stopping())),
        }
    }
}

async fn cancelled(slot: &Slot, seen: Option<u32>) {
    match seen {
        Some(seen) => slot.cancelled(seen).await,
        None => pending().await,
    }
}

async fn stopped(shutdown: Option<&mut Watch>) {
    match shutdown {
        Some(watch) => watch.await,
        None => pending().await,
    }
}
