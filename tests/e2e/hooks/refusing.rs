//! A hook that would do harm refuses, and changes nothing.

use std::fs;

use pgpilot::demo::Scope;

use crate::support::LIMIT;
use crate::support::watch::another_cluster;

use super::hooked;

#[tokio::test]
async fn an_order_of_an_earlier_epoch_is_refused() {
    let Some(hooked) = hooked().await else { return };
    let [one, two, _] = hooked.nodes();
    hooked.twice("post_promote", 7, one, one).await;
    for hook in ["fence", "demote", "rejoin"] {
        let late = hooked.run(hook, 6, one, two).await;
        assert_eq!(late.status, Some(3), "{}", late.said);
        assert!(one.is_running(), "{hook}:\n{}", late.said);
    }
}

#[tokio::test]
async fn a_node_joins_no_standby_and_no_other_system() {
    let Some(hooked) = hooked().await else { return };
    let [one, two, three] = hooked.nodes();
    hooked.set("PRIMARY_WAIT=1");
    let standby = hooked.run("rejoin", 2, two, three).await;
    assert_eq!(standby.status, Some(1), "{}", standby.said);
    standby.says("is no primary");
    assert!(two.is_running());

    let others = another_cluster().await.unwrap();
    let stranger = &others.nodes()[0];
    stranger.sql("CREATE ROLE replicator LOGIN REPLICATION PASSWORD 'replicator'").await.unwrap();
    let foreign = hooked.run("rejoin", 2, two, stranger).await;
    assert_eq!(foreign.status, Some(1), "{}", foreign.said);
    foreign.says("is of system");
    assert!(two.is_running());

    // Nor does the newer primary join the older one.
    two.promote().await.unwrap();
    two.sql("CHECKPOINT").await.unwrap();
    let backwards = hooked.run("rejoin", 2, two, one).await;
    assert_eq!(backwards.status, Some(1), "{}", backwards.said);
    backwards.says("it may be the better primary");
    assert!(two.is_running());
}

#[tokio::test]
async fn of_two_hooks_at_a_time_one_makes_the_node_whole() {
    let Some(hooked) = hooked().await else { return };
    let [one, two, _] = hooked.nodes();
    hooked.set("LOCK_WAIT=60");
    one.sql("CREATE TABLE t (n int)").await.unwrap();
    hooked.twice("demote", 2, one, two).await;
    hooked.promote_two().await;
    let (first, second) = tokio::join!(hooked.run("rejoin", 2, one, two), hooked.run("rejoin", 2, one, two));
    let done = [&first, &second].into_iter().filter(|done| done.status == Some(0)).count();
    assert!(done >= 1, "{}\n{}", first.said, second.said);
    hooked.is_whole(one, two, "2").await;
}

#[tokio::test]
async fn what_is_not_proven_is_not_done() {
    let Some(hooked) = hooked().await else { return };
    let [one, two, _] = hooked.nodes();
    // The candidate does not get the last record.
    hooked.set("PRIMARY_WAIT=1 DEMOTE_WAIT=1");
    two.freeze(Scope::Node).await.unwrap();
    let unproven = hooked.run("demote", 2, one, two).await;
    assert_eq!(unproven.status, Some(1), "{}", unproven.said);
    two.thaw().unwrap();

    // A server that has crashed is not shut down cleanly.
    one.wait_until_ended(LIMIT).await.unwrap();
    one.start().await.unwrap();
    one.kill9(Scope::Node).await.unwrap();
    let crashed = hooked.run("demote", 3, one, two).await;
    assert_eq!(crashed.status, Some(1), "{}", crashed.said);
    crashed.says("not shut down cleanly");
    assert!(fs::exists(one.data_directory().join("standby.signal")).unwrap());
}
