//! Limits are told to clients in words and codes that drivers know; and a pgpilot that stops lets transactions finish.

use std::time::{Duration, Instant};

use pgpilot::telemetry::{Count, Side};
use tokio_postgres::Client;

use crate::support::proxy::{Proxy, ask, try_ask};
use crate::support::{LIMIT, wait_for};

async fn code(client: &Client, sql: &str) -> Option<String> {
    try_ask(client, sql).await.unwrap_err().code().map(|code| code.code().to_owned())
}

#[tokio::test]
async fn a_full_pool_makes_clients_wait_for_so_long_and_so_many() {
    let one = "[pool]\nmax_server_connections = 1\nmax_waiting = 1\ncheckout_timeout =";
    let (hasty, patient) = tokio::join!(async { Proxy::shared(&format!("{one} \"700ms\"\n")).await }, async {
        Proxy::shared(&format!("{one} \"10min\"\n")).await
    });
    let (holder, waiting) = (hasty.connect().await, hasty.connect().await);
    let sql = "/* pgpilot: primary */ SELECT 1";
    holder.batch_execute("BEGIN").await.unwrap();
    ask(&holder, sql).await;
    let begun = Instant::now();
    assert_eq!(code(&waiting, sql).await.as_deref(), Some("53300"));
    assert!(begun.elapsed() >= Duration::from_millis(700));
    let errors = hasty.app.telemetry().metrics().total(Count::Error(Side::Operator));
    assert_eq!(errors, 1, "a session's end is not the only error there is");
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(ask(&waiting, sql).await, "1");

    let proxy = patient;
    let (holder, waiting, refused) = (proxy.connect().await, proxy.connect().await, proxy.connect().await);
    holder.batch_execute("BEGIN").await.unwrap();
    ask(&holder, sql).await;
    let pools = proxy.app.shared().pools.all();
    let queued = async || pools.iter().flat_map(|(_, pool)| pool.counts()).any(|(_, counts)| counts.waiting > 0);
    let time_on_primary = || {
        let latencies = proxy.app.telemetry().metrics().latencies();
        latencies.iter().find(|(route, ..)| *route == "primary").unwrap().2
    };
    let before = time_on_primary();
    // Who waits and is served in time notices nothing; one more is refused meanwhile.
    let (served, ()) = tokio::join!(ask(&waiting, sql), async {
        wait_for("one to wait", LIMIT, queued).await;
        assert_eq!(code(&refused, sql).await.as_deref(), Some("53300"));
        assert!(queued().await);
        ask(&holder, "SELECT pg_sleep(0.4)").await;
        holder.batch_execute("COMMIT").await.unwrap();
    });
    assert_eq!(served, "1");
    // What one has waited for, the other one has waited for, too.
    assert!(time_on_primary() - before >= Duration::from_millis(800), "{before:?}, {:?}", time_on_primary());
    assert_eq!(ask(&refused, sql).await, "1");
}

#[tokio::test]
async fn reads_that_wait_are_spread_too_and_try_another_node_before_they_are_refused() {
    let one = "[routing]\nconsistency = \"eventual\"\n[pool]\nmax_server_connections = 1\n";
    let (patient, hasty) =
        (format!("{one}checkout_timeout = \"10min\"\n"), format!("{one}checkout_timeout = \"200ms\"\n"));
    let (patient, hasty) = tokio::join!(Proxy::shared(&patient), Proxy::shared(&hasty));
    let node = |name: &str| patient.app.shared().cluster.find(name).unwrap();
    let pools = &patient.app.shared().pools;
    let loads = || [node("pg2"), node("pg3")].map(|node| pools.load(node));
    let mut holders = Vec::new();
    for count in 1..=2 {
        let holder = patient.connect().await;
        holder.batch_execute("BEGIN READ ONLY").await.unwrap();
        ask(&holder, "SELECT 1").await;
        assert_eq!(loads().iter().sum::<u32>(), count);
        holders.push(holder);
    }
    let mut waiting = tokio::task::JoinSet::new();
    for count in 1..=6 {
        let client = patient.connect().await;
        waiting.spawn(async move { ask(&client, "SELECT 2").await });
        wait_for("one more to wait", LIMIT, async || loads().iter().sum::<u32>() == 2 + count).await;
        let [a, b] = loads();
        assert!(a.abs_diff(b) <= 1, "{a} and {b}");
    }
    for holder in holders {
        holder.batch_execute("COMMIT").await.unwrap();
    }
    assert_eq!(waiting.join_all().await, ["2"; 6]);

    let cluster = &hasty.app.shared().cluster;
    cluster.drain(node("pg3"));
    let (holder, reader) = (hasty.connect().await, hasty.connect().await);
    holder.batch_execute("BEGIN READ ONLY").await.unwrap();
    ask(&holder, "SELECT 1").await;
    let (on_primary, _) = hasty.counts();
    assert_eq!(ask(&reader, "SELECT 3").await, "3");
    assert_eq!(hasty.counts().0, on_primary + 1);
}

#[tokio::test]
async fn a_pgpilot_that_stops_lets_transactions_finish() {
    let proxy = Proxy::with("").await;
    let (busy, idle, reader) = (proxy.connect().await, proxy.connect().await, proxy.connect().await);
    ask(&idle, "SELECT 1").await;
    ask(&reader, "SELECT 1").await;
    busy.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    busy.batch_execute("BEGIN").await.unwrap();
    busy.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let stopping = async {
        proxy.app.shutdown().await;
        Instant::now()
    };
    let finishing = async {
        wait_for("the idle ones to be told to go", LIMIT, async || idle.is_closed() && reader.is_closed()).await;
        let refused = tokio_postgres::connect(&proxy.url(), tokio_postgres::NoTls).await;
        assert!(refused.is_err(), "a new client was let in");
        busy.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
        let committed = Instant::now();
        busy.batch_execute("COMMIT").await.unwrap();
        wait_for("the busy one to be told to go", LIMIT, async || busy.is_closed()).await;
        committed
    };
    let (stopped, committed) = tokio::join!(stopping, finishing);
    assert!(stopped >= committed);
    let count = proxy.node("pg1").connect_to("shop").await.unwrap();
    assert_eq!(count.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 2);
}
