//! Watching a throwaway cluster as pgpilot does.

use std::error::Error;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgpilot::cluster::{Cluster, Settings};
use pgpilot::config::{self, LagLimits, NodeName, Secret, ServerTls, SslMode};
use pgpilot::decide::health::Limits;
use pgpilot::decide::route::{NodeView, Snapshot};
use pgpilot::demo::account::Account;
use pgpilot::demo::{LocalCluster, Node, Stop, User};

use super::LIMIT;

/// The probing role has what the documentation says it needs, and no more.
pub(crate) async fn servers() -> LocalCluster {
    let pilot = User::scram("pilot", "secret").with("IN ROLE pg_monitor");
    LocalCluster::builder().user(pilot).start().await.expect("a cluster starts")
}

pub(crate) fn settings(servers: &LocalCluster, interval: Duration) -> Settings {
    let tls = ServerTls { mode: SslMode::Disable, ca: None, certificate: None, key: None };
    let node = |node: &Node| config::Node {
        name: NodeName::new(node.name()).expect("a name"),
        host: "127.0.0.1".to_owned(),
        port: node.port(),
        zone: None,
        weight: 1,
        priority: 100,
        replication_host: None,
        replication_port: None,
        lag: LagLimits::by_time(MAX_LAG, Duration::from_millis(500)),
        tls: tls.clone(),
    };
    Settings {
        nodes: servers.nodes().iter().map(node).collect(),
        health: config::Health {
            user: "pilot".to_owned(),
            password: Some(Secret::new("secret".to_owned())),
            database: "postgres".to_owned(),
            interval,
            timeout: Duration::from_secs(1),
            failures: 3,
        },
        limits: Limits { failures: 3 },
    }
}

pub(crate) const INTERVAL: Duration = Duration::from_millis(200);
pub(crate) const MAX_LAG: Duration = Duration::from_secs(1);

/// The usual beginning: the primary is pg1, and both replicas are in use.
pub(crate) async fn watched(servers: &LocalCluster) -> Arc<Cluster> {
    let cluster = Cluster::start(&settings(servers, INTERVAL), None);
    sees(&cluster, "pg1 leads, and the others are fresh", |snapshot| {
        leader(snapshot) == Some("pg1") && ["pg2", "pg3"].iter().all(|name| view(snapshot, name).fresh)
    })
    .await;
    cluster
}

/// Waits for a snapshot as the rest of pgpilot does.
pub(crate) async fn sees(cluster: &Cluster, what: &str, condition: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let end = Instant::now() + LIMIT;
    let mut snapshot = cluster.snapshot();
    while !condition(&snapshot) {
        assert!(Instant::now() < end, "{what}: {snapshot:#?}");
        snapshot = cluster.wait_change(&snapshot, end).await;
    }
    snapshot
}

pub(crate) fn leader(snapshot: &Snapshot) -> Option<&str> {
    Some(snapshot.node(snapshot.primary?)?.name.as_str())
}

pub(crate) fn view<'a>(snapshot: &'a Snapshot, name: &str) -> &'a NodeView {
    snapshot.nodes.iter().find(|node| node.name.as_str() == name).expect("a node of the file")
}

/// A node with a system identifier of its own: clusters are copies of one template, and share that of it.
pub(crate) async fn another_cluster() -> Result<LocalCluster, Box<dyn Error>> {
    let servers = LocalCluster::builder().replicas(0).start().await?;
    let node = servers.node("pg1")?;
    node.stop(Stop::Fast).await?;
    let (data, old) = (node.data_directory(), node.data_directory().with_extension("old"));
    fs::rename(&data, &old)?;
    let mut initdb = Account::choose()?.command(node.binaries().tool("initdb")?);
    initdb.current_dir(servers.directory()).args(["--no-sync", "--auth=trust", "--username=postgres"]);
    let made = initdb.arg("-D").arg(&data).output()?;
    assert!(made.status.success(), "{made:?}");
    for file in ["postgresql.conf", "pg_hba.conf"] {
        fs::copy(old.join(file), data.join(file))?;
    }
    node.start().await?;
    node.sql("CREATE ROLE pilot LOGIN PASSWORD 'secret' IN ROLE pg_monitor").await?;
    Ok(servers)
}
