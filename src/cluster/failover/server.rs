//! What is done on one server, by SQL.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row};
use tokio_util::task::AbortOnDropHandle;

use super::{Deadline, Settings};
use crate::cluster::connect_control;
use crate::config;
use crate::decide::failover::{Fact, Log, Profile, Tail, conninfo};
use crate::decide::position::{Lsn, Timeline, WalGeometry};

mod readying;

pub(super) use readying::OldTransaction;

/// Between two looks at something that is about to happen.
const STEP: Duration = Duration::from_millis(5);
/// Replay that has not got on for so long is held up by something, or has nothing more to do.
const STANDSTILL: Duration = Duration::from_millis(50);

/// A connection to a server, as the role that may change it.
pub(super) struct Server {
    client: Client,
    _driver: AbortOnDropHandle<()>,
    deadline: Deadline,
    /// Whose sessions are pgpilot's probes.
    prober: String,
}

impl Server {
    pub(super) async fn connect(settings: &Settings, node: &config::Node, deadline: Deadline) -> Result<Self, String> {
        let failover = &settings.failover;
        let login = config::Health {
            user: failover.user.clone(),
            password: failover.password.clone(),
            ..settings.health.clone()
        };
        let connecting = connect_control(node, &login, &login.database);
        let connected = deadline.limit("connecting", connecting).await?;
        let (client, driver) = connected.map_err(|error| error.to_string())?;
        Ok(Self { client, _driver: driver, deadline, prober: settings.health.user.clone() })
    }

    /// Goes on with another time limit, if it has not been closed.
    pub(super) fn lent_until(self, deadline: Deadline) -> Option<Self> {
        (!self.client.is_closed()).then_some(Self { deadline, ..self })
    }

    /// Takes a superuser, or pg_checkpoint.
    pub(super) async fn checkpoint(&self) -> Result<(), String> {
        self.execute("CHECKPOINT").await
    }

    async fn row(&self, sql: &str) -> Result<Row, String> {
        let asking = self.client.query_one(sql, &[]);
        self.deadline.limit("a query", asking).await?.map_err(|error| describe(&error))
    }

    async fn execute(&self, sql: &str) -> Result<(), String> {
        let running = self.client.batch_execute(sql);
        self.deadline.limit("a statement", running).await?.map_err(|error| describe(&error))
    }

    /// Asks until the answer is yes.
    async fn wait_until(&self, what: &str, sql: &str) -> Result<(), String> {
        self.deadline
            .limit(what, async {
                while !self.row(sql).await?.get::<_, bool>(0) {
                    sleep(STEP).await;
                }
                Ok(())
            })
            .await?
    }

    /// ALTER SYSTEM, and a reload.
    async fn set(&self, name: &str, value: Option<&str>) -> Result<(), String> {
        match value {
            Some(value) => self.execute(&format!("ALTER SYSTEM SET {name} = {}", quote(value))).await?,
            None => self.execute(&format!("ALTER SYSTEM RESET {name}")).await?,
        }
        self.execute("SELECT pg_reload_conf()").await
    }

    pub(super) async fn is_replica(&self) -> Result<bool, String> {
        Ok(self.row("SELECT pg_is_in_recovery()").await?.get(0))
    }

    async fn conninfo(&self) -> Result<String, String> {
        Ok(self.row("SELECT current_setting('primary_conninfo')").await?.get(0))
    }

    /// Cuts a replica off, and returns what it has then.
    pub(super) async fn seal(&self) -> Result<Log, String> {
        let conninfo = self.conninfo().await?;
        if !conninfo::is_sealed(&conninfo) {
            self.set("primary_conninfo", Some(&conninfo::sealed(&conninfo))).await?;
        }
        self.wait_until("the end of its WAL receiver", NO_RECEIVER).await?;
        self.settled_log().await
    }

