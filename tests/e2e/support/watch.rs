//! Watching a throwaway cluster as pgpilot does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgpilot::cluster::{Cluster, Settings};
use pgpilot::config::{self, NodeName, Secret, ServerTls, SslMode};
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
        limits: Limits { failures: 3, max_lag: Duration::from_millis(1000), lag_recovery: Duration::from_millis(500) },
    }
}

pub(crate) const INTERVAL: Duration = Duration::from_millis(200);

/// The usual beginning: the primary is pg1, and both replicas are in use.
pub(crate) async fn watched(servers: &LocalCluster) -> Arc<Cluster> {
    let cluster = Cluster::start(&settings(servers, INTERVAL));
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

/// Clusters are copies of one template: this makes another of one, by hand.
pub(crate) async fn another_cluster() -> Result<LocalCluster, Box<dyn std::error::Error>> {
    let pilot = User::scram("pilot", "secret").with("IN ROLE pg_monitor");
    let servers = LocalCluster::builder().user(pilot).replicas(0).start().await?;
    let node = servers.node("pg1")?;
    node.stop(Stop::Fast).await?;
    let control = node.data_directory().join("global/pg_control");
    let mut bytes = std::fs::read(&control)?;
    // ControlFileData of catalog/pg_control.h begins with the system identifier; the checksum (CRC-32C) covers what is
    // in front of it.
    bytes[0] ^= 0x55;
    let covered = CONTROL_FILE_CHECKSUM_AT;
    let sum = crc32c(&bytes[..covered]);
    bytes[covered..covered + 4].copy_from_slice(&sum.to_ne_bytes());
    std::fs::write(&control, bytes)?;
    // The log has to be of the same cluster.
    let mut reset = Account::choose()?.command(node.binaries().tool("pg_resetwal")?);
    reset.arg("--force").arg("-D").arg(node.data_directory());
    assert!(reset.output()?.status.success(), "pg_resetwal");
    node.start().await?;
    Ok(servers)
}

const CONTROL_FILE_CHECKSUM_AT: usize = 288;

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 })
    })
}
