//! What goes wrong with TLS.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    // In the settings.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: {what}", path.display())]
    Pem { path: PathBuf, what: String },
    /// TLS is demanded, but the certificate or its key is not set.
    #[error("TLS needs both a certificate and a key")]
    NoCertificate,
    /// Client certificates are demanded, but `ca` is not set.
    #[error("verifying client certificates needs a certificate authority")]
    NoAuthority,
    #[error("certificate and key: {0}")]
    Certificate(rustls::Error),
    #[error("the system has no usable root certificates: {0}")]
    NoSystemRoots(String),
    #[error("{0:?} is not a host name that a certificate can be checked against")]
    HostName(String),

    // On the connection.
    #[error("TLS handshake: {0}")]
    Handshake(#[source] io::Error),
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// Bytes in clear behind the SSLRequest or its answer: someone in the middle may have put them there to have them
    /// taken for encrypted ones (CVE-2021-23214, CVE-2021-23222).
    #[error("received unencrypted data after the SSL request")]
    UnencryptedData,
    #[error("received direct SSL connection request without ALPN protocol negotiation extension")]
    NoAlpn,
    #[error("the server does not support SSL, but SSL was required")]
    Refused,
    /// An ErrorResponse in place of an answer. It is not shown: nobody has vouched for it.
    #[error("the server sent an error response during the SSL exchange")]
    ServerError,
    #[error("received an invalid response to the SSL negotiation: 0x{0:02x}")]
    UnexpectedReply(u8),
}

impl TlsError {
    /// Of the settings' errors: a server could not be reached as configured.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::UnencryptedData | Self::NoAlpn | Self::UnexpectedReply(_) => "08P01",
            Self::Handshake(_) | Self::Socket(_) | Self::Refused | Self::ServerError => "08006",
            Self::File { .. }
            | Self::Pem { .. }
            | Self::NoCertificate
            | Self::NoAuthority
            | Self::Certificate(_)
            | Self::NoSystemRoots(_)
            | Self::HostName(_) => "F0000",
        }
    }
}
