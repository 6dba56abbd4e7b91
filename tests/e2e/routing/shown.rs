//! What operators are shown of routing, and the mode that only shows.

use pgpilot::decide::sql::Reason;
use pgpilot::proxy::Way;

use crate::support::proxy::{Proxy, ask};
use crate::support::wait_for;

/// How often statements of this outline ran, on the primary and on replicas.
fn runs(proxy: &Proxy, outline: &str) -> (u64, u64) {
    let shapes = proxy.app.shared().shapes();
    let of_it = shapes.iter().filter(|(_, row)| row.outline == outline);
    of_it.fold((0, 0), |(primary, replicas), (_, row)| match row.way {
        Way::Primary => (primary + row.runs.statements, replicas),
        Way::Replica => (primary, replicas + row.runs.statements),
    })
}

#[tokio::test]
async fn in_shadow_mode_nothing_reaches_a_replica() {
    let proxy = Proxy::shared("[routing]\nmode = \"shadow\"\n").await;
    let maker = proxy.connect().await;
    maker.batch_execute("DROP TABLE IF EXISTS shadowed; CREATE TABLE shadowed (a int)").await.unwrap();
    proxy.wait_for_read("SELECT a FROM shadowed").await;
    let client = proxy.connect().await;
    for n in 0..30 {
        client.batch_execute(&format!("INSERT INTO shadowed VALUES ({n})")).await.unwrap();
        assert_eq!(ask(&client, &format!("SELECT count(*) FROM shadowed WHERE a <= {n}")).await, (n + 1).to_string());
        client.query("SELECT count(*) FROM shadowed WHERE a = $1", &[&n]).await.unwrap();
    }
    assert_eq!(ask(&client, "SELECT pg_is_in_recovery()").await, "f");
    assert_eq!(proxy.counts().1, 0);
    assert!(proxy.count_of(Reason::Shadow) >= 60);
    // A catalogue that changes meanwhile begins anew.
    let (primary, replicas) = runs(&proxy, "SELECT count (*) FROM shadowed WHERE a <= 0");
    assert!((10..=30).contains(&primary) && replicas == 0, "{primary} {replicas}");
}

#[tokio::test]
async fn shapes_are_counted_where_they_run() {
    let proxy = Proxy::shared("[routing]\nconsistency = \"eventual\"\n").await;
    let maker = proxy.connect().await;
    maker.batch_execute("DROP TABLE IF EXISTS counted; CREATE TABLE counted (a int)").await.unwrap();
    proxy.wait_for_read("SELECT a FROM counted").await;
    let client = proxy.connect().await;
    for n in 0..30 {
        client.batch_execute(&format!("INSERT INTO counted VALUES ({n})")).await.unwrap();
        ask(&client, &format!("SELECT '{n}' FROM (VALUES (1)) v")).await;
    }
    let (primary, replicas) = runs(&proxy, "INSERT INTO counted VALUES (0)");
    assert!((10..30).contains(&primary) && replicas == 0, "{primary} {replicas}");
    let (primary, replicas) = runs(&proxy, "SELECT '?' FROM (VALUES (0)) v");
    assert!((10..30).contains(&replicas) && primary == 0, "{primary} {replicas}");
}

#[tokio::test]
async fn a_refusal_is_learnt_for_the_shape_and_told() {
    let kept = "CREATE SEQUENCE IF NOT EXISTS sly_counter";
    learns_of("sly", kept, "SELECT next' || 'val(''sly_counter'')").await;
    // Refused with another code, that of what is not supported.
    let kept = "CREATE UNLOGGED TABLE IF NOT EXISTS sly_scratch (a int)";
    learns_of("shifty", kept, "SELECT count(*) FROM sly_' || 'scratch").await;
}

#[tokio::test]
async fn a_refused_execute_teaches_what_it_executes() {
    let proxy = Proxy::shared("[routing]\nconsistency = \"eventual\"\n").await;
    let client = proxy.connect().await;
    client.batch_execute("CREATE SEQUENCE IF NOT EXISTS covert_counter").await.unwrap();
    let body = "DECLARE n bigint; BEGIN EXECUTE 'SELECT next' || 'val(''covert_counter'')' INTO n; RETURN n; END";
    let definition =
        format!("CREATE OR REPLACE FUNCTION covert() RETURNS bigint LANGUAGE plpgsql STABLE AS $$ {body} $$");
    client.batch_execute(&definition).await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    wait_for("the function to be known", crate::support::LIMIT, async || {
        proxy.app.shared().verdicts(&"shop".into()).of(b"SELECT covert()").statements[0].reason == Reason::PlainRead
    })
    .await;
    client.batch_execute("PREPARE hidden AS SELECT covert()").await.unwrap();
    let told = || {
        let entries = proxy.app.shared().cluster.journal().entries();
        entries.iter().filter(|entry| entry.text.contains("PREPARE hidden AS SELECT covert")).count()
    };
    wait_for("a refusal to be learnt", crate::support::LIMIT, async || {
        client.batch_execute("EXECUTE hidden").await.unwrap();
        told() > 0
    })
    .await;
    let learned = proxy.count_of(Reason::Learned);
    for _ in 0..3 {
        client.batch_execute("EXECUTE hidden").await.unwrap();
    }
    assert_eq!((proxy.count_of(Reason::Learned), told()), (learned + 3, 1));
    let entries = proxy.app.shared().cluster.journal().entries();
    assert!(entries.iter().any(|entry| entry.text.contains("(25006: cannot execute nextval()")), "{entries:?}");
}

/// What only the replica's refusal can tell: dynamic SQL in a function that promises not to write.
async fn learns_of(function: &str, object: &str, query: &str) {
    let proxy = Proxy::shared("").await;
    let client = proxy.connect().await;
    client.batch_execute(object).await.unwrap();
    let definition = format!(
        "CREATE OR REPLACE FUNCTION {function}(int) RETURNS bigint LANGUAGE plpgsql STABLE AS \
         $$ DECLARE n bigint; BEGIN EXECUTE '{query}' INTO n; RETURN n + $1; END $$"
    );
    client.batch_execute(&definition).await.unwrap();
    wait_for("the function to be known", crate::support::LIMIT, async || {
        let verdicts = proxy.app.shared().verdicts(&"shop".into());
        verdicts.of(format!("SELECT {function}(0)").as_bytes()).statements[0].reason == Reason::PlainRead
    })
    .await;
    wait_for("a refusal to be learnt", crate::support::LIMIT, async || {
        ask(&client, &format!("SELECT {function}(1)")).await;
        proxy.count_of(Reason::Learned) > 0
    })
    .await;
    let learned = proxy.count_of(Reason::Learned);
    ask(&client, &format!("SELECT {function}(2)")).await;
    assert_eq!(proxy.count_of(Reason::Learned), learned + 1);
    let told = proxy.app.shared().cluster.journal().entries();
    assert!(told.iter().any(|entry| entry.text.contains(&format!("SELECT {function} (0)"))), "{told:?}");
}
