//! What is found out, and done, before a switchover holds anybody.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tokio_postgres::types::PgLsn;

use super::{STEP, Server, describe};
use crate::decide::position::Lsn;

impl Server {
    /// Writes something of no meaning to the log, and returns where that ends on disk. It waits for no standby.
    pub(in super::super) async fn mark(&self) -> Result<Lsn, String> {
        let writing = "BEGIN; SET LOCAL synchronous_commit = local; \
                       SELECT pg_logical_emit_message(true, 'pgpilot', 'switchover'); COMMIT";
        if let Err(error) = self.execute(writing).await {
            // Who may not do that sees at least how far the log is.
            tracing::info!(error, "nothing could be written to the log");
            let _ = self.execute("ROLLBACK").await;
        }
        let row = self.row("SELECT pg_current_wal_flush_lsn()").await?;
        Ok(Lsn(row.get::<_, PgLsn>(0).into()))
    }

    /// Waits until a replica has replayed up to `lsn`.
    ///
    /// # Errors
    /// What keeps it from that.
    pub(in super::super) async fn replays(&self, lsn: Lsn) -> Result<(), String> {
        let sql = format!(
            "SELECT pg_is_wal_replay_paused(), greatest(pg_lsn '{lsn}' - coalesce(pg_last_wal_replay_lsn(), '0/0'), 0)::int8,
                    (SELECT coalesce(wait_event, '') FROM pg_stat_activity WHERE backend_type = 'startup')"
        );
        let mut why = "does not answer".to_owned();
        loop {
            let row = match self.row(&sql).await {
                Ok(row) => row,
                Err(error) => {
                    // Most likely the time is over.
                    tracing::info!(error, "a candidate is not asked any more");
                    return Err(why);
                }
            };
            let (paused, missing, waits): (bool, i64, Option<String>) = (row.get(0), row.get(1), row.get(2));
            if missing == 0 {
                return Ok(());
            }
            if paused {
                return Err("does not replay the log: that is paused".to_owned());
            }
            let waits = waits.filter(|event| !event.is_empty()).unwrap_or_else(|| "nothing".to_owned());
            why = format!("does not keep up: it has {missing} bytes of the log to replay, and waits for {waits}");
            sleep(STEP).await;
        }
    }

    /// Ends the connections of replicas that get nothing of what is written, and of which nothing is heard for `patience`.
    /// Returns their names.
    pub(in super::super) async fn end_hanging_senders(&self, patience: Duration) -> Result<Vec<String>, String> {
        let lsn = self.mark().await?;
        let sql = format!(
            "SELECT pid, format('%s %s %s', write_lsn, flush_lsn, reply_time)
               FROM pg_stat_replication WHERE state IN ('streaming', 'catchup') AND write_lsn < '{lsn}'"
        );
        let senders = async || {
            let asking = self.client.query(&sql, &[]);
            let rows = self.deadline.limit("a query", asking).await?.map_err(|error| describe(&error))?;
            Ok::<Vec<(i32, String)>, String>(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
        };
        let (mut hanging, begun) = (senders().await?, Instant::now());
        while !hanging.is_empty() && begun.elapsed() < patience {
            sleep(STEP).await;
            let now = senders().await?;
            hanging.retain(|sender| now.contains(sender));
        }
        let pids: Vec<String> = hanging.iter().map(|(pid, _)| pid.to_string()).collect();
        if pids.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT array_agg(format('%s (%s)', application_name, client_addr)) FILTER (WHERE pg_terminate_backend(pid))
               FROM pg_stat_replication WHERE pid IN ({})",
            pids.join(", ")
        );
        Ok(self.row(&sql).await?.get::<_, Option<Vec<String>>>(0).unwrap_or_default())
    }

    /// Transactions of these processes that have been open for longer than `age`, the oldest first.
    pub(in super::super) async fn old_transactions(
        &self,
        pids: &[u32],
        age: Duration,
    ) -> Result<Vec<OldTransaction>, String> {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let sql = format!(
            "SELECT pid, xact_start::text, (extract(epoch FROM clock_timestamp() - xact_start) * 1000)::int8
               FROM pg_stat_activity
              WHERE pid = ANY('{{{}}}') AND xact_start < clock_timestamp() - interval '{} ms' ORDER BY xact_start",
            pids.join(","),
            age.as_millis()
        );
        let asking = self.client.query(&sql, &[]);
        let rows = self.deadline.limit("a query", asking).await?.map_err(|error| describe(&error))?;
        let old = rows.iter().map(|row| OldTransaction {
            pid: row.get::<_, i32>(0).cast_unsigned(),
            since: row.get(1),
            age: Duration::from_millis(row.get::<_, i64>(2).unsigned_abs()),
        });
        Ok(old.collect())
    }
}

/// One that has been open for a while.
pub(in super::super) struct OldTransaction {
    pub(in super::super) pid: u32,
    /// By the server's clock.
    since: String,
    pub(in super::super) age: Duration,
}

impl OldTransaction {
    pub(in super::super) fn is_same_as(&self, other: &Self) -> bool {
        (self.pid, &self.since) == (other.pid, &other.since)
    }
}
