//! SQL built around every hazard: in every clause, nested, quoted, commented, in any case. None of it may be a read.

use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::verdicts;
use crate::decide::sql::Intent;

/// What needs the primary.
static HAZARDS: LazyLock<Vec<Hazard>> = LazyLock::new(|| {
    let data = include_str!("../data/hazards.tsv").lines().filter(|line| !line.starts_with('#'));
    let names = data.filter_map(|line| line.split('\t').next()).filter(|name| !name.is_empty());
    let calls = names.map(|name| Hazard::Call(name.to_owned()));
    let queries = [
        "SELECT * FROM t FOR UPDATE",
        "SELECT a FROM t WHERE b FOR NO KEY UPDATE SKIP LOCKED",
        "TABLE t FOR SHARE",
        "SELECT a FROM t FOR KEY SHARE OF t NOWAIT",
        "SELECT * FROM pg_stat_activity",
        "SELECT a FROM pg_catalog.pg_locks",
        "TABLE pg_sequences",
        "TABLE pg_catalog.pg_settings",
        "TABLE ONLY pg_locks",
        "SELECT * FROM ONLY (pg_stat_activity)",
        "SELECT * FROM ONLY pg_locks",
        "SELECT a.* FROM t, pg_stat_activity * AS a",
        "SELECT 1 FROM u JOIN pg_settings s ON true",
        "SELECT unknown_function(1)",
        "SELECT current_setting('port')",
        "SELECT set_config('a.b', 'c', false)",
        "SELECT * FROM pg_temp.x",
    ];
    calls.chain(queries.map(|query| Hazard::Query(query.to_owned()))).collect()
});

#[derive(Debug, Clone)]
enum Hazard {
    Call(String),
    Query(String),
}

/// Where an expression may stand.
const EXPRESSIONS: [&str; 29] = [
    "SELECT {}",
    "SELECT 1, {} AS update, 2",
    "SELECT DISTINCT ON ({}) 1 FROM t",
    "SELECT * FROM t WHERE {} IS NOT NULL",
    "SELECT * FROM t WHERE a = 'FOR' AND NOT ({} = b OR c)",
    "SELECT * FROM t JOIN u ON {} = u.a",
    "SELECT a FROM t GROUP BY a, {}",
    "SELECT a FROM t GROUP BY GROUPING SETS ((a), ({}))",
    "SELECT a FROM t GROUP BY a HAVING count(*) > {}",
    "SELECT a FROM t ORDER BY {} DESC NULLS LAST",
    "SELECT a FROM t LIMIT {}",
    "SELECT a FROM t OFFSET {} ROWS FETCH FIRST (1) ROWS WITH TIES",
    "SELECT sum(a) FILTER (WHERE {}) FROM t",
    "SELECT sum(a) OVER (PARTITION BY {}) FROM t",
    "SELECT sum(a) OVER w FROM t WINDOW w AS (ORDER BY {} RANGE BETWEEN 1 PRECEDING AND CURRENT ROW)",
    "SELECT CASE a WHEN {} THEN 1 ELSE 2 END FROM t",
    "SELECT coalesce(a, ARRAY[1, {}], (ROW({}, 2)).f1) FROM t",
    "SELECT (ARRAY[1, 2])[{}]",
    "SELECT CAST({} AS text) || 'x' COLLATE \"C\"",
    "SELECT a BETWEEN {} AND 3 OR a IN (1, {}) FROM t",
    "VALUES (1), (({}))",
    "SELECT * FROM t TABLESAMPLE BERNOULLI ({}) REPEATABLE (1)",
    "SELECT xmlelement(name x, xmlattributes({} AS a)), json_object('a': {})",
    "SELECT string_agg(a, ',' ORDER BY {}) WITHIN GROUP (ORDER BY b) FROM t",
    "SELECT * FROM ROWS FROM (generate_series(1, 2), {}) AS f(a, b)",
    "SELECT * FROM t, LATERAL {} AS f",
    "SELECT a OPERATOR(pg_catalog.||) {} FROM t",
    "SELECT 1 WHERE a OPERATOR (public.=) {}",
    "SELECT (a) OPERATOR(\"pg_catalog\" . +) {} AS x (y)",
];

