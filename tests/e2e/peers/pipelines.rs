//! Pipelines: at any depth, with Flush or without, and at the speed of the server.

use std::time::{Duration, Instant};

use crate::support::plain::{Messages, Raw, TRUST, errors, tags, values};
use crate::support::proxy::Proxy;

const DEPTH: usize = 10_000;

/// How much longer than on the server's own socket a pipeline may take. pgpilot shares two cores with the server, and is not optimised here.
const SLOWER: u32 = 12;

fn numbers() -> Vec<String> {
    (0..DEPTH).map(|n| n.to_string()).collect()
}

/// One transaction per statement.
fn with_syncs(sql: &str) -> Messages {
    let begin = Messages::new().parse("s", sql).sync();
    numbers().iter().fold(begin, |messages, n| messages.bind("s", &[n]).execute().sync())
}

async fn timed(client: &mut Raw, messages: Messages, batches: usize) -> (Vec<String>, Duration) {
    let begun = Instant::now();
    let replies = client.pipeline(messages, batches).await;
    let took = begun.elapsed();
    assert!(errors(&replies).is_empty(), "{:?}", errors(&replies));
    (values(&replies), took)
}

#[tokio::test]
async fn a_deep_pipeline_of_transactions_is_answered_in_order_and_fast() {
    let proxy = Proxy::shared(TRUST).await;
    let read = "SELECT $1::int";
    let write = "INSERT INTO deep VALUES ($1::int) RETURNING n";
    let mut client = Raw::connect(proxy.port()).await;
    assert!(errors(&client.query("CREATE TABLE deep (n int)").await).is_empty());
    for sql in [read, write] {
        let mut direct = Raw::direct(proxy.node("pg1")).await;
        let (expected, least) = timed(&mut direct, with_syncs(sql), DEPTH + 1).await;
        assert_eq!(expected, numbers());
        let mut client = Raw::connect(proxy.port()).await;
        let (found, took) = timed(&mut client, with_syncs(sql), DEPTH + 1).await;
        assert_eq!(found, expected, "{sql}");
        println!("{sql}: {took:?}, directly {least:?}");
        assert!(took < least * SLOWER, "{sql}: {took:?}, directly {least:?}");
    }
    assert!(proxy.counts().1 as usize > DEPTH / 2, "{:?}", proxy.counts());
}

#[tokio::test]
async fn a_deep_pipeline_in_one_transaction_is_fast() {
    let proxy = Proxy::shared(TRUST).await;
    let executes = || {
        let begin = Messages::new().parse("s", "SELECT $1::int");
        numbers().iter().fold(begin, |messages, n| messages.bind("s", &[n]).execute())
    };
    let (_, least) = timed(&mut Raw::direct(proxy.node("pg1")).await, executes().sync(), 1).await;
    // Twice: the second finds the statement prepared.
    for _ in 0..2 {
        let (found, took) = timed(&mut Raw::connect(proxy.port()).await, executes().sync(), 1).await;
        assert_eq!(found, numbers());
        println!("one Sync: {took:?}, directly {least:?}");
        assert!(took < least * SLOWER, "{took:?}, directly {least:?}");
    }
    // A Flush behind every Execute, all sent at once.
    let flushes = || {
        let begin = Messages::new().parse("s", "SELECT $1::int");
        numbers().iter().fold(begin, |messages, n| messages.bind("s", &[n]).execute().flush())
    };
    let (_, least) = timed(&mut Raw::direct(proxy.node("pg1")).await, flushes().sync(), 1).await;
    let (found, took) = timed(&mut Raw::connect(proxy.port()).await, flushes().sync(), 1).await;
    assert_eq!(found, numbers());
    println!("a Flush each: {took:?}, directly {least:?}");
    assert!(took < least * SLOWER, "{took:?}, directly {least:?}");
}

#[tokio::test]
async fn flush_brings_the_replies_without_a_sync() {
    let proxy = Proxy::shared(TRUST).await;
    let mut client = Raw::connect(proxy.port()).await;
    for _ in 0..2 {
        client.send(Messages::new().parse("", "SELECT $1::int * 2").flush()).await;
        assert_eq!(client.reply().await.tag, b'1');
        for n in 0..50 {
            client.send(Messages::new().bind("", &[&n.to_string()]).flush()).await;
            assert_eq!(client.reply().await.tag, b'2');
            client.send(Messages::new().execute().flush()).await;
            let row = client.reply().await;
            assert_eq!(values(&[row]), [(2 * n).to_string()]);
            assert_eq!(client.reply().await.tag, b'C');
        }
        // One that fails: nothing is answered until the Sync, and then it goes on.
        client.send(Messages::new().bind("", &["x"]).flush()).await;
        assert_eq!(errors(&[client.reply().await]), ["22P02"]);
        let replies = client.ask(Messages::new().bind("", &["1"]).execute().flush().sync()).await;
        assert_eq!(tags(&replies), "Z");
    }
}

#[tokio::test]
async fn a_pipeline_goes_on_behind_an_error() {
    let proxy = Proxy::shared(TRUST).await;
    let mut client = Raw::connect(proxy.port()).await;
    let mut messages = Messages::new().query("CREATE TABLE behind (n int PRIMARY KEY)");
    for n in [1, 2, 1, 3] {
        let sql = format!("INSERT INTO behind VALUES ({n})");
        messages = messages.parse("", &sql).bind("", &[]).execute().sync();
    }
    messages = messages.query("BEGIN").query("INSERT INTO behind VALUES (2)").query("SELECT 1").query("ROLLBACK");
    messages = messages.query("SELECT n FROM behind ORDER BY n");
    let replies = client.pipeline(messages, 10).await;
    assert_eq!(tags(&replies), "CZ12CZ12CZ12EZ12CZCZEZEZCZTDDDCZ");
    assert_eq!(errors(&replies), ["23505", "23505", "25P02"]);
    assert_eq!(values(&replies), ["1", "2", "3"]);
}

#[tokio::test]
async fn copy_data_may_be_sent_without_waiting() {
    let proxy = Proxy::shared(TRUST).await;
    let mut client = Raw::connect(proxy.port()).await;
    assert!(errors(&client.query("CREATE TABLE copied (s text)").await).is_empty());
    let line = [b"x".repeat(999).as_slice(), b"\n"].concat();
    for lines in [1, 5000] {
        let begin = Messages::new().query("COPY copied FROM STDIN");
        let copy = (0..lines).fold(begin, |messages, _| messages.copy_data(&line));
        let copied = client.pipeline(copy.copy_done(), 1).await;
        assert_eq!(tags(&copied), "GCZ");
    }
    assert_eq!(values(&client.query("SELECT count(*) FROM copied").await), ["5001"]);
}
