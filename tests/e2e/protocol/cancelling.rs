//! Cancel requests reach what they mean, and nothing else.

use bytes::BytesMut;
use pgpilot::wire::backend::READY_FOR_QUERY;
use pgpilot::wire::frontend::put_query;
use pgpilot::wire::startup::{PROTOCOL_3_0, PROTOCOL_3_2, put_cancel};

use super::active;
use crate::support::proxy::{Proxy, USER};
use crate::support::raw::{Frame, Raw, tags};
use crate::support::{LIMIT, wait_for};

const SHOP: [(&str, &str); 2] = [("user", USER), ("database", "shop")];
const LONG: &str = "SELECT pg_sleep(600) /* long */";

/// Sends the request and waits until it has been dealt with: then the connection is closed.
async fn cancel(port: u16, pid: u32, key: &[u8]) {
    let mut packet = BytesMut::new();
    put_cancel(&mut packet, pid, key);
    let mut connection = Raw::open(port).await;
    connection.send(&packet).await;
    assert!(connection.rest_of_bytes().await.is_empty(), "a cancel request has no answer");
}

async fn start(client: &mut Raw, proxy: &Proxy, text: &str) {
    let mut message = BytesMut::new();
    put_query(&mut message, text.as_bytes());
    client.send(&message).await;
    wait_for("the statement to run", LIMIT, async || active(&proxy.servers, text).await == 1).await;
}

fn code(frames: &[Frame]) -> Option<&str> {
    frames.iter().find_map(|frame| frame.field(b'C').filter(|_| frame.tag == b'E'))
}

#[tokio::test]
async fn a_request_cancels_the_statement_that_it_means() {
    let proxy = Proxy::start().await;
    for version in [PROTOCOL_3_0, PROTOCOL_3_2] {
        let mut client = Raw::connect_with(proxy.port(), version, &SHOP).await.unwrap();
        let mut other = Raw::connect(proxy.port(), "shop").await;
        // Twice: the second time the session may have another server connection.
        for _ in 0..2 {
            start(&mut client, &proxy, LONG).await;
            let elsewhere = "SELECT pg_sleep(600) /* elsewhere */";
            start(&mut other, &proxy, elsewhere).await;
            cancel(proxy.port(), client.pid, &client.key).await;
            assert_eq!(code(&client.until(READY_FOR_QUERY).await), Some("57014"));
            assert_eq!(client.ask("SELECT 1").await, "1");
            assert_eq!(active(&proxy.servers, elsewhere).await, 1);
            cancel(proxy.port(), other.pid, &other.key).await;
            assert_eq!(code(&other.until(READY_FOR_QUERY).await), Some("57014"));
        }
        client.query("BEGIN").await;
        start(&mut client, &proxy, LONG).await;
        cancel(proxy.port(), client.pid, &client.key).await;
        let frames = client.until(READY_FOR_QUERY).await;
        assert_eq!((code(&frames), &frames.last().unwrap().body[..]), (Some("57014"), &b"E"[..]));
        assert_eq!(tags(&client.query("ROLLBACK").await), "CZ");
    }
}

#[tokio::test]
async fn a_request_with_a_wrong_key_is_ignored() {
    let proxy = Proxy::start().await;
    let mut client = Raw::connect_with(proxy.port(), PROTOCOL_3_2, &SHOP).await.unwrap();
    let mut old = Raw::connect(proxy.port(), "shop").await;
    start(&mut client, &proxy, LONG).await;
    let mut wrong = client.key.clone();
    *wrong.last_mut().unwrap() ^= 1;
    // Nor do the first four bytes do, or those of somebody else, or a key of zeros.
    for key in [&wrong[..], &client.key[..4], &client.key[..31], &old.key, &[0; 4], &[0; 32], &[0; 256]] {
        cancel(proxy.port(), client.pid, key).await;
    }
    for pid in [0, old.pid, client.pid + 1000, u32::MAX] {
        cancel(proxy.port(), pid, &client.key).await;
    }
    assert_eq!(active(&proxy.servers, LONG).await, 1);
    assert_eq!(old.ask("SELECT 1").await, "1");
    cancel(proxy.port(), client.pid, &client.key).await;
    assert_eq!(code(&client.until(READY_FOR_QUERY).await), Some("57014"));
}

#[tokio::test]
async fn a_request_for_a_session_that_does_nothing_harms_nobody() {
    // One connection per node: what the idle session used last is what the other one uses now.
    let proxy = Proxy::with("[pool]\nmax_server_connections = 1\n").await;
    let mut idle = Raw::connect(proxy.port(), "shop").await;
    idle.query("CREATE TABLE t (n int)").await;
    let mut other = Raw::connect(proxy.port(), "shop").await;
    let lock = proxy.servers.nodes()[0].connect_to("shop").await.unwrap();
    lock.batch_execute("BEGIN; LOCK TABLE t").await.unwrap();
    let insert = "INSERT INTO t VALUES (1)";
    start(&mut other, &proxy, insert).await;
    for _ in 0..5 {
        cancel(proxy.port(), idle.pid, &idle.key).await;
    }
    lock.batch_execute("COMMIT").await.unwrap();
    assert_eq!(tags(&other.until(READY_FOR_QUERY).await), "CZ");
    // In a transaction of its own, between two statements.
    idle.query("BEGIN; INSERT INTO t VALUES (2)").await;
    cancel(proxy.port(), idle.pid, &idle.key).await;
    assert_eq!(tags(&idle.query("COMMIT").await), "CZ");
    assert_eq!(idle.ask("SELECT count(*) FROM t").await, "2");
}

#[tokio::test]
async fn late_requests_never_hit_another_session() {
    let proxy = Proxy::with("[pool]\nmax_server_connections = 1\n").await;
    let port = proxy.port();
    let mut target = Raw::connect(port, "shop").await;
    let mut other = Raw::connect(port, "shop").await;
    let (pid, key) = (target.pid, target.key.clone());
    let requests = async {
        for _ in 0..300 {
            cancel(port, pid, &key).await;
        }
    };
    let (done, finished) = tokio::sync::oneshot::channel::<()>();
    let hit = tokio::spawn(async move {
        let mut finished = finished;
        while finished.try_recv().is_err() {
            let frames = target.query("SELECT count(*) FROM generate_series(1, 100)").await;
            assert!(matches!(code(&frames), None | Some("57014")), "{frames:?}");
        }
    });
    let (again, stop) = tokio::sync::oneshot::channel::<()>();
    let spared = tokio::spawn(async move {
        let mut stop = stop;
        let mut count = 0;
        while stop.try_recv().is_err() {
            let frames = other.query("SELECT count(*) FROM generate_series(1, 100)").await;
            assert_eq!(code(&frames), None, "{frames:?}");
            count += 1;
        }
        count
    });
    requests.await;
    done.send(()).unwrap();
    again.send(()).unwrap();
    hit.await.unwrap();
    assert!(spared.await.unwrap() > 10);
}
