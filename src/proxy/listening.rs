//! A session that listens is told of nothing once its server is lost: it listens on the next primary.

use std::time::Instant;

use super::client::Client;
use super::fault::{End, Fault};
use super::link::LinkRole;
use super::registry::Rest;
use super::sequences::AsksSequences;
use super::vigil::Denied;
use crate::decide::route::{Demand, Need};
use crate::decide::session::{Pin, listen_sql};
use crate::decide::sql::Reason;
use crate::pool::QueryError;
use crate::wire::SqlState;
use crate::wire::backend::Report;

/// Why a session has ended that could not listen any more.
pub(super) const DEAF: &str = "the server on which this session was listening is lost";

impl Client {
    /// Whether all that a session has lost with a server is that it listened there.
    pub(super) fn can_listen_again(&self, pins: &[Pin]) -> bool {
        pins.iter().all(|pin| *pin == Pin::Listen) && !self.session.listening.is_empty()
    }

    /// Whether the session's channels are still to be listened to, and that can be done now.
    pub(super) fn is_to_listen_again(&self) -> bool {
        !self.session.listening.is_empty()
            && self.link.is_none()
            && self.transaction.is_idle()
            && !self.skipping
            && !self.session.pins.contains(&Pin::Listen)
    }

    /// Waits for a primary, as a statement would, and listens there. What was notified meanwhile is lost, which the client
    /// is told.
    pub(super) async fn listen_again(&mut self) -> Result<(), End> {
        let arrived = Instant::now();
        loop {
            // Nothing is under way that a cancel request could mean.
            self.cancels_seen = self.registration.slot.unserved_cancels();
            let demand = Demand { need: Need::Primary, reason: Reason::Pinned, promise: None, arrived, avoid: None };
            let mut link = match self.lease(demand, AsksSequences::No).await {
                Ok(link) => link,
                Err(Denied::Fault(Fault::Cancelled)) => continue,
                Err(Denied::Fault(fault)) => {
                    tracing::info!(%fault, "a session that listened cannot go on");
                    return Err(End::fatal(SqlState::CONNECTION_FAILURE, DEAF));
                }
                Err(Denied::End(end)) => return Err(end),
            };
            debug_assert_eq!(link.role, LinkRole::Primary);
            let listened = self.after(link.lease.query(&listen_sql(&self.session.listening))).await?;
            match listened {
                Ok(_) => {
                    link.lease.unnamed = None;
                    link.is_new = false;
                    self.side.output.unsplit(link.take_notifications().unwrap_or_default());
                    self.registration.slot.set_rest(Rest::Resting);
                    self.link = Some(link);
                    break;
                }
                Err(QueryError::Lost(_)) => {
                    self.shared.cluster.nudge(link.node());
                    drop(link);
                    self.release_slot().await;
                }
                Err(error) => {
                    tracing::warn!(%error, "a session that listened cannot go on");
                    return Err(End::fatal(SqlState::CONNECTION_FAILURE, DEAF));
                }
            }
        }
        self.session.pins.push(Pin::Listen);
        self.registration.slot.set_pins(&self.session.pins);
        let message = "the server on which this session was listening is lost: it listens on another one now";
        let hint = "What was notified in between has not arrived: look at what the notifications are about.";
        Report::warning(SqlState::WARNING, message).hint(hint).put(&mut self.side.output);
        Ok(())
    }
}
