mod hidden;
mod overloads;
mod strangers;
mod writes;

use super::super::{Facts, classify};
use super::*;
use crate::decide::sql::types::{Intent, Verdict};

/// Rows as PostgreSQL 15 answers the catalogue's queries.
fn catalogue() -> Catalogue {
    let mut builder = Catalogue::builtin().rebuild();
    add_functions(&mut builder);
    add_relations(&mut builder);
    add_operators_and_types(&mut builder);
    builder.finish(&FunctionLists::default())
}

fn add_operators_and_types(builder: &mut CatalogueBuilder) {
    let mut add = |query, rows: &[&[Option<&str>]]| rows.iter().for_each(|row| builder.add(query, row).unwrap());
    add(
        CatalogueQuery::Operators,
        &[
            &[Some("public"), Some("###"), Some("SELECT public.vol()")],
            &[Some("public"), Some("@+@"), Some("SELECT public.stab()")],
            &[Some("public"), Some("@#@"), Some("SELECT pg_catalog.pg_try_advisory_lock()")],
            &[Some("public"), Some("@=@"), Some("SELECT pg_catalog.int4eq()")],
        ],
    );
    add(
        CatalogueQuery::Types,
        &[
            &[Some("public"), Some("volatile_rows"), Some("row"), Some("SELECT NULL::public.volatile_domain")],
            &[Some("public"), Some("_volatile_rows"), Some("type"), Some("SELECT NULL::public.volatile_rows")],
            &[Some("public"), Some("farther"), Some("type"), Some("SELECT NULL::public.far")],
            &[Some("public"), Some("far"), Some("type"), Some("SELECT NULL::public.volatile_domain")],
            &[Some("public"), Some("casty"), Some("type"), Some("SELECT public.vol()")],
            &[Some("public"), Some("positive"), Some("type"), Some("SELECT (VALUE > 0)")],
            &[Some("public"), Some("_positive"), Some("type"), Some("SELECT NULL::public.positive")],
            &[Some("public"), Some("volatile_domain"), Some("type"), Some("SELECT (VALUE > vol())")],
        ],
    );
}

fn add_functions(builder: &mut CatalogueBuilder) {
    let mut add = |query, rows: &[&[Option<&str>]]| rows.iter().for_each(|row| builder.add(query, row).unwrap());
    let (yes, no) = (Some("true"), Some("false"));
    for (schema, name, volatile, language, extension, field, body) in [
        ("public", "vol", yes, "plpgsql", None, no, "BEGIN DELETE FROM t; RETURN 1; END"),
        ("public", "stab", no, "sql", None, no, "SELECT 1"),
        ("public", "sneaky", no, "sql", None, no, "SELECT nextval('s')"),
        ("public", "locking", no, "sql", None, no, "SELECT pg_advisory_xact_lock(1); SELECT 1"),
        ("public", "ahead", no, "sql", None, no, "SELECT unknown(last_value) FROM public.s"),
        ("public", "where_am_i", no, "plpgsql", None, no, "BEGIN RETURN pg_is_in_recovery(); END"),
        ("public", "procedural", no, "plpgsql", None, no, "DECLARE x int; BEGIN SELECT last_value INTO x FROM s; END"),
        ("public", "leaving", no, "sql", None, no, "SELECT set_config('work_mem', '1MB', false)"),
        ("public", "built", no, "plpgsql", None, no, "BEGIN EXECUTE 'SELECT pg_advisory_xact_lock(' || $1 || ')'; END"),
        ("public", "built_well", no, "plpgsql", None, no, "BEGIN EXECUTE 'SELECT upper(' || $1 || ')'; END"),
        ("public", "told", no, "plpgsql", None, no, "BEGIN RAISE 'no pg_is_in_recovery()'; RETURN unknown(1); END"),
        ("public", "tenant", no, "sql", None, no, "SELECT current_setting('app.tenant', true)"),
        ("public", "twice", no, "sql", None, no, "SELECT 2"),
        ("app", "twice", yes, "sql", None, no, "INSERT INTO t VALUES (2)"),
        ("app", "lower", yes, "sql", None, no, "DELETE FROM t"),
        ("public", "make_temp", yes, "plpgsql", None, no, "BEGIN CREATE TEMP TABLE x (a int); END"),
        ("public", "uses_temp", yes, "sql", None, no, "SELECT make_temp()"),
        ("public", "price", yes, "sql", None, yes, "DELETE FROM t"),
        ("public", "first", yes, "sql", None, no, "DELETE FROM t"),
    ] {
        let row =
            [Some(schema), Some(name), volatile, Some(language), Some("0 3"), extension, field, Some(body), None, None];
        add(CatalogueQuery::Functions, &[&row]);
    }
    for (schema, name, volatile, language, extension) in [
        ("public", "native", yes, "c", Some("some_extension")),
        ("public", "uuid_generate_v4", yes, "c", Some("uuid-ossp")),
        ("public", "dblink_connect", yes, "c", Some("dblink")),
        ("pg_catalog", "added_in_99", no, "internal", None),
        ("pg_catalog", "extra", no, "c", Some("some_extension")),
        ("pg_catalog", "acts_in_99", yes, "internal", None),
        ("pg_catalog", "nextval", no, "internal", None),
    ] {
        let row = [Some(schema), Some(name), volatile, Some(language), Some("0 3"), extension, no, None, None, None];
        add(CatalogueQuery::Functions, &[&row]);
    }
    // An aggregate over a function that no query can call.
    let mut function = |schema, name, signature, body| {
        let row = [Some(schema), Some(name), no, Some("internal"), Some(signature), None, no, body, None, None];
        add(CatalogueQuery::Functions, &[&row]);
    };
    function("pg_catalog", "collect_in_99", "2 2 0 2281 25", None);
    function("public", "total", "0 1000 0 25", Some("SELECT pg_catalog.collect_in_99()"));
}

