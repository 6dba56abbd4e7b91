//! Planned changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgpilot::decide::failover::{Order, Run};
use pgpilot::decide::route::State;
use pgpilot::demo::Scope;

use super::{plain, table, with_hooks, without_hooks};
use crate::support::proxy::{Proxy, ask};
use crate::support::{LIMIT, wait_for};

/// Eight clients write all the while, one by one and in transactions. Returns how many writes were acknowledged, and the
/// longest that one took.
async fn under_load(proxy: &Proxy, work: impl AsyncFnOnce()) -> (i64, Duration) {
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for n in 0..8 {
        let (client, stop) = (proxy.connect().await, stop.clone());
        writers.push(tokio::spawn(async move {
            let (mut written, mut longest) = (0, Duration::ZERO);
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                match n % 3 {
                    0 => drop(client.execute("INSERT INTO t VALUES ($1)", &[&n]).await.unwrap()),
                    1 => client.batch_execute(&format!("BEGIN; INSERT INTO t VALUES ({n}); COMMIT")).await.unwrap(),
                    _ => {
                        client.batch_execute("BEGIN").await.unwrap();
                        client.execute("INSERT INTO t VALUES ($1)", &[&n]).await.unwrap();
                        client.batch_execute("COMMIT").await.unwrap();
                    }
                }
                longest = longest.max(begun.elapsed());
                written += 1;
            }
            (written, longest)
        }));
    }
    work().await;
    stop.store(true, Ordering::Relaxed);
    let (mut total, mut longest) = (0, Duration::ZERO);
    for writer in writers {
        let (written, own) = writer.await.unwrap();
        total += written;
        longest = longest.max(own);
    }
    (total, longest)
}

async fn hand_over(proxy: &Proxy, to: &str) {
    let order = Order::Switchover { to: Some(proxy.id(to)), run: Run::Real };
    proxy.order(order).await.unwrap_or_else(|error| panic!("{error}: {:#?}", proxy.events()));
    assert_eq!(proxy.primary().as_deref(), Some(to), "{:#?}", proxy.events());
}

#[tokio::test]
async fn a_switchover_is_no_error_to_anybody() {
    let proxy = without_hooks(plain(), "").await;
    let client = table(&proxy).await;
    let (written, longest) = under_load(&proxy, async || {
        hand_over(&proxy, "pg2").await;
        wait_for("pg3 to follow", LIMIT, async || proxy.follows_primary("pg3")).await;
        hand_over(&proxy, "pg3").await;
    })
    .await;
    println!("{written} written, longest {longest:?}");
    // Ten times what is promised.
    assert!(longest < Duration::from_secs(5), "{longest:?}: {:#?}", proxy.events());
    assert_eq!(ask(&client, "SELECT count(*) FROM t").await, written.to_string());
    // Who was the primary takes no write, and is no replica without somebody's help.
    let old = proxy.node("pg1").connect_to("shop").await.unwrap();
    assert!(old.batch_execute("INSERT INTO t VALUES (1)").await.is_err());
}

#[tokio::test]
async fn with_hooks_there_and_back_again_leaves_three_healthy_nodes() {
    let stage = with_hooks(plain(), "").await;
    let proxy = &stage.proxy;
    let client = table(proxy).await;
    let (written, longest) = under_load(proxy, async || {
        for to in ["pg2", "pg1"] {
            hand_over(proxy, to).await;
            for other in ["pg1", "pg2", "pg3"].iter().filter(|name| **name != to) {
                let what = format!("{other} to follow {to}");
                wait_for(&what, LIMIT, async || proxy.follows_primary(other)).await;
            }
        }
    })
    .await;
    println!("{written} written, longest {longest:?}");
    assert_eq!(ask(&client, "SELECT count(*) FROM t").await, written.to_string());
    proxy.wait_for_replicas(2).await;
}

