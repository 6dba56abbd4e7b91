//! The topology file as written: every section and key with its kind, default and explanation.
//!
//! The sample file and the reference are made from these declarations; the explanations are Markdown without links.

mod access;
mod coordination;
mod failover;
mod servers;
mod serving;

use std::path::PathBuf;

use super::problem::Findings;
use super::resolved::Listen;
use super::scalar::{Positive, PositiveSize, Whole};
use super::scope::{Child, Scope, Several};
use super::section::{Absent, Nested, Opt, Section, Written, absent, field, section};
use super::value::{At, OneOrMore, Value};

pub(super) use access::{Admin, Auth, AuthQuery, Rule, Tls};
pub(super) use coordination::Coordination;
pub(super) use failover::Failover;
pub(super) use servers::{Database, Health, Node, ServerTls, User, Zone};
pub(super) use serving::{Clients, Log, Metrics, Pool, Routing};

section! {
    /// The topology file of pgpilot. It is read at the start and on SIGHUP (or `RELOAD` on the admin console).
    /// Sessions that are there heed it from their next transaction on, but for `pool.mode`, and what they have set themselves.
    ///
    /// Durations are a whole number with a unit: us, ms, s, m (or min), h, d; "0" needs none. Sizes are a whole number
    /// with a unit: B, KiB, MiB, GiB, TiB, or kB, MB, GB, TB in powers of ten. Relative paths start at the directory of
    /// this file. An unknown key is an error.
    Root [
        nodes: Several<Node>,
        zones: Vec<Zone>,
        server_tls: ServerTls,
        health: Health,
        failover: Failover,
        coordination: Option<Coordination>,
        auth: Auth,
        users: Vec<User>,
        databases: Vec<Database>,
        routing: Routing,
        pool: Pool,
        clients: Clients,
        tls: Tls,
        admin: Admin,
        metrics: Metrics,
        log: Log,
    ] {
        /// Where clients connect: `"address:port"`, or `"unix:/directory"` for a Unix socket, whose file is
        /// `.s.PGSQL.PORT` with the port of the first TCP address, or 6432 without one. A change needs a restart.
        listen: OneOrMore<Listen>, default "\"127.0.0.1:6432\"";
        /// Worker threads. A change needs a restart.
        workers: Whole<1, 1024>, unset "one for each core", example "4";
        /// After SIGTERM, clients in a transaction get this long to finish it; who has not then is told so (57P01).
        drain_timeout: Positive, default "\"30s\"";
        /// A file with passwords for the users below that have none of their own, in the format of libpq:
        /// `host:port:database:user:password`, where `*` matches anything. The database of a line only matters for
        /// `health`, `failover` and `auth.query`.
        passfile: PathBuf, unset "no such file", example "\"passfile\"";
    }
}
