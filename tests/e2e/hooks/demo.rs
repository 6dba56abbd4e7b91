//! The hooks of a throwaway cluster, which the demo is made whole with.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use pgpilot::demo::{Hooks, LocalCluster, Node, Scope};
use tokio::process::Command;
use tokio::time::timeout;

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