    /// What it has, once it has replayed all of that, or does not get on any more: at the end there may be a part of a
    /// record, and somebody who reads there may be in the way.
    async fn settled_log(&self) -> Result<Log, String> {
        let mut log = self.log().await?;
        let mut stands_since = Instant::now();
        while log.replayed < log.end && stands_since.elapsed() < STANDSTILL {
            sleep(STEP).await;
            let now = self.log().await?;
            if now.replayed > log.replayed {
                stands_since = Instant::now();
            }
            log = now;
        }
        Ok(log)
    }

    pub(super) async fn unseal(&self) -> Result<(), String> {
        let conninfo = self.conninfo().await?;
        if conninfo::is_sealed(&conninfo) {
            self.set("primary_conninfo", Some(conninfo::unsealed(&conninfo))).await?;
        }
        Ok(())
    }

    pub(super) async fn log(&self) -> Result<Log, String> {
        let row = self.row(LOG).await?;
        let timeline = Timeline(row.get::<_, i32>(2).cast_unsigned());
        let lsn = |column: usize| row.get::<_, Option<PgLsn>>(column).map(|lsn| Lsn(lsn.into()));
        let log = Log::new(timeline, lsn(0), lsn(1)).ok_or("it has no log yet")?;
        // Also after a restart, when all is there.
        let tail = if lsn(0) < lsn(1) { self.tail().await? } else { Tail::There };
        Ok(Log { tail, ..log })
    }

    /// Looks into the newest of the files that hold, or are to hold, the last record that was replayed.
    async fn tail(&self) -> Result<Tail, String> {
        let row = self.row(FILES).await?;
        let (files, page): (Vec<String>, Lsn) = (row.get(0), Lsn(row.get::<_, PgLsn>(1).into()));
        let [newest, _, ..] = files.as_slice() else { return Ok(Tail::There) };
        let readable: bool = row.get(3);
        if !readable {
            return Ok(Tail::Missing);
        }
        // XLogPageHeaderData.xlp_pageaddr, in the byte order of the server's machine.
        let within: i64 = row.get(2);
        let row = self.row(&format!("SELECT pg_read_binary_file('pg_wal/{newest}', {within} + 8, 8)")).await?;
        let address: &[u8] = row.get(0);
        let is_there = address == page.0.to_le_bytes() || address == page.0.to_be_bytes();
        Ok(if is_there { Tail::There } else { Tail::Missing })
    }

    /// Waits until a replica has replayed up to `lsn`; `None`: all that its sender, which has been shut down, had.
    pub(super) async fn catch_up(&self, lsn: Option<Lsn>) -> Result<Log, String> {
        match lsn {
            Some(lsn) => {
                let sql = format!("coalesce(pg_last_wal_replay_lsn() >= '{lsn}', false)");
                self.wait_for_replay("catching up", &sql).await?;
            }
            None => {
                self.wait_until("the end of its WAL receiver", NO_RECEIVER).await?;
                let all = "coalesce(pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn(), false)";
                self.wait_for_replay("catching up", all).await?;
            }
        }
        self.log().await
    }

    /// Waits for something that comes with the end of the replay. Sessions that are in its way would be waited for as long
    /// as `max_standby_streaming_delay` says, and with them everybody who writes: they are ended, and read elsewhere.
    async fn wait_for_replay(&self, what: &str, condition: &str) -> Result<(), String> {
        let sql = format!("SELECT {condition}, coalesce(pg_last_wal_replay_lsn(), '0/0')");
        let waiting = async {
            let (mut replayed, mut stands_since) = (Lsn(0), Instant::now());
            loop {
                let row = self.row(&sql).await?;
                if row.get(0) {
                    return Ok(());
                }
                let now = Lsn(row.get::<_, PgLsn>(1).into());
                if now > replayed {
                    (replayed, stands_since) = (now, Instant::now());
                } else if stands_since.elapsed() >= STANDSTILL {
                    let ended: i64 = self.row(CLEAR_THE_WAY).await?.get(0);
                    if ended > 0 {
                        tracing::info!(ended, "sessions that were in the way of the replay have been ended");
                    }
                    stands_since = Instant::now();
                }
                sleep(STEP).await;
            }
        };
        self.deadline.limit(what, waiting).await?
    }

