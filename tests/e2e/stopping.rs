//! pgpilot's end: who is waited for, and what the others are told.

use std::time::Duration;

use bytes::BytesMut;
use pgpilot::wire::backend::ERROR_RESPONSE;
use pgpilot::wire::frontend::put_query;

use crate::support::proxy::{Proxy, servers, topology};
use crate::support::raw::{Frame, Raw};
use crate::support::{LIMIT, wait_for};

async fn proxy(drain: Duration) -> Proxy {
    let servers = servers().await;
    let mut config = topology(&servers, "[admin]\nreaders = [\"app\"]\n");
    (config.drain_timeout, config.clients.login_timeout) = (drain, LIMIT * 20);
    Proxy::configured(servers.into(), config).await
}

fn code(told: &[Frame]) -> Option<&str> {
    told.iter().find(|frame| frame.tag == ERROR_RESPONSE)?.field(b'C')
}

#[tokio::test]
async fn nobody_waits_for_who_has_no_session() {
    let proxy = proxy(LIMIT * 20).await;
    let mut silent = Raw::open(proxy.port()).await;
    let mut console = Raw::connect(proxy.port(), "pgpilot").await;
    let mut idle = Raw::connect(proxy.port(), "shop").await;
    tokio::time::timeout(LIMIT, proxy.app.shutdown()).await.expect("it stops");
    assert_eq!(code(&console.rest().await), Some("57P01"));
    assert_eq!(code(&idle.rest().await), Some("57P01"));
    // Its connection ends with the process.
    silent.end_of_input().await;
}

#[tokio::test]
async fn who_is_not_done_in_time_is_told() {
    let proxy = proxy(Duration::from_millis(300)).await;
    let mut working = Raw::connect(proxy.port(), "shop").await;
    let mut message = BytesMut::new();
    put_query(&mut message, b"SELECT pg_sleep(600)");
    working.send(&message).await;
    let mut between = Raw::connect(proxy.port(), "shop").await;
    between.query("BEGIN; SELECT 1").await;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    let asleep = async |count: &str| {
        let mut found = 0;
        for name in ["pg1", "pg2", "pg3"] {
            found += proxy.node(name).value(sleeping).await.unwrap().unwrap().parse::<u32>().unwrap();
        }
        found.to_string() == count
    };
    wait_for("the statement to run", LIMIT, async || asleep("1").await).await;
    proxy.app.shutdown().await;
    for client in [&mut working, &mut between] {
        assert_eq!(code(&client.rest().await), Some("57P01"));
    }
    wait_for("the statement to be cancelled", LIMIT, async || asleep("0").await).await;
}