/// The old primary would wait for it when it is shut down, and everybody for that.
#[tokio::test]
async fn a_replica_that_hangs_is_not_waited_for() {
    let stage = with_hooks(plain(), "").await;
    let proxy = &stage.proxy;
    let client = table(proxy).await;
    proxy.node("pg3").freeze(Scope::Node).await.unwrap();
    wait_for("pgpilot to miss it", LIMIT, async || {
        let snapshot = proxy.app.shared().cluster.snapshot();
        snapshot.node(proxy.id("pg3")).is_some_and(|node| node.state == State::Down)
    })
    .await;
    let said = proxy.order(Order::Switchover { to: Some(proxy.id("pg2")), run: Run::Dry }).await.unwrap();
    assert!(said[0].contains("pg3 does not answer, and would not be waited for"), "{said:?}");
    let (_, longest) = under_load(proxy, async || hand_over(proxy, "pg2").await).await;
    proxy.wait_for_event("streams from it and does not answer: it is not waited for").await;
    assert!(longest < Duration::from_secs(10), "{longest:?}: {:#?}", proxy.events());
    proxy.node("pg3").thaw().unwrap();
    proxy.wait_for_replicas(2).await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
}

#[tokio::test]
async fn a_candidate_that_does_not_replay_is_refused_before_anybody_waits() {
    let proxy = without_hooks(plain(), "switchover_timeout = \"2s\"\n").await;
    let client = table(&proxy).await;
    let (epoch, order) = (proxy.epoch(), |run| Order::Switchover { to: Some(proxy.id("pg2")), run });
    proxy.node("pg2").pause_replay().await.unwrap();
    let mut why = String::new();
    wait_for("pgpilot to know of the pause", LIMIT, async || {
        why = proxy.order(order(Run::Dry)).await.err().map(|error| error.to_string()).unwrap_or_default();
        !why.is_empty()
    })
    .await;
    assert!(why.contains("pg2 cannot take over: its replay is paused"), "{why}");
    proxy.node("pg2").resume_replay().await.unwrap();
    wait_for("pgpilot to know of its end", LIMIT, async || proxy.order(order(Run::Dry)).await.is_ok()).await;
    // What only the replica itself knows.
    let reader = proxy.node("pg2").connect_to("shop").await.unwrap();
    reader.batch_execute("BEGIN; SELECT * FROM t").await.unwrap();
    client.batch_execute("ALTER TABLE t ADD COLUMN m int").await.unwrap();
    let why = proxy.order(order(Run::Real)).await.unwrap_err().to_string();
    assert!(why.contains("pg2 does not keep up"), "{why}");
    // Nobody was held for that: it was not even written down.
    assert_eq!((proxy.epoch(), proxy.primary().as_deref()), (epoch, Some("pg1")), "{:#?}", proxy.events());
    reader.batch_execute("COMMIT").await.unwrap();
    hand_over(&proxy, "pg2").await;
}

#[tokio::test]
async fn nobody_is_held_for_a_transaction_that_is_old_already() {
    let proxy = without_hooks(plain(), "switchover_timeout = \"3s\"\n").await;
    let client = table(&proxy).await;
    let (epoch, primary) = (proxy.epoch(), proxy.node("pg1"));
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let old = "SELECT count(*) FROM pg_stat_activity WHERE xact_start < clock_timestamp() - interval '1100 ms' \
               AND state = 'idle in transaction'";
    wait_for("the transaction to be old", LIMIT, async || primary.value(old).await.unwrap().as_deref() == Some("1"))
        .await;
    let order = Order::Switchover { to: Some(proxy.id("pg2")), run: Run::Real };
    let why = proxy.order(order).await.unwrap_err().to_string();
    assert!(why.contains("has had a transaction open for") && why.contains("app in shop"), "{why}");
    proxy.wait_for_event("waits, and holds nobody yet").await;
    // Nobody was held: that would have been written down.
    assert_eq!((proxy.epoch(), proxy.primary().as_deref()), (epoch, Some("pg1")), "{:#?}", proxy.events());
    client.batch_execute("COMMIT").await.unwrap();
    hand_over(&proxy, "pg2").await;
}

