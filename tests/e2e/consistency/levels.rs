//! Every place where the mode can be set, and what its reads then see: told apart by a write that no replica has yet.

use pgpilot::config::Consistency::{self, Eventual, Primary, Session, Strong};
use pgpilot::telemetry::Count;
use tokio_postgres::Client;

use crate::support::plain::{Messages, Raw, TRUST, values};
use crate::support::proxy::{Proxy, ask, servers};
use crate::support::{LIMIT, wait_for};

const READ: &str = "SELECT s FROM t";

/// What a mode promises, of "old" and "new": to the session that wrote, and to another.
fn promised(mode: Consistency) -> [&'static str; 2] {
    match mode {
        Eventual => ["old", "old"],
        Session => ["new", "old"],
        Strong | Primary => ["new", "new"],
    }
}

/// Where one read, one transaction or all reads from now on can be given a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Set,
    Local,
    BeginHint,
    BeginHintExtended,
    WholeTransaction,
    Before,
    Behind,
    Unnamed,
    Named,
    Execute,
}

impl Level {
    const ALL: [Self; 10] = [
        Self::Set,
        Self::Local,
        Self::BeginHint,
        Self::BeginHintExtended,
        Self::WholeTransaction,
        Self::Before,
        Self::Behind,
        Self::Unnamed,
        Self::Named,
        Self::Execute,
    ];

    async fn read(self, client: &Client, mode: &str) -> String {
        let hint = format!("/* pgpilot: consistency={mode} */");
        match self {
            Self::Set => {
                client.batch_execute(&format!("SET pgpilot.consistency = '{mode}'")).await.unwrap();
                let read = ask(client, READ).await;
                client.batch_execute("SET pgpilot.consistency = 'session'").await.unwrap();
                read
            }
            Self::Local => {
                client.batch_execute("BEGIN READ ONLY").await.unwrap();
                client.batch_execute(&format!("SET LOCAL pgpilot.consistency = '{mode}'")).await.unwrap();
                commit(client, ask(client, READ).await).await
            }
            Self::BeginHint => {
                client.batch_execute(&format!("{hint} BEGIN READ ONLY")).await.unwrap();
                commit(client, ask(client, READ).await).await
            }
            Self::BeginHintExtended => {
                client.execute(&format!("BEGIN READ ONLY {hint}"), &[]).await.unwrap();
                commit(client, client.query_one(READ, &[]).await.unwrap().get(0)).await
            }
            Self::WholeTransaction => ask(client, &format!("{hint} BEGIN READ ONLY; {READ}; COMMIT")).await,
            Self::Before => ask(client, &format!("{hint} {READ}")).await,
            Self::Behind => ask(client, &format!("{READ} -- PGPILOT: Consistency = {mode}")).await,
            Self::Unnamed => {
                let rows = client.query_typed(&format!("{hint} {READ} WHERE $1"), &[(&true, BOOL)]).await.unwrap();
                rows[0].get(0)
            }
            Self::Named => {
                let statement = client.prepare(&format!("{hint} {READ}")).await.unwrap();
                client.query_one(&statement, &[]).await.unwrap().get(0)
            }
            Self::Execute => ask(client, &format!("{hint} EXECUTE q")).await,
        }
    }
}

const BOOL: tokio_postgres::types::Type = tokio_postgres::types::Type::BOOL;

async fn commit(client: &Client, read: String) -> String {
    client.batch_execute("COMMIT").await.unwrap();
    read
}

async fn writes(client: &Client) {
    client.batch_execute("UPDATE t SET s = 'new'").await.unwrap();
}

