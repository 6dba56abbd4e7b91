//! Transactions on replicas: what they must not do there moves them to the primary, or is refused.

use pgpilot::decide::position::Position;
use pgpilot::decide::sql::Reason;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::support::plain::{Messages, Raw, TRUST, errors, values};
use crate::support::proxy::{Proxy, ask, try_ask};
use crate::support::{LIMIT, wait_for};

const FIRST: &str = "SELECT s FROM t WHERE id = 1";
const SECOND: &str = "SELECT s FROM t WHERE id = 2";
const BEGIN: [&str; 2] = ["BEGIN READ ONLY", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"];

/// With a table of two rows, of which the tests change the second, on all nodes.
async fn proxy() -> Proxy {
    let more = format!(
        "[routing]\ntransactions = \"optimistic\"\nmax_lag = \"1h\"\nreplica_wait = \"500ms\"\n\
         replica_functions = [\"sly_lock\"]\n{TRUST}"
    );
    let proxy = Proxy::with(&more).await;
    let setup = "CREATE TABLE t AS SELECT id, 'old' AS s FROM generate_series(1, 2) id;
        CREATE FUNCTION sly_lock() RETURNS void LANGUAGE sql AS 'SELECT pg_advisory_lock(7)'";
    proxy.connect().await.batch_execute(setup).await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    proxy.wait_for_read(FIRST).await;
    proxy
}

/// A session in a transaction that has read on a replica.
async fn begun(proxy: &Proxy, begin: &str) -> Client {
    let client = proxy.connect().await;
    client.batch_execute(begin).await.unwrap();
    reads_on_a_replica(proxy, &client).await;
    client
}

async fn reads_on_a_replica(proxy: &Proxy, client: &Client) {
    let before = proxy.counts().1;
    assert_eq!(ask(client, FIRST).await, "old");
    assert_eq!(proxy.counts().1, before + 1, "on a replica");
}

async fn fails(client: &Client, sql: &str) -> SqlState {
    try_ask(client, sql).await.unwrap_err().code().unwrap().clone()
}

async fn can_write(client: &Client) {
    client.batch_execute("UPDATE t SET s = s WHERE id = 2").await.unwrap();
    assert_eq!(ask(client, SECOND).await, "old");
}

#[tokio::test]
async fn what_would_keep_the_session_there_runs_on_the_primary() {
    let proxy = proxy().await;
    let other = proxy.connect().await;
    ask(&other, "SELECT pg_advisory_lock(4711)").await;
    for begin in BEGIN {
        for (leaving, pin) in [
            ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "hold_cursor"),
            ("SELECT pg_advisory_lock(77)", "advisory_lock"),
            ("SELECT setseed(0.5)", "random_seed"),
            ("PREPARE q AS SELECT 1; SELECT 2", "hidden_prepare"),
        ] {
            let client = begun(&proxy, begin).await;
            client.batch_execute(leaving).await.unwrap();
            client.batch_execute("COMMIT").await.unwrap();
            assert_eq!(ask(&client, "SHOW pgpilot.pins").await, pin, "{leaving}");
            can_write(&client).await;
        }
        let client = begun(&proxy, begin).await;
        client.batch_execute("LOAD 'nothing'").await.unwrap_err();
        client.batch_execute("COMMIT").await.unwrap();
        can_write(&client).await;
        // A lock on a standby would exclude nobody.
        let client = begun(&proxy, begin).await;
        assert_eq!(ask(&client, "SELECT pg_try_advisory_lock(4711)").await, "f");
        // It moves as one that only reads.
        assert_eq!(fails(&client, "UPDATE t SET s = 'x'").await, SqlState::READ_ONLY_SQL_TRANSACTION);
    }
    // Begun by the extended protocol, in one batch with the first read, and gone on with what only lives within a transaction.
    let run = |messages: Messages, sql: &str| messages.parse("", sql).bind("", &[]).execute();
    let mut raw = Raw::connect(proxy.port()).await;
    let before = proxy.counts();
    raw.pipeline(run(run(Messages::new(), "BEGIN READ ONLY"), FIRST).sync(), 1).await;
    for within in ["SAVEPOINT s", "SET LOCAL work_mem = '1MB'", "DECLARE c CURSOR FOR SELECT s FROM t", "FETCH c"] {
        assert_eq!(errors(&raw.query(within).await), [""; 0], "{within}");
    }
    assert_eq!(proxy.counts(), (before.0, before.1 + 5));
    let replies = raw.pipeline(run(Messages::new(), "SELECT pg_try_advisory_lock(4711)").sync(), 1).await;
    assert_eq!(values(&replies), ["f"]);
    assert_eq!(values(&raw.query("SHOW work_mem; FETCH c").await), ["1MB", "old"]);
}

