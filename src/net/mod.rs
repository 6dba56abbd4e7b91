//! Sockets: one stream type for all of them, and TLS towards clients and servers.

pub mod stream;
#[cfg(test)]
mod testing;
pub mod tls;

pub use stream::{Liveness, Stream};
