//! What pgpilot remembers has an end: its memory after a million different statements, and with thousands of clients that do nothing.

use std::time::Instant;

use bytes::BytesMut;
use pgpilot::wire::frontend::{self as f, BindHead, Parse};
use pgpilot::wire::{backend, frame};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::support::process::Process;
use crate::support::proxy::servers;
use crate::support::raw::Raw;

/// So much may pgpilot grow by a million statements, none of which comes twice.
const GROWTH: u64 = 16 << 20;
const STATEMENTS: usize = 1_000_000;
/// Sent at once.
const PIPELINE: usize = 500;

const CLIENTS: usize = 5_000;
/// So much may each of them take.
const PER_CLIENT: u64 = 12 << 10;

/// Appends one batch whose text is like no other's.
type Put = fn(&mut BytesMut, usize);

/// Of different shapes, too: a list of literals that is longer or shorter.
fn text(n: usize) -> String {
    let list: Vec<String> = (0..1 + n % 7).map(|more| (n + more).to_string()).collect();
    format!("SELECT '{n:x}', {n} AS c{} WHERE {n} IN ({})", n % 1000, list.join(", "))
}

fn put_simple(out: &mut BytesMut, n: usize) {
    f::put_query(out, text(n).as_bytes());
}

fn put_extended(out: &mut BytesMut, n: usize) {
    put_execution(out, b"", n);
}

/// Prepared under a name, executed, and closed.
fn put_named(out: &mut BytesMut, n: usize) {
    let name = format!("s{}", n % 50);
    f::put_statement_target(out, f::CLOSE, name.as_bytes());
    put_execution(out, name.as_bytes(), n);
}

fn put_execution(out: &mut BytesMut, name: &[u8], n: usize) {
    Parse { name, query: text(n).as_bytes(), types: &[0, 0] }.put(out);
    BindHead::put(out, b"", name, 6);
    out.extend_from_slice(&[0; 6]);
    frame::put(out, f::EXECUTE, |out| out.extend_from_slice(&[0; 5]));
    f::put_sync(out);
}

async fn run(client: &mut Raw, put: Put, numbers: std::ops::Range<usize>) {
    for first in numbers.clone().step_by(PIPELINE) {
        let mut messages = BytesMut::new();
        let end = (first + PIPELINE).min(numbers.end);
        (first..end).for_each(|n| put(&mut messages, n));
        client.send(&messages).await;
        for n in first..end {
            let frames = client.until(backend::READY_FOR_QUERY).await;
            assert!(frames.iter().all(|frame| frame.tag != backend::ERROR_RESPONSE), "{}: {frames:?}", text(n));
        }
    }
}

#[tokio::test]
#[ignore = "takes minutes: ./dev soak growth"]
async fn a_million_different_statements_leave_no_trace() {
    let servers = servers().await;
    let mut process = Process::start(&servers, "").await;
    let ways: [(&str, Put); 3] = [("simple", put_simple), ("extended", put_extended), ("named", put_named)];
    let mut next = 0;
    for (_, put) in ways {
        // Until every cache is full.
        run(&mut process.connect().await, put, next..next + STATEMENTS / 20).await;
        next += STATEMENTS / 20;
    }
    for (way, put) in ways {
        let (before, begun) = (process.memory(), Instant::now());
        let mut clients = Vec::new();
        for part in 0..4 {
            let (mut client, share) = (process.connect().await, STATEMENTS / 4);
            let first = next + part * share;
            clients.push(tokio::spawn(async move { run(&mut client, put, first..first + share).await }));
        }
        for client in clients {
            client.await.unwrap();
        }
        next += STATEMENTS;
        let (after, took) = (process.memory(), begun.elapsed());
        println!(
            "{way}: {STATEMENTS} statements in {took:.0?}, {} KiB before, {} KiB after",
            before >> 10,
            after >> 10
        );
        assert!(after.saturating_sub(before) < GROWTH, "{way}: {} KiB more", (after - before) >> 10);
    }
    process.assert_sound();
}

#[tokio::test]
#[ignore = "needs ten thousand file descriptors: ./dev soak growth"]
async fn thousands_of_idle_clients_take_little() {
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).expect("up to the hard limit");
    let servers = servers().await;
    let more = format!("[clients]\nmax = {}\n", 2 * CLIENTS);
    let mut process = Process::start(&servers, &more).await;
    let mut clients = Vec::new();
    let mut before = 0;
    for n in 0..=CLIENTS {
        let mut client = process.connect().await;
        // Each has done something once.
        assert_eq!(client.ask("SELECT 1").await, "1");
        clients.push(client);
        if n == 0 {
            before = process.memory();
        }
    }
    let each = process.memory().saturating_sub(before) / CLIENTS as u64;
    println!("{CLIENTS} idle clients: {each} bytes each");
    assert!(each < PER_CLIENT, "{each} bytes");
    assert_eq!(clients[CLIENTS / 2].ask("SELECT 2").await, "2");
    process.assert_sound();
}
