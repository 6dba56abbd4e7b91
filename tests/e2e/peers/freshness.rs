//! No session misses its own write, and replicas that lag are left alone until they have caught up.

use tokio_postgres::Client;

use crate::support::proxy::{Proxy, ask, try_ask};
use crate::support::{LIMIT, wait_for};

#[tokio::test]
async fn no_read_misses_the_sessions_own_write() {
    const CLIENTS: usize = 4;
    const TRIES: i32 = 300;
    let proxy = Proxy::shared("").await;
    let client = proxy.connect().await;
    client.batch_execute("CREATE TABLE own (id int PRIMARY KEY, n int)").await.unwrap();
    let mut sessions = Vec::new();
    for id in 0..CLIENTS {
        client.batch_execute(&format!("INSERT INTO own VALUES ({id}, 0)")).await.unwrap();
        let session = proxy.connect().await;
        sessions.push(tokio::spawn(async move {
            let write = session.prepare(&format!("UPDATE own SET n = $1 WHERE id = {id}")).await.unwrap();
            let read = session.prepare(&format!("SELECT n FROM own WHERE id = {id}")).await.unwrap();
            let mut stale = 0;
            for n in 1..=TRIES {
                session.execute(&write, &[&n]).await.unwrap();
                let seen: i32 = session.query_one(&read, &[]).await.unwrap().get(0);
                let again: i32 = session.query_one(&read, &[]).await.unwrap().get(0);
                stale += u32::from(seen != n) + u32::from(again != n);
            }
            stale
        }));
    }
    for session in sessions {
        assert_eq!(session.await.unwrap(), 0, "stale reads");
    }
    let before = proxy.counts().1;
    wait_for("the writer's reads to return to the replicas", LIMIT, async || {
        ask(&client, "SELECT count(*) FROM own").await;
        proxy.counts().1 > before
    })
    .await;
}

#[tokio::test]
async fn no_read_misses_the_sessions_own_write_while_a_replica_does_not_replay() {
    const TRIES: usize = 300;
    // Its lag does not keep readers away: only what they wrote does.
    let proxy = Proxy::with("[routing]\nmax_lag = \"1h\"\n").await;
    let client = proxy.connect().await;
    client.batch_execute("CREATE TABLE own AS SELECT 0 AS n").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    let paused = proxy.node("pg2");
    paused.sql("SELECT pg_wal_replay_pause()").await.unwrap();
    wait_for("the replay to stop", LIMIT, async || {
        paused.value("SELECT pg_get_wal_replay_pause_state()").await.unwrap().as_deref() == Some("paused")
    })
    .await;
    let (mut fresh, before) = (0, proxy.counts());
    for n in 1..=TRIES {
        client.batch_execute(&format!("UPDATE own SET n = {n}")).await.unwrap();
        fresh += usize::from(ask(&client, "SELECT n FROM own").await == n.to_string());
    }
    assert_eq!(fresh, TRIES, "reads that saw the session's own preceding write");
    let after = proxy.counts();
    assert_eq!(after.0 - before.0 + after.1 - before.1, 2 * TRIES as u64);
    // Who asks for no more may read there.
    let other = proxy.connect().await;
    other.batch_execute("SET pgpilot.consistency = 'eventual'").await.unwrap();
    wait_for("an old row", LIMIT, async || ask(&other, "SELECT n FROM own").await == "0").await;
}

#[tokio::test]
async fn reads_between_writes_run_on_replicas_too() {
    let proxy = Proxy::shared("[routing]\nreplica_wait = \"2s\"\n").await;
    let maker = proxy.connect().await;
    maker.batch_execute("CREATE TABLE waited (n int); INSERT INTO waited VALUES (0)").await.unwrap();
    proxy.wait_for_read("SELECT n FROM waited").await;
    let client = proxy.connect().await;
    let before = proxy.counts();
    for n in 1..=100 {
        client.batch_execute(&format!("UPDATE waited SET n = {n}")).await.unwrap();
        assert_eq!(ask(&client, "SELECT n FROM waited").await, n.to_string());
    }
    let after = proxy.counts();
    assert_eq!((after.0 - before.0, after.1 - before.1), (100, 100));
}

