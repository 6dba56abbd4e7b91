//! What belongs to one session stays with it: settings, temporary tables, notifications; and what a session may ask of pgpilot.

use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use pgpilot::decide::sql::Reason;
use pgpilot::wire::frontend;
use pgpilot::wire::startup::PROTOCOL_3_0;
use tokio_postgres::{AsyncMessage, Client, NoTls, Notification};

use crate::support::proxy::{PASSWORD, Proxy, USER, ask, try_ask};
use crate::support::raw::{Frame, Raw, tags};
use crate::support::{LIMIT, wait_for};

/// Whoever comes next gets the connection that the last one had.
const ONE: &str = "[pool]\nmax_server_connections = 1\n";

#[tokio::test]
async fn settings_made_in_a_transaction_follow_its_fate_and_their_session() {
    let proxy = Proxy::shared(ONE).await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    let timeout = "SELECT current_setting('statement_timeout')";
    for (texts, expected) in [
        (&["BEGIN", "SET statement_timeout = '11s'", "COMMIT"][..], "11s"),
        (&["BEGIN", "SET statement_timeout = '12s'", "ROLLBACK"], "11s"),
        (&["BEGIN", "SET LOCAL statement_timeout = '13s'", "SELECT 1", "COMMIT"], "11s"),
        (&["BEGIN", "SAVEPOINT s", "SET statement_timeout = '14s'", "ROLLBACK TO s", "COMMIT"], "11s"),
        (&["BEGIN; SET statement_timeout = '15s'; COMMIT"], "15s"),
        (&["SELECT set_config('statement_timeout', '16s', false)"], "16s"),
        (&["SELECT set_config('statement_timeout', '17s', true)"], "16s"),
        (&["SELECT set_config('statement_' || 'timeout', '18s', false)"], "18s"),
        (&["DO $$ BEGIN PERFORM set_config('statement_timeout', '19s', false); END $$"], "19s"),
        (&["BEGIN", "SELECT set_config('statement_timeout', '20s', false)", "SELECT 1/0", "ROLLBACK"], "19s"),
        (&["RESET statement_timeout"], "0"),
    ] {
        for sql in texts {
            assert!(try_ask(&a, sql).await.is_ok() || sql.contains("1/0"), "{sql}");
        }
        for _ in 0..3 {
            assert_eq!(ask(&b, timeout).await, "0", "{texts:?}");
            assert_eq!(ask(&b, "SHOW statement_timeout").await, "0", "{texts:?}");
            assert_eq!(ask(&a, timeout).await, expected, "{texts:?}");
        }
    }
}

#[tokio::test]
async fn row_level_security_by_setting_never_sees_another_tenant() {
    let proxy = Proxy::with(ONE).await;
    let owner = proxy.node("pg1").connect_to("shop").await.unwrap();
    owner
        .batch_execute(
            "CREATE TABLE orders (tenant text, n int); GRANT ALL ON orders TO app;
             INSERT INTO orders SELECT 't' || n % 3, n FROM generate_series(1, 30) n;
             ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
             CREATE POLICY tenants ON orders USING (tenant = current_setting('app.tenant', true))",
        )
        .await
        .unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    let clients = [proxy.connect().await, proxy.connect().await, proxy.connect().await];
    for (n, client) in clients.iter().enumerate() {
        ask(client, &format!("SELECT set_config('app.tenant', 't{n}', false)")).await;
    }
    let nobody = proxy.connect().await;
    // It was made past pgpilot, which looks when it is named.
    assert_eq!(ask(&nobody, "SELECT count(*) FROM orders").await, "0");
    proxy.wait_for_read("SELECT count(*) FROM orders").await;
    // Reads with settings do not need the primary.
    wait_for("reads on replicas", LIMIT, async || {
        for (n, client) in clients.iter().enumerate() {
            let seen = ask(client, "SELECT string_agg(DISTINCT tenant, ',') || count(*) FROM orders").await;
            assert_eq!(seen, format!("t{n}10"));
        }
        assert_eq!(ask(&nobody, "SELECT count(*) FROM orders").await, "0");
        proxy.counts().1 >= 40
    })
    .await;
}

