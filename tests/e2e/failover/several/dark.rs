//! An instance that is cut off from the nodes, and not from etcd.

use super::super::cut::through_relays;
use super::super::{table, until_written};
use super::{Lease, instance, section, servers, wait_to_agree};
use crate::support::etcd::Etcd;
use crate::support::proxy::{Proxy, topology};
use crate::support::relay::Relay;
use crate::support::{LIMIT, wait_for};

#[tokio::test]
async fn an_instance_that_sees_no_node_lets_another_one_decide() {
    let (servers, etcd) = (servers().await, Etcd::start().await);
    let (config, relays) = through_relays(topology(&servers, &section("a", etcd.port(), Lease::Long))).await;
    let a = Proxy::configured(servers.clone(), config).await;
    a.wait_to_lead().await;
    let b = instance(&servers, "b", etcd.port(), Lease::Long).await;
    wait_for("the instances to see each other", LIMIT, async || a.instances().len() == 2).await;
    let client = table(&b).await;
    relays.iter().for_each(Relay::cut);
    // Its lease goes on: by that alone it would decide for ever.
    b.wait_to_lead().await;
    b.node("pg1").kill9(pgpilot::demo::Scope::Node).await.unwrap();
    until_written(&client, "INSERT INTO t VALUES (1)").await;
    assert_ne!(b.primary().as_deref(), Some("pg1"), "{:#?}", b.events());
    relays.iter().for_each(Relay::mend);
    wait_to_agree(&a, &b).await;
    assert!(b.leads() && !a.leads(), "who decides goes on to: {:#?}", a.events());
}
