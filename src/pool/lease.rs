//! A server connection in use.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use super::connection::ServerConnection;
use super::dial::DialError;
use super::node::PoolHandle;

/// A connection that one client has to itself. Dropped, the connection is closed; [`Lease::release`] gives it back.
pub struct Lease {
    /// `None` only after `release` or in `drop`.
    connection: Option<Box<ServerConnection>>,
    pool: PoolHandle,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum LeaseError {
    #[error("no server connection became free in time")]
    Timeout,
    #[error("too many clients wait for a server connection")]
    QueueFull,
    #[error(transparent)]
    Dial(Arc<DialError>),
    /// The node's pools were emptied while waiting: its role has changed, or it is gone.
    #[error("the node is gone")]
    Dismissed,
}

impl Lease {
    pub(super) fn new(connection: Box<ServerConnection>, pool: PoolHandle) -> Self {
        Self { connection: Some(connection), pool }
    }

    /// Whether somebody waits for a connection to this node. Costs next to nothing.
    pub fn is_awaited(&self) -> bool {
        self.pool.is_awaited()
    }

    /// Gives the connection back. It must be idle: in sync, outside a transaction, its state known.
    pub fn release(mut self, now: Instant) {
        if let Some(mut connection) = self.connection.take() {
            connection.notifications.clear();
            self.pool.put_back(connection, now);
        }
    }
}

impl Deref for Lease {
    type Target = ServerConnection;

    fn deref(&self) -> &ServerConnection {
        self.connection.as_deref().expect("a lease has its connection until it is released")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut ServerConnection {
        self.connection.as_deref_mut().expect("a lease has its connection until it is released")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close();
            self.pool.closed();
        }
    }
}