#[tokio::test]
async fn what_sessions_lose_in_a_switchover_is_said_before_and_after() {
    let proxy = without_hooks(plain(), "").await;
    let (temporary, locking) = (table(&proxy).await, proxy.connect().await);
    temporary.batch_execute("CREATE TEMP TABLE mine (n int)").await.unwrap();
    ask(&locking, "SELECT pg_advisory_lock(7)").await;
    for client in [&temporary, &locking] {
        assert_ne!(ask(client, "SHOW pgpilot.pins").await, "");
    }
    let order = |run| Order::Switchover { to: Some(proxy.id("pg2")), run };
    for run in [Run::Dry, Run::Real] {
        let said = proxy.order(order(run)).await.unwrap();
        let losses = "sessions that lose what they keep on pg1: 2 (advisory_lock: 1, temporary_object: 1)";
        assert_eq!(said.get(1).map(String::as_str), Some(losses), "{said:?}");
    }
    for (client, pin) in [(&temporary, "temporary_object"), (&locking, "advisory_lock")] {
        let error = client.simple_query("SELECT 1").await.unwrap_err();
        let error = error.as_db_error().unwrap_or_else(|| panic!("{pin}: {error:?}"));
        assert_eq!(error.code().code(), "57P01", "{error:?}");
        assert!(error.message().contains("was handed over to pg2"), "{error:?}");
        assert!(error.detail().is_some_and(|detail| detail.contains(pin)), "{error:?}");
        assert_eq!(ask(client, "SELECT 'goes on'").await, "goes on");
    }
}

/// Sessions that listen, and such as have a connection each: there is hardly a moment in which none of them runs anything.
#[tokio::test]
async fn sessions_that_keep_a_connection_wait_with_it() {
    let more = "[[users]]\nname = \"other\"\npool_mode = \"session\"\n";
    let proxy = without_hooks(plain(), more).await;
    let client = table(&proxy).await;
    client.batch_execute("GRANT INSERT ON t TO PUBLIC").await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for n in 0..10 {
        let writer = if n % 2 == 0 {
            let writer = proxy.connect().await;
            writer.batch_execute("LISTEN news").await.unwrap();
            writer
        } else {
            proxy.connect_with("user=other password=other-secret").await
        };
        let stop = stop.clone();
        writers.push(tokio::spawn(async move {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) {
                writer.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
                written += 1;
            }
            assert_eq!(ask(&writer, "SHOW pgpilot.pins").await, if n % 2 == 0 { "listen" } else { "session_mode" });
            written
        }));
    }
    hand_over(&proxy, "pg2").await;
    stop.store(true, Ordering::Relaxed);
    let mut total: u64 = 0;
    for writer in writers {
        total += writer.await.unwrap();
    }
    assert_eq!(ask(&client, "SELECT count(*) FROM t").await, total.to_string());
}

#[tokio::test]
async fn a_transaction_that_does_not_end_in_time_calls_it_off() {
    let proxy = without_hooks(plain(), "switchover_timeout = \"1s\"\n").await;
    let client = table(&proxy).await;
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let order = Order::Switchover { to: None, run: Run::Real };
    let error = proxy.order(order).await.unwrap_err();
    // The last one on a busy machine, before it gets so far.
    let causes = ["did not end in time", "quiescing", "has had a transaction open", "took too long"];
    assert!(causes.iter().any(|cause| error.to_string().contains(cause)), "{error}");
    // As if nothing had been.
    assert_eq!(proxy.primary().as_deref(), Some("pg1"));
    client.batch_execute("INSERT INTO t VALUES (2); COMMIT").await.unwrap();
    proxy.connect().await.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
    assert_eq!(ask(&client, "SELECT sum(n) FROM t").await, "6");
}

/// What the transaction has written that is ended, and its end, wait for a commit to take them to disk.
#[tokio::test]
async fn what_nobody_takes_to_disk_holds_nothing_up() {
    let proxy = without_hooks(plain(), "switchover_timeout = \"5s\"\n").await;
    let client = table(&proxy).await;
    let old = proxy.node("pg1");
    old.set("wal_writer_delay", "10s").await.unwrap();
    let stranger = old.connect_to("shop").await.unwrap();
    stranger.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    proxy.order(Order::Switchover { to: None, run: Run::Real }).await.unwrap();
    assert_eq!(ask(&client, "SELECT count(*) FROM t").await, "0");
}
