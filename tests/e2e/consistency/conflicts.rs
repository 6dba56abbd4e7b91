//! What a replica's recovery cancels, since it needs what is being removed, runs elsewhere: on another replica, then on the primary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgpilot::telemetry::{Count, RetryCause};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::support::proxy::{Proxy, ask, recipe, topology};
use crate::support::{LIMIT, wait_for};

/// Rows on all nodes, a function that takes its time over each, and standbys that let nobody stand in the way of recovery.
async fn slow_table() -> (Proxy, Client) {
    let servers = recipe().setting("max_standby_streaming_delay", "0").start().await.unwrap();
    // All reads would go to the one that is near, if it can be had.
    let mut config = topology(&servers, "[routing]\nmax_lag = \"1h\"\nzone = \"a\"\nreplica_functions = [\"place\"]\n");
    config.nodes[1].zone = Some("a".into());
    let proxy = Proxy::configured(Arc::new(servers), config).await;
    let writer = proxy.connect().await;
    let setup = "CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n;
        CREATE FUNCTION slowly(n int) RETURNS int STABLE LANGUAGE plpgsql
            AS 'BEGIN PERFORM pg_sleep(0.0005); RETURN n; END';
        CREATE FUNCTION place(bigint) RETURNS text STABLE LANGUAGE plpgsql
            AS 'BEGIN RETURN current_setting(''port''); END'";
    writer.batch_execute(setup).await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    (proxy, writer)
}

/// Removes row versions that reads on the standbys may need, until it is enough.
async fn disturb(writer: &Client, enough: impl Fn() -> bool) {
    wait_for("a read to be in the way of recovery", LIMIT, async || {
        writer.batch_execute("UPDATE t SET n = n").await.unwrap();
        writer.batch_execute("VACUUM t").await.unwrap();
        enough()
    })
    .await;
}

fn conflicts(proxy: &Proxy) -> u64 {
    proxy.app.telemetry().metrics().total(Count::Retry(RetryCause::RecoveryConflict))
}

/// Takes longer than replicas let it. Tells which server has counted.
const PLACE: &str = "/* pgpilot: replica, consistency=eventual */ SELECT place(count(slowly(n))) FROM t";

/// Where a read ends while what it needs is removed all the time.
async fn place_under_removal(proxy: &Proxy, writer: &Client) -> String {
    let reader = proxy.connect().await;
    let reading = tokio::spawn(async move { ask(&reader, PLACE).await });
    disturb(writer, || reading.is_finished()).await;
    reading.await.unwrap()
}

#[tokio::test]
async fn another_replica_comes_before_the_primary_and_that_before_a_third_try() {
    let (proxy, writer) = slow_table().await;
    let port = |name: &str| proxy.node(name).port().to_string();
    wait_for("the functions to be known", LIMIT, async || ask(&writer, PLACE).await == port("pg2")).await;
    assert_eq!(place_under_removal(&proxy, &writer).await, port("pg1"), "it is in the way of both replicas");
    assert_eq!(conflicts(&proxy), 2);
    let patient = proxy.node("pg3").connect().await.unwrap();
    patient.batch_execute("ALTER SYSTEM SET max_standby_streaming_delay = -1").await.unwrap();
    patient.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    wait_for("the setting to be in force", LIMIT, async || {
        ask(&patient, "SHOW max_standby_streaming_delay").await == "-1"
    })
    .await;
    assert_eq!(place_under_removal(&proxy, &writer).await, port("pg3"), "it would be in the way of the near one again");
    assert_eq!(conflicts(&proxy), 3);
}

#[tokio::test]
async fn a_conflict_with_recovery_never_reaches_the_application() {
    // It counts what it has, row by row, while those rows are removed. (In mode `session` one detour to the primary would keep
    // it there: the replicas fall behind all the while.)
    const COUNT: &str = "/* pgpilot: replica, consistency=eventual */ SELECT count(slowly(n)) FROM t";
    let (proxy, writer) = slow_table().await;
    let conflicts = || conflicts(&proxy);
    for extended in [false, true] {
        let (reader, before) = (proxy.connect().await, conflicts());
        let over = Arc::new(AtomicBool::new(false));
        let stop = over.clone();
        let reading = tokio::spawn(async move {
            let prepared = reader.prepare(COUNT).await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                let counted = match extended {
                    true => reader.query_one(&prepared, &[]).await.unwrap().get::<_, i64>(0).to_string(),
                    false => ask(&reader, COUNT).await,
                };
                assert_eq!(counted, "1000");
            }
        });
        disturb(&writer, || conflicts() > before).await;
        over.store(true, Ordering::Relaxed);
        reading.await.unwrap();
    }
}

#[tokio::test]
async fn a_transaction_that_only_reads_goes_on_elsewhere_after_a_conflict() {
    let (proxy, writer) = slow_table().await;
    proxy.wait_for_read("SELECT count(slowly(n)) FROM t").await;
    let conflicts = || conflicts(&proxy);
    let (reader, before) = (proxy.connect().await, conflicts());
    let over = Arc::new(AtomicBool::new(false));
    let stop = over.clone();
    let reading = tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            reader.batch_execute("BEGIN READ ONLY /* pgpilot: replica, consistency=eventual */").await.unwrap();
            for count in ["count(*)", "count(slowly(n))", "count(*)"] {
                assert_eq!(ask(&reader, &format!("SELECT {count} FROM t")).await, "1000");
            }
            reader.batch_execute("COMMIT").await.unwrap();
        }
    });
    disturb(&writer, || conflicts() > before + 1 || reading.is_finished()).await;
    over.store(true, Ordering::Relaxed);
    reading.await.unwrap();
}

#[tokio::test]
async fn a_conflict_in_the_middle_of_a_reply_is_told_as_what_may_be_tried_again() {
    let (proxy, writer) = slow_table().await;
    let reader = proxy.connect().await;
    let reading = tokio::spawn(async move {
        // More than is held back, long before its end.
        let rows = "/* pgpilot: replica, consistency=eventual */ SELECT slowly(n), repeat('x', 1000) FROM t";
        let error = loop {
            match reader.simple_query(rows).await {
                Ok(messages) => {
                    let rows = messages.iter().filter(|message| matches!(message, SimpleQueryMessage::Row(_)));
                    assert_eq!(rows.count(), 1000);
                }
                Err(error) => break error,
            }
        };
        assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{error:?}");
        // The session goes on.
        assert_eq!(ask(&reader, "SELECT count(*) FROM t").await, "1000");
    });
    disturb(&writer, || reading.is_finished()).await;
    reading.await.unwrap();
}
