//! `currval()` and `lastval()` tell what a session itself has taken from sequences, and servers keep that by connection: a connection on which others have
//! written is not asked, nor one that is not the session's newest.

use std::sync::atomic::{AtomicBool, Ordering};

use super::client::Client;
use super::link::{Link, LinkRole, Purpose};
use super::session::{Session, Transaction};
use super::vigil::Denied;
use crate::decide::route::NodeId;
use crate::decide::session::Pin;
use crate::decide::sql::Effects;
use crate::pool::{SequenceState, ServerConnection};

/// Whether any client asks for them. Until the first one does, connections may be written on by one session after the other without more ado.
#[derive(Debug, Default)]
pub(super) struct SequenceUse(AtomicBool);

impl SequenceUse {
    pub(super) fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Whether a batch asks for what its session has taken from sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AsksSequences {
    No,
    Yes,
}

impl AsksSequences {
    pub(super) fn of(effects: Effects) -> Self {
        if effects.contains(Effects::SEQUENCE_STATE) { Self::Yes } else { Self::No }
    }
}

/// A server connection: its node, and its process there.
pub(super) type Place = (NodeId, u32);

pub(super) fn place(connection: &ServerConnection) -> Place {
    (connection.node, connection.cancel_key.pid)
}

/// The session has run something on a primary that may have advanced a sequence.
pub(super) fn note_write(link: &mut Link, session: &mut Session, pid: u32) {
    let (pid, here) = (u64::from(pid), Some(place(&link.lease)));
    link.lease.sequences = match link.lease.sequences {
        SequenceState::Nobodys => SequenceState::Of(pid),
        SequenceState::Of(session_before) if session_before == pid && session.sequences_at == here => return,
        SequenceState::Of(_) | SequenceState::Mixed => SequenceState::Mixed,
    };
    session.sequences_at = here;
}

/// Whether what the connection tells of sequences is what the session has taken from them.
fn tells_rightly(link: &Link, session: &Session, pid: u64) -> bool {
    match link.lease.sequences {
        SequenceState::Nobodys => true,
        SequenceState::Of(of) => of == pid && session.sequences_at == Some(place(&link.lease)),
        SequenceState::Mixed => false,
    }
}

impl Client {
    /// Sees to it that a connection that has just been leased tells of no sequences but the session's own.
    pub(super) async fn own_sequences(&mut self, asks: AsksSequences) -> Result<(), Denied> {
        let pid = u64::from(self.registration.slot.pid());
        let Some(link) = self.link.as_ref() else { return Ok(()) };
        let writes = link.purpose == Purpose::Any && link.role == LinkRole::Primary;
        if asks == AsksSequences::No && !(writes && self.shared.sequences.is_known()) {
            return Ok(());
        }
        if !tells_rightly(link, &self.session, pid) {
            self.discard_sequences().await?;
        }
        if asks == AsksSequences::Yes {
            self.session.pin_for_good(Pin::SequenceState);
            self.registration.slot.set_pins(&self.session.pins);
        }
        Ok(())
    }

    /// The same on a connection that the session has already: in its transaction it cannot have another one. What that has
    /// written itself may be what it asks for.
    pub(super) async fn own_sequences_within(&mut self, asks: AsksSequences) -> Result<(), Denied> {
        let pid = u64::from(self.registration.slot.pid());
        let Some(link) = self.link.as_ref() else { return Ok(()) };
        let can_be_asked = matches!(self.transaction, Transaction::Open) && link.is_quiet() && !link.batch_open;
        let is_anothers = !link.has_written && !link.is_replica() && !tells_rightly(link, &self.session, pid);
        if asks == AsksSequences::Yes && can_be_asked && is_anothers {
            self.discard_sequences().await?;
        }
        Ok(())
    }

    async fn discard_sequences(&mut self) -> Result<(), Denied> {
        let Some(mut link) = self.link.take() else { return Ok(()) };
        match self.vigil_before().until(link.lease.query("DISCARD SEQUENCES")).await {
            Ok(Ok(_)) => {
                link.lease.unnamed = None;
                link.lease.sequences = SequenceState::Nobodys;
                self.link = Some(link);
                Ok(())
            }
            failed => {
                drop(link);
                self.registration.slot.set_idle();
                failed??;
                Ok(())
            }
        }
    }
}
