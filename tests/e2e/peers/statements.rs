//! Statements that write without looking like it.

use pgpilot::decide::sql::Reason;

use crate::support::plain::{Messages, Raw, TRUST, errors, tags, values};
use crate::support::proxy::{Proxy, ask};
use crate::support::{LIMIT, wait_for};

/// Functions, an operator and a view that write, and a function that does not.
const OBJECTS: &str = "CREATE TABLE written (n int);
    CREATE SEQUENCE numbers;
    CREATE FUNCTION put(int) RETURNS int LANGUAGE sql AS 'INSERT INTO written VALUES ($1) RETURNING n';
    CREATE FUNCTION put(int, int) RETURNS int LANGUAGE sql AS 'INSERT INTO written VALUES ($1 + $2) RETURNING n';
    CREATE OPERATOR <+> (LEFTARG = int, RIGHTARG = int, FUNCTION = put);
    CREATE VIEW putting AS SELECT put(1);
    CREATE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 2';
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app";

/// A pgpilot before servers with these objects, which knows them.
async fn proxy_with_objects() -> Proxy {
    let servers = crate::support::proxy::servers().await;
    let primary = servers.node("pg1").unwrap();
    primary.connect_to("shop").await.unwrap().batch_execute(OBJECTS).await.unwrap();
    servers.wait_caught_up(primary).await.unwrap();
    let proxy = Proxy::before(servers, TRUST).await;
    let client = proxy.connect().await;
    wait_for("the catalogue to be loaded", LIMIT, async || {
        let before = proxy.counts().1;
        ask(&client, "SELECT twice(4)").await;
        proxy.counts().1 > before
    })
    .await;
    proxy
}

/// Text, and whether it leaves a row in `written`.
const WRITES: [(&str, bool); 15] = [
    ("WITH x AS (INSERT INTO written VALUES (1) RETURNING n) SELECT * FROM x", true),
    ("SELECT nextval('numbers')", false),
    ("SELECT put(1)", true),
    ("SELECT 1 WHERE put(1) IS NOT NULL", true),
    ("SELECT * FROM put(1)", true),
    ("SELECT 1 <+> 2", true),
    ("SELECT * FROM putting", true),
    ("SELECT 1 AS n INTO made", false),
    ("COPY (INSERT INTO written VALUES (1) RETURNING n) TO STDOUT", true),
    ("SELECT 1; INSERT INTO written VALUES (1)", true),
    ("BEGIN; INSERT INTO written VALUES (1); COMMIT", true),
    ("EXPLAIN ANALYZE INSERT INTO written VALUES (1)", true),
    ("SELECT 1 FROM written FOR UPDATE", false),
    ("/* a comment */ -- another\n(SELECT put(1))", true),
    ("DO $$ BEGIN PERFORM put(1); END $$", true),
];

#[tokio::test]
async fn hidden_writes_run_on_the_primary_at_the_first_try() {
    let proxy = proxy_with_objects().await;
    let (mut client, reader) = (Raw::connect(proxy.port()).await, proxy.connect().await);
    let mut rows = 0;
    for (sql, writes) in WRITES {
        let before = (proxy.counts(), proxy.count_of(Reason::Retried));
        let replies = client.query(sql).await;
        assert!(errors(&replies).is_empty(), "{sql}: {replies:?}");
        let ((primary, replica), retried) = (proxy.counts(), proxy.count_of(Reason::Retried));
        assert_eq!((primary - before.0.0, replica - before.0.1, retried - before.1), (1, 0, 0), "{sql}");
        rows += u32::from(writes);
        // The same session sees it; so does the primary, where it is.
        assert_eq!(values(&client.query("SELECT count(*) FROM written").await), [rows.to_string()], "{sql}");
        let seen = ask(&reader, "/* pgpilot: primary */ SELECT count(*) FROM written").await;
        assert_eq!(seen, rows.to_string(), "{sql}");
    }
}

