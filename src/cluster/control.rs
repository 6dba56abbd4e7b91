//! A control connection, and the questions that are asked over it.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Config, NoTls, Row, Statement};
use tokio_util::task::AbortOnDropHandle;

use crate::config::{Health, Node};
use crate::decide::health::{Answer, Applying, Failure, Progress, Receiver, Recovery, Stage};
use crate::decide::position::{Lsn, Timeline, WalGeometry};
use crate::decide::route::Code;
use crate::net::tls::Attempt;
use crate::net::{OpenError, Target};

/// Why pgpilot's own questions are not answered.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{}", with_cause(.0))]
    Server(#[from] tokio_postgres::Error),
}

/// tokio-postgres keeps what the server said behind a general word.
fn with_cause(error: &tokio_postgres::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Opens a connection for pgpilot's own questions, encrypted as the node's settings say. The caller limits the time.
///
/// # Errors
/// Those of the connection; [`refusal_of`] says what they tell of the node.
///
/// # Cancel safety
/// Closes the half-open connection.
pub async fn connect_control(
    node: &Node,
    health: &Health,
    database: &str,
) -> Result<(Client, AbortOnDropHandle<()>), ControlError> {
    // Nothing that a role or a database sets may change the questions' meaning.
    let options = "-c search_path=pg_catalog -c jit=off -c statement_timeout=0 -c row_security=on";
    connect_with(options, node, health, database).await
}

/// As [`connect_control`], but the connection can be asked which `search_path` others find.
///
/// # Errors
/// Those of [`connect_control`].
///
/// # Cancel safety
/// Closes the half-open connection.
pub(super) async fn connect_guest(
    node: &Node,
    health: &Health,
    database: &str,
) -> Result<(Client, AbortOnDropHandle<()>), ControlError> {
    let (client, driver) =
        connect_with("-c jit=off -c statement_timeout=0 -c row_security=on", node, health, database).await?;
    client.batch_execute("SET search_path = pg_catalog").await?;
    Ok((client, driver))
}

async fn connect_with(
    options: &str,
    node: &Node,
    health: &Health,
    database: &str,
) -> Result<(Client, AbortOnDropHandle<()>), ControlError> {
    let mut config = Config::new();
    config.user(&health.user).dbname(database).application_name("pgpilot").options(options);
    if let Some(password) = &health.password {
        config.password(password.expose());
    }
    let target = Target::try_from(node).map_err(OpenError::from)?;
    let mut outcome = Err(OpenError::from(io::Error::from(io::ErrorKind::NotConnected)).into());
    for attempt in target.attempts() {
        outcome = log_in(&target, *attempt, &config).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn log_in(
    target: &Target,
    attempt: Attempt,
    config: &Config,
) -> Result<(Client, AbortOnDropHandle<()>), ControlError> {
    let secured = target.open_by(attempt).await?;
    // The stream is encrypted already where it has to be.
    let (client, connection) = config.connect_raw(secured.stream, NoTls).await?;
    // An error of the connection shows in the query that it ends.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok((client, AbortOnDropHandle::new(driver)))
}

/// The kept connection of a monitor.
pub(super) struct Control {
    client: Client,
    driver: AbortOnDropHandle<()>,
    whole: Statement,
    written: Statement,
    replayed: Statement,
}

/// The side that a short question is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Primary,
    Replica,
}

impl Control {
    pub(super) async fn connect(node: &Node, health: &Health) -> Result<Self, ControlError> {
        let (client, driver) = connect_control(node, health, &health.database).await?;
        let (whole, written, replayed) =
            tokio::try_join!(client.prepare(WHOLE), client.prepare(WRITTEN), client.prepare(REPLAYED))?;
        Ok(Self { client, driver, whole, written, replayed })
    }

    /// Returns when the connection has ended. Not to be awaited again then.
    pub(super) async fn ended(&mut self) {
        let _ = (&mut self.driver).await;
    }

    pub(super) async fn ask_all(&self) -> Result<Answer, tokio_postgres::Error> {
        answer(&self.client.query_one(&self.whole, &[]).await?)
    }

    /// How far a replica has replayed once it has reached `lsn`, or after `limit`: one round trip. For PostgreSQL 19 and later.
    pub(super) async fn wait_for(&self, lsn: Lsn, limit: Duration) -> Result<Option<Progress>, tokio_postgres::Error> {
        // One behind the other, in one write: whether it has been reached, the position itself tells.
        let sql = wait_sql(lsn, limit);
        let (_, progress) = tokio::try_join!(self.client.batch_execute(&sql), self.ask_progress(Side::Replica))?;
        Ok(progress)
    }

    /// `None`: nothing replayed yet.
    pub(super) async fn ask_progress(&self, side: Side) -> Result<Option<Progress>, tokio_postgres::Error> {
        match side {
            Side::Primary => {
                let row = self.client.query_one(&self.written, &[]).await?;
                let (insert, flush) = (lsn(row.try_get(0)?), lsn(row.try_get(1)?));
                Ok(Some(Progress::Written { insert, flush }))
            }
            Side::Replica => {
                let row = self.client.query_one(&self.replayed, &[]).await?;
                Ok(row.try_get::<_, Option<PgLsn>>(0)?.map(lsn).map(Progress::Replayed))
            }
        }
    }
}

/// "WAIT FOR LSN" of the documentation's SQL commands: it takes no parameters, needs no privilege, and holds no snapshot that
/// replay could be in conflict with.
fn wait_sql(lsn: Lsn, limit: Duration) -> String {
    let limit = limit.as_millis().max(1);
    format!("WAIT FOR LSN '{lsn}' WITH (MODE 'standby_replay', TIMEOUT '{limit}ms', NO_THROW)")
}

/// What an error says of the node.
pub(super) fn refusal_of(error: &ControlError) -> Failure {
    match error {
        // It answered, though not as it was asked to.
        ControlError::Open(OpenError::Tls(_)) => Failure::Alive(Code(*b"28000")),
        ControlError::Open(OpenError::Io(_)) => Failure::Refused,
        ControlError::Server(error) => failure_of(error, Phase::Connecting),
    }
}

/// What an error on a connection tells of the node.
pub(super) fn failure_of(error: &tokio_postgres::Error, phase: Phase) -> Failure {
    let broken = match phase {
        Phase::Connecting => Failure::Refused,
        Phase::Connected => Failure::Lost,
    };
    match error.code() {
        // The server ends this connection: shutdown, crash of another process, or an operator.
        Some(code) if code.code().starts_with("57P0") && phase == Phase::Connected => Failure::Lost,
        Some(code) => code.code().as_bytes().try_into().map_or(broken, |code| Failure::Alive(Code(code))),
        None if error.is_closed() || error.source().is_some_and(|source| source.is::<io::Error>()) => broken,
        // The server answered, and could not be logged in to: a method that is not supported, a password that is missing.
        None => Failure::Alive(Code(*b"28000")),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Connected,
}

/// One row with everything. The timeline of a primary is in the name of its current log file, of a replica in its
/// receiver, and while none runs in the names of its log files; the control file lags behind. `RecoveryWalStream` is what a startup process
/// waits for that has replayed all that came (monitoring chapter, "Wait Events of Type Activity").
const WHOLE: &str = "
SELECT s.recovering,
       (SELECT system_identifier FROM pg_control_system()),
       current_setting('server_version_num')::int4,
       pg_size_bytes(current_setting('wal_segment_size')),
       current_setting('wal_block_size')::int8,
       CASE WHEN s.recovering THEN
              coalesce(w.received_tli,
                       greatest(
                         (SELECT timeline_id FROM pg_control_checkpoint()),
                         CASE WHEN has_function_privilege('pg_ls_waldir()', 'EXECUTE') THEN
                           (SELECT max(('x' || substr(name, 1, 8))::bit(32)::int4)
                              FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$')
                         END),
                       0)
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int4
       END,
       CASE WHEN NOT s.recovering THEN pg_current_wal_flush_lsn() END,
       CASE WHEN NOT s.recovering THEN pg_current_wal_insert_lsn() END,
       pg_last_wal_receive_lsn(),
       pg_last_wal_replay_lsn(),
       CASE WHEN s.recovering THEN pg_is_wal_replay_paused() ELSE false END,
       CASE WHEN s.recovering AND pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn() THEN
              (SELECT bool_or(wait_event = 'RecoveryWalStream') FROM pg_stat_activity WHERE backend_type = 'startup')
       END,
       extract(epoch FROM current_setting('recovery_min_apply_delay')::interval)::float8,
       w.pid IS NOT NULL,
       w.status,
       extract(epoch FROM clock_timestamp() - w.last_msg_receipt_time)::float8,
       w.sender_host,
       w.sender_port,
       extract(epoch FROM current_setting('wal_receiver_timeout')::interval)::float8,
       coalesce(
         CASE WHEN s.recovering AND pg_has_role('pg_read_all_settings', 'USAGE') THEN
           trim('''' FROM substring(current_setting('primary_conninfo') FROM 'application_name *= *(''[^'']*''|[^'' ]+)'))
         END,
         nullif(current_setting('cluster_name'), ''),
         'walreceiver'),
       current_setting('synchronous_standby_names'),
       CASE WHEN NOT s.recovering AND position('*' IN current_setting('synchronous_standby_names')) > 0 THEN
         ARRAY(SELECT application_name FROM pg_stat_replication)
       END,
       coalesce((SELECT substring(obj_description(oid, 'pg_namespace') FROM '^epoch ([0-9]{1,18}):')::int8
                   FROM pg_namespace WHERE nspname = 'pgpilot'), 0)
  FROM (SELECT pg_is_in_recovery() AS recovering OFFSET 0) s
  LEFT JOIN pg_stat_wal_receiver w ON true";

const WRITTEN: &str = "SELECT pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn()";

const REPLAYED: &str = "SELECT pg_last_wal_replay_lsn()";

fn answer(row: &Row) -> Result<Answer, tokio_postgres::Error> {
    let positive = |n: i64, otherwise: u64| u64::try_from(n).ok().filter(|&n| n > 0).unwrap_or(otherwise);
    let standard = WalGeometry::STANDARD;
    let stage = if row.try_get(0)? {
        let seconds = |n: f64| Duration::try_from_secs_f64(n).unwrap_or_default();
        let receiver = match row.try_get::<_, bool>(13)? {
            true => Some(Receiver {
                status: row.try_get::<_, Option<String>>(14)?.unwrap_or_default(),
                silent_for: row.try_get::<_, Option<f64>>(15)?.map(seconds),
                sender: sender(row)?,
            }),
            false => None,
        };
        let applying = match (row.try_get(10)?, row.try_get::<_, Option<bool>>(11)?) {
            (true, _) => Applying::Paused,
            (false, Some(true)) => Applying::Waiting,
            (false, _) => Applying::Busy,
        };
        Stage::Recovering(Recovery {
            receive: row.try_get::<_, Option<PgLsn>>(8)?.map(lsn),
            replay: row.try_get::<_, Option<PgLsn>>(9)?.map(lsn),
            applying,
            receiver,
            apply_delay: seconds(row.try_get(12)?),
            receiver_timeout: seconds(row.try_get(18)?),
        })
    } else {
        Stage::Writable { flush: lsn(row.try_get(6)?), insert: lsn(row.try_get(7)?) }
    };
    Ok(Answer {
        // Unsigned, in a signed column.
        system_identifier: row.try_get::<_, i64>(1)?.cast_unsigned(),
        server_version: row.try_get::<_, i32>(2)?.cast_unsigned(),
        timeline: Timeline(row.try_get::<_, i32>(5)?.cast_unsigned()),
        wal: WalGeometry {
            segment: positive(row.try_get(3)?, standard.segment),
            page: positive(row.try_get(4)?, standard.page),
        },
        recovered: match stage {
            // Static once recovery is over (documentation, "Recovery Information Functions").
            Stage::Writable { .. } => row.try_get::<_, Option<PgLsn>>(9)?.map(lsn),
            Stage::Recovering(_) => None,
        },
        stage,
        standby_name: row.try_get(19)?,
        synchronous: row.try_get(20)?,
        standbys: standbys(row)?,
        marked: u64::try_from(row.try_get::<_, i64>(22)?).unwrap_or_default(),
    })
}

fn standbys(row: &Row) -> Result<Vec<String>, tokio_postgres::Error> {
    let names: Option<Vec<Option<String>>> = row.try_get(21)?;
    Ok(names.unwrap_or_default().into_iter().map(Option::unwrap_or_default).collect())
}

/// Only who may read all statistics is told.
fn sender(row: &Row) -> Result<Option<(String, u16)>, tokio_postgres::Error> {
    let port = row.try_get::<_, Option<i32>>(17)?.and_then(|port| u16::try_from(port).ok());
    Ok(row.try_get::<_, Option<String>>(16)?.zip(port))
}

fn lsn(lsn: PgLsn) -> Lsn {
    Lsn(lsn.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_wait_is_for_ever() {
        for (limit, said) in [(Duration::from_millis(50), "50ms"), (Duration::from_micros(999), "1ms")] {
            let sql = format!("WAIT FOR LSN '16/B374D848' WITH (MODE 'standby_replay', TIMEOUT '{said}', NO_THROW)");
            assert_eq!(wait_sql(Lsn(0x16_B374_D848), limit), sql);
        }
    }
}
