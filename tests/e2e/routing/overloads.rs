//! Which of several functions of one name a call means: pgpilot's opinion beside the server's.

use std::fmt::Write as _;

use fastrand::Rng;
use pgpilot::decide::sql::{Asker, Intent, SearchPath};

use super::judge::Judge;
use super::session::{SUPERUSER, Session};
use crate::support::own_cluster;

/// How many seeds to try, and the first of them.
const SEEDS: &str = "PGPILOT_OVERLOADS_SEEDS";
const FIRST: &str = "PGPILOT_OVERLOADS_FIRST";
const NAMES: usize = 60;
const CALLS: usize = 2000;

const SCHEMAS: [&str; 3] = ["a", "b", "public"];
const TYPES: [&str; 24] = [
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
    "mood",
    "text[]",
];
/// Of types that pgpilot can tell.
const TOLD: [&str; 29] = [
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
    "CAST(NULL AS pg_catalog.int2)",
    "-2.5",
    "'1'::varchar(3)::text",
];
/// Of types that it cannot.
const UNTOLD: [&str; 14] = [
    "now()",
    "B'1'",
    "1 + 1",
    "'1'::\"char\"",
    "ARRAY[1, 2]",
    "length('x')",
    "1::positive",
    "99999999999999999999",
    "+1",
    "-2147483648",
    "'1'::mood",
    "'{1,2}'",
    "(1 + 2)::text || ''",
    "ROW(1, 2)",
];
const PATHS: [&str; 6] = ["a, b, public", "b", "public", "b, a", "\"$user\", public, a", "a, pg_catalog, b"];
/// Types of parameters, and their OIDs as a Parse message has them. Some say nothing.
const PARAMETERS: [(&str, u32); 10] = [
    ("int", 23),
    ("bigint", 20),
    ("numeric", 1700),
    ("text", 25),
    ("varchar", 1043),
    ("bool", 16),
    ("date", 1082),
    ("jsonb", 3802),
    ("positive", 0),
    ("unknown", 705),
];

/// What all rounds share: steps of aggregates, and a role that may not use the schema `b`.
const ONCE: &str = "
    CREATE ROLE plain;
    CREATE SCHEMA steps; GRANT USAGE ON SCHEMA steps TO PUBLIC;
    CREATE FUNCTION steps.clean(bool, int) RETURNS bool LANGUAGE sql AS 'SELECT false';
    CREATE FUNCTION steps.clean(bool, text) RETURNS bool LANGUAGE sql AS 'SELECT false';
    CREATE FUNCTION steps.dirty(bool, int) RETURNS bool LANGUAGE plpgsql AS
        'BEGIN IF false THEN DELETE FROM t; END IF; RETURN true; END';
    CREATE FUNCTION steps.dirty(bool, text) RETURNS bool LANGUAGE plpgsql AS
        'BEGIN IF false THEN DELETE FROM t; END IF; RETURN true; END';
    CREATE FUNCTION steps.last(bool, numeric) RETURNS bool LANGUAGE sql AS 'SELECT $1'";
const BEFORE: &str = "
    CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE t (a int); CREATE DOMAIN positive AS int;
    CREATE TYPE mood AS ENUM ('1', 'x'); GRANT USAGE ON SCHEMA a TO PUBLIC";
const AFTER: &str = "
    RESET ROLE; SET search_path = public; DROP SCHEMA a, b, public CASCADE; CREATE SCHEMA public;
    GRANT USAGE ON SCHEMA public TO PUBLIC";
/// Conversions that PostgreSQL does not bring.
const CASTS: [&str; 6] =
    ["bool AS text", "text AS uuid", "int4 AS interval", "date AS int4", "text AS int4", "name AS jsonb"];

