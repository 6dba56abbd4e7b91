//! How operators look at pgpilot and tell it what to do.
//!
//! - [`Sources`]: what the rest of pgpilot has to offer for this; the only way from here to there.
//! - [`console`]: the admin console, a database named `pgpilot` that any PostgreSQL client can talk to. `command` reads
//!   what is asked (`orders`: who shall be the primary), `views` are the tables of `SHOW`, `explain` is `EXPLAIN ROUTE`, `courtesy` answers what drivers ask
//!   of any server, `session` is the protocol.
//! - [`http`]: `/metrics` (made by `exposition`), `/healthz`, `/readyz`, and the status page (`page`).

mod command;
pub mod console;
mod courtesy;
mod explain;
mod exposition;
pub mod http;
mod orders;
mod page;
mod readiness;
mod session;
mod sources;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod views;

pub use command::COMMANDS;
pub use console::{ConsoleUser, Level};
pub use sources::{
    Action, CatalogueRow, ClientRow, Explained, FailoverStatus, InstanceRow, InstanceStanding, NodeFacts, Outcome,
    Performed, PoolRow, Refused, ServerRow, ServerState, Service, ShapeRow, Sources,
};
pub use views::FAILOVER_AT_A_GLANCE;
