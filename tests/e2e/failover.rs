//! pgpilot changes the primary itself: of its own accord when that is lost, and when it is asked to.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgpilot::admin::{Action, Refused};
use pgpilot::decide::failover::{Order, Run};
use pgpilot::decide::health::Stage;
use pgpilot::decide::route::NodeId;
use pgpilot::demo::Scope;
use tokio_postgres::Client;

use crate::support::proxy::{Proxy, ask};
use crate::support::{LIMIT, wait_for};

/// Settings with which a killed primary is replaced in about a second.
const AUTOMATIC: &str =
    "[failover]\nautomatic = true\nuser = \"postgres\"\npassword = \"postgres\"\nmin_interval = \"0s\"\n";

/// A pgpilot with a state file of its own in the servers' directory.
async fn proxy(more: &str) -> Proxy {
    let servers = crate::support::proxy::servers().await;
    let state = servers.directory().join("state");
    Proxy::before(servers, &section(&state, more)).await
}

fn section(state: &Path, more: &str) -> String {
    format!("{AUTOMATIC}state_file = \"{}\"\n{more}", state.display())
}

impl Proxy {
    fn primary(&self) -> Option<String> {
        let snapshot = self.app.shared().cluster.snapshot();
        Some(snapshot.usable_primary()?.name.to_string())
    }

    fn id(&self, name: &str) -> NodeId {
        self.app.shared().cluster.find(name).unwrap()
    }

    /// Whether a replica streams the primary's history, as its newest probe tells.
    fn follows_primary(&self, name: &str) -> bool {
        let cluster = &self.app.shared().cluster;
        let snapshot = cluster.snapshot();
        let answer = cluster.answer(self.id(name));
        answer.is_some_and(|answer| {
            answer.timeline == snapshot.timeline
                && matches!(&answer.stage, Stage::Recovering(recovery) if recovery.receiver.is_some())
        })
    }

    async fn order(&self, order: Order) -> Result<Vec<String>, Refused> {
        self.app.operations().perform(Action::Order(order)).await.map(|outcome| outcome.notices)
    }

    fn events(&self) -> Vec<String> {
        let journal = self.app.shared().cluster.journal().entries();
        journal.into_iter().map(|entry| format!("{} {}", entry.node.unwrap_or_default(), entry.text)).collect()
    }
}

/// Writes until a write succeeds, and returns how long that took.
async fn until_written(client: &Client, sql: &str) -> Duration {
    let begun = Instant::now();
    while let Err(error) = client.batch_execute(sql).await {
        assert!(begun.elapsed() < LIMIT, "{error:?}");
        assert!(!client.is_closed());
    }
    begun.elapsed()
}

#[tokio::test]
async fn a_killed_primary_is_replaced_in_about_a_second() {
    let proxy = proxy("").await;
    let client = proxy.connect().await;
    client.batch_execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    let took = until_written(&client, "INSERT INTO t VALUES (2)").await;
    println!("kill to first write: {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}: {:#?}", proxy.events());
    assert_eq!(ask(&client, "SELECT sum(n) FROM t").await, "3");
    let new = proxy.primary().unwrap();
    assert_ne!(new, "pg1");
    // The other replica follows the new primary.
    proxy.wait_for_replicas(1).await;
    assert!(proxy.app.operations().failover().last.unwrap().contains("epoch 2"));
}

#[tokio::test]
async fn a_switchover_is_no_error_to_anybody() {
    let proxy = Arc::new(proxy("").await);
    let client = proxy.connect().await;
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut writers = Vec::new();
    for n in 0..8 {
        let (client, stop) = (proxy.connect().await, stop.clone());
        writers.push(tokio::spawn(async move {
            let (mut written, mut longest) = (0_i64, Duration::ZERO);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let begun = Instant::now();
                if n % 2 == 0 {
                    client.execute("INSERT INTO t VALUES ($1)", &[&n]).await.unwrap();
                } else {
                    client.batch_execute(&format!("BEGIN; INSERT INTO t VALUES ({n}); COMMIT")).await.unwrap();
                }
                longest = longest.max(begun.elapsed());
                written += 1;
            }
            (written, longest)
        }));
    }
    for to in ["pg2", "pg3"] {
        let order = Order::Switchover { to: Some(proxy.id(to)), run: Run::Real };
        let said = proxy.order(order).await.unwrap();
        println!("{said:?}");
        assert_eq!(proxy.primary().as_deref(), Some(to), "{:#?}", proxy.events());
        wait_for("the other replica to follow", LIMIT, async || proxy.follows_primary("pg3") || to == "pg3").await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let mut total = 0;
    for writer in writers {
        let (written, longest) = writer.await.unwrap();
        println!("{written} written, longest {longest:?}");
        total += written;
    }
    assert_eq!(ask(&client, "SELECT count(*) FROM t").await, total.to_string());
}