fn add_relations(builder: &mut CatalogueBuilder) {
    let mut add = |query, rows: &[&[Option<&str>]]| rows.iter().for_each(|row| builder.add(query, row).unwrap());
    add(
        CatalogueQuery::Relations,
        &[
            // A view before the one it reads from: the order must not matter.
            &[Some("public"), Some("v2"), Some("view"), Some("SELECT v1.a FROM v1")],
            &[Some("public"), Some("v1"), Some("view"), Some("SELECT vol() AS a")],
            &[Some("public"), Some("good"), Some("view"), Some("SELECT upper(x.b) FROM t x(a, b)")],
            &[Some("public"), Some("act"), Some("view"), Some("SELECT pid FROM pg_stat_activity")],
            &[Some("public"), Some("odd"), Some("view"), Some("SELECT ' unfinished")],
            &[Some("public"), Some("s"), Some("sequence"), None],
            &[Some("app"), Some("u"), Some("unlogged"), None],
            &[Some("app"), Some("abroad"), Some("foreign"), None],
            &[Some("public"), Some("converted"), Some("cast"), Some("SELECT public.vol()")],
            &[Some("public"), Some("converted_well"), Some("cast"), Some("SELECT public.stab()")],
            &[Some("public"), Some("guarded"), Some("policy"), Some("SELECT (vol() > 0)")],
            &[Some("public"), Some("guarded_well"), Some("policy"), Some("SELECT (owner = CURRENT_USER)")],
            &[
                Some("public"),
                Some("tenants"),
                Some("policy"),
                Some("SELECT (t = current_setting('app.t'::text, true))"),
            ],
            &[
                Some("public"),
                Some("nodes"),
                Some("policy"),
                Some("SELECT (t = current_setting('cluster_name'::text))"),
            ],
        ],
    );
}

fn verdict(catalogue: &Catalogue, text: &str) -> Verdict {
    let lists = FunctionLists::default();
    classify(text, &Facts::new(catalogue, &lists, 64 * 1024)).statements[0].clone()
}