    /// Promotes the replica, or finds that it is promoted already.
    ///
    /// # Errors
    /// Also if it belongs to another cluster than `expected`.
    pub(super) async fn promote(&self, expected: Option<u64>) -> Result<Fact, String> {
        let found = self.row(SYSTEM).await?.get::<_, i64>(0).cast_unsigned();
        if expected.is_some_and(|expected| expected != found) {
            return Err(format!("it belongs to another cluster ({found})"));
        }
        if self.is_replica().await? {
            // False, or an error of a promotion that is under way already, says nothing: what counts is the end.
            let _ = self.execute("SELECT pg_promote(false)").await;
            self.wait_for_replay("the promotion", "NOT pg_is_in_recovery()").await?;
        }
        let row = self.row(PROMOTED).await?;
        let (system, timeline): (i64, i32) = (row.get(0), row.get(1));
        let switched_at = row.get::<_, Option<PgLsn>>(2).map_or(Lsn(u64::MAX), |lsn| Lsn(lsn.into()));
        if row.get(3) {
            // Left from when it handed over as the primary.
            self.set("default_transaction_read_only", None).await?;
        }
        Ok(Fact::Promoted { system: system.cast_unsigned(), timeline: Timeline(timeline.cast_unsigned()), switched_at })
    }

    /// Lets no client write any more, and returns the end of the log.
    ///
    /// Weak as a fence: a session may ask for a transaction that writes, and a new one may come between two sweeps.
    /// In a switchover pgpilot sends nothing any more, and the fence is for the others.
    ///
    /// # Errors
    /// Also if there are sessions of superusers and this role may not end them: nothing keeps them from writing.
    pub(super) async fn stop_writes(&self, wal: WalGeometry) -> Result<Lsn, String> {
        self.find_unstoppable().await?;
        self.set("default_transaction_read_only", Some("on")).await?;
        self.end_sessions().await?;
        self.find_unstoppable().await?;
        self.wait_for_transactions().await?;
        self.deadline.limit("bringing the log to disk", self.flushed_log(wal)).await?
    }

    /// The end of the log, when all of it is on disk.
    async fn flushed_log(&self, wal: WalGeometry) -> Result<Lsn, String> {
        loop {
            let row = self.row("SELECT pg_current_wal_insert_lsn(), pg_current_wal_flush_lsn()").await?;
            let lsn = |column: usize| Lsn(row.get::<_, PgLsn>(column).into());
            let (written, flushed) = (wal.record_end(lsn(0)), lsn(1));
            if flushed >= written {
                return Ok(written);
            }
            // Nobody commits any more, and what transactions have left that were ended, or what the server logs of
            // itself, is taken to disk by the next commit or in some seconds.
            self.mark().await?;
            sleep(STEP).await;
        }
    }

    /// Ends the sessions of clients until no new one has come for a while.
    async fn end_sessions(&self) -> Result<(), String> {
        let sql = end_sessions(&self.prober);
        let (mut ended, mut clean) = (String::new(), 0);
        let sweeping = async {
            while clean < 2 {
                match self.row(&sql).await?.get(0) {
                    Some(sessions) => (ended, clean) = (sessions, 0),
                    None => clean += 1,
                }
                sleep(STEP).await;
            }
            Ok(())
        };
        let swept = self.deadline.limit("ending the sessions of clients", sweeping).await;
        swept.map_err(|late| format!("{late}; the last ones: {ended}"))?
    }

    /// Waits until nobody writes who has begun to.
    async fn wait_for_transactions(&self) -> Result<(), String> {
        let mut writers = String::new();
        let waiting = async {
            while let Some(sessions) = self.row(WRITERS).await?.get(0) {
                writers = sessions;
                sleep(STEP).await;
            }
            Ok(())
        };
        let ended = self.deadline.limit("the end of the last transaction", waiting).await;
        ended.map_err(|late| format!("{late}: {writers}"))?
    }

