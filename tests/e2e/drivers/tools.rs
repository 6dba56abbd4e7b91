//! PostgreSQL's own tools: pgbench, pg_dump, pg_restore, and a few that connect once.

use pgpilot::demo::Version;
use tokio::process::Command;

use super::{BY_SESSION, BY_TRANSACTION, Site, ends, succeeds};
use crate::support::proxy::{PASSWORD, USER};

fn with(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}

#[tokio::test]
async fn pgbench_runs_in_every_mode() {
    let site = Site::start().await;
    for database in [BY_TRANSACTION, BY_SESSION] {
        let pgbench = |arguments: &[&str]| with(site.through(site.tool("pgbench"), database), arguments);
        succeeds(pgbench(&["-i", "-s", "1", "--foreign-keys"])).await;
        let mut done = 0;
        for mode in ["simple", "extended", "prepared"] {
            for pipelined in [&[][..], &["--max-tries=1"]] {
                let said =
                    succeeds(pgbench(&[&["-n", "-M", mode, "-c", "4", "-j", "2", "-t", "40"], pipelined].concat()))
                        .await;
                assert!(said.contains("number of transactions actually processed: 160/160"), "{mode}: {said}");
                assert!(said.contains("number of failed transactions: 0 "), "{mode}: {said}");
                done += 160;
            }
            let before = site.proxy.counts();
            let said = succeeds(pgbench(&["-n", "-S", "-M", mode, "-c", "4", "-j", "2", "-t", "200"])).await;
            assert!(said.contains("number of transactions actually processed: 800/800"), "{mode}: {said}");
            let reads = site.reads_since(before);
            assert!(database == BY_SESSION || reads >= 780, "{mode}: {reads} reads on replicas");
        }
        // Nothing was lost, and nothing was done twice.
        let sums = "SELECT count(*), sum(delta) = (SELECT sum(abalance) FROM pgbench_accounts), \
                    sum(delta) = (SELECT sum(bbalance) FROM pgbench_branches) FROM pgbench_history";
        let psql = with(site.directly(site.tool("psql"), database), &["-XAt", "-c", sums]);
        assert_eq!(succeeds(psql).await.trim(), format!("{done}|t|t"));
    }
}

#[tokio::test]
async fn pgbench_pipelines() {
    let site = Site::start().await;
    succeeds(with(site.through(site.tool("pgbench"), BY_TRANSACTION), &["-i", "-s", "1"])).await;
    let script = "\\set aid random(1, 100000)\n\\startpipeline\nBEGIN;\nUPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n\
                  SELECT abalance FROM pgbench_accounts WHERE aid = :aid;\nINSERT INTO pgbench_history (aid, delta) VALUES (:aid, 1);\nEND;\n\
                  SELECT count(*) FROM pgbench_branches;\n\\endpipeline\n";
    std::fs::write(site.files.path().join("pipeline.sql"), script).unwrap();
    for mode in ["extended", "prepared"] {
        let arguments = ["-n", "-M", mode, "-c", "4", "-j", "2", "-t", "50", "-f", "pipeline.sql"];
        let said = succeeds(with(site.through(site.tool("pgbench"), BY_TRANSACTION), &arguments)).await;
        assert!(said.contains("number of transactions actually processed: 200/200"), "{mode}: {said}");
    }
    let sums = "SELECT count(*), sum(delta) = (SELECT sum(abalance) FROM pgbench_accounts) FROM pgbench_history";
    let psql = with(site.through(site.tool("psql"), BY_TRANSACTION), &["-XAt", "-c", sums]);
    assert_eq!(succeeds(psql).await.trim(), "400|t");
}

const CONTENT: &str = "CREATE TABLE parent (id serial PRIMARY KEY, t text, b bytea);
    CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
    INSERT INTO parent (t, b) SELECT repeat('x', n % 50), decode(md5(n::text), 'hex') FROM generate_series(1, 5000) n;
    INSERT INTO child SELECT n, n FROM generate_series(1, 1000) n;
    CREATE VIEW joined AS SELECT p.t, c.id FROM parent p JOIN child c ON c.parent = p.id;
    CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
    SELECT lo_create(4711);";