#[test]
fn what_a_server_tells_decides() {
    let catalogue = catalogue();
    let settings = Effects::SETTINGS;
    for (text, intent, effects) in [
        ("SELECT vol()", Intent::Write, Effects::empty()),
        ("SELECT PUBLIC.VOL()", Intent::Write, Effects::empty()),
        ("SELECT app.vol()", Intent::Write, settings),
        ("SELECT stab()", Intent::Read, Effects::empty()),
        ("SELECT sneaky()", Intent::Write, Effects::empty()),
        ("SELECT locking()", Intent::Write, Effects::empty()),
        ("SELECT ahead()", Intent::Write, settings),
        ("SELECT where_am_i()", Intent::Write, Effects::empty()),
        ("SELECT procedural()", Intent::Write, Effects::empty()),
        ("SELECT leaving()", Intent::Write, settings),
        ("SELECT built(1)", Intent::Write, settings),
        ("SELECT built_well(1)", Intent::Read, Effects::empty()),
        ("SELECT told()", Intent::Read, Effects::empty()),
        ("SELECT tenant()", Intent::Read, Effects::empty()),
        ("SELECT twice()", Intent::Write, Effects::empty()),
        ("SELECT public.twice()", Intent::Read, Effects::empty()),
        ("SELECT lower('A')", Intent::Write, Effects::empty()),
        ("SELECT pg_catalog.lower('A')", Intent::Read, Effects::empty()),
        ("SELECT make_temp()", Intent::Write, settings | Effects::PINS),
        ("SELECT uses_temp()", Intent::Write, settings | Effects::PINS),
        ("SELECT 1 @+@ 2", Intent::Read, Effects::empty()),
        ("SELECT native()", Intent::Write, Effects::empty()),
        ("SELECT uuid_generate_v4()", Intent::Read, Effects::MOMENT),
        ("SELECT dblink_connect('x')", Intent::Write, Effects::CONNECTS),
        ("SELECT (t).price FROM t", Intent::Write, settings),
        ("SELECT t.price FROM t", Intent::Write, settings),
        ("SELECT price FROM t", Intent::Read, Effects::empty()),
        ("SELECT first(a) FROM t", Intent::Write, Effects::empty()),
        ("SELECT a FROM t FETCH FIRST (1) ROWS ONLY", Intent::Write, Effects::empty()),
        ("SELECT added_in_99()", Intent::Write, Effects::empty()),
        ("SELECT extra()", Intent::Read, Effects::empty()),
        ("SELECT total(a) FROM t", Intent::Read, Effects::empty()),
        ("SELECT acts_in_99()", Intent::Write, Effects::empty()),
        ("SELECT nextval('s')", Intent::Write, Effects::WRITES),
        ("SELECT * FROM v1", Intent::Write, Effects::empty()),
        ("SELECT * FROM public.v2", Intent::Write, Effects::empty()),
        ("SELECT * FROM other.v2", Intent::Read, Effects::empty()),
        ("SELECT * FROM good", Intent::Read, Effects::empty()),
        ("SELECT * FROM act", Intent::Write, Effects::empty()),
        ("SELECT * FROM odd", Intent::Write, Effects::ANYTHING),
        ("SELECT last_value FROM s", Intent::Write, Effects::empty()),
        ("SELECT s FROM t", Intent::Read, Effects::empty()),
        ("SELECT s.a FROM t s", Intent::Read, Effects::empty()),
        ("SELECT * FROM \"u\"", Intent::Write, Effects::empty()),
        ("SELECT * FROM \"U\"", Intent::Read, Effects::empty()),
        ("SELECT * FROM t WHERE EXISTS (SELECT 1 FROM app.u)", Intent::Write, Effects::empty()),
        ("SELECT * FROM guarded", Intent::Write, Effects::empty()),
        ("SELECT * FROM guarded_well", Intent::Read, Effects::empty()),
        ("SELECT * FROM tenants", Intent::Read, Effects::empty()),
        ("SELECT * FROM nodes", Intent::Write, Effects::empty()),
        ("SELECT 1 ### 2", Intent::Write, settings),
        ("SELECT 1 OPERATOR(public.###) 2", Intent::Write, settings),
        ("SELECT 1 #### 2", Intent::Read, Effects::empty()),
        ("SELECT 1::casty", Intent::Write, settings),
        ("SELECT CAST(1 AS public.casty)", Intent::Write, settings),
        ("SELECT 1::positive", Intent::Read, Effects::empty()),
        ("SELECT volatile_domain '1'", Intent::Write, settings),
        ("SELECT @#@ 1", Intent::Write, settings | Effects::PINS),
        ("SELECT 1 @=@ 1", Intent::Read, Effects::empty()),
        ("SELECT 1::far", Intent::Write, settings),
        ("SELECT '{1}'::farther[]", Intent::Write, settings),
        ("SELECT '{1}'::_positive", Intent::Read, Effects::empty()),
        ("SELECT volatile_rows.* FROM public.volatile_rows ORDER BY volatile_rows", Intent::Read, Effects::empty()),
        ("SELECT '(1)'::volatile_rows", Intent::Write, settings),
        ("SELECT volatile_rows '(1)'", Intent::Write, settings),
        ("SELECT CAST('(1)' AS public.volatile_rows)", Intent::Write, settings),
        ("SELECT '{}'::_volatile_rows", Intent::Write, settings),
        ("SELECT c FROM converted", Intent::Write, Effects::empty()),
        ("SELECT c FROM converted_well", Intent::Read, Effects::empty()),
        ("SELECT * FROM app.abroad", Intent::Write, Effects::empty()),
        ("COPY app.u TO STDOUT", Intent::Write, Effects::empty()),
        ("INSERT INTO t SELECT * FROM v2", Intent::Write, Effects::WRITES),
    ] {
        let found = verdict(&catalogue, text);
        assert_eq!((found.intent, found.effects), (intent, effects), "{text}");
    }
}

