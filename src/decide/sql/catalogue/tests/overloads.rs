//! Which of several functions of one name a call means, step by step. That the server thinks the same is what the
//! end-to-end test of this name is for.

use super::*;
use crate::decide::sql::{Asker, SearchPath};

const INT8: u32 = 20;
const INT4: u32 = 23;
const TEXT: u32 = 25;
const FLOAT8: u32 = 701;
const VARCHAR: u32 = 1043;

/// Schemas `a` and `b` are everybody's, `closed` is not. The functions are `schema.name`, `least most elements types`;
/// those in `b` and `closed` need the primary.
fn with(functions: &[(&str, &str, &str)], restless: &[u32]) -> Catalogue {
    let mut builder = Catalogue::builtin().rebuild();
    let mut add = |query, row: &[&str]| {
        let row: Vec<Option<&str>> = row.iter().map(|&column| Some(column).filter(|c| !c.is_empty())).collect();
        builder.add(query, &row).unwrap();
    };
    for &(schema, name, arguments) in functions {
        let body = if schema == "a" { "SELECT 1" } else { "DELETE FROM t" };
        add(CatalogueQuery::Functions, &[schema, name, "true", "sql", arguments, "", "false", body, "", ""]);
    }
    for (name, public) in [("pg_catalog", "true"), ("a", "true"), ("b", "true"), ("closed", "false")] {
        add(CatalogueQuery::Schemas, &[name, "owner", public]);
    }
    for (oid, category, preferred) in [
        (INT8, "N", "false"),
        (INT4, "N", "false"),
        (FLOAT8, "N", "true"),
        (TEXT, "S", "true"),
        (VARCHAR, "S", "false"),
    ] {
        add(CatalogueQuery::Scalars, &[&oid.to_string(), category, preferred]);
    }
    for (source, target) in [(INT4, INT8), (INT4, FLOAT8), (INT8, FLOAT8), (VARCHAR, TEXT)] {
        add(CatalogueQuery::Casts, &[&source.to_string(), &target.to_string(), "true"]);
    }
    for source in restless {
        add(CatalogueQuery::Casts, &[&source.to_string(), "999999", "false"]);
    }
    builder.finish(&FunctionLists::default())
}

/// What the call means in a session with this path; `None`: in any.
fn is_read(catalogue: &Catalogue, path: Option<&str>, call: &str) -> bool {
    let path = path.map(|path| SearchPath::new(path, "app", catalogue).unwrap());
    let lists = FunctionLists::default();
    let asker = Asker { path: path.as_ref(), parameters: &[] };
    let facts = Facts { asker, ..Facts::new(catalogue, &lists, 64 * 1024) };
    classify(&format!("SELECT {call}"), &facts).statements[0].intent == Intent::Read
}

#[test]
fn types_choose_among_functions_that_are_surely_seen() {
    let one = with(&[("a", "f", "1 1 0 23"), ("b", "f", "1 1 0 20")], &[]);
    // `b` alone may be looked into, where the number is converted.
    assert!(!is_read(&one, None, "f(1)"));
    assert!(!is_read(&one, Some("b"), "f(1)"));
    assert!(is_read(&one, Some("b, a"), "f(1)"));
    assert!(!is_read(&one, Some("b, a"), "f(1::bigint)"));
    let closed = with(&[("a", "f", "1 1 0 701"), ("b", "f", "1 1 0 20"), ("closed", "f", "1 1 0 25")], &[]);
    assert!(is_read(&closed, Some("a, b"), "f(1)"), "the preferred type");
    assert!(is_read(&closed, Some("a, b, closed"), "f(1)"), "the one that may not be seen takes no number");
    let closed = with(&[("closed", "f", "1 1 0 20"), ("a", "f", "1 1 0 701")], &[]);
    assert!(!is_read(&closed, Some("a, closed"), "f(1)"), "without the preferred type it would be the other one");
    assert!(is_read(&closed, Some("a, closed"), "f('1'::float8)"));
    let same = with(&[("a", "f", "1 1 0 23"), ("b", "f", "1 1 0 23")], &[]);
    assert!(is_read(&same, Some("a, b"), "f(1)") && !is_read(&same, Some("b, a"), "f(1)"));
    assert!(is_read(&same, Some("a, b"), "f(x)"), "whatever it is");
}

#[test]
fn what_is_not_certain_is_the_worst() {
    let number = with(&[("a", "f", "1 1 0 23"), ("b", "f", "1 1 0 20")], &[]);
    for call in ["f(1 + 1)", "f(x)", "f(+1)", "f(-2147483648)", "f('1'::positive)", "f(p => 1)", "f(1, 2)"] {
        assert!(!is_read(&number, Some("a, b"), call), "{call}");
    }
    let text = with(&[("a", "f", "1 1 0 25"), ("b", "f", "1 1 0 23")], &[]);
    assert!(!is_read(&text, Some("a, b"), "f('x')") && !is_read(&text, Some("a, b"), "f(NULL)"));
    let second = with(&[("a", "f", "2 2 0 23 25"), ("b", "f", "2 2 0 701 23")], &[]);
    assert!(is_read(&second, Some("a, b"), "f(1, 'x')"), "the first argument suffices");
    // The first one's parameter may have another name.
    let named = with(&[("a", "f", "1 1 0 23"), ("b", "f", "1 1 0 23")], &[]);
    assert!(!is_read(&named, Some("a, b"), "f(p => 1)"));
    assert!(!is_read(&named, Some("a, b"), "f(\"p\" := 1)"));
    // An aggregate, a domain, something polymorphic.
    for other in ["0 1000", "1 1 0 99999", "1 1 0 2283"] {
        let catalogue = with(&[("a", "f", "1 1 0 20"), ("b", "f", other)], &[]);
        assert!(!is_read(&catalogue, Some("a, b"), "f(1)"), "{other}");
    }
    let aggregate = with(&[("a", "f", "1 1 0 23"), ("b", "f", "0 1000")], &[]);
    for call in ["f(1)", "f(1 ORDER BY 1)", "f(1) WITHIN GROUP (ORDER BY 1)"] {
        assert!(!is_read(&aggregate, Some("a, b"), call), "{call}");
    }
}

#[test]
fn casts_that_somebody_has_made_are_not_followed() {
    let functions = [("a", "f", "1 1 0 701"), ("b", "f", "1 1 0 25")];
    assert!(is_read(&with(&functions, &[]), Some("a, b"), "f(1)"));
    assert!(!is_read(&with(&functions, &[INT4]), Some("a, b"), "f(1)"));
    assert!(is_read(&with(&functions, &[VARCHAR]), Some("a, b"), "f(1)"));
    let exact = with(&[("a", "f", "1 1 0 23"), ("b", "f", "1 1 0 25")], &[INT4]);
    assert!(is_read(&exact, Some("a, b"), "f(1)"), "no cast is needed");
}
