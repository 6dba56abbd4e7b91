//! When nothing is done, and why.

use std::time::Duration;

use bytes::BytesMut;
use pgpilot::decide::failover::{Guards, Maintenance, Order, Run};
use pgpilot::demo::Scope;
use pgpilot::wire::startup::put_cancel;

use super::{plain, table, until_written, without_hooks};
use crate::support::proxy::ask;
use crate::support::raw::{Raw, tags};
use crate::support::{LIMIT, wait_for};

#[tokio::test]
async fn a_postmaster_that_is_frozen_alone_is_no_lost_primary() {
    let proxy = without_hooks(plain(), "").await;
    let client = table(&proxy).await;
    proxy.node("pg1").freeze(Scope::Postmaster).await.unwrap();
    // Its sessions go on, also for longer than a lost primary would have been missed.
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    }
    assert_eq!(proxy.primary().as_deref(), Some("pg1"), "{:#?}", proxy.events());
    // Somebody should look at it all the same.
    proxy.wait_for_event("takes no new connections").await;
    proxy.node("pg1").thaw().unwrap();
}

#[tokio::test]
async fn a_primary_that_restarts_stays_the_primary() {
    let proxy = without_hooks(plain(), "refused_after = \"20s\"\n").await;
    let client = table(&proxy).await;
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    proxy.node("pg1").start().await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    assert_eq!(proxy.primary().as_deref(), Some("pg1"), "{:#?}", proxy.events());
    assert_eq!(proxy.app.operations().failover().epoch, 1);
}

#[tokio::test]
async fn in_maintenance_nothing_is_done_until_it_is_asked_for() {
    let proxy = without_hooks(plain(), "").await;
    let client = table(&proxy).await;
    proxy.order(Order::Maintenance(Maintenance::On)).await.unwrap();
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    proxy.wait_for_event("maintenance").await;
    assert_eq!(proxy.primary(), None);
    let dry = Order::Failover { to: None, waived: Guards::empty(), run: Run::Dry };
    let plan = proxy.order(dry).await.unwrap();
    assert!(plan[0].contains("would be promoted"), "{plan:?}");
    assert_eq!(proxy.primary(), None);
    proxy.order(Order::Maintenance(Maintenance::Off)).await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (1)").await;
}

/// One of the two standbys of which each commit needs one: it may have been the other.
#[tokio::test]
async fn without_a_quorum_nobody_is_promoted_unless_loss_is_allowed() {
    let proxy = without_hooks(plain().synchronous(1), "").await;
    let client = table(&proxy).await;
    proxy.node("pg3").kill9(Scope::Node).await.unwrap();
    proxy.wait_for_replicas(1).await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    proxy.wait_for_event("acknowledged commits could be lost").await;
    let order = |waived| Order::Failover { to: None, waived, run: Run::Real };
    let refused = proxy.order(order(Guards::empty())).await.unwrap_err();
    assert!(refused.to_string().contains("acknowledged commits could be lost"), "{refused}");
    assert_eq!(proxy.primary(), None);
    proxy.order(order(Guards::DATA_LOSS)).await.unwrap();
    assert_eq!(proxy.primary().as_deref(), Some("pg2"));
    assert_eq!(ask(&client, "SELECT sum(n) FROM t").await, "1");
}

#[tokio::test]
async fn a_delayed_replica_is_no_candidate() {
    let recipe = plain().node_setting("pg2", "recovery_min_apply_delay", "1h");
    let proxy = without_hooks(recipe, "").await;
    let client = proxy.connect().await;
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    let to = Some(proxy.id("pg2"));
    let refused = proxy.order(Order::Switchover { to, run: Run::Dry }).await.unwrap_err();
    assert!(refused.to_string().contains("with a delay"), "{refused}");
    proxy.node("pg1").kill9(Scope::Node).await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    assert_eq!(proxy.primary().as_deref(), Some("pg3"));
}

