//! Where a server listens, and how to get there.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};

use super::stream::{Stream, tune};
use super::tls::{Attempt, Connector, Secured, TlsError};
use crate::config::Node;

/// A node's address and its TLS settings.
pub struct Target {
    pub host: String,
    pub port: u16,
    pub tls: Connector,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot connect: {0}")]
    Io(#[from] io::Error),
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
}

impl TryFrom<&Node> for Target {
    type Error = TlsError;

    fn try_from(node: &Node) -> Result<Self, TlsError> {
        Ok(Self { host: node.host.clone(), port: node.port, tls: Connector::new(&node.tls)? })
    }
}

impl Target {
    /// Whether both lead to the same place in the same manner.
    pub fn is_same(&self, other: &Self) -> bool {
        self.host == other.host && self.port == other.port && self.tls.is_same(&other.tls)
    }

    /// The ways to go about a connection, in order.
    pub fn attempts(&self) -> &'static [Attempt] {
        if self.is_local() { &[Attempt::Plain] } else { self.tls.attempts() }
    }

    fn is_local(&self) -> bool {
        self.host.starts_with('/')
    }

    /// Connects and encrypts as the node's settings say; no start-up packet is sent.
    ///
    /// # Errors
    /// No connection, or no TLS where TLS is demanded.
    pub async fn open(&self) -> Result<Stream, OpenError> {
        let mut failure = None;
        for attempt in self.attempts() {
            match self.open_by(*attempt).await {
                Ok(secured) => return Ok(secured.stream),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| io::Error::from(io::ErrorKind::NotConnected).into()))
    }

    /// One way of doing so; an attempt that fails before the server has accepted the login may be followed by the next (`allow`, `prefer`).
    ///
    /// # Errors
    /// As [`Target::open`].
    pub async fn open_by(&self, attempt: Attempt) -> Result<Secured, OpenError> {
        if self.is_local() {
            let path = Path::new(&self.host).join(format!(".s.PGSQL.{}", self.port));
            let stream = Stream::Unix(UnixStream::connect(path).await?);
            return Ok(Secured { stream, channel_binding: None });
        }
        let socket = TcpStream::connect((self.host.as_str(), self.port)).await?;
        tune(&socket, KEEPALIVE)?;
        Ok(self.tls.secure(socket, &self.host, attempt).await?)
    }
}

/// A server that has vanished without a word is noticed after a few of these, also on an idle connection.
const KEEPALIVE: Duration = Duration::from_secs(15);
