//! Where the mode can be set, and what a long read on a replica never sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pgpilot::decide::sql::Reason;
use pgpilot::telemetry::{Count, RetryCause};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::support::proxy::{Proxy, ask, recipe};
use crate::support::{LIMIT, wait_for};

#[tokio::test]
async fn the_mode_is_set_for_all_for_a_database_a_user_a_connection_and_a_transaction() {
    const SHOW: &str = "SHOW pgpilot.consistency";
    let global = "[routing]\nconsistency = \"eventual\"\n";
    let database = "[[databases]]\nname = \"shop\"\nconsistency = \"primary\"\n";
    let user = "[[users]]\nname = \"app\"\npassword = \"app-secret\"\nconsistency = \"strong\"\n";
    for (more, mode) in [
        (String::new(), "session"),
        (global.to_owned(), "eventual"),
        (format!("{global}{database}"), "primary"),
        (format!("{global}{database}{user}"), "strong"),
    ] {
        let proxy = Proxy::shared(&more).await;
        let client = proxy.connect().await;
        assert_eq!(ask(&client, SHOW).await, mode);
        let other = proxy.connect_with("options='-c pgpilot.consistency=eventual'").await;
        assert_eq!(ask(&other, SHOW).await, "eventual");
        client.batch_execute("SET pgpilot.consistency = 'session'").await.unwrap();
        assert_eq!(ask(&client, SHOW).await, "session");
        client.batch_execute("BEGIN READ ONLY").await.unwrap();
        client.batch_execute("SET LOCAL pgpilot.consistency = 'primary'").await.unwrap();
        let before = proxy.count_of(Reason::Consistency);
        assert_eq!(ask(&client, SHOW).await, "primary");
        ask(&client, "SELECT 1").await;
        client.batch_execute("COMMIT").await.unwrap();
        assert!(proxy.count_of(Reason::Consistency) > before);
        assert_eq!(ask(&client, SHOW).await, "session", "SET LOCAL ends with the transaction");
        // Outside one it does nothing.
        client.batch_execute("SET LOCAL pgpilot.consistency = 'primary'").await.unwrap();
        assert_eq!(ask(&client, SHOW).await, "session");
        client.batch_execute("RESET pgpilot.consistency").await.unwrap();
        assert_eq!(ask(&client, SHOW).await, mode);
    }
}

/// Rows on all nodes, a function that takes its time over each, and standbys that let nobody stand in the way of recovery.
async fn slow_table() -> (Proxy, Client) {
    let servers = recipe().setting("max_standby_streaming_delay", "0").start().await.unwrap();
    let proxy = Proxy::before(servers, "[routing]\nmax_lag = \"1h\"\n").await;
    let writer = proxy.connect().await;
    let setup = "CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n;
        CREATE FUNCTION slowly(n int) RETURNS int STABLE LANGUAGE plpgsql
            AS 'BEGIN PERFORM pg_sleep(0.0005); RETURN n; END'";
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

#[tokio::test]
async fn a_conflict_with_recovery_never_reaches_the_application() {
    // It counts what it has, row by row, while those rows are removed. (In mode `session` one detour to the primary would keep
    // it there: the replicas fall behind all the while.)
    const COUNT: &str = "/* pgpilot: replica, consistency=eventual */ SELECT count(slowly(n)) FROM t";
    let (proxy, writer) = slow_table().await;
    let conflicts = || proxy.app.telemetry().metrics().total(Count::Retry(RetryCause::RecoveryConflict));
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

/// pgpilot's own settings end where a server's would.
#[tokio::test]
async fn own_settings_are_undone_by_a_rollback_and_by_discard_all() {
    let proxy = Proxy::shared("").await;
    let client = proxy.connect().await;
    let now = async || {
        let mode = ask(&client, "SHOW pgpilot.consistency").await;
        format!("{mode} {} {}", ask(&client, "SHOW pgpilot.route").await, ask(&client, "SHOW pgpilot.min_lsn").await)
    };
    let before = now().await;
    let set = "SET pgpilot.consistency = 'eventual'; SET pgpilot.route = 'primary'; SET pgpilot.min_lsn = '1:0/1'";
    for (end, after) in [
        ("ROLLBACK", before.as_str()),
        ("SELECT 1 / 0; COMMIT", &before),
        ("SET LOCAL pgpilot.consistency = 'strong'; ROLLBACK", &before),
        ("COMMIT", "eventual primary 1:0/1"),
        ("SET LOCAL pgpilot.consistency = 'strong'; COMMIT", "eventual primary 1:0/1"),
    ] {
        for begin in ["BEGIN", "BEGIN; SELECT 1 FROM pg_class LIMIT 1"] {
            for statement in [begin, set, end].iter().flat_map(|part| part.split("; ")) {
                let _ = client.batch_execute(statement).await;
            }
            assert_eq!(now().await, after, "{begin}; ..; {end}");
            client.batch_execute("DISCARD ALL").await.unwrap();
            assert_eq!(now().await, before, "DISCARD ALL");
        }
    }
    client.batch_execute("SET pgpilot.consistency = 'eventual'").await.unwrap();
    client.batch_execute("RESET ALL").await.unwrap();
    assert_eq!(now().await, before, "RESET ALL");
}
