//! Everything that runs against a real PostgreSQL: one program, so that it is linked once.
//!
//! A test that does not harm a cluster uses `support::cluster()`, which all of them share; one that does makes its own,
//! which takes about a second. No test sleeps: it waits for a condition, with a limit (`support::wait_for`).

#![allow(clippy::type_complexity, reason = "tables of cases are written as they are read")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where, and stops")]

mod admission;
mod catalogue;
mod consistency;
mod databases;
mod drivers;
mod failover;
mod growth;
mod hooks;
mod lasting;
mod local;
mod operating;
mod peers;
mod placing;
mod protocol;
mod proxying;
mod routing;
mod stopping;
mod strangers;
mod support;
mod watching;