/// Where a query may stand.
const QUERIES: [&str; 16] = [
    "{}",
    "({})",
    "SELECT * FROM ({}) AS s",
    "SELECT * FROM t, LATERAL ({}) s (a, b)",
    "SELECT 1 WHERE EXISTS ({})",
    "SELECT a IN ({}), b = ANY ({}) FROM t",
    "SELECT ARRAY({}), ({})",
    "WITH c AS ({}) SELECT * FROM c",
    "WITH RECURSIVE c (a, b) AS NOT MATERIALIZED ({}) TABLE c",
    "WITH a AS (SELECT 1), b AS MATERIALIZED ({}) SELECT * FROM a",
    "SELECT 1 UNION ALL ({})",
    "SELECT 1 UNION ALL {}",
    "VALUES (1) INTERSECT (SELECT 2 EXCEPT {})",
    "SELECT * FROM (SELECT 1 UNION {}) AS s",
    "({}) EXCEPT SELECT 2 ORDER BY 1",
    "SELECT (SELECT (SELECT a FROM ({}) s WHERE 'for' = 'update'))",
];

/// What may be around the whole.
const OUTERMOST: [&str; 4] =
    ["{}", "COPY ({}) TO STDOUT (FORMAT csv)", "EXPLAIN (COSTS OFF, ANALYZE) {}", "SELECT 1; {}; SELECT 2"];

/// How a function's name may be written.
fn spelt(name: &str, how: usize) -> String {
    let escaped: String = name.chars().map(|c| format!("\\{:04x}", u32::from(c))).collect();
    match how % 8 {
        0 => name.to_owned(),
        1 if name.chars().all(|c| !c.is_uppercase()) => name.to_uppercase(),
        2 => format!("\"{name}\""),
        3 => format!("pg_catalog.{name}"),
        4 => format!("PG_CATALOG . \"{name}\""),
        5 => format!("U&\"{escaped}\""),
        6 => format!("pg_catalog/*(*/./**/{name}--x\n"),
        7 => format!("u&\"pg\\005fcatalog\".{name}"),
        _ => format!("\"{name}\"\t"),
    }
}

/// Puts what has no meaning where there is a blank, outside of what is quoted.
fn respelt(text: &str, blank: &str) -> String {
    let mut quote = None;
    let parts = text.chars().map(|c| {
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if open == c => quote = None,
            _ => {}
        }
        if c == ' ' && quote.is_none() { blank.to_owned() } else { c.to_string() }
    });
    parts.collect()
}

fn is_read(text: &str) -> bool {
    let verdicts = verdicts(text);
    verdicts.iter().all(|verdict| verdict.intent == Intent::Read)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn no_hazard_is_a_read(
        which in any::<Index>(),
        how in 0_usize..8,
        expression in select(&EXPRESSIONS[..]),
        around in prop::collection::vec(select(&QUERIES[..]), 0..3),
        outermost in select(&OUTERMOST[..]),
        blank in select(&[" ", "\n", " /* ' */ ", " -- SELECT '\n", "\t/*/* \" */*/ "][..]),
    ) {
        let query = match which.get(&HAZARDS) {
            Hazard::Call(name) if matches!(name.as_str(), "set_config" | "current_setting") => {
                format!("SELECT {}('transaction_read_only', 'off', false)", spelt(name, how))
            }
            Hazard::Call(name) => expression.replace("{}", &format!("{}(1, 'a')", spelt(name, how))),
            Hazard::Query(query) => query.clone(),
        };
        let text = around.iter().chain([&outermost]).fold(query, |inner, outer| outer.replace("{}", &inner));
        prop_assert!(!is_read(&text), "{}", text);
        let text = respelt(&text, blank);
        prop_assert!(!is_read(&text), "{}", text);
    }

    /// The same around what is harmless: so the test above can tell.
    #[test]
    fn the_same_around_a_read_is_one(
        expression in select(&EXPRESSIONS[..]),
        around in prop::collection::vec(select(&QUERIES[..]), 0..3),
        outermost in select(&OUTERMOST[..]),
        blank in select(&[" ", "\n", " /* nextval('s') */ ", " -- FOR UPDATE\n"][..]),
    ) {
        let query = expression.replace("{}", "lower('nextval(1)')");
        let text = around.iter().chain([&outermost]).fold(query, |inner, outer| outer.replace("{}", &inner));
        prop_assert!(is_read(&respelt(&text, blank)), "{}", text);
    }
}
