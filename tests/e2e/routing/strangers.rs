//! What pgpilot does not know of a database yet.

use pgpilot::decide::sql::Reason;
use pgpilot::telemetry::Topic;

use crate::support::LIMIT;
use crate::support::proxy::{PASSWORD, Proxy, USER, ask};
use crate::support::wait_for;

#[tokio::test]
async fn a_view_made_elsewhere_runs_on_the_primary_until_it_is_known() {
    let proxy = Proxy::with("").await;
    let client = proxy.connect().await;
    let elsewhere = proxy.node("pg1").connect_to("shop").await.unwrap();
    // Replicas would answer it, and otherwise.
    elsewhere
        .batch_execute(
            "CREATE VIEW telling AS SELECT pg_is_in_recovery() AS replica; CREATE TABLE plain AS SELECT 7 AS n;
             GRANT SELECT ON telling, plain TO PUBLIC",
        )
        .await
        .unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    for _ in 0..5 {
        assert_eq!(ask(&client, "SELECT replica FROM telling").await, "f");
        let row = client.query_one("SELECT replica FROM telling WHERE $1", &[&true]).await.unwrap();
        assert!(!row.get::<_, bool>(0));
    }
    assert!(proxy.count_of(Reason::UnknownRelation) > 0);
    assert_eq!(proxy.count_of(Reason::Retried), 0);
    // Asking for it made it known long before it would have been.
    let prepared = client.prepare("SELECT n FROM plain").await.unwrap();
    wait_for("reads of a table made elsewhere to run on replicas", LIMIT, async || {
        let before = proxy.counts();
        assert_eq!(client.query_one(&prepared, &[]).await.unwrap().get::<_, i32>(0), 7);
        proxy.counts().1 > before.1
    })
    .await;
    assert_eq!(ask(&client, "SELECT replica FROM telling").await, "f");
    assert!(proxy.count_of(Reason::PrimaryRelation) > 0);
}

#[tokio::test]
async fn whoever_changes_a_function_is_not_judged_by_what_it_was() {
    let proxy = Proxy::with("").await;
    let client = proxy.connect().await;
    let make = |body: &str| {
        format!("CREATE OR REPLACE FUNCTION turning() RETURNS bool STABLE LANGUAGE sql AS 'SELECT {body}'")
    };
    let prepared = async || client.prepare("SELECT turning()").await.unwrap();
    for _ in 0..3 {
        client.batch_execute(&make("false")).await.unwrap();
        proxy.wait_for_read("SELECT turning()").await;
        let known = prepared().await;
        client.query_one(&known, &[]).await.unwrap();
        // Replicas have it long before pgpilot has learnt of it, and would say otherwise.
        client.batch_execute(&make("pg_is_in_recovery()")).await.unwrap();
        for _ in 0..100 {
            assert_eq!(ask(&client, "SELECT turning()").await, "f");
            assert!(!client.query_one(&known, &[]).await.unwrap().get::<_, bool>(0));
        }
    }
    assert!(proxy.count_of(Reason::CatalogueChanged) > 0);
    assert!(proxy.counts().1 > 0);
}

#[tokio::test]
async fn where_no_catalogue_can_be_loaded_everything_runs_on_the_primary_and_operators_are_told() {
    let proxy = Proxy::with("").await;
    let primary = proxy.node("pg1");
    primary.sql("CREATE DATABASE closed OWNER app").await.unwrap();
    primary.sql("REVOKE CONNECT ON DATABASE closed FROM PUBLIC").await.unwrap();
    proxy.servers.wait_caught_up(primary).await.unwrap();
    let port = proxy.port();
    let url = format!("host=127.0.0.1 port={port} user={USER} password={PASSWORD} dbname=closed");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    const READ: &str = "SELECT count(*) FROM pg_class WHERE relname = 'pg_class'";
    for _ in 0..3 {
        assert_eq!(ask(&client, READ).await, "1");
    }
    assert_eq!((proxy.counts().1, proxy.count_of(Reason::NoCatalogue)), (0, 3));
    let shared = proxy.app.shared();
    let catalogue = shared.catalogues.database("closed");
    wait_for("the trouble to be told", LIMIT, async || catalogue.trouble().is_some()).await;
    let trouble = catalogue.trouble().unwrap();
    assert!(trouble.contains("permission denied for database"), "{trouble}");
    let told = |what: &str| {
        let entries = shared.cluster.journal().entries();
        entries.iter().filter(|entry| entry.topic == Topic::Routing && entry.text.starts_with(what)).count()
    };
    assert_eq!(told("the catalogue of database closed cannot be loaded"), 1);
    primary.sql("GRANT CONNECT ON DATABASE closed TO PUBLIC").await.unwrap();
    wait_for("reads to run on replicas", LIMIT, async || {
        assert_eq!(ask(&client, READ).await, "1");
        proxy.counts().1 > 0
    })
    .await;
    assert_eq!(catalogue.trouble(), None);
    assert_eq!(
        (told("the catalogue of database closed cannot"), told("the catalogue of database closed is loaded")),
        (1, 1)
    );
}

#[tokio::test]
async fn a_session_with_temporary_tables_is_not_asked_for_its_state_each_time() {
    let proxy = Proxy::with("[pool]\nmax_server_connections = 1\n").await;
    let client = proxy.connect().await;
    client.batch_execute("CREATE TEMP TABLE own (n int)").await.unwrap();
    assert_eq!(ask(&client, "SHOW pgpilot.pins").await, "temporary_object");
    client.batch_execute("INSERT INTO own VALUES (1)").await.unwrap();
    // The server's own view of what ran last.
    let monitor = proxy.node("pg1").connect_to("shop").await.unwrap();
    let last = "SELECT query FROM pg_stat_activity WHERE usename = 'app'";
    assert_eq!(monitor.query_one(last, &[]).await.unwrap().get::<_, String>(0), "INSERT INTO own VALUES (1)");
    assert_eq!(ask(&client, "SELECT n FROM own").await, "1");
    assert_eq!(monitor.query_one(last, &[]).await.unwrap().get::<_, String>(0), "SELECT n FROM own");
}