#[tokio::test]
async fn one_that_cannot_move_is_told_what_to_do() {
    let proxy = proxy().await;
    let client = begun(&proxy, BEGIN[0]).await;
    for _ in 0..70 {
        ask(&client, FIRST).await;
    }
    assert_eq!(fails(&client, "SELECT pg_advisory_lock(1)").await, SqlState::READ_ONLY_SQL_TRANSACTION);
    assert_eq!(fails(&client, FIRST).await, SqlState::IN_FAILED_SQL_TRANSACTION);
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(ask(&client, "SHOW pgpilot.pins").await, "");
    can_write(&client).await;
    client.batch_execute("BEGIN READ ONLY /* pgpilot: primary */").await.unwrap();
    ask(&client, "SELECT pg_advisory_lock(1), pg_advisory_unlock(1)").await;
    client.batch_execute("COMMIT").await.unwrap();
    // However often this one were repeated, the primary would tell of another moment.
    let client = begun(&proxy, BEGIN[0]).await;
    ask(&client, "SELECT now()").await;
    assert_eq!(fails(&client, "SELECT pg_advisory_lock(1)").await, SqlState::READ_ONLY_SQL_TRANSACTION);

    for replica in ["pg2", "pg3"] {
        proxy.node(replica).pause_replay().await.unwrap();
    }
    let session = proxy.node("pg1").connect_to("shop").await.unwrap();
    session.batch_execute("UPDATE t SET s = 'new' WHERE id = 1").await.unwrap();
    let client = begun(&proxy, BEGIN[0]).await;
    assert_eq!(fails(&client, "SELECT pg_advisory_lock(1)").await, SqlState::T_R_SERIALIZATION_FAILURE);
    // Also of what was sent behind the batch in which it began.
    let run = |messages: Messages, sql: &str| messages.parse("", sql).bind("", &[]).execute();
    let mut raw = Raw::connect(proxy.port()).await;
    raw.pipeline(Messages::new().parse("first", FIRST).sync(), 1).await;
    let begin = run(run(Messages::new(), BEGIN[0]), SECOND).sync();
    let replies = raw.pipeline(begin.bind("first", &[]).execute().sync(), 2).await;
    assert_eq!(values(&replies), ["old", "old"]);
    assert_eq!(errors(&raw.query("SELECT pg_advisory_lock(1)").await), ["40001"]);
}