    async fn find_unstoppable(&self) -> Result<(), String> {
        let row = self.row(&unstoppable(&self.prober)).await?;
        match row.get::<_, Option<String>>(0) {
            None => Ok(()),
            Some(sessions) => Err(format!(
                "sessions of superusers can go on writing, and only a superuser may end them: {sessions}; \
                 let failover.user be one, or set the command that demotes or fences"
            )),
        }
    }

    /// Undoes [`Self::stop_writes`].
    pub(super) async fn allow_writes(&self) -> Result<(), String> {
        self.set("default_transaction_read_only", None).await
    }

    /// Makes a replica stream from `primary`, and waits until it does.
    pub(super) async fn follow(&self, primary: &Profile) -> Result<(), String> {
        let conninfo = self.conninfo().await?;
        let (host, port) = (primary.host.as_str(), primary.port);
        if conninfo.is_empty() {
            return Err("it has no primary_conninfo: it does not know how to connect".to_owned());
        }
        let mut sender = "true".to_owned();
        if conninfo::is_sealed(&conninfo) || !conninfo::leads_to(&conninfo, host, port) {
            let new = conninfo::to_host(&conninfo, host, port).map_err(|error| error.to_string())?;
            self.set("primary_conninfo", Some(&new)).await?;
            // Its receiver may still be the one that streams from where it was.
            sender = format!("sender_port = {port} AND sender_host = {}", quote(host));
        }
        let streams =
            format!("SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming' AND {sender})");
        self.wait_until("streaming", &streams).await
    }

    /// The replication slot that a replica uses, if it uses one.
    pub(super) async fn slot(&self) -> Result<Option<String>, String> {
        let name: String = self.row("SELECT current_setting('primary_slot_name')").await?.get(0);
        Ok(Some(name).filter(|name| !name.is_empty()))
    }

    /// Without its slot a replica does not stream.
    pub(super) async fn make_slot(&self, name: &str) -> Result<(), String> {
        let name = quote(name);
        let sql = format!(
            "SELECT pg_create_physical_replication_slot({name}, true) \
             WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {name})"
        );
        self.execute(&sql).await
    }

    /// Writes the epoch down where it is replicated, so that anybody can tell later who was meant to be the primary: in a
    /// table, for people, and in a comment, which the probes can read without locks and privileges.
    pub(super) async fn write_epoch(&self, epoch: u64, node: &str) -> Result<(), String> {
        let (comment, node) = (quote(&format!("epoch {epoch}: {node}")), quote(node));
        // Its standbys may not be there yet: not to be waited for.
        self.execute(&format!(
            "SET synchronous_commit = local; CREATE SCHEMA IF NOT EXISTS pgpilot; \
             CREATE TABLE IF NOT EXISTS pgpilot.epochs \
             (epoch bigint PRIMARY KEY, node text NOT NULL, since timestamptz NOT NULL DEFAULT clock_timestamp()); \
             INSERT INTO pgpilot.epochs (epoch, node) VALUES ({epoch}, {node}) ON CONFLICT DO NOTHING; \
             COMMENT ON SCHEMA pgpilot IS {comment}"
        ))
        .await
    }
}

const SYSTEM: &str = "SELECT system_identifier FROM pg_control_system()";

const NO_RECEIVER: &str = "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)";

