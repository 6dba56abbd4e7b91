//! What a statement asks for: SQL text to [`Intent`], with the reason.

mod types;

pub use types::*;
