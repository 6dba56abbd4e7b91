//! Relations, types and operators that the catalogue does not have.

use super::*;
use crate::decide::sql::types::{Depends, Reason};

fn with(names: &[(&str, &str)]) -> Catalogue {
    let mut builder = Catalogue::builtin().rebuild();
    for (schema, name) in names {
        builder.add(CatalogueQuery::Names, &[Some(schema), Some(name), Some("relation")]).unwrap();
    }
    for (schema, name, kind) in [
        ("pg_catalog", "text", "type"),
        ("pg_catalog", "char", "type"),
        ("app", "color", "type"),
        ("pg_catalog", "=", "operator"),
        ("pg_catalog", "<>", "operator"),
        ("pg_catalog", "*", "operator"),
        ("app", "<~", "operator"),
    ] {
        builder.add(CatalogueQuery::Names, &[Some(schema), Some(name), Some(kind)]).unwrap();
    }
    builder.finish(&FunctionLists::default())
}

#[test]
fn what_is_not_known_is_no_read() {
    let catalogue =
        with(&[("pg_catalog", "pg_class"), ("pg_catalog", "pg_type"), ("public", "t"), ("public", "U"), ("app", "t")]);
    for (text, stranger) in [
        ("SELECT * FROM t, \"U\", pg_class c JOIN pg_catalog.pg_type p ON true", None),
        ("SELECT * FROM app.t", None),
        ("SELECT a FROM t WHERE a IN (SELECT b FROM \"U\" WHERE x = ANY (SELECT y FROM t))", None),
        ("WITH v AS (SELECT 1), w(a) AS (SELECT 2) SELECT * FROM v, w", None),
        ("WITH RECURSIVE v AS (SELECT 1 UNION ALL SELECT * FROM v) TABLE v", None),
        ("SELECT extract(year FROM a), trim(b FROM c) FROM t", None),
        ("SELECT a IS DISTINCT FROM b FROM t", None),
        ("SELECT f.a FROM unnest(ARRAY[1, 2]) f(a), generate_series(1, 2)", None),
        ("SELECT * FROM json_to_record('{}') AS x(a int, b text), LATERAL (VALUES (1)) y", None),
        ("COPY t TO STDOUT", None),
        ("EXPLAIN SELECT * FROM t", None),
        ("SELECT * FROM v", Some("v")),
        ("SELECT * FROM u", Some("u")),
        ("TABLE v", Some("v")),
        ("SELECT * FROM public.pg_class", Some("public.pg_class")),
        ("SELECT * FROM t JOIN v USING (a)", Some("v")),
        ("SELECT (SELECT max(a) FROM app.v) FROM t", Some("app.v")),
        ("SELECT * FROM t, (t x CROSS JOIN ONLY (v))", Some("v")),
        ("WITH v AS (SELECT * FROM v) SELECT * FROM v", Some("v")),
        ("SELECT 1 UNION ALL (TABLE v)", Some("v")),
        ("COPY v TO STDOUT", Some("v")),
        ("COPY (SELECT * FROM v) TO STDOUT", Some("v")),
        ("EXPLAIN SELECT * FROM v", Some("v")),
    ] {
        let found = verdict(&catalogue, text);
        let (intent, reason) = match stranger {
            None => (Intent::Read, Reason::PlainRead),
            Some(_) => (Intent::Write, Reason::UnknownRelation),
        };
        let reason = if text.starts_with("EXPLAIN SELECT * FROM t") { Reason::Explain } else { reason };
        assert_eq!((found.intent, found.reason, found.object.as_deref()), (intent, reason, stranger), "{text}");
        assert_eq!(found.depends.contains(Depends::STRANGERS), stranger.is_some(), "{text}");
        // Where no names have been told, none is missed.
        assert_eq!(verdict(&Catalogue::builtin(), text).intent, Intent::Read, "{text}");
    }
}

