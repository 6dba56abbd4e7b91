//! pgpilot stands between applications and a PostgreSQL primary with its streaming replicas: writes go to the
//! primary, reads to replicas that are fresh enough, over pooled connections.
//!
//! # Code map, in reading order
//!
//! What is known (bytes and settings; nothing here depends on anything below):
//! - [`wire`]: PostgreSQL protocol 3.0/3.2: frames, messages, SQLSTATEs. Borrowed views, no policy.
//! - [`config`]: the topology file as written, and the settings it resolves to.
//!
//! What is decided (pure: no tokio, no clock, no lock, no randomness of its own):
//! - [`decide`]: statement to intent, intent to route, session state, pooling, node health, failover, authentication.
//!
//! What acts (the only code that awaits, locks, reads a clock or opens a socket):
//! - [`telemetry`]: the name of every metric, and logging.
//! - [`net`]: listeners, TLS, streams.
//! - [`pool`]: the server connections of one node.
//! - [`coordination`]: who may decide about the primary, and what was decided.
//! - [`cluster`]: probes the nodes, publishes the snapshot that routing reads, and changes the primary.
//! - [`proxy`]: a client's life, from accept to close.
//! - [`admin`]: the admin console and the HTTP endpoint.
//! - [`demo`]: throwaway PostgreSQL clusters, for `pgpilot demo`, the tests and the benches.
//! - [`app`]: the composition root: builds everything, starts it, drains it in order.
//! - [`cli`]: the commands.
//!
//! # Invariants
//!
//! - A client loop is only ever built from an `Authenticated` value.
//! - A statement is sent again only if the client has been sent no byte of its reply, and it ran on a replica or does
//!   nothing but read.
//! - A server connection goes back to its pool only when it is idle outside a transaction, nothing is due from it,
//!   and what the session left behind on it is known.
//! - Routing reads one immutable snapshot for one decision.
//! - No lock is held across an await.

pub mod admin;
pub mod app;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod coordination;
pub mod decide;
pub mod demo;
pub mod net;
pub mod pool;
pub mod proxy;
pub mod telemetry;
pub mod wire;
