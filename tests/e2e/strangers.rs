//! Two clients that share server connections have nothing else in common.

use tokio_postgres::Client;

use crate::support::proxy::{Proxy, ask, try_ask};
use crate::support::{LIMIT, wait_for};

const ONE_CONNECTION: &str = "[pool]\nmax_server_connections = 1\n";

#[tokio::test]
async fn a_setting_whose_name_is_not_in_the_text_follows_its_client_and_nobody_else() {
    let proxy = Proxy::with(ONE_CONNECTION).await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    let read = "SELECT coalesce(current_setting('app.tenant', true), '')";
    a.query_one("SELECT set_config($1, $2, false)", &[&"app.tenant", &"42"]).await.unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&b, read).await, "");
        assert_eq!(ask(&a, read).await, "42");
    }
    // Where nobody sees the name, it does not follow, but it does not reach anybody else either.
    let function = "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS \
                    $$ BEGIN PERFORM set_config('app.' || 'secret', 'x', false); END $$";
    a.batch_execute(function).await.unwrap();
    ask(&a, "SELECT f()").await;
    assert_eq!(ask(&b, "SELECT coalesce(current_setting('app.secret', true), '')").await, "");
    assert_eq!(ask(&a, read).await, "42");
}

#[tokio::test]
async fn a_prepared_text_means_what_its_session_means_by_it() {
    let proxy = Proxy::with(ONE_CONNECTION).await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    a.batch_execute("SET timezone = 'UTC'").await.unwrap();
    b.batch_execute("SET timezone = 'America/New_York'").await.unwrap();
    let text = "SELECT extract(epoch FROM '2020-01-01 00:00'::timestamptz)::int8";
    let mut seconds = Vec::new();
    for client in [&a, &b] {
        let statement = client.prepare(text).await.unwrap();
        seconds.push(client.query_one(&statement, &[]).await.unwrap().get::<_, i64>(0));
    }
    assert_eq!(seconds, [1_577_836_800, 1_577_836_800 + 5 * 3600]);
}

/// What stands in the place of a table of the same name, for one session only. Statements are held, or nobody would share them; and the server connection
/// has had temporary tables before: with its first one, it would look up names anew by itself.
#[tokio::test]
async fn a_prepared_text_means_a_temporary_table_to_who_has_it() {
    let proxy = Proxy::with(ONE_CONNECTION).await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    a.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
    b.batch_execute("CREATE TEMP TABLE other (n int); DROP TABLE other").await.unwrap();
    let mut held = Vec::new();
    let mut value = async |client: &Client| {
        let statement = client.prepare("UPDATE t SET n = n + 1 RETURNING n").await.unwrap();
        let value = client.query_one(&statement, &[]).await.unwrap().get::<_, i32>(0);
        held.push(statement);
        value
    };
    assert_eq!(value(&a).await, 2);
    // Within its transaction, and beyond it.
    b.batch_execute("BEGIN; CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 100 AS n").await.unwrap();
    assert_eq!(value(&b).await, 101);
    b.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&a).await, 3);
    b.batch_execute("CREATE TEMP TABLE t AS SELECT 200 AS n").await.unwrap();
    assert_eq!(value(&b).await, 201);
    b.batch_execute("DROP TABLE pg_temp.t").await.unwrap();
    assert_eq!((value(&a).await, value(&b).await), (4, 5));
}

#[tokio::test]
async fn a_statement_timeout_of_the_start_comes_back_with_reset() {
    let proxy = Proxy::with(ONE_CONNECTION).await;
    let client = proxy.connect_with("options='-c statement_timeout=3s'").await;
    let other = proxy.connect().await;
    for reset in ["RESET statement_timeout", "RESET ALL", "SET statement_timeout TO DEFAULT", "DISCARD ALL"] {
        client.batch_execute("SET statement_timeout = '7s'").await.unwrap();
        assert_eq!(ask(&client, "SHOW statement_timeout").await, "7s");
        client.batch_execute(reset).await.unwrap();
        assert_eq!(ask(&client, "SHOW statement_timeout").await, "3s", "{reset}");
        assert_eq!(ask(&other, "SHOW statement_timeout").await, "0");
    }
    client.batch_execute("SET statement_timeout = 0").await.unwrap();
    assert_eq!(ask(&client, "SHOW statement_timeout").await, "0");
}

#[tokio::test]
async fn a_tiny_statement_timeout_harms_neither_its_session_nor_others() {
    let proxy = Proxy::with(ONE_CONNECTION).await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    a.batch_execute("SET statement_timeout = '5ms'").await.unwrap();
    let slow = try_ask(&a, "SELECT pg_sleep(2)").await.unwrap_err();
    assert_eq!(slow.code().map(|code| code.code()), Some("57014"));
    assert_eq!(ask(&b, "SELECT pg_sleep(0.05)").await, "");
    assert_eq!(ask(&b, "SHOW statement_timeout").await, "0");
    assert_eq!(ask(&a, "SHOW statement_timeout").await, "5ms");
    a.batch_execute("RESET statement_timeout").await.unwrap();
    assert_eq!(ask(&a, "SELECT pg_sleep(0.05)").await, "");
}

