//! A server is lost in the middle of a message: nothing that pgpilot says of it may be taken for the rest of that.

use bytes::BytesMut;
use pgpilot::wire::backend as b;
use pgpilot::wire::frontend::put_query;

use crate::support::proxy::Proxy;
use crate::support::raw::Raw;
use crate::support::{LIMIT, wait_for};

/// A row of one column has so many bytes before the value.
const ROW_HEAD: usize = 11;
/// Longer messages are passed on as they come.
const WHOLE_MAX: usize = 64 * 1024;

const LENGTHS: [usize; 8] = [90, 300, 5000, 8192, 30_000, WHOLE_MAX - ROW_HEAD, WHOLE_MAX - ROW_HEAD + 1, 200_000];

/// Sessions that send what their client does not take.
const BLOCKED: &str = "FROM pg_stat_activity WHERE query LIKE '%-- torn' AND wait_event = 'ClientWrite'";

#[tokio::test]
async fn no_row_has_a_piece_of_an_error_in_it() {
    let proxy = Proxy::shared("").await;
    let mut clients = Vec::new();
    for role in ["primary", "replica"] {
        for length in LENGTHS {
            let mut client = Raw::connect(proxy.port(), "shop").await;
            let sql = format!(
                "/* pgpilot: {role} */ SELECT repeat('x', {length}) FROM generate_series(1, 100000000 / {length}) -- torn"
            );
            let mut message = BytesMut::new();
            put_query(&mut message, sql.as_bytes());
            client.send(&message).await;
            assert_eq!(client.frame().await.map(|frame| frame.tag), Some(b::ROW_DESCRIPTION));
            clients.push((role, length, client));
        }
    }
    let mut nodes = Vec::new();
    for node in proxy.servers.nodes() {
        nodes.push(node.connect_to("postgres").await.unwrap());
    }
    wait_for("the servers to wait for their clients", LIMIT, async || {
        let mut blocked = 0;
        for node in &nodes {
            blocked += node.query_one(&format!("SELECT count(*) {BLOCKED}"), &[]).await.unwrap().get::<_, i64>(0);
        }
        blocked == i64::try_from(clients.len()).unwrap()
    })
    .await;
    for node in &nodes {
        node.execute(&format!("SELECT pg_terminate_backend(pid) {BLOCKED}"), &[]).await.unwrap();
    }
    for (role, length, mut client) in clients {
        let mut expected = BytesMut::new();
        b::put_text_row(&mut expected, [Some("x".repeat(length).as_str())].into_iter());
        let row = &expected[5..];
        let mut rows = 0;
        let last = loop {
            match client.frame().await {
                Some(frame) if frame.tag == b::DATA_ROW => {
                    assert!(frame.body == row, "row {rows} of {length} bytes from the {role}");
                    rows += 1;
                }
                other => break other,
            }
        };
        let what = format!("{length} bytes from the {role}, after {rows} rows: {last:?}");
        let Some(last) = last else {
            assert!(expected.len() > WHOLE_MAX, "the session has ended: {what}");
            let rest = client.rest_of_bytes().await;
            assert!(expected.starts_with(&rest), "{what}: {}", rest[rest.len().saturating_sub(200)..].escape_ascii());
            continue;
        };
        assert_eq!((last.tag, last.field(b'C')), (b::ERROR_RESPONSE, Some("08006")), "{what}");
        assert_eq!(client.frame().await.map(|frame| frame.tag), Some(b::READY_FOR_QUERY), "{what}");
        assert_eq!(client.ask("SELECT 'goes on'").await, "goes on", "{what}");
    }
}
