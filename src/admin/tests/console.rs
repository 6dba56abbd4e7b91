//! What operators see, through tokio-postgres.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

use super::*;
use crate::admin::console::{ConsoleUser, Level, SERVER_VERSION, serve};
use crate::admin::{Action, COMMANDS, PoolRow};
use crate::decide::route::NodeId;
use crate::decide::sql::Reason;
use crate::telemetry::Served;
use crate::wire::backend;

/// The greeting that the handshake sends, then the console.
pub(crate) async fn console(level: Level, fake: std::sync::Arc<Fake>, mut server: impl AsyncRead + AsyncWrite + Unpin) {
    let len = server.read_u32().await.unwrap() as usize;
    server.read_exact(&mut vec![0; len - 4]).await.unwrap();
    let mut greeting = BytesMut::new();
    backend::put_authentication(&mut greeting, 0, &[]);
    for (name, value) in [("server_version", SERVER_VERSION), ("client_encoding", "UTF8")] {
        backend::put_parameter_status(&mut greeting, name, value);
    }
    backend::put_ready(&mut greeting, backend::TransactionStatus::Idle);
    server.write_all(&greeting).await.unwrap();
    let who = ConsoleUser { name: "olga".into(), level };
    // How it ends is up to each test's client.
    let _ = serve(server, BytesMut::new(), who, fake, std::future::pending()).await;
}

pub(super) async fn connect(
    level: Level,
) -> (Client, std::sync::Arc<Fake>, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let fake = Fake::new();
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(console(level, fake.clone(), far));
    let (client, mut connection) =
        tokio_postgres::Config::new().user("olga").dbname("pgpilot").connect_raw(near, NoTls).await.unwrap();
    let (notices, received) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message {
                let _ = notices.send(format!("{}: {}", notice.severity(), notice.message()));
            }
        }
    });
    (client, fake, received)
}

pub(super) fn code(error: &tokio_postgres::Error) -> &str {
    error.code().map_or("", |code| code.code())
}

#[tokio::test]
async fn every_view_is_shown_in_both_protocols_with_the_same_values() {
    let (client, fake, _notices) = connect(Level::Reader).await;
    fake.telemetry.metrics().statement(Served::Replica(NodeId(1)), Reason::PlainRead, Duration::from_millis(1));
    fake.journal.note(crate::telemetry::Topic::Node, Some("pg3"), "state up to suspect");
    for (command, _) in COMMANDS.iter().filter(|(command, _)| command.starts_with("SHOW")) {
        let simple = client.simple_query(command).await.unwrap();
        let rows: Vec<_> = simple
            .iter()
            .filter_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None })
            .collect();
        let typed = client.query(*command, &[]).await.unwrap();
        assert!(!rows.is_empty() && rows.len() == typed.len(), "{command}");
        let names: Vec<_> = typed[0].columns().iter().map(|column| column.name()).collect();
        assert_eq!(names, rows[0].columns().iter().map(|column| column.name()).collect::<Vec<_>>(), "{command}");
    }
}

#[tokio::test]
async fn values_have_types() {
    let (client, fake, _notices) = connect(Level::Reader).await;
    fake.telemetry.metrics().statement(Served::Replica(NodeId(1)), Reason::PlainRead, Duration::from_millis(1));
    let nodes = client.query("SHOW NODES", &[]).await.unwrap();
    let pg2 = &nodes[1];
    assert_eq!(pg2.get::<_, &str>("node"), "pg2");
    assert_eq!((pg2.get::<_, bool>("reads"), nodes[2].get::<_, bool>("reads")), (true, false));
    assert_eq!((pg2.get::<_, Option<f64>>("lag_ms"), pg2.get::<_, i64>("lag_bytes")), (Some(2.0), 2000));
    assert_eq!((pg2.get::<_, &str>("lsn"), pg2.get::<_, i64>("statements")), ("16/100", 1));
    assert_eq!(pg2.get::<_, &str>("version"), "15.4");
    assert_eq!(nodes[0].get::<_, Option<f64>>("lag_ms"), None);
    let reasons = client.query("SHOW REASONS", &[]).await.unwrap();
    assert_eq!((reasons[0].get::<_, &str>("reason"), reasons[0].get::<_, f64>("percent")), ("plain_read", 100.0));
    let routes = client.query("SHOW ROUTES", &[]).await.unwrap();
    let shown: Vec<(&str, &str, i64, f64)> = routes
        .iter()
        .map(|row| (row.get("statement"), row.get("route"), row.get("statements"), row.get("mean_ms")))
        .collect();
    let expected = [
        ("DELETE FROM t WHERE a = '?'", "primary", 8, 3.0),
        ("SELECT 0", "replica", 4, 3.0),
        ("SELECT 0", "primary", 1, 3.0),
    ];
    assert_eq!(shown, expected);
    let catalogues = client.query("SHOW CATALOGUES", &[]).await.unwrap();
    let states: Vec<&str> = catalogues.iter().map(|row| row.get("state")).collect();
    assert_eq!((catalogues[0].get::<_, i64>("bytes"), &*states), (512, &["loaded", "failing", "loading"][..]));
    assert_eq!(catalogues[1].get::<_, &str>("error"), "the server refuses");
    let servers = client.query("SHOW SERVERS", &[]).await.unwrap();
    assert_eq!((servers[1].get::<_, i64>("client_pid"), servers[0].get::<_, &str>("node")), (42, "#9"));
    let clients = client.query("SHOW CLIENTS", &[]).await.unwrap();
    assert_eq!(clients[0].get::<_, &str>("pins"), "listen, advisory_lock");
    assert_eq!(client.query("SHOW PINS", &[]).await.unwrap().len(), 2);
}

