//! tokio-postgres.

use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{join_all, poll_fn};
use futures_util::{SinkExt, StreamExt, TryStreamExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, IsolationLevel, NoTls};

use super::tls::Tls;
use super::{BY_SESSION, BY_TRANSACTION, Site};
use crate::support::LIMIT;
use crate::support::proxy::{PASSWORD, USER};

const DATABASES: [&str; 2] = [BY_TRANSACTION, BY_SESSION];

fn config(site: &Site, database: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(site.proxy.port()).user(USER).password(PASSWORD).dbname(database);
    config
}

async fn connect(site: &Site, database: &str) -> Client {
    let (client, connection) = config(site, database).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A client, and what it is told without having asked.
async fn listen(site: &Site, database: &str) -> (Client, mpsc::UnboundedReceiver<AsyncMessage>) {
    let (client, mut connection) = config(site, database).connect(NoTls).await.unwrap();
    let (told, messages) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            let _ = told.send(message);
        }
    });
    (client, messages)
}

#[tokio::test]
async fn logs_in_with_tls_and_channel_binding() {
    let site = Site::start().await;
    for binding in [ChannelBinding::Require, ChannelBinding::Disable] {
        let socket = TcpStream::connect(("127.0.0.1", site.proxy.port())).await.unwrap();
        let mut config = config(&site, BY_TRANSACTION);
        config.ssl_mode(SslMode::Require).channel_binding(binding);
        let (client, connection) = config.connect_raw(socket, Tls::trusting(&site.ca())).await.unwrap();
        tokio::spawn(connection);
        let row = client.query_one("SELECT current_user::text, repeat('x', 300000)", &[]).await.unwrap();
        assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1).len()), (USER, 300_000));
    }
    let socket = TcpStream::connect(("127.0.0.1", site.proxy.port())).await.unwrap();
    let mut config = config(&site, BY_TRANSACTION);
    config.password("wrong").ssl_mode(SslMode::Require).channel_binding(ChannelBinding::Require);
    let refused = config.connect_raw(socket, Tls::trusting(&site.ca())).await.err().unwrap();
    assert_eq!(refused.code(), Some(&SqlState::INVALID_PASSWORD));
}

