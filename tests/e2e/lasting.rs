//! What lasts of what a session sets, and how it ends.

use pgpilot::wire::backend;
use tokio::join;
use tokio_postgres::Client;

use crate::support::proxy::{Proxy, ask, try_ask};
use crate::support::raw::Raw;
use crate::support::{LIMIT, wait_for};

const ONE_CONNECTION: &str = "[pool]\nmax_server_connections = 1\n";

fn code(error: &tokio_postgres::Error) -> Option<&str> {
    error.code().map(tokio_postgres::error::SqlState::code)
}

#[tokio::test]
async fn a_reset_within_a_transaction_goes_back_to_the_start_up_packet() {
    let proxy = Proxy::with(ONE_CONNECTION).await;
    let client = proxy.connect_with("options='-c work_mem=7MB'").await;
    let show = "SHOW work_mem";
    client.batch_execute("SET work_mem = '9MB'").await.unwrap();
    for reset in ["RESET work_mem", "SET work_mem TO DEFAULT", "RESET ALL", "SELECT 1; RESET work_mem"] {
        for undo in ["ROLLBACK", "SELECT 1/0; COMMIT"] {
            client.batch_execute("BEGIN").await.unwrap();
            client.batch_execute(reset).await.unwrap();
            assert_eq!(ask(&client, show).await, "7MB", "{reset}");
            drop(client.batch_execute(undo).await);
            client.batch_execute("ROLLBACK").await.unwrap();
            assert_eq!(ask(&client, show).await, "9MB", "{reset} {undo}");
        }
    }
    client.batch_execute("BEGIN; RESET work_mem").await.unwrap();
    assert_eq!(ask(&client, show).await, "7MB");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert!(client.batch_execute("RESET work_mem; SELECT 1/0").await.is_err());
    assert_eq!(ask(&client, show).await, "9MB");
    // In the other protocol, and in one go.
    let [begin, reset, commit] = ["BEGIN", "RESET work_mem", "COMMIT"].map(|sql| client.prepare(sql));
    let (begin, reset, commit) = (begin.await.unwrap(), reset.await.unwrap(), commit.await.unwrap());
    let shown = client.prepare("SELECT current_setting('work_mem')").await.unwrap();
    let all = join!(
        client.execute(&begin, &[]),
        client.execute(&reset, &[]),
        client.query_one(&shown, &[]),
        client.execute(&commit, &[])
    );
    assert_eq!(all.2.unwrap().get::<_, String>(0), "7MB");
    assert_eq!(ask(&client, show).await, "7MB");
    assert_eq!(ask(&proxy.connect().await, show).await, "4MB");
}