#[tokio::test]
async fn a_temporary_table_outside_a_transaction_stays_usable_and_private() {
    let proxy = Proxy::shared("").await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    // It has the name of a permanent one, which every replica would find.
    a.batch_execute("CREATE TABLE shadowed (n int); INSERT INTO shadowed VALUES (1)").await.unwrap();
    a.batch_execute("CREATE TEMP TABLE shadowed (n int)").await.unwrap();
    a.batch_execute("INSERT INTO shadowed VALUES (2), (3)").await.unwrap();
    for _ in 0..20 {
        assert_eq!(ask(&a, "SELECT count(*) FROM shadowed").await, "2");
        assert_eq!(a.query_one("SELECT sum(n) FROM shadowed", &[]).await.unwrap().get::<_, i64>(0), 5);
        assert_eq!(ask(&b, "SELECT count(*) FROM shadowed").await, "1");
    }
    drop(a);
    let c = proxy.connect().await;
    for _ in 0..5 {
        assert_eq!(ask(&c, "SELECT count(*) FROM shadowed").await, "1");
    }
}

/// A client that keeps what it is notified of.
async fn listening(proxy: &Proxy) -> (Client, Arc<Mutex<Vec<Notification>>>) {
    let text = format!("host=127.0.0.1 port={} user={USER} password={PASSWORD} dbname=shop", proxy.port());
    let (client, mut connection) = tokio_postgres::connect(&text, NoTls).await.unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let notes = heard.clone();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message {
                notes.lock().unwrap().push(notification);
            }
        }
    });
    (client, heard)
}

#[tokio::test]
async fn notifications_are_delivered_while_pooled_by_transaction() {
    let proxy = Proxy::shared("").await;
    let ((a, heard), (_other, others)) = (listening(&proxy).await, listening(&proxy).await);
    let notifier = proxy.connect().await;
    a.batch_execute("LISTEN news").await.unwrap();
    assert_eq!(ask(&a, "SHOW pgpilot.pins").await, "listen");
    for n in 1..=5 {
        notifier.batch_execute(&format!("NOTIFY news, '{n}'")).await.unwrap();
    }
    // It is idle, and is told all the same.
    wait_for("notifications", LIMIT, async || heard.lock().unwrap().len() == 5).await;
    notifier.batch_execute("BEGIN; SELECT pg_notify('news', '6'); COMMIT").await.unwrap();
    wait_for("a notification by function", LIMIT, async || heard.lock().unwrap().len() == 6).await;
    let payloads: Vec<_> = heard.lock().unwrap().iter().map(|note| note.payload().to_owned()).collect();
    assert_eq!(payloads, ["1", "2", "3", "4", "5", "6"]);
    a.batch_execute("UNLISTEN news").await.unwrap();
    assert_eq!(ask(&a, "SHOW pgpilot.pins").await, "");
    notifier.batch_execute("NOTIFY news, '7'").await.unwrap();
    assert_eq!(ask(&a, "SELECT 1").await, "1");
    assert_eq!((heard.lock().unwrap().len(), others.lock().unwrap().len()), (6, 0));
}

/// Where a statement ran: (primary, replica).
async fn place(proxy: &Proxy, client: &Client, sql: &str) -> (u64, u64) {
    let before = proxy.counts();
    ask(client, sql).await;
    (proxy.counts().0 - before.0, proxy.counts().1 - before.1)
}