#[tokio::test]
async fn secrets_are_not_shown() {
    let (client, _fake, _notices) = connect(Level::Admin).await;
    let config = client.query("SHOW CONFIG", &[]).await.unwrap();
    let value = |key: &str| {
        let row = config.iter().find(|row| row.get::<_, &str>(0) == key).unwrap_or_else(|| panic!("{key}"));
        row.get::<_, Option<String>>(1)
    };
    assert_eq!(value("health.password").as_deref(), Some("(set)"));
    assert_eq!(value("users.app.consistency").as_deref(), Some("eventual"));
    assert_eq!(value("nodes.pg1.tls.mode").as_deref(), Some("prefer"));
    for row in &config {
        let value = row.get::<_, Option<&str>>(1).unwrap_or_default();
        assert!(!value.contains("do-not-show"), "{row:?}");
    }
}

#[tokio::test]
async fn routes_are_explained() {
    let (client, fake, _notices) = connect(Level::Reader).await;
    let one = |sql: String| {
        let client = &client;
        async move { client.query(&format!("EXPLAIN ROUTE {sql}"), &[]).await.unwrap() }
    };
    let read = one("SELECT 1".into()).await;
    let text = |row: &tokio_postgres::Row, column: &str| row.get::<_, Option<String>>(column).unwrap_or_default();
    assert_eq!((text(&read[0], "route"), text(&read[0], "node")), ("replica".into(), "pg2".into()));
    assert_eq!((text(&read[0], "candidates"), text(&read[0], "consistency")), ("pg2".into(), "session".into()));
    assert_eq!(read[0].get::<_, f64>("lag_ms"), 2.0);
    let both = one("SELECT 1; DELETE FROM t".into()).await;
    assert_eq!(both.len(), 2);
    assert_eq!((text(&both[0], "intent"), text(&both[1], "intent")), ("read".into(), "write".into()));
    // The whole text goes where its most demanding statement has to.
    for row in &both {
        assert_eq!(
            (text(row, "route"), text(row, "node"), text(row, "route_reason")),
            ("primary".into(), "pg1".into(), "dml".into())
        );
    }
    let user = one("(user app, database db) SELECT 1".into()).await;
    assert_eq!(text(&user[0], "consistency"), "eventual");
    let session = one("(user desk) SELECT 1".into()).await;
    assert_eq!((text(&session[0], "route"), text(&session[0], "route_reason")), ("primary".into(), "pinned".into()));
    // The only database in use is the one that is meant.
    assert_eq!((text(&session[0], "database"), text(&session[0], "note")), ("db".into(), String::new()));
    let another = PoolRow { database: "another".into(), ..fake.pools.lock().unwrap()[0].clone() };
    fake.pools.lock().unwrap().push(another);
    let which = one("SELECT 1".into()).await;
    assert_eq!(text(&which[0], "database"), "postgres");
    assert!(text(&which[0], "note").contains("DATABASE"));
    let own = one("SHOW pgpilot.lsn".into()).await;
    assert_eq!(text(&own[0], "route"), "own");
    let nothing = client.query("EXPLAIN ROUTE ; ;", &[]).await.unwrap();
    assert_eq!(text(&nothing[0], "intent"), "nothing");
}

