//! A CancelRequest on its way to the session that it means, which may be another instance's.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::registry::{Addressee, instance_of};
use super::shared::Shared;
use crate::wire::startup::{Via, put_cancel_via};

/// An instance that does not answer keeps a client that wants to cancel for no longer.
const LIMIT: Duration = Duration::from_secs(5);

/// Returns when the request has arrived, or cannot. As PostgreSQL, tells nobody which.
pub(super) async fn arrived(shared: &Shared, pid: u32, key: &[u8], via: Via) {
    if shared.registry.cancel(pid, key).await == Addressee::Here || via == Via::Instance {
        return;
    }
    let Some(membership) = shared.membership.get() else { return };
    let Some(number) = instance_of(pid).filter(|number| membership.number() != Some(*number)) else { return };
    let Some(address) = membership.address_of(number) else { return };
    match timeout(LIMIT, pass_on(&address, pid, key)).await {
        Ok(Ok(())) => tracing::debug!(pid, address, "a cancel request was passed on"),
        Ok(Err(error)) => tracing::info!(pid, address, %error, "a cancel request could not be passed on"),
        Err(_) => tracing::info!(pid, address, "a cancel request could not be passed on in time"),
    }
}

/// The other instance closes the connection when the request has reached the server.
async fn pass_on(address: &str, pid: u32, key: &[u8]) -> io::Result<()> {
    let mut socket = TcpStream::connect(address).await?;
    let mut packet = BytesMut::new();
    put_cancel_via(&mut packet, pid, key, Via::Instance);
    socket.write_all(&packet).await?;
    let mut nothing = [0; 16];
    while socket.read(&mut nothing).await.is_ok_and(|n| n > 0) {}
    Ok(())
}
