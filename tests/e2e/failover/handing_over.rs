//! Planned changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgpilot::decide::failover::{Order, Run};

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
    assert_eq!(ask(&client, "SELECT count(*) FROM t").await, written.to_string());
    // Who was the primary takes no write, and is no replica without somebody's help.
    // Ten times what is promised.
    assert!(longest < Duration::from_secs(5), "{longest:?}: {:#?}", proxy.events());
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

#[tokio::test]
async fn a_transaction_that_does_not_end_in_time_calls_it_off() {
    let proxy = without_hooks(plain(), "switchover_timeout = \"300ms\"\n").await;
    let client = table(&proxy).await;
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let order = Order::Switchover { to: None, run: Run::Real };
    let error = proxy.order(order).await.unwrap_err();
    assert!(error.to_string().contains("did not end in time") || error.to_string().contains("quiescing"), "{error}");
    // As if nothing had been.
    assert_eq!(proxy.primary().as_deref(), Some("pg1"));
    client.batch_execute("INSERT INTO t VALUES (2); COMMIT").await.unwrap();
    proxy.connect().await.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
    assert_eq!(ask(&client, "SELECT sum(n) FROM t").await, "6");
}
