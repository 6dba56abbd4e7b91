//! A client that waits for its turn is heard: it can cancel its statement, and leave; and a pgpilot that stops does not wait for it.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use pgpilot::wire::backend::READY_FOR_QUERY;
use pgpilot::wire::frontend::{put_query, put_terminate};
use pgpilot::wire::startup::put_cancel;

use crate::support::proxy::{Proxy, servers, topology};
use crate::support::raw::{Frame, Raw, tags};
use crate::support::relay::Relay;
use crate::support::{LIMIT, wait_for};

/// One connection for all, and patience that outlasts every test.
const ONE: &str = "[pool]\nmax_server_connections = 1\ncheckout_timeout = \"10min\"\n";
const INSERT: &str = "INSERT INTO t VALUES (1)";

pub(super) fn query(text: &str) -> BytesMut {
    let mut message = BytesMut::new();
    put_query(&mut message, text.as_bytes());
    message
}

pub(super) fn code(frames: &[Frame]) -> Option<&str> {
    frames.iter().find_map(|frame| frame.field(b'C').filter(|_| frame.tag == b'E'))
}

async fn cancel(port: u16, client: &Raw) {
    let mut packet = BytesMut::new();
    put_cancel(&mut packet, client.pid, &client.key);
    let mut connection = Raw::open(port).await;
    connection.send(&packet).await;
    assert!(connection.rest_of_bytes().await.is_empty());
}

/// Cancels until the client says that something is ready: a request that comes before the wait means nothing.
pub(super) async fn cancelled(port: u16, client: &mut Raw) -> Vec<Frame> {
    let deadline = Instant::now() + LIMIT;
    loop {
        assert!(Instant::now() < deadline, "a client that waits cannot be cancelled");
        cancel(port, client).await;
        if let Ok(first) = tokio::time::timeout(Duration::from_millis(200), client.frame()).await {
            let mut frames = Vec::from_iter(first);
            frames.extend(client.until(READY_FOR_QUERY).await);
            return frames;
        }
    }
}

async fn queued(proxy: &Proxy, count: usize) {
    let pools = proxy.app.shared().pools.all();
    wait_for("so many to wait", LIMIT, async || {
        let counts = pools.iter().flat_map(|(_, pool)| pool.counts());
        counts.map(|(_, counts)| counts.waiting).sum::<usize>() == count
    })
    .await;
}

/// A proxy whose only connection to the primary is taken.
async fn occupied() -> (Proxy, Raw) {
    let proxy = Proxy::with(ONE).await;
    let mut holder = Raw::connect(proxy.port(), "shop").await;
    holder.query("CREATE TABLE t (n int)").await;
    proxy.wait_for_read("SELECT n FROM t").await;
    holder.query("BEGIN; INSERT INTO t VALUES (0)").await;
    (proxy, holder)
}

#[tokio::test]
async fn one_in_the_queue_can_cancel_and_go_on() {
    let (proxy, mut holder) = occupied().await;
    let mut waiting = Raw::connect(proxy.port(), "shop").await;
    waiting.send(&query(INSERT)).await;
    queued(&proxy, 1).await;
    let frames = cancelled(proxy.port(), &mut waiting).await;
    assert_eq!((code(&frames), &*tags(&frames)), (Some("57014"), "EZ"));
    queued(&proxy, 0).await;
    // A transaction that has been begun, and not sent yet, fails as it would on a server.
    waiting.query("BEGIN").await;
    waiting.send(&query(INSERT)).await;
    queued(&proxy, 1).await;
    let frames = cancelled(proxy.port(), &mut waiting).await;
    assert_eq!((code(&frames), &frames.last().unwrap().body[..]), (Some("57014"), &b"E"[..]));
    assert_eq!(tags(&waiting.query("ROLLBACK").await), "CZ");
    holder.query("COMMIT").await;
    waiting.query(INSERT).await;
    assert_eq!(waiting.ask("SELECT count(*) FROM t").await, "2");
}

#[tokio::test]
async fn one_that_leaves_the_queue_makes_room_at_once() {
    let (proxy, mut holder) = occupied().await;
    let mut gone = Raw::connect(proxy.port(), "shop").await;
    let mut next = Raw::connect(proxy.port(), "shop").await;
    gone.send(&query(INSERT)).await;
    queued(&proxy, 1).await;
    drop(gone);
    queued(&proxy, 0).await;
    next.send(&query(INSERT)).await;
    queued(&proxy, 1).await;
    holder.query("COMMIT").await;
    assert_eq!(tags(&next.until(READY_FOR_QUERY).await), "CZ");
    assert_eq!(next.ask("SELECT count(*) FROM t").await, "2");
}

#[tokio::test]
async fn one_that_says_goodbye_behind_its_statement_is_served() {
    let (proxy, mut holder) = occupied().await;
    for (number, many) in (1..).zip([1, 3]) {
        let mut client = Raw::connect(proxy.port(), "shop").await;
        let mut bytes = query(INSERT).repeat(many);
        let mut goodbye = BytesMut::new();
        put_terminate(&mut goodbye);
        bytes.extend_from_slice(&goodbye);
        // The first one has to wait, the second one does not.
        client.send(&bytes).await;
        drop(client);
        if number == 1 {
            queued(&proxy, 1).await;
            holder.query("COMMIT").await;
        }
        wait_for("what it asked for to be done", LIMIT, async || {
            holder.ask("/* pgpilot: primary */ SELECT count(*) FROM t").await == if number == 1 { "2" } else { "5" }
        })
        .await;
    }
}

