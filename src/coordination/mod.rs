//! Who may decide about the primary, and what was decided: the record that outlives pgpilot.
//!
//! A single pgpilot keeps it in a [`StateFile`].

mod state_file;

pub use state_file::{StateFile, StateFileError};

use crate::decide::failover::Record;

/// Where the record is kept.
#[derive(Debug)]
pub enum Store {
    /// In a file, which no other pgpilot uses.
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
