//! Clients that go without a word, or do not listen.

use bytes::BytesMut;
use pgpilot::decide::pool::PoolCounts;
use pgpilot::pool::PoolKey;
use pgpilot::wire::frontend::{COPY_DATA, put_query};
use pgpilot::wire::startup::{PROTOCOL_3_0, PROTOCOL_3_2, put_startup};
use pgpilot::wire::{Header, backend, frame};

use super::active;
use super::script::{Step, segments};
use crate::support::process::Process;
use crate::support::proxy::{Proxy, USER, servers};
use crate::support::raw::Raw;
use crate::support::{LIMIT, wait_for};

fn query(text: &str) -> BytesMut {
    let mut message = BytesMut::new();
    put_query(&mut message, text.as_bytes());
    message
}

#[tokio::test]
async fn what_a_vanished_client_runs_is_cancelled() {
    let proxy = Proxy::with("[pool]\nmax_server_connections = 1\n").await;
    let mut next = Raw::connect(proxy.port(), "shop").await;
    next.query("CREATE TABLE t (n int)").await;
    let long = "INSERT INTO t SELECT 1 FROM pg_sleep(600)";
    for before in ["", "BEGIN; INSERT INTO t VALUES (1)", "BEGIN; LOCK TABLE t; SET work_mem = '1MB'"] {
        let mut client = Raw::connect(proxy.port(), "shop").await;
        client.query(before).await;
        client.send(&query(long)).await;
        wait_for("the statement to run", LIMIT, async || active(&proxy.servers, long).await == 1).await;
        drop(client);
        wait_for("the statement to end", LIMIT, async || active(&proxy.servers, long).await == 0).await;
        assert_eq!(next.ask("SELECT count(*) FROM t").await, "0");
        assert_eq!(next.ask("SHOW work_mem").await, "4MB");
    }
}

#[tokio::test]
async fn what_a_vanished_client_has_left_is_gone() {
    let proxy = Proxy::with("[pool]\nmax_server_connections = 1\n").await;
    let mut next = Raw::connect(proxy.port(), "shop").await;
    next.query("CREATE TABLE t (n int)").await;
    let states: [&[u8]; 12] = [
        &query("BEGIN; INSERT INTO t VALUES (1)"),
        &query("BEGIN; INSERT INTO t VALUES (1); SELECT 1/0"),
        &query("CREATE TEMP TABLE left_over (n int)"),
        &query("SELECT pg_advisory_lock(7)"),
        &query("LISTEN news"),
        &query("SET work_mem = '1MB'"),
        &query("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT"),
        &query("SELECT 1; PREPARE left_over AS SELECT 1"),
        // An extended batch without its Sync, and half a message.
        b"P\0\0\0\x20\0INSERT INTO t VALUES (1)\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0H\0\0\0\x04",
        b"Q\0\0\x01\0INSERT INTO t",
        &query("COPY t FROM STDIN"),
        &query("SELECT repeat('x', 1000) FROM generate_series(1, 100000)"),
    ];
    for state in states {
        let mut client = Raw::connect(proxy.port(), "shop").await;
        client.send_taken(state).await;
        if state.starts_with(b"Q\0\0\0") {
            client.frame().await;
        }
        drop(client);
        assert_eq!(next.ask("SELECT count(*) FROM t").await, "0", "{}", state.escape_ascii());
        assert_eq!(next.ask("SHOW work_mem").await, "4MB");
        let left = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'";
        assert_eq!(next.ask(left).await, "0", "{}", state.escape_ascii());
        let left = "SELECT (SELECT count(*) FROM pg_class WHERE relname = 'left_over') + (SELECT count(*) FROM pg_listening_channels()) \
                    + (SELECT count(*) FROM pg_cursors WHERE is_holdable) + (SELECT count(*) FROM pg_prepared_statements WHERE name = 'left_over')";
        assert_eq!(next.ask(left).await, "0", "{}", state.escape_ascii());
    }
}

