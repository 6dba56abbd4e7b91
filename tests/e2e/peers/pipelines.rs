//! Pipelines: at any depth, with Flush or without, and at the speed of the server.

use std::time::{Duration, Instant};

use pgpilot::proxy::Passage;
use pgpilot::wire::backend::{ERROR_RESPONSE, READY_FOR_QUERY};

use crate::support::plain::{Messages, Raw, TRUST, errors, tags, values};
use crate::support::proxy::{Proxy, ask};
use crate::support::{LIMIT, wait_for};

const DEPTH: usize = 10_000;

/// How much longer than on the server's own socket a pipeline may take at the most. pgpilot shares the processors with the server and with other tests,
/// and is not optimised here; what this is about, a delay for each message or for each of those before it, takes hundreds of times as long.
const SLOWER: u32 = 100;

fn numbers() -> Vec<String> {
    (0..DEPTH).map(|n| n.to_string()).collect()
}

/// One transaction per statement.
fn with_syncs(sql: &str) -> Messages {
    let begin = Messages::new().parse("s", sql).sync();
    numbers().iter().fold(begin, |messages, n| messages.bind("s", &[n]).execute().sync())
}

/// The shortest of a few runs, each on a connection of its own.
async fn timed(connect: impl AsyncFn() -> Raw, messages: &Messages, batches: usize) -> Duration {
    let mut least = Duration::MAX;
    for _ in 0..3 {
        let mut client = connect().await;
        let begun = Instant::now();
        let replies = client.pipeline(messages.clone(), batches).await;
        least = least.min(begun.elapsed());
        assert!(errors(&replies).is_empty(), "{:?}", errors(&replies));
        assert_eq!(values(&replies), numbers());
    }
    least
}

async fn compare(proxy: &Proxy, what: &str, messages: &Messages, batches: usize) {
    let least = timed(async || Raw::direct(proxy.node("pg1")).await, messages, batches).await;
    let took = timed(async || Raw::connect(proxy.port()).await, messages, batches).await;
    assert!(took < least * SLOWER, "{what}: {took:?}, directly {least:?}");
}

#[tokio::test]
async fn a_deep_pipeline_of_writes_is_answered_in_order_and_fast() {
    let proxy = Proxy::shared(TRUST).await;
    let mut client = Raw::connect(proxy.port()).await;
    assert!(errors(&client.query("CREATE TABLE deep (n int)").await).is_empty());
    compare(&proxy, "writes", &with_syncs("INSERT INTO deep VALUES ($1::int) RETURNING n"), DEPTH + 1).await;
    assert_eq!(values(&client.query("SELECT count(*) FROM deep").await), [(6 * DEPTH).to_string()]);
}

#[tokio::test]
async fn a_deep_pipeline_of_reads_runs_on_replicas_and_is_fast() {
    let proxy = Proxy::shared(TRUST).await;
    compare(&proxy, "reads", &with_syncs("SELECT $1::int"), DEPTH + 1).await;
    let (primary, replicas) = proxy.counts();
    assert!(primary == 0 && replicas >= 3 * DEPTH as u64, "{primary} on the primary, {replicas} on replicas");
}

