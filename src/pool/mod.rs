//! The server connections of one node.

mod cancel;
mod connection;
mod dial;
mod keyring;
mod lease;
mod node;

pub use cancel::CancelKey;
pub use connection::{QueryError, SequenceState, ServerConnection, is_told};
pub use dial::{DialError, Login, dial_own};
pub use keyring::{Keyring, UserKey};
pub use lease::{Lease, LeaseError};
pub use node::{NodePool, PoolHandle, PoolKey};
