//! What a write runs besides itself, or a query runs unseen, changes its own session, and nobody else's.

use futures_util::SinkExt as _;
use pgpilot::decide::sql::Reason;

use crate::support::proxy::{PASSWORD, Proxy, USER, ask};
use crate::support::raw::{Raw, tags};
use crate::support::{LIMIT, wait_for};

/// Whoever comes next gets the connection that the last one had.
const ONE: &str = "[pool]\nmax_server_connections = 1\n";

/// What changes the session, wherever it is called.
const LEAKS: &str = "
    CREATE FUNCTION leak() RETURNS int LANGUAGE plpgsql AS $$
        BEGIN PERFORM set_config('app.leak', 'yes', false), set_config('work_mem', '23MB', false); RETURN 1; END $$;
    CREATE FUNCTION leak_unseen(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
        BEGIN PERFORM set_config('app.leak', 'yes', false), set_config('work_mem', '23MB', false); RETURN $1; END $$;
    CREATE FUNCTION leaking() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM leak(); RETURN coalesce(new, old); END $$;
    CREATE TABLE leaky (n int);
    CREATE TRIGGER leaking BEFORE INSERT OR DELETE ON leaky FOR EACH ROW EXECUTE FUNCTION leaking();
    CREATE FUNCTION leak_by_hand() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO leaky VALUES (1); RETURN 1; END $$";

/// What makes a table, and a statement that changes the session by it.
const WRITES: [(&str, &str); 27] = [
    ("", "INSERT INTO leaky VALUES (1)"),
    ("", "WITH x AS (INSERT INTO leaky VALUES (1) RETURNING n) SELECT n FROM x"),
    ("", "EXPLAIN ANALYZE INSERT INTO leaky VALUES (1)"),
    ("", "SELECT leak_by_hand()"),
    ("", "DO $$ BEGIN INSERT INTO leaky VALUES (1); END $$"),
    ("CREATE TABLE le1 (n int, m int DEFAULT leak())", "INSERT INTO le1 (n) VALUES (1)"),
    ("CREATE TABLE le2 (n int CHECK (leak() > 0))", "INSERT INTO le2 VALUES (1)"),
    ("CREATE TABLE le3 (n int, m int GENERATED ALWAYS AS (leak_unseen(n)) STORED)", "INSERT INTO le3 VALUES (1)"),
    ("CREATE TABLE le4 (n int); CREATE INDEX ON le4 (leak_unseen(n))", "INSERT INTO le4 VALUES (1)"),
    ("CREATE TABLE le5 (n int); CREATE RULE r AS ON INSERT TO le5 DO ALSO SELECT leak()", "INSERT INTO le5 VALUES (1)"),
    ("CREATE VIEW le6 AS SELECT n FROM leaky", "INSERT INTO le6 VALUES (1)"),
    (
        "CREATE VIEW le7 AS SELECT 1 AS n; CREATE TRIGGER t INSTEAD OF INSERT ON le7 FOR EACH ROW EXECUTE FUNCTION leaking()",
        "INSERT INTO le7 VALUES (1)",
    ),
    (
        "CREATE TABLE le8 (n int PRIMARY KEY); CREATE TABLE le8_of (n int REFERENCES le8 ON DELETE CASCADE);
         CREATE TRIGGER t AFTER DELETE ON le8_of FOR EACH ROW EXECUTE FUNCTION leaking();
         INSERT INTO le8 VALUES (1); INSERT INTO le8_of VALUES (1)",
        "DELETE FROM le8",
    ),
    (
        "CREATE TABLE le9 (n int) PARTITION BY LIST (n); CREATE TABLE le9_1 PARTITION OF le9 FOR VALUES IN (1);
         CREATE TRIGGER t AFTER INSERT ON le9_1 FOR EACH ROW EXECUTE FUNCTION leaking()",
        "INSERT INTO le9 VALUES (1)",
    ),
    (
        "CREATE TABLE le10 (n int); ALTER TABLE le10 ENABLE ROW LEVEL SECURITY; ALTER TABLE le10 FORCE ROW LEVEL SECURITY;
         CREATE POLICY p ON le10 FOR INSERT WITH CHECK (leak() > 0)",
        "INSERT INTO le10 VALUES (1)",
    ),
    ("CREATE DOMAIN led11 AS int CHECK (leak() > 0); CREATE TABLE le11 (n led11)", "INSERT INTO le11 VALUES (1)"),
    ("CREATE DOMAIN led12 AS int DEFAULT leak(); CREATE TABLE le12 (a int, n led12)", "INSERT INTO le12 (a) VALUES (1)"),
    (
        "CREATE TABLE le13 (n int); CREATE CONSTRAINT TRIGGER t AFTER INSERT ON le13 DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW EXECUTE FUNCTION leaking()",
        "INSERT INTO le13 VALUES (1)",
    ),
    ("CREATE TABLE le14 (n int); CREATE TRIGGER t BEFORE TRUNCATE ON le14 EXECUTE FUNCTION leaking()", "TRUNCATE le14"),
    ("CREATE TABLE le15 (n int); INSERT INTO le15 VALUES (1)", "ALTER TABLE le15 ADD COLUMN m int DEFAULT leak()"),
    ("CREATE TABLE le16 (n int, m int); INSERT INTO le16 VALUES (1)", "UPDATE le16 SET m = leak()"),
    ("", "UPDATE pg_settings SET setting = '23MB' WHERE name = 'work_mem'"),
    (
        "CREATE VIEW le17 AS SELECT name, setting AS value FROM pg_settings",
        "UPDATE le17 SET value = '23MB' WHERE name = 'work_mem'",
    ),
    (
        "CREATE FUNCTION leak_by_view() RETURNS int LANGUAGE plpgsql AS $$
             BEGIN UPDATE pg_settings SET setting = '23MB' WHERE name = 'work_mem'; RETURN 1; END $$",
        "SELECT leak_by_view()",
    ),
    (
        "CREATE TABLE le18 (n int); CREATE RULE r AS ON INSERT TO le18
             DO ALSO UPDATE pg_settings SET setting = '23MB' WHERE name = 'work_mem'",
        "INSERT INTO le18 VALUES (1)",
    ),
    // SQL in a string, which the server runs.
    ("", "SELECT * FROM ts_stat('SELECT to_tsvector(leak()::text)')"),
    ("", "SELECT ts_rewrite('a'::tsquery, 'SELECT ''a''::tsquery, ''b''::tsquery WHERE leak() > 0')"),
];

/// A proxy that knows what has been made, and an application's function by which that shows.
async fn proxy_with(definitions: &[&str], known: &str) -> Proxy {
    let proxy = Proxy::with(ONE).await;
    let client = proxy.connect().await;
    for sql in definitions {
        client.batch_execute(sql).await.unwrap();
    }
    let marker = format!("CREATE FUNCTION {known}() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'");
    client.batch_execute(&marker).await.unwrap();
    proxy.wait_for_read(&format!("SELECT {known}()")).await;
    proxy
}

#[tokio::test]
async fn settings_made_by_what_a_write_runs_reach_nobody_else() {
    let definitions: Vec<&str> = std::iter::once(LEAKS).chain(WRITES.map(|(definition, _)| definition)).collect();
    let proxy = proxy_with(&definitions, "leaks_are_known").await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    let seen = "/* pgpilot: primary */ \
                SELECT coalesce(current_setting('app.leak', true), '') || ' ' || current_setting('work_mem')";
    for (_, write) in WRITES {
        a.simple_query(write).await.unwrap_or_else(|error| panic!("{write}: {error:?}"));
        assert_eq!(ask(&b, seen).await, " 4MB", "{write}");
        // A setting that servers know has become the session's own.
        assert!(ask(&a, seen).await.ends_with(" 23MB"), "{write}");
        a.batch_execute("RESET work_mem").await.unwrap();
    }
}

#[tokio::test]
async fn what_the_triggers_of_a_write_make_is_the_sessions_own() {
    let proxy = proxy_with(
        &["CREATE FUNCTION makes() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN CREATE TEMP TABLE IF NOT EXISTS private (n int); RETURN new; END $$;
           CREATE TABLE makes (n int);
           CREATE TRIGGER t BEFORE INSERT ON makes FOR EACH ROW EXECUTE FUNCTION makes();
           CREATE TABLE locks (n int CHECK (pg_try_advisory_lock(n)));
           CREATE FUNCTION audits() RETURNS trigger LANGUAGE plpgsql AS $$
               BEGIN INSERT INTO audited_log VALUES (new.temp); RETURN new; END $$;
           CREATE TABLE audited_log (n int); CREATE TABLE audited (temp int);
           CREATE TRIGGER t BEFORE INSERT ON audited FOR EACH ROW EXECUTE FUNCTION audits()"],
        "makers_are_known",
    )
    .await;
    let a = proxy.connect().await;
    for (write, pins) in [
        ("INSERT INTO makes VALUES (1)", "temporary_object"),
        ("INSERT INTO locks VALUES (1)", "advisory_lock"),
        ("INSERT INTO audited VALUES (1)", ""),
        ("SELECT * FROM ts_stat('SELECT to_tsvector(pg_advisory_lock(1)::text)')", "advisory_lock"),
    ] {
        a.batch_execute(write).await.unwrap();
        assert_eq!(ask(&a, "SHOW pgpilot.pins").await, pins, "{write}");
        a.batch_execute("DISCARD ALL").await.unwrap();
    }
}

#[tokio::test]
async fn what_a_function_call_by_number_sets_reaches_nobody_else() {
    let proxy = Proxy::shared(ONE).await;
    let (mut a, b) = (Raw::connect(proxy.port(), "shop").await, proxy.connect().await);
    let number: i32 = ask(&b, "SELECT 'set_config'::regproc::oid::int").await.parse().unwrap();
    let mut body = number.to_be_bytes().to_vec();
    // One format for all arguments, text; three arguments; a result in text.
    body.extend([0, 1, 0, 0, 0, 3]);
    for argument in ["work_mem", "23MB"] {
        body.extend(i32::try_from(argument.len()).unwrap().to_be_bytes());
        body.extend(argument.as_bytes());
    }
    body.extend([0, 0, 0, 1, b'f', 0, 0]);
    let mut message = vec![b'F'];
    message.extend((i32::try_from(body.len()).unwrap() + 4).to_be_bytes());
    message.extend(body);
    a.send(&message).await;
    assert_eq!(tags(&a.until(b'Z').await), "VZ");
    assert_eq!(ask(&b, "/* pgpilot: primary */ SHOW work_mem").await, "4MB");
    assert_eq!(a.ask("/* pgpilot: primary */ SHOW work_mem").await, "23MB");
}

#[tokio::test]
async fn what_a_copy_sets_is_asked_for_when_its_second_sync_has_come() {
    let proxy = proxy_with(&[LEAKS], "known_copy").await;
    let (a, b) = (proxy.connect().await, proxy.connect().await);
    // Bind, Execute and Sync go before the data, and a Sync behind it.
    let mut sink = std::pin::pin!(a.copy_in("COPY leaky FROM STDIN").await.unwrap());
    sink.send(bytes::Bytes::from_static(b"1\n2\n")).await.unwrap();
    let finished = tokio::time::timeout(LIMIT, sink.finish()).await.expect("it ends");
    assert_eq!(finished.unwrap(), 2);
    assert_eq!(ask(&b, "/* pgpilot: primary */ SHOW work_mem").await, "4MB");
    assert_eq!(ask(&a, "/* pgpilot: primary */ SHOW work_mem").await, "23MB");
}

#[tokio::test]
async fn what_only_the_end_of_a_connection_takes_away_keeps_it() {
    let proxy = Proxy::with("").await;
    let owner = proxy.node("pg1").connect_to("shop").await.unwrap();
    owner.batch_execute("CREATE EXTENSION dblink; ALTER ROLE app REPLICATION").await.unwrap();
    owner.batch_execute("GRANT EXECUTE ON FUNCTION dblink_connect_u(text, text) TO app").await.unwrap();
    let connect = format!(
        "SELECT dblink_connect_u('far', 'host=127.0.0.1 port={} user={USER} password={PASSWORD} dbname=shop')",
        proxy.node("pg1").port()
    );
    wait_for("the extension to be known", LIMIT, async || {
        let judged = proxy.app.shared().verdicts(&"shop".into()).of(b"SELECT dblink_connect_u('a', 'b')");
        judged.statements[0].reason == Reason::PrimaryFunction
    })
    .await;
    for (text, pin) in [
        ("SELECT setseed(0.5)", "random_seed"),
        ("DO $$ BEGIN PERFORM setseed(0.5); END $$", "random_seed"),
        ("SELECT * FROM ts_stat('SELECT to_tsvector(setseed(0.5)::text)')", "random_seed"),
        ("SELECT pg_create_physical_replication_slot('own', false, true)", "replication_slot"),
        (&connect, "dblink"),
    ] {
        let client = proxy.connect().await;
        client.simple_query(text).await.unwrap();
        assert_eq!(ask(&client, "SHOW pgpilot.pins").await, pin, "{text}");
        let process = ask(&client, "/* pgpilot: primary */ SELECT pg_backend_pid()").await;
        client.batch_execute("DISCARD ALL").await.unwrap();
        drop(client);
        // Nobody gets a connection that is marked for good.
        let gone = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {process}");
        wait_for("the connection to be closed", LIMIT, async || {
            owner.query_one(&gone, &[]).await.unwrap().get::<_, i64>(0) == 0
        })
        .await;
    }
}

#[tokio::test]
async fn a_seed_gives_the_numbers_that_a_server_gives() {
    let proxy = Proxy::shared("").await;
    let (client, others) = (proxy.connect().await, proxy.connect().await);
    let direct = proxy.node("pg1").connect_to("shop").await.unwrap();
    for sql in ["SELECT setseed(0.25)", "SET seed = 0.25"] {
        client.simple_query(sql).await.unwrap();
        direct.simple_query(sql).await.unwrap();
        for _ in 0..5 {
            ask(&others, "/* pgpilot: primary */ SELECT random()").await;
            let expected: f64 = direct.query_one("SELECT random()", &[]).await.unwrap().get(0);
            assert_eq!(client.query_one("SELECT random()", &[]).await.unwrap().get::<_, f64>(0), expected, "{sql}");
        }
    }
}

/// The `search_path` makes what is made a temporary object, whoever has set it, and wherever.
#[tokio::test]
async fn what_is_temporary_without_the_word_is_the_sessions_own() {
    let proxy = proxy_with(
        &[
            "CREATE TABLE made (n int)",
            "CREATE FUNCTION making() RETURNS int LANGUAGE plpgsql SET search_path = pg_temp, public AS $$
               BEGIN CREATE TABLE made (n int); RETURN 1; END $$",
            "CREATE FUNCTION triggered() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_temp, public AS $$
               BEGIN CREATE TABLE made (n int); RETURN new; END $$;
           CREATE TABLE triggers (n int);
           CREATE TRIGGER t BEFORE INSERT ON triggers FOR EACH ROW EXECUTE FUNCTION triggered()",
        ],
        "temporary_makers_are_known",
    )
    .await;
    let begun_so = "options='-c search_path=pg_temp,public'";
    for (options, statements) in [
        ("", &["SET search_path = pg_temp, public", "CREATE TABLE made (n int)"][..]),
        ("", &["SET search_path = nosuch, pg_temp, public", "SELECT 1 AS n INTO made"]),
        ("", &["SELECT set_config('search_path', 'pg_temp, public', false)", "CREATE TABLE made AS SELECT 1 AS n"]),
        ("", &["BEGIN", "SET LOCAL search_path = pg_temp, public", "CREATE VIEW made AS SELECT 1 AS n", "COMMIT"]),
        ("", &["SELECT making()"]),
        ("", &["INSERT INTO triggers VALUES (1)"]),
        (begun_so, &["CREATE TABLE made AS SELECT 1 AS n"]),
    ] {
        let a = proxy.connect_with(options).await;
        for statement in statements {
            a.simple_query(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
        assert_eq!(ask(&a, "SHOW pgpilot.pins").await, "temporary_object", "{statements:?}");
        a.batch_execute("DISCARD ALL").await.unwrap();
        // Whoever comes next writes to the table that is there for all.
        let b = proxy.connect().await;
        b.batch_execute("INSERT INTO made VALUES (7)").await.unwrap();
    }
    let rows = ask(&proxy.connect().await, "/* pgpilot: primary */ SELECT count(*)::text FROM public.made").await;
    assert_eq!(rows, "7");
}
