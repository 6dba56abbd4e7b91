//! PostgreSQL's own regression suite, statement by statement: `./dev routes`.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use pgpilot::demo::LocalCluster;

use super::lockstep::Lockstep;
use super::script::{Script, Step, Then};
use super::tally::Outcome;

/// Where PostgreSQL's `src/test/regress` is.
const SOURCE: &str = "PGPILOT_REGRESS";
/// Tests of this name alone, separated by blanks; `test_setup` and `create_index` fill the tables of most others.
const ONLY: &str = "PGPILOT_REGRESS_ONLY";

/// What pg_regress sets for its database.
const DATABASE: [&str; 7] = [
    "CREATE DATABASE regression TEMPLATE template0",
    "ALTER DATABASE regression SET lc_messages TO 'C'",
    "ALTER DATABASE regression SET bytea_output TO 'hex'",
    "ALTER DATABASE regression SET timezone_abbreviations TO 'Default'",
    "ALTER DATABASE regression SET timezone TO 'PST8PDT'",
    "ALTER DATABASE regression SET datestyle TO 'Postgres, MDY'",
    "ALTER DATABASE regression SET intervalstyle TO 'postgres_verbose'",
];

/// Of the reads that a replica answers as the primary does, so many per cent must reach one.
const WANTED: f64 = 97.0;

#[tokio::test]
#[ignore = "takes minutes, and needs PostgreSQL's source: ./dev routes"]
async fn the_regression_suite_is_routed_without_harm() {
    let source = PathBuf::from(std::env::var_os(SOURCE).expect(SOURCE));
    let files = tempfile::tempdir().expect("a directory");
    let variables = variables(&source, files.path());
    let cluster = LocalCluster::builder().replicas(1).setting("max_prepared_transactions", "10");
    let cluster = cluster.setting("max_standby_streaming_delay", "60s").start().await.expect("a cluster starts");
    let (primary, replica) = (cluster.node("pg1").unwrap(), cluster.node("pg2").unwrap());
    for statement in DATABASE {
        primary.sql(statement).await.unwrap();
    }
    cluster.wait_caught_up(primary).await.unwrap();
    let mut lockstep = Lockstep::begin(primary, replica, "regression").await;
    let only = std::env::var(ONLY).ok();
    for test in tests(&source) {
        let wanted = only.as_ref().is_none_or(|only| only.split(' ').any(|name| name == test));
        let Ok(text) = fs::read(source.join("sql").join(format!("{test}.sql"))) else { continue };
        if !wanted && test != "test_setup" && test != "create_index" {
            continue;
        }
        let begun = Instant::now();
        run(&mut lockstep, &test, &String::from_utf8_lossy(&text), &variables).await;
        let tally = &lockstep.tally;
        let (wrong, caught, lost) = (tally.wrong.len(), tally.caught.len(), tally.get(Outcome::Lost));
        eprintln!("{test}: {:.1?}; so far {wrong} harmful, {caught} caught, {lost} lost", begun.elapsed());
    }
    lockstep.tally.print();
    assert!(lockstep.tally.wrong.is_empty());
    // Whatever a replica refuses has been seen in its text, or in the catalogue: where the safety net is needed, something
    // is missing there.
    assert!(lockstep.tally.caught.is_empty());
    assert!(only.is_some() || lockstep.tally.share(lockstep.tally.get(Outcome::Lost)) >= WANTED);
}

async fn run(lockstep: &mut Lockstep<'_>, test: &str, text: &str, variables: &HashMap<String, String>) {
    lockstep.connect("regression", "postgres").await;
    let mut script = Script::new(text, variables.clone());
    while let Some(step) = script.next() {
        match step {
            Step::Connect { database, user } => lockstep.connect(&database, &user).await,
            Step::Run { text, data, then } => {
                let answer = lockstep.run(test, &text, &data).await;
                match then {
                    Then::Show => {}
                    Then::Set(prefix) => {
                        let row = answer.cells().into_iter().next().unwrap_or_default();
                        let names = answer.columns.iter().map(|name| format!("{prefix}{name}"));
                        script.variables.extend(names.zip(row.into_iter().map(Option::unwrap_or_default)));
                    }
                    Then::Execute => {
                        for text in answer.cells().into_iter().flatten().flatten() {
                            lockstep.run(test, &text, &[]).await;
                        }
                    }
                }
            }
        }
    }
}

/// The names of the tests, in the order in which they depend on each other.
fn tests(source: &Path) -> Vec<String> {
    let schedule = fs::read_to_string(source.join("parallel_schedule")).expect("the schedule");
    let lines = schedule.lines().filter_map(|line| line.strip_prefix("test:"));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// What pg_regress tells its scripts. The server reads and writes the files, as whoever it runs as.
fn variables(source: &Path, files: &Path) -> HashMap<String, String> {
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("my directory");
    let data = files.join("data");
    for directory in [files, &data, &files.join("results")] {
        fs::create_dir_all(directory).expect("a directory");
        open(directory);
    }
    for file in fs::read_dir(source.join("data")).expect("the data").flatten() {
        let copy = data.join(file.file_name());
        fs::copy(file.path(), &copy).expect("a copy");
        open(&copy);
    }
    let files = files.to_str().expect("a name in UTF-8").to_owned();
    HashMap::from([
        ("PG_ABS_SRCDIR".to_owned(), files.clone()),
        ("PG_ABS_BUILDDIR".to_owned(), files.clone()),
        ("PG_LIBDIR".to_owned(), "$libdir".to_owned()),
        ("PG_DLSUFFIX".to_owned(), ".so".to_owned()),
    ])
}