#[tokio::test]
async fn a_deep_pipeline_in_one_transaction_is_fast() {
    let proxy = Proxy::shared(TRUST).await;
    let begin = || Messages::new().parse("s", "SELECT $1::int");
    let executes = numbers().iter().fold(begin(), |messages, n| messages.bind("s", &[n]).execute());
    compare(&proxy, "one Sync", &executes.sync(), 1).await;
    let flushes = numbers().iter().fold(begin(), |messages, n| messages.bind("s", &[n]).execute().flush());
    compare(&proxy, "a Flush each", &flushes.sync(), 1).await;
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

#[tokio::test]
async fn a_statement_may_be_closed_and_prepared_anew_in_one_batch() {
    let proxy = Proxy::shared(TRUST).await;
    let mut client = Raw::connect(proxy.port()).await;
    let first = Messages::new().parse("s", "SELECT 1").bind("s", &[]).execute().sync();
    assert_eq!(values(&client.ask(first).await), ["1"]);
    for n in 2..5 {
        let again = Messages::new().close("s").parse("s", &format!("SELECT {n}")).bind("s", &[]).execute().sync();
        let replies = client.ask(again).await;
        assert_eq!((tags(&replies), values(&replies)), ("312DCZ".to_owned(), vec![n.to_string()]));
    }
    // The same text under its old name, and twice without a Close.
    let again = Messages::new().close("s").parse("s", "SELECT 4").bind("s", &[]).execute().sync();
    assert_eq!(tags(&client.ask(again).await), "312DCZ");
    let twice = client.ask(Messages::new().close("s").parse("s", "SELECT 5").parse("s", "SELECT 6").sync()).await;
    assert_eq!((tags(&twice), errors(&twice)), ("31EZ".to_owned(), vec!["42P05".to_owned()]));
    // That batch failed, but a prepared statement is no part of a transaction: the first Parse holds.
    assert_eq!(values(&client.ask(Messages::new().bind("s", &[]).execute().sync()).await), ["5"]);
}

#[tokio::test]
async fn the_unnamed_statement_changes_within_a_batch() {
    let proxy = Proxy::with(&format!("{TRUST}[pool]\nmax_server_connections = 1\n")).await;
    let (mut client, mut other) = (Raw::connect(proxy.port()).await, Raw::connect(proxy.port()).await);
    for _ in 0..2 {
        assert_eq!(tags(&client.ask(Messages::new().parse("", "SELECT 1").sync()).await), "1Z");
        // Whatever this connection knew as the unnamed statement, it does not now.
        assert_eq!(values(&other.query("SELECT 0").await), ["0"]);
        let old_and_new = Messages::new().bind("", &[]).execute().parse("", "SELECT 2").bind("", &[]).execute();
        let replies = client.ask(old_and_new.parse("", "SELECT 3").bind("", &[]).execute().sync()).await;
        assert_eq!((tags(&replies), values(&replies).join("")), ("2DC12DC12DCZ".to_owned(), "123".to_owned()));
        assert_eq!(values(&other.query("SELECT 0").await), ["0"]);
        assert_eq!(values(&client.ask(Messages::new().bind("", &[]).execute().sync()).await), ["3"]);
    }
}

/// So many statements of a client are under way or waiting at any time.
const AHEAD: usize = 8;

fn steps(count: usize) -> Messages {
    (0..count).fold(Messages::new(), |messages, _| messages.bind("s", &[]).execute().sync())
}

/// Its connection would never be idle if it had it to itself.
#[tokio::test]
async fn who_never_stops_gives_others_their_turn_and_stops_for_operators() {
    let proxy = Proxy::shared(&format!("{TRUST}[pool]\nmax_server_connections = 1\n")).await;
    proxy.connect().await.batch_execute("CREATE SEQUENCE steps").await.unwrap();
    let cluster = &proxy.app.shared().cluster;
    cluster.drain(cluster.find("pg3").unwrap());
    for sql in ["SELECT pg_sleep(0.02), nextval('steps')", "/* pgpilot: replica */ SELECT pg_sleep(0.02)"] {
        let mut client = Raw::connect(proxy.port()).await;
        client.ask(Messages::new().parse("s", sql).sync()).await;
        client.send(steps(AHEAD)).await;
        let other = proxy.connect().await;
        let mut served = tokio::spawn(async move { ask(&other, sql).await });
        while !served.is_finished() {
            client.send(steps(1)).await;
            let replies = client.replies().await;
            assert!(errors(&replies).is_empty(), "{sql}: {:?}", errors(&replies));
        }
        (&mut served).await.unwrap();
        // A pause stops it between two statements.
        let gate = &proxy.app.shared().gate;
        gate.set(Passage::Closed);
        client.send(steps(1)).await;
        let at_rest = async || proxy.app.shared().registry.rows().iter().all(|row| !row.working);
        wait_for("nobody to run anything", LIMIT, at_rest).await;
        let before = proxy.counts();
        gate.set(Passage::Open);
        for _ in 0..=AHEAD {
            assert!(errors(&client.replies().await).is_empty());
        }
        assert_ne!(proxy.counts(), before, "{sql}: nothing has waited");
    }
    // And so does pgpilot's end: what comes then is not run.
    let mut client = Raw::connect(proxy.port()).await;
    client.ask(Messages::new().parse("s", "SELECT pg_sleep(0.02), nextval('steps')").sync()).await;
    client.send(steps(AHEAD)).await;
    client.replies().await;
    proxy.app.shared().shutdown.begin();
    client.send(steps(1)).await;
    let mut answered = 1;
    let told = loop {
        let reply = client.reply().await;
        match reply.tag {
            READY_FOR_QUERY => answered += 1,
            ERROR_RESPONSE => break errors(&[reply]),
            _ => {}
        }
    };
    assert_eq!((told, answered <= AHEAD), (vec!["57P01".to_owned()], true), "{answered} answered");
}

/// What a server has been sent cannot be taken back, so it is not sent everything.
#[tokio::test]
async fn a_pause_stops_a_long_pipeline_soon() {
    const SENT: usize = 3000;
    let proxy = Proxy::shared(TRUST).await;
    let holder = proxy.connect().await;
    holder.batch_execute("CREATE SEQUENCE ran_ahead; CREATE TABLE held_back (n int)").await.unwrap();
    // Until it is known, each statement that names it is looked into.
    proxy.wait_for_read("SELECT n FROM held_back").await;
    holder.batch_execute("BEGIN; LOCK TABLE held_back").await.unwrap();
    let mut client = Raw::connect(proxy.port()).await;
    let sql = "INSERT INTO held_back SELECT nextval('ran_ahead')";
    client.send((0..SENT).fold(Messages::new(), |messages, _| messages.query(sql))).await;
    let busy = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'held_back'::regclass";
    wait_for("the first to wait for the lock", LIMIT, async || ask(&holder, busy).await == "1").await;
    // The rest is forwarded without its being awaited, as far as it is at all.
    let gate = &proxy.app.shared().gate;
    gate.set(Passage::Closed);
    holder.batch_execute("COMMIT").await.unwrap();
    let at_rest = async || proxy.app.shared().registry.rows().iter().all(|row| !row.working);
    wait_for("nobody to run anything", LIMIT, at_rest).await;
    let direct = proxy.node("pg1").connect_to("shop").await.unwrap();
    let ran: i64 = direct.query_one("SELECT last_value FROM ran_ahead", &[]).await.unwrap().get(0);
    assert!(ran <= 300, "{ran} of {SENT} ran on");
    gate.set(Passage::Open);
    for _ in 0..SENT {
        assert!(errors(&client.replies().await).is_empty());
    }
}
