//! Throwaway clusters do what the other tests rely on.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pgpilot::demo::replication::Rejoin;
use pgpilot::demo::{LocalCluster, Node, Scope, Stop, User};
use tokio::time::timeout;
use tokio_postgres::NoTls;

use crate::support::{LIMIT, cluster, own_cluster, wait_for};

/// Processes that work somewhere under this directory.
fn processes_under(directory: &Path) -> usize {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter(|e| fs::read_link(e.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory))).count()
}

async fn number(node: &Node, sql: &str) -> i64 {
    node.value(sql).await.expect("an answer").expect("a value").parse().expect("a number")
}

#[tokio::test]
async fn starts_and_leaves_no_trace() {
    cluster().await; // The template is there from now on.
    let begin = Instant::now();
    let cluster = own_cluster().await;
    println!("a cluster of three nodes: {:?}", begin.elapsed());
    let directory = cluster.directory().to_owned();
    assert!(processes_under(&directory) >= 3);
    let begin = Instant::now();
    drop(cluster);
    println!("gone: {:?}", begin.elapsed());
    assert_eq!(processes_under(&directory), 0);
    assert!(!directory.exists());
}

#[tokio::test]
async fn leaves_no_trace_after_a_panic_with_dead_and_frozen_nodes() {
    let cluster = own_cluster().await;
    let directory = cluster.directory().to_owned();
    cluster.node("pg1").unwrap().kill9(Scope::Node).await.unwrap();
    cluster.node("pg2").unwrap().freeze(Scope::Node).await.unwrap();
    let panicked = tokio::spawn(async move {
        let _kept = cluster;
        panic!("on purpose");
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert_eq!(processes_under(&directory), 0);
    assert!(!directory.exists());
}

/// Not a test: what `a_killed_process_leaves_no_servers` kills.
#[tokio::test]
#[ignore = "run by a_killed_process_leaves_no_servers"]
async fn holds_a_cluster_until_it_is_killed() {
    let cluster = own_cluster().await;
    println!("\ncluster at {}", cluster.directory().display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_process_leaves_no_servers() {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--nocapture", "--exact", "local::holds_a_cluster_until_it_is_killed"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let directory = lines.find_map(|line| line.unwrap().strip_prefix("cluster at ").map(PathBuf::from)).unwrap();
    assert!(processes_under(&directory) >= 3);
    process.kill().unwrap();
    process.wait().unwrap();
    wait_for("nothing is left", LIMIT, async || !directory.exists() && processes_under(&directory) == 0).await;
}

#[tokio::test]
async fn what_a_crash_of_the_machine_left_is_removed() {
    let abandoned = cluster().await.directory().with_file_name("cluster-abandoned");
    fs::create_dir_all(abandoned.join("pg1/data")).unwrap();
    let _another = LocalCluster::builder().replicas(0).start().await.unwrap();
    assert!(!abandoned.exists());
}

#[tokio::test]
async fn replicates_and_knows_its_primary() {
    let cluster = cluster().await;
    let primary = cluster.primary().await.unwrap();
    assert_eq!(primary.name(), "pg1");
    primary.sql("CREATE TABLE replicates (n int); INSERT INTO replicates VALUES (1), (2), (3)").await.unwrap();
    cluster.wait_caught_up(primary).await.unwrap();
    for node in cluster.nodes() {
        assert_eq!(number(node, "SELECT count(*) FROM replicates").await, 3, "{}", node.name());
        assert_eq!(number(node, "SELECT count(*) FROM pg_replication_slots").await, 3, "{}", node.name());
        assert_eq!(node.value("SHOW cluster_name").await.unwrap().as_deref(), Some(node.name()));
    }
}

#[tokio::test]
async fn users_log_in_over_tcp_with_their_kind_of_password() {
    let builder = LocalCluster::builder().replicas(0).user(User::scram("app", "it's")).user(User::md5("old", "o\\ld"));
    let cluster = builder.sql("CREATE TABLE mine (n int)").sql("GRANT ALL ON mine TO app").start().await.unwrap();
    let node = &cluster.nodes()[0];
    for (user, password) in [("postgres", "postgres"), ("app", "it's"), ("old", "o\\ld")] {
        let (client, connection) = node.config(user, password).connect(NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let row = client.query_one("SELECT current_user::text", &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), user);
        drop(client);
        connection.await.unwrap().unwrap();
        let refused = node.config(user, "wrong").connect(NoTls).await.err().expect("a wrong password is refused");
        assert_eq!(refused.code().unwrap().code(), "28P01");
    }
    let kinds =
        "SELECT string_agg(left(rolpassword, 3), ',' ORDER BY rolname) FROM pg_authid WHERE rolname IN ('app', 'old')";
    assert_eq!(node.value(kinds).await.unwrap().as_deref(), Some("SCR,md5"));
}

#[tokio::test]
async fn founding_sql_that_fails_is_an_error() {
    let error = LocalCluster::builder().replicas(0).sql("SELECT 1/0").start().await.unwrap_err().to_string();
    assert!(error.contains("division by zero"), "{error}");
}

#[tokio::test]
async fn a_setting_that_is_wrong_is_an_error_with_the_log() {
    let builder = LocalCluster::builder().replicas(1).node_setting("pg2", "no_such_setting", "1");
    let error = builder.start().await.unwrap_err().to_string();
    assert!(error.contains("pg2") && error.contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn a_killed_primary_is_replaced_and_comes_back_by_rewind_or_copy() {
    let cluster = own_cluster().await;
    let [one, two, three] = cluster.nodes() else { panic!("three nodes") };
    one.sql("CREATE TABLE t (n int)").await.unwrap();
    cluster.wait_caught_up(one).await.unwrap();

    // What a failover does, with a write on the old primary that nobody else has got. (Frozen replicas would find it
    // in their sockets.)
    two.stop(Stop::Fast).await.unwrap();
    three.stop(Stop::Fast).await.unwrap();
    one.sql("INSERT INTO t VALUES (1)").await.unwrap();
    one.kill9(Scope::Node).await.unwrap();
    two.start().await.unwrap();
    three.start().await.unwrap();
    two.promote().await.unwrap();
    three.repoint(two).await.unwrap();
    two.sql("INSERT INTO t VALUES (2)").await.unwrap();
    assert_eq!(cluster.primary().await.unwrap().name(), "pg2");

    cluster.rejoin(one, two).await.unwrap();
    cluster.wait_caught_up(two).await.unwrap();
    for node in cluster.nodes() {
        let rows = node.value("SELECT string_agg(n::text, ',' ORDER BY n) FROM t").await.unwrap();
        assert_eq!(rows.as_deref(), Some("2"), "{}", node.name());
    }
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(number(one, slots).await, 3);

    // The same again, with a planned stop and a copy.
    two.stop(Stop::Fast).await.unwrap();
    one.promote().await.unwrap();
    three.repoint(one).await.unwrap();
    one.sql("INSERT INTO t VALUES (3)").await.unwrap();
    cluster.rejoin_by(Rejoin::Copy, two, one).await.unwrap();
    cluster.wait_for_streaming(one).await.unwrap();
    cluster.wait_caught_up(one).await.unwrap();
    assert_eq!(number(two, "SELECT max(n) FROM t").await, 3);
    assert_eq!(number(two, slots).await, 3);
}

#[tokio::test]
async fn a_frozen_node_says_nothing_until_it_thaws() {
    let cluster = own_cluster().await;
    let replica = cluster.node("pg2").unwrap();
    let session = replica.connect().await.unwrap();
    replica.freeze(Scope::Node).await.unwrap();
    let silence = timeout(Duration::from_millis(300), session.simple_query("SELECT 1")).await;
    assert!(silence.is_err(), "it answered");
    assert_eq!(cluster.primary().await.unwrap().name(), "pg1");
    replica.thaw().unwrap();
    session.simple_query("SELECT 1").await.unwrap();

    // The postmaster alone: sessions go on, new ones get no answer.
    replica.freeze(Scope::Postmaster).await.unwrap();
    session.simple_query("SELECT 1").await.unwrap();
    assert!(timeout(Duration::from_millis(300), replica.connect()).await.is_err(), "it let us in");
    replica.thaw().unwrap();
    replica.sql("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn orphans_survive_their_postmaster_but_not_the_node() {
    let cluster = LocalCluster::builder().replicas(0).start().await.unwrap();
    let node = &cluster.nodes()[0];
    let session = node.connect().await.unwrap();
    let long = tokio::spawn(async move { session.simple_query("SELECT pg_sleep(600)").await });
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'";
    wait_for("the statement runs", LIMIT, async || number(node, busy).await == 1).await;
    node.freeze(Scope::Node).await.unwrap();
    node.kill9(Scope::Postmaster).await.unwrap();
    assert!(!node.is_running());
    assert!(processes_under(&node.data_directory()) > 0, "no orphans");
    node.kill9(Scope::Node).await.unwrap();
    assert_eq!(processes_under(&node.data_directory()), 0);
    assert!(long.await.unwrap().is_err());
    node.start().await.unwrap();
}

#[tokio::test]
async fn paused_replay_falls_behind_and_catches_up() {
    let cluster = own_cluster().await;
    let (primary, replica) = (&cluster.nodes()[0], &cluster.nodes()[1]);
    primary.sql("CREATE TABLE t (n int)").await.unwrap();
    cluster.wait_caught_up(primary).await.unwrap();
    replica.pause_replay().await.unwrap();
    primary.sql("INSERT INTO t VALUES (1)").await.unwrap();
    let written = primary.value("SELECT pg_current_wal_flush_lsn()").await.unwrap().unwrap();
    let received = format!("SELECT pg_last_wal_receive_lsn() >= '{written}'");
    replica.wait_for_truth("it has received the row", &received).await.unwrap();
    assert_eq!(number(replica, "SELECT count(*) FROM t").await, 0);
    replica.resume_replay().await.unwrap();
    cluster.wait_caught_up(primary).await.unwrap();
    assert_eq!(number(replica, "SELECT count(*) FROM t").await, 1);
}

#[tokio::test]
async fn a_synchronous_commit_waits_for_a_replica() {
    let cluster = LocalCluster::builder().replicas(1).synchronous(1).start().await.unwrap();
    let (primary, replica) = (&cluster.nodes()[0], &cluster.nodes()[1]);
    primary.sql("CREATE TABLE t (n int)").await.unwrap();
    replica.freeze(Scope::Node).await.unwrap();
    let session = primary.connect().await.unwrap();
    let mut commit = tokio::spawn(async move { session.simple_query("INSERT INTO t VALUES (1)").await });
    assert!(timeout(Duration::from_millis(300), &mut commit).await.is_err(), "it did not wait");
    replica.thaw().unwrap();
    timeout(LIMIT, commit).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn several_clusters_live_side_by_side() {
    let one = || LocalCluster::builder().replicas(1).start();
    let (a, b) = tokio::join!(one(), one());
    let (a, b) = (a.unwrap(), b.unwrap());
    drop(a);
    b.nodes()[0].sql("SELECT 1").await.unwrap();
    b.nodes()[1].restart(Stop::Fast).await.unwrap();
    b.wait_for_streaming(&b.nodes()[0]).await.unwrap();
}
