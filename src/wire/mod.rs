//! PostgreSQL protocol 3.0 and 3.2: frames, messages, SQLSTATE. Borrowed views, no policy.
//!
//! Source: the PostgreSQL documentation, chapter "Frontend/Backend Protocol", section "Message Formats".

pub mod backend;
pub mod frame;
pub mod frontend;
pub mod sqlstate;
pub mod startup;

pub use frame::{Body, HEADER_LEN, Header, WireError};
pub use sqlstate::SqlState;
