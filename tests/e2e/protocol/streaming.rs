//! What is larger than any buffer flows through, and leaves no trace in memory.

use bytes::{BufMut, BytesMut};
use pgpilot::wire::backend as b;
use pgpilot::wire::frontend::{self as f, put_query};

use crate::support::process::Process;
use crate::support::proxy::servers;
use crate::support::raw::{Raw, tags};

/// Bytes that are moved in each test; STREAM_MB says otherwise.
fn size() -> usize {
    let megabytes = std::env::var("STREAM_MB").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    megabytes * 1_000_000
}

/// So much may the process grow while they are.
const GROWTH: u64 = 6 << 20;

fn header(tag: u8, body: usize) -> BytesMut {
    let mut header = BytesMut::new();
    header.put_u8(tag);
    header.put_u32(u32::try_from(body + 4).expect("a length"));
    header
}

/// Sends so many bytes of the same kind.
async fn pour(client: &mut Raw, byte: u8, n: usize) {
    let chunk = vec![byte; 256 * 1024];
    let mut left = n;
    while left > 0 {
        let now = left.min(chunk.len());
        client.send(&chunk[..now]).await;
        left -= now;
    }
}

#[tokio::test]
async fn memory_stays_constant() {
    let servers = servers().await;
    let mut process = Process::start(&servers, "").await;
    let mut client = process.connect().await;
    client.query("CREATE TABLE t (s text)").await;
    // On the primary and on a replica, in either protocol, so that every path has been taken once.
    for _ in 0..3 {
        large_row(&mut client, 1_000_000).await;
        large_bind(&mut client, 1_000_000).await;
        large_query(&mut client, 1_000_000).await;
        copy_out(&mut client, 1_000_000).await;
        copy_in(&mut client, 1_000_000).await;
    }
    let before = process.memory();
    process.forget_peak();
    let mut grown = Vec::new();
    let mut note = |what: &str| {
        grown.push((what.to_owned(), process.peak().saturating_sub(before) >> 10));
        process.forget_peak();
    };
    large_row(&mut client, size()).await;
    note("a row");
    large_bind(&mut client, size()).await;
    note("a Bind");
    large_query(&mut client, size()).await;
    note("a Query");
    copy_out(&mut client, size()).await;
    note("COPY OUT");
    copy_in(&mut client, size()).await;
    note("COPY IN");
    assert!(grown.iter().all(|(_, kibibytes)| *kibibytes < GROWTH >> 10), "grown by (KiB): {grown:?}");
    process.assert_sound();
}

async fn large_row(client: &mut Raw, n: usize) {
    let mut message = BytesMut::new();
    put_query(&mut message, format!("SELECT repeat('x', {n})").as_bytes());
    client.send(&message).await;
    assert_eq!(client.header().await.tag, b::ROW_DESCRIPTION);
    let columns = "\0\u{1}repeat\0".len() + 18;
    client.discard(columns as u64).await;
    let row = client.header().await;
    assert_eq!((row.tag, row.body), (b::DATA_ROW, n + 6));
    client.discard(row.body as u64).await;
    assert_eq!(tags(&client.until(b::READY_FOR_QUERY).await), "CZ");
}

async fn large_bind(client: &mut Raw, n: usize) {
    let mut start = BytesMut::new();
    f::Parse { name: b"", query: b"SELECT length($1)", types: &[0, 1, 0, 0, 0, 25] }.put(&mut start);
    let mut values = BytesMut::new();
    values.put_slice(&[0, 0, 0, 1]);
    values.put_u32(u32::try_from(n).expect("a length"));
    f::BindHead::put(&mut start, b"", b"", values.len() + n + 2);
    start.extend_from_slice(&values);
    client.send(&start).await;
    pour(client, b'x', n).await;
    let mut end = BytesMut::from(&[0, 0][..]);
    end.extend_from_slice(&header(f::EXECUTE, 5));
    end.extend_from_slice(&[0; 5]);
    f::put_sync(&mut end);
    client.send(&end).await;
    let frames = client.until(b::READY_FOR_QUERY).await;
    assert_eq!(tags(&frames), "12DCZ", "{frames:?}");
    assert_eq!(b::data_row(&frames[2].body).unwrap(), [Some(n.to_string().as_bytes())]);
}