#[tokio::test]
async fn in_mode_strong_a_session_sees_what_others_wrote() {
    let proxy = Proxy::shared("[routing]\nconsistency = \"strong\"\n").await;
    let (writer, reader) = (proxy.connect().await, proxy.connect().await);
    writer.batch_execute("CREATE TABLE seen (n int); INSERT INTO seen VALUES (0)").await.unwrap();
    for n in 1..=300 {
        writer.batch_execute(&format!("UPDATE seen SET n = {n}")).await.unwrap();
        assert_eq!(ask(&reader, "SELECT n FROM seen").await, n.to_string());
    }
}

/// Reads until both replicas have served one. Within a burst of reads the session may well stay where it is: what one of
/// them showed is only known of the other after a probe that is newer than the last read.
async fn reads_on_both(client: &Client) {
    let mut served = Vec::new();
    wait_for("reads on both replicas", LIMIT, async || {
        served.extend(nodes_read(client, 5).await);
        ["pg2", "pg3"].iter().all(|node| served.iter().any(|other| other == node))
    })
    .await;
}

/// On which nodes reads run.
async fn nodes_read(client: &Client, times: usize) -> Vec<String> {
    let mut nodes = Vec::new();
    for _ in 0..times {
        // The hint is not for the classification's sake: cluster_name tells one node from another.
        nodes.push(ask(client, "/* pgpilot: replica */ SELECT node_name()").await);
    }
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

/// It lets a read tell where it runs; that it is one is said in the topology file.
const NODE_NAME: &str = "CREATE FUNCTION node_name() RETURNS text IMMUTABLE LANGUAGE plpgsql
    AS 'BEGIN RETURN current_setting(''cluster_name''); END'";

/// `more`: of the section on routing.
async fn proxy_with_node_names(more: &str) -> (Proxy, Client) {
    let proxy = Proxy::with(&format!("[routing]\nreplica_functions = [\"node_name\"]\n{more}")).await;
    let client = proxy.connect().await;
    client.batch_execute(NODE_NAME).await.unwrap();
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    let client = proxy.connect().await;
    reads_on_both(&client).await;
    (proxy, client)
}

const SHORT: &str = "max_lag = \"1s\"\nlag_recovery = \"500ms\"\n";

async fn write(proxy: &Proxy) {
    proxy.connect().await.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
}

#[tokio::test]
async fn a_paused_replica_is_left_alone_until_it_has_caught_up() {
    let (proxy, client) = proxy_with_node_names(SHORT).await;
    proxy.node("pg2").pause_replay().await.unwrap();
    write(&proxy).await;
    proxy.wait_for_replicas(1).await;
    // The healthy one goes on.
    assert_eq!(nodes_read(&client, 50).await, ["pg3"]);
    proxy.node("pg2").resume_replay().await.unwrap();
    proxy.wait_for_replicas(2).await;
    reads_on_both(&client).await;
}

#[tokio::test]
async fn when_all_replicas_lag_the_settings_decide() {
    for (choice, expected) in [("primary", Ok(&["pg1"][..])), ("stale", Ok(&["pg2", "pg3"])), ("error", Err("57P03"))] {
        let (proxy, client) = proxy_with_node_names(&format!("{SHORT}on_all_lagging = \"{choice}\"\n")).await;
        for replica in ["pg2", "pg3"] {
            proxy.node(replica).pause_replay().await.unwrap();
        }
        write(&proxy).await;
        proxy.wait_for_replicas(0).await;
        match expected {
            Ok(nodes) => {
                // A session stays with one that does not move on: it must not go back in time on the other.
                let found = nodes_read(&client, 30).await;
                assert!(found.iter().all(|node| nodes.contains(&node.as_str())), "{choice}: {found:?}");
            }
            Err(code) => {
                let error = try_ask(&client, "SELECT node_name()").await.unwrap_err();
                assert_eq!(error.code().map(|code| code.code()), Some(code), "{choice}");
                // What asks for the primary is not concerned.
                assert_eq!(ask(&client, "/* pgpilot: primary */ SELECT node_name()").await, "pg1");
            }
        }
        for replica in ["pg2", "pg3"] {
            proxy.node(replica).resume_replay().await.unwrap();
        }
        proxy.wait_for_replicas(2).await;
        reads_on_both(&client).await;
    }
}