#[tokio::test]
async fn admins_act_and_readers_do_not() {
    let (reader, fake, _notices) = connect(Level::Reader).await;
    for command in ["DRAIN pg2", "UNDRAIN pg2", "PAUSE", "RESUME", "RELOAD", "SHUTDOWN"] {
        let error = reader.batch_execute(command).await.unwrap_err();
        assert_eq!(code(&error), "42501", "{command}");
    }
    assert!(fake.actions.lock().unwrap().is_empty());

    let (admin, fake, mut notices) = connect(Level::Admin).await;
    admin.batch_execute("DRAIN pg2; UNDRAIN pg2").await.unwrap();
    admin.execute("RELOAD", &[]).await.unwrap();
    assert_eq!(notices.recv().await.unwrap(), "WARNING: listen takes effect after a restart");
    assert_eq!(code(&admin.batch_execute("RESUME").await.unwrap_err()), "55000");
    let unknown = admin.batch_execute("DRAIN pg9").await.unwrap_err();
    assert_eq!(code(&unknown), "42704");
    assert_eq!(unknown.as_db_error().unwrap().hint(), Some("Nodes: pg1, pg2, pg3."));
    let actions = std::mem::take(&mut *fake.actions.lock().unwrap());
    let node = NodeId(1);
    assert_eq!(actions, [Action::Drain(node), Action::Undrain(node), Action::Reload, Action::Resume]);
    let journal: Vec<_> = fake.journal.entries().into_iter().map(|entry| entry.text).collect();
    assert_eq!(
        journal,
        ["DRAIN by olga: done", "UNDRAIN by olga: done", "RELOAD by olga: done", "RESUME by olga: refused"]
    );
}

#[tokio::test]
async fn pause_returns_when_it_is_done_and_not_before() {
    let (admin, fake, _notices) = connect(Level::Admin).await;
    let pause = admin.batch_execute("PAUSE");
    tokio::pin!(pause);
    // Nothing else runs on this thread while the command can go on.
    for _ in 0..100 {
        tokio::select! {
            biased;
            _ = &mut pause => panic!("nothing was quiet yet"),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(*fake.actions.lock().unwrap(), [Action::Pause]);
    fake.quiet.notify_one();
    pause.await.unwrap();
}

#[tokio::test]
async fn what_is_no_command_is_refused_with_the_list_of_commands() {
    let (client, fake, _notices) = connect(Level::Admin).await;
    for wrong in ["FROBNICATE", "SHOW NODEZ", "SHOW NODES PLEASE", "DRAIN", "UPDATE t SET a = 1"] {
        let error = client.batch_execute(wrong).await.unwrap_err();
        assert_eq!(code(&error), "42601", "{wrong}");
        assert!(error.as_db_error().unwrap().hint().unwrap().contains("SHOW NODES"), "{wrong}");
    }
    let query = client.batch_execute("SELECT * FROM pg_class").await.unwrap_err();
    assert_eq!(code(&query), "0A000");
    // What stands before the error has been done, what stands behind it has not.
    assert!(client.batch_execute("DRAIN pg2; nonsense; DRAIN pg3").await.is_err());
    assert_eq!(*fake.actions.lock().unwrap(), [Action::Drain(NodeId(1))]);
    assert_eq!(client.query("SHOW NODES", &[]).await.unwrap().len(), 3);
}

#[tokio::test]
async fn drivers_find_what_they_ask_for() {
    let (mut client, _fake, _notices) = connect(Level::Reader).await;
    client.batch_execute("SET extra_float_digits = 3; SET application_name = 'x'; DISCARD ALL; ;").await.unwrap();
    let text = async |client: &Client, sql: &str| client.query_one(sql, &[]).await.unwrap().get::<_, String>(0);
    assert_eq!(text(&client, "SHOW application_name").await, "x");
    assert_eq!(text(&client, "SELECT current_database()").await, "pgpilot");
    assert_eq!(text(&client, "select 1").await, "1");
    assert!(text(&client, "SELECT version();").await.starts_with("PostgreSQL 15.0 (pgpilot "));
    assert_eq!(text(&client, "SHOW TRANSACTION ISOLATION LEVEL").await, "read committed");
    assert_eq!(code(&client.batch_execute("SET client_encoding = 'LATIN1'").await.unwrap_err()), "22023");
    let transaction = client.transaction().await.unwrap();
    assert!(transaction.batch_execute("nonsense").await.is_err());
    assert_eq!(code(&transaction.batch_execute("SHOW NODES").await.unwrap_err()), "25P02");
    transaction.rollback().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let statement = transaction.prepare("SHOW NODES").await.unwrap();
    let portal = transaction.bind(&statement, &[]).await.unwrap();
    let pages = [
        transaction.query_portal(&portal, 2).await.unwrap().len(),
        transaction.query_portal(&portal, 2).await.unwrap().len(),
        transaction.query_portal(&portal, 2).await.unwrap().len(),
    ];
    assert_eq!(pages, [2, 1, 0]);
    transaction.commit().await.unwrap();
}
