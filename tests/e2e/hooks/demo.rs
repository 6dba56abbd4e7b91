//! The hooks of a throwaway cluster, which the demo is made whole with.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use pgpilot::admin::Action;
use pgpilot::decide::failover::{Order, Run};
use pgpilot::demo::{Hooks, LocalCluster, Node, Scope};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::proxy::{self, Proxy};
use crate::support::{LIMIT, wait_for};

use super::HOOK_LIMIT;

async fn run(hooks: &Hooks, hook: &str, node: &Node, primary: &Node) -> Output {
    let (program, arguments) = hooks.command().split_first().unwrap();
    let mut command = Command::new(program);
    command.args(arguments).env("PGPILOT_HOOK", hook).env("PGPILOT_NODE", node.name());
    command.env("PGPILOT_PRIMARY", primary.name()).kill_on_drop(true);
    timeout(HOOK_LIMIT, command.output()).await.unwrap().unwrap()
}

async fn twice(hooks: &Hooks, hook: &str, node: &Node, primary: &Node) {
    for _ in 0..2 {
        let output = run(hooks, hook, node, primary).await;
        assert!(output.status.success(), "{hook}: {output:?}");
    }
}

#[tokio::test]
async fn a_throwaway_cluster_is_made_whole() {
    let cluster = Arc::new(LocalCluster::builder().start().await.unwrap());
    let hooks = cluster.serve_hooks(Path::new(env!("CARGO_BIN_EXE_pgpilot"))).unwrap();
    let [one, two, three] = cluster.nodes() else { panic!("three nodes") };
    one.sql("CREATE TABLE t (n int)").await.unwrap();

    // As `kill -9` at a terminal.
    one.kill9(Scope::Postmaster).await.unwrap();
    twice(&hooks, "fence", one, two).await;
    assert!(!run(&hooks, "demote", one, two).await.status.success(), "it was killed");
    two.promote().await.unwrap();
    three.repoint(two).await.unwrap();
    two.sql("INSERT INTO t VALUES (1)").await.unwrap();
    twice(&hooks, "rejoin", one, two).await;
    cluster.wait_caught_up(two).await.unwrap();
    assert_eq!(cluster.running().count(), 3);

    // Planned, first in vain.
    twice(&hooks, "demote", two, one).await;
    twice(&hooks, "rejoin", two, two).await;
    two.sql("INSERT INTO t VALUES (2)").await.unwrap();
    cluster.wait_for_streaming(two).await.unwrap();
    twice(&hooks, "demote", two, one).await;
    one.promote().await.unwrap();
    three.repoint(one).await.unwrap();
    twice(&hooks, "rejoin", two, one).await;
    cluster.wait_caught_up(one).await.unwrap();
    assert_eq!(two.value("SELECT count(*) FROM t").await.unwrap().as_deref(), Some("2"));

    let unknown = run(&hooks, "dance", one, two).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no hook \"dance\""), "{unknown:?}");
}

#[tokio::test]
async fn pgpilot_makes_a_cluster_whole_after_a_failover_and_a_switchover() {
    let servers = Arc::new(proxy::servers().await);
    let hooks = servers.serve_hooks(Path::new(env!("CARGO_BIN_EXE_pgpilot"))).unwrap();
    let (command, state) = (hooks.command(), servers.directory().join("failover.state"));
    let section = format!(
        "[failover]\nautomatic = true\nmin_interval = \"0s\"\nuser = \"postgres\"\npassword = \"postgres\"\n\
         state_file = {state:?}\nfence_command = {command:?}\ndemote_command = {command:?}\nrejoin_command = {command:?}\n"
    );
    let proxy = Proxy::before(Arc::clone(&servers), &section).await;
    let one = servers.node("pg1").unwrap();
    let client = proxy.connect().await;
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    servers.wait_caught_up(one).await.unwrap();

    one.kill9(Scope::Postmaster).await.unwrap();
    wait_for("a write to succeed again", LIMIT, async || {
        client.batch_execute("INSERT INTO t VALUES (1)").await.is_ok()
    })
    .await;
    let primary = servers.primary().await.unwrap();
    assert_ne!(primary.name(), "pg1");
    primary.wait_for_follower(one).await.unwrap();
    proxy.wait_for_replicas(2).await;

    // Back, at a command: nobody sees an error, and the other comes back as it was.
    let to = proxy.app.shared().cluster.find("pg1");
    let order = Order::Switchover { to, run: Run::Real };
    proxy.app.operations().perform(Action::Order(order)).await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    for node in servers.nodes().iter().filter(|node| node.name() != "pg1") {
        one.wait_for_follower(node).await.unwrap();
    }
    proxy.wait_for_replicas(2).await;
    servers.wait_caught_up(one).await.unwrap();
    assert_eq!(servers.running().count(), 3);
}
