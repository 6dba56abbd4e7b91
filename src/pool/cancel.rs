//! Cancelling what a server is doing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::{Breaker, Target};
use crate::wire::startup::put_cancel;

/// What a CancelRequest to a server needs.
pub struct CancelKey {
    pub target: Arc<Target>,
    pub pid: u32,
    pub key: Box<[u8]>,
    /// Ends the connection whose key this is; `None` while it is being opened.
    pub breaker: Option<Breaker>,
}

/// A server that cannot be reached does not keep a connection from its pool for longer.
const LIMIT: Duration = Duration::from_secs(5);

impl CancelKey {
    /// Sends the request, and returns when the server has closed the connection: by then the signal is delivered
    /// (`processCancelRequest` in `src/backend/postmaster/postmaster.c` sends it before the connection ends), so it cannot hit a later statement.
    ///
    /// # Errors
    /// The server cannot be reached, or takes longer than five seconds.
    pub async fn send(&self) -> io::Result<()> {
        let attempt = async {
            let mut stream = self.target.open().await.map_err(io::Error::other)?;
            let mut packet = BytesMut::new();
            put_cancel(&mut packet, self.pid, &self.key);
            stream.write_all(&packet).await?;
            stream.flush().await?;
            let mut nothing = [0; 16];
            while stream.read(&mut nothing).await.is_ok_and(|n| n > 0) {}
            Ok(())
        };
        tokio::time::timeout(LIMIT, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