#[tokio::test]
async fn what_the_session_is_promised_holds_for_each_statement() {
    let proxy = proxy().await;
    let writer = proxy.connect().await;
    let hinted = format!("/* pgpilot: consistency=strong */ {SECOND}");
    let at_once = format!("/* pgpilot: primary */ {SECOND}");
    for (n, (mode, begin, between, read)) in [
        ("strong", BEGIN[0], "", SECOND),
        ("strong", BEGIN[1], "COMMIT AND CHAIN", SECOND),
        ("session", BEGIN[0], "SET LOCAL pgpilot.min_lsn = TOKEN", SECOND),
        ("session", BEGIN[1], "SET LOCAL pgpilot.min_lsn = TOKEN", SECOND),
        ("session", BEGIN[0], "SET LOCAL pgpilot.consistency = 'strong'", SECOND),
        ("session", BEGIN[0], "SET LOCAL pgpilot.route = 'primary'", SECOND),
        ("session", BEGIN[0], "", &hinted),
        ("session", BEGIN[0], "", &at_once),
        ("session", "BEGIN", "SET LOCAL pgpilot.min_lsn = TOKEN", SECOND),
        ("session", "BEGIN", "SET LOCAL pgpilot.consistency = 'strong'", SECOND),
    ]
    .into_iter()
    .enumerate()
    {
        let client = proxy.connect_with(&format!("options='-c pgpilot.consistency={mode}'")).await;
        client.batch_execute(begin).await.unwrap();
        assert_eq!(ask(&client, FIRST).await, "old");
        for replica in ["pg2", "pg3"] {
            proxy.node(replica).pause_replay().await.unwrap();
        }
        writer.batch_execute(&format!("UPDATE t SET s = '{n}' WHERE id = 2")).await.unwrap();
        let token = ask(&writer, "SHOW pgpilot.lsn").await;
        client.batch_execute(&between.replace("TOKEN", &format!("'{token}'"))).await.unwrap();
        assert_eq!(ask(&client, read).await, n.to_string(), "{mode}: {begin}; {between}; {read}");
        client.batch_execute("COMMIT").await.unwrap();
        for replica in ["pg2", "pg3"] {
            proxy.node(replica).resume_replay().await.unwrap();
        }
        proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    }
    // What its replica has, it need not leave it for.
    let client = begun(&proxy, BEGIN[0]).await;
    let token = ask(&writer, "SHOW pgpilot.lsn").await;
    let required: Position = token.parse().unwrap();
    wait_for("the replicas to be known to have it", LIMIT, async || {
        let snapshot = proxy.app.shared().cluster.snapshot();
        snapshot.nodes.iter().all(|node| node.position.is_some_and(|sample| sample.lsn >= required.lsn))
    })
    .await;
    client.batch_execute(&format!("SET LOCAL pgpilot.min_lsn = '{token}'")).await.unwrap();
    reads_on_a_replica(&proxy, &client).await;
    client.batch_execute("COMMIT AND CHAIN").await.unwrap();
    reads_on_a_replica(&proxy, &client).await;
    client.batch_execute("SET work_mem = '1MB'").await.unwrap();
    client.batch_execute("COMMIT AND CHAIN").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(ask(&client, "SHOW work_mem").await, "1MB");
    assert!(proxy.count_of(Reason::NotCaughtUp) > 0);
}

/// The server of the first statement is that of the others.
#[tokio::test]
async fn a_weaker_hint_on_the_first_statement_does_not_lower_what_the_others_are_promised() {
    let proxy = proxy().await;
    for replica in ["pg2", "pg3"] {
        proxy.node(replica).pause_replay().await.unwrap();
    }
    let hinted = format!("/* pgpilot: consistency=eventual */ {FIRST}");
    for (mode, begin) in [("session", BEGIN[0]), ("session", BEGIN[1]), ("strong", BEGIN[0]), ("primary", BEGIN[1])] {
        let client = proxy.connect_with(&format!("options='-c pgpilot.consistency={mode}'")).await;
        client.batch_execute("UPDATE t SET s = 'new' WHERE id = 2").await.unwrap();
        let before = proxy.counts().1;
        ask(&client, &hinted).await;
        assert_eq!(proxy.counts().1, before + 1, "by itself, it is read on a replica");
        for first in [vec![begin.to_owned(), hinted.clone()], vec![format!("{begin}; {hinted}")]] {
            for statement in &first {
                client.batch_execute(statement).await.unwrap();
            }
            assert_eq!(ask(&client, SECOND).await, "new", "{mode}: {first:?}");
            client.batch_execute("COMMIT").await.unwrap();
        }
    }
}

#[tokio::test]
async fn one_that_has_lost_its_replica_is_promised_no_less_on_the_next() {
    let proxy = proxy().await;
    let client = proxy.connect().await;
    proxy.node("pg3").pause_replay().await.unwrap();
    client.batch_execute("UPDATE t SET s = 'new' WHERE id = 2").await.unwrap();
    let before = proxy.counts().1;
    wait_for("a replica that has it", LIMIT, async || {
        assert_eq!(ask(&client, SECOND).await, "new");
        proxy.counts().1 > before
    })
    .await;
    client.batch_execute(BEGIN[0]).await.unwrap();
    reads_on_a_replica(&proxy, &client).await;
    let cluster = &proxy.app.shared().cluster;
    cluster.drain(cluster.find("pg2").unwrap());
    let session = proxy.node("pg2").connect().await.unwrap();
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
    session.batch_execute(sql).await.unwrap();
    assert_eq!(ask(&client, &format!("/* pgpilot: consistency=eventual */ {FIRST}")).await, "old");
    assert_eq!(ask(&client, SECOND).await, "new");
}

