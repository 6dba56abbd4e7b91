//! pgpilot's own settings among other statements of one Query or pipeline, and from functions: they hold there, end where a
//! server's would, and no server is left with them.

use crate::support::plain::{Messages, Raw, TRUST, errors, tags, values};
use crate::support::proxy::{Proxy, ask, servers, try_ask};

const READ: &str = "SELECT s FROM t";

/// How statements are sent.
#[derive(Debug, Clone, Copy)]
enum Way {
    Query,
    Pipeline,
    /// In parts, each of which is asked for before the next is sent.
    Flushed,
}

impl Way {
    fn messages(self, statements: &[&str]) -> Messages {
        if let Self::Query = self {
            return Messages::new().query(&statements.join("; "));
        }
        let mut messages = Messages::new();
        for (n, statement) in statements.iter().enumerate() {
            messages = messages.parse("", statement).bind("", &[]).execute();
            if matches!(self, Self::Flushed) && n == 0 {
                messages = messages.flush();
            }
        }
        messages.sync()
    }
}

async fn now(client: &mut Raw) -> String {
    let mut all = Vec::new();
    for name in ["consistency", "route", "min_lsn"] {
        all.extend(values(&client.query(&format!("SHOW pgpilot.{name}")).await));
    }
    all.join(" ")
}

/// What the servers' connections of a pgpilot have that it should have kept to itself.
async fn placeholders(proxy: &Proxy) -> Vec<String> {
    let mut found = Vec::new();
    for hint in ["primary", "replica"] {
        for _ in 0..4 {
            let client = proxy.connect().await;
            for name in ["consistency", "route", "min_lsn"] {
                let sql = format!("/* pgpilot: {hint} */ SELECT coalesce(current_setting('pgpilot.{name}', true), '')");
                found.push(ask(&client, &sql).await);
            }
        }
    }
    found.retain(|value| !value.is_empty());
    found
}

#[tokio::test]
async fn what_is_set_in_a_query_or_a_pipeline_holds_there_and_no_server_keeps_it() {
    let proxy = Proxy::before(servers().await, &format!("{TRUST}[routing]\nmax_lag = \"1h\"\n")).await;
    let writer = proxy.connect().await;
    writer.batch_execute("CREATE TABLE t AS SELECT 'old' AS s").await.unwrap();
    proxy.wait_for_read(READ).await;
    let old = ask(&writer, "SHOW pgpilot.lsn").await;
    // What a server logs of itself may stand before the position, and goes to disk with the next commit.
    writer.batch_execute("CREATE TABLE w (n int)").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    for replica in ["pg2", "pg3"] {
        proxy.node(replica).pause_replay().await.unwrap();
    }
    writer.batch_execute("UPDATE t SET s = 'new'").await.unwrap();
    let token = ask(&writer, "SHOW pgpilot.lsn").await;
    let set_token = &*format!("SET pgpilot.min_lsn = '{token}'");
    let set_old = &*format!("SET SESSION pgpilot.min_lsn TO '{old}'");
    let (strong, local) = ("SET pgpilot.consistency = 'strong'", "SET LOCAL pgpilot.consistency = strong");
    let begin = "BEGIN READ ONLY";
    for (statements, reads, after) in [
        (&[set_token, READ][..], "new", format!("session auto {token}")),
        (&[set_old, READ], "old", format!("session auto {old}")),
        (&[strong, READ], "new", "strong auto ".to_owned()),
        (&[READ, strong, READ], "new new", "strong auto ".to_owned()),
        (&[strong, set_token, "RESET pgpilot.min_lsn", READ], "new", "strong auto ".to_owned()),
        (&[begin, local, READ, "COMMIT"], "new", "session auto ".to_owned()),
        (&[begin, local, READ, "COMMIT", READ], "new new", "session auto ".to_owned()),
        (&[begin, strong, READ, "ROLLBACK"], "new", "session auto ".to_owned()),
        (&[begin, strong, READ, "COMMIT"], "new", "strong auto ".to_owned()),
        (&[local, READ], "new", "session auto ".to_owned()),
        (&["SET pgpilot.route = 'primary'", READ], "new", "session primary ".to_owned()),
        (&[strong, READ, "SELECT 1 / 0"], "new", "session auto ".to_owned()),
        (&[strong, "INSERT INTO w VALUES (1)", READ, "SELECT 1 / 0"], "new", "session auto ".to_owned()),
    ] {
        for way in [Way::Query, Way::Pipeline, Way::Flushed] {
            let mut client = Raw::connect(proxy.port()).await;
            let replies = client.ask(way.messages(statements)).await;
            let seen = values(&replies).join(" ");
            // What is known to be without a Sync yet may go on the primary.
            let expected = if matches!(way, Way::Flushed) { reads.replace("old", "new") } else { reads.to_owned() };
            assert_eq!(seen, expected, "{way:?} {statements:?}: {:?}", errors(&replies));
            assert_eq!(now(&mut client).await, after, "{way:?} {statements:?}");
        }
    }
    assert_eq!(values(&Raw::connect(proxy.port()).await.query(READ).await), ["old"], "of nobody who asks for more");
    assert_eq!(placeholders(&proxy).await, [""; 0]);
    assert_eq!(ask(&writer, "SELECT count(*) FROM w").await, "0");
}

