//! TLS towards servers.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::{ServerTls, SslMode};
use crate::net::stream::{Liveness, Stream, probe_socket};

use super::error::TlsError;
use super::identity::{Authorities, Fingerprint, Identity, end_point_hash};
use super::verify::{Trust, Verifier};
use super::{ALPN, provider};

/// Length and code of an SSLRequest (protocol documentation, "Message Formats").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Secures connections to the servers that share these settings. Cheap to clone.
#[derive(Clone)]
pub struct Connector {
    mode: SslMode,
    /// `None`: TLS is never tried.
    tls: Option<TlsConnector>,
    /// Of what the files held.
    fingerprint: Fingerprint,
}

/// One way to go about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    Plain,
    /// TLS, or in clear if the server says it has none.
    TlsIfOffered,
    Tls,
}

/// A connection to a server on which the start-up message can be sent.
pub struct Secured {
    pub stream: Stream,
    /// The `tls-server-end-point` hash of the server's certificate; `None` without TLS, or where it has none.
    pub channel_binding: Option<Vec<u8>>,
}

impl Connector {
    /// Reads the files.
    ///
    /// # Errors
    /// Those of the settings in [`TlsError`].
    pub fn new(settings: &ServerTls) -> Result<Self, TlsError> {
        let mode = settings.mode;
        if mode == SslMode::Disable {
            return Ok(Self { mode, tls: None, fingerprint: Fingerprint::default() });
        }
        // Before they are loaded: what is changed in between counts as changed the next time.
        let fingerprint = Fingerprint::of([&settings.ca, &settings.certificate, &settings.key])?;
        let mut tls = client_config(settings)?;
        tls.alpn_protocols = vec![ALPN.to_vec()];
        // PostgreSQL does not resume sessions.
        tls.resumption = Resumption::disabled();
        Ok(Self { mode, tls: Some(TlsConnector::from(Arc::new(tls))), fingerprint })
    }

    /// Whether both do the same: a file that was renewed under its old name makes a difference.
    pub fn is_same(&self, other: &Self) -> bool {
        self.mode == other.mode && self.fingerprint == other.fingerprint
    }

    /// What to try, in order: if an attempt fails before the server has accepted the authentication, the next one is
    /// made on a new connection (libpq: `allow` and `prefer`). A Unix socket is never encrypted: use it as it is.
    pub fn attempts(&self) -> &'static [Attempt] {
        match self.mode {
            SslMode::Disable => &[Attempt::Plain],
            SslMode::Allow => &[Attempt::Plain, Attempt::Tls],
            SslMode::Prefer => &[Attempt::TlsIfOffered, Attempt::Plain],
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Attempt::Tls],
        }
    }

    /// Negotiates what `attempt` says on a new connection to `host` (a name or an address, as configured).
    /// Has no time limit of its own.
    ///
    /// # Errors
    /// Those of the connection in [`TlsError`]; [`TlsError::HostName`] if a certificate cannot be checked against it.
    ///
    /// # Cancel safety
    /// Dropped half-way, the connection is closed.
    pub async fn secure(&self, mut socket: TcpStream, host: &str, attempt: Attempt) -> Result<Secured, TlsError> {
        let tls = match (attempt, &self.tls) {
            (Attempt::Plain, _) | (Attempt::TlsIfOffered, None) => return Ok(Secured::plain(socket)),
            (Attempt::Tls, None) => return Err(TlsError::Refused),
            (Attempt::Tls | Attempt::TlsIfOffered, Some(tls)) => tls,
        };
        socket.write_all(&SSL_REQUEST).await?;
        match (socket.read_u8().await?, attempt) {
            (b'S', _) => {}
            (b'N', Attempt::TlsIfOffered) => return Ok(Secured::plain(socket)),
            (b'N', _) => return Err(TlsError::Refused),
            (b'E', _) => return Err(TlsError::ServerError),
            (other, _) => return Err(TlsError::UnexpectedReply(other)),
        }
        // One byte was read, so nothing that came with it can be taken for decrypted data later; but nothing may come
        // before our ClientHello.
        if probe_socket(&SockRef::from(&socket)) == Liveness::Readable {
            return Err(TlsError::UnencryptedData);
        }
        let name = self.server_name(host, &socket)?;
        let stream = tls.connect(name, socket).await.map_err(TlsError::Handshake)?;
        let chain = stream.get_ref().1.peer_certificates();
        let channel_binding = chain.and_then(|chain| end_point_hash(chain.first()?));
        Ok(Secured { stream: Stream::ServerTls(Box::new(stream)), channel_binding })
    }

    fn server_name(&self, host: &str, socket: &TcpStream) -> Result<ServerName<'static>, TlsError> {
        match ServerName::try_from(host.to_owned()) {
            Ok(name) => Ok(name),
            Err(_) if self.mode == SslMode::VerifyFull => Err(TlsError::HostName(host.to_owned())),
            // No name will be checked; an address keeps it out of the handshake.
            Err(_) => Ok(ServerName::IpAddress(socket.peer_addr()?.ip().into())),
        }
    }
}

impl Secured {
    fn plain(socket: TcpStream) -> Self {
        Self { stream: Stream::Tcp(socket), channel_binding: None }
    }
}

/// What is verified, and as whom we come.
pub(super) fn client_config(settings: &ServerTls) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let verifier = Verifier::new(trust(settings)?, provider.signature_verification_algorithms);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Certificate)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    match (&settings.certificate, &settings.key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(certificate), Some(key)) => {
            let identity = Identity::load(certificate, key)?;
            builder.with_client_auth_cert(identity.chain, identity.key).map_err(TlsError::Certificate)
        }
        _ => Err(TlsError::NoCertificate),
    }
}

/// As libpq: a given authority is used in every mode; without one only the verifying modes look at the system's.
fn trust(settings: &ServerTls) -> Result<Trust, TlsError> {
    let given = settings.ca.as_deref().map(Authorities::load).transpose()?;
    Ok(match (settings.mode, given) {
        (SslMode::VerifyFull, Some(given)) => Trust::ChainAndName(given),
        (SslMode::VerifyFull, None) => Trust::ChainAndName(Authorities::of_the_system()?),
        (SslMode::VerifyCa, None) => Trust::Chain(Authorities::of_the_system()?),
        (_, Some(given)) => Trust::Chain(given),
        (_, None) => Trust::Anyone,
    })
}
