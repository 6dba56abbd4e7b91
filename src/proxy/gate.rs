//! PAUSE and RESUME: no new statement gets a server connection while the gate is closed.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

/// Open, unless an operator has closed it.
pub struct Gate {
    passage: watch::Sender<Passage>,
    /// The same, to be looked at for each statement.
    closed: AtomicBool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    Open,
    Closed,
}

impl Default for Gate {
    fn default() -> Self {
        Self { passage: watch::Sender::new(Passage::Open), closed: AtomicBool::new(false) }
    }
}

impl Gate {
    /// Returns what it was before.
    pub fn set(&self, passage: Passage) -> Passage {
        let mut before = passage;
        self.passage.send_modify(|now| {
            before = std::mem::replace(now, passage);
            self.closed.store(passage == Passage::Closed, Ordering::Relaxed);
        });
        before
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    pub fn state(&self) -> Passage {
        *self.passage.borrow()
    }

    /// Waits while it is closed.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn pass(&self) {
        if self.is_closed() {
            // The sender lives as long as this.
            let _ = self.passage.subscribe().wait_for(|passage| *passage == Passage::Open).await;
        }
    }
}
