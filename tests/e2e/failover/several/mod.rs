//! Several instances before the same nodes, which agree through etcd.

mod agreeing;
mod cancelling;
mod dark;
mod losing_etcd;
mod stopped;

use std::sync::Arc;

use pgpilot::admin::{InstanceRow, InstanceStanding};
use pgpilot::demo::LocalCluster;

use super::{attentive, plain};
use crate::support::etcd::Etcd;
use crate::support::proxy::{Proxy, topology};
use crate::support::{LIMIT, wait_for};

/// For how long an instance that says nothing counts as there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lease {
    /// It is to end in the course of the test.
    Short,
    /// What it is by default.
    Usual,
    /// However slow the machine is, it does not end.
    Long,
}

/// What every instance's topology file has at its end. `etcd`: a port on this host.
pub(super) fn section(name: &str, etcd: u16, lease: Lease) -> String {
    let lease = match lease {
        Lease::Short => "3s",
        Lease::Usual => "5s",
        Lease::Long => "60s",
    };
    format!(
        "[failover]\nuser = \"postgres\"\npassword = \"postgres\"\nmin_interval = \"0s\"\nautomatic = true\n\
         [coordination]\nname = \"{name}\"\netcd = [\"http://127.0.0.1:{etcd}\"]\nlease = \"{lease}\"\n"
    )
}

async fn servers() -> Arc<LocalCluster> {
    Arc::new(attentive(plain()).start().await.unwrap())
}

async fn instance(servers: &Arc<LocalCluster>, name: &str, etcd: u16, lease: Lease) -> Proxy {
    Proxy::configured(servers.clone(), topology(servers, &section(name, etcd, lease))).await
}

/// Two instances; the first one decides, and goes on to.
async fn two(servers: &Arc<LocalCluster>, etcd: &Etcd) -> (Proxy, Proxy) {
    let first = instance(servers, "a", etcd.port(), Lease::Long).await;
    first.wait_to_lead().await;
    let second = instance(servers, "b", etcd.port(), Lease::Long).await;
    for proxy in [&first, &second] {
        wait_for("the instances to see each other", LIMIT, async || proxy.instances().len() == 2).await;
    }
    (first, second)
}

/// Waits until both send writes to the same primary, of the same epoch.
async fn wait_to_agree(a: &Proxy, b: &Proxy) {
    let agree = async || a.primary().is_some() && (a.primary(), a.epoch()) == (b.primary(), b.epoch());
    let in_time = tokio::time::timeout(LIMIT, wait_for("both to agree", LIMIT * 2, agree)).await;
    assert!(in_time.is_ok(), "{:#?} {:#?}", a.events(), b.events());
}

impl Proxy {
    fn instances(&self) -> Vec<InstanceRow> {
        self.app.operations().instances()
    }

    pub(super) fn leads(&self) -> bool {
        self.instances().iter().any(|it| it.is_this && it.standing == InstanceStanding::Leader)
            && self.app.operations().failover().state != "following"
    }

    async fn wait_to_lead(&self) {
        wait_for("this instance to decide", LIMIT, async || self.leads()).await;
    }
}
