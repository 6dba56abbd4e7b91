//! Who gets in, and how.

use std::time::Duration;

use ipnet::IpNet;

use super::*;
use crate::config::resolved::{AuthMethod, ConnectionKind, SslMode};
use crate::config::scalar::{LookUp, Name, SocketDirectory};
use crate::config::units::Secret;
use crate::config::value::List;

section! {
    /// TLS towards clients.
    Tls [] {
        /// "disable" refuses TLS; "allow" and "prefer" offer it; "require" demands it; "verify-ca" also demands a client
        /// certificate signed by `ca`; "verify-full" also that its common name is the user's name.
        mode: SslMode, unset "\"prefer\" with a certificate, \"disable\" without", example "\"require\"";
        /// pgpilot's certificate with its chain, PEM.
        certificate: PathBuf, unset "no TLS", example "\"server.crt\"";
        /// The certificate's private key, PEM.
        key: PathBuf, unset "no TLS", example "\"server.key\"";
        /// Who signs client certificates, PEM.
        ca: PathBuf, unset "client certificates are not asked for", example "\"clients-ca.crt\"";
    }
}

section! {
    /// How clients authenticate.
    Auth [query: Option<AuthQuery>, rules: Vec<Rule>] {
        /// How long a verifier that `auth.query` has read serves while no node can be asked. While one can, no verifier is
        /// older than a second.
        verifier_ttl: Duration, default "\"1m\"";
    }
}

section! {
    /// Reads the verifiers of users that have no password in this file. Without this section, such users cannot log in
    /// with a password.
    AuthQuery [] {
        /// Who asks. It needs to be allowed to run `sql`.
        user: String, unset "the user of `health`, with its password", example "\"pgpilot_auth\"";
        /// Its password. At most one of this, `password_env` and `password_file` may be written.
        password: Secret, unset "none here", example "\"...\"";
        /// The environment variable that holds the password.
        password_env: String, unset "none", example "\"PGPILOT_AUTH_PASSWORD\"";
        /// The file that holds the password, on one line.
        password_file: PathBuf, unset "none; without a password anywhere, `passfile` is looked into", example "\"auth.password\"";
        /// Where it asks.
        database: String, default "\"postgres\"";
        /// The question, with the user's name as $1. It returns one row: the name and the verifier.
        sql: LookUp, default "\"SELECT usename, CASE WHEN valuntil < now() THEN NULL ELSE passwd END FROM pg_catalog.pg_shadow WHERE usename = $1\"";
    }
}

section! {
    /// Rules in the manner of pg_hba.conf: the first one that matches decides, and who matches none is refused. Without
    /// any rule, everyone authenticates with scram-sha-256.
    Rule [] {
        /// "local" is a Unix socket; "host" is TCP, "hostssl" with TLS, "hostnossl" without; "any" is all of them.
        connection: ConnectionKind, default "\"any\"";
        /// Databases that the rule is about; empty: all.
        databases: List<Name>, default "[]";
        /// Users that the rule is about; empty: all.
        users: List<Name>, default "[]";
        /// Client addresses that the rule is about; empty: all.
        addresses: List<IpNet>, default "[]";
        /// "scram-sha-256"; "md5" accepts SCRAM too, as PostgreSQL's does; "cert" is a client certificate whose common
        /// name is the user's name; "trust"; "reject".
        method: AuthMethod, required "\"scram-sha-256\"";
    }
}

section! {
    /// The admin console: the database `pgpilot` on the same port.
    Admin [] {
        /// Users who may do everything. They authenticate as any user does.
        users: List<String>, default "[]";
        /// Users who may look.
        readers: List<String>, default "[]";
        /// A directory for a Unix socket on which the operating-system user that runs pgpilot gets in without a password,
        /// for the commands of `pgpilot`. A change needs a restart.
        socket: SocketDirectory, unset "no such socket", example "\"/run/pgpilot\"";
    }
}
