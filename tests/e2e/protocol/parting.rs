//! A client that closes its side without a word gets what it has asked for, as from a server; one that is gone does not.

use bytes::BytesMut;
use pgpilot::wire::backend::PARAMETER_STATUS;
use pgpilot::wire::frame;
use pgpilot::wire::frontend::{COPY_DATA, put_query};

use super::active;
use crate::support::proxy::Proxy;
use crate::support::raw::{Frame, Raw, tags};
use crate::support::{LIMIT, wait_for};

fn query(text: &str) -> BytesMut {
    let mut message = BytesMut::new();
    put_query(&mut message, text.as_bytes());
    message
}

/// The replies, without what may come at any time.
fn replies(frames: &[Frame]) -> String {
    tags(frames).replace(char::from(PARAMETER_STATUS), "")
}

async fn table(proxy: &Proxy) -> Raw {
    let mut client = Raw::connect(proxy.port(), "shop").await;
    client.query("CREATE TABLE t (n int)").await;
    client
}

async fn rows(client: &mut Raw) -> String {
    client.ask("/* pgpilot: primary */ SELECT count(*) FROM t").await
}

#[tokio::test]
async fn what_was_asked_for_before_the_end_is_done_and_told() {
    let proxy = Proxy::with("[pool]\nmax_server_connections = 1\n").await;
    let mut look = table(&proxy).await;
    for (text, expected) in
        [("INSERT INTO t SELECT 1 FROM pg_sleep(1.2)", "CZ"), ("SELECT pg_sleep(1.2)", "TDCZ"), ("SELECT 1", "TDCZ")]
    {
        let mut client = Raw::connect(proxy.port(), "shop").await;
        client.send(&query(text)).await;
        client.end_of_input().await;
        assert_eq!(replies(&client.rest().await), expected, "{text}");
    }
    assert_eq!(rows(&mut look).await, "1");
    // One after the other, on both kinds of servers.
    let mut client = Raw::connect(proxy.port(), "shop").await;
    let texts = [
        "SELECT 1",
        "INSERT INTO t VALUES (2)",
        "SELEC",
        "BEGIN",
        "INSERT INTO t VALUES (3)",
        "COMMIT",
        "SHOW pgpilot.route",
    ];
    client.send(&texts.map(query).concat()).await;
    client.end_of_input().await;
    assert_eq!(replies(&client.rest().await), "TDCZCZEZCZCZCZTDCZ");
    assert_eq!(rows(&mut look).await, "3");
}

#[tokio::test]
async fn what_was_not_finished_before_the_end_is_undone() {
    let proxy = Proxy::with("[pool]\nmax_server_connections = 1\n").await;
    let mut look = table(&proxy).await;
    let mut copy = query("COPY t FROM STDIN");
    frame::put(&mut copy, COPY_DATA, |out| out.extend_from_slice(b"1\n2\n"));
    let insert = b"P\0\0\0\x20\0INSERT INTO t VALUES (1)\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0";
    let cases: [(&[u8], &str); 6] = [
        (&[query("BEGIN"), query("INSERT INTO t VALUES (1)")].concat(), "CZCZ"),
        (&copy, "G"),
        // Without a Sync, and with a Flush in its place.
        (insert, ""),
        (&[&insert[..], b"H\0\0\0\x04"].concat(), "12C"),
        (&query("INSERT INTO t VALUES (1)")[..20], ""),
        (&[&query("SELECT 1")[..], &[b'Q', 0]].concat(), "TDCZ"),
    ];
    for (bytes, expected) in cases {
        let mut client = Raw::connect(proxy.port(), "shop").await;
        client.send(bytes).await;
        client.end_of_input().await;
        let said = replies(&client.rest().await);
        // What a server had not been asked to send by then may be lost.
        assert!(expected.starts_with(&said), "{said} for {}", bytes.escape_ascii());
        assert_eq!(rows(&mut look).await, "0", "{}", bytes.escape_ascii());
    }
}

#[tokio::test]
async fn one_in_the_queue_keeps_its_place() {
    let proxy = Proxy::with("[pool]\nmax_server_connections = 1\ncheckout_timeout = \"10min\"\n").await;
    let mut holder = table(&proxy).await;
    holder.query("BEGIN; INSERT INTO t VALUES (0)").await;
    let mut waiting = Raw::connect(proxy.port(), "shop").await;
    waiting.send(&query("INSERT INTO t VALUES (1)")).await;
    waiting.end_of_input().await;
    let pools = proxy.app.shared().pools.all();
    let queued = async || pools.iter().flat_map(|(_, pool)| pool.counts()).any(|(_, counts)| counts.waiting > 0);
    wait_for("it to wait", LIMIT, queued).await;
    // It is asked now and then whether it is still there.
    assert_eq!(waiting.frame().await.map(|frame| frame.tag), Some(PARAMETER_STATUS));
    assert!(queued().await);
    holder.query("COMMIT").await;
    assert_eq!(replies(&waiting.rest().await), "CZ");
    assert_eq!(rows(&mut holder).await, "2");
}

#[tokio::test]
async fn a_slow_reader_gets_everything_in_order() {
    let proxy = Proxy::start().await;
    let mut client = Raw::connect(proxy.port(), "shop").await;
    let flood = "SELECT repeat('x', 1000) FROM generate_series(1, 20000)";
    // In a transaction, pgpilot answers SHOW while the server connection is held, with a reply that has not been taken.
    let session = [query("BEGIN"), query(flood), query("SHOW pgpilot.version"), query("COMMIT"), query(flood)].concat();
    client.send(&session).await;
    client.end_of_input().await;
    wait_for("the server to be stuck", LIMIT, async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'";
        proxy.node("pg1").value(sql).await.unwrap().as_deref() == Some("1")
    })
    .await;
    let frames = client.rest().await;
    let said = replies(&frames);
    let rows = "D".repeat(20_000);
    assert!(said == format!("CZT{rows}CZTDCZCZT{rows}CZ"), "{}", said.replace('D', ""));
    wait_for("nothing to run", LIMIT, async || active(&proxy.servers, flood).await == 0).await;
}
