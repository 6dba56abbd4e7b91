//! The console over its real protocol with a real driver, the HTTP endpoint over real sockets; what they show is made up.

mod console;
mod fake;
mod http;
mod orders;
mod protocol;

use fake::Fake;
