//! The servers, and who logs in to them.

use super::*;
use crate::config::resolved::{Consistency, PoolMode, SslMode};
use crate::config::scalar::Host;
use crate::config::units::{ByteSize, NodeName, Secret};

section! {
    /// How pgpilot watches the nodes.
    Health [] {
        /// Who asks. It needs the role `pg_monitor`, no more.
        user: String, default "\"pgpilot\"";
        /// Its password. At most one of this, `password_env` and `password_file` may be written.
        password: Secret, unset "none here", example "\"...\"";
        /// The environment variable that holds the password.
        password_env: String, unset "none", example "\"PGPILOT_PASSWORD\"";
        /// The file that holds the password, on one line.
        password_file: PathBuf, unset "none; without a password anywhere, `passfile` is looked into", example "\"health.password\"";
        /// Where it asks.
        database: String, default "\"postgres\"";
        /// From one probe of a node to the next.
        interval: Positive, default "\"500ms\"";
        /// A probe that takes longer has failed.
        timeout: Positive, default "\"1s\"";
        /// After so many failures in a row a node counts as down.
        failures: Whole<1, 100>, default "3";
    }
}

section! {
    /// TLS towards the nodes, as in libpq. A node can say otherwise, key by key, in its own `[nodes.tls]`.
    ServerTls [] {
        /// "disable", "allow", "prefer", "require", "verify-ca" (needs `ca`) or "verify-full".
        mode: SslMode, default "\"prefer\"";
        /// Who signs the servers' certificates, PEM.
        ca: PathBuf, unset "the system's authorities", example "\"servers-ca.crt\"";
        /// pgpilot's own certificate, PEM, for servers that ask for one.
        certificate: PathBuf, unset "none", example "\"client.crt\"";
        /// The certificate's private key, PEM.
        key: PathBuf, unset "none", example "\"client.key\"";
    }
}

section! {
    /// A PostgreSQL server of the cluster, one section for each. Which of them is the primary is found out.
    Node [tls: NodeTls] {
        /// How commands, metrics and the log call it: letters, digits, `_`, `.` and `-`.
        name: NodeName, required "\"pg1\"";
        /// A host name, an address, or a directory with a Unix socket.
        host: Host, required "\"10.0.0.1\"";
        port: Whole<1, 65535>, default "5432";
        /// Where it stands; see `routing.zone`.
        zone: String, unset "no zone", example "\"a\"";
        /// Its share of the reads, relative to the others'; 0: none.
        weight: Whole<0, 1000>, default "1";
        /// Among candidates with the same log the one with the highest is promoted; 0: never promoted.
        priority: Whole<0, 1000>, default "100";
        /// Where the other nodes reach it for replication.
        replication_host: Host, unset "`host`", example "\"10.1.0.1\"";
        replication_port: Whole<1, 65535>, unset "`port`", example "5432";
        /// How far behind this replica may be; see `routing.max_lag` and the keys below it.
        max_lag: Positive, unset "that of its zone, or `routing.max_lag`", example "\"5s\"";
        lag_recovery: Positive, unset "half of `max_lag` where that is set, else that of its zone, or `routing.lag_recovery`", example "\"2s\"";
        max_lag_bytes: PositiveSize, unset "that of its zone, or `routing.max_lag_bytes`", example "\"64MiB\"";
        lag_recovery_bytes: ByteSize, unset "half of `max_lag_bytes` where that is set, else that of its zone, or `routing.lag_recovery_bytes`", example "\"32MiB\"";
    }
}

section! {
    /// How far behind the replicas of a zone may be, where that is not what `routing` says. Other zones need no section.
    Zone [] {
        name: String, required "\"b\"";
        max_lag: Positive, unset "`routing.max_lag`", example "\"5s\"";
        lag_recovery: Positive, unset "half of `max_lag` where that is set, else `routing.lag_recovery`", example "\"2s\"";
        max_lag_bytes: PositiveSize, unset "`routing.max_lag_bytes`", example "\"64MiB\"";
        lag_recovery_bytes: ByteSize, unset "half of `max_lag_bytes` where that is set, else `routing.lag_recovery_bytes`", example "\"32MiB\"";
    }
}

section! {
    /// TLS towards this node.
    NodeTls [] {
        mode: SslMode, unset "that of `server_tls`", example "\"verify-full\"";
        ca: PathBuf, unset "that of `server_tls`", example "\"servers-ca.crt\"";
        certificate: PathBuf, unset "that of `server_tls`", example "\"client.crt\"";
        key: PathBuf, unset "that of `server_tls`", example "\"client.key\"";
    }
}

section! {
    /// A user with a password of its own, or with settings of its own. Others need no section: `auth.query` knows them.
    User [] {
        name: String, required "\"app\"";
        /// The password, for the client as well as for the servers. At most one of this, `password_env` and
        /// `password_file` may be written.
        password: Secret, unset "none here", example "\"...\"";
        /// The environment variable that holds the password.
        password_env: String, unset "none", example "\"APP_PASSWORD\"";
        /// The file that holds the password, on one line.
        password_file: PathBuf, unset "none; without a password anywhere, `passfile` is looked into, then `auth.query` is asked", example "\"app.password\"";
        pool_mode: PoolMode, unset "that of the database, or `pool.mode`", example "\"session\"";
        consistency: Consistency, unset "that of the database, or `routing.consistency`", example "\"strong\"";
        /// This user's server connections for each node.
        max_server_connections: Whole<1, 100_000>, unset "no limit of its own", example "20";
    }
}

section! {
    /// A database with settings of its own. Others need no section.
    Database [] {
        name: String, required "\"app\"";
        pool_mode: PoolMode, unset "`pool.mode`", example "\"session\"";
        consistency: Consistency, unset "`routing.consistency`", example "\"eventual\"";
        /// This database's server connections for each node.
        max_server_connections: Whole<1, 100_000>, unset "no limit of its own", example "20";
    }
}
