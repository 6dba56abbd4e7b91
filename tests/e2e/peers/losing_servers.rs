//! Servers that restart, and replicas that die: who has nothing at stake notices nothing, and who has is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use pgpilot::demo::{Scope, Stop};
use pgpilot::proxy::Passage;
use pgpilot::telemetry::{Count, RetryCause};
use pgpilot::wire::backend::{COPY_IN_RESPONSE, ERROR_RESPONSE, READY_FOR_QUERY};
use pgpilot::wire::frontend::{Parse, put_query, put_sync};

use crate::support::proxy::{Proxy, ask};
use crate::support::raw::Raw;
use crate::support::{LIMIT, wait_for};

#[tokio::test]
async fn nobody_notices_a_restart_while_connections_are_idle() {
    let proxy = Proxy::with("").await;
    let clients = [proxy.connect().await, proxy.connect().await, proxy.connect().await];
    clients[0].batch_execute("CREATE TABLE t (n int)").await.unwrap();
    let mut statements = Vec::new();
    for client in &clients {
        client.batch_execute("SET work_mem = '7MB'").await.unwrap();
        let write = client.prepare("INSERT INTO t VALUES ($1)").await.unwrap();
        let read = client.prepare("SELECT count(*) FROM t WHERE n >= $1").await.unwrap();
        client.execute(&write, &[&1]).await.unwrap();
        client.query_one(&read, &[&0]).await.unwrap();
        statements.push((write, read));
    }
    for how in [Stop::Fast, Stop::Immediate] {
        for name in ["pg1", "pg2", "pg3"] {
            proxy.node(name).restart(how).await.unwrap();
        }
        for (client, (write, read)) in clients.iter().zip(&statements) {
            client.execute(write, &[&2]).await.unwrap();
            assert!(client.query_one(read, &[&1]).await.unwrap().get::<_, i64>(0) > 0);
            assert_eq!(ask(client, "SHOW work_mem").await, "7MB");
        }
    }
    assert_eq!(ask(&clients[0], "SELECT count(*) FROM t").await, "9");
    proxy.wait_for_replicas(2).await;
}

#[tokio::test]
async fn a_replica_that_dies_in_the_middle_of_reads_is_no_error() {
    let proxy = Proxy::with("[routing]\nreplica_functions = [\"slow\"]\n").await;
    let setup = proxy.connect().await;
    // It takes its time.
    let slow = "CREATE FUNCTION slow(seconds int) RETURNS text IMMUTABLE LANGUAGE plpgsql
        AS 'BEGIN PERFORM pg_sleep(seconds); RETURN current_setting(''cluster_name''); END'";
    setup.batch_execute(slow).await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    wait_for("what the function is to be known", LIMIT, async || ask(&setup, "SELECT slow(0)").await != "pg1").await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for n in 0..8 {
        let (client, stop) = (proxy.connect().await, stop.clone());
        readers.push(tokio::spawn(async move {
            let prepared = client.prepare("SELECT $1::int + count(*) FROM generate_series(1, 2000)").await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                if n % 2 == 0 {
                    assert_eq!(ask(&client, "SELECT count(*) FROM generate_series(1, 2000)").await, "2000");
                } else {
                    let row = client.query_one(&prepared, &[&1]).await.unwrap();
                    assert_eq!(row.get::<_, i64>(0), 2001);
                }
            }
        }));
    }
    let client = proxy.connect().await;
    let sleeping = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let (found, killed) = tokio::join!(ask(&client, "/* pgpilot: replica */ SELECT slow(3)"), async {
        let sessions = [proxy.node("pg2").connect().await.unwrap(), proxy.node("pg3").connect().await.unwrap()];
        let mut place = None;
        wait_for("the slow read to run", LIMIT, async || {
            for (session, name) in sessions.iter().zip(["pg2", "pg3"]) {
                if session.query_one(sleeping, &[]).await.unwrap().get::<_, bool>(0) {
                    place = Some(name);
                }
            }
            place.is_some()
        })
        .await;
        let name = place.unwrap();
        proxy.node(name).kill9(Scope::Node).await.unwrap();
        name
    });
    assert_ne!(found, killed);
    assert!(proxy.app.telemetry().metrics().total(Count::Retry(RetryCause::ConnectionLost)) >= 1);
    proxy.node(killed).start().await.unwrap();
    proxy.wait_for_replicas(2).await;
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn state_that_was_lost_with_its_server_is_reported_once() {
    let proxy = Proxy::with("").await;
    let (temporary, locking, plain) = (proxy.connect().await, proxy.connect().await, proxy.connect().await);
    // A permanent table of the same name would answer in the place of the one that is lost.
    plain.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    temporary.batch_execute("CREATE TEMP TABLE t AS SELECT 1 AS n").await.unwrap();
    ask(&locking, "SELECT pg_advisory_lock(7)").await;
    for (client, pin) in [(&temporary, "temporary_object"), (&locking, "advisory_lock")] {
        assert_eq!(ask(client, "SHOW pgpilot.pins").await, pin);
    }
    proxy.node("pg1").restart(Stop::Immediate).await.unwrap();
    for (client, what) in [(&temporary, "temporary_object"), (&locking, "advisory_lock")] {
        let error = client.query("SELECT count(*) FROM t", &[]).await.unwrap_err();
        let error = error.as_db_error().unwrap_or_else(|| panic!("{what}: {error:?}"));
        assert_eq!(error.code().code(), "08006", "{what}");
        assert!(error.detail().is_some_and(|detail| detail.contains(what)), "{what}: {error:?}");
        assert_eq!(ask(client, "SHOW pgpilot.pins").await, "");
        assert_eq!(ask(client, "SELECT count(*) FROM t").await, "0");
    }
    assert_eq!(ask(&plain, "SELECT count(*) FROM t").await, "0");
    // While a statement runs, its own error tells.
    ask(&locking, "SELECT pg_advisory_lock(8)").await;
    let (outcome, ()) = tokio::join!(locking.simple_query("SELECT pg_sleep(60)"), async {
        let session = proxy.node("pg1").connect().await.unwrap();
        let busy = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        wait_for("the statement to run", Duration::from_secs(10), async || {
            session.query_one(busy, &[]).await.unwrap().get::<_, bool>(0)
        })
        .await;
        proxy.node("pg1").restart(Stop::Immediate).await.unwrap();
    });
    let error = outcome.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert!(error.code().code().starts_with("08"), "{error:?}");
    assert!(error.detail().is_some_and(|detail| detail.contains("advisory_lock")), "{error:?}");
    assert_eq!(ask(&locking, "SELECT count(*) FROM t").await, "0");
    // Who listens, and has lost more than that, would never hear of it otherwise.
    plain.batch_execute("LISTEN news; CREATE TEMP TABLE t (n int)").await.unwrap();
    assert_eq!(ask(&plain, "SHOW pgpilot.pins").await, "temporary_object, listen");
    proxy.node("pg1").restart(Stop::Immediate).await.unwrap();
    wait_for("the listener to be disconnected", Duration::from_secs(2), async || plain.is_closed()).await;
}

