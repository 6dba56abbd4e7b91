//! A monitor's kept connection to its node, and what it asks there.
//!
//! The short questions come with every write of a busy cluster, several hundred times a second: they are prepared, and
//! each is one write and one read of the monitor's own task.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Health, Node};
use crate::decide::auth::Credential;
use crate::decide::health::{Answer, Applying, Failure, Progress, Receiver, Recovery, Stage};
use crate::decide::position::{Lsn, Timeline, WalGeometry};
use crate::decide::route::{Code, NodeId};
use crate::net::{OpenError, Target};
use crate::pool::{DialError, Login, QueryError, ServerConnection, dial_own};
use crate::wire::frontend::{self, Parse};
use crate::wire::{HEADER_LEN, SqlState, WireError, backend};

/// Nothing that a role or a database sets may change the questions' meaning, or how the answers are written.
const PARAMETERS: [(&str, &str); 3] = [
    ("application_name", "pgpilot"),
    ("client_encoding", "UTF8"),
    // What is flushed has to be on the server's own disk, and nobody else's.
    (
        "options",
        "-c search_path=pg_catalog -c jit=off -c statement_timeout=0 -c row_security=on -c synchronous_commit=local",
    ),
];

/// The kept connection.
pub(super) struct Probe(ServerConnection);

/// The side that a short question is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Primary,
    Replica,
}

/// A question that has been prepared.
#[derive(Debug, Clone, Copy)]
struct Question {
    name: &'static [u8],
    sql: &'static str,
}

/// Logs in to a node. What has been derived from the password once need not be again.
#[derive(Clone)]
pub(super) struct Dialer {
    id: NodeId,
    node: Node,
    health: Health,
    credential: Credential,
}

impl Dialer {
    pub(super) fn new(id: NodeId, node: Node, health: Health) -> Self {
        let credential = health.password.clone().map_or(Credential::Absent, Credential::password);
        Self { id, node, health, credential }
    }

    /// Takes no longer than a probe may.
    pub(super) async fn dial(&mut self) -> Result<ServerConnection, DialError> {
        let target = Arc::new(Target::try_from(&self.node).map_err(OpenError::from)?);
        let login = Login {
            user: self.health.user.as_str().into(),
            database: self.health.database.as_str().into(),
            credential: self.credential.clone(),
        };
        let (connection, credential) = dial_own(target, login, self.id, self.health.timeout, &PARAMETERS).await?;
        self.credential = credential;
        Ok(connection)
    }
}

impl Probe {
    /// Logs in, and prepares the questions.
    pub(super) async fn connect(dialer: &mut Dialer) -> Result<Self, DialError> {
        let mut connection = dialer.dial().await?;
        for Question { name, sql } in [WHOLE, WRITTEN, REPLAYED, FLUSH] {
            Parse { name, query: sql.as_bytes(), types: &[0; 2] }.put(&mut connection.output);
        }
        frontend::put_sync(&mut connection.output);
        connection.converse(|_, _| Ok(())).await?;
        Ok(Self(connection))
    }

    /// Returns when the connection has ended.
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn ended(&mut self) {
        self.0.ended().await;
    }

    /// # Cancel safety
    /// None of the questions is: when one is dropped half-way, its answer is still due, and the connection of no more use.
    pub(super) async fn ask_all(&mut self) -> Result<Answer, QueryError> {
        self.ask(WHOLE, |row| answer(&Row(row))).await
    }

    /// How far a replica has replayed once it has reached `lsn`, or after `limit`: one round trip. For PostgreSQL 19 and later.
    pub(super) async fn wait_for(&mut self, lsn: Lsn, limit: Duration) -> Result<Option<Progress>, QueryError> {
        // One behind the other, in one write: whether it has been reached, the position itself tells.
        frontend::put_query(&mut self.0.output, wait_sql(lsn, limit).as_bytes());
        put(REPLAYED, &mut self.0);
        let waited = self.0.converse(|_, _| Ok(())).await;
        let progress = self.answer_of(replayed).await?;
        waited.map(|()| progress)
    }

    /// `None`: nothing replayed yet.
    pub(super) async fn ask_progress(&mut self, side: Side) -> Result<Option<Progress>, QueryError> {
        match side {
            Side::Primary => self.ask(WRITTEN, written).await,
            Side::Replica => self.ask(REPLAYED, replayed).await,
        }
    }