#[tokio::test]
async fn settings_and_hints_choose_the_place() {
    let proxy = Proxy::shared("").await;
    let client = proxy.connect().await;
    assert_eq!(place(&proxy, &client, "SELECT 1").await, (0, 1));
    assert_eq!(place(&proxy, &client, "/* pgpilot: primary */ SELECT 1").await, (1, 0));
    client.batch_execute("SET pgpilot.route = 'primary'").await.unwrap();
    assert_eq!(ask(&client, "SHOW pgpilot.route").await, "primary");
    assert_eq!(place(&proxy, &client, "SELECT 2").await, (1, 0));
    client.batch_execute("RESET pgpilot.route").await.unwrap();
    client.batch_execute("SET pgpilot.consistency = 'primary'").await.unwrap();
    assert_eq!(place(&proxy, &client, "SELECT 3").await, (1, 0));
    // In mode `primary`, a hint asks for a replica that has what the session wrote.
    wait_for("a replica by hint", LIMIT, async || {
        place(&proxy, &client, "SELECT 4 /* pgpilot: replica */").await == (0, 1)
    })
    .await;
    client.batch_execute("SET pgpilot.consistency = 'eventual'").await.unwrap();
    assert_eq!(place(&proxy, &client, "SELECT 5").await, (0, 1));
    // A hint does not make a replica take a write.
    client.batch_execute("SET pgpilot.route = 'replica'").await.unwrap();
    assert_eq!(place(&proxy, &client, "CREATE TABLE hinted (n int)").await, (1, 0));
    assert_eq!(place(&proxy, &client, "/* pgpilot: replica */ INSERT INTO hinted VALUES (1)").await, (1, 0));
    let wrong = client.batch_execute("SET pgpilot.consistency = 'sometimes'").await.unwrap_err();
    assert_eq!(wrong.code().map(|code| code.code()), Some("22023"));
    let unknown = client.batch_execute("SET pgpilot.konsistency = 'strong'").await.unwrap_err();
    assert_eq!(unknown.code().map(|code| code.code()), Some("42704"));
    let at_start = proxy.connect_with("options='-c pgpilot.consistency=primary'").await;
    assert_eq!(ask(&at_start, "SHOW pgpilot.consistency").await, "primary");
    assert_eq!(place(&proxy, &at_start, "SELECT 6").await, (1, 0));
}

#[tokio::test]
async fn a_token_carries_a_write_to_another_session() {
    // A replica that is asked too early would answer: nothing but the token keeps the reads from it.
    let proxy = Proxy::shared("[routing]\nconsistency = \"eventual\"\n").await;
    let (writer, reader) = (proxy.connect().await, proxy.connect().await);
    writer.batch_execute("CREATE TABLE tokens (n int); INSERT INTO tokens VALUES (0)").await.unwrap();
    for n in 1..=100 {
        writer.batch_execute(&format!("UPDATE tokens SET n = {n}")).await.unwrap();
        let token = ask(&writer, "SHOW pgpilot.lsn").await;
        reader.batch_execute(&format!("SET pgpilot.min_lsn = '{token}'")).await.unwrap();
        assert_eq!(ask(&reader, "SELECT n FROM tokens").await, n.to_string(), "{token}");
    }
    wait_for("reads with a token to run on replicas", LIMIT, async || {
        place(&proxy, &reader, "SELECT n FROM tokens").await == (0, 1)
    })
    .await;
    // One that no server reaches: the primary has what there is.
    reader.batch_execute("SET pgpilot.min_lsn = '1/FFFF/0'").await.map_or_else(
        |error| assert_eq!(error.code().map(|code| code.code()), Some("22023")),
        |()| panic!("that is no token"),
    );
    assert_eq!(proxy.count_of(Reason::Retried), 0);
}

/// The SQLSTATE of a statement that fails.
async fn failure(client: &Client, sql: &str) -> String {
    let error = try_ask(client, sql).await.expect_err(sql);
    error.code().map_or_else(|| error.to_string(), |code| code.code().to_owned())
}

