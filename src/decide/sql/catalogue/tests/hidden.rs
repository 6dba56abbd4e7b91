//! What stands behind a name, or behind nothing at all, and changes what the catalogue says.

use super::*;

/// A function with its defaults, or none; and whether it can be called as a row's field.
fn add(builder: &mut CatalogueBuilder, name: &str, [volatile, language, body, field, defaults]: [&str; 5]) {
    let given = |text| Some(text).filter(|text: &&str| !text.is_empty());
    let (volatile, field) = (Some(volatile), Some(field));
    let row = [Some("app"), Some(name), volatile, Some(language), Some("0 9"), None, field, given(body), None];
    let row: Vec<Option<&str>> = row.into_iter().chain([given(defaults)]).collect();
    builder.add(CatalogueQuery::Functions, &row).unwrap();
}

fn with(functions: &[(&str, [&str; 5])]) -> Catalogue {
    let mut builder = Catalogue::builtin().rebuild();
    functions.iter().for_each(|&(name, function)| add(&mut builder, name, function));
    builder.finish(&FunctionLists::default())
}

#[test]
fn what_arguments_are_by_default_is_run() {
    let catalogue = with(&[
        ("tells", ["false", "sql", "SELECT $1", "false", "SELECT 1, pg_is_in_recovery()"]),
        ("locks", ["false", "c", "", "false", "SELECT (pg_advisory_lock(77))::text"]),
        ("at", ["false", "sql", "SELECT $1", "false", "SELECT now(), NULL::text"]),
        ("around", ["false", "sql", "SELECT tells()", "false", ""]),
    ]);
    for (text, intent, effects) in [
        ("SELECT app.tells()", Intent::Write, Effects::empty()),
        ("SELECT * FROM app.tells(a => 1)", Intent::Write, Effects::empty()),
        ("SELECT app.around()", Intent::Write, Effects::empty()),
        ("SELECT app.locks()", Intent::Write, Effects::PINS),
        ("SELECT app.at()", Intent::Read, Effects::empty()),
    ] {
        let found = verdict(&catalogue, text);
        assert_eq!((found.intent, found.effects), (intent, effects), "{text}");
    }
}

/// In a server's order what is older comes first, whatever it has come to mean since.
#[test]
fn what_came_later_is_seen_by_what_is_older() {
    let stable = |body| ["false", "plpgsql", body, "false", ""];
    let mut builder = Catalogue::builtin().rebuild();
    for (name, body) in [
        ("runs", "BEGIN EXECUTE 'SELECT app.late()'; END"),
        ("casts", "BEGIN RETURN e::integer FROM t; END"),
        ("declares", "DECLARE x int; BEGIN SELECT e INTO x FROM t; RETURN x; END"),
        ("likes", "BEGIN RETURN e LIKE 5 FROM t; END"),
        ("harmless", "BEGIN EXECUTE 'SELECT late FROM app.t'; RETURN e::bigint FROM t; END"),
        ("late", "BEGIN PERFORM pg_advisory_xact_lock(1); END"),
    ] {
        add(&mut builder, name, stable(body));
    }
    add(&mut builder, "runs_block", ["true", "sql", "DO $$ BEGIN EXECUTE 'SELECT app.leaves()'; END $$", "false", ""]);
    add(&mut builder, "makes", ["true", "sql", "CREATE INDEX ON t (a)", "false", ""]);
    add(&mut builder, "leaves", ["true", "sql", "SELECT setseed(0)", "false", ""]);
    let hazard = Some("SELECT app.late()");
    builder.add(CatalogueQuery::Types, &[Some("pg_catalog"), Some("int4"), Some("type"), hazard]).unwrap();
    builder.add(CatalogueQuery::Operators, &[Some("app"), Some("~~"), hazard]).unwrap();
    builder.add(CatalogueQuery::Writes, &[None, None, Some("SELECT pg_advisory_lock(1)")]).unwrap();
    let catalogue = builder.finish(&FunctionLists::default());
    for name in ["runs", "casts", "declares", "likes"] {
        assert_eq!(verdict(&catalogue, &format!("SELECT app.{name}()")).intent, Intent::Write, "{name}");
    }
    assert_eq!(verdict(&catalogue, "SELECT app.harmless()").intent, Intent::Read);
    assert!(verdict(&catalogue, "SELECT app.makes()").effects.contains(Effects::PINS));
}

#[test]
fn the_object_has_its_schema() {
    let mut builder = Catalogue::builtin().rebuild();
    add(&mut builder, "price", ["true", "sql", "DELETE FROM t", "true", ""]);
    add(&mut builder, "work", ["true", "plpgsql", "BEGIN DELETE FROM t; END", "false", ""]);
    let hazard = Some("SELECT nextval('s')");
    builder.add(CatalogueQuery::Operators, &[Some("app"), Some("###"), hazard]).unwrap();
    builder.add(CatalogueQuery::Types, &[Some("app"), Some("checked"), Some("type"), hazard]).unwrap();
    builder.add(CatalogueQuery::Types, &[Some("app"), Some("rows"), Some("row"), hazard]).unwrap();
    let catalogue = builder.finish(&FunctionLists::default());
    for (text, object) in [
        ("SELECT t.price FROM t", "app.price"),
        ("SELECT 1 ### 2", "operator app.###"),
        ("SELECT 1::checked", "type app.checked"),
        ("SELECT NULL::rows", "type app.rows"),
        ("CALL work()", "app.work"),
        ("CALL other.work()", "other.work"),
    ] {
        assert_eq!(verdict(&catalogue, text).object.as_deref(), Some(object), "{text}");
    }
}

