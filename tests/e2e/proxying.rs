//! What a client sees of pgpilot.

use crate::support::proxy::{Proxy, ask};
use crate::support::{LIMIT, wait_for};

#[tokio::test]
async fn writes_go_to_the_primary_and_reads_to_replicas() {
    let proxy = Proxy::start().await;
    let client = proxy.connect().await;
    assert_eq!(ask(&client, "SELECT 1").await, "1");
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    client.batch_execute("INSERT INTO t SELECT generate_series(1, 10)").await.unwrap();
    assert_eq!(ask(&client, "SELECT count(*) FROM t").await, "10");
    let row = client.query_one("SELECT $1::int + count(*) FROM t", &[&5i32]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 15);
    let (primary, replicas) = proxy.counts();
    assert!(primary >= 2 && replicas >= 1, "{primary} on the primary, {replicas} on replicas");
}

#[tokio::test]
async fn settings_follow_the_client_and_never_leak() {
    // One connection per node: whoever comes next gets what the last one left.
    let proxy = Proxy::with("[pool]\nmax_server_connections = 1\n").await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    a.batch_execute("SET work_mem = '7MB'").await.unwrap();
    a.batch_execute("SET app.tenant = 'it''s a'").await.unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&b, "SELECT current_setting('work_mem')").await, "4MB");
        assert_eq!(ask(&a, "SELECT current_setting('work_mem')").await, "7MB");
        assert_eq!(ask(&a, "SELECT current_setting('app.tenant', true)").await, "it's a");
        assert_eq!(ask(&b, "SELECT coalesce(current_setting('app.tenant', true), '')").await, "");
    }
    // Rolled back, local, and by function.
    b.batch_execute("BEGIN; SET work_mem = '9MB'; ROLLBACK").await.unwrap();
    b.batch_execute("BEGIN").await.unwrap();
    b.batch_execute("SET LOCAL work_mem = '8MB'").await.unwrap();
    assert_eq!(ask(&b, "SHOW work_mem").await, "8MB");
    b.batch_execute("COMMIT").await.unwrap();
    assert_eq!(ask(&b, "SHOW work_mem").await, "4MB");
    assert_eq!(ask(&b, "SELECT set_config('work_mem', '6MB', false)").await, "6MB");
    assert_eq!(ask(&a, "SHOW work_mem").await, "7MB");
    assert_eq!(ask(&b, "SHOW work_mem").await, "6MB");
    a.batch_execute("DISCARD ALL").await.unwrap();
    assert_eq!(ask(&a, "SHOW work_mem").await, "4MB");
    assert_eq!(ask(&b, "SHOW work_mem").await, "6MB");
}

#[tokio::test]
async fn prepared_statements_work_on_any_connection() {
    let proxy = Proxy::with("[pool]\nmax_server_connections = 1\nmax_prepared = 2\n").await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    let mut statements = Vec::new();
    for n in 0..4 {
        statements.push((n, a.prepare(&format!("SELECT $1::int + {n}")).await.unwrap()));
        b.prepare(&format!("SELECT $1::int + {n}")).await.unwrap();
    }
    for _ in 0..2 {
        for (n, statement) in &statements {
            let row = a.query_one(statement, &[&10]).await.unwrap();
            assert_eq!(row.get::<_, i32>(0), 10 + n);
        }
    }
    a.batch_execute("PREPARE p (int) AS SELECT $1 * 2").await.unwrap();
    b.batch_execute("PREPARE p (int) AS SELECT $1 * 3").await.unwrap();
    assert_eq!(ask(&a, "EXECUTE p (7)").await, "14");
    assert_eq!(ask(&b, "EXECUTE p (7)").await, "21");
    let twice = a.batch_execute("PREPARE p AS SELECT 1").await.unwrap_err();
    assert_eq!(twice.code().map(|code| code.code()), Some("42P05"));
    a.batch_execute("DEALLOCATE p").await.unwrap();
    let gone = a.batch_execute("EXECUTE p (1)").await.unwrap_err();
    assert_eq!(gone.code().map(|code| code.code()), Some("26000"));
    assert_eq!(ask(&b, "EXECUTE p (8)").await, "24");
}

#[tokio::test]
async fn transactions_keep_their_server() {
    let proxy = Proxy::start().await;
    let mut client = proxy.connect().await;
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction.execute("INSERT INTO t VALUES (1)", &[]).await.unwrap();
    assert_eq!(transaction.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 1);
    transaction.rollback().await.unwrap();
    assert_eq!(ask(&client, "SELECT count(*) FROM t").await, "0");
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1); COMMIT").await.unwrap();
    assert_eq!(ask(&client, "SELECT count(*) FROM t").await, "1");
    // A transaction that is declared read-only runs on a replica, once one has what this session wrote.
    let before = proxy.counts();
    wait_for("a read-only transaction on a replica", LIMIT, async || {
        client.batch_execute("BEGIN READ ONLY").await.unwrap();
        assert_eq!(ask(&client, "SELECT count(*) FROM t").await, "1");
        client.batch_execute("COMMIT").await.unwrap();
        proxy.counts().1 > before.1
    })
    .await;
    let failed = client.batch_execute("SELEC").await.unwrap_err();
    assert_eq!(failed.code().map(|code| code.code()), Some("42601"));
}

#[tokio::test]
async fn what_cannot_be_shared_pins() {
    let proxy = Proxy::with("[pool]\nmax_server_connections = 2\n").await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    a.batch_execute("CREATE TEMP TABLE t (n int)").await.unwrap();
    a.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(ask(&a, "SHOW pgpilot.pins").await, "temporary_object");
    assert_eq!(ask(&a, "SELECT count(*) FROM t").await, "1");
    assert!(b.simple_query("SELECT count(*) FROM t").await.is_err());
    a.batch_execute("DROP TABLE t").await.unwrap();
    assert_eq!(ask(&a, "SHOW pgpilot.pins").await, "");
    ask(&a, "SELECT pg_advisory_lock(1)").await;
    assert_eq!(ask(&a, "SHOW pgpilot.pins").await, "advisory_lock");
    assert_eq!(ask(&b, "SELECT pg_try_advisory_lock(1)").await, "f");
    ask(&a, "SELECT pg_advisory_unlock(1)").await;
    assert_eq!(ask(&a, "SHOW pgpilot.pins").await, "");
    a.batch_execute("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1,3); COMMIT").await.unwrap();
    assert_eq!(ask(&a, "FETCH c").await, "1");
    a.batch_execute("CLOSE c").await.unwrap();
    assert_eq!(ask(&a, "SHOW pgpilot.pins").await, "");
}