#[tokio::test]
async fn a_dump_is_the_same_and_can_be_restored() {
    let site = Site::start().await;
    succeeds(with(site.through(site.tool("psql"), BY_TRANSACTION), &["-X", "-v", "ON_ERROR_STOP=1", "-c", CONTENT]))
        .await;
    let plain = ["--restrict-key=0"];
    let dump = site.tool("pg_dump");
    let version = succeeds(with(site.directly(&dump, BY_TRANSACTION), &["--version"])).await;
    if Version::parse(&version).unwrap().major < site.version() {
        println!("skipped: this pg_dump is older than the server, which it refuses");
        return;
    }
    // Newer versions write a random key into a plain dump, unless told which.
    let knows_keys = succeeds(with(site.directly(&dump, BY_TRANSACTION), &["--help"])).await.contains("--restrict-key");
    let plain = if knows_keys { &plain[..] } else { &[] };
    let through = succeeds(with(site.through(&dump, BY_TRANSACTION), plain)).await;
    let directly = succeeds(with(site.directly(&dump, BY_TRANSACTION), plain)).await;
    assert!(through.lines().count() > 6000, "{through}");
    assert_eq!(through, directly);
    // In parallel: the workers take up the leader's snapshot.
    succeeds(with(site.through(&dump, BY_TRANSACTION), &["-Fd", "-j2", "-f", "dumped"])).await;
    for (format, arguments) in [("directory", &["-j2"][..]), ("custom", &["--single-transaction"])] {
        if format == "custom" {
            succeeds(with(site.through(&dump, BY_TRANSACTION), &["-Fc", "-f", "dumped.custom"])).await;
        }
        let file = if format == "custom" { "dumped.custom" } else { "dumped" };
        let restore = [&["-d", BY_SESSION, "--no-owner", "--clean", "--if-exists", file], arguments].concat();
        succeeds(with(site.through(site.tool("pg_restore"), BY_SESSION), &restore)).await;
        let restored = succeeds(with(site.directly(&dump, BY_SESSION), plain)).await;
        assert_eq!(restored, directly, "{format}");
    }
}

#[tokio::test]
async fn small_tools_work() {
    let site = Site::start().await;
    succeeds(with(
        site.through(site.tool("psql"), BY_TRANSACTION),
        &["-X", "-c", "CREATE TABLE t (n int PRIMARY KEY)"],
    ))
    .await;
    let said = succeeds(with(site.through(site.tool("pg_isready"), BY_TRANSACTION), &[])).await;
    assert!(said.contains("accepting connections"), "{said}");
    succeeds(with(site.through(site.tool("vacuumdb"), BY_TRANSACTION), &["-z", "-t", "t", "-j", "2", BY_TRANSACTION]))
        .await;
    succeeds(with(site.through(site.tool("reindexdb"), BY_TRANSACTION), &["-t", "t", BY_TRANSACTION])).await;
    succeeds(with(site.through(site.tool("clusterdb"), BY_TRANSACTION), &[BY_TRANSACTION])).await;
    // What a pooler cannot give: the reason is said.
    let output = ends(&mut with(site.through(site.tool("pg_receivewal"), BY_TRANSACTION), &["-D", ".", "-n"])).await;
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(complained.contains("pgpilot does not pass on replication connections"), "{complained}");
}

#[tokio::test]
async fn pgpilot_asks_another_one_over_tls() {
    let site = Site::start().await;
    let status = async |query: &str| {
        let url = format!("postgresql://{USER}:{PASSWORD}@localhost:{}/?{query}", site.proxy.port());
        let mut command = site.through(env!("CARGO_BIN_EXE_pgpilot"), BY_TRANSACTION);
        ends(command.args(["status", "--url", &url])).await
    };
    let ca = site.ca();
    for query in
        ["", "sslmode=require", "sslmode=disable", &format!("sslmode=verify-full&sslrootcert={}", ca.display())]
    {
        let output = status(query).await;
        assert!(output.status.success(), "{query}: {output:?}");
    }
    assert_eq!(status("sslmode=verify-full").await.status.code(), Some(3), "the system trusts nobody of ours");
}