/// Each segment is answered before the next is sent.
const CONVERSATION: &str = "query INSERT INTO t VALUES (0)
    ready
    query BEGIN
    ready
    parse s INSERT INTO t VALUES ($1)
    describe statement s
    flush
    await n
    bind - s 1
    execute -
    sync
    ready
    query SET LOCAL work_mem = '1MB'
    ready
    query COPY t FROM STDIN
    await G
    data 2\\n
    data 3\\n
    done
    ready
    query SELECT 1/0
    ready
    query ROLLBACK
    ready
    parse p SELECT count(*) FROM t
    bind - p
    execute -
    sync
    bind - p
    execute -
    close statement p
    sync
    await Z
    ready
    query SET work_mem = '2MB'
    ready
    query SELECT repeat('x', 1000) FROM generate_series(1, 100)
    ready";

#[tokio::test]
async fn a_client_may_vanish_at_any_step() {
    let proxy = Proxy::with("[pool]\nmax_server_connections = 1\nmax_prepared = 2\n").await;
    let mut next = Raw::connect(proxy.port(), "shop").await;
    next.query("CREATE TABLE t (n int)").await;
    let lines = CONVERSATION.lines().map(str::trim);
    let steps: Vec<Step> = lines.map(|line| line.parse().expect("a step")).collect();
    let segments = segments(&steps);
    for (last, segment) in segments.iter().enumerate() {
        let ends = frames(&segment.bytes);
        // After each message, and within each.
        let cuts = ends.iter().flat_map(|end| [end - 1, *end]).chain([0, 3]).filter(|cut| *cut <= segment.bytes.len());
        for (cut, way) in cuts.flat_map(|cut| [(cut, Way::Closed), (cut, Way::Reset)]) {
            let mut client = Raw::connect(proxy.port(), "shop").await;
            for before in &segments[..last] {
                client.send(&before.bytes).await;
                client.until(before.until.expect("a wait")).await;
            }
            client.send(&segment.bytes[..cut]).await;
            vanish(client, way);
            let place = format!("segment {last}, byte {cut}, {way:?}");
            // What comes after the first INSERT is rolled back.
            let least = if last == 0 { 0 } else { 1 };
            // On a replica, another session's write may be a moment late.
            let sql = format!("/* pgpilot: primary */ SELECT count(*) BETWEEN {least} AND 1 FROM t");
            assert_eq!(next.ask(&sql).await, "t", "{place}");
            assert_eq!(next.ask("SHOW work_mem").await, "4MB", "{place}");
            assert_eq!(next.ask("SELECT count(*) FROM pg_prepared_statements WHERE name = 's'").await, "0", "{place}");
            next.query("TRUNCATE t").await;
        }
    }
    is_whole(&proxy, 1).await;
}

/// How a client goes.
#[derive(Debug, Clone, Copy)]
enum Way {
    Closed,
    Reset,
}

fn vanish(client: Raw, way: Way) {
    match way {
        Way::Closed => drop(client),
        Way::Reset => client.reset(),
    }
}

/// Nothing is left of those who have gone: so many clients are there, none of them holds or waits for anything, and each server has as many connections
/// as pgpilot believes.
async fn is_whole(proxy: &Proxy, clients: usize) {
    let shared = proxy.app.shared();
    wait_for("all clients to be gone", LIMIT, async || shared.registry.len() == clients).await;
    let idle = |(_, counts): &(PoolKey, PoolCounts)| counts.leased + counts.connecting + counts.waiting == 0;
    wait_for("all connections to be given back", LIMIT, async || {
        shared.pools.all().iter().all(|(_, pool)| pool.leased() == 0 && pool.counts().iter().all(idle))
    })
    .await;
    wait_for("servers to have no other connections", LIMIT, async || {
        let mut known = 0;
        for (_, pool) in shared.pools.all() {
            known += pool.counts().iter().map(|(_, counts)| counts.idle).sum::<usize>();
        }
        let mut open = 0;
        for node in proxy.servers.nodes() {
            let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}'");
            open += node.value(&sql).await.unwrap().unwrap().parse::<usize>().unwrap();
        }
        known == open
    })
    .await;
}