#[tokio::test]
async fn a_live_primary_is_not_failed_over_by_mistake() {
    let proxy = without_hooks(plain(), "").await;
    table(&proxy).await;
    let order = |waived| Order::Failover { to: None, waived, run: Run::Real };
    let refused = proxy.order(order(Guards::DATA_LOSS | Guards::FENCE)).await.unwrap_err();
    assert!(refused.to_string().contains("the primary answers"), "{refused}");
    proxy.order(order(Guards::LIVE_PRIMARY | Guards::DATA_LOSS)).await.unwrap();
    wait_for("another primary", LIMIT, async || proxy.primary().is_some_and(|name| name != "pg1")).await;
    // The old one was fenced by SQL, being within reach.
    let old = proxy.node("pg1").value("SHOW default_transaction_read_only").await.unwrap();
    assert_eq!(old.as_deref(), Some("on"));
}

/// A commit whose wait for a standby is cancelled succeeds on the primary alone: that is no success to rely on.
#[tokio::test]
async fn a_commit_that_no_standby_confirms_is_not_acknowledged() {
    let proxy = without_hooks(plain().synchronous(1), "automatic = false\n").await;
    let client = table(&proxy).await;
    for name in ["pg2", "pg3"] {
        proxy.node(name).freeze(Scope::Node).await.unwrap();
    }
    let insert = client.prepare("INSERT INTO t VALUES ($1)").await.unwrap();
    let hows = ["simple", "block", "commit", "extended", "prepared"];
    // Who does not want to be warned is told all the same.
    for (quiet, how) in hows.iter().map(|how| (false, *how)).chain(hows.iter().map(|how| (true, *how))) {
        if quiet {
            client.batch_execute("SET client_min_messages = error").await.unwrap();
        }
        if how == "commit" {
            let begin = "BEGIN; SET LOCAL client_min_messages = error; INSERT INTO t VALUES (1)";
            client.batch_execute(begin).await.unwrap();
        }
        let token = client.cancel_token();
        let write = async {
            match how {
                "simple" => client.batch_execute("INSERT INTO t VALUES (1); SELECT 1").await,
                "commit" => client.batch_execute("COMMIT").await,
                "block" => client.batch_execute("BEGIN; INSERT INTO t VALUES (1); COMMIT").await,
                "extended" => client.execute("INSERT INTO t VALUES (1)", &[]).await.map(drop),
                _ => client.execute(&insert, &[&1]).await.map(drop),
            }
        };
        let cancel = async {
            let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')";
            proxy.node("pg1").wait_for_truth("a commit waits", waiting).await.unwrap();
            token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        };
        let (written, ()) = tokio::join!(write, cancel);
        let code = written.err().and_then(|error| error.code().map(|code| code.code().to_owned()));
        assert_eq!(code.as_deref(), Some("08007"), "{how}, quiet: {quiet}");
    }
    // The error comes in the place of the success: drivers expect nothing behind that.
    let mut raw = Raw::connect(proxy.port(), "shop").await;
    raw.query("SET client_min_messages = error").await;
    let mut request = BytesMut::new();
    put_cancel(&mut request, raw.pid, &raw.key);
    let cancel = async {
        let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep')";
        proxy.node("pg1").wait_for_truth("a commit waits", waiting).await.unwrap();
        Raw::open(proxy.port()).await.send(&request).await;
    };
    let (said, ()) = tokio::join!(raw.query("INSERT INTO t VALUES (1)"), cancel);
    assert_eq!((tags(&said).as_str(), said[0].field(b'C')), ("EZ", Some("08007")), "{said:?}");
    for name in ["pg2", "pg3"] {
        proxy.node(name).thaw().unwrap();
    }
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    assert_eq!(ask(&client, "SELECT count(*) FROM t").await, "12");
    // A statement that was cancelled before says nothing of a commit.
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s").await.unwrap();
    let token = client.cancel_token();
    let cancel = async {
        let sleeping = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')";
        proxy.node("pg1").wait_for_truth("it sleeps", sleeping).await.unwrap();
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    };
    let (slept, ()) = tokio::join!(client.batch_execute("SELECT pg_sleep(600)"), cancel);
    assert_eq!(slept.unwrap_err().code().map(|code| code.code()), Some("57014"));
    client.batch_execute("ROLLBACK TO s; COMMIT").await.unwrap();
}
