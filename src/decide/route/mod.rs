//! (demand, session, snapshot) to a route with its reason.

mod snapshot;

pub use snapshot::*;