/// Makes functions of one name, of which some need the primary. Each answers whether it does.
fn definitions(random: &mut Rng, name: &str) -> String {
    let mut sql = String::new();
    for _ in 0..random.usize(2..7) {
        let schema = SCHEMAS[random.usize(..SCHEMAS.len())];
        let count = random.usize(1..4);
        let is_clean = random.bool();
        if random.u8(..12) == 0 {
            let step = if is_clean { "steps.clean" } else { "steps.dirty" };
            let (takes, last) = match random.u8(..3) {
                0 => ("int", ""),
                1 => ("text", ""),
                _ => ("numeric ORDER BY int", ", FINALFUNC = steps.last"),
            };
            writeln!(sql, "CREATE AGGREGATE {schema}.{name}({takes}) (SFUNC = {step}, STYPE = bool{last});").unwrap();
            continue;
        }
        let any = |random: &mut Rng| TYPES[random.usize(..TYPES.len())];
        // Named in another order here and there.
        let first = random.usize(..2);
        let mut parameters: Vec<String> =
            (first..first + count).map(|n| format!("p{} {}", n % 3, any(random))).collect();
        match random.u8(..8) {
            0 => parameters[count - 1] = "VARIADIC int[]".to_owned(),
            1 => parameters[count - 1] = "VARIADIC text[]".to_owned(),
            2 => parameters[count - 1] = "VARIADIC anyarray".to_owned(),
            3 => parameters[count - 1] += " DEFAULT NULL",
            4 => parameters.iter_mut().for_each(|parameter| *parameter += " DEFAULT NULL"),
            _ => {}
        }
        let body = match is_clean {
            false => "LANGUAGE plpgsql AS 'BEGIN IF false THEN DELETE FROM t; END IF; RETURN true; END'",
            true => "LANGUAGE sql AS 'SELECT false'",
        };
        // Some are the same in one schema: the second one is refused.
        writeln!(sql, "CREATE FUNCTION {schema}.{name}({}) RETURNS bool {body};", parameters.join(", ")).unwrap();
    }
    sql
}

/// A call, and the types of the parameters in it.
struct Call {
    text: String,
    types: Vec<&'static str>,
    /// Whether pgpilot is expected to know its types.
    is_told: bool,
}

fn call(random: &mut Rng, names: &[String]) -> Call {
    let is_told = random.u8(..4) > 0;
    let mut types = Vec::new();
    let is_prepared = random.u8(..5) == 0;
    let mut arguments: Vec<String> = Vec::new();
    for _ in 0..1 + usize::from(random.bool()) * random.usize(..3) {
        arguments.push(match is_told {
            _ if is_prepared && random.bool() => {
                types.push(PARAMETERS[random.usize(..PARAMETERS.len())].0);
                format!("${}", types.len())
            }
            true => TOLD[random.usize(..TOLD.len())].to_owned(),
            false => UNTOLD[random.usize(..UNTOLD.len())].to_owned(),
        });
    }
    let form = random.u8(..20);
    let last = arguments.len() - 1;
    match form {
        0 => arguments[last] = format!("p{} => {}", random.u8(..3), arguments[last]),
        1 => {
            let first = random.usize(..3);
            let named = arguments.iter().enumerate().map(|(n, text)| format!("p{} := {text}", (n + first) % 3));
            arguments = named.collect();
        }
        2 => {
            arguments[last] =
                ["VARIADIC ARRAY[1]", "VARIADIC '{1}'", "VARIADIC '{x}'::text[]"][random.usize(..3)].to_owned()
        }
        3 => arguments[0].insert_str(0, "DISTINCT "),
        _ => {}
    }
    let mut text = format!("{}({})", names[random.usize(..names.len())], arguments.join(", "));
    match form {
        4 => text += " WITHIN GROUP (ORDER BY 1)",
        5 | 6 => text.insert_str(0, ["a.", "b.", "pg_catalog."][random.usize(..3)]),
        _ => {}
    }
    Call { text, types, is_told: is_told && form > 4 && !is_prepared }
}

/// What calls turned out to be.
#[derive(Debug, Default)]
struct Tally {
    /// Would have been sent to a replica, and needs the primary.
    harmful: String,
    /// Would have been right on a replica.
    missed: String,
    called: u32,
    told_safe: u32,
    known_safe: u32,
}

