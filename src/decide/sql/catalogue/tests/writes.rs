//! What a write runs besides itself, and what that leaves behind.

use super::*;

const SETTINGS: Effects = Effects::SETTINGS;
const PINS: Effects = Effects::PINS;

/// Functions in PL/pgSQL, and the texts of what writes to relations run.
fn with(functions: &[(&str, &str)], writes: &[(&str, &str)]) -> Catalogue {
    let mut builder = Catalogue::builtin().rebuild();
    for (name, body) in functions {
        let row = [
            Some("public"),
            Some(name),
            Some("true"),
            Some("plpgsql"),
            Some("0 0"),
            None,
            None,
            Some(body),
            None,
            None,
        ];
        builder.add(CatalogueQuery::Functions, &row).unwrap();
    }
    for (name, text) in writes {
        let home = (!name.is_empty()).then_some("public");
        let name = home.map(|_| *name);
        builder.add(CatalogueQuery::Writes, &[home, name, Some(text)]).unwrap();
    }
    builder.finish(&FunctionLists::default())
}

#[test]
fn a_write_leaves_what_its_triggers_leave() {
    let catalogue = with(
        &[
            ("sets", "BEGIN PERFORM set_config('app.t', 'x', false); RETURN new; END"),
            ("puts", "BEGIN EXECUTE 'SET work_mem = 1'; RETURN new; END"),
            ("makes", "BEGIN CREATE TEMP TABLE IF NOT EXISTS x (a int); RETURN new; END"),
            ("defines", "BEGIN DROP TABLE IF EXISTS x; RETURN new; END"),
            ("locks", "BEGIN PERFORM pg_advisory_lock(1); RETURN new; END"),
            (
                "audits",
                "BEGIN new.temp := now(); INSERT INTO log VALUES (new.a); UPDATE log SET a = 1; RETURN new; END",
            ),
            ("passes_on", "BEGIN INSERT INTO by_setting (a) VALUES (new.a); RETURN new; END"),
        ],
        &[
            ("by_setting", "SELECT public.sets()"),
            ("by_dynamic", "SELECT public.puts()"),
            ("by_temp", "SELECT public.makes()"),
            ("by_ddl", "SELECT public.defines()"),
            ("by_lock", "SELECT public.locks()"),
            ("audited", "SELECT public.audits()"),
            ("farther", "SELECT public.passes_on()"),
            // Partitions, foreign keys, views, rules.
            ("parent", "UPDATE public.farther"),
            (
                "ruled",
                "CREATE RULE r AS\n    ON INSERT TO public.ruled DO ALSO  INSERT INTO by_lock (a)\n  VALUES (new.a);",
            ),
            ("by_view", "CREATE RULE r AS ON INSERT TO by_view DO ALSO UPDATE pg_settings SET setting = 1"),
            ("defaulted", "SELECT set_config('a.b'::text, 'x'::text, false)"),
            ("checked", "SELECT (pg_try_advisory_lock((n)::bigint) IS NOT NULL)"),
            ("harmless", "SELECT (lower(a) <> ''::text)"),
            ("", "SELECT public.locks()"),
        ],
    );
    for (text, left) in [
        ("INSERT INTO by_setting VALUES (1)", SETTINGS),
        ("insert into Public.By_Setting values (1)", SETTINGS),
        ("UPDATE ONLY by_setting SET a = 1", SETTINGS),
        ("MERGE INTO by_setting USING t ON true WHEN MATCHED THEN DELETE", SETTINGS),
        ("TRUNCATE audited, by_setting", SETTINGS),
        ("COPY by_setting (a) FROM STDIN", SETTINGS | Effects::COPY_IN),
        ("EXPLAIN ANALYZE DELETE FROM by_setting", SETTINGS),
        ("WITH x AS (INSERT INTO by_setting VALUES (1) RETURNING a) SELECT a FROM x", SETTINGS),
        ("INSERT INTO by_dynamic VALUES (1)", SETTINGS),
        // Before the columns of a new table, its name looks like that of a function.
        ("INSERT INTO by_temp VALUES (1)", PINS | SETTINGS),
        // The trigger of DDL locks.
        ("INSERT INTO by_ddl VALUES (1)", PINS | Effects::UNPINS),
        ("INSERT INTO by_lock VALUES (1)", PINS),
        ("INSERT INTO farther VALUES (1)", SETTINGS),
        ("DELETE FROM parent", SETTINGS),
        ("INSERT INTO ruled VALUES (1)", PINS),
        ("INSERT INTO defaulted VALUES (1)", SETTINGS),
        ("INSERT INTO checked VALUES (1)", PINS),
        ("UPDATE pg_settings SET setting = 1", SETTINGS),
        ("UPDATE ONLY pg_catalog.PG_SETTINGS AS s SET setting = 1", SETTINGS),
        ("UPDATE app.pg_settings SET setting = 1", Effects::empty()),
        ("INSERT INTO by_view VALUES (1)", SETTINGS),
        ("INSERT INTO audited VALUES (1)", Effects::empty()),
        ("INSERT INTO harmless VALUES (1)", Effects::empty()),
        ("INSERT INTO other.by_setting VALUES (1)", Effects::empty()),
        ("INSERT INTO harmless SELECT * FROM by_setting", Effects::empty()),
        ("CREATE TABLE x (a int)", PINS | Effects::CATALOGUE),
        ("COMMENT ON TABLE x IS 'y'", PINS),
        ("SELECT a INTO x FROM t", PINS | Effects::CATALOGUE),
    ] {
        assert_eq!(verdict(&catalogue, text).effects, left | Effects::WRITES, "{text}");
    }
    assert_eq!(verdict(&catalogue, "SELECT * FROM by_setting").effects, Effects::empty());
    assert_eq!(verdict(&catalogue, "EXPLAIN DELETE FROM by_setting").effects, Effects::empty());
}

#[test]
fn only_what_leaves_something_is_kept() {
    let before = with(&[], &[]).size().bytes;
    let catalogue = with(&[], &[("harmless", "SELECT (lower(a) <> ''::text)"), ("parent", "UPDATE public.harmless")]);
    assert_eq!(catalogue.size().bytes, before);
    assert!(catalogue.says_the_same(&with(&[], &[])));
}
