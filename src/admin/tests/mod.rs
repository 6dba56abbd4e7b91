//! The console over its real protocol with a real driver, the HTTP endpoint over real sockets; what they show is made up.

pub(crate) mod console;
mod fake;
mod http;
mod orders;
mod protocol;

pub(crate) use fake::Fake;