#[tokio::test]
async fn a_pause_can_be_waited_for_cancelled_and_left() {
    let proxy = Proxy::start().await;
    let mut client = Raw::connect(proxy.port(), "shop").await;
    assert_eq!(client.ask("SELECT 1").await, "1");
    proxy.app.shared().gate.set(pgpilot::proxy::Passage::Closed);
    client.send(&query("SELECT 2")).await;
    let frames = cancelled(proxy.port(), &mut client).await;
    assert_eq!((code(&frames), &*tags(&frames)), (Some("57014"), "EZ"));
    client.send(&query("SELECT 3")).await;
    drop(client);
    wait_for("the client to be gone", LIMIT, async || proxy.app.shared().registry.is_empty()).await;
    let mut patient = Raw::connect(proxy.port(), "shop").await;
    patient.send(&query("SELECT 4")).await;
    proxy.app.shared().gate.set(pgpilot::proxy::Passage::Open);
    assert_eq!(tags(&patient.until(READY_FOR_QUERY).await), "TDCZ");
}

/// A proxy that reaches its only server by a relay.
async fn far() -> (Proxy, Relay) {
    let servers = servers().await;
    let mut config = topology(&servers, "[pool]\nmax_server_connections = 1\n");
    let relay = Relay::start(config.nodes[0].port).await;
    config.nodes.truncate(1);
    config.nodes[0].port = relay.port();
    (Proxy::configured(servers.into(), config).await, relay)
}

#[tokio::test]
async fn one_that_waits_for_a_position_can_cancel() {
    let (proxy, relay) = far().await;
    let mut client = Raw::connect(proxy.port(), "shop").await;
    client.query("CREATE TABLE t (n int)").await;
    relay.delay(Duration::from_millis(200));
    // A request may also come after the answer.
    for attempt in 0.. {
        assert!(attempt < 20, "a client that waits for a position cannot be cancelled");
        client.query(INSERT).await;
        client.send(&query("SHOW pgpilot.lsn")).await;
        cancel(proxy.port(), &client).await;
        if code(&client.until(READY_FOR_QUERY).await) == Some("57014") {
            break;
        }
    }
    relay.delay(Duration::ZERO);
    assert_ne!(client.ask("SHOW pgpilot.lsn").await, "");
}

#[tokio::test]
async fn one_that_waits_for_a_primary_can_cancel_and_leave() {
    let proxy = Proxy::with("[routing]\nprimary_wait = \"10min\"\n").await;
    let mut client = Raw::connect(proxy.port(), "shop").await;
    let mut leaving = Raw::connect(proxy.port(), "shop").await;
    client.query("CREATE TABLE t (n int)").await;
    proxy.node("pg1").stop(pgpilot::demo::Stop::Immediate).await.unwrap();
    wait_for("the primary to be missed", LIMIT, async || {
        proxy.app.shared().cluster.snapshot().usable_primary().is_none()
    })
    .await;
    client.send(&query(INSERT)).await;
    let frames = cancelled(proxy.port(), &mut client).await;
    assert_eq!(code(&frames), Some("57014"));
    let before = proxy.app.shared().registry.len();
    leaving.send_taken(&query(INSERT)).await;
    drop(leaving);
    wait_for("the client to be gone", LIMIT, async || proxy.app.shared().registry.len() < before).await;
}

#[tokio::test]
async fn a_stop_is_not_held_up_by_those_who_wait() {
    let (proxy, mut holder) = occupied().await;
    let mut waiting = Raw::connect(proxy.port(), "shop").await;
    waiting.send(&query(INSERT)).await;
    queued(&proxy, 1).await;
    let stopping = proxy.app.shutdown();
    let finishing = async {
        // The one that waits is told first: the other one has not finished yet.
        let frame = waiting.frame().await.expect("a word");
        assert_eq!(frame.field(b'C'), Some("57P01"));
        assert_eq!(tags(&holder.query("COMMIT").await), "CZ");
    };
    tokio::join!(stopping, finishing);
    let primary = proxy.node("pg1").connect_to("shop").await.unwrap();
    assert_eq!(primary.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test]
async fn a_stop_is_not_held_up_by_those_who_keep_a_connection_and_rest() {
    let servers = std::sync::Arc::new(servers().await);
    let mut config = topology(&servers, "");
    config.drain_timeout = Duration::from_secs(600);
    let proxy = Proxy::configured(servers, config).await;
    let mut listening = Raw::connect(proxy.port(), "shop").await;
    assert_eq!(tags(&listening.query("LISTEN news").await), "CZ");
    assert_eq!(listening.ask("SHOW pgpilot.pins").await, "listen");
    let stopping = tokio::time::timeout(LIMIT, proxy.app.shutdown());
    let told = async {
        let frame = listening.frame().await.expect("a word");
        assert_eq!(frame.field(b'C'), Some("57P01"));
        assert!(listening.frame().await.is_none());
    };
    let (stopped, ()) = tokio::join!(stopping, told);
    stopped.expect("nobody is waited for");
}
