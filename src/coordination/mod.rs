//! Who may decide about the primary, and what was decided: the record that outlives pgpilot.
//!
//! - A single instance keeps it in a [`StateFile`].
//! - Several keep it in etcd, each by its [`Membership`], which `attendance` keeps up: `view` says what the keys are, `etcd`
//!   how etcd is asked, and [`Tenure`] for how long an instance that has lost etcd may go on.

mod attendance;
mod etcd;
mod membership;
mod state_file;
mod tenure;
mod view;

pub use etcd::EtcdError;
pub use membership::{Membership, NotStored, Reign, Session, State};
pub use state_file::{StateFile, StateFileError};
pub use tenure::Tenure;
pub use view::{Instance, InstanceFacts, Leader, Number, Recorded, View};

use crate::decide::failover::Record;

/// Where a single instance keeps the record.
#[derive(Debug)]
pub enum Store {
    /// In a file, which no other instance uses.
    File(StateFile),
    /// Nowhere: only what operators order is done, and a restart forgets it.
    Memory,
}

impl Store {
    /// What was written down last.
    ///
    /// # Errors
    /// The file cannot be read, or is not a record.
    pub fn load(&self) -> Result<Record, StateFileError> {
        match self {
            Self::File(file) => file.load(),
            Self::Memory => Ok(Record::default()),
        }
    }

    /// Writes a record down; when this returns it is on disk. Blocks.
    ///
    /// # Errors
    /// It is not on disk; what was written before may be still there.
    pub fn store(&self, record: &Record) -> Result<(), StateFileError> {
        match self {
            Self::File(file) => file.store(record),
            Self::Memory => Ok(()),
        }
    }
}