/// Each of these calls an operator or a cast of that name, though it does not stand in the text.
#[test]
fn what_the_grammar_calls_is_seen() {
    let with = |query: CatalogueQuery, row: &[Option<&str>]| {
        let mut builder = Catalogue::builtin().rebuild();
        builder.add(query, row).unwrap();
        builder.finish(&FunctionLists::default())
    };
    let plain = Catalogue::builtin();
    for (name, text) in [
        ("~~", "SELECT a LIKE 'b' FROM t"),
        ("!~~", "SELECT 1 FROM t WHERE a NOT LIKE ALL (ARRAY['b'])"),
        ("~~*", "SELECT a ILIKE 'b' FROM t"),
        ("~", "SELECT a SIMILAR TO 'b' FROM t"),
        ("<=", "SELECT a BETWEEN 1 AND 2 FROM t"),
        (">", "SELECT a NOT BETWEEN SYMMETRIC 1 AND 2 FROM t"),
        ("=", "SELECT a IN (1, 2) FROM t"),
        ("=", "SELECT 1 IN (SELECT a FROM t)"),
        ("<>", "SELECT a NOT IN (1, 2) FROM t"),
        ("=", "SELECT CASE a WHEN 1 THEN 2 END FROM t"),
        ("=", "SELECT nullif(a, b) FROM t"),
        ("=", "SELECT * FROM t JOIN u USING (a)"),
        ("=", "SELECT * FROM t NATURAL JOIN u"),
        ("=", "SELECT a IS NOT DISTINCT FROM b FROM t"),
        ("=", "SELECT a FROM t GROUP BY a"),
        ("<", "SELECT a FROM t ORDER BY a"),
    ] {
        let operator = with(CatalogueQuery::Operators, &[Some("public"), Some(name), Some("SELECT nextval('s')")]);
        assert_eq!(verdict(&operator, text).intent, Intent::Write, "{text}");
        assert_eq!(verdict(&operator, "SELECT a.like, t.in FROM t").intent, Intent::Read);
        assert_eq!(verdict(&plain, text).intent, Intent::Read, "{text}");
    }
    for (name, text) in [
        ("int4", "SELECT c::int FROM t"),
        ("int4", "SELECT CAST(c AS INTEGER) FROM t"),
        ("int4", "SELECT c::int[] FROM t"),
        ("int8", "SELECT c::bigint FROM t"),
        ("float8", "SELECT c::double precision FROM t"),
        ("float4", "SELECT c::float(3) FROM t"),
        ("varchar", "SELECT c::character varying(3) FROM t"),
        ("bpchar", "SELECT c::char FROM t"),
        ("numeric", "SELECT c::dec(3, 1) FROM t"),
        ("numeric", "SELECT CAST(c AS numeric(10, 2)) FROM t"),
        ("numeric", "SELECT CAST(c AS dec(3)) FROM t"),
        ("numeric", "SELECT CAST(c AS \"numeric\"(3)) FROM t"),
        ("varchar", "SELECT CAST(c AS character varying(3)), CAST(c AS varchar(3)) FROM t"),
        ("timestamptz", "SELECT c::timestamp with time zone FROM t"),
        ("bool", "SELECT boolean 't'"),
    ] {
        let row = [Some("pg_catalog"), Some(name), Some("type"), Some("SELECT nextval('s')")];
        assert_eq!(verdict(&with(CatalogueQuery::Types, &row), text).intent, Intent::Write, "{text}");
        assert_eq!(verdict(&plain, text).intent, Intent::Read, "{text}");
    }
}

#[test]
fn built_in_functions_without_a_list_are_told() {
    assert_eq!(catalogue().unlisted(), ["added_in_99".into(), "acts_in_99".into()]);
    assert!(Catalogue::builtin().unlisted().is_empty());
}

#[test]
fn the_operators_list_overrules_what_a_body_shows() {
    let catalogue = catalogue();
    let lists = FunctionLists::new(&[], &["public.where_am_i"]);
    let verdict = |text| classify(text, &Facts::new(&catalogue, &lists, 1024)).statements[0].clone();
    assert_eq!(verdict("SELECT where_am_i()").intent, Intent::Read);
    assert_eq!(verdict("SELECT locking()").intent, Intent::Write);
}

#[test]
fn rows_of_another_form_are_refused() {
    let mut builder = Catalogue::builtin().rebuild();
    assert_eq!(builder.add(CatalogueQuery::Operators, &[None]), Err(BadRow(CatalogueQuery::Operators)));
    assert_eq!(builder.add(CatalogueQuery::Functions, &[Some("a")]), Err(BadRow(CatalogueQuery::Functions)));
}

#[test]
fn reasons_are_kept_for_people() {
    let catalogue = Catalogue::builtin();
    assert_eq!(catalogue.why("nextval").as_deref(), Some("writes: advances a sequence"));
    assert_eq!(catalogue.why("lower"), None);
}
