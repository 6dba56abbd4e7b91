//! `tests/corpus/placed.txt`: every label checked against a primary and its standby, and every text judged as labelled.

use std::collections::BTreeMap;
use std::fmt::Write;

use pgpilot::decide::sql::{Catalogue, Classified, FunctionLists, Intent, Standing};
use pgpilot::demo::LocalCluster;

use super::judge::{Judge, Known, needs, offloads};
use super::lockstep::NET;
use super::session::{Answer, SUPERUSER, Session};
use crate::support::cluster;

const SCHEMA: &str = include_str!("../../corpus/schema.sql");
const CORPUS: &str = include_str!("../../corpus/placed.txt");

/// Of the reads that a standby answers rightly, so many per cent must be offloaded.
const WANTED: f64 = 97.0;

/// What a text is expected to do; see the head of the corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Replica,
    Unsteady,
    Refused(&'static str),
    Differs,
    Acts(&'static str),
    Fails(&'static str),
    Never,
    Lost,
}

impl Label {
    fn parse(text: &'static str) -> Self {
        match text.split_once(' ').unwrap_or((text, "")) {
            ("replica", "") => Label::Replica,
            ("unsteady", "") => Label::Unsteady,
            ("refused", code) => Label::Refused(code),
            ("differs", "") => Label::Differs,
            ("acts", kind @ ("lock" | "session" | "node")) => Label::Acts(kind),
            ("fails", code) => Label::Fails(code),
            ("never", "") => Label::Never,
            ("lost", "") => Label::Lost,
            _ => panic!("no such label: {text}"),
        }
    }

    fn offloads(self) -> bool {
        matches!(self, Label::Replica | Label::Unsteady)
    }
}

fn corpus() -> Vec<(Label, String)> {
    let (mut all, mut label) = (Vec::new(), None);
    for line in CORPUS.lines().filter(|line| !line.is_empty()) {
        if let Some(name) = line.strip_prefix("## ") {
            label = Some(Label::parse(name));
        } else if !line.starts_with('#') {
            let text = line.replace("\\\\", "\u{1}").replace("\\n", "\n").replace("\\t", "\t").replace('\u{1}', "\\");
            all.push((label.expect("a label comes first"), text));
        }
    }
    all
}

#[tokio::test]
async fn the_corpus_is_placed_where_servers_say() {
    let cluster = LocalCluster::builder().replicas(1).setting("max_prepared_transactions", "5");
    let cluster = cluster.start().await.expect("a cluster starts");
    let (primary_node, replica_node) = (cluster.node("pg1").unwrap(), cluster.node("pg2").unwrap());
    let mut primary = Session::open(primary_node, SUPERUSER, "postgres").await;
    assert_eq!(primary.run(SCHEMA).await.error, None);
    cluster.wait_caught_up(primary_node).await.unwrap();
    let mut replica = Session::open(replica_node, SUPERUSER, "postgres").await;
    let judge = Judge::load(&mut replica).await;

    let older = primary_node.binaries().version().major < LABELLED_ON;
    let corpus = corpus();
    assert!(corpus.len() >= 600, "{}", corpus.len());
    let mut problems = String::new();
    let mut counts: BTreeMap<Label, (u32, u32)> = BTreeMap::new();
    for (label, text) in &corpus {
        let classified = judge.classify(text);
        let checked = check(*label, text, &classified, &mut primary, &mut replica).await;
        if let Err(problem) = checked
            && !(older && lacks(text, &mut primary).await)
        {
            writeln!(problems, "the label {label:?} is wrong: {problem}\n    {text}").unwrap();
        }
        let (offloaded, reason) = offloads(&needs(&classified, &Known::default()));
        let count = counts.entry(*label).or_default();
        count.0 += 1;
        count.1 += u32::from(offloaded);
        if offloaded != label.offloads() && (offloaded || *label != Label::Lost) {
            let where_to = if offloaded { "a replica" } else { "the primary" };
            writeln!(problems, "{label:?}, but goes to {where_to}: {}\n    {text}", reason.label()).unwrap();
        }
    }
    for (label, (texts, offloaded)) in &counts {
        println!("{texts:4} {label:?}, {offloaded} offloaded");
    }
    let of = |label| counts.get(&label).copied().unwrap_or_default();
    let (safe, lost) = (of(Label::Replica).0 + of(Label::Unsteady).0, of(Label::Lost).0);
    let offloaded = of(Label::Replica).1 + of(Label::Unsteady).1;
    let share = 100.0 * f64::from(offloaded) / f64::from(safe + lost);
    println!("{} texts; {share:.1} % of the reads that a standby answers rightly are offloaded", corpus.len());
    assert!(problems.is_empty(), "{problems}");
    assert!(share >= WANTED, "{share}");
}

/// The labels are those of this version's servers, and of newer ones.
const LABELLED_ON: u16 = 15;

/// The lists of built-in functions are made from several major versions: whatever this server has must be in them.
#[tokio::test]
async fn every_function_of_this_server_is_in_the_lists() {
    let cluster = cluster().await;
    let mut session = Session::open(cluster.node("pg1").unwrap(), SUPERUSER, "postgres").await;
    // All that SQL can call.
    let answer = session
        .run(
            "SELECT DISTINCT p.proname FROM pg_proc p JOIN pg_type t ON t.oid = p.prorettype
             WHERE p.pronamespace = 'pg_catalog'::regnamespace AND NOT 'internal'::regtype = ANY (p.proargtypes)
             -- The last are of PostgreSQL 14, and say that they are not implemented.
             AND p.proname NOT IN ('close_lb', 'close_sl', 'dist_bl', 'dist_lb', 'path_center')
             AND t.typname <> 'internal' AND t.typname !~ '(trigger|handler)$' AND p.proname !~ '_validator$'",
        )
        .await;
    let (catalogue, lists) = (Catalogue::builtin(), FunctionLists::default());
    let names: Vec<String> = answer.cells().into_iter().flatten().flatten().collect();
    assert!(names.len() > 2_000, "{}", names.len());
    let unknown = |name: &&String| catalogue.function(None, name, &lists) == Standing::Unknown;
    let unknown: Vec<&String> = names.iter().filter(unknown).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// Volatile functions that run on a replica as well as anywhere: what they do is random, tells the time, or only reads.
const VOLATILE_READS: [&str; 22] = [
    "amvalidate",
    "array_sample",
    "array_shuffle",
    "clock_timestamp",
    "current_query",
    "currtid2",
    "gen_random_uuid",
    "lo_get",
    "pg_get_multixact_members",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_xact_commit_timestamp",
    "pg_xact_commit_timestamp_origin",
    "random",
    "random_normal",
    "timeofday",
    "timezone",
    "uuidv4",
    "uuidv7",
];

/// Whatever a server brings that is volatile goes to the primary, unless it is known to do no harm: also what is new in
/// its version.
#[tokio::test]
async fn volatile_functions_of_this_server_go_to_the_primary() {
    let cluster = cluster().await;
    let mut session = Session::open(cluster.node("pg1").unwrap(), SUPERUSER, "postgres").await;
    let judge = Judge::load(&mut session).await;
    let answer = session
        .run("SELECT DISTINCT proname FROM pg_proc WHERE provolatile = 'v' AND pronamespace = 'pg_catalog'::regnamespace")
        .await;
    let names: Vec<String> = answer.cells().into_iter().flatten().flatten().collect();
    assert!(names.len() > 150, "{}", names.len());
    let lists = FunctionLists::default();
    let is_safe = |name: &&String| judge.catalogue.function(None, name, &lists) == Standing::Safe;
    let safe: Vec<&String> = names.iter().filter(is_safe).filter(|name| !VOLATILE_READS.contains(&&***name)).collect();
    assert!(safe.is_empty(), "{safe:?}");
}

/// Runs the text on both servers, in transactions that are rolled back, and compares with the label.
async fn check(
    label: Label,
    text: &str,
    classified: &Classified,
    primary: &mut Session,
    replica: &mut Session,
) -> Result<(), String> {
    if label == Label::Never {
        return Ok(());
    }
    let controls = |intent: &Intent| matches!(intent, Intent::Begin(_) | Intent::End(_));
    let own_transaction = classified.statements.iter().any(|verdict| controls(&verdict.intent));
    let of_replica = trial(text, own_transaction, replica).await;
    let of_primary = trial(text, own_transaction, primary).await;
    let agree = of_replica == of_primary;
    let told = || {
        let told = |answer: &Answer| answer.error.clone().unwrap_or_else(|| format!("{} rows", answer.rows.len()));
        Err(format!("the standby says {}, the primary {}", told(&of_replica), told(&of_primary)))
    };
    let both_run = of_replica.error.is_none() && of_primary.error.is_none();
    let is_right = match label {
        Label::Replica | Label::Lost => both_run && agree,
        Label::Unsteady => both_run,
        // Some cannot run in a transaction, or lack what they name: but the primary gets so far.
        Label::Refused(code) => {
            let (replica_says, primary_says) = (of_replica.error.as_deref(), of_primary.error.as_deref());
            // Large objects: since PostgreSQL 16 they are refused as everything else is.
            let refused = replica_says == Some(code) || (code == "XX000" && replica_says == Some("25006"));
            refused && primary_says != Some(code) && primary_says != Some("42601")
        }
        Label::Differs => !agree && of_replica.error.as_deref().is_none_or(|code| !NET.contains(&code)),
        Label::Acts(_) => both_run,
        Label::Fails(code) => agree && of_replica.error.as_deref() == Some(code),
        Label::Never => true,
    };
    if is_right { Ok(()) } else { told() }
}

/// Whether an older server does not know the syntax or the functions of a text.
async fn lacks(text: &str, primary: &mut Session) -> bool {
    let error = primary.run(text).await.error;
    primary.run("ROLLBACK").await;
    matches!(error.as_deref(), Some("42601" | "42883"))
}

async fn trial(text: &str, own_transaction: bool, session: &mut Session) -> Answer {
    if !own_transaction {
        session.run("BEGIN").await;
    }
    let answer = session.run(text).await;
    session.run("ROLLBACK").await;
    session.run("DISCARD ALL").await;
    answer
}
