//! A replica that can tell of itself when it has what a read waits for is not asked again and again.

use crate::support::proxy::{Proxy, ask};
use crate::support::{LIMIT, wait_for};

#[tokio::test]
async fn a_read_that_waits_for_a_replica_is_let_go_by_the_replica_itself() {
    let proxy = Proxy::with("[routing]\nreplica_wait = \"60s\"\nmax_lag = \"1h\"\n").await;
    let version = proxy.node("pg1").binaries().version();
    if version.major < 19 {
        println!("skipped: PostgreSQL {version} has no WAIT FOR LSN");
        return;
    }
    let client = proxy.connect().await;
    client.batch_execute("CREATE TABLE t AS SELECT 'old' AS s").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    for replica in ["pg2", "pg3"] {
        proxy.node(replica).pause_replay().await.unwrap();
    }
    client.batch_execute("UPDATE t SET s = 'new'").await.unwrap();
    let before = proxy.counts().1;
    let reading = tokio::spawn(async move { ask(&client, "SELECT s FROM t").await });
    let replica = proxy.node("pg2").connect().await.unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'pgpilot' AND wait_event = 'WaitForWalReplay'";
    wait_for("pgpilot to wait for the replica's replay", LIMIT, async || {
        // Nobody is waited for for long.
        proxy.app.shared().cluster.want_mark();
        ask(&replica, waits).await == "1"
    })
    .await;
    assert!(!reading.is_finished());
    proxy.node("pg2").resume_replay().await.unwrap();
    assert_eq!(reading.await.unwrap(), "new");
    assert_eq!(proxy.counts().1, before + 1, "on a replica");
}
