//! The primary dies and another tool promotes a replica: clients stay connected, what was queued goes on, and no write lands on the old one.

use std::time::{Duration, Instant};

use pgpilot::app::App;
use pgpilot::decide::route::Role;
use pgpilot::demo::{LocalCluster, Scope};
use pgpilot::telemetry::{Count, RetryCause};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, NoTls, Row};

use crate::support::proxy::{PASSWORD, Proxy, USER, ask, topology, try_ask};
use crate::support::{LIMIT, wait_for};

/// So long a statement waits for a primary, unless something else is configured.
const BY_DEFAULT: Duration = Duration::from_secs(30);

async fn clients(proxy: &Proxy, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(proxy.connect().await);
    }
    clients
}

/// What another tool does, except for the death of pg1.
async fn promote(servers: &LocalCluster) {
    let (new, other) = (servers.node("pg2").unwrap(), servers.node("pg3").unwrap());
    new.promote().await.unwrap();
    other.repoint(new).await.unwrap();
}

async fn count(servers: &LocalCluster, node: &str, condition: &str) -> i64 {
    let session = servers.node(node).unwrap().connect_to("shop").await.unwrap();
    session.query_one(&format!("SELECT count(*) FROM t WHERE {condition}"), &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn queued_statements_go_on_behind_a_promotion() {
    let proxy = Proxy::with("").await;
    let writers = clients(&proxy, 10).await;
    let reader = proxy.connect().await;
    writers[0].batch_execute("CREATE TABLE t (n int)").await.unwrap();
    let prepared = writers[1].prepare("INSERT INTO t VALUES ($1)").await.unwrap();
    for writer in &writers {
        writer.batch_execute("INSERT INTO t VALUES (0)").await.unwrap();
    }
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    proxy.wait_for_read("SELECT count(*) FROM t").await;
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    // Sent while there is no primary: simple, prepared, and a transaction's first statement.
    let mut queued = Vec::new();
    for (n, writer) in writers.into_iter().enumerate() {
        let prepared = prepared.clone();
        queued.push(tokio::spawn(async move {
            match n {
                0 => writer.batch_execute("BEGIN; INSERT INTO t VALUES (1); COMMIT").await.unwrap(),
                1 => drop(writer.execute(&prepared, &[&1]).await.unwrap()),
                2 => {
                    writer.batch_execute("BEGIN").await.unwrap();
                    writer.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
                    writer.batch_execute("COMMIT").await.unwrap();
                }
                _ => writer.batch_execute("INSERT INTO t VALUES (1)").await.unwrap(),
            }
            (Instant::now(), writer)
        }));
    }
    wait_for("pgpilot to notice", LIMIT, async || proxy.app.shared().cluster.snapshot().usable_primary().is_none())
        .await;
    // Meanwhile there are replicas to read from.
    for _ in 0..20 {
        assert_eq!(ask(&reader, "SELECT count(*) FROM t").await, "10");
    }
    assert!(queued.iter().all(|task| !task.is_finished()));
    proxy.node("pg2").promote().await.unwrap();
    let promoted = Instant::now();
    for task in queued {
        let (done, writer) = task.await.unwrap();
        println!("{:?} after the promotion", done.saturating_duration_since(promoted));
        assert!(!writer.is_closed());
        writer.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    }
    assert_eq!(count(&proxy.servers, "pg2", "n > 0").await, 20);
    proxy.node("pg3").repoint(proxy.node("pg2")).await.unwrap();
    proxy.wait_for_replicas(1).await;
}

#[tokio::test]
async fn an_old_primary_that_comes_back_gets_no_write() {
    let proxy = Proxy::with("").await;
    let clients = clients(&proxy, 4).await;
    clients[0].batch_execute("CREATE TABLE t (n int)").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    let old = proxy.node("pg1");
    old.kill9(Scope::Node).await.unwrap();
    promote(&proxy.servers).await;
    // Writes go on while it comes back.
    let writing = async {
        let begun = Instant::now();
        let (mut writes, mut known) = (0, None);
        while known.is_none_or(|at: Instant| at.elapsed() < Duration::from_millis(500)) {
            for client in &clients {
                client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
                writes += 1;
            }
            let snapshot = proxy.app.shared().cluster.snapshot();
            if known.is_none() && snapshot.nodes.iter().any(|node| node.role == Role::Stray) {
                known = Some(Instant::now());
            }
            assert!(begun.elapsed() < LIMIT, "{snapshot:?}");
        }
        writes
    };
    let (writes, started) = tokio::join!(writing, old.start());
    started.unwrap();
    assert_eq!((count(&proxy.servers, "pg2", "n = 1").await, count(&proxy.servers, "pg1", "true").await), (writes, 0));

    // Nor from a pgpilot that sees both for the first time.
    let app = App::start(topology(&proxy.servers, ""), None).await.unwrap();
    let port = app.addresses()[0].port();
    let text = format!("host=127.0.0.1 port={port} user={USER} password={PASSWORD} dbname=shop");
    let (client, connection) = tokio_postgres::connect(&text, NoTls).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..50 {
        client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
        assert_ne!(ask(&client, "SELECT count(*) FROM t").await, "0");
    }
    assert_eq!((count(&proxy.servers, "pg2", "n = 2").await, count(&proxy.servers, "pg1", "true").await), (50, 0));
}

fn code(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("none", |code| code.code())
}

/// Waits until statements of so many clients are running on servers.
async fn wait_until_busy(proxy: &Proxy, count: usize) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let session = proxy.node("pg1").connect().await.unwrap();
    wait_for("the statements to run", LIMIT, async || {
        let busy: i64 = session.query_one(sql, &[]).await.unwrap().get(0);
        usize::try_from(busy).unwrap() == count
    })
    .await;
}

#[tokio::test]
async fn what_was_in_flight_is_told_truly_and_the_sessions_go_on() {
    let proxy = Proxy::with("").await;
    let mut all = clients(&proxy, 6).await.into_iter();
    let mut next = || all.next().unwrap();
    let (write, extended, in_transaction, at_rest, committing, rolling_back) =
        (next(), next(), next(), next(), next(), next());
    write.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    for client in [&in_transaction, &at_rest, &committing, &rolling_back] {
        client.batch_execute("BEGIN").await.unwrap();
        client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    }
    let slow = "INSERT INTO t SELECT 2 FROM pg_sleep(60)";
    let (wrote, executed, ran, ()) = tokio::join!(
        write.batch_execute(slow),
        extended.execute(slow, &[]),
        in_transaction.batch_execute("SELECT pg_sleep(60)"),
        async {
            wait_until_busy(&proxy, 3).await;
            proxy.node("pg1").kill9(Scope::Node).await.unwrap();
        }
    );
    assert_eq!(code(&wrote.unwrap_err()), "08007");
    assert_eq!(code(&executed.unwrap_err()), "08007");
    let lost = ran.unwrap_err();
    assert_eq!(code(&lost), "08006");
    assert!(lost.as_db_error().unwrap().message().contains("rolled back"), "{lost:?}");
    // A failed transaction is to be ended, which needs no server.
    assert_eq!(code(&in_transaction.batch_execute("SELECT 1").await.unwrap_err()), "25P02");
    in_transaction.batch_execute("ROLLBACK").await.unwrap();
    // Who did nothing at that moment is told with the next statement, once.
    assert_eq!(code(&at_rest.batch_execute("INSERT INTO t VALUES (3)").await.unwrap_err()), "08006");
    assert_eq!(code(&at_rest.batch_execute("INSERT INTO t VALUES (3)").await.unwrap_err()), "25P02");
    at_rest.batch_execute("ROLLBACK").await.unwrap();
    // A COMMIT that could not be made is an error, after which there is no transaction.
    assert_eq!(code(&committing.batch_execute("COMMIT").await.unwrap_err()), "08006");
    rolling_back.batch_execute("ROLLBACK").await.unwrap();
    promote(&proxy.servers).await;
    for client in [&write, &extended, &in_transaction, &at_rest, &committing, &rolling_back] {
        client.batch_execute("INSERT INTO t VALUES (4)").await.unwrap();
        assert!(try_ask(client, "SELECT count(*) FROM t").await.is_ok());
    }
    assert_eq!((count(&proxy.servers, "pg2", "n < 4").await, count(&proxy.servers, "pg2", "n = 4").await), (0, 6));
}

/// Sleeps on pg1 alone, and tells where it ran. The topology file says that it is a read; of its twin it does not.
const SLOW: &str = "CREATE FUNCTION slow(seconds int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS
    'BEGIN IF current_setting(''cluster_name'') = ''pg1'' THEN PERFORM pg_sleep(seconds); END IF;
    RETURN current_setting(''cluster_name''); END';
    CREATE FUNCTION restless(seconds int) RETURNS text VOLATILE LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_sleep(seconds); RETURN current_setting(''cluster_name''); END'";

/// A proxy whose servers have those, and that knows of it.
async fn proxy_with_slow_reads() -> (Proxy, Client) {
    let proxy = Proxy::with("[routing]\nreplica_functions = [\"slow\"]\n").await;
    let client = proxy.connect().await;
    client.batch_execute(SLOW).await.unwrap();
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    wait_for("what the function is to be known", LIMIT, async || ask(&client, "SELECT slow(0)").await != "pg1").await;
    proxy.wait_for_read("SELECT count(*) FROM t").await;
    (proxy, client)
}

fn reruns(proxy: &Proxy) -> u64 {
    proxy.app.telemetry().metrics().total(Count::Retry(RetryCause::ConnectionLost))
}

#[tokio::test]
async fn a_read_that_was_in_flight_on_the_lost_primary_runs_on_the_new_one() {
    let (proxy, simple) = proxy_with_slow_reads().await;
    let mut all = clients(&proxy, 5).await.into_iter();
    let mut next = || all.next().unwrap();
    let (unnamed, named, pipelined, writer, volatile) = (next(), next(), next(), next(), next());
    let hinted = "/* pgpilot: primary */ SELECT slow($1)";
    let (first, second) = (named.prepare(hinted).await.unwrap(), pipelined.prepare(hinted).await.unwrap());
    // What its session wrote is on no replica yet, so it needs no hint.
    for replica in ["pg2", "pg3"] {
        proxy.node(replica).sql("SELECT pg_wal_replay_pause()").await.unwrap();
    }
    writer.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let own = "SELECT slow(60) || count(*) FROM t WHERE n = 1";
    let written = proxy.node("pg1").value("SELECT pg_current_wal_flush_lsn()").await.unwrap().unwrap();
    let received = format!("SELECT pg_last_wal_receive_lsn() >= '{written}'");
    wait_for("pg2 to have received it", LIMIT, async || {
        proxy.node("pg2").value(&received).await.unwrap().as_deref() == Some("t")
    })
    .await;
    let promoting = async {
        wait_until_busy(&proxy, 6).await;
        proxy.node("pg1").kill9(Scope::Node).await.unwrap();
        wait_for("the reads to wait", LIMIT, async || reruns(&proxy) >= 5).await;
        proxy.node("pg2").promote().await.unwrap();
    };
    let typed = [(&60 as &(dyn ToSql + Sync), Type::INT4)];
    let (a, b, c, d, e, (), told) = tokio::join!(
        ask(&simple, "/* pgpilot: primary */ SELECT slow(60)"),
        unnamed.query_typed(hinted, &typed),
        named.query_one(&first, &[&60]),
        async { tokio::join!(pipelined.query_one(&second, &[&60]), pipelined.query_one(&second, &[&60])) },
        ask(&writer, own),
        promoting,
        volatile.batch_execute("SELECT restless(60)"),
    );
    let name = |row: &Row| row.get::<_, String>(0);
    assert_eq!((a, name(&b.unwrap()[0]), name(&c.unwrap())), ("pg2".into(), "pg2".into(), "pg2".into()));
    assert_eq!((name(&d.0.unwrap()), name(&d.1.unwrap())), ("pg2".into(), "pg2".into()));
    assert_eq!(e, "pg21", "it sees what its session wrote");
    assert_eq!((code(&told.unwrap_err()), reruns(&proxy)), ("08007", 5));
    for client in [&simple, &unnamed, &named, &pipelined, &writer, &volatile] {
        client.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
    }
    assert_eq!(name(&named.query_one(&first, &[&60]).await.unwrap()), "pg2");
}

#[tokio::test]
async fn a_read_that_is_not_to_be_repeated_is_told() {
    let (proxy, client) = proxy_with_slow_reads().await;
    let session = proxy.node("pg1").connect().await.unwrap();
    let end_sleepers = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let end = async |times: u64| {
        for n in 0..times {
            wait_until_busy(&proxy, 1).await;
            session.batch_execute(end_sleepers).await.unwrap();
            wait_for("it to be over", LIMIT, async || reruns(&proxy) > n || n + 1 == times).await;
        }
    };
    let slow = "/* pgpilot: primary */ SELECT slow(60)";
    let read = client.prepare("/* pgpilot: primary */ SELECT slow($1)").await.unwrap();
    let write = client.prepare("INSERT INTO t VALUES ($1)").await.unwrap();
    let (told, ()) = tokio::join!(client.batch_execute(slow), end(3));
    let told = told.unwrap_err();
    assert_eq!((code(&told), reruns(&proxy)), ("08006", 2));
    assert!(told.as_db_error().unwrap().hint().is_some_and(|hint| hint.contains("repeated")), "{told:?}");

    // What stands before a write in a pipeline is not repeated without it. (A server that knows both is sent the second
    // without waiting for the first.)
    client.query_one(&read, &[&0]).await.unwrap();
    client.execute(&write, &[&0]).await.unwrap();
    let (before, behind, ()) = tokio::join!(client.query_one(&read, &[&60]), client.execute(&write, &[&1]), end(1));
    assert_eq!((code(&before.unwrap_err()), code(&behind.unwrap_err())), ("08007", "08007"));
    assert_eq!((reruns(&proxy), count(&proxy.servers, "pg1", "n = 1").await), (2, 0));

    // The server stands still, so that the request meets nobody before it is lost.
    let token = client.cancel_token();
    let (cancelled, ()) = tokio::join!(client.batch_execute(slow), async {
        wait_until_busy(&proxy, 1).await;
        proxy.node("pg1").freeze(Scope::Node).await.unwrap();
        token.cancel_query(NoTls).await.unwrap();
        proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    });
    assert_eq!(code(&cancelled.unwrap_err()), "57014");
}

#[tokio::test]
async fn without_a_primary_there_is_a_clear_error_in_time_and_then_it_works_again() {
    let proxy = Proxy::with("[routing]\nprimary_wait = \"1s\"\n").await;
    let client = proxy.connect().await;
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    wait_for("pgpilot to notice", LIMIT, async || proxy.app.shared().cluster.snapshot().usable_primary().is_none())
        .await;
    // It does not fit into pgpilot's buffer.
    let large = format!("INSERT INTO t VALUES (1) -- {}", "x".repeat(300 << 10));
    for sql in ["INSERT INTO t VALUES (1)", &large, "BEGIN; INSERT INTO t VALUES (1); COMMIT"] {
        let begun = Instant::now();
        let error = client.batch_execute(sql).await.unwrap_err();
        let waited = begun.elapsed();
        assert_eq!(code(&error), "57P03", "{error:?}");
        assert!(error.as_db_error().unwrap().message().contains("no primary"), "{error:?}");
        assert!(waited >= Duration::from_secs(1) && waited < BY_DEFAULT, "{waited:?}");
    }
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(code(&client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap_err()), "57P03");
    for sql in ["SELECT 1", &large] {
        assert_eq!(code(&client.batch_execute(sql).await.unwrap_err()), "25P02");
    }
    // To prepare the end is not to end it.
    let end = client.prepare("ROLLBACK").await.unwrap();
    assert_eq!(code(&client.batch_execute("SELECT 1").await.unwrap_err()), "25P02");
    client.execute(&end, &[]).await.unwrap();
    proxy.node("pg1").start().await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(ask(&client, "SELECT sum(n) FROM t").await, "2");
}