async fn large_query(client: &mut Raw, n: usize) {
    let (head, tail) = ("SELECT length('", "')\0");
    let mut start = header(f::QUERY, head.len() + n + tail.len());
    start.extend_from_slice(head.as_bytes());
    client.send(&start).await;
    pour(client, b'x', n).await;
    client.send(tail.as_bytes()).await;
    let frames = client.until(b::READY_FOR_QUERY).await;
    assert_eq!(tags(&frames), "TDCZ", "{frames:?}");
    assert_eq!(b::data_row(&frames[1].body).unwrap(), [Some(n.to_string().as_bytes())]);
}

async fn copy_out(client: &mut Raw, n: usize) {
    let rows = n / 1000;
    let mut message = BytesMut::new();
    let text = format!("COPY (SELECT repeat('x', 999) FROM generate_series(1, {rows})) TO STDOUT");
    put_query(&mut message, text.as_bytes());
    client.send(&message).await;
    assert_eq!(client.frame().await.expect("a reply").tag, b::COPY_OUT_RESPONSE);
    client.discard(rows as u64 * 1005).await;
    assert_eq!(tags(&client.until(b::READY_FOR_QUERY).await), "cCZ");
}

async fn copy_in(client: &mut Raw, n: usize) {
    let mut message = BytesMut::new();
    put_query(&mut message, b"COPY t FROM STDIN WHERE s = 'none'");
    client.send(&message).await;
    client.until(b::COPY_IN_RESPONSE).await;
    // One message that is larger than all buffers, and many that are not.
    client.send(&header(f::COPY_DATA, n / 2)).await;
    let row = [&[b'x'; 999][..], b"\n"].concat();
    let rows = row.repeat(100);
    for _ in 0..n / 2 / rows.len() {
        client.send(&rows).await;
    }
    let mut messages = BytesMut::new();
    for _ in 0..100 {
        messages.extend_from_slice(&header(f::COPY_DATA, row.len()));
        messages.extend_from_slice(&row);
    }
    for _ in 0..n / 2 / rows.len() {
        client.send(&messages).await;
    }
    client.send(&header(f::COPY_DONE, 0)).await;
    let frames = client.until(b::READY_FOR_QUERY).await;
    assert_eq!(tags(&frames), "CZ", "{frames:?}");
}

/// Longer than what pgpilot holds of a prepared statement.
#[tokio::test]
async fn a_parse_of_any_length_needs_no_name() {
    const LENGTH: usize = 17 << 20;
    let servers = servers().await;
    let mut process = Process::start(&servers, "").await;
    let mut client = process.connect().await;
    for (name, outcome) in [("", "12DCZ"), ("named", "EZ"), ("", "12DCZ")] {
        let (before, after) = ("SELECT length('", "')");
        let length = name.len() + before.len() + LENGTH + after.len() + 4;
        client.send(&[&header(f::PARSE, length), name.as_bytes(), b"\0", before.as_bytes()].concat()).await;
        pour(&mut client, b'x', LENGTH).await;
        client.send(&[after.as_bytes(), b"\0\0\0"].concat()).await;
        let mut rest = BytesMut::new();
        f::BindHead::put(&mut rest, b"", name.as_bytes(), 6);
        rest.extend_from_slice(&[0; 6]);
        f::put_execute(&mut rest, b"");
        f::put_sync(&mut rest);
        client.send(&rest).await;
        let replies = client.until(b::READY_FOR_QUERY).await;
        assert_eq!(tags(&replies), outcome, "{replies:?}");
        if outcome.starts_with('E') {
            assert_eq!(replies[0].field(b'C'), Some("54000"));
        }
    }
    assert_eq!(client.ask("SELECT 1").await, "1");
    process.assert_sound();
}
