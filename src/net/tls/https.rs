//! TLS from the first byte, towards servers that speak HTTP.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::connect::client_config;
use super::error::TlsError;
use crate::config::ServerTls;
use crate::net::stream::Stream;

/// Secures connections to the servers that share these settings. Cheap to clone.
#[derive(Clone)]
pub struct HttpsConnector(TlsConnector);

impl HttpsConnector {
    /// Reads the files. The server's certificate has to carry its name, if the mode is to verify that.
    ///
    /// # Errors
    /// Those of the settings in [`TlsError`].
    pub fn new(settings: &ServerTls) -> Result<Self, TlsError> {
        let mut tls = client_config(settings)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(tls))))
    }

    /// Has no time limit of its own.
    ///
    /// # Errors
    /// Those of the connection in [`TlsError`].
    ///
    /// # Cancel safety
    /// Dropped half-way, the connection is closed.
    pub async fn secure(&self, socket: TcpStream, host: &str) -> Result<Stream, TlsError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::HostName(host.to_owned()))?;
        let stream = self.0.connect(name, socket).await.map_err(TlsError::Handshake)?;
        Ok(Stream::ServerTls(Box::new(stream)))
    }
}
