//! TLS towards clients.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::config::{ClientTls, SslMode};
use crate::net::Stream;

use super::error::TlsError;
use super::identity::{Authorities, Identity, common_name, end_point_hash};
use super::{ALPN, provider};

/// Takes TLS handshakes from clients. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    channel_binding: Option<Arc<[u8]>>,
}

/// How the client began.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// With the handshake itself ([`crate::net::stream::Opening::DirectTls`]).
    Direct,
    /// With an SSLRequest, which is not answered yet. `unread`: what has been read of the socket behind it.
    Request { unread: &'a [u8] },
}

/// An encrypted connection from a client.
pub struct Accepted {
    pub stream: Stream,
    /// Of the client's certificate, which is verified; `None` if it showed none.
    pub common_name: Option<String>,
    /// The `tls-server-end-point` hash of our certificate, where it has one.
    pub channel_binding: Option<Arc<[u8]>>,
}

impl Acceptor {
    /// Reads the files. `None`: clients get no TLS.
    ///
    /// # Errors
    /// Files that cannot be read or do not fit each other; certificate or `ca` missing where the mode needs them.
    pub fn new(settings: &ClientTls) -> Result<Option<Self>, TlsError> {
        let (certificate, key) = match (settings.mode, &settings.certificate, &settings.key) {
            (SslMode::Disable, _, _) | (SslMode::Allow | SslMode::Prefer, None, None) => return Ok(None),
            (_, Some(certificate), Some(key)) => (certificate, key),
            _ => return Err(TlsError::NoCertificate),
        };
        let identity = Identity::load(certificate, key)?;
        let channel_binding = identity.chain.first().and_then(|end_entity| end_point_hash(end_entity)).map(Arc::from);
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Certificate)?;
        let demanded = matches!(settings.mode, SslMode::VerifyCa | SslMode::VerifyFull);
        let builder = match &settings.ca {
            None if demanded => return Err(TlsError::NoAuthority),
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let roots = Arc::new(Authorities::load(ca)?.roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = if demanded { verifier } else { verifier.allow_unauthenticated() };
                let verifier =
                    verifier.build().map_err(|error| TlsError::Pem { path: ca.clone(), what: error.to_string() })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut tls = builder.with_single_cert(identity.chain, identity.key).map_err(TlsError::Certificate)?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        // As PostgreSQL: no resumption. Drivers do not ask for it, and a ticket is a message more after the handshake.
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.send_tls13_tickets = 0;
        Ok(Some(Self { tls: TlsAcceptor::from(Arc::new(tls)), channel_binding }))
    }

    /// Answers the SSLRequest, if there was one, and does the handshake. Has no time limit of its own.
    ///
    /// # Errors
    /// Those of the connection in [`TlsError`]; the client gets nothing but the TLS alert.
    ///
    /// # Cancel safety
    /// Dropped half-way, the connection is closed.
    pub async fn accept(&self, mut socket: TcpStream, start: Start<'_>) -> Result<Accepted, TlsError> {
        if let Start::Request { unread } = start {
            if !unread.is_empty() {
                return Err(TlsError::UnencryptedData);
            }
            socket.write_all(b"S").await?;
        }
        let stream = self.tls.accept(socket).await.map_err(TlsError::Handshake)?;
        let (_, session) = stream.get_ref();
        if matches!(start, Start::Direct) && session.alpn_protocol() != Some(ALPN) {
            return Err(TlsError::NoAlpn);
        }
        let common_name = session.peer_certificates().and_then(|chain| common_name(chain.first()?));
        let channel_binding = self.channel_binding.clone();
        Ok(Accepted { stream: Stream::ClientTls(Box::new(stream)), common_name, channel_binding })
    }
}