#[tokio::test]
async fn sequences_are_told_of_as_the_session_left_them() {
    let proxy = Proxy::shared(ONE).await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    a.batch_execute("CREATE SEQUENCE tally; CREATE TABLE telling (n int); INSERT INTO telling VALUES (0)")
        .await
        .unwrap();
    assert_eq!(ask(&a, "SELECT nextval('tally')").await, "1");
    b.batch_execute("UPDATE telling SET n = 1").await.unwrap();
    assert_eq!(failure(&b, "SELECT lastval()").await, "55000");
    drop(b);
    // From now on connections are told apart before they are written on.
    let c = proxy.connect().await;
    for n in 2..5 {
        c.batch_execute("UPDATE telling SET n = 2").await.unwrap();
        assert_eq!(ask(&a, "SELECT nextval('tally')").await, n.to_string());
    }
    assert_eq!(ask(&a, "SELECT lastval()").await, "4");
    assert_eq!(ask(&a, "SHOW pgpilot.pins").await, "sequence_state");
}

#[tokio::test]
async fn a_transaction_that_has_used_no_sequence_is_told_of_no_other_sessions() {
    let proxy = Proxy::shared(ONE).await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    a.batch_execute("CREATE SEQUENCE others").await.unwrap();
    for begin in ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ"] {
        ask(&a, "SELECT nextval('others')").await;
        b.batch_execute(begin).await.unwrap();
        assert_eq!(ask(&b, "SELECT 2").await, "2");
        assert_eq!(failure(&b, "SELECT lastval()").await, "55000", "{begin}");
        assert_eq!(failure(&b, "SELECT lastval()").await, "25P02");
        b.batch_execute("ROLLBACK").await.unwrap();
    }
    b.batch_execute("BEGIN").await.unwrap();
    let taken = ask(&b, "SELECT nextval('others')").await;
    assert_eq!(ask(&b, "SELECT lastval()").await, taken);
    assert_eq!(ask(&b, "SELECT currval('others')").await, taken);
    b.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn a_session_is_not_told_an_older_value_of_its_own() {
    let proxy = Proxy::shared("[pool]\nmax_server_connections = 2\n").await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    a.batch_execute("CREATE SEQUENCE older; CREATE TABLE ageing (n int)").await.unwrap();
    assert_eq!(ask(&a, "SELECT nextval('older')").await, "1");
    // Takes that connection, so that the next value comes over another one; and gives it back last.
    b.batch_execute("BEGIN").await.unwrap();
    assert_eq!(ask(&b, "/* pgpilot: primary */ SELECT 2").await, "2");
    assert_eq!(ask(&a, "SELECT nextval('older')").await, "2");
    b.batch_execute("COMMIT").await.unwrap();
    a.batch_execute("UPDATE ageing SET n = 1").await.unwrap();
    match try_ask(&a, "SELECT lastval()").await {
        Ok(value) => assert_eq!(value, "2"),
        Err(error) => assert_eq!(error.code().map(|code| code.code()), Some("55000")),
    }
}

#[tokio::test]
async fn a_setting_keeps_its_characters_in_any_encoding() {
    let proxy = Proxy::shared(ONE).await;
    let mut latin = Raw::connect(proxy.port(), "shop").await;
    let bytes = "SELECT octet_length(current_setting('app.name')) || ' ' || encode(convert_to(current_setting('app.name'), 'UTF8'), 'hex')";
    latin.query("SET app.name = 'x'").await;
    latin.query("SET client_encoding = 'LATIN1'").await;
    latin.send(b"Q\0\0\0\x1bSET app.name = 'caf\xe9\\'\0").await;
    latin.until(b'Z').await;
    // Somebody else has the connection in between.
    let other = proxy.connect().await;
    for _ in 0..3 {
        other.batch_execute("SET work_mem = '5MB'").await.unwrap();
        for place in ["", "/* pgpilot: primary */ "] {
            assert_eq!(latin.ask(&format!("{place}{bytes}")).await, "6 636166c3a95c");
        }
    }
}