    /// Brings a primary's log to disk, by a transaction that writes a message of no meaning, and tells where it ends then.
    pub(super) async fn flush(&mut self) -> Result<Option<Progress>, QueryError> {
        put(FLUSH, &mut self.0);
        put(WRITTEN, &mut self.0);
        let flushed = self.0.converse(|_, _| Ok(())).await;
        let progress = self.answer_of(written).await?;
        flushed.map(|()| progress)
    }

    async fn ask<T>(
        &mut self,
        question: Question,
        read: impl Fn(&[Option<&[u8]>]) -> Result<T, WireError>,
    ) -> Result<T, QueryError> {
        put(question, &mut self.0);
        self.answer_of(read).await
    }

    /// The one row that is due.
    async fn answer_of<T>(&mut self, read: impl Fn(&[Option<&[u8]>]) -> Result<T, WireError>) -> Result<T, QueryError> {
        let mut answer = None;
        let see = |tag, frame: &[u8]| {
            if tag == backend::DATA_ROW {
                answer = Some(read(&backend::data_row(&frame[HEADER_LEN..])?)?);
            }
            Ok(())
        };
        self.0.converse(see).await?;
        answer.ok_or_else(|| WireError::Unexpected(char::from(backend::READY_FOR_QUERY)).into())
    }
}

fn put(question: Question, connection: &mut ServerConnection) {
    frontend::put_bind_execute(&mut connection.output, question.name);
    frontend::put_sync(&mut connection.output);
}

/// "WAIT FOR LSN" of the documentation's SQL commands: it takes no parameters, needs no privilege, and holds no snapshot that
/// replay could be in conflict with.
fn wait_sql(lsn: Lsn, limit: Duration) -> String {
    let limit = limit.as_millis().max(1);
    format!("WAIT FOR LSN '{lsn}' WITH (MODE 'standby_replay', TIMEOUT '{limit}ms', NO_THROW)")
}

/// What it says of the node that no connection can be made.
pub(super) fn refusal_of(error: &DialError) -> Failure {
    match error {
        // It answered, though not as it was asked to.
        DialError::Open(OpenError::Tls(_)) | DialError::Login(_) => {
            Failure::Alive(Code(SqlState::INVALID_AUTHORIZATION.0))
        }
        DialError::Refused { code, .. } => Failure::Alive(Code(code.0)),
        DialError::TimedOut => Failure::Timeout,
        DialError::Open(OpenError::Io(_)) | DialError::Io(_) | DialError::Wire(_) => Failure::Refused,
    }
}

/// What it says of the node that a question was not answered.
pub(super) fn failure_of(error: &QueryError) -> Failure {
    match error {
        // The server ends this connection: shutdown, crash of another process, or an operator.
        error if error.is_loss() => Failure::Lost,
        QueryError::Server { code, .. } => Failure::Alive(Code(code.0)),
        QueryError::Lost(_) | QueryError::Wire(_) => Failure::Lost,
    }
}

/// One row with everything. The timeline of a primary is in the name of its current log file, of a replica in its
/// receiver, and while none runs in the names of its log files; the control file lags behind. `RecoveryWalStream` is what a startup process
/// waits for that has replayed all that came (monitoring chapter, "Wait Events of Type Activity").
const WHOLE: Question = Question {
    name: b"whole",
    sql: "
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
         (SELECT string_agg(coalesce(application_name, ''), E'\\n') FROM pg_stat_replication)
       END,
       coalesce((SELECT substring(obj_description(oid, 'pg_namespace') FROM '^epoch ([0-9]{1,18}):')::int8
                   FROM pg_namespace WHERE nspname = 'pgpilot'), 0)
  FROM (SELECT pg_is_in_recovery() AS recovering OFFSET 0) s
  LEFT JOIN pg_stat_wal_receiver w ON true",
};

const WRITTEN: Question =
    Question { name: b"written", sql: "SELECT pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn()" };

/// A commit waits until the log is on disk if its transaction has written to that before; an identifier alone is not
/// enough (`RecordTransactionCommit` in access/transam/xact.c).
const FLUSH: Question = Question { name: b"flush", sql: "SELECT pg_logical_emit_message(true, 'pgpilot', '')" };

