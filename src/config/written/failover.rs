//! When the primary is replaced, and by what means.

use std::time::Duration;

use super::*;
use crate::config::units::{ByteSize, Secret};
use crate::config::value::List;

section! {
    /// What happens when the primary is lost, and how a switchover goes.
    ///
    /// A command is an argument vector, run without a shell; a program with a relative path is looked for from the
    /// directory of this file, one without any in PATH. What it is about stands in its environment. It is to be
    /// idempotent; exit status 0 means: done, and proven.
    Failover [] {
        /// Whether a replica is promoted without being asked when the primary is lost. Needs `state_file`, or
        /// `[coordination]`.
        automatic: bool, default "false";
        /// A primary that is silent (time-outs) for so long is taken for lost, if the replicas do not hear it either.
        detect_after: Positive, default "\"2s\"";
        /// .. and one whose host refuses connections, or whose connections broke, after so long.
        refused_after: Positive, default "\"500ms\"";
        /// A primary that recovers from a crash (SQLSTATE 57P03) is waited for so long.
        start_timeout: Duration, default "\"60s\"";
        /// The shortest time between two automatic failovers.
        min_interval: Duration, default "\"1m\"";
        /// Each step (seal, promote, verify, ..) is given so long.
        step_timeout: Positive, default "\"10s\"";
        /// A switchover that has not reached the promotion within this time is rolled back.
        switchover_timeout: Positive, default "\"10s\"";
        /// With asynchronous replication: how far behind the primary's last known position a candidate may be.
        max_data_loss: ByteSize, default "\"0B\"";
        /// No promotion unless `fence_command` has proven that the old primary is fenced.
        require_fence: bool, default "false";
        /// Who promotes and repoints: a role with REPLICATION, in pg_monitor and pg_signal_backend, that may run pg_promote
        /// and pg_reload_conf, ALTER SYSTEM on primary_conninfo and default_transaction_read_only, and CREATE in the
        /// database of `health`; or a superuser. `pgpilot check` says what is missing.
        user: String, unset "the user of `health`, with its password", example "\"pgpilot_failover\"";
        /// Its password. At most one of this, `password_env` and `password_file` may be written.
        password: Secret, unset "none here", example "\"...\"";
        /// The environment variable that holds the password.
        password_env: String, unset "none", example "\"PGPILOT_FAILOVER_PASSWORD\"";
        /// The file that holds the password, on one line.
        password_file: PathBuf, unset "none; without a password anywhere, `passfile` is looked into", example "\"failover.password\"";
        /// Where an instance that is alone keeps the record of its decisions; locked against a second one. A change needs
        /// a restart.
        state_file: PathBuf, unset "no record, and so no automatic failover", example "\"/var/lib/pgpilot/failover.state\"";
        /// Makes sure that the old primary can neither commit nor be reached; empty: none.
        fence_command: List<String>, default "[]";
        /// In a switchover: shuts the old primary down cleanly before the promotion, so that it need not be rewound;
        /// empty: none.
        demote_command: List<String>, default "[]";
        /// Brings the old primary back as a standby of the new one, as by pg_rewind; empty: none.
        rejoin_command: List<String>, default "[]";
        /// Run before a promotion, which it can veto; empty: none.
        pre_promote: List<String>, default "[]";
        /// Run after a promotion; empty: none.
        post_promote: List<String>, default "[]";
        /// A command that takes longer is ended and has failed. (`rejoin_command` may take a day: it may copy a server.)
        hook_timeout: Positive, default "\"30s\"";
    }
}
