//! Where the mode can be set, and what a long read on a replica never sees.

use pgpilot::decide::sql::Reason;
use pgpilot::telemetry::{Count, RetryCause};

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

#[tokio::test]
async fn a_conflict_with_recovery_never_reaches_the_application() {
    let servers = recipe().setting("max_standby_streaming_delay", "0").start().await.unwrap();
    let proxy = Proxy::before(servers, "[routing]\nmax_lag = \"30s\"\n").await;
    let (reader, writer) = (proxy.connect().await, proxy.connect().await);
    let setup = "CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n;
        CREATE FUNCTION slowly(n int) RETURNS int STABLE LANGUAGE plpgsql
            AS 'BEGIN PERFORM pg_sleep(0.0005); RETURN n; END'";
    writer.batch_execute(setup).await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    let reading = tokio::spawn(async move {
        let mut reads = 0;
        while reads < 5 {
            // It counts what it has, row by row, while those rows are removed.
            assert_eq!(ask(&reader, "/* pgpilot: replica */ SELECT count(slowly(n)) FROM t").await, "1000");
            reads += 1;
        }
    });
    let retry = Count::Retry(RetryCause::RecoveryConflict);
    let cancelled = || proxy.app.telemetry().metrics().total(retry) > 0;
    wait_for("a read to be in the way of recovery", LIMIT, async || {
        writer.batch_execute("UPDATE t SET n = n").await.unwrap();
        writer.batch_execute("VACUUM t").await.unwrap();
        cancelled()
    })
    .await;
    reading.await.unwrap();
}
