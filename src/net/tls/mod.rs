//! TLS: [`Acceptor`] towards clients, [`Connector`] towards servers, and the channel binding of both; [`HttpsConnector`]
//! towards what speaks HTTP.
//!
//! Both are built from settings and never change: a reload builds a new one and swaps it.

mod accept;
mod connect;
mod error;
mod https;
mod identity;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use accept::{Accepted, Acceptor, Start};
pub use connect::{Attempt, Connector, Secured};
pub use error::TlsError;
pub use https::HttpsConnector;

/// The protocol name that a client of PostgreSQL 17 offers, and has to offer when it begins with TLS (protocol
/// documentation, "SSL Session Encryption").
const ALPN: &[u8] = b"postgresql";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}