const REPLAYED: Question = Question { name: b"replayed", sql: "SELECT pg_last_wal_replay_lsn()" };

fn written(row: &[Option<&[u8]>]) -> Result<Option<Progress>, WireError> {
    let row = Row(row);
    Ok(Some(Progress::Written { insert: row.get(0)?, flush: row.get(1)? }))
}

fn replayed(row: &[Option<&[u8]>]) -> Result<Option<Progress>, WireError> {
    Ok(Row(row).find(0)?.map(Progress::Replayed))
}

/// Values as text.
struct Row<'r>(&'r [Option<&'r [u8]>]);

impl Row<'_> {
    /// `None`: it is NULL.
    fn text(&self, column: usize) -> Result<Option<&str>, WireError> {
        let value = self.0.get(column).ok_or(MALFORMED)?;
        value.map(|value| std::str::from_utf8(value).map_err(|_| MALFORMED)).transpose()
    }

    fn find<T: FromStr<Err: Display>>(&self, column: usize) -> Result<Option<T>, WireError> {
        self.text(column)?.map(|text| text.parse().map_err(|_| MALFORMED)).transpose()
    }

    fn get<T: FromStr<Err: Display>>(&self, column: usize) -> Result<T, WireError> {
        self.find(column)?.ok_or(MALFORMED)
    }

    fn holds(&self, column: usize) -> Result<bool, WireError> {
        Ok(self.text(column)? == Some("t"))
    }

    fn seconds(&self, column: usize) -> Result<Option<Duration>, WireError> {
        Ok(self.find(column)?.map(|n| Duration::try_from_secs_f64(n).unwrap_or_default()))
    }

    fn string(&self, column: usize) -> Result<String, WireError> {
        Ok(self.text(column)?.unwrap_or_default().to_owned())
    }
}

const MALFORMED: WireError = WireError::Field(backend::DATA_ROW as char);

fn answer(row: &Row<'_>) -> Result<Answer, WireError> {
    let size = |column, otherwise| Ok(row.find(column)?.filter(|&n: &u64| n > 0).unwrap_or(otherwise));
    let standard = WalGeometry::STANDARD;
    let stage = if row.holds(0)? {
        Stage::Recovering(recovery(row)?)
    } else {
        Stage::Writable { flush: row.get(6)?, insert: row.get(7)? }
    };
    let signed: i32 = row.get(5)?;
    Ok(Answer {
        // Unsigned, in a signed column.
        system_identifier: row.get::<i64>(1)?.cast_unsigned(),
        server_version: row.get(2)?,
        timeline: Timeline(signed.cast_unsigned()),
        wal: WalGeometry { segment: size(3, standard.segment)?, page: size(4, standard.page)? },
        recovered: match stage {
            // Static once recovery is over (documentation, "Recovery Information Functions").
            Stage::Writable { .. } => row.find(9)?,
            Stage::Recovering(_) => None,
        },
        stage,
        standby_name: row.string(19)?,
        synchronous: row.string(20)?,
        standbys: row.text(21)?.map(|names| names.split('\n').map(str::to_owned).collect()).unwrap_or_default(),
        marked: row.get::<i64>(22)?.try_into().unwrap_or_default(),
    })
}

fn recovery(row: &Row<'_>) -> Result<Recovery, WireError> {
    let receiver = if row.holds(13)? {
        // Only who may read all statistics is told of the sender.
        let sender = row.text(16)?.map(str::to_owned).zip(row.find(17)?);
        Some(Receiver { status: row.string(14)?, silent_for: row.seconds(15)?, sender })
    } else {
        None
    };
    let applying = match (row.holds(10)?, row.holds(11)?) {
        (true, _) => Applying::Paused,
        (false, true) => Applying::Waiting,
        (false, false) => Applying::Busy,
    };
    Ok(Recovery {
        receive: row.find(8)?,
        replay: row.find(9)?,
        applying,
        receiver,
        apply_delay: row.seconds(12)?.unwrap_or_default(),
        receiver_timeout: row.seconds(18)?.unwrap_or_default(),
    })
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
