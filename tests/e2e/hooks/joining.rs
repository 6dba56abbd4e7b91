//! An old primary comes back as a standby, the cheapest way that works.

use std::fs;

use pgpilot::demo::{Node, Scope, Stop};

use super::{Hooked, hooked};

const OWN: &str = "# the configuration of this node\n";

/// A row that nobody but `pg1` has, and then its sudden end.
async fn diverge(hooked: &Hooked) {
    let [one, two, three] = hooked.nodes();
    one.sql("CREATE TABLE t (n int)").await.unwrap();
    hooked.servers.wait_caught_up(one).await.unwrap();
    two.stop(Stop::Fast).await.unwrap();
    three.stop(Stop::Fast).await.unwrap();
    one.sql("INSERT INTO t VALUES (1)").await.unwrap();
    // As `kill -9` of the server that a process list shows.
    one.kill9(Scope::Postmaster).await.unwrap();
    two.start().await.unwrap();
    three.start().await.unwrap();
}

fn configuration(node: &Node) -> String {
    fs::read_to_string(node.data_directory().join("postgresql.conf")).unwrap()
}

#[tokio::test]
async fn a_killed_primary_is_rewound() {
    let Some(hooked) = hooked().await else { return };
    let [one, two, _] = hooked.nodes();
    let own = format!("{}{OWN}", configuration(one));
    fs::write(one.data_directory().join("postgresql.conf"), &own).unwrap();
    diverge(&hooked).await;
    hooked.twice("fence", 2, one, two).await;
    hooked.promote_two().await;
    let [first, second] = hooked.twice("rejoin", 2, one, two).await;
    first.says(": rewind");
    assert!(!first.said.contains("base backup"), "{}", first.said);
    second.says("streams from pg2 already");
    hooked.is_whole(one, two, "2").await;
    assert_eq!(configuration(one), own);
    // It is worth something: the next primary.
    one.promote().await.unwrap();
    one.sql("INSERT INTO t VALUES (3)").await.unwrap();
}

#[tokio::test]
async fn a_running_primary_is_fenced_and_rewound() {
    let Some(hooked) = hooked().await else { return };
    let [one, two, _] = hooked.nodes();
    one.sql("CREATE TABLE t (n int)").await.unwrap();
    hooked.servers.wait_caught_up(one).await.unwrap();
    // It takes no signal: it is killed.
    one.freeze(Scope::Node).await.unwrap();
    hooked.set("FENCE_GRACE=0");
    hooked.twice("fence", 2, one, two).await;
    hooked.promote_two().await;
    // Started by mistake, it is no primary.
    one.start().await.unwrap();
    assert_eq!(one.value("SELECT pg_is_in_recovery()").await.unwrap().as_deref(), Some("t"));
    hooked.twice("rejoin", 2, one, two).await;
    hooked.is_whole(one, two, "2").await;
}

#[tokio::test]
async fn a_primary_that_was_shut_down_cleanly_comes_back_as_it_is() {
    let Some(hooked) = hooked().await else { return };
    let [one, two, three] = hooked.nodes();
    one.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await.unwrap();
    let [first, _] = hooked.twice("demote", 2, one, two).await;
    first.says("shut down cleanly");
    // The other candidate is out of order: undone.
    hooked.twice("rejoin", 2, one, one).await;
    one.sql("INSERT INTO t VALUES (1)").await.unwrap();
    one.wait_for_follower(two).await.unwrap();
    one.wait_for_follower(three).await.unwrap();
    hooked.twice("demote", 3, one, two).await;
    hooked.promote_two().await;
    let [first, second] = hooked.twice("rejoin", 3, one, two).await;
    first.says(": as-it-is");
    second.says("streams from pg2 already");
    hooked.is_whole(one, two, "1,1,2").await;

    // And back.
    two.wait_for_follower(three).await.unwrap();
    hooked.twice("demote", 4, two, one).await;
    one.promote().await.unwrap();
    three.repoint(one).await.unwrap();
    let [first, _] = hooked.twice("rejoin", 4, two, one).await;
    first.says(": as-it-is");
    hooked.is_whole(two, one, "1,1,2").await;
}

#[tokio::test]
async fn without_the_wal_to_rewind_by_a_base_backup_is_taken() {
    let Some(hooked) = hooked().await else { return };
    let [one, two, _] = hooked.nodes();
    let own = format!("{}{OWN}", configuration(one));
    fs::write(one.data_directory().join("postgresql.conf"), &own).unwrap();
    diverge(&hooked).await;
    hooked.twice("fence", 2, one, two).await;
    hooked.promote_two().await;
    let wal = one.data_directory().join("pg_wal");
    for entry in fs::read_dir(wal).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        fs::remove_file(entry.path()).unwrap();
    }
    let [first, second] = hooked.twice("rejoin", 2, one, two).await;
    first.says(": rewind");
    first.says("base backup");
    second.says("streams from pg2 already");
    hooked.is_whole(one, two, "2").await;
    assert_eq!(configuration(one), own);
}

#[tokio::test]
async fn without_the_wal_to_follow_by_a_base_backup_is_taken() {
    let Some(hooked) = hooked().await else { return };
    let [one, two, _] = hooked.nodes();
    one.sql("CREATE TABLE t (n int)").await.unwrap();
    hooked.twice("demote", 2, one, two).await;
    hooked.promote_two().await;
    // Nothing but the newest is kept: slots are made when a node joins.
    two.set("wal_keep_size", "0").await.unwrap();
    for _ in 0..3 {
        two.sql("INSERT INTO t VALUES (2)").await.unwrap();
        two.sql("SELECT pg_switch_wal()").await.unwrap();
    }
    two.sql("DELETE FROM t WHERE ctid <> (SELECT min(ctid) FROM t)").await.unwrap();
    hooked.servers.wait_caught_up(two).await.unwrap();
    two.sql("CHECKPOINT").await.unwrap();
    hooked.set("STREAM_WAIT=2");
    let [first, second] = hooked.twice("rejoin", 2, one, two).await;
    first.says(": as-it-is");
    first.says("base backup");
    second.says("streams from pg2 already");
    hooked.is_whole(one, two, "2").await;
}

#[tokio::test]
async fn after_an_interrupted_rewind_a_base_backup_is_taken() {
    let Some(hooked) = hooked().await else { return };
    let [one, two, _] = hooked.nodes();
    one.sql("CREATE TABLE t (n int)").await.unwrap();
    hooked.twice("demote", 2, one, two).await;
    hooked.promote_two().await;
    // What an interrupted one leaves: the primary's configuration, with the node's own beside, and who knows what else.
    let own = format!("{}{OWN}", configuration(one));
    let notes = one.data_directory().with_extension("pgpilot");
    hooked.account.private_directory(&notes.join("kept")).unwrap();
    hooked.account.private_file(&notes.join("kept/postgresql.conf"), &own).unwrap();
    hooked.account.private_file(&notes.join("unfinished"), "").unwrap();
    let [first, _] = hooked.twice("rejoin", 2, one, two).await;
    first.says("base backup");
    hooked.is_whole(one, two, "2").await;
    assert_eq!(configuration(one), own);
}