#[tokio::test]
async fn hidden_writes_are_known_in_the_extended_protocol_too() {
    let proxy = proxy_with_objects().await;
    let mut client = Raw::connect(proxy.port()).await;
    let several = |sql: &str| sql.contains("; ") && !sql.starts_with("DO");
    for (sql, _) in WRITES.into_iter().filter(|(sql, _)| !several(sql)) {
        let before = (proxy.counts(), proxy.count_of(Reason::Retried));
        let replies = client.ask(Messages::new().parse("", sql).bind("", &[]).execute().sync()).await;
        assert!(errors(&replies).is_empty(), "{sql}: {replies:?}");
        let ((primary, replica), retried) = (proxy.counts(), proxy.count_of(Reason::Retried));
        assert_eq!((primary - before.0.0, replica - before.0.1, retried - before.1), (1, 0, 0), "{sql}");
    }
}

#[tokio::test]
async fn what_the_parser_does_not_know_goes_to_the_primary_and_is_counted() {
    let proxy = proxy_with_objects().await;
    let client = proxy.connect().await;
    // A read before each, on a replica: the statement before must not decide.
    for (sql, expected) in [
        ("SELECT * FROM ROWS FROM (generate_series(1, 2), put(7)) AS r(a, b)", Some("1")),
        ("REASSIGN OWNED BY app TO app", None),
        ("NO SUCH STATEMENT", None),
    ] {
        assert_eq!(ask(&client, "SELECT twice(2)").await, "4");
        let before = (proxy.counts().0, proxy.counts().1, proxy.count_of(Reason::Unparsable));
        let outcome = crate::support::proxy::try_ask(&client, sql).await;
        // An error arrives before the end of the reply, at which it is counted.
        wait_for("the statement to be counted", LIMIT, async || proxy.counts().0 > before.0).await;
        let after = (proxy.counts().0, proxy.counts().1, proxy.count_of(Reason::Unparsable));
        match expected {
            Some(value) => assert_eq!(outcome.unwrap(), value, "{sql}"),
            None if sql.starts_with("NO") => {
                assert_eq!(outcome.unwrap_err().code().map(|code| code.code()), Some("42601"))
            }
            None => drop(outcome.unwrap()),
        }
        assert_eq!((after.0 - before.0, after.1 - before.1), (1, 0), "{sql}");
    }
    assert!(proxy.count_of(Reason::Unparsable) > 0);
}

#[tokio::test]
async fn a_bind_is_judged_by_its_own_statement() {
    let proxy = proxy_with_objects().await;
    let mut client = Raw::connect(proxy.port()).await;
    let prepared = Messages::new().parse("w", "INSERT INTO written VALUES ($1::int)").parse("r", "SELECT twice(21)");
    assert_eq!(tags(&client.ask(prepared.sync()).await), "11Z");
    // A read was parsed last, a write is bound.
    let before = proxy.counts();
    let write = Messages::new().parse("r2", "SELECT twice(22)").bind("w", &["5"]).execute().sync();
    assert_eq!(tags(&client.ask(write).await), "12CZ");
    assert_eq!((proxy.counts().0 - before.0, proxy.counts().1), (1, before.1));
    let write = Messages::new().bind("w", &["6"]).execute().sync();
    assert_eq!(tags(&client.ask(write).await), "2CZ");
    assert_eq!((proxy.counts().0 - before.0, proxy.counts().1), (2, before.1));
    // A write was parsed last, a read is bound.
    assert_eq!(tags(&client.ask(Messages::new().parse("w2", "DELETE FROM written").sync()).await), "1Z");
    wait_for("the read to run on a replica", LIMIT, async || {
        let before = proxy.counts();
        let read = client.ask(Messages::new().bind("r", &[]).execute().sync()).await;
        assert_eq!((tags(&read), values(&read)), ("2DCZ".to_owned(), vec!["42".to_owned()]));
        proxy.counts() == (before.0, before.1 + 1)
    })
    .await;
    // Both in one batch: one transaction, which writes.
    let before = proxy.counts();
    let both = Messages::new().bind("r", &[]).execute().bind("w", &["7"]).execute().sync();
    assert_eq!(tags(&client.ask(both).await), "2DC2CZ");
    assert_eq!((proxy.counts().0 - before.0, proxy.counts().1), (1, before.1));
    assert_eq!(values(&client.query("SELECT count(*) FROM written").await), ["3"]);
}
