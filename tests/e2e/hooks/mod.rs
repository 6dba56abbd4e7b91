//! The hooks of `config/hooks`, run as pgpilot runs them, make a broken cluster whole again.

mod demo;
mod joining;
mod refusing;
mod transports;

use std::fs::{self, Permissions};
use std::io::{Write as _, stderr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use pgpilot::demo::account::Account;
use pgpilot::demo::{Binaries, LocalCluster, Node};
use tokio::time::timeout;

/// A base backup on a busy machine takes its time; a hook that hangs takes this long.
const HOOK_LIMIT: Duration = Duration::from_secs(120);

/// The programs that the scripts call. Not every installation has them all.
const TOOLS: [&str; 5] = ["psql", "pg_ctl", "pg_controldata", "pg_rewind", "pg_basebackup"];

/// A cluster, and the scripts where its servers' account can read them.
struct Hooked {
    servers: LocalCluster,
    account: Account,
    directory: PathBuf,
}

/// What a hook has done.
struct Done {
    status: Option<i32>,
    said: String,
}

/// `None`, with a word about it, where this installation of PostgreSQL lacks programs.
async fn hooked() -> Option<Hooked> {
    let binaries = Binaries::find().unwrap();
    if let Some(missing) = TOOLS.into_iter().find(|tool| binaries.tool(tool).is_err()) {
        let place = binaries.directory().display();
        let _ = writeln!(stderr(), "not tested: {place} has no {missing}");
        return None;
    }
    let servers = LocalCluster::builder().binaries(binaries).start().await.unwrap();
    let account = Account::choose().unwrap();
    let directory = servers.directory().join("hooks");
    fs::create_dir(&directory).unwrap();
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/hooks");
    for entry in fs::read_dir(scripts).unwrap().flatten() {
        fs::copy(entry.path(), directory.join(entry.file_name())).unwrap();
    }
    let passfile = directory.join("passfile");
    account.private_file(&passfile, "*:*:*:replicator:replicator\n").unwrap();
    let settings = format!(
        "base={base}\nPGDATA=$base/$PGPILOT_NODE/data\nPGBIN={programs}\nREPLICATION_USER=replicator\n\
         CONNINFO=\"passfile='{passfile}'\"\nSERVER_OPTIONS=\"-c config_file=$base/$PGPILOT_NODE/postgresql.conf\"\n\
         SERVER_LOG=$base/$PGPILOT_NODE/later.log\nPG_REWIND_OPTIONS=--no-sync\nPG_BASEBACKUP_OPTIONS=--no-sync\n",
        base = servers.directory().display(),
        programs = servers.nodes()[0].binaries().directory().display(),
        passfile = passfile.display(),
    );
    let hooked = Hooked { servers, account, directory };
    hooked.file("settings", &settings, 0o644);
    Some(hooked)
}

impl Hooked {
    /// Writes a file beside the scripts.
    fn file(&self, name: &str, text: &str, mode: u32) {
        let path = self.directory.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    /// Adds to the settings.
    fn set(&self, more: &str) {
        let old = fs::read_to_string(self.directory.join("settings")).unwrap();
        self.file("settings", &format!("{old}{more}\n"), 0o644);
    }

    /// Runs a hook of `local.sh` about `node`.
    async fn run(&self, hook: &str, epoch: u64, node: &Node, primary: &Node) -> Done {
        self.run_script("local.sh", hook, epoch, node, primary).await
    }

    async fn run_script(&self, script: &str, hook: &str, epoch: u64, node: &Node, primary: &Node) -> Done {
        let mut command = self.account.command(self.directory.join(script));
        command.arg(self.directory.join("settings")).current_dir(&self.directory);
        let (epoch, port, primary_port) = (epoch.to_string(), node.port().to_string(), primary.port().to_string());
        for (name, value) in [
            ("HOOK", hook),
            ("EPOCH", &epoch),
            ("NODE", node.name()),
            ("NODE_HOST", "127.0.0.1"),
            ("NODE_PORT", &port),
            ("PRIMARY", primary.name()),
            ("PRIMARY_HOST", "127.0.0.1"),
            ("PRIMARY_PORT", &primary_port),
        ] {
            command.env(format!("PGPILOT_{name}"), value);
        }
        if self.directory.join("shims").is_dir() {
            let path = std::env::var("PATH").unwrap();
            command.env("PATH", format!("{}:{path}", self.directory.join("shims").display()));
        }
        let mut command = tokio::process::Command::from(command);
        let output = timeout(HOOK_LIMIT, command.kill_on_drop(true).output()).await;
        Done::from(output.unwrap_or_else(|_| panic!("{hook} of {} hangs", node.name())).unwrap())
    }

    /// Runs a hook twice, as after a doubt whether the first was done; it has to succeed both times.
    async fn twice(&self, hook: &str, epoch: u64, node: &Node, primary: &Node) -> [Done; 2] {
        let first = self.run(hook, epoch, node, primary).await;
        let second = self.run(hook, epoch, node, primary).await;
        for done in [&first, &second] {
            assert_eq!(done.status, Some(0), "{hook} of {}:\n{}\n{}", node.name(), done.said, node.log_tail(20));
        }
        [first, second]
    }

    fn nodes(&self) -> [&Node; 3] {
        let [one, two, three] = self.servers.nodes() else { panic!("three nodes") };
        [one, two, three]
    }

    /// `pg3` follows `pg2`, which becomes the primary, with a row of its own.
    async fn promote_two(&self) {
        let [_, two, three] = self.nodes();
        two.promote().await.unwrap();
        three.repoint(two).await.unwrap();
        two.sql("INSERT INTO t VALUES (2)").await.unwrap();
    }

    /// Every node has these rows in `t`, and `node` streams from `primary`.
    async fn is_whole(&self, node: &Node, primary: &Node, rows: &str) {
        primary.wait_for_follower(node).await.unwrap();
        let written = primary.value("SELECT pg_current_wal_flush_lsn()").await.unwrap().unwrap();
        for other in self.nodes().into_iter().filter(|other| other.name() != primary.name()) {
            let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
            other.wait_for_truth("it has everything", &sql).await.unwrap();
            let found = other.value("SELECT string_agg(n::text, ',' ORDER BY n) FROM t").await.unwrap();
            assert_eq!(found.as_deref(), Some(rows), "{}", other.name());
        }
        let slots = "SELECT count(*) FILTER (WHERE restart_lsn IS NULL), count(*) FROM pg_replication_slots";
        let slots = node.sql(slots).await.unwrap().remove(0);
        assert_eq!(slots, [Some("3".to_owned()), Some("3".to_owned())], "slots of {}", node.name());
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let said = [output.stdout, output.stderr].concat();
        Self { status: output.status.code(), said: String::from_utf8_lossy(&said).into_owned() }
    }
}

impl Done {
    #[track_caller]
    fn says(&self, what: &str) {
        assert!(self.said.contains(what), "{what:?} is not in:\n{}", self.said);
    }
}