#[tokio::test]
async fn a_text_in_ascii_is_understood_in_any_encoding() {
    let proxy = Proxy::shared(ONE).await;
    let other = proxy.connect().await;
    // What follows a character in SJIS, or stands behind a backslash, is not always what it looks like.
    for (setting, value, odd) in
        [("client_encoding", "SJIS", &b"\x83\x5c"[..]), ("standard_conforming_strings", "off", b"\\'x")]
    {
        let began = [("user", USER), ("database", "shop"), (setting, value)];
        let mut client = Raw::connect_with(proxy.port(), PROTOCOL_3_0, &began).await.unwrap();
        let send = async |client: &mut Raw, text: &[&[u8]]| {
            let mut message = BytesMut::new();
            frontend::put_query(&mut message, &text.concat());
            client.send(&message).await;
            let frames = client.until(b'Z').await;
            assert_ne!(frames[0].tag, b'E', "{frames:?}");
            other.batch_execute("SET work_mem = '5MB'").await.unwrap();
        };
        send(&mut client, &[b"SET statement_timeout = '17s'; SET app.plain = 'mine'"]).await;
        assert_eq!(client.ask("SHOW statement_timeout").await, "17s", "{setting}");
        assert_eq!(client.ask("SELECT current_setting('app.plain', true)").await, "mine", "{setting}");
        send(&mut client, &[b"SET pgpilot.route = 'primary'"]).await;
        assert_eq!(client.ask("SHOW pgpilot.route").await, "primary", "{setting}");
        assert_eq!(client.ask("SHOW pgpilot.pins").await, "", "{setting}");
        send(&mut client, &[b"RESET statement_timeout"]).await;
        send(&mut client, &[b"SET statement_timeout = '18s'; SET app.odd = '", odd, b"'"]).await;
        assert_eq!(client.ask("SHOW statement_timeout").await, "18s", "{setting}");
        assert_eq!(client.ask("SELECT length(current_setting('app.odd', true)) > 0").await, "t", "{setting}");
    }
}

#[tokio::test]
async fn a_session_that_limits_its_idleness_ends_and_its_connection_does_not() {
    let proxy = Proxy::shared(ONE).await;
    let other = proxy.connect().await;
    let process = "/* pgpilot: primary */ SELECT pg_backend_pid()";
    let before = ask(&other, process).await;
    let mut client = Raw::connect(proxy.port(), "shop").await;
    client.query("SET idle_session_timeout = '300ms'").await;
    let frames = client.rest().await;
    assert_eq!((frames.len(), frames[0].field(b'C'), frames[0].field(b'S')), (1, Some("57P05"), Some("FATAL")));
    assert_eq!(ask(&other, process).await, before);
}

#[tokio::test]
async fn a_failed_statement_of_pgpilots_own_fails_its_transaction() {
    let proxy = Proxy::shared("").await;
    let mut client = Raw::connect(proxy.port(), "shop").await;
    for begun in [&["BEGIN"][..], &["BEGIN", "/* pgpilot: primary */ SELECT 1"], &["BEGIN READ ONLY", "SELECT 1"]] {
        for sql in begun {
            client.query(sql).await;
        }
        let status = |frames: &[Frame]| frames.last().map(|frame| frame.body.clone());
        let frames = client.query("SET pgpilot.consistency = 'sometimes'").await;
        assert_eq!((&*tags(&frames), status(&frames)), ("EZ", Some(b"E".to_vec())), "{begun:?}");
        let frames = client.query("SELECT 2").await;
        assert_eq!((frames[0].field(b'C'), status(&frames)), (Some("25P02"), Some(b"E".to_vec())), "{begun:?}");
        let frames = client.query("COMMIT").await;
        assert_eq!((&frames[0].body[..], status(&frames)), (&b"ROLLBACK\0"[..], Some(b"I".to_vec())), "{begun:?}");
        assert_eq!(client.ask("SELECT 3").await, "3");
    }
}
