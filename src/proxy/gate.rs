//! PAUSE and RESUME: no new statement gets a server connection while the gate is closed.

use tokio::sync::watch;

/// Open, unless an operator has closed it.
pub struct Gate(watch::Sender<Passage>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    Open,
    Closed,
}

impl Default for Gate {
    fn default() -> Self {
        Self(watch::Sender::new(Passage::Open))
    }
}

impl Gate {
    /// Returns what it was before.
    pub fn set(&self, passage: Passage) -> Passage {
        self.0.send_replace(passage)
    }

    pub fn state(&self) -> Passage {
        *self.0.borrow()
    }

    /// Waits while it is closed. Costs next to nothing while it is open.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn pass(&self) {
        if self.state() == Passage::Closed {
            // The sender lives as long as this.
            let _ = self.0.subscribe().wait_for(|passage| *passage == Passage::Open).await;
        }
    }
}
