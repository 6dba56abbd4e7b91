//! (demand, session, snapshot) to a route with its reason.
//!
//! [`route`] is the whole decision; a session keeps a [`Freshness`] of what it wrote and saw.

mod choice;
mod decision;
mod freshness;
mod patience;
mod policy;
mod replaying;
#[cfg(test)]
mod simulation;
mod snapshot;
#[cfg(test)]
mod tests;

pub use decision::{Ask, Decision, Demand, Need, Refusal, Route, WaitFor, route};
pub use freshness::{Freshness, Loss, is_in_service};
pub use policy::Policy;
pub use replaying::Replaying;
pub use snapshot::*;
