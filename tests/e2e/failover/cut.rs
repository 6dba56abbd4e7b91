//! The network is cut, and everybody lives.

use std::sync::Arc;

use pgpilot::config::Config;
use pgpilot::decide::route::{Role, State};
use pgpilot::demo::{LocalCluster, Node};

use super::{attentive, plain, section, table, until_written};
use crate::support::proxy::{Proxy, ask, topology};
use crate::support::relay::Relay;
use crate::support::{LIMIT, wait_for};

/// A pgpilot that reaches each node through a relay of its own, in the nodes' order. `more` is for `[failover]`.
pub(super) async fn behind_relays(servers: &Arc<LocalCluster>, more: &str) -> (Proxy, Vec<Relay>) {
    let more = format!("{}automatic = true\n{more}[routing]\nprimary_wait = \"2s\"\n", section(servers));
    let (config, relays) = through_relays(topology(servers, &more)).await;
    (Proxy::configured(servers.clone(), config).await, relays)
}

/// The same, but that each node is reached through a relay of its own, in the nodes' order.
pub(super) async fn through_relays(mut config: Config) -> (Config, Vec<Relay>) {
    let mut relays = Vec::new();
    for node in &mut config.nodes {
        let relay = Relay::start(node.port).await;
        // The nodes reach each other without it.
        node.replication_port = Some(node.port);
        node.port = relay.port();
        relays.push(relay);
    }
    (config, relays)
}

pub(super) async fn cluster() -> Arc<LocalCluster> {
    Arc::new(attentive(plain()).start().await.unwrap())
}

/// Has a replica stream through a relay.
pub(super) async fn stream_through(replica: &Node, relay: &Relay) {
    let conninfo = replica.value("SHOW primary_conninfo").await.unwrap().unwrap();
    // The last value of a keyword counts.
    replica.set("primary_conninfo", &format!("{conninfo} port={}", relay.port())).await.unwrap();
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming' AND sender_port = {})",
        relay.port()
    );
    replica.wait_for_truth("it streams through the relay", &sql).await.unwrap();
}

/// The network between pg1, the primary, and its replicas.
pub(super) async fn upstream(servers: &LocalCluster) -> Relay {
    let relay = Relay::start(servers.node("pg1").unwrap().port()).await;
    for replica in ["pg2", "pg3"] {
        stream_through(servers.node(replica).unwrap(), &relay).await;
    }
    relay
}

#[tokio::test]
async fn a_primary_that_pgpilot_alone_cannot_reach_is_not_replaced() {
    let servers = cluster().await;
    let (proxy, relays) = behind_relays(&servers, "").await;
    let client = table(&proxy).await;
    relays[0].cut();
    proxy.wait_for_event("it is unreachable, not dead").await;
    let error = client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("57P03"), "{error:?}");
    relays[0].mend();
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    assert_eq!((proxy.primary().as_deref(), proxy.app.operations().failover().epoch), (Some("pg1"), 1));
}

#[tokio::test]
async fn a_primary_that_nobody_reaches_is_replaced_and_fenced_when_it_is_found() {
    let servers = cluster().await;
    let upstream = upstream(&servers).await;
    let (proxy, relays) = behind_relays(&servers, "").await;
    let client = table(&proxy).await;
    relays[0].cut();
    upstream.cut();
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    assert_ne!(proxy.primary().as_deref(), Some("pg1"), "{:#?}", proxy.events());
    // It lives, and takes the writes of whoever reaches it, until pgpilot does.
    let old = servers.node("pg1").unwrap();
    relays[0].mend();
    wait_for("a fence", LIMIT, async || {
        let setting = old.value("SHOW default_transaction_read_only").await;
        setting.is_ok_and(|setting| setting.as_deref() == Some("on"))
    })
    .await;
    proxy.wait_for_event("is writable and not the primary").await;
    proxy.wait_for_replicas(1).await;
}

#[tokio::test]
async fn a_pgpilot_that_sees_nothing_does_nothing() {
    let servers = cluster().await;
    let (proxy, relays) = behind_relays(&servers, "").await;
    let client = table(&proxy).await;
    relays.iter().for_each(Relay::cut);
    proxy.wait_for_event("no replica can be asked").await;
    let error = client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("57P03"), "{error:?}");
    relays.iter().for_each(Relay::mend);
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    assert_eq!((proxy.primary().as_deref(), proxy.app.operations().failover().epoch), (Some("pg1"), 1));
}

#[tokio::test]
async fn a_primary_that_is_cut_off_from_its_replicas_goes_on_and_serves_the_reads() {
    let servers = cluster().await;
    let upstream = upstream(&servers).await;
    let (proxy, _relays) = behind_relays(&servers, "").await;
    let client = table(&proxy).await;
    upstream.cut();
    let stale = async || {
        // Who writes nothing is not behind.
        client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
        let snapshot = proxy.app.shared().cluster.snapshot();
        snapshot.nodes.iter().filter(|node| node.role == Role::Replica).all(|node| !node.fresh)
    };
    wait_for("the replicas to be too far behind", LIMIT, stale).await;
    let sum = ask(&client, "/* pgpilot: primary */ SELECT sum(n) FROM t").await;
    let reader = proxy.connect().await;
    reader.batch_execute("SET pgpilot.consistency = 'eventual'").await.unwrap();
    assert_eq!(ask(&reader, "SELECT sum(n) FROM t").await, sum);
    assert_eq!((proxy.primary().as_deref(), proxy.epoch()), (Some("pg1"), 1), "{:#?}", proxy.events());
}

#[tokio::test]
async fn a_pgpilot_that_sees_the_primary_alone_sends_it_everything() {
    let servers = cluster().await;
    let (proxy, relays) = behind_relays(&servers, "").await;
    let client = table(&proxy).await;
    relays[1..].iter().for_each(Relay::cut);
    let alone = async || {
        let snapshot = proxy.app.shared().cluster.snapshot();
        snapshot.nodes[1..].iter().all(|node| node.state == State::Down)
    };
    wait_for("the replicas to be lost", LIMIT, alone).await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let reader = proxy.connect().await;
    assert_eq!(ask(&reader, "SELECT sum(n) FROM t").await, "1");
    assert_eq!((proxy.primary().as_deref(), proxy.epoch()), (Some("pg1"), 1), "{:#?}", proxy.events());
}