#[test]
fn rows_that_are_made_of_text_are_checked() {
    let mut builder = Catalogue::builtin().rebuild();
    let row = [Some("public"), Some("dt"), Some("row"), Some("SELECT pg_is_in_recovery()")];
    builder.add(CatalogueQuery::Types, &row).unwrap();
    let catalogue = builder.finish(&FunctionLists::default());
    for (text, intent) in [
        ("SELECT json_populate_record(dt, '{}') FROM dt", Intent::Write),
        ("SELECT JSONB_POPULATE_RECORD_VALID(x, '{}') FROM public.dt x", Intent::Write),
        ("SELECT * FROM \"json_populate_recordset\"((SELECT dt FROM dt), '[]')", Intent::Write),
        ("SELECT dt #= 'd=>5' FROM dt", Intent::Write),
        ("SELECT dt FROM dt", Intent::Read),
        ("SELECT json_populate_record(t, '{}') FROM t", Intent::Read),
    ] {
        assert_eq!(verdict(&catalogue, text).intent, intent, "{text}");
    }
}

#[test]
fn a_variable_takes_the_type_of_a_table_or_of_its_column() {
    for (variable, intent) in [
        ("v dt%ROWTYPE", Intent::Write),
        ("v dt.d%TYPE", Intent::Write),
        ("v public.dt.d % TYPE", Intent::Write),
        ("v other.d%TYPE := 5 % dt.d", Intent::Read),
        ("v dt.other.d%TYPE", Intent::Read),
    ] {
        let mut builder = Catalogue::builtin().rebuild();
        let row = [Some("public"), Some("dt"), Some("row"), Some("SELECT pg_is_in_recovery()")];
        builder.add(CatalogueQuery::Types, &row).unwrap();
        let body = format!("DECLARE {variable}; BEGIN v := 5; RETURN v; END");
        add(&mut builder, "f", ["false", "plpgsql", &body, "false", ""]);
        let catalogue = builder.finish(&FunctionLists::default());
        assert_eq!(verdict(&catalogue, "SELECT app.f()").intent, intent, "{variable}");
    }
}

#[test]
fn what_bodies_define_changes_the_catalogue() {
    for (body, changes) in [
        ("BEGIN CREATE TABLE x (a int); END", true),
        ("BEGIN EXECUTE 'create or replace view v as select 1'; END", true),
        ("BEGIN EXECUTE format('DROP %s %I', 'TABLE', 'x'); END", true),
        ("BEGIN EXECUTE $1; END", true),
        ("BEGIN GRANT USAGE ON SCHEMA s TO PUBLIC; END", true),
        ("BEGIN CREATE TEMP TABLE x ON COMMIT DROP AS SELECT 1; END", false),
        ("BEGIN EXECUTE 'INSERT INTO ' || $1 || ' VALUES (1)'; END", false),
        ("BEGIN EXECUTE format('SELECT max(a) FROM %I', $1) INTO x; DELETE FROM t; END", false),
        ("BEGIN INSERT INTO log VALUES ('could not create order'); END", false),
    ] {
        let catalogue = with(&[("f", ["true", "plpgsql", body, "false", ""])]);
        let has = |text: &str| verdict(&catalogue, text).effects.contains(Effects::CATALOGUE);
        for text in ["SELECT app.f('x')", "CALL app.f('x')", "DO 'BEGIN PERFORM app.f(1); END'"] {
            assert_eq!(has(text), changes, "{body}: {text}");
        }
        assert_eq!(has(&format!("DO $x$ {body} $x$")), changes, "{body}");
    }
    let catalogue = with(&[("f", ["true", "plpython3u", "plpy.execute('CREATE TABLE x (a int)')", "false", ""])]);
    assert!(verdict(&catalogue, "SELECT app.f()").effects.contains(Effects::CATALOGUE));
    let block = "DO LANGUAGE plpython3u $$ plpy.execute(\"DROP TABLE x\") $$";
    assert!(verdict(&catalogue, block).effects.contains(Effects::CATALOGUE));
    assert!(verdict(&catalogue, "CALL f(pg_advisory_lock(1))").effects.contains(Effects::PINS));
}

#[test]
fn a_quoted_option_of_explain_is_that_option() {
    for (text, runs) in [
        ("EXPLAIN (\"analyze\") SELECT pg_advisory_lock(1)", true),
        ("EXPLAIN (costs off, U&\"an\\0061lyze\") SELECT pg_advisory_lock(1)", true),
        ("EXPLAIN (U&\"an!0061lyze\" UESCAPE '!') SELECT pg_advisory_lock(1)", true),
        ("EXPLAIN (\"ANALYZE\" off, \"analyze\" 'off') SELECT pg_advisory_lock(1)", false),
        ("EXPLAIN (format \"analyze\") SELECT pg_advisory_lock(1)", false),
    ] {
        let found = verdict(&Catalogue::builtin(), text);
        assert_eq!(found.effects.contains(Effects::PINS), runs, "{text}");
    }
}
