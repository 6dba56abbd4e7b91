//! Databases that clients make, and do away with.

use crate::support::proxy::{Proxy, ask};

/// A server refuses each of these while anybody is connected to the database, as pgpilot is for those who were.
#[tokio::test]
async fn a_database_that_its_clients_have_left_is_renamed_copied_and_dropped() {
    let proxy = Proxy::with("").await;
    proxy.node("pg1").sql("ALTER ROLE app CREATEDB").await.unwrap();
    let client = proxy.connect().await;
    let visit = async |database: &str, write: &str| {
        let guest = proxy.connect_with(&format!("dbname={database}")).await;
        guest.batch_execute(write).await.unwrap();
        assert_eq!(ask(&guest, "SELECT sum(n) FROM t").await, "7");
    };
    client.batch_execute("CREATE DATABASE one").await.unwrap();
    visit("one", "CREATE TABLE t AS SELECT 7 AS n").await;
    client.batch_execute("ALTER DATABASE one RENAME TO \"Two\"").await.unwrap();
    visit("Two", "ANALYZE t").await;
    client.batch_execute("CREATE DATABASE three TEMPLATE = \"Two\"").await.unwrap();
    visit("three", "ANALYZE t").await;
    client.batch_execute("DROP DATABASE IF EXISTS \"Two\"").await.unwrap();
    client.execute("DROP DATABASE three", &[]).await.unwrap();
    let left = "SELECT count(*) FROM pg_database WHERE datname IN ('one', 'Two', 'three')";
    assert_eq!(ask(&client, left).await, "0");
}
