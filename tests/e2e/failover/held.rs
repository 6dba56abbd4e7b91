//! Statements that wait for a new primary.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use pgpilot::admin::Action;
use pgpilot::decide::failover::{Guards, Maintenance, Order, Run};
use pgpilot::demo::Scope;
use tokio_postgres::Client;

use super::{plain, section, table};
use crate::support::proxy::{Proxy, ask};
use crate::support::{LIMIT, wait_for};

/// A pgpilot that fails over when it is told to, and whose pools are small.
async fn before_small_pools(pool: &str, routing: &str, clients: usize) -> (Proxy, Client, Vec<Client>) {
    let servers = Arc::new(super::attentive(plain()).start().await.unwrap());
    let more = format!("{}automatic = true\n[pool]\n{pool}[routing]\n{routing}", section(&servers));
    let proxy = Proxy::before(servers, &more).await;
    let client = table(&proxy).await;
    let mut waiting = Vec::new();
    for _ in 0..clients {
        waiting.push(proxy.connect().await);
    }
    proxy.order(Order::Maintenance(Maintenance::On)).await.unwrap();
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    wait_for("the loss", LIMIT, async || proxy.primary().is_none()).await;
    wait_for("the replicas to notice it", LIMIT, async || {
        proxy.order(Order::Failover { to: None, waived: Guards::empty(), run: Run::Dry }).await.is_ok()
    })
    .await;
    (proxy, client, waiting)
}

async fn write(client: &Client) -> Result<Instant, String> {
    let written = client.batch_execute("INSERT INTO t VALUES (1)").await;
    written.map(|()| Instant::now()).map_err(|error| format!("{:?}", error.code()))
}

const FAILOVER: Order = Order::Failover { to: None, waived: Guards::empty(), run: Run::Real };

/// All of them at once would be more than the pool lets wait.
#[tokio::test]
async fn those_who_were_held_are_let_go_no_faster_than_the_pool_can_serve_them() {
    let pool = "max_server_connections = 2\nmax_waiting = 2\n";
    let (proxy, client, waiting) = before_small_pools(pool, "", 60).await;
    let writing: Vec<_> = waiting.into_iter().map(|client| tokio::spawn(async move { write(&client).await })).collect();
    wait_for("all to wait", LIMIT, async || proxy.app.operations().held() == 60).await;
    proxy.order(FAILOVER).await.unwrap();
    for written in join_all(writing).await {
        written.unwrap().unwrap();
    }
    assert_eq!(proxy.app.operations().held(), 0);
    assert_eq!(ask(&client, "/* pgpilot: primary */ SELECT count(*) FROM t").await, "60");
}

#[tokio::test]
async fn no_more_are_held_than_may_be_and_the_others_are_told() {
    let (proxy, client, mut waiting) = before_small_pools("", "max_held = 3\nmax_held_bytes = \"1KiB\"\n", 4).await;
    let more = waiting.pop().unwrap();
    let first = {
        let client = waiting.pop().unwrap();
        tokio::spawn(async move { write(&client).await })
    };
    wait_for("one to wait", LIMIT, async || proxy.app.operations().held() == 1).await;
    let long = format!("INSERT INTO t VALUES (1) /* {} */", "x".repeat(2000));
    let refused = more.batch_execute(&long).await.unwrap_err();
    assert_eq!(refused.code().map(|code| code.code()), Some("57P03"), "{refused:?}");
    assert!(refused.to_string().contains("max_held_bytes") || format!("{refused:?}").contains("max_held_bytes"));
    let others: Vec<_> = waiting.into_iter().map(|client| tokio::spawn(async move { write(&client).await })).collect();
    wait_for("three to wait", LIMIT, async || proxy.app.operations().held() == 3).await;
    let refused = more.batch_execute("INSERT INTO t VALUES (1)").await.unwrap_err();
    assert_eq!(refused.code().map(|code| code.code()), Some("57P03"), "{refused:?}");
    assert!(format!("{refused:?}").contains("3 clients wait for one already"), "{refused:?}");
    proxy.order(FAILOVER).await.unwrap();
    first.await.unwrap().unwrap();
    for written in join_all(others).await {
        written.unwrap().unwrap();
    }
    assert_eq!(ask(&client, "/* pgpilot: primary */ SELECT count(*) FROM t").await, "3");
}

/// An operator's PAUSE is over when an operator says so, whoever is the primary by then.
#[tokio::test]
async fn a_switchover_leaves_those_paused_who_are() {
    let servers = Arc::new(super::attentive(plain()).start().await.unwrap());
    let proxy = Proxy::before(servers.clone(), &section(&servers)).await;
    let (client, listener) = (table(&proxy).await, proxy.connect().await);
    // It has a connection to the old primary.
    listener.batch_execute("LISTEN news").await.unwrap();
    let operations = proxy.app.operations();
    operations.perform(Action::Pause).await.unwrap();
    let writing = [client, listener].map(|client| tokio::spawn(async move { (write(&client).await, client) }));
    let order = Order::Switchover { to: Some(proxy.id("pg2")), run: Run::Real };
    proxy.order(order).await.unwrap_or_else(|error| panic!("{error}: {:#?}", proxy.events()));
    wait_for("pg3 to follow", LIMIT, async || proxy.follows_primary("pg3")).await;
    assert_eq!(proxy.primary().as_deref(), Some("pg2"));
    let new = proxy.node("pg2").connect_to("shop").await.unwrap();
    let written: i64 = new.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert!(written == 0 && !writing.iter().any(tokio::task::JoinHandle::is_finished), "{written}");
    operations.perform(Action::Resume).await.unwrap();
    for done in join_all(writing).await {
        let (written, client) = done.unwrap();
        written.unwrap();
        assert_eq!(
            ask(&client, "/* pgpilot: primary */ SELECT inet_server_port()").await,
            proxy.node("pg2").port().to_string()
        );
    }
    let written: i64 = new.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
    assert_eq!(written, 2);
}

/// How long it takes until thousands who were held have been served.
#[tokio::test]
#[ignore = "a measurement: cargo test --release --test e2e -- --ignored --nocapture thousands"]
#[allow(clippy::print_stdout, reason = "what was measured is what it is run for")]
async fn thousands_who_were_held_are_served() {
    let clients = std::env::var("PGPILOT_HELD").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let (proxy, client, waiting) = before_small_pools("", "", clients).await;
    let writing: Vec<_> = waiting.into_iter().map(|client| tokio::spawn(async move { write(&client).await })).collect();
    wait_for("all to wait", LIMIT, async || proxy.app.operations().held() == clients).await;
    let begun = Instant::now();
    proxy.order(FAILOVER).await.unwrap();
    let promoted = Instant::now();
    let mut times: Vec<Duration> = Vec::new();
    for written in join_all(writing).await {
        times.push(written.unwrap().unwrap().saturating_duration_since(promoted));
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!("{clients} held; promoted after {:?}", promoted - begun);
    println!("served after that: first {:?}, median {:?}, p99 {:?}, last {:?}", at(0), at(50), at(99), at(100));
    assert_eq!(ask(&client, "/* pgpilot: primary */ SELECT count(*) FROM t").await, clients.to_string());
}