#[tokio::test]
async fn own_statements_are_answered_in_their_turn_or_refused_with_all_that_stands_before_them() {
    let proxy = Proxy::before(servers().await, TRUST).await;
    let mut client = Raw::connect(proxy.port()).await;
    client.query("CREATE TABLE w (n int)").await;
    let (write, lsn, set) = ("INSERT INTO w VALUES (1)", "SHOW pgpilot.lsn", "SET pgpilot.consistency = 'eventual'");
    let (show, bad) = ("SHOW pgpilot.consistency", "SET pgpilot.min_lsn = 'nonsense'");
    for (statements, query, pipeline) in [
        (&["BEGIN", lsn, write, "ROLLBACK"][..], "0A000", ""),
        (&["BEGIN", set, show, "ROLLBACK"], "0A000", ""),
        (&[write, show, "SELECT 1 / 0"], "0A000", "22012"),
        (&[write, lsn], "0A000", "0A000"),
        (&[write, bad], "22023", "22023"),
        (&[write, "SET pgpilot.nothing = 1"], "42704", "42704"),
        (&[write, show, set], "0A000", "0A000"),
        (&["BEGIN", write, set, "ROLLBACK", "SELECT 1"], "0A000", "0A000"),
    ] {
        for (way, error) in [(Way::Query, query), (Way::Pipeline, pipeline)] {
            let replies = client.ask(way.messages(statements)).await;
            assert_eq!(errors(&replies).concat(), error, "{way:?} {statements:?}");
            let status = replies.last().unwrap().body[0];
            if status != b'I' {
                client.query("ROLLBACK").await;
            }
            assert_eq!(values(&client.query("SELECT count(*) FROM w").await), ["0"], "{way:?} {statements:?}");
            assert_eq!(values(&client.query(show).await), ["session"], "{way:?} {statements:?}");
        }
    }
    // As a server replies.
    let replies = client.ask(Way::Pipeline.messages(&["BEGIN", set, show, "SELECT 1", "COMMIT"])).await;
    assert_eq!(
        (tags(&replies), values(&replies)),
        ("12C12C12DC12DC12CZ".to_owned(), vec!["eventual".into(), "1".into()])
    );
    let replies = client.query("RESET pgpilot.consistency; SET pgpilot.route = auto; SELECT 1").await;
    assert_eq!((tags(&replies), values(&client.query(show).await)), ("CCTDCZ".to_owned(), vec!["session".to_owned()]));
    assert_eq!([&replies[0], &replies[1]].map(|reply| &reply.body[..]), [&b"RESET\0"[..], b"SET\0"]);
    let driver = proxy.connect().await;
    let failed = driver.simple_query("SET pgpilot.route = 'primary'; SELECT missing").await.unwrap_err();
    let position = failed.as_db_error().and_then(|error| error.position()).cloned();
    assert_eq!(position, Some(tokio_postgres::error::ErrorPosition::Original(39)), "{failed:?}");
}

#[tokio::test]
async fn what_set_config_sets_holds_for_the_session_and_for_nobody_else() {
    let proxy = Proxy::before(servers().await, TRUST).await;
    let client = proxy.connect().await;
    let show = async |name: &str| ask(&client, &format!("SHOW pgpilot.{name}")).await;
    client.query("SELECT set_config('pgpilot.min_lsn', $1, false)", &[&"1:0/10"]).await.unwrap();
    assert_eq!(show("min_lsn").await, "1:0/10");
    client.query("SELECT set_config($1, $2, false)", &[&"pgpilot.consistency", &"strong"]).await.unwrap();
    assert_eq!(show("consistency").await, "strong");
    client
        .batch_execute("DO $$ BEGIN PERFORM set_config('pgpilot.' || 'route', 'primary', false); END $$")
        .await
        .unwrap();
    assert_eq!(show("route").await, "primary");
    client.batch_execute("BEGIN; SELECT set_config('pgpilot.route', 'replica', false)").await.unwrap();
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(show("route").await, "primary");
    assert_eq!(placeholders(&proxy).await, [""; 0]);
    // What it has set can be set anew, on whichever connection.
    client.batch_execute("RESET pgpilot.consistency; RESET pgpilot.route").await.unwrap();
    ask(&client, "SELECT set_config('app.x', '1', false)").await;
    assert_eq!((show("consistency").await, show("route").await), ("session".to_owned(), "auto".to_owned()));
    // One that is pinned finds it so, too.
    client.batch_execute("CREATE TEMPORARY TABLE mine (n int)").await.unwrap();
    ask(&client, "SELECT set_config('pgpilot.consistency', 'strong', false)").await;
    client.batch_execute("SET pgpilot.consistency = 'eventual'").await.unwrap();
    ask(&client, "SELECT set_config('app.x', '2', false)").await;
    assert_eq!(show("consistency").await, "eventual");
    client.batch_execute("DROP TABLE mine").await.unwrap();
    // Whoever sets nonsense is told.
    ask(&client, "SELECT set_config('pgpilot.min_lsn', 'nonsense', false)").await;
    let told = try_ask(&client, "SELECT 1").await.unwrap_err();
    assert_eq!(told.code().map(|code| code.code()), Some("22023"), "{told:?}");
    assert_eq!((show("min_lsn").await, ask(&client, "SELECT 1").await), ("1:0/10".to_owned(), "1".to_owned()));
    assert_eq!(placeholders(&proxy).await, [""; 0]);
    // For its transaction: that goes where anything is met.
    let before = proxy.counts().1;
    client.batch_execute("BEGIN READ ONLY").await.unwrap();
    ask(&client, "SELECT set_config('pgpilot.consistency', 'strong', true)").await;
    ask(&client, "SELECT 1").await;
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(proxy.counts().1, before);
}