/// The server's own opinion: whether the call needs the primary, and whether it is known not to. `None`: there is no such
/// function, or the call is ambiguous.
async fn ask(session: &mut Session, call: &Call) -> Option<[bool; 2]> {
    let query = format!("SELECT ({0})::text = 'true', ({0})::text = 'false'", call.text);
    let query = match call.types.len() {
        0 => query,
        count => {
            let nulls = vec!["NULL"; count].join(", ");
            format!("DEALLOCATE ALL; PREPARE q ({}) AS {query}; EXECUTE q ({nulls})", call.types.join(", "))
        }
    };
    match session.run(&query).await.cells().first().map(Vec::as_slice) {
        Some([a, b]) => Some([a, b].map(|cell| cell.as_deref() == Some("t"))),
        _ => None,
    }
}

async fn round(session: &mut Session, seed: u64, tally: &mut Tally) {
    let mut random = Rng::with_seed(seed);
    assert_eq!(session.run(BEFORE).await.error, None);
    // Names of their own, and some that PostgreSQL has as well.
    let shared = ["lower", "abs", "length", "substr", "round", "concat"];
    let names: Vec<String> = (0..NAMES).map(|n| shared.get(n).map_or(format!("f{n}"), ToString::to_string)).collect();
    for name in &names {
        for definition in definitions(&mut random, name).lines() {
            session.run(definition).await;
        }
    }
    let cast = CASTS[random.usize(..CASTS.len())];
    if seed.is_multiple_of(3) {
        session.run(&format!("CREATE CAST ({cast}) WITH INOUT AS IMPLICIT")).await;
    }
    let judge = Judge::load(session).await;
    for path in PATHS {
        let role = if random.bool() { SUPERUSER } else { "plain" };
        assert_eq!(session.run(&format!("SET ROLE {role}; SET search_path = {path}")).await.error, None);
        let setting = session.value("SHOW search_path").await;
        let known = SearchPath::new(&setting, role, &judge.catalogue).expect("a search path");
        for _ in 0..CALLS / PATHS.len() {
            let call = call(&mut random, &names);
            let Some([needs_primary, does_not]) = ask(session, &call).await else { continue };
            tally.called += 1;
            let oid = |name: &&str| PARAMETERS.iter().find(|(known, _)| known == name).map_or(0, |&(_, oid)| oid);
            let parameters: Vec<u32> = call.types.iter().map(oid).collect();
            let text = format!("SELECT {}", call.text);
            let judged = |asker| judge.classify_for(&text, asker).statements[0].intent == Intent::Read;
            let as_session = judged(Asker { path: Some(&known), parameters: &parameters });
            let anybody = judged(Asker::default()) || judged(Asker { path: None, parameters: &parameters });
            if needs_primary && (as_session || anybody) {
                writeln!(tally.harmful, "seed {seed}, {role}, search_path {path}: {text} {:?}", call.types).unwrap();
            }
            // What is neither is one of PostgreSQL's own, which are safe.
            if call.is_told && (does_not || !needs_primary) {
                tally.told_safe += 1;
                tally.known_safe += u32::from(as_session);
                if !as_session {
                    writeln!(tally.missed, "seed {seed}, {role}, search_path {path}: {text} is safe").unwrap();
                }
            }
        }
    }
    assert_eq!(session.run(AFTER).await.error, None);
    session.run(&format!("DROP CAST IF EXISTS ({cast})")).await;
}

#[tokio::test]
async fn calls_mean_what_the_server_takes_them_for() {
    let cluster = own_cluster().await;
    let mut session = Session::open(cluster.node("pg1").unwrap(), SUPERUSER, "postgres").await;
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    assert_eq!(session.run(ONCE).await.error, None);
    let mut tally = Tally::default();
    let first = number(FIRST).unwrap_or(6);
    for seed in first..first + number(SEEDS).unwrap_or(2) {
        round(&mut session, seed, &mut tally).await;
    }
    let Tally { harmful, missed, called, told_safe, known_safe } = tally;
    println!("{missed}{called} calls; {known_safe} of {told_safe} safe ones are known to be safe");
    assert!(harmful.is_empty(), "{harmful}");
    assert!(called > 300 && f64::from(known_safe) > 0.7 * f64::from(told_safe), "{known_safe} of {told_safe}");
}
