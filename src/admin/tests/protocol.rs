//! What no well-behaved driver sends.

use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::console::console;
use super::*;
use crate::admin::Level;
use crate::wire::backend::ErrorView;
use crate::wire::{HEADER_LEN, Header, frame, frontend, startup};

/// Sends all of `bytes` in pieces of `size`, hangs up, and returns what came back as (tag, body).
async fn talk(bytes: &[u8], size: usize) -> Vec<(char, Vec<u8>)> {
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let server = tokio::spawn(console(Level::Admin, Fake::new(), far));
    let mut start = BytesMut::new();
    startup::put_startup(&mut start, startup::PROTOCOL_3_0, &[("user", "olga")]);
    near.write_all(&start).await.unwrap();
    for piece in bytes.chunks(size) {
        if near.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    server.await.unwrap();
    let (mut messages, mut rest) = (Vec::new(), &answer[..]);
    while let Some(header) = Header::peek(rest).unwrap() {
        messages.push((char::from(header.tag), rest[HEADER_LEN..header.frame_len()].to_vec()));
        rest = &rest[header.frame_len()..];
    }
    assert!(rest.is_empty());
    // Behind the greeting.
    let greeting = messages.iter().position(|(tag, _)| *tag == 'Z').unwrap();
    messages.split_off(greeting + 1)
}

fn tags(messages: &[(char, Vec<u8>)]) -> String {
    messages.iter().map(|(tag, _)| *tag).collect()
}

fn parse(out: &mut BytesMut, name: &str, text: &str) {
    frontend::Parse { name: name.as_bytes(), query: text.as_bytes(), types: &[0, 0] }.put(out);
}

#[tokio::test]
async fn every_cut_makes_no_difference() {
    let mut bytes = BytesMut::new();
    frontend::put_query(&mut bytes, b"SHOW VERSION; SHOW POOLS");
    parse(&mut bytes, "s", "SHOW VERSION");
    frontend::put_statement_target(&mut bytes, frontend::DESCRIBE, b"s");
    frontend::put_bind_execute(&mut bytes, b"s");
    frontend::put_sync(&mut bytes);
    frontend::put_terminate(&mut bytes);
    let whole = talk(&bytes, bytes.len()).await;
    assert_eq!(tags(&whole), "TDCTDCZ1tT2DCZ");
    for size in 1..bytes.len() {
        assert_eq!(talk(&bytes, size).await, whole, "in pieces of {size}");
    }
}

#[tokio::test]
async fn after_an_error_everything_up_to_sync_is_skipped() {
    let mut bytes = BytesMut::new();
    parse(&mut bytes, "", "nonsense");
    frontend::put_bind_execute(&mut bytes, b"");
    parse(&mut bytes, "", "SHOW HELP");
    frontend::put_sync(&mut bytes);
    parse(&mut bytes, "", "");
    frontend::put_bind_execute(&mut bytes, b"");
    frontend::put_sync(&mut bytes);
    frontend::put_bind_execute(&mut bytes, b"missing");
    frontend::put_sync(&mut bytes);
    parse(&mut bytes, "", "SHOW HELP; SHOW HELP");
    frontend::put_sync(&mut bytes);
    frontend::put_terminate(&mut bytes);
    let answer = talk(&bytes, bytes.len()).await;
    assert_eq!(tags(&answer), "EZ12IZEZEZ");
    let codes = |index: usize| ErrorView::parse(&answer[index].1).unwrap().code.to_string();
    assert_eq!([codes(0), codes(6), codes(8)], ["42601", "26000", "42601"]);
}

#[tokio::test]
async fn what_is_not_the_protocol_ends_the_connection() {
    let error = |answer: &[(char, Vec<u8>)]| {
        let (tag, body) = answer.last().unwrap();
        let view = ErrorView::parse(body).unwrap();
        assert!(*tag == 'E' && view.is_fatal());
        view.code.to_string()
    };
    let message = |tag: u8, body: &[u8]| {
        let mut out = BytesMut::new();
        frame::put(&mut out, tag, |out| out.put_slice(body));
        out
    };
    for bytes in [message(b'~', b""), message(b'Q', b"no end"), message(b'B', b""), b"Q\0\0\0\x01"[..].into()] {
        assert_eq!(error(&talk(&bytes, 4096).await), "08P01", "{bytes:?}");
    }
    let long = message(b'Q', &vec![b' '; 2 << 20]);
    assert_eq!(error(&talk(&long, 4096).await), "54000");
    // Parameters are refused, but the session goes on.
    let mut bytes = BytesMut::new();
    parse(&mut bytes, "", "SHOW HELP");
    bytes.extend_from_slice(&message(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xff\0\0"));
    frontend::put_sync(&mut bytes);
    frontend::put_query(&mut bytes, b"-- nothing");
    frontend::put_terminate(&mut bytes);
    assert_eq!(tags(&talk(&bytes, 4096).await), "1EZIZ");
}