#[tokio::test]
async fn what_waits_in_a_pause_while_its_server_restarts_is_not_in_doubt() {
    let proxy = Proxy::with("").await;
    let look = proxy.connect().await;
    look.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    let mut clients = Vec::new();
    for first in ["LISTEN news", "CREATE TEMP TABLE mine (n int)", "BEGIN; LISTEN news; COMMIT"] {
        let mut client = Raw::connect(proxy.port(), "shop").await;
        client.query(first).await;
        clients.push(client);
    }
    let gate = &proxy.app.shared().gate;
    gate.set(Passage::Closed);
    let mut insert = BytesMut::new();
    put_query(&mut insert, b"INSERT INTO t VALUES (1)");
    for client in &mut clients {
        client.send_taken(&insert).await;
    }
    proxy.node("pg1").restart(Stop::Fast).await.unwrap();
    gate.set(Passage::Open);
    for (client, expected) in clients.iter_mut().zip([None, Some("08006"), None]) {
        let told = client.until(READY_FOR_QUERY).await;
        let error = told.iter().find(|frame| frame.tag == ERROR_RESPONSE);
        assert_eq!(error.and_then(|error| error.field(b'C')), expected, "{told:?}");
    }
    assert_eq!(ask(&look, "/* pgpilot: primary */ SELECT count(*) FROM t").await, "2");
    assert_eq!(clients[1].ask("SHOW pgpilot.pins").await, "");
}

#[tokio::test]
async fn a_copy_without_its_end_is_not_in_doubt() {
    let proxy = Proxy::with("").await;
    let look = proxy.connect().await;
    look.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    let copy = "COPY t FROM STDIN";
    let mut query = BytesMut::new();
    put_query(&mut query, copy.as_bytes());
    let mut extended = BytesMut::new();
    Parse { name: b"", query: copy.as_bytes(), types: &[0, 0] }.put(&mut extended);
    extended.extend_from_slice(b"B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0");
    put_sync(&mut extended);
    let mut clients = Vec::new();
    for begin in [query, extended] {
        let mut client = Raw::connect(proxy.port(), "shop").await;
        client.send(&begin).await;
        assert_eq!(client.until(COPY_IN_RESPONSE).await.last().map(|frame| frame.tag), Some(COPY_IN_RESPONSE));
        client.send_taken(b"d\0\0\0\x061\n").await;
        clients.push(client);
    }
    proxy.node("pg1").restart(Stop::Immediate).await.unwrap();
    for client in &mut clients {
        let told = client.until(ERROR_RESPONSE).await;
        assert_eq!(told.last().and_then(|error| error.field(b'C')), Some("08006"), "{told:?}");
    }
    // What comes too late is dropped, and the session goes on; the extended one waits for its Sync.
    clients[0].send(b"c\0\0\0\x04").await;
    clients[1].send(b"c\0\0\0\x04S\0\0\0\x04").await;
    for client in &mut clients {
        client.until(READY_FOR_QUERY).await;
        assert_eq!(client.ask("/* pgpilot: primary */ SELECT count(*) FROM t").await, "0");
    }
}