#[tokio::test]
async fn each_level_gives_reads_the_mode_that_it_says() {
    let rule = "[[auth.rules]]\nmethod = \"trust\"\n";
    let all = |more: &str| format!("{rule}[routing]\nmax_lag = \"1h\"\n{more}");
    let app = "[[users]]\nname = \"app\"\npassword = \"app-secret\"\n";
    let global = "consistency = \"eventual\"\n";
    let database = format!("{global}[[databases]]\nname = \"shop\"\nconsistency = \"strong\"\n");
    let user = format!("{database}{app}consistency = \"primary\"\n");
    let (global, database) = (&format!("{global}{app}"), format!("{database}{app}"));
    let proxy = Proxy::before(servers().await, &all(app)).await;
    let mut configured = Vec::new();
    for (more, mode) in [(global, Eventual), (&database, Strong), (&user, Primary)] {
        configured.push((Proxy::before(proxy.servers.clone(), &all(more)).await, mode));
    }
    proxy.connect().await.batch_execute("CREATE TABLE t AS SELECT 'old' AS s").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    for proxy in configured.iter().map(|(proxy, _)| proxy).chain([&proxy]) {
        proxy.wait_for_read(READ).await;
    }
    for replica in ["pg2", "pg3"] {
        proxy.node(replica).pause_replay().await.unwrap();
    }
    writes(&proxy.connect().await).await;

    for (proxy, mode) in configured.iter().chain([&(proxy, Session)]) {
        let (writer, other) = (proxy.connect().await, proxy.connect().await);
        writes(&writer).await;
        assert_eq!([ask(&writer, READ).await, ask(&other, READ).await], promised(*mode), "{mode:?} as configured");
    }
    let proxy = &configured[0].0;
    let (writer, other, later) = (proxy.connect().await, proxy.connect().await, proxy.connect().await);
    writes(&writer).await;
    for client in [&writer, &other, &later] {
        client.batch_execute("SET pgpilot.consistency = 'session'").await.unwrap();
        client.batch_execute(&format!("PREPARE q AS {READ}")).await.unwrap();
    }
    for level in Level::ALL {
        for mode in Consistency::ALL {
            // Who has seen what is new does not go back in time: the promises that show it come to a session of their own.
            let other = if promised(mode)[1] == "new" { &later } else { &other };
            let seen = [level.read(&writer, mode.name()).await, level.read(other, mode.name()).await];
            let expected = promised(mode);
            let expected = [expected[0], if mode == Session { seen[1].as_str() } else { expected[1] }];
            assert_eq!(seen, expected, "{level:?} {mode:?}");
            assert_eq!(ask(&writer, READ).await, "new", "after {level:?} {mode:?}");
        }
    }
    for mode in Consistency::ALL {
        let client = proxy.connect_with(&format!("options='-c pgpilot.consistency={}'", mode.name())).await;
        assert_eq!(ask(&client, READ).await, promised(mode)[1], "{mode:?} by an option");
    }
}

#[tokio::test]
async fn a_hint_that_is_not_known_is_counted_and_does_nothing() {
    let proxy = Proxy::shared("").await;
    let client = proxy.connect().await;
    let unknown = || proxy.app.telemetry().metrics().total(Count::UnknownHint);
    assert_eq!(ask(&client, "/* pgpilot: consistency=eventual */ SELECT 1").await, "1");
    assert_eq!(unknown(), 0);
    assert_eq!(ask(&client, "/* pgpilot: consistncy=eventual */ SELECT 1").await, "1");
    assert!(unknown() > 0);
}

#[tokio::test]
async fn what_a_statement_says_of_its_route_goes_before_what_the_session_says() {
    let proxy = Proxy::shared("").await;
    for (route, hint, replica) in
        [("primary", "replica", 1), ("replica", "primary", 0), ("primary", "route = Replica, consistency=session", 1)]
    {
        // One that has seen nothing yet, and may go anywhere.
        let client = proxy.connect().await;
        client.batch_execute(&format!("SET pgpilot.route = '{route}'")).await.unwrap();
        let before = proxy.counts();
        ask(&client, &format!("SELECT 1 /* pgpilot: {hint} */")).await;
        assert_eq!(proxy.counts(), (before.0 + 1 - replica, before.1 + replica), "{route} {hint}");
    }
    // On BEGIN it is for the transaction.
    let client = proxy.connect().await;
    let before = proxy.counts();
    client.batch_execute("BEGIN READ ONLY /* pgpilot: primary */").await.unwrap();
    ask(&client, "SELECT 1").await;
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(proxy.counts().1, before.1);
    wait_for("reads to go to a replica again", LIMIT, async || {
        ask(&client, "SELECT 1").await;
        proxy.counts().1 > before.1
    })
    .await;
}

/// What has been prepared on a replica is executed where all is known that was written meanwhile.
#[tokio::test]
async fn a_strong_read_that_goes_on_after_a_flush_sees_what_was_written_before_it_went_on() {
    let proxy = Proxy::before(servers().await, &format!("{TRUST}[routing]\nconsistency = \"strong\"\n")).await;
    let writer = proxy.connect().await;
    writer.batch_execute("CREATE TABLE t AS SELECT 'old' AS s").await.unwrap();
    proxy.servers.wait_caught_up(proxy.node("pg1")).await.unwrap();
    proxy.wait_for_read(READ).await;
    let mut reader = Raw::connect(proxy.port()).await;
    let before = proxy.counts().1;
    wait_for("reads to run on a replica", LIMIT, async || {
        reader.query(READ).await;
        proxy.counts().1 > before
    })
    .await;
    reader.send(Messages::new().parse("", READ).flush()).await;
    assert_eq!(reader.reply().await.tag, b'1');
    for replica in ["pg2", "pg3"] {
        proxy.node(replica).pause_replay().await.unwrap();
    }
    writes(&writer).await;
    let replies = reader.ask(Messages::new().bind("", &[]).execute().sync()).await;
    assert_eq!(values(&replies), ["new"]);
}
