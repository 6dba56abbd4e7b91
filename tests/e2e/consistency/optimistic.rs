//! Transactions that begin on a replica, and move to the primary when they write.

use pgpilot::decide::sql::Reason;
use pgpilot::telemetry::{Count, Optimistic};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::support::plain::{Messages, Raw, TRUST, errors, tags, values};
use crate::support::proxy::{Proxy, ask, try_ask};

const READ: &str = "SELECT s FROM t";

/// With a table of one row on all nodes.
async fn proxy() -> Proxy {
    let more = format!(
        "[routing]\ntransactions = \"optimistic\"\nmax_lag = \"1h\"\nreplica_functions = [\"sly\"]\n[admin]\nreaders = [\"app\"]\n{TRUST}"
    );
    let proxy = Proxy::with(&more).await;
    let setup = "CREATE TABLE t AS SELECT 1 AS id, 'old' AS s;
        CREATE FUNCTION sly() RETURNS text LANGUAGE sql AS 'UPDATE t SET s = ''sly'' RETURNING s'";
    proxy.connect().await.batch_execute(setup).await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    proxy.wait_for_read(READ).await;
    proxy
}

fn outcomes(proxy: &Proxy) -> [u64; 3] {
    let metrics = proxy.app.telemetry().metrics();
    [Optimistic::Stayed, Optimistic::Moved, Optimistic::Diverged]
        .map(|outcome| metrics.total(Count::Optimistic(outcome)))
}

/// What the primary has, asked there.
async fn on_primary(proxy: &Proxy) -> String {
    let session = proxy.node("pg1").connect_to("shop").await.unwrap();
    ask(&session, READ).await
}

async fn fails(client: &Client, sql: &str) -> SqlState {
    try_ask(client, sql).await.unwrap_err().code().unwrap().clone()
}

#[tokio::test]
async fn one_that_reads_stays_and_one_that_writes_moves() {
    let proxy = proxy().await;
    let before = proxy.counts();
    let client = proxy.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(ask(&client, READ).await, "old");
    let (rows, statement) =
        (client.query("SELECT id, s FROM t WHERE id = $1", &[&1]).await.unwrap(), client.prepare(READ).await);
    assert_eq!(rows[0].get::<_, &str>(1), "old");
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!((proxy.counts().0, outcomes(&proxy)), (before.0, [1, 0, 0]), "the primary has had no part in it");
    assert!(proxy.count_of(Reason::Optimistic) > 2);

    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(client.query_one(&statement.unwrap(), &[]).await.unwrap().get::<_, &str>(0), "old");
    client.query("SELECT id, s FROM t WHERE id = $1", &[&1]).await.unwrap();
    assert_eq!((proxy.counts().0, outcomes(&proxy)), (before.0, [1, 0, 0]));
    assert_eq!(client.execute("UPDATE t SET s = $1", &[&"new"]).await.unwrap(), 1);
    assert_eq!(ask(&client, READ).await, "new", "in the same transaction");
    assert_eq!((on_primary(&proxy).await.as_str(), outcomes(&proxy)), ("old", [1, 1, 0]));
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!([on_primary(&proxy).await, ask(&client, READ).await], ["new", "new"]);

    let console = proxy.connect_with("dbname=pgpilot").await;
    for (begin, reason) in [("BEGIN", "optimistic"), ("BEGIN READ WRITE", "read_write_transaction")] {
        let messages = console.simple_query(&format!("EXPLAIN ROUTE {begin}")).await.unwrap();
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get("route_reason"),
            _ => None,
        });
        assert_eq!(row, Some(reason));
    }
}

#[tokio::test]
async fn one_whose_reads_are_not_the_primarys_has_to_be_repeated() {
    let proxy = proxy().await;
    let (client, other) = (proxy.connect().await, proxy.connect().await);
    for replica in ["pg2", "pg3"] {
        proxy.node(replica).pause_replay().await.unwrap();
    }
    for (row, extended) in [("first", false), ("second", true)] {
        let client = if extended { &other } else { &client };
        let session = proxy.node("pg1").connect_to("shop").await.unwrap();
        session.batch_execute(&format!("UPDATE t SET s = '{row}'")).await.unwrap();
        let before = outcomes(&proxy);
        client.batch_execute("BEGIN").await.unwrap();
        let code = if extended {
            assert_eq!(client.query_one(READ, &[]).await.unwrap().get::<_, &str>(0), "old");
            client.execute("UPDATE t SET s = $1", &[&"lost"]).await.unwrap_err().code().unwrap().clone()
        } else {
            assert_eq!(ask(client, READ).await, "old");
            fails(client, "UPDATE t SET s = 'lost'").await
        };
        assert_eq!(code, SqlState::T_R_SERIALIZATION_FAILURE);
        assert_eq!(outcomes(&proxy), [before[0], before[1], before[2] + 1]);
        assert_eq!(fails(client, READ).await, SqlState::IN_FAILED_SQL_TRANSACTION);
        assert_eq!(fails(client, "UPDATE t SET s = 'lost'").await, SqlState::IN_FAILED_SQL_TRANSACTION);
        client.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(on_primary(&proxy).await, row);
        // Once more: now it begins where it ended.
        client.batch_execute("BEGIN").await.unwrap();
        assert_eq!(ask(client, READ).await, row);
        client.batch_execute("UPDATE t SET s = 'won'").await.unwrap();
        client.batch_execute("COMMIT").await.unwrap();
        assert_eq!(on_primary(&proxy).await, "won");
    }
}

