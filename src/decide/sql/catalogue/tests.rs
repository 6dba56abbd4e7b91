use super::super::{Facts, classify};
use super::*;
use crate::decide::sql::types::{Intent, Verdict};

/// Rows as PostgreSQL 15 answers the catalogue's queries.
fn catalogue() -> Catalogue {
    let mut builder = Catalogue::builtin().rebuild();
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
        ("public", "built_well", no, "plpgsql", None, no, "BEGIN EXECUTE 'SELECT lower(' || $1 || ')'; END"),
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
        let row = [Some(schema), Some(name), volatile, Some(language), Some("0 3"), extension, field, Some(body), None];
        add(CatalogueQuery::Functions, &[&row]);
    }
    for (schema, name, volatile, language, extension) in [
        ("public", "native", yes, "c", Some("some_extension")),
        ("public", "uuid_generate_v4", yes, "c", Some("uuid-ossp")),
        ("public", "dblink_connect", yes, "c", Some("dblink")),
        ("pg_catalog", "added_in_99", no, "internal", None),
        ("pg_catalog", "acts_in_99", yes, "internal", None),
        ("pg_catalog", "nextval", no, "internal", None),
    ] {
        let row = [Some(schema), Some(name), volatile, Some(language), Some("0 3"), extension, no, None, None];
        add(CatalogueQuery::Functions, &[&row]);
    }
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
    add(
        CatalogueQuery::Operators,
        &[
            &[Some("public"), Some("###"), Some("SELECT public.vol()")],
            &[Some("public"), Some("@+@"), Some("SELECT public.stab()")],
        ],
    );
    add(
        CatalogueQuery::Types,
        &[
            &[Some("public"), Some("casty"), Some("SELECT public.vol()")],
            &[Some("public"), Some("positive"), Some("SELECT (VALUE > 0)")],
            &[Some("public"), Some("volatile_domain"), Some("SELECT (VALUE > vol())")],
        ],
    );
    builder.finish(&FunctionLists::default())
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
        ("SELECT vol()", Intent::Write, settings),
        ("SELECT PUBLIC.VOL()", Intent::Write, settings),
        ("SELECT app.vol()", Intent::Write, settings),
        ("SELECT stab()", Intent::Read, Effects::empty()),
        ("SELECT sneaky()", Intent::Write, settings),
        ("SELECT locking()", Intent::Write, settings),
        ("SELECT ahead()", Intent::Write, settings),
        ("SELECT where_am_i()", Intent::Write, settings),
        ("SELECT procedural()", Intent::Write, settings),
        ("SELECT leaving()", Intent::Write, settings),
        ("SELECT built(1)", Intent::Write, settings),
        ("SELECT built_well(1)", Intent::Read, Effects::empty()),
        ("SELECT told()", Intent::Read, Effects::empty()),
        ("SELECT tenant()", Intent::Read, Effects::empty()),
        ("SELECT twice()", Intent::Write, settings),
        ("SELECT public.twice()", Intent::Read, Effects::empty()),
        ("SELECT lower('A')", Intent::Write, settings),
        ("SELECT pg_catalog.lower('A')", Intent::Read, Effects::empty()),
        ("SELECT make_temp()", Intent::Write, settings | Effects::PINS),
        ("SELECT uses_temp()", Intent::Write, settings | Effects::PINS),
        ("SELECT 1 @+@ 2", Intent::Read, Effects::empty()),
        ("SELECT native()", Intent::Write, Effects::empty()),
        ("SELECT uuid_generate_v4()", Intent::Read, Effects::empty()),
        ("SELECT dblink_connect('x')", Intent::Write, Effects::PINS),
        ("SELECT (t).price FROM t", Intent::Write, settings),
        ("SELECT t.price FROM t", Intent::Write, settings),
        ("SELECT price FROM t", Intent::Read, Effects::empty()),
        ("SELECT first(a) FROM t", Intent::Write, settings),
        ("SELECT a FROM t FETCH FIRST (1) ROWS ONLY", Intent::Write, settings),
        ("SELECT added_in_99()", Intent::Read, Effects::empty()),
        ("SELECT acts_in_99()", Intent::Write, Effects::empty()),
        ("SELECT nextval('s')", Intent::Write, Effects::WRITES),
        ("SELECT * FROM v1", Intent::Write, settings),
        ("SELECT * FROM public.v2", Intent::Write, settings),
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
        ("SELECT * FROM guarded", Intent::Write, settings),
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
        ("COPY app.u TO STDOUT", Intent::Write, Effects::empty()),
        ("INSERT INTO t SELECT * FROM v2", Intent::Write, Effects::WRITES | settings),
    ] {
        let found = verdict(&catalogue, text);
        assert_eq!((found.intent, found.effects), (intent, effects), "{text}");
    }
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