/// The server connection knows the text already, by who has prepared it before; and whoever holds it goes on holding it.
#[tokio::test]
async fn what_is_prepared_again_after_ddl_works() {
    let proxy = Proxy::with(ONE_CONNECTION).await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    a.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
    let text = "/* pgpilot: primary */ SELECT * FROM t";
    let old = a.prepare(text).await.unwrap();
    a.query_one(&old, &[]).await.unwrap();
    let mut held = Vec::new();
    for columns in 1..=5 {
        b.batch_execute(&format!("ALTER TABLE t ADD c{columns} int")).await.unwrap();
        // Who has not prepared it yet never gets the old plan.
        let new = proxy.connect().await;
        let statement = new.prepare(text).await.unwrap();
        assert_eq!(new.query_one(&statement, &[]).await.unwrap().len(), columns + 1);
        held.push((new, statement));
    }
    // Who has, gets the error of a server that has it, and gets on by preparing it again.
    assert_eq!(a.query_one(&old, &[]).await.unwrap_err().code().map(|code| code.code()), Some("0A000"));
    let again = a.prepare(text).await.unwrap();
    assert_eq!(a.query_one(&again, &[]).await.unwrap().len(), 6);
}

/// The same, where pgpilot has not seen the DDL: whoever prepares a statement after it has nothing of what others prepared
/// before it.
#[tokio::test]
async fn what_is_prepared_again_after_unseen_ddl_works() {
    let proxy = Proxy::with(ONE_CONNECTION).await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    a.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
    proxy.wait_for_read("SELECT * FROM t").await;
    let unseen = proxy.node("pg1").connect_to("shop").await.unwrap();
    for (n, text) in ["SELECT * FROM t", "UPDATE t SET n = n RETURNING *"].into_iter().enumerate() {
        let text = &format!("/* pgpilot: primary */ {text}");
        let old = a.prepare(text).await.unwrap();
        a.query_one(&old, &[]).await.unwrap();
        unseen.batch_execute(&format!("ALTER TABLE t ADD c{n} int")).await.unwrap();
        let new = b.prepare(text).await.unwrap();
        assert_eq!(b.query_one(&new, &[]).await.unwrap().len(), n + 2, "{text}");
        // Who has prepared it before is told, and gets on by preparing it again.
        assert_eq!(a.query_one(&old, &[]).await.unwrap_err().code().map(|code| code.code()), Some("0A000"));
        let again = a.prepare(text).await.unwrap();
        assert_eq!(a.query_one(&again, &[]).await.unwrap().len(), n + 2, "{text}");
    }
    // A transaction that has failed cannot go on: there it works at the second time.
    let text = "/* pgpilot: primary */ SELECT t.* FROM t";
    let _held = a.prepare(text).await.unwrap();
    unseen.batch_execute("ALTER TABLE t ADD m int").await.unwrap();
    b.batch_execute("BEGIN; SELECT 1").await.unwrap();
    assert_eq!(b.prepare(text).await.unwrap_err().code().map(|code| code.code()), Some("0A000"));
    b.batch_execute("ROLLBACK; BEGIN; SELECT 1").await.unwrap();
    let again = b.prepare(text).await.unwrap();
    assert_eq!(b.query_one(&again, &[]).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_begin_is_parsed_once() {
    let proxy = Proxy::with(ONE_CONNECTION).await;
    let client = proxy.connect().await;
    for _ in 0..5 {
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute("CREATE TEMP TABLE t (n int) ON COMMIT DROP").await.unwrap();
        client.batch_execute("COMMIT").await.unwrap();
    }
    let count = "/* pgpilot: primary */ SELECT count(*) FROM pg_prepared_statements WHERE statement = 'BEGIN'";
    assert_eq!(ask(&client, count).await, "1");
}

#[tokio::test]
async fn a_text_larger_than_the_buffer_takes_parameters() {
    let proxy = Proxy::with("").await;
    let client = proxy.connect().await;
    let text = format!("SELECT $1::int + length('{}')", "x".repeat(300_000));
    assert_eq!(client.query_one(&text, &[&7]).await.unwrap().get::<_, i32>(0), 300_007);
    assert_eq!(ask(&client, "SELECT 1").await, "1");
}

#[tokio::test]
async fn a_client_that_relies_on_a_lock_learns_that_it_is_lost() {
    let proxy = Proxy::start().await;
    let client = proxy.connect().await;
    ask(&client, "SELECT pg_advisory_lock(77)").await;
    let node = proxy.servers.node("pg1").unwrap();
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77";
    node.sql(terminate).await.unwrap();
    let mut error = None;
    wait_for("the client to be told", LIMIT, async || {
        error = try_ask(&client, "SELECT 1").await.err();
        error.is_some()
    })
    .await;
    assert_eq!(ask(&client, "SHOW pgpilot.pins").await, "", "{error:?}");
}

/// A standby runs nothing for a session whose transactions are serializable by default.
#[tokio::test]
async fn who_is_serializable_by_default_reads_on_the_primary() {
    let proxy = Proxy::with(ONE_CONNECTION).await;
    let primary = proxy.node("pg1");
    primary.sql("ALTER ROLE app SET default_transaction_isolation = 'serializable'").await.unwrap();
    proxy.servers.wait_caught_up(primary).await.unwrap();
    let client = proxy.connect().await;
    for _ in 0..3 {
        assert_eq!(ask(&client, "SELECT 1").await, "1");
        client.batch_execute("BEGIN READ ONLY").await.unwrap();
        assert_eq!(ask(&client, "SHOW transaction_isolation").await, "serializable");
        client.batch_execute("COMMIT").await.unwrap();
    }
}