#[tokio::test]
async fn what_pgpilot_is_told_within_a_transaction_heeds_savepoints_and_failures() {
    const SHOW: &str = "SHOW pgpilot.consistency";
    let proxy = Proxy::with("").await;
    let client = proxy.connect().await;
    let set = async |client: &Client, mode: &str| {
        client.batch_execute(&format!("SET pgpilot.consistency = '{mode}'")).await.unwrap();
    };
    client.batch_execute("CREATE TABLE t (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    // A savepoint between two changes, and one before both.
    client.batch_execute("BEGIN").await.unwrap();
    client.batch_execute("SAVEPOINT old").await.unwrap();
    set(&client, "eventual").await;
    client.batch_execute("SAVEPOINT a").await.unwrap();
    set(&client, "strong").await;
    client.execute("ROLLBACK TO SAVEPOINT a", &[]).await.unwrap();
    assert_eq!(ask(&client, SHOW).await, "eventual");
    set(&client, "primary").await;
    client.batch_execute("RELEASE a").await.unwrap();
    assert_eq!(ask(&client, SHOW).await, "primary");
    client.batch_execute("ROLLBACK TO old").await.unwrap();
    assert_eq!(ask(&client, SHOW).await, "session");
    set(&client, "eventual").await;
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(ask(&client, SHOW).await, "eventual");
    // A commit that fails.
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    set(&client, "strong").await;
    assert_eq!(code(&client.batch_execute("COMMIT").await.unwrap_err()), Some("23505"));
    assert_eq!(ask(&client, SHOW).await, "eventual");
    // One that is sent behind another statement.
    let (insert, commit) = (client.prepare("INSERT INTO t VALUES (2)"), client.prepare("COMMIT"));
    let (insert, commit) = (insert.await.unwrap(), commit.await.unwrap());
    client.batch_execute("BEGIN").await.unwrap();
    set(&client, "strong").await;
    let (inserted, committed) = join!(client.execute(&insert, &[]), client.execute(&commit, &[]));
    assert!(inserted.is_ok() && committed.is_ok());
    assert_eq!(ask(&client, SHOW).await, "strong");
}

#[tokio::test]
async fn whose_transaction_the_server_ends_is_told_why() {
    let proxy = Proxy::start().await;
    let mut raw = Raw::connect(proxy.port(), "shop").await;
    raw.query("BEGIN; SET LOCAL idle_in_transaction_session_timeout = '20ms'").await;
    let last = raw.rest().await;
    let [error] = &last[..] else { panic!("{last:?}") };
    assert_eq!(
        (error.tag, error.field(b'C'), error.field(b'V')),
        (backend::ERROR_RESPONSE, Some("25P03"), Some("FATAL"))
    );
    // Somebody else's doing, as when the server is stopped: the session goes on, and has lost its transaction.
    let client = proxy.connect().await;
    client.batch_execute("BEGIN; SET LOCAL application_name = 'to be ended'").await.unwrap();
    let terminate =
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'to be ended'";
    proxy.node("pg1").sql(terminate).await.unwrap();
    let error = try_ask(&client, "SELECT 1").await.unwrap_err();
    assert_eq!(code(&error), Some("08006"));
    assert!(error.as_db_error().and_then(|error| error.detail()).is_some_and(|detail| detail.contains("57P01")));
    assert_eq!(code(&try_ask(&client, "SELECT 1").await.unwrap_err()), Some("25P02"));
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(ask(&client, "SELECT 1").await, "1");
}

/// As on the server: it has asked for it.
#[tokio::test]
async fn who_ends_its_own_server_session_is_told_what_the_server_says_and_is_gone() {
    let proxy = Proxy::shared("").await;
    let own = "SELECT pg_terminate_backend(pg_backend_pid())";
    let among = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = pg_backend_pid()";
    for (before, sql) in [("SELECT 1", own), ("BEGIN", own), ("CREATE TEMP TABLE mine ()", among), ("SELECT 1", among)]
    {
        let mut raw = Raw::connect(proxy.port(), "shop").await;
        raw.query(before).await;
        let told = raw.query(sql).await;
        // The result may be on its way already; nothing comes behind the error.
        let error = told.last().unwrap();
        let told = [b'V', b'C', b'M'].map(|field| error.field(field));
        let expected = ["FATAL", "57P01", "terminating connection due to administrator command"];
        assert_eq!(told, expected.map(Some), "{before}; {sql}");
    }
    assert_eq!(ask(&proxy.connect().await, "/* pgpilot: primary */ SELECT 1").await, "1");
}

#[tokio::test]
async fn sessions_begin_with_what_was_laid_down_for_their_role_last() {
    let proxy = Proxy::with(ONE_CONNECTION).await;
    let client = proxy.connect().await;
    let show = "/* pgpilot: primary */ SELECT current_setting('work_mem') || current_setting('DateStyle')";
    for (alter, begins) in [
        ("ALTER ROLE app SET work_mem = '5MB'", "5MBISO, MDY"),
        ("ALTER ROLE app IN DATABASE shop SET DateStyle = 'German'", "5MBGerman, DMY"),
        ("ALTER DATABASE shop SET work_mem = '6MB'; ALTER ROLE app RESET work_mem", "6MBGerman, DMY"),
    ] {
        ask(&client, show).await;
        client.batch_execute(alter).await.unwrap();
        let new = Raw::connect(proxy.port(), "shop").await;
        let told = new.greeting.iter().any(|frame| frame.body.starts_with(b"DateStyle\0German"));
        assert_eq!(told, begins.contains("German"), "{alter}");
        assert_eq!(ask(&proxy.connect().await, show).await, begins, "{alter}");
    }
}

#[tokio::test]
async fn replicas_begin_sessions_with_what_was_laid_down_once_they_have_replayed_it() {
    let proxy = Proxy::with("[routing]\nconsistency = \"eventual\"\nmax_lag = \"1h\"\n").await;
    let show = "SELECT current_setting('lock_timeout')";
    let everywhere = async |expected: &str| {
        let mut row = 0;
        wait_for("replicas to begin sessions so", LIMIT, async || {
            row = if ask(&proxy.connect().await, show).await == expected { row + 1 } else { 0 };
            row == 10
        })
        .await;
    };
    for replica in ["pg2", "pg3"] {
        proxy.node(replica).pause_replay().await.unwrap();
    }
    proxy.connect().await.batch_execute("ALTER ROLE app SET lock_timeout = '5s'").await.unwrap();
    for _ in 0..10 {
        assert_eq!(ask(&proxy.connect().await, show).await, "0", "these connections are in the pools from now on");
    }
    for replica in ["pg2", "pg3"] {
        proxy.node(replica).resume_replay().await.unwrap();
    }
    everywhere("5s").await;
    // Past pgpilot, which looks again when somebody speaks of what it does not know.
    proxy.node("pg1").sql("ALTER ROLE app SET lock_timeout = '6s'").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    assert!(try_ask(&proxy.connect().await, "SELECT strange()").await.is_err());
    everywhere("6s").await;
}

/// Servers do not list what is an application's own.
#[tokio::test]
async fn what_functions_and_blocks_set_follows_its_client() {
    let proxy = Proxy::with(ONE_CONNECTION).await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    let functions = "CREATE FUNCTION enter(tenant text) RETURNS void LANGUAGE plpgsql AS
            $$ BEGIN SET work_mem = '5MB'; PERFORM set_config('app.tenant', tenant, false); END $$;
        CREATE FUNCTION within() RETURNS text LANGUAGE sql SET work_mem = '3MB' AS
            $$ SELECT current_setting('work_mem') $$";
    a.batch_execute(functions).await.unwrap();
    let show = "SELECT current_setting('work_mem') || coalesce(current_setting('app.tenant', true), '')
        || coalesce(current_setting('app.other', true), '')";
    wait_for("pgpilot to know the functions", LIMIT, async || {
        ask(&a, "SELECT enter('42')").await;
        ask(&a, show).await == "5MB42"
    })
    .await;
    assert_eq!(ask(&b, show).await, "4MB");
    assert_eq!(ask(&a, show).await, "5MB42");
    assert_eq!(ask(&a, "SELECT within()").await, "3MB");
    a.batch_execute("DO $$ BEGIN SET work_mem = '6MB'; SET app.other = 'x'; END $$").await.unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&b, show).await, "4MB");
        assert_eq!(ask(&a, show).await, "6MB42x");
    }
    // Undone, as any other.
    a.batch_execute("BEGIN; SELECT enter('43'); ROLLBACK").await.unwrap();
    assert_eq!(ask(&b, show).await, "4MB");
    assert_eq!(ask(&a, show).await, "6MB42x");
}