#[test]
fn types_and_operators_that_are_not_known_are_no_read() {
    let catalogue = with(&[("public", "t")]);
    for (text, newcomer) in [
        ("SELECT count(*), a::text, b::\"char\", c::app.color[], d :: color FROM t WHERE a <~ b AND b != c", None),
        ("SELECT t.*, (a).*, public.t.* FROM t", None),
        ("SELECT a::int, CAST(b AS character varying(3)), c::double precision FROM t", None),
        ("SELECT CAST((SELECT a AS thing FROM t) AS text) AS thing, (a) AS thing FROM t", None),
        ("SELECT a OPERATOR(app.<~) b FROM t", None),
        ("SELECT '::thing', \"::thing\" FROM t -- ::thing", None),
        ("SELECT a::thing FROM t", Some("type thing")),
        ("SELECT '{}'::app.thing[] FROM t", Some("type app.thing")),
        ("SELECT a::public.color FROM t", Some("type public.color")),
        ("SELECT CAST((a) AS \"Text\") FROM t", Some("type Text")),
        ("SELECT CAST(CAST(a AS text) AS thing(3)) FROM t", Some("type thing")),
        (
            "SELECT text 'a', \"color\" 'red', app.color 'red', int '1', timestamp with time zone '2026-01-01' FROM t",
            None,
        ),
        ("SELECT interval '1' day, double precision '1', character varying 'a', pg_catalog.text 'a' FROM t", None),
        ("SELECT a LIKE 'b' ESCAPE 'c', a AT TIME ZONE 'UTC', U&\"\\0061\" UESCAPE '!' FROM t ORDER BY 'a'", None),
        ("SELECT CASE a WHEN 'b' THEN 'c' ELSE 'd' END, substring(a SIMILAR 'b' ESCAPE '#') FROM t LIMIT '1'", None),
        ("SELECT thing '5'", Some("type thing")),
        ("SELECT a FROM t WHERE a = \"Text\" E'5'", Some("type Text")),
        ("SELECT public.color $$red$$", Some("type public.color")),
        ("SELECT a <<@ 3 FROM t", Some("operator <<@")),
        ("SELECT a OPERATOR(public.<~) b FROM t", Some("operator public.<~")),
    ] {
        let found = verdict(&catalogue, text);
        let (intent, reason) = match newcomer {
            None => (Intent::Read, Reason::PlainRead),
            Some(_) => (Intent::Write, Reason::UnknownFunction),
        };
        assert_eq!((found.intent, found.reason, found.object.as_deref()), (intent, reason, newcomer), "{text}");
        assert_eq!(found.depends.contains(Depends::STRANGERS), newcomer.is_some(), "{text}");
    }
    let found = verdict(&catalogue, "SELECT a::thing FROM t");
    assert_eq!(found.to_string(), "write: type thing is not known");
}

#[test]
fn what_is_written_to_may_be_anything() {
    let catalogue = with(&[("public", "t")]);
    for (text, is_strange) in [
        ("INSERT INTO t SELECT 1 FROM t", false),
        ("INSERT INTO v VALUES (1)", true),
        ("UPDATE app.t SET a = 1", true),
        ("TRUNCATE t, v", true),
        ("COPY v FROM STDIN", true),
        ("SELECT a FROM t FOR UPDATE SKIP LOCKED", false),
        ("SELECT a FROM t FOR NO KEY UPDATE OF t NOWAIT", false),
        ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 2", false),
    ] {
        assert_eq!(verdict(&catalogue, text).effects.contains(Effects::STRANGE_RELATION), is_strange, "{text}");
    }
}

#[test]
fn a_name_takes_few_bytes() {
    let names: Vec<String> = (0..10_000).map(|n| format!("a_table_with_a_name_of_usual_length_{n}")).collect();
    let names: Vec<(&str, &str)> = names.iter().map(|name| ("public", &**name)).collect();
    let catalogue = with(&names);
    assert!(names.iter().all(|(_, name)| !catalogue.is_strange(None, name, None)));
    assert!(catalogue.is_strange(None, "another", None));
    assert!(catalogue.size().bytes < 200_000, "{:?}", catalogue.size());
}
