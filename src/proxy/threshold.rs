//! What everything has to pass that begins on a server: an operator's PAUSE, and pgpilot's end. A session that keeps its connection to the primary also waits
//! here with it while the primary changes; any other one gets none meanwhile.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::client::Client;
use super::dispatch::SETTLE_DOWN;
use super::exchange::{Gone, Moved, Until, poll_move};
use super::fault::{End, Fault, stopping};
use super::link::LinkRole;
use super::registry::Rest;
use super::session::Transaction;
use super::vigil::Denied;
use crate::decide::route::{Refusal, Writes};

/// While others wait for a connection, whoever always has something more under way before the last is answered has one for so long at a time.
const TURN: Duration = Duration::from_millis(10);

/// Why nothing may begin.
enum Obstacle {
    Shutdown,
    Pause,
    /// A change of primary.
    Hold,
}

impl Client {
    /// Waits until what comes next may begin, if it begins anything: in a transaction or a batch that is open on a server, it goes on. A connection that the
    /// session has kept may be gone when this returns.
    pub(super) async fn wait_to_begin(&mut self) -> Result<(), Denied> {
        let goes_on = self.link.as_ref().is_some_and(|link| link.batch_open);
        if goes_on || !matches!(self.transaction, Transaction::Idle | Transaction::Deferred(_)) {
            return Ok(());
        }
        let (mut arrived, mut place) = (None, None);
        loop {
            if self.link.is_some() {
                // Before the look: whoever raises an obstacle, and then counts those at work, misses none.
                self.registration.slot.set_rest(Rest::Working);
            }
            let Some(obstacle) = self.obstacle() else { return Ok(()) };
            if self.link.is_some() {
                self.registration.slot.set_rest(Rest::Resting);
            }
            match obstacle {
                Obstacle::Shutdown => return Err(Denied::End(stopping())),
                Obstacle::Pause => {
                    let shared = self.shared.clone();
                    self.vigil().until(shared.gate.pass()).await?;
                }
                Obstacle::Hold => {
                    if place.is_none() {
                        place = Some(self.enter_hold()?);
                    }
                    self.wait_out_hold(*arrived.get_or_insert_with(Instant::now)).await?;
                }
            }
            self.look_after_link().await?;
        }
    }

    /// Whether a client that has sent more already is to wait for the answer to what is under way, so that its connection comes free.
    pub(super) fn makes_way(&mut self) -> bool {
        let is_wanted = self.link.as_ref().is_some_and(|link| {
            link.lease.is_awaited() && link.answered.saturating_duration_since(link.leased) >= TURN
        });
        // Who keeps it has nothing to give.
        (is_wanted && self.session.pins.is_empty()) || self.is_outdated() || self.obstacle().is_some()
    }

    fn obstacle(&mut self) -> Option<Obstacle> {
        if self.shared.gate.is_closed() {
            return Some(Obstacle::Pause);
        }
        if self.transaction.is_idle() && self.shared.shutdown.has_begun() {
            return Some(Obstacle::Shutdown);
        }
        let on_primary = self.link.as_ref().is_some_and(|link| link.role == LinkRole::Primary);
        let held = on_primary && (self.snapshots.snapshot().writes == Writes::Held || self.shared.is_barred());
        held.then_some(Obstacle::Hold)
    }

    /// Waits for the next change of what is known.
    async fn wait_out_hold(&mut self, arrived: Instant) -> Result<(), Denied> {
        let (now, limit) = (Instant::now(), arrived + self.session.policy.primary_wait);
        if now >= limit {
            return Err(Refusal::NoPrimary { waited: now - arrived }.into());
        }
        let snapshot = self.snapshots.snapshot().clone();
        // Who has just been stopped for a while may not know yet of what has happened meanwhile.
        let until = if self.shared.is_barred() { limit.min(now + SETTLE_DOWN) } else { limit };
        self.wait_change(&snapshot, until).await
    }

    /// After a wait: the connection that the session keeps may have been lost meanwhile. Then nothing of the statement at hand has been sent there.
    async fn look_after_link(&mut self) -> Result<(), Denied> {
        while self.link.is_some() {
            let moved = {
                let Client { side, link, session, .. } = self;
                poll_fn(|cx| {
                    Poll::Ready(match poll_move(side, link.as_mut(), &mut session.reported, Until::Input, cx) {
                        Poll::Ready(moved) => Some(moved),
                        Poll::Pending => None,
                    })
                })
                .await
            };
            let dealt_with = match moved {
                None => break,
                Some(Ok(Moved::Signal(signal))) => self.on_signal(signal).await,
                Some(Ok(_)) => Ok(()),
                Some(Err(Gone::Client(error))) => Err(End::ClientLost(error)),
                Some(Err(Gone::Server(error))) => self.server_lost(&error.to_string()).await,
                Some(Err(Gone::Broken(error))) => self.server_lost(&error.to_string()).await,
            };
            dealt_with.map_err(Denied::End)?;
        }
        if let Some(report) = self.session.untold.take() {
            return Err(Fault::Lost(report).into());
        }
        if self.is_to_listen_again() {
            self.listen_again().await.map_err(Denied::End)?;
        }
        Ok(())
    }
}
