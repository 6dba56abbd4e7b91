//! What names mean: the session's `search_path`, the types of arguments, names with escapes.

use pgpilot::decide::sql::{Intent, Reason};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::support::plain::{Messages, Raw, TRUST, errors};
use crate::support::proxy::{PASSWORD, Proxy, USER, ask, servers};
use crate::support::{LIMIT, wait_for};

const EVENTUAL: &str = "[routing]\nconsistency = \"eventual\"\n";

/// Waits until pgpilot judges the text so, whoever sends it, and the replicas have what was made before.
async fn known(proxy: &Proxy, text: &str, intent: Intent) {
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    wait_for("pgpilot to know the functions", LIMIT, async || {
        let verdicts = proxy.app.shared().verdicts(&"shop".into());
        let judged = verdicts.of(text.as_bytes());
        judged.statements[0].intent == intent && judged.statements[0].reason != Reason::UnknownFunction
    })
    .await;
}

/// What a call answers, and whether it ran on a replica.
async fn call(proxy: &Proxy, client: &Client, text: &str) -> (String, bool) {
    let before = proxy.counts();
    let answer = ask(client, text).await;
    let after = proxy.counts();
    assert_eq!(after.0 + after.1, before.0 + before.1 + 1, "{text}");
    (answer, after.1 > before.1)
}

