//! How clients are served: limits, pools, routing, monitoring.

use std::time::Duration;

use super::*;
use crate::config::resolved::{Consistency, LogFormat, OnAllLagging, PoolMode, RoutingMode, Transactions};
use crate::config::scalar::{Endpoint, Level};
use crate::config::units::ByteSize;
use crate::config::value::List;

section! {
    /// Limits on clients.
    Clients [] {
        /// Clients at a time. One more is refused with SQLSTATE 53300.
        max: Whole<1, 1_000_000>, default "5000";
        /// Clients that are logging in at a time. One more waits until one of them is in, or has used up `login_timeout`.
        max_logins: Whole<1, 1_000_000>, default "1000";
        /// From accepting a connection to having authenticated the client.
        login_timeout: Positive, default "\"15s\"";
        /// A client that sends nothing for so long, outside a transaction, is disconnected; "0": never.
        idle_timeout: Duration, default "\"0\"";
        /// A client that sends nothing for so long, inside a transaction, loses the transaction and its connection;
        /// "0": never.
        idle_transaction_timeout: Duration, default "\"0\"";
        /// The interval of TCP keep-alive probes; "0": the operating system's.
        keepalive: Duration, default "\"60s\"";
    }
}

section! {
    /// The HTTP endpoint: `/metrics` for Prometheus, `/healthz`, `/readyz`, and a status page on `/`.
    Metrics [] {
        /// Where it listens, or "off". A change needs a restart.
        listen: Endpoint, default "\"127.0.0.1:9632\"";
    }
}

section! {
    /// Connections to the servers. There is one pool for each node, user and database.
    Pool [] {
        /// When a client's server connection goes back to the pool: after each "transaction", or at the end of the
        /// "session".
        mode: PoolMode, default "\"transaction\"";
        /// Server connections for each node, all users and databases together. Lowered while pgpilot runs, what is idle above
        /// it is closed within a second or two, and what is in use when it comes back.
        max_server_connections: Whole<1, 100_000>, default "50";
        /// Idle connections kept at hand for each node, user and database that has been used, within the limits of each:
        /// they are opened one by one, about one a second.
        min_idle: Whole<0, 100_000>, default "0";
        /// How long a client may wait for a server connection of one node; then it gets SQLSTATE 53300. A read that has
        /// waited for a replica in vain tries one other node before that.
        checkout_timeout: Positive, default "\"5s\"";
        /// Clients that may wait for a connection to one node. One more gets SQLSTATE 53300 at once (a read on a replica: if
        /// one other node has no room for it either).
        max_waiting: Whole<0, 1_000_000>, default "1000";
        /// An idle connection above `min_idle` is closed after so long; "0": never.
        idle_timeout: Duration, default "\"10m\"";
        /// A connection of this age is closed rather than used again (with up to 10 % of jitter); "0": no limit.
        max_lifetime: Duration, default "\"1h\"";
        /// From dialling a server to being ready for a query.
        connect_timeout: Positive, default "\"5s\"";
        /// Connections that may be opened to one node at the same time.
        max_connecting: Whole<1, 1_000>, default "8";
        /// Prepared statements kept on each server connection. Above it the least recently used one is closed.
        max_prepared: Whole<1, 100_000>, default "500";
    }
}

section! {
    /// Which node runs a statement.
    Routing [] {
        /// "split": reads go to replicas. "shadow": everything goes to the primary, and SHOW ROUTES says what would
        /// have gone to a replica, and why the rest would not: the way to try pgpilot without a risk.
        mode: RoutingMode, default "\"split\"";
        /// Where a transaction begins that may write. "primary": there. "optimistic": on a replica, if it is begun by a
        /// Query of its own, or in one batch with its first reads, says nothing of its isolation but READ COMMITTED,
        /// and the session is promised no more than "session". With the first statement that is not certainly a read it
        /// moves to the primary, where what it has read is read again: if any row is not what the client has been sent,
        /// in the same order, it gets SQLSTATE 40001 before anything is written, and has to be prepared to repeat the
        /// transaction. Until one agrees, ever more of the session's transactions begin on the primary then. A
        /// transaction whose first statement's result depends on the moment (`now()`, `random()`) begins there.
        transactions: Transactions, default "\"primary\"";
        /// What a read on a replica is promised. "eventual": no older than `max_lag`. "session": a session sees its own
        /// writes and never goes back in time. "strong": every write acknowledged to anyone through pgpilot before.
        /// "primary": no reads on replicas.
        consistency: Consistency, default "\"session\"";
        /// A replica further behind than this gets no reads ..
        max_lag: Positive, default "\"1s\"";
        /// .. until it is less far behind than this.
        lag_recovery: Positive, unset "half of `max_lag`", example "\"500ms\"";
        /// The same in bytes of log: a replica that lacks more of it than this gets no reads ..
        max_lag_bytes: PositiveSize, unset "no limit", example "\"16MiB\"";
        /// .. until it lacks less than this.
        lag_recovery_bytes: ByteSize, unset "half of `max_lag_bytes`", example "\"8MiB\"";
        /// When every replica is too far behind: reads go to the "primary", get an "error", or are "stale".
        on_all_lagging: OnAllLagging, default "\"primary\"";
        /// How long a read may wait for a replica to catch up with its session before it goes to the primary.
        replica_wait: Duration, default "\"0\"";
        /// How long a statement may wait for a primary to appear, as during a failover.
        primary_wait: Duration, default "\"30s\"";
        /// Clients whose statements may wait for a primary at a time. One more gets SQLSTATE 57P03 at once. When the primary
        /// is there, they go on in their order, a few at first and at most `pool.max_server_connections` at a time.
        max_held: Whole<0, 1_000_000>, default "10000";
        /// The size of what these clients have sent, all together.
        max_held_bytes: ByteSize, default "\"256MiB\"";
        /// Whether the primary shares the reads even if replicas are fit.
        reads_on_primary: bool, default "false";
        /// The zone in which pgpilot runs. Replicas of this zone are preferred.
        zone: String, unset "no preference", example "\"a\"";
        /// Functions that need the primary, whatever their definition says. Names or `*` patterns, with or without a
        /// schema.
        primary_functions: List<String>, default "[]";
        /// Functions that are safe on a replica, whatever their definition says, in the same form.
        replica_functions: List<String>, default "[]";
        /// A statement above this size is not analysed: it goes to the primary.
        max_parse: ByteSize, default "\"64KiB\"";
        /// Memory for what has been found out about statements; "0B": nothing is kept.
        cache: ByteSize, default "\"32MiB\"";
    }
}

section! {
    /// The log, on standard error.
    Log [] {
        /// "off", "error", "warn", "info", "debug" or "trace"; for some modules others, as in "info,pgpilot::pool=debug".
        level: Level, default "\"info\"";
        /// "text" for people, "json" for programs.
        format: LogFormat, default "\"text\"";
        /// Statements that take longer are logged: their shape, never their literals; "0": none.
        slow_statement: Duration, default "\"0\"";
    }
}
