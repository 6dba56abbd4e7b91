//! Sockets: one stream type for all of them, and TLS towards clients and servers.

pub mod stream;
mod target;
#[cfg(test)]
mod testing;
pub mod tls;

pub use stream::{Breaker, Liveness, Stream};
pub use target::{OpenError, Target};