#[tokio::test]
async fn statements_transactions_and_portals() {
    let site = Site::start().await;
    for database in DATABASES {
        let mut client = connect(&site, database).await;
        client.batch_execute("CREATE TABLE t (n int PRIMARY KEY, s text, b bytea, a int[])").await.unwrap();
        let insert = client.prepare("INSERT INTO t VALUES ($1, $2, $3, $4)").await.unwrap();
        for n in 0..50i32 {
            let text = (n % 7 != 0).then(|| format!("row {n}"));
            let array = vec![Some(n), None];
            assert_eq!(client.execute(&insert, &[&n, &text, &&b"\x00\xff"[..], &array]).await.unwrap(), 1);
        }
        let select = client.prepare_typed("SELECT s, b, a FROM t WHERE n = $1", &[Type::INT4]).await.unwrap();
        for n in 0..50i32 {
            let row = client.query_one(&select, &[&n]).await.unwrap();
            assert_eq!(row.get::<_, Option<String>>(0), (n % 7 != 0).then(|| format!("row {n}")));
            assert_eq!(
                (row.get::<_, &[u8]>(1), row.get::<_, Vec<Option<i32>>>(2)),
                (&b"\x00\xff"[..], vec![Some(n), None])
            );
        }

        let mut transaction = client.transaction().await.unwrap();
        transaction.execute("DELETE FROM t WHERE n = 0", &[]).await.unwrap();
        let savepoint = transaction.transaction().await.unwrap();
        let failed = savepoint.execute(&insert, &[&1i32, &"", &&b""[..], &Vec::<i32>::new()]).await.unwrap_err();
        assert_eq!(failed.code(), Some(&SqlState::UNIQUE_VIOLATION));
        let failed = savepoint.query("SELECT 1", &[]).await.unwrap_err();
        assert_eq!(failed.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
        savepoint.rollback().await.unwrap();
        let portal = transaction.bind("SELECT n FROM t ORDER BY n", &[]).await.unwrap();
        let first = transaction.query_portal(&portal, 10).await.unwrap();
        let rest = transaction.query_portal(&portal, 0).await.unwrap();
        assert_eq!((first.len(), rest.len(), rest[0].get::<_, i32>(0)), (10, 39, 11));
        transaction.commit().await.unwrap();

        let builder = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        let reading = builder.start().await.unwrap();
        assert_eq!(reading.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 49);
        let refused = reading.execute("DELETE FROM t", &[]).await.unwrap_err();
        assert_eq!(refused.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
        // Dropped without an end: it is rolled back behind the scenes.
        drop(reading);
        assert_eq!(client.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get::<_, i64>(0), 49);
    }
    assert!(site.proxy.counts().1 >= 20, "{:?}", site.proxy.counts());
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let site = Site::start().await;
    for database in DATABASES {
        let client = Arc::new(connect(&site, database).await);
        client.batch_execute("CREATE TABLE t (n int PRIMARY KEY)").await.unwrap();
        let insert = client.prepare("INSERT INTO t VALUES ($1) RETURNING n * 2").await.unwrap();
        let count = client.prepare("SELECT $1::int + 1").await.unwrap();
        let requests = (0..400i32).map(|n| {
            let (client, insert, count) = (client.clone(), insert.clone(), count.clone());
            async move {
                // Every tenth fails: that must not disturb its neighbours.
                let key = if n % 10 == 9 { n - 1 } else { n };
                match n % 2 {
                    0 => client.query_one(&count, &[&n]).await.map(|row| row.get::<_, i32>(0)),
                    _ => client.query_one(&insert, &[&(key - key % 2)]).await.map(|row| row.get(0)),
                }
            }
        });
        let mut seen = std::collections::HashSet::new();
        for (n, answer) in (0..400i32).zip(join_all(requests).await) {
            let key = if n % 10 == 9 { n - 1 } else { n };
            let key = key - key % 2;
            match n % 2 {
                0 => assert_eq!(answer.unwrap(), n + 1),
                _ if seen.insert(key) => assert_eq!(answer.unwrap(), key * 2),
                _ => assert_eq!(answer.unwrap_err().code(), Some(&SqlState::UNIQUE_VIOLATION)),
            }
        }
        let doomed = join_all((0..40).map(|n| {
            let client = client.clone();
            async move { (n, client.simple_query(&format!("SELECT 100 / ({n} % 4)")).await) }
        }));
        for (n, answer) in doomed.await {
            assert_eq!(answer.is_err(), n % 4 == 0, "{n}");
        }
    }
}

#[tokio::test]
async fn copies_and_streams() {
    let site = Site::start().await;
    for database in DATABASES {
        let client = connect(&site, database).await;
        client.batch_execute("CREATE TABLE t (n int PRIMARY KEY, s text)").await.unwrap();
        let mut sink = pin!(client.copy_in("COPY t FROM STDIN").await.unwrap());
        for n in 0..100 {
            let lines: String = (n * 1000..(n + 1) * 1000).map(|n| format!("{n}\trow {n}\n")).collect();
            sink.send(bytes::Bytes::from(lines)).await.unwrap();
        }
        assert_eq!(sink.finish().await.unwrap(), 100_000);
        let stream = client.copy_out("COPY t TO STDOUT").await.unwrap();
        let length = stream.try_fold(0, async |sum, bytes| Ok(sum + bytes.len())).await.unwrap();
        assert_eq!(length, (0..100_000).map(|n| format!("{n}\trow {n}\n").len()).sum::<usize>());
        // Dropped in the middle, which is a CopyFail; and refused.
        let mut sink = Box::pin(client.copy_in("COPY t FROM STDIN").await.unwrap());
        sink.send(bytes::Bytes::from_static(b"200000\tx\n")).await.unwrap();
        drop(sink);
        let mut sink = pin!(client.copy_in("COPY t FROM STDIN").await.unwrap());
        sink.send(bytes::Bytes::from_static(b"1\tagain\n")).await.unwrap();
        assert_eq!(sink.finish().await.unwrap_err().code(), Some(&SqlState::UNIQUE_VIOLATION));
        let none: [&(dyn ToSql + Sync); 0] = [];
        let mut rows = pin!(client.query_raw("SELECT n, s FROM t ORDER BY n", none).await.unwrap());
        let mut expected = 0;
        while let Some(row) = rows.next().await {
            assert_eq!(row.unwrap().get::<_, i32>(0), expected);
            expected += 1;
        }
        assert_eq!(expected, 100_000);
    }
}

#[tokio::test]
async fn notices_notifications_and_cancelling() {
    let site = Site::start().await;
    for database in DATABASES {
        let (client, mut messages) = listen(&site, database).await;
        let speaker = connect(&site, database).await;
        client.batch_execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$; LISTEN news").await.unwrap();
        for n in 0..20 {
            speaker.execute("SELECT pg_notify('news', $1)", &[&n.to_string()]).await.unwrap();
        }
        let mut heard = Vec::new();
        while heard.len() < 21 {
            let message = tokio::time::timeout(LIMIT, messages.recv()).await.expect("it comes").unwrap();
            heard.push(match message {
                AsyncMessage::Notice(notice) => notice.message().to_owned(),
                AsyncMessage::Notification(notification) => notification.payload().to_owned(),
                _ => continue,
            });
        }
        let expected: Vec<String> = std::iter::once("hello".to_owned()).chain((0..20).map(|n| n.to_string())).collect();
        assert_eq!(heard, expected);
        client.batch_execute("UNLISTEN *").await.unwrap();

        let token = client.cancel_token();
        let sleeping = client.query("SELECT pg_sleep(60)", &[]);
        let mut sleeping = pin!(sleeping);
        let failed = loop {
            // Too early, it cancels nothing.
            match tokio::time::timeout(std::time::Duration::from_millis(50), sleeping.as_mut()).await {
                Ok(ended) => break ended.unwrap_err(),
                Err(_) => token.cancel_query(NoTls).await.unwrap(),
            }
        };
        assert_eq!(failed.code(), Some(&SqlState::QUERY_CANCELED));
        for n in 0..20i32 {
            assert_eq!(client.query_one("SELECT $1::int", &[&n]).await.unwrap().get::<_, i32>(0), n);
        }
    }
}

#[tokio::test]
async fn what_sql_prepares_is_found_by_every_protocol() {
    let site = Site::start().await;
    let (client, other) = (connect(&site, BY_TRANSACTION).await, connect(&site, BY_TRANSACTION).await);
    // Out of pgpilot's sight: the session keeps its connection, and nobody else meets the statement.
    for (name, sql) in [("p", "PREPARE p AS SELECT 7"), ("q", "PREPARE q AS SELECT 8")] {
        client.execute(sql, &[]).await.unwrap();
        let answer = client.query_one(&format!("EXECUTE {name}"), &[]).await.unwrap();
        assert_eq!(answer.get::<_, i32>(0), if name == "p" { 7 } else { 8 });
    }
    for _ in 0..10 {
        let unknown = other.batch_execute("EXECUTE p").await.unwrap_err();
        assert_eq!(unknown.code(), Some(&SqlState::INVALID_SQL_STATEMENT_NAME));
    }
    client.batch_execute("EXECUTE p; EXECUTE q; DEALLOCATE ALL").await.unwrap();
    let pins = client.query_one("SHOW pgpilot.pins", &[]).await.unwrap();
    assert_eq!(pins.get::<_, &str>(0), "");
    let gone = client.batch_execute("EXECUTE p").await.unwrap_err();
    assert_eq!(gone.code(), Some(&SqlState::INVALID_SQL_STATEMENT_NAME));
}