const FUNCTIONS: &str = "
CREATE SCHEMA shelf; CREATE SCHEMA drawer; CREATE TABLE picked (a int);
CREATE FUNCTION public.pick(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION drawer.pick(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
CREATE FUNCTION shelf.pick(int) RETURNS int LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO public.picked VALUES ($1); RETURN - $1; END $$;
CREATE VIEW shelf.shown AS SELECT shelf.pick(5) AS a;
CREATE VIEW public.shown AS SELECT 6 AS a;
GRANT USAGE ON SCHEMA shelf, drawer TO PUBLIC; GRANT ALL ON picked, shelf.shown, public.shown TO PUBLIC";

/// A proxy that has never known other roles: to one that has, the settings of older connections are not known.
async fn with_roles(statements: &[&str], more: &str) -> Proxy {
    let servers = servers().await;
    let primary = servers.node("pg1").unwrap();
    for statement in statements {
        primary.sql(statement).await.unwrap();
    }
    servers.wait_caught_up(primary).await.unwrap();
    Proxy::before(servers, more).await
}

#[tokio::test]
async fn names_mean_what_the_search_path_says() {
    let role = "CREATE ROLE picker LOGIN IN ROLE app PASSWORD 'picker-secret'";
    let proxy = with_roles(&[role, "ALTER ROLE picker IN DATABASE shop SET search_path = drawer"], EVENTUAL).await;
    let client = proxy.connect().await;
    client.batch_execute(FUNCTIONS).await.unwrap();
    known(&proxy, "SELECT shelf.pick(1)", Intent::Write).await;
    let of = |answer: &str, replica: bool| (answer.to_owned(), replica);
    // The server's own default, a session's, a transaction's.
    for _ in 0..3 {
        assert_eq!(call(&proxy, &client, "SELECT pick(3)").await, of("3", true));
        assert_eq!(call(&proxy, &client, "SELECT a FROM shown").await, of("6", true));
    }
    let prepared = client.prepare("SELECT pick(4)").await.unwrap();
    let run = async || client.query_one(&prepared, &[]).await.unwrap().get::<_, i32>(0);
    assert_eq!(run().await, 4);
    client.batch_execute("SET search_path = shelf, public").await.unwrap();
    let replicas = proxy.counts().1;
    for _ in 0..3 {
        assert_eq!(call(&proxy, &client, "SELECT pick(3)").await, of("-3", false));
        assert_eq!(call(&proxy, &client, "SELECT a FROM shown").await, of("-5", false));
        assert_eq!(run().await, -4);
    }
    client.batch_execute("RESET search_path").await.unwrap();
    assert_eq!(call(&proxy, &client, "SELECT pick(3)").await, of("3", true));
    assert_eq!(run().await, 4);
    client.batch_execute("BEGIN; SET LOCAL search_path = shelf").await.unwrap();
    assert_eq!(ask(&client, "SELECT pick(3)").await, "-3");
    client.batch_execute("COMMIT").await.unwrap();
    // One statement decides what the next one means.
    let before = proxy.counts().1;
    client.batch_execute("SET search_path = shelf; SELECT pick(3)").await.unwrap();
    client.batch_execute("RESET search_path").await.unwrap();
    assert_eq!(proxy.counts().1, before);
    assert!(replicas >= 7, "{replicas}");

    let options = proxy.connect_with("options='-c search_path=shelf'").await;
    assert_eq!(call(&proxy, &options, "SELECT pick(3)").await, of("-3", false));
    // From ALTER ROLE.
    let role = proxy.connect_with("user=picker password=picker-secret").await;
    assert_eq!(call(&proxy, &role, "SELECT pick(3)").await, of("6", true));
    assert_eq!(ask(&client, "SELECT count(*) FROM picked WHERE a = 4").await, "3");
}

#[tokio::test]
async fn typed_parameters_and_constants_choose_the_function() {
    let proxy = Proxy::shared(EVENTUAL).await;
    let client = proxy.connect().await;
    let functions = "
        CREATE TABLE weighed (a int);
        CREATE FUNCTION weigh(bigint) RETURNS text LANGUAGE sql AS 'SELECT $1::text';
        CREATE FUNCTION weigh(int) RETURNS text LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO weighed VALUES ($1); RETURN 'heavy'; END $$";
    client.batch_execute(functions).await.unwrap();
    known(&proxy, "SELECT weigh($1)", Intent::Write).await;
    let of = |answer: &str, replica: bool| (answer.to_owned(), replica);
    // Texts of one shape.
    for _ in 0..3 {
        assert_eq!(call(&proxy, &client, "SELECT weigh(3000000000)").await, of("3000000000", true));
        assert_eq!(call(&proxy, &client, "SELECT weigh(1)").await, of("heavy", false));
        assert_eq!(call(&proxy, &client, "SELECT weigh('1'::int)").await, of("heavy", false));
        assert_eq!(call(&proxy, &client, "SELECT weigh('1'::bigint)").await, of("1", true));
    }
    for _ in 0..3 {
        let before = proxy.counts().1;
        let light = client.query_typed("SELECT weigh($1)", &[(&4_i64, Type::INT8)]).await.unwrap();
        assert_eq!((light[0].get::<_, &str>(0), proxy.counts().1), ("4", before + 1));
        let heavy = client.query_typed("SELECT weigh($1)", &[(&1, Type::INT4)]).await.unwrap();
        assert_eq!((heavy[0].get::<_, &str>(0), proxy.counts().1), ("heavy", before + 1));
    }
}

#[tokio::test]
async fn names_with_escapes_are_read() {
    let proxy = Proxy::shared(EVENTUAL).await;
    let client = proxy.connect().await;
    let sly = r#"CREATE SEQUENCE escaped;
        CREATE FUNCTION sly_name() RETURNS bigint STABLE LANGUAGE sql AS $$ SELECT U&"n!0065xtval" UESCAPE '!' ('escaped') $$"#;
    client.batch_execute(sly).await.unwrap();
    known(&proxy, "SELECT sly_name()", Intent::Write).await;
    let of = |answer: &str, replica: bool| (answer.to_owned(), replica);
    let cases = [
        (r#"SELECT U&"n!0065xtval" UESCAPE '!' ('escaped')"#, of("1", false)),
        (r#"SELECT U&"pg?005fcatalog" UESCAPE '?' . U&"n\0065xtval"('escaped')"#, of("2", false)),
        (r#"SELECT sly_name()"#, of("3", false)),
        (r#"SELECT U&"l!006fwer" UESCAPE '!' ('A')"#, of("a", true)),
        (r#"SELECT U&"a!0062" UESCAPE '!' FROM (VALUES (7)) v (ab)"#, of("7", true)),
        (r#"SELECT last_value FROM U&"!0065scaped" UESCAPE '!'"#, of("3", false)),
    ];
    for (text, expected) in cases {
        assert_eq!(call(&proxy, &client, text).await, expected, "{text}");
    }
}

#[tokio::test]
async fn changed_lists_reach_views_and_sessions() {
    let proxy = Proxy::shared(EVENTUAL).await;
    let client = proxy.connect().await;
    let view =
        "CREATE FUNCTION costly() RETURNS int LANGUAGE sql AS 'SELECT 8'; CREATE VIEW bill AS SELECT costly() AS a";
    client.batch_execute(view).await.unwrap();
    known(&proxy, "SELECT a FROM bill", Intent::Read).await;
    known(&proxy, "SELECT costly()", Intent::Read).await;
    let prepared = client.prepare("SELECT costly()").await.unwrap();
    assert!(call(&proxy, &client, "SELECT a FROM bill").await.1);
    let mut config = pgpilot::config::Config::clone(&proxy.app.shared().config.load());
    config.routing.primary_functions = vec!["public.costly".to_owned()];
    proxy.app.shared().reload(config.clone()).unwrap();
    known(&proxy, "SELECT a FROM bill", Intent::Write).await;
    let before = proxy.counts().1;
    assert!(!call(&proxy, &client, "SELECT a FROM bill").await.1);
    client.query_one(&prepared, &[]).await.unwrap();
    assert_eq!(proxy.counts().1, before);
    config.routing.primary_functions.clear();
    proxy.app.shared().reload(config).unwrap();
    known(&proxy, "SELECT a FROM bill", Intent::Read).await;
    assert!(call(&proxy, &client, "SELECT a FROM bill").await.1);
}

#[tokio::test]
async fn each_statement_of_a_pipeline_counts_for_its_shape() {
    let proxy = Proxy::shared(&format!("{EVENTUAL}{TRUST}")).await;
    let mut client = Raw::connect(proxy.port()).await;
    let batch = |n: usize| {
        let begin = Messages::new().parse("", "SELECT 1 AS one_of_many").bind("", &[]).execute();
        let begin = begin.parse("", "SELECT 2 AS two_of_many").bind("", &[]).execute().bind("", &[]).execute().sync();
        (0..n).fold(begin, |messages, _| messages.parse("", "SELECT 3 AS three_of_many").bind("", &[]).execute().sync())
    };
    let replies = client.pipeline(batch(5), 6).await;
    assert!(errors(&replies).is_empty());
    let replies = client.pipeline(batch(5), 6).await;
    assert!(errors(&replies).is_empty());
    let replies = client.pipeline(batch(5), 6).await;
    assert!(errors(&replies).is_empty());
    let ran = |outline: &str| {
        let shapes = proxy.app.shared().shapes();
        let of_it = shapes.iter().filter(|(_, row)| row.outline == outline);
        of_it.map(|(_, row)| row.runs.statements).sum::<u64>()
    };
    // What comes for the first time is not kept.
    let (one, two, three) =
        (ran("SELECT 0 AS one_of_many"), ran("SELECT 0 AS two_of_many"), ran("SELECT 0 AS three_of_many"));
    assert!(one >= 1 && two == 2 * one && (10..=15).contains(&three), "{one} {two} {three}");
}

#[tokio::test]
async fn what_is_explained_is_a_session_of_the_users_that_has_set_nothing() {
    let roles = [
        "CREATE ROLE reader LOGIN IN ROLE app PASSWORD 'reader-secret'",
        "CREATE ROLE writer LOGIN IN ROLE app PASSWORD 'writer-secret'",
        "ALTER ROLE writer SET search_path = drawer",
        "ALTER ROLE writer IN DATABASE shop SET search_path = shelf, public",
    ];
    let proxy = with_roles(&roles, "[admin]\nusers = [\"app\"]\n").await;
    let client = proxy.connect().await;
    client.batch_execute(FUNCTIONS).await.unwrap();
    known(&proxy, "SELECT shelf.pick(1)", Intent::Write).await;
    let url = format!("host=127.0.0.1 port={} user={USER} password={PASSWORD} dbname=pgpilot", proxy.port());
    let (console, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    for (user, path, intent) in [
        ("reader", "\"$user\", public", "read"),
        ("writer", "shelf, public", "write"),
        ("app", "\"$user\", public", "read"),
    ] {
        for sql in ["SELECT pick(3)", "SELECT a FROM shown"] {
            let question = format!("EXPLAIN ROUTE (USER {user}, DATABASE shop) {sql}");
            let row = console.query(&question, &[]).await.unwrap().remove(0);
            let told = |column: &str| row.get::<_, Option<String>>(column).unwrap_or_default();
            assert_eq!(told("intent"), intent, "{question}");
            assert_eq!(["user", "database", "search_path"].map(told), [user, "shop", path], "{question}");
        }
    }
}