/// A strong one at REPEATABLE READ reads on a replica that has everything when its snapshot is taken, which is not its beginning.
#[tokio::test]
async fn a_replica_is_as_new_as_the_snapshot() {
    let proxy = proxy().await;
    let writer = proxy.connect().await;
    let client = proxy.connect_with("options='-c pgpilot.consistency=strong'").await;
    client.batch_execute(BEGIN[1]).await.unwrap();
    reads_on_a_replica(&proxy, &client).await;
    client.batch_execute("COMMIT").await.unwrap();
    let at_once = format!("{}; {FIRST}", BEGIN[1]);
    for (n, (begin, first)) in [
        (BEGIN[1], "SHOW transaction_isolation"),
        (BEGIN[1], ";"),
        (BEGIN[1], "SAVEPOINT s"),
        (BEGIN[1], "COMMIT AND CHAIN"),
        (&at_once, "COMMIT AND CHAIN"),
    ]
    .into_iter()
    .enumerate()
    {
        client.batch_execute(begin).await.unwrap();
        client.batch_execute(first).await.unwrap();
        for replica in ["pg2", "pg3"] {
            proxy.node(replica).pause_replay().await.unwrap();
        }
        writer.batch_execute(&format!("UPDATE t SET s = '{n}' WHERE id = 2")).await.unwrap();
        assert_eq!(ask(&client, SECOND).await, n.to_string(), "{begin}; {first}");
        client.batch_execute("COMMIT").await.unwrap();
        for replica in ["pg2", "pg3"] {
            proxy.node(replica).resume_replay().await.unwrap();
        }
        proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    }
}

#[tokio::test]
async fn what_only_lives_within_it_can_be_the_first_that_it_does_on_a_replica() {
    let proxy = proxy().await;
    let client = proxy.connect().await;
    for (begin, first) in [
        (BEGIN[0], "DECLARE c CURSOR FOR SELECT s FROM t WHERE id = 1; FETCH c"),
        (BEGIN[1], "DECLARE c CURSOR FOR SELECT s FROM t WHERE id = 1; FETCH c"),
        (BEGIN[0], "SAVEPOINT s"),
        (BEGIN[0], "SET LOCAL work_mem = '1MB'"),
        (BEGIN[0], "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"),
    ] {
        let before = proxy.counts();
        client.batch_execute(begin).await.unwrap();
        let statements: Vec<_> = first.split("; ").collect();
        for statement in &statements {
            client.batch_execute(statement).await.unwrap();
        }
        assert_eq!(ask(&client, FIRST).await, "old");
        client.batch_execute("COMMIT").await.unwrap();
        let ran = u64::try_from(statements.len()).unwrap() + 2;
        assert_eq!(proxy.counts(), (before.0, before.1 + ran), "{begin}; {first}");
    }
    for elsewhere in [
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "DECLARE c CURSOR FOR SELECT pg_advisory_lock(9)",
        "/* pgpilot: primary */ DECLARE c CURSOR FOR SELECT s FROM t",
        "SET TRANSACTION READ WRITE",
    ] {
        let client = proxy.connect().await;
        client.batch_execute(BEGIN[0]).await.unwrap();
        let before = proxy.counts();
        client.batch_execute(elsewhere).await.unwrap();
        assert_eq!(proxy.counts(), (before.0 + 1, before.1), "{elsewhere}");
        client.batch_execute("COMMIT").await.unwrap();
    }
}

#[tokio::test]
async fn what_is_left_on_a_replica_all_the_same_is_taken_away() {
    let proxy = proxy().await;
    let client = begun(&proxy, BEGIN[0]).await;
    ask(&client, "SELECT sly_lock()").await;
    client.batch_execute("SET work_mem = '1MB'").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(fails(&client, SECOND).await, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert_eq!(ask(&client, "SHOW pgpilot.pins").await, "");
    can_write(&client).await;
    assert_eq!(ask(&client, "SHOW work_mem").await, "1MB");
}

#[tokio::test]
async fn one_that_waits_outlives_its_replica() {
    let proxy = proxy().await;
    for ends in [FIRST, "COMMIT"] {
        let client = begun(&proxy, BEGIN[0]).await;
        for replica in ["pg2", "pg3"] {
            let session = proxy.node(replica).connect().await.unwrap();
            let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
            session.batch_execute(sql).await.unwrap();
        }
        client.batch_execute(ends).await.unwrap();
        client.batch_execute("COMMIT").await.unwrap();
        can_write(&client).await;
    }
}