#[tokio::test]
async fn a_client_may_vanish_at_any_point_of_its_login() {
    let proxy = Proxy::with("[pool]\nmax_server_connections = 1\n").await;
    for (version, way) in [(PROTOCOL_3_0, Way::Closed), (PROTOCOL_3_2, Way::Reset)] {
        let mut packet = BytesMut::new();
        put_startup(&mut packet, version, &[("user", USER), ("database", "shop"), ("work_mem", "1MB")]);
        for cut in (0..packet.len()).step_by(5).chain([packet.len()]) {
            let mut client = Raw::open(proxy.port()).await;
            client.send(&packet[..cut]).await;
            vanish(client, way);
        }
        // In the first and in the second message of the exchange, and behind it.
        for cut in (0..).step_by(7) {
            let mut client = Raw::open(proxy.port()).await;
            client.send(&packet).await;
            let done = client.log_in_up_to(cut).await;
            vanish(client, way);
            if done {
                break;
            }
        }
    }
    let mut next = Raw::connect(proxy.port(), "shop").await;
    assert_eq!(next.ask("SHOW work_mem").await, "4MB");
    is_whole(&proxy, 1).await;
}

/// Where each message ends.
fn frames(mut bytes: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    while let Ok(Some(header)) = Header::peek(bytes) {
        at += header.frame_len();
        bytes = &bytes[header.frame_len()..];
        ends.push(at);
    }
    ends
}

#[tokio::test]
async fn a_client_that_vanishes_in_copy_data_has_copied_nothing() {
    let proxy = Proxy::with("[pool]\nmax_server_connections = 1\n").await;
    let mut next = Raw::connect(proxy.port(), "shop").await;
    next.query("CREATE TABLE t (n int)").await;
    let mut client = Raw::connect(proxy.port(), "shop").await;
    client.send(&query("COPY t FROM STDIN")).await;
    client.until(backend::COPY_IN_RESPONSE).await;
    let mut data = BytesMut::new();
    frame::put(&mut data, COPY_DATA, |out| out.extend_from_slice(b"1\n2\n3\n"));
    client.send_taken(&data).await;
    client.send_taken(&data[..7]).await;
    drop(client);
    assert_eq!(next.ask("SELECT count(*) FROM t").await, "0");
}

#[tokio::test]
async fn clients_that_do_not_read_cost_little_and_hold_up_nobody() {
    let servers = servers().await;
    let mut process = Process::start(&servers, "").await;
    let mut other = process.connect().await;
    other.ask("SELECT 1").await;
    let flood = "SELECT repeat('x', 1000) FROM generate_series(1, 1000000)";
    let mut deaf = Vec::new();
    for _ in 0..20 {
        deaf.push(process.connect().await);
    }
    let before = process.memory();
    process.forget_peak();
    for client in &mut deaf {
        client.send(&query(flood)).await;
    }
    // The servers wait for the proxy, which waits for the clients.
    let stuck = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query = '{}' AND wait_event = 'ClientWrite'",
        flood.replace('\'', "''")
    );
    wait_for("the servers to be stuck", LIMIT, async || {
        let mut count = 0;
        for node in servers.nodes() {
            count += node.value(&stuck).await.unwrap().unwrap().parse::<usize>().unwrap();
        }
        count == 20
    })
    .await;
    // A client that sends without end, and does not read either.
    let mut sender = process.connect().await;
    let many = query("SELECT repeat('x', 1000)").repeat(1000);
    let sending = tokio::spawn(async move {
        for _ in 0..10_000 {
            sender.send(&many).await;
        }
    });
    for _ in 0..100 {
        assert_eq!(other.ask("SELECT 1").await, "1");
    }
    assert!(!sending.is_finished(), "a client can send what nobody has room for");
    sending.abort();
    let grown = process.peak().saturating_sub(before);
    assert!(grown < 16 << 20, "{} KiB for 21 clients", grown >> 10);
    drop(deaf);
    wait_for("the statements to end", LIMIT, async || active(&servers, flood).await == 0).await;
    process.assert_sound();
}
