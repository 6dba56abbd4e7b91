//! Which of several functions of one name a call means: pgpilot's opinion beside the server's.

use std::fmt::Write as _;

use fastrand::Rng;
use pgpilot::decide::sql::{Asker, Intent, SearchPath};

use super::judge::Judge;
use super::session::{SUPERUSER, Session};
use crate::support::own_cluster;

const SCHEMAS: [&str; 3] = ["a", "b", "public"];
const TYPES: [&str; 22] = [
    "int",
    "bigint",
    "smallint",
    "numeric",
    "real",
    "float8",
    "text",
    "varchar",
    "name",
    "date",
    "timestamp",
    "timestamptz",
    "interval",
    "bool",
    "jsonb",
    "uuid",
    "bytea",
    "int[]",
    "anyelement",
    "bpchar",
    "positive",
    "oid",
];
/// Of types that pgpilot can tell.
const TOLD: [&str; 26] = [
    "1",
    "-1",
    "3000000000",
    "1.5",
    "1e3",
    "'1'",
    "'x'",
    "NULL",
    "true",
    "1::bigint",
    "'1'::text",
    "'1'::varchar",
    "CAST(1 AS numeric)",
    "CAST('1' AS smallint)",
    "date '2020-01-01'",
    "'2020-01-01'::timestamp",
    "'{}'::jsonb",
    "E'x'",
    "(1)::real",
    "'a'::name",
    "'1'::bpchar",
    "'1 day'::interval",
    "timestamp with time zone '2020-01-01'",
    "'1'::oid",
    "upper('x')::varchar",
    "'1'::double precision",
];
/// Of types that it cannot.
const UNTOLD: [&str; 8] =
    ["now()", "B'1'", "1 + 1", "'1'::\"char\"", "ARRAY[1, 2]", "length('x')", "1::positive", "99999999999999999999"];
const PATHS: [&str; 6] = ["a, b, public", "b", "public", "b, a", "\"$user\", public, a", "a, pg_catalog, b"];
const NAMES: usize = 60;
const CALLS: usize = 40;

/// Makes functions of one name, of which some need the primary. Each answers whether it does.
fn definitions(random: &mut Rng, name: &str) -> String {
    let mut sql = String::new();
    for _ in 0..random.usize(2..7) {
        let schema = SCHEMAS[random.usize(..SCHEMAS.len())];
        let count = random.usize(1..4);
        let mut parameters: Vec<String> = (0..count).map(|_| TYPES[random.usize(..TYPES.len())].to_owned()).collect();
        match random.u8(..6) {
            0 => parameters[count - 1] = "VARIADIC int[]".to_owned(),
            1 => parameters[count - 1] = "VARIADIC text[]".to_owned(),
            2 => parameters[count - 1] += " DEFAULT NULL",
            _ => {}
        }
        let body = match random.bool() {
            true => "LANGUAGE plpgsql AS 'BEGIN IF false THEN DELETE FROM t; END IF; RETURN true; END'",
            false => "LANGUAGE sql AS 'SELECT false'",
        };
        // Some are the same in one schema: the second one is refused.
        writeln!(sql, "CREATE FUNCTION {schema}.{name}({}) RETURNS bool {body};", parameters.join(", ")).unwrap();
    }
    sql
}

#[tokio::test]
async fn calls_mean_what_the_server_takes_them_for() {
    let cluster = own_cluster().await;
    let mut session = Session::open(cluster.node("pg1").unwrap(), SUPERUSER, "postgres").await;
    let seed = 7;
    let mut random = Rng::with_seed(seed);
    let schema = "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE t (a int); CREATE DOMAIN positive AS int;
                  GRANT USAGE ON SCHEMA a TO PUBLIC";
    assert_eq!(session.run(schema).await.error, None);
    // Names of their own, and some that PostgreSQL has as well.
    let shared = ["lower", "abs", "length", "substr", "round", "concat"];
    let names: Vec<String> = (0..NAMES).map(|n| shared.get(n).map_or(format!("f{n}"), ToString::to_string)).collect();
    for name in &names {
        for definition in definitions(&mut random, name).lines() {
            session.run(definition).await;
        }
    }
    let judge = Judge::load(&mut session).await;
    let (mut wrong, mut safe, mut found, mut called) = (String::new(), 0, 0, 0);
    for path in PATHS {
        assert_eq!(session.run(&format!("SET search_path = {path}")).await.error, None);
        let setting = session.value("SHOW search_path").await;
        let known = SearchPath::new(&setting, SUPERUSER, &judge.catalogue).expect("a search path");
        for _ in 0..NAMES * CALLS / PATHS.len() {
            let name = &names[random.usize(..names.len())];
            let is_told = random.u8(..4) > 0;
            let mut argument = || match is_told {
                true => TOLD[random.usize(..TOLD.len())],
                false => UNTOLD[random.usize(..UNTOLD.len())],
            };
            let arguments: Vec<&str> = [argument(), argument(), argument()].into();
            let arguments = &arguments[..1 + usize::from(random.bool()) * random.usize(..3)];
            let call = format!("{name}({})", arguments.join(", "));
            let answer = session.run(&format!("SELECT {call}::text = 'true', {call}::text = 'false'")).await;
            let [needs_primary, does_not] = match answer.cells().first().map(Vec::as_slice) {
                Some([a, b]) => [a, b].map(|cell| cell.as_deref() == Some("t")),
                // No such function, or an ambiguous call.
                _ => continue,
            };
            called += 1;
            let judged =
                |asker| judge.classify_for(&format!("SELECT {call}"), asker).statements[0].intent == Intent::Read;
            let as_session = judged(Asker { path: Some(&known), parameters: &[] });
            let anybody = judged(Asker::default());
            if needs_primary && (as_session || anybody) {
                writeln!(wrong, "search_path {path}: {call}").unwrap();
            }
            // What is neither is one of PostgreSQL's own, which are safe.
            if is_told && (does_not || !needs_primary) {
                safe += 1;
                found += u32::from(as_session);
                if !as_session {
                    println!("search_path {path}: {call} is safe");
                }
            }
        }
    }
    println!("{called} calls; {found} of {safe} safe ones are known to be safe");
    assert!(wrong.is_empty(), "seed {seed}\n{wrong}");
    assert!(called > 300 && f64::from(found) > 0.6 * f64::from(safe), "{found} of {safe}, of {called}");
}
