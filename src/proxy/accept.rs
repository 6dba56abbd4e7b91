//! Taking clients in, as many as are allowed.

use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};

use super::handshake::{self, Arrival};
use super::shared::Shared;
use crate::net::stream::tune;
use crate::telemetry::Count;

/// Where clients come in.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
    /// For operators: whoever runs pgpilot gets to the admin console without a password.
    Operators(UnixListener),
}

/// Accepts clients until pgpilot stops.
pub async fn serve(listener: Listener, shared: Arc<Shared>) {
    loop {
        let next = async {
            wait_for_room(&listener, &shared).await;
            accept(&listener, &shared).await
        };
        let arrival = tokio::select! {
            () = shared.shutdown.begins() => return,
            arrival = next => arrival,
        };
        match arrival {
            Ok(arrival) => {
                shared.metrics.count(Count::Connection);
                let permit = shared.logins.enter();
                // Nobody waits for those who have not logged in, when pgpilot stops.
                drop(tokio::spawn(handshake::welcome(arrival, permit, shared.clone())));
            }
            Err(error) => {
                // Out of file descriptors, most likely: those of clients that leave come back.
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

/// Operators need no room: they get to the console however many crowd the other doors.
async fn wait_for_room(listener: &Listener, shared: &Shared) {
    match listener {
        Listener::Operators(_) => {}
        Listener::Tcp(_) | Listener::Unix(_) => shared.logins.room(|| shared.config.load().clients.max_logins).await,
    }
}

async fn accept(listener: &Listener, shared: &Shared) -> std::io::Result<Arrival> {
    match listener {
        Listener::Tcp(listener) => {
            let (socket, address) = listener.accept().await?;
            tune(&socket, shared.config.load().clients.keepalive)?;
            Ok(Arrival::Tcp(socket, address.ip()))
        }
        Listener::Unix(listener) => Ok(Arrival::Unix(listener.accept().await?.0)),
        Listener::Operators(listener) => Ok(Arrival::Operator(listener.accept().await?.0)),
    }
}