#[tokio::test]
async fn a_pipeline_is_answered_as_by_a_server() {
    let proxy = proxy().await;
    let read =
        |messages: Messages| messages.parse("", "SELECT s FROM t WHERE id = $1").bind("", &["1"]).execute().sync();
    let pipeline = |last: &str| {
        let messages = read(Messages::new().query("BEGIN").query("SELECT s FROM t").parse("named", READ).sync());
        let messages = read(messages.bind("named", &[]).execute().sync()).query("UPDATE t SET s = 'piped'");
        read(messages.bind("named", &[]).execute().sync()).close("named").sync().query(last)
    };
    for last in ["ROLLBACK", "COMMIT"] {
        let before = outcomes(&proxy)[1];
        let (mut server, mut client) = (Raw::direct(proxy.node("pg1")).await, Raw::connect(proxy.port()).await);
        let there = server.pipeline(pipeline("ROLLBACK"), 11).await;
        let here = client.pipeline(pipeline(last), 11).await;
        assert_eq!((tags(&here), values(&here), errors(&here)), (tags(&there), values(&there), errors(&there)));
        assert_eq!(outcomes(&proxy)[1], before + 1);
    }
    assert_eq!(on_primary(&proxy).await, "piped");
}

#[tokio::test]
async fn one_that_begins_in_one_batch_with_its_first_read_is_like_any_other() {
    let proxy = proxy().await;
    let run = |messages: Messages, sql: &str| messages.parse("", sql).bind("", &[]).execute();
    let mut client = Raw::connect(proxy.port()).await;
    let before = proxy.counts();
    client.pipeline(run(run(Messages::new(), "BEGIN"), READ).sync(), 1).await;
    assert_eq!(proxy.counts(), (before.0, before.1 + 1));
    let replies = client.pipeline(run(Messages::new(), "UPDATE t SET s = 'new' RETURNING s").sync(), 1).await;
    assert_eq!((values(&replies), outcomes(&proxy)), (vec!["new".to_owned()], [0, 1, 0]));
    client.query("COMMIT").await;
    assert_eq!(on_primary(&proxy).await, "new");
    // What it begins with needs the primary.
    for first in ["/* pgpilot: primary */ SELECT 1", "SELECT now()", "SELECT s FROM t FOR UPDATE"] {
        let mut client = Raw::connect(proxy.port()).await;
        let before = proxy.counts();
        client.pipeline(run(run(Messages::new(), "BEGIN"), first).sync(), 1).await;
        assert_eq!(proxy.counts(), (before.0 + 1, before.1), "{first}");
    }
}

#[tokio::test]
async fn what_a_replica_refuses_later_runs_on_the_primary() {
    let proxy = proxy().await;
    let client = proxy.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(ask(&client, READ).await, "old");
    assert_eq!(ask(&client, "SELECT sly()").await, "sly");
    assert_eq!(outcomes(&proxy), [0, 1, 0]);
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(on_primary(&proxy).await, "sly");
    // An error of the statement's own is one.
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    let client = proxy.connect().await;
    client.batch_execute("BEGIN").await.unwrap();
    ask(&client, READ).await;
    assert_eq!(fails(&client, "SELECT 1 / (id - 1) FROM t").await, SqlState::DIVISION_BY_ZERO);
    assert_eq!(fails(&client, "UPDATE t SET s = 'x'").await, SqlState::IN_FAILED_SQL_TRANSACTION);
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(outcomes(&proxy), [1, 1, 0]);
}

#[tokio::test]
async fn some_begin_on_the_primary_and_some_move_without_a_write() {
    let proxy = proxy().await;
    for begin in ["BEGIN ISOLATION LEVEL SERIALIZABLE", "BEGIN READ WRITE", "/* pgpilot: primary */ BEGIN"] {
        let client = proxy.connect().await;
        client.batch_execute(begin).await.unwrap();
        ask(&client, READ).await;
        client.batch_execute("COMMIT").await.unwrap();
    }
    let client = proxy.connect_with("options='-c pgpilot.consistency=strong'").await;
    for statement in ["BEGIN", READ, "COMMIT"] {
        client.batch_execute(statement).await.unwrap();
    }
    for first in [
        "SAVEPOINT s",
        "SELECT s FROM t FOR UPDATE",
        "SET LOCAL work_mem = '1MB'",
        "DECLARE c CURSOR FOR SELECT 1",
        "SELECT now()",
        "SELECT s, CURRENT_TIMESTAMP FROM t",
    ] {
        let client = proxy.connect().await;
        for statement in ["BEGIN", first, READ, "COMMIT"] {
            client.batch_execute(statement).await.unwrap();
        }
    }
    assert_eq!((proxy.count_of(Reason::Optimistic), outcomes(&proxy)), (0, [0, 0, 0]));
    // Each behind a read, and what is more than is read again.
    let many = vec![READ; 70].join("; ");
    let moving = [
        "SAVEPOINT s",
        "SET LOCAL work_mem = '1MB'",
        "DECLARE c CURSOR FOR SELECT 1",
        "SELECT random()",
        "UPDATE t SET s = s WHERE false",
        many.as_str(),
    ];
    for (n, moving) in (1..).zip(moving) {
        let client = proxy.connect().await;
        for statement in ["BEGIN", READ].into_iter().chain(moving.split("; ")).chain(["COMMIT"]) {
            client.batch_execute(statement).await.unwrap();
        }
        assert_eq!(outcomes(&proxy), [0, n, 0], "{moving:.40}");
    }
}