/// The control file tells a replica's timeline only since its last restartpoint; its log files, at once.
const LOG: &str = "SELECT pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn(),
       greatest((SELECT received_tli FROM pg_stat_wal_receiver),
                (SELECT timeline_id FROM pg_control_checkpoint()),
                (SELECT max(('x' || substr(name, 1, 8))::bit(32)::int4)
                   FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'))";

/// The files with the last byte that was replayed, those of newer timelines first; the page with it, and where that is in
/// them; whether this role may read it.
const FILES: &str = "WITH sizes AS (SELECT max(setting::numeric) FILTER (WHERE name = 'wal_segment_size') AS segment,
                      max(setting::numeric) FILTER (WHERE name = 'wal_block_size') AS page FROM pg_settings),
     last AS (SELECT pg_last_wal_replay_lsn() - pg_lsn '0/0' - 1 AS byte)
SELECT ARRAY(SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'
                AND ('x' || substr(name, 9, 8))::bit(32)::int8 * 4294967296
                  + ('x' || substr(name, 17, 8))::bit(32)::int8 * segment = byte - byte % segment
              ORDER BY name DESC),
       pg_lsn '0/0' + (byte - byte % page),
       (byte % segment - byte % page)::int8,
       has_function_privilege('pg_read_binary_file(text, int8, int8)', 'EXECUTE')
  FROM sizes, last";

/// After a promotion, `pg_last_wal_replay_lsn()` stays where the old timeline ended (functions-admin chapter).
const PROMOTED: &str = "SELECT (SELECT system_identifier FROM pg_control_system()),
       ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int4,
       pg_last_wal_replay_lsn(),
       (SELECT setting = 'on' AND source = 'configuration file' AND sourcefile LIKE '%postgresql.auto.conf'
          FROM pg_settings WHERE name = 'default_transaction_read_only')";

/// If the startup process waits for sessions (a recovery conflict), ends them: those that hold the lock for which it waits,
/// else those that may hold the snapshot or the page. Of superusers only as one.
const CLEAR_THE_WAY: &str = "WITH startup AS (SELECT pid FROM pg_stat_activity
       WHERE backend_type = 'startup'
         AND (wait_event_type IN ('Lock', 'BufferPin') OR wait_event LIKE 'RecoveryConflict%')),
     wanted AS (SELECT l.* FROM pg_locks l JOIN startup USING (pid) WHERE NOT l.granted)
SELECT count(pg_terminate_backend(a.pid))
  FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
 WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
   AND EXISTS (SELECT FROM startup)
   AND CASE WHEN EXISTS (SELECT FROM wanted)
            THEN EXISTS (SELECT FROM pg_locks h JOIN wanted w
                          ON (h.locktype, h.database, h.relation, h.classid, h.objid) IS NOT DISTINCT FROM
                             (w.locktype, w.database, w.relation, w.classid, w.objid)
                         WHERE h.granted AND h.pid = a.pid)
            ELSE a.xact_start IS NOT NULL END
   AND (NOT coalesce(r.rolsuper, false) OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user))";

/// Ends the sessions of clients, of superusers only as one, and says whose. The probes of this and other pgpilots go on.
fn end_sessions(prober: &str) -> String {
    format!(
        "SELECT string_agg(format('%s of %s (%s)', pid, usename, application_name), ', ')
                FILTER (WHERE pg_terminate_backend(a.pid))
           FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid
          WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
            AND NOT (application_name = 'pgpilot' AND usename IN (current_user, {}))
            AND (NOT coalesce(r.rolsuper, false) OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user))",
        quote(prober)
    )
}

/// Sessions that [`end_sessions`] leaves, a handful of them by name.
fn unstoppable(prober: &str) -> String {
    format!(
        "SELECT string_agg(format('%s of %s (%s)', pid, usename, application_name), ', ')
           FROM (SELECT a.* FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
                  WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid() AND r.rolsuper
                    AND NOT (a.application_name = 'pgpilot' AND a.usename = {})
                    AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
                  ORDER BY a.backend_start LIMIT 5) a",
        quote(prober)
    )
}

/// Sessions, and other processes, that have written something in a transaction that goes on.
const WRITERS: &str =
    "SELECT string_agg(format('%s of %s (%s)', pid, coalesce(usename, backend_type), application_name), ', ')
  FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()";

fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn describe(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |db| format!("{} ({})", db.message(), db.code().code()))
}
