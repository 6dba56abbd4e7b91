//! The primary is lost.

use std::time::Duration;

use pgpilot::app::App;
use pgpilot::demo::Scope;
use tokio_postgres::NoTls;

use super::{plain, section, table, until_written, with_hooks, without_hooks};
use crate::support::proxy::{PASSWORD, USER, ask, topology};
use crate::support::{LIMIT, wait_for};

#[tokio::test]
async fn a_killed_primary_is_replaced_in_about_a_second() {
    let proxy = without_hooks(plain(), "").await;
    let client = table(&proxy).await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    let took = until_written(&client, "INSERT INTO t VALUES (2)").await;
    println!("kill to first write: {took:?}");
    assert_eq!(ask(&client, "SELECT sum(n) FROM t").await, "3");
    assert_ne!(proxy.primary().as_deref(), Some("pg1"));
    // The other replica follows the new primary, and the record says who that is.
    proxy.wait_for_replicas(1).await;
    let status = proxy.app.operations().failover();
    assert!(status.last.unwrap().contains("epoch 2"), "{:#?}", proxy.events());
    let epochs = proxy.servers.primary().await.unwrap().value("SELECT max(epoch) FROM pgpilot.epochs").await;
    assert_eq!(epochs.unwrap().as_deref(), Some("2"));
}

#[tokio::test]
async fn a_frozen_primary_is_replaced_and_fenced_when_it_thaws() {
    let stage = with_hooks(plain(), "").await;
    let proxy = &stage.proxy;
    let client = table(proxy).await;
    // A connection that does not go through pgpilot.
    let stranger = proxy.node("pg1").connect_to("shop").await.unwrap();
    proxy.node("pg1").freeze(Scope::Node).await.unwrap();
    let took = until_written(&client, "INSERT INTO t VALUES (1)").await;
    println!("freeze to first write: {took:?}");
    // The hook has killed it: who was connected there finds out, and it comes back as a replica.
    assert!(stranger.batch_execute("INSERT INTO t VALUES (100)").await.is_err());
    proxy.wait_for_replicas(2).await;
    assert_eq!(ask(&client, "SELECT sum(n) FROM t").await, "1");
}

#[tokio::test]
async fn an_old_primary_that_comes_back_writable_is_fenced_and_brought_back() {
    let proxy = without_hooks(plain(), "").await;
    let client = table(&proxy).await;
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    proxy.node("pg1").start().await.unwrap();
    // Without hooks it is made read-only, as far as that goes, and operators are told.
    let old = proxy.node("pg1");
    let fenced = tokio::time::timeout(
        LIMIT,
        wait_for("a fence", LIMIT * 2, async || {
            let setting = old.value("SHOW default_transaction_read_only").await;
            setting.is_ok_and(|setting| setting.as_deref() == Some("on"))
        }),
    );
    assert!(fenced.await.is_ok(), "{:#?}", proxy.events());
    assert_ne!(proxy.primary().as_deref(), Some("pg1"));
    proxy.wait_for_event("there is no rejoin_command").await;
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
}

#[tokio::test]
async fn a_new_pgpilot_goes_on_with_a_promotion_that_was_begun() {
    let proxy = without_hooks(plain(), "").await;
    table(&proxy).await;
    let servers = proxy.servers.clone();
    let system = servers.node("pg1").unwrap().value("SELECT system_identifier FROM pg_control_system()").await.unwrap();
    // As after a crash of pgpilot: the primary is dead, and the record names the candidate.
    servers.node("pg1").unwrap().kill9(Scope::Node).await.unwrap();
    drop(proxy);
    let state = servers.directory().join("failover.state");
    let record = format!(
        "{{\"epoch\": 7, \"system\": {}, \"primary\": \"pg1\", \"timeline\": 1, \"synchronous\": \"\", \
         \"maintenance\": \"Off\", \"progress\": {{\"Promoting\": {{\"candidate\": \"pg3\", \"decided\": \"0/1\"}}}}}}",
        system.unwrap()
    );
    std::fs::write(state, record).unwrap();
    // The old one lets go of the record when its tasks have ended.
    let mut started = None;
    wait_for("the record to be free", LIMIT, async || {
        started = App::start(topology(&servers, &format!("{}automatic = true\n", section(&servers))), None).await.ok();
        started.is_some()
    })
    .await;
    let app = started.unwrap();
    let port = app.addresses()[0].port();
    let text = format!("host=127.0.0.1 port={port} user={USER} password={PASSWORD} dbname=shop");
    let (client, connection) = tokio_postgres::connect(&text, NoTls).await.unwrap();
    tokio::spawn(connection);
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    let snapshot = app.shared().cluster.snapshot();
    let primary = snapshot.usable_primary().unwrap();
    assert_eq!((primary.name.as_str(), snapshot.epoch), ("pg3", 7));
    assert!(app.operations().failover().since.is_none_or(|since| since < Duration::from_secs(60)));
}
