//! Every metric: name, unit, help, labels.

use metrics::Unit;

/// A metric. Its labels are always given in the order in which they stand here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    Gauge,
    Histogram,
}

/// Seconds, from 50 microseconds to 10 seconds.
pub const LATENCY_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_2, 0.000_35, 0.000_5, 0.000_75, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0,
    2.0, 5.0, 10.0,
];

macro_rules! metrics {
    ($($name:ident = $text:literal, $kind:ident, $unit:ident, [$($label:literal),*], $help:literal;)*) => {
        $(pub const $name: Metric = Metric {
            name: $text, kind: Kind::$kind, unit: Unit::$unit, labels: &[$($label),*], help: $help,
        };)*
        /// All of them.
        pub const ALL: &[Metric] = &[$($name),*];
    };
}

metrics! {
    // Statements.
    STATEMENTS = "pgpilot_statements_total", Counter, Count, ["route", "reason"],
        "Batches of statements by where they ran (primary, replica, own: answered by pgpilot) and why";
    NODE_STATEMENTS = "pgpilot_node_statements_total", Counter, Count, ["node"],
        "Batches of statements that ran on a node";
    STATEMENT_SECONDS = "pgpilot_statement_seconds", Histogram, Seconds, ["route"],
        "From the arrival of a batch of statements to the end of its reply";
    CHECKOUT_SECONDS = "pgpilot_checkout_seconds", Histogram, Seconds, [],
        "From asking for a server connection to getting one";
    RETRIES = "pgpilot_retries_total", Counter, Count, ["cause"],
        "Reads that a server refused as a replica, or was lost with, and that ran again elsewhere, unseen by the client";
    OPTIMISTIC = "pgpilot_optimistic_transactions_total", Counter, Count, ["outcome"],
        "Transactions that began on a replica in spite of being able to write: ended there (stayed), went on on the primary, \
         which had the same rows (moved), or were refused there since it had others (diverged)";
    ERRORS = "pgpilot_errors_total", Counter, Count, ["side"],
        "Errors of pgpilot's own in place of a reply, and ends of sessions, by whose fault they are: client, backend, \
         operator (a limit, a shutdown), or pgpilot itself (us)";
    UNPARSABLE = "pgpilot_unparsable_statements_total", Counter, Count, [],
        "Statements that were not understood, and so went to the primary";
    UNKNOWN_HINTS = "pgpilot_unknown_hints_total", Counter, Count, [],
        "Statements with a comment for pgpilot that it does not know, counted when they were classified";
    CATALOGUES = "pgpilot_catalogues", Gauge, Count, ["state"],
        "Databases whose catalogue is loaded, is loading for the first time, or cannot be loaded (failing): until it is loaded \
         for the first time, everything there runs on the primary";
    VERDICTS = "pgpilot_verdicts_total", Counter, Count, ["cache"],
        "Statements classified: found in the verdict cache by their text (hit), by their shape, or not (miss)";
    PINS = "pgpilot_pins_total", Counter, Count, ["cause"],
        "Sessions that became pinned to a server connection, by cause";
    BYTES = "pgpilot_bytes_total", Counter, Bytes, ["direction"],
        "Bytes from and to clients, encryption not counted";

    // Clients.
    CONNECTIONS = "pgpilot_client_connections_total", Counter, Count, [],
        "Connections accepted from clients";
    LOGINS = "pgpilot_logins_total", Counter, Count, ["result"],
        "Logins of clients, accepted and refused";
    CLIENTS = "pgpilot_clients", Gauge, Count, [],
        "Clients that are logged in";
    CLIENTS_WAITING = "pgpilot_clients_waiting", Gauge, Count, [],
        "Clients that wait for a server connection";
    CLIENTS_HELD = "pgpilot_clients_held", Gauge, Count, [],
        "Clients that wait for a primary";
    PINNED = "pgpilot_pinned_sessions", Gauge, Count, ["cause"],
        "Sessions that are pinned to a server connection now, by cause";

    // Pools.
    POOL_CONNECTIONS = "pgpilot_pool_connections", Gauge, Count, ["node", "user", "database", "state"],
        "Server connections of a pool: idle, leased, connecting";
    POOL_WAITING = "pgpilot_pool_waiting", Gauge, Count, ["node", "user", "database"],
        "Clients that wait for a connection of this pool";
    DIALS = "pgpilot_dials_total", Counter, Count, ["node", "result"],
        "Server connections opened, and attempts that failed";

    // The cluster.
    NODE_ROLE = "pgpilot_node_role", Gauge, Count, ["node", "role"],
        "1 for the role that the node has: unknown, primary, replica, stray";
    NODE_STATE = "pgpilot_node_state", Gauge, Count, ["node", "state"],
        "1 for the state that the node is in: unknown, up, suspect, down, quarantined (it has writes that the primary lacks)";
    NODE_READS = "pgpilot_node_takes_reads", Gauge, Count, ["node"],
        "1 if the node is a replica that reads are sent to";
    NODE_DRAINED = "pgpilot_node_drained", Gauge, Count, ["node"],
        "1 if an operator has taken the node out";
    NODE_OUTSTANDING = "pgpilot_node_outstanding", Gauge, Count, ["node"],
        "Statements that are under way on the node";
    LAG_SECONDS = "pgpilot_replica_lag_seconds", Gauge, Seconds, ["node"],
        "How long ago the primary was where the replica is now";
    LAG_BYTES = "pgpilot_replica_lag_bytes", Gauge, Bytes, ["node"],
        "Bytes of log that the replica has not replayed yet";
    NODE_LSN = "pgpilot_node_lsn_bytes", Gauge, Bytes, ["node"],
        "Position in the log: written by the primary, replayed by a replica";
    NODE_TIMELINE = "pgpilot_node_timeline", Gauge, Count, ["node"],
        "The timeline of that position";
    EPOCH = "pgpilot_epoch", Gauge, Count, [],
        "Grows with each change of primary";

    // Failover.
    FAILOVER_STATE = "pgpilot_failover_state", Gauge, Count, ["state"],
        "1 for the state that the failover is in";
    FAILOVER_AUTOMATIC = "pgpilot_failover_automatic", Gauge, Count, [],
        "1 if a lost primary is replaced without being asked for";
    FAILOVER_EPOCH = "pgpilot_failover_epoch", Gauge, Count, [],
        "Epoch of the last decision on the primary";
    MAINTENANCE = "pgpilot_maintenance", Gauge, Count, [],
        "1 if an operator has switched automatic failover off for a while";
    FAILOVERS = "pgpilot_failovers_total", Counter, Count, ["outcome"],
        "Failovers, automatic and forced, by outcome: done, refused, rolled_back, failed";
    LOST_WRITES = "pgpilot_lost_writes_total", Counter, Count, ["what"],
        "Sessions of which a change of primary has lost what they wrote (write), or may have (unknown), or the position in their pgpilot.min_lsn (token)";
    SWITCHOVERS = "pgpilot_switchovers_total", Counter, Count, ["outcome"],
        "Switchovers by outcome: done, refused, rolled_back, failed";

    // Several instances.
    INSTANCES = "pgpilot_instances", Gauge, Count, ["standing"],
        "Instances that agree about the primary, by standing: alone, leader, follower";
    LEADS = "pgpilot_leads", Gauge, Count, [],
        "1 if this instance decides about the primary";
    LEASE = "pgpilot_lease_remaining_seconds", Gauge, Seconds, [],
        "For how long this instance may write if it cannot renew its lease";

    // pgpilot itself.
    INFO = "pgpilot_info", Gauge, Count, ["version"],
        "Always 1";
    SERVICE = "pgpilot_service_state", Gauge, Count, ["state"],
        "1 for the state that the service is in: running, paused, draining";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let mut seen = std::collections::BTreeSet::new();
        for metric in ALL {
            assert!(seen.insert(metric.name), "{} stands there twice", metric.name);
            assert!(metric.name.starts_with("pgpilot_"), "{}", metric.name);
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            let unit = match metric.unit {
                Unit::Seconds => "_seconds",
                Unit::Bytes => "_bytes",
                _ => "",
            };
            assert!(metric.name.contains(unit), "{} in {unit}", metric.name);
        }
        assert!(LATENCY_BUCKETS.is_sorted());
    }
}
