//! What a client sees of pgpilot.

use crate::support::proxy::{Proxy, ask};

#[tokio::test]
async fn writes_go_to_the_primary_and_reads_to_replicas() {
    let proxy = Proxy::start().await;
    let client = proxy.connect().await;
    assert_eq!(ask(&client, "SELECT 1").await, "1");
    client.batch_execute("CREATE TABLE t (n int)").await.unwrap();
    client.batch_execute("INSERT INTO t SELECT generate_series(1, 10)").await.unwrap();
    assert_eq!(ask(&client, "SELECT count(*) FROM t").await, "10");
    let row = client.query_one("SELECT $1::int + count(*) FROM t", &[&5i32]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 15);
    let (primary, replicas) = proxy.counts();
    assert!(primary >= 2 && replicas >= 1, "{primary} on the primary, {replicas} on replicas");
}
