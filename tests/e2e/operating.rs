//! The program itself, as operators run it: `serve` with a topology file, and every command that talks to it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use pgpilot::demo::LocalCluster;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_postgres::NoTls;

use super::support::proxy::{PASSWORD, USER, servers};
use super::support::{LIMIT, wait_for};

/// `pgpilot serve` in front of a cluster of its own.
struct Serving {
    process: Child,
    directory: TempDir,
    port: u16,
    http: u16,
    servers: LocalCluster,
}

/// What a command said, and its exit code.
struct Said {
    code: i32,
    out: String,
    err: String,
}

fn pgpilot() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgpilot"));
    command.env_remove("PGPILOT_URL").env_remove("PGPILOT_CONFIG").stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn said(command: &mut Command) -> Said {
    let output = tokio::time::timeout(LIMIT, command.output()).await.expect("in time").expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Said { code: output.status.code().expect("no signal"), out: text(output.stdout), err: text(output.stderr) }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn write_topology(path: &Path, servers: &LocalCluster, port: u16, http: u16, more: &str) {
    let socket = path.parent().unwrap().display();
    let mut text = format!(
        "listen = \"127.0.0.1:{port}\"\n{more}\n[metrics]\nlisten = \"127.0.0.1:{http}\"\n\
         [admin]\nsocket = \"{socket}\"\nreaders = [\"{USER}\"]\n\
         [health]\nuser = \"pilot\"\npassword = \"pilot-secret\"\ninterval = \"100ms\"\n\
         [auth.query]\nuser = \"pilot\"\npassword = \"pilot-secret\"\n"
    );
    for node in servers.nodes() {
        text += &format!("[[nodes]]\nname = \"{}\"\nhost = \"127.0.0.1\"\nport = {}\n", node.name(), node.port());
    }
    text += "[[databases]]\nname = \"shop\"\n";
    std::fs::write(path, text).unwrap();
}

impl Serving {
    async fn start() -> Self {
        Self::with("").await
    }

    /// `more` stands behind the first line of the topology file.
    async fn with(more: &str) -> Self {
        let (servers, directory) = (servers().await, TempDir::new().unwrap());
        let (port, http) = (free_port(), free_port());
        write_topology(&directory.path().join("pgpilot.toml"), &servers, port, http, more);
        let mut command = pgpilot();
        let process = command.arg("serve").current_dir(directory.path()).stderr(Stdio::null()).spawn().unwrap();
        let serving = Self { process, directory, port, http, servers };
        wait_for("pgpilot to be ready", LIMIT, async || serving.get("/readyz").await.starts_with("HTTP/1.1 200")).await;
        wait_for("two replicas to take reads", LIMIT, async || {
            let nodes = serving.status().await["nodes"].clone();
            nodes.as_array().unwrap().iter().filter(|node| node["reads"] == true).count() == 2
        })
        .await;
        // The application's and pgpilot's own, though nobody has asked for anything in them.
        let loaded = "pgpilot_catalogues{state=\"loaded\"} 2";
        wait_for("the catalogues", LIMIT, async || serving.get("/metrics").await.contains(loaded)).await;
        serving
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("pgpilot.toml")
    }

    async fn say(&self, arguments: &[&str]) -> Said {
        said(pgpilot().args(arguments).arg("--config").arg(self.file())).await
    }

    async fn status(&self) -> Value {
        let said = self.say(&["status", "--output", "json"]).await;
        assert_eq!(said.code, 0, "{}", said.err);
        serde_json::from_str(&said.out).unwrap()
    }

    async fn get(&self, path: &str) -> String {
        let Ok(mut socket) = TcpStream::connect(("127.0.0.1", self.http)).await else { return String::new() };
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        let _ = socket.write_all(request.as_bytes()).await;
        let _ = socket.read_to_string(&mut answer).await;
        answer
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.process.id().unwrap()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    async fn ended(&mut self) -> Option<i32> {
        tokio::time::timeout(LIMIT, self.process.wait()).await.expect("pgpilot ends").unwrap().code()
    }
}

#[tokio::test]
async fn operators_see_and_steer_a_running_pgpilot() {
    let mut serving = Serving::start().await;
    let text = format!("host=127.0.0.1 port={} user={USER} password={PASSWORD} dbname=shop", serving.port);
    let (mut client, connection) = tokio_postgres::connect(&text, NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("SELECT 1").await.unwrap();
    let metrics = serving.get("/metrics").await;
    assert!(metrics.contains(r#"reason="plain_read"} 1"#), "{metrics}");
    assert!(metrics.contains("pgpilot_node_role{node=\"pg1\",role=\"primary\"} 1"), "{metrics}");

    let explained = serving.say(&["explain", "SELECT nextval('s')", "--output", "json"]).await;
    let explained: Value = serde_json::from_str(&explained.out).unwrap();
    assert_eq!((&explained[0]["route"], &explained[0]["object"]), (&"primary".into(), &"pg_catalog.nextval".into()));
    let table = serving.say(&["status"]).await;
    assert!(table.out.contains("plain_read") && table.out.contains("pg3"), "{}", table.out);

    assert_eq!(serving.say(&["drain", "pg2"]).await.code, 0);
    assert_eq!(serving.status().await["nodes"][1]["drained"], true);
    let wrong = serving.say(&["drain", "pg9"]).await;
    assert!(wrong.code == 1 && wrong.err.contains("Nodes: pg1, pg2, pg3."), "{}", wrong.err);
    let plan = serving.say(&["switchover", "--dry-run"]).await;
    assert!(plan.out.contains("pg1 would hand over to pg3"), "{} {}", plan.out, plan.err);
    assert_eq!(serving.say(&["undrain", "pg2"]).await.code, 0);
    assert_eq!(serving.status().await["nodes"][1]["drained"], false);

    orders_are_checked(&serving).await;

    // A pause waits for a transaction, and whoever comes later waits for its end.
    let transaction = client.transaction().await.unwrap();
    transaction.batch_execute("SELECT 1").await.unwrap();
    let (paused, committed) = tokio::join!(serving.say(&["pause"]), async {
        wait_for("the pause to begin", LIMIT, async || serving.status().await["service"][0]["state"] == "paused").await;
        transaction.commit().await
    });
    committed.unwrap();
    assert_eq!((paused.code, paused.err.as_str()), (0, ""));
    let (held, resumed) = tokio::join!(client.batch_execute("SELECT 1"), serving.say(&["resume"]));
    held.unwrap();
    assert_eq!(resumed.code, 0);
    assert_eq!(serving.say(&["resume"]).await.code, 1);

    let mut file = std::fs::read_to_string(serving.file()).unwrap();
    write_topology(&serving.file(), &serving.servers, serving.port, serving.http, "workers = 3");
    let reloaded = serving.say(&["reload"]).await;
    assert!(reloaded.code == 0 && reloaded.err.contains("workers"), "{}", reloaded.err);
    file += "nonsense = 1\n";
    let copy = serving.directory.path().join("other.toml");
    std::fs::write(&copy, &file).unwrap();
    assert_eq!(said(pgpilot().args(["check", "--offline", "--config"]).arg(&copy)).await.code, 2);

    assert_eq!(serving.say(&["shutdown"]).await.code, 0);
    drop(client);
    assert_eq!(serving.ended().await, Some(0));
    let gone = serving.say(&["status"]).await;
    assert_eq!(gone.code, 3, "{}", gone.err);
}

/// Who shall be the primary is asked for with care: nothing of this changes anything.
async fn orders_are_checked(serving: &Serving) {
    let unforced = serving.say(&["failover", "--to", "pg2"]).await;
    assert!(unforced.code == 2 && unforced.err.contains("pgpilot switchover"), "{}", unforced.err);
    let unknown = serving.say(&["switchover", "--to", "pg9", "--output", "json"]).await;
    let report: Value = serde_json::from_str(&unknown.out).unwrap_or_else(|_| panic!("{}", unknown.err));
    assert_eq!((unknown.code, &report["order"]), (1, &"SWITCHOVER TO \"pg9\"".into()));
    assert_eq!((&report["result"], &report["failover"]["primary"]), (&"refused".into(), &"pg1".into()));
    assert!(report["error"].as_str().unwrap().contains("Nodes: pg1, pg2, pg3."), "{report:#}");
    let failover = serving.status().await["failover"][0].clone();
    assert!(failover["state"].is_string() && failover["maintenance"] == false, "{failover:#}");
    assert!(serving.get("/metrics").await.contains("pgpilot_maintenance 0"));
}

#[tokio::test]
async fn a_switchover_is_ordered_on_the_command_line_and_seen_while_it_goes_on() {
    let serving = Serving::with("[failover]\nstate_file = \"state\"\n").await;
    let primary = serving.servers.node("pg1").unwrap();
    let set = "GRANT ALTER SYSTEM ON PARAMETER primary_conninfo, default_transaction_read_only TO pilot";
    for sql in [
        "GRANT EXECUTE ON FUNCTION pg_promote, pg_reload_conf TO pilot",
        // Before PostgreSQL 15, that cannot be granted alone.
        if primary.binaries().version().major < 15 { "ALTER ROLE pilot SUPERUSER" } else { set },
        "GRANT pg_signal_backend TO pilot",
        "ALTER ROLE pilot REPLICATION",
        "GRANT CREATE ON DATABASE postgres TO pilot",
    ] {
        primary.sql(sql).await.unwrap();
    }
    serving.servers.wait_caught_up(primary).await.unwrap();
    let dry = serving.say(&["switchover", "--to", "pg2", "--dry-run"]).await;
    assert!(dry.code == 0 && dry.out.contains("pg2") && dry.err.is_empty(), "{}{}", dry.out, dry.err);
    assert_eq!(serving.say(&["maintenance", "on"]).await.code, 0);
    assert!(serving.get("/metrics").await.contains("pgpilot_maintenance 1"));

    let done = serving.say(&["switchover", "--to", "pg2"]).await;
    assert!(done.code == 0 && done.out.starts_with("pg2 is the primary"), "{}{}", done.out, done.err);
    assert!(done.err.lines().any(|line| line.contains(" failover pg2: ")), "{}", done.err);
    let status = serving.status().await;
    assert_eq!(
        (&status["service"][0]["primary"], &status["failover"][0]["maintenance"]),
        (&"pg2".into(), &true.into())
    );

    // The primary is well: that is a switchover's matter.
    let forced = serving.say(&["failover", "--to", "pg3", "--force", "--output", "json"]).await;
    let report: Value = serde_json::from_str(&forced.out).unwrap_or_else(|_| panic!("{}", forced.err));
    assert_eq!((forced.code, &report["result"]), (1, &"refused".into()), "{report:#}");
    assert_eq!(serving.say(&["maintenance", "off"]).await.code, 0);
}

#[tokio::test]
async fn psql_works_on_the_console_and_readers_only_look() {
    let mut serving = Serving::start().await;
    let Ok(tool) = serving.servers.nodes()[0].binaries().tool("psql") else { return };
    let psql = async |sql: &str| {
        let url = format!("postgresql://{USER}:{PASSWORD}@127.0.0.1:{}/pgpilot", serving.port);
        said(Command::new(&tool).args(["-X", "-A", "-t", "-v", "VERBOSITY=verbose", "-c", sql]).arg(url)).await
    };
    let nodes = psql("SHOW NODES").await;
    assert!(
        nodes.code == 0 && nodes.out.starts_with("pg1|127.0.0.1:") && nodes.out.lines().count() == 3,
        "{}",
        nodes.err
    );
    let both = psql("SHOW VERSION; EXPLAIN ROUTE SELECT 1; DELETE FROM t").await;
    assert!(both.out.contains("plain_read") && both.out.contains("dml"), "{}{}", both.out, both.err);
    let refused = psql("SHUTDOWN").await;
    assert!(refused.code != 0 && refused.err.contains("42501"), "{}", refused.err);
    let unknown = psql("SHOW NONSENSE").await;
    assert!(unknown.err.contains("42601") && unknown.err.contains("SHOW NODES"), "{}", unknown.err);
    serving.signal(rustix::process::Signal::TERM);
    assert_eq!(serving.ended().await, Some(0));
}

#[tokio::test]
async fn check_finds_servers_that_are_fine_and_one_that_is_gone() {
    let (servers, directory) = (servers().await, TempDir::new().unwrap());
    let path = directory.path().join("pgpilot.toml");
    write_topology(&path, &servers, 1, 2, "");
    let check = async || {
        let said = said(pgpilot().args(["check", "--output", "json", "--config"]).arg(&path)).await;
        let findings: Value = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{}", said.err));
        (said.code, findings)
    };
    let (code, findings) = check().await;
    assert_eq!(code, 0, "{findings:#}");
    let has = |about: &str, text: &str| {
        let found = |it: &Value| it["about"] == about && it["finding"].as_str().unwrap().starts_with(text);
        assert!(findings.as_array().unwrap().iter().any(found), "{about}: {text} in {findings:#}");
    };
    has("pg1", "primary, PostgreSQL ");
    has("pg2", "replica, PostgreSQL ");
    has("auth.query", "reads verifiers on pg1");

    servers.node("pg1").unwrap().connect().await.unwrap().batch_execute("ALTER ROLE pilot PASSWORD 'x'").await.unwrap();
    let (code, findings) = check().await;
    assert!(code == 1 && findings.to_string().contains("password authentication failed"), "{findings:#}");
    servers.node("pg3").unwrap().stop(pgpilot::demo::Stop::Fast).await.unwrap();
    assert_eq!(check().await.0, 3);
}

#[tokio::test]
async fn check_says_what_a_failover_lacks_and_its_remedies_work() {
    let (servers, directory) = (servers().await, TempDir::new().unwrap());
    let path = directory.path().join("pgpilot.toml");
    let check = async |failover: &str| {
        write_topology(&path, &servers, 1, 2, &format!("[failover]\nautomatic = true\n{failover}"));
        let said = said(pgpilot().args(["check", "--output", "json", "--config"]).arg(&path)).await;
        let findings: Value = serde_json::from_str(&said.out).unwrap_or_else(|_| panic!("{}", said.err));
        let text = |it: &Value, key: &str| it[key].as_str().unwrap().to_owned();
        let row = |it: &Value| (text(it, "result"), text(it, "about"), text(it, "finding"));
        (said.code, findings.as_array().unwrap().iter().map(row).collect::<Vec<_>>())
    };
    let (code, found) = check("state_file = \"gone/state\"\nfence_command = [\"./fence\"]\n").await;
    assert_eq!(code, 1);
    let wrong: Vec<_> = found.iter().filter(|(result, ..)| result == "wrong").collect();
    let here = |text: &str| wrong.iter().any(|(_, about, finding)| about == "failover" && finding.starts_with(text));
    assert!(here("state_file: ") && here("fence_command: "), "{wrong:?}");
    let primary = servers.node("pg1").unwrap();
    let remedies = wrong.iter().filter(|(_, about, _)| about == "failover.user");
    let remedies: Vec<_> = remedies.map(|(.., finding)| finding.rsplit_once(": ").unwrap().1).collect();
    assert!(!remedies.is_empty(), "{found:?}");
    for remedy in remedies {
        let remedy = remedy.strip_prefix("before PostgreSQL 15 that takes ").unwrap_or(remedy);
        primary.sql(remedy).await.unwrap_or_else(|error| panic!("{remedy}: {error}"));
    }
    // Slots are there in such a cluster; it is asynchronous, its nodes are slow to miss a frozen primary, and whoever reads
    // there can hold up the replay.
    let (code, found) = check("state_file = \"state\"\n").await;
    assert_eq!(code, 0, "{found:?}");
    let of = |about: &str| {
        let of = found.iter().filter(|(result, of, _)| result == "warning" && of == about);
        of.map(|(.., finding)| finding.split_whitespace().next().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(of("pg1"), ["wal_receiver_timeout", "max_standby_streaming_delay", "synchronous_standby_names"]);
    assert_eq!(of("pg2"), ["wal_receiver_timeout", "max_standby_streaming_delay"]);
}

#[tokio::test]
async fn the_demo_shows_traffic_and_cleans_up() {
    let demo = said(pgpilot().args(["demo", "--replicas", "1", "--port", "0", "--load", "--for", "12s"])).await;
    assert_eq!(demo.code, 0, "{}", demo.err);
    let line = demo.out.lines().find(|line| line.contains("plain_read")).unwrap_or_else(|| panic!("{}", demo.out));
    assert!(line.contains("pg2 (replica") && line.contains("dml"), "{line}");
    let (_, port) = demo.out.split_once("pg1 on port ").unwrap();
    let port: u16 = port.split(',').next().unwrap().parse().unwrap();
    wait_for("its servers to be gone", LIMIT, async || TcpStream::connect(("127.0.0.1", port)).await.is_err()).await;
}
