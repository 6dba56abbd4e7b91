//! Types by the names that texts give them. The OIDs of the types that PostgreSQL brings are the same everywhere
//! (`src/include/catalog/pg_type.dat`).

use super::catalogue::Argument;
use super::classify::Asker;
use super::keywords::Lower;
use super::tokens::Tokens;

pub(super) const BOOL: u32 = 16;
pub(super) const BIT: u32 = 1560;
const INT8: u32 = 20;
const INT4: u32 = 23;
const NUMERIC: u32 = 1700;

/// Names that are looked up like those of other types.
const NAMES: [(&str, u32); 30] = [
    ("bool", BOOL),
    ("bpchar", 1042),
    ("bytea", 17),
    ("cidr", 650),
    ("date", 1082),
    ("float4", 700),
    ("float8", 701),
    ("inet", 869),
    ("int2", 21),
    ("int4", INT4),
    ("int8", INT8),
    ("interval", 1186),
    ("json", 114),
    ("jsonb", 3802),
    ("macaddr", 829),
    ("money", 790),
    ("name", 19),
    ("numeric", NUMERIC),
    ("oid", 26),
    ("point", 600),
    ("regclass", 2205),
    ("text", 25),
    ("time", 1083),
    ("timestamp", 1114),
    ("timestamptz", 1184),
    ("timetz", 1266),
    ("uuid", 2950),
    ("varbit", 1562),
    ("varchar", 1043),
    ("xml", 142),
];

/// The type whose name begins at `start`, and the index after it. `None`: another one, or it cannot be told.
pub(super) fn read(tokens: Tokens<'_>, start: usize, asker: &Asker<'_>) -> Option<(u32, usize)> {
    let (oid, mut end) = match of_grammar(tokens, start) {
        Some(found) => found,
        None => of_name(tokens, start, asker)?,
    };
    if tokens.is_punctuation(end, b'(') {
        // `float(53)` depends on the number; all others have the same type whatever it is.
        if tokens.is(end - 1, "float") {
            return None;
        }
        end = tokens.after_group(end);
    }
    let (oid, end) = with_suffix(oid, tokens, end);
    let is_array = tokens.is_punctuation(end, b'[') || tokens.is(end, "array");
    (!is_array).then_some((oid, end))
}

/// Names that are keywords: they mean `pg_catalog`'s types whatever the search path (`SystemTypeName` in gram.y).
fn of_grammar(tokens: Tokens<'_>, start: usize) -> Option<(u32, usize)> {
    let oid = match Lower::new(tokens.word(start)).as_str() {
        "int" | "integer" => INT4,
        "smallint" => 21,
        "bigint" => INT8,
        "real" => 700,
        "float" => 701,
        "decimal" | "dec" | "numeric" => NUMERIC,
        "boolean" => BOOL,
        "varchar" => 1043,
        "timestamp" => 1114,
        "time" => 1083,
        "double" if tokens.is(start + 1, "precision") => return Some((701, start + 2)),
        "character" | "char" | "nchar" if tokens.is(start + 1, "varying") => return Some((1043, start + 2)),
        "character" | "char" | "nchar" => 1042,
        "bit" if tokens.is(start + 1, "varying") => return Some((1562, start + 2)),
        "bit" => BIT,
        _ => return None,
    };
    Some((oid, start + 1))
}

fn of_name(tokens: Tokens<'_>, start: usize, asker: &Asker<'_>) -> Option<(u32, usize)> {
    let is_qualified = tokens.is_punctuation(start + 1, b'.');
    let at = if is_qualified { start + 2 } else { start };
    let is_builtin = match is_qualified {
        true => tokens.name(start)? == "pg_catalog",
        // Nothing that somebody has made comes before it.
        false => asker.path.is_some_and(super::SearchPath::begins_with_builtin),
    };
    let name = tokens.name(at).filter(|_| is_builtin && tokens.is_identifier(at))?;
    let found = NAMES.binary_search_by_key(&&*name, |(known, _)| known).ok()?;
    // Quoted, `"char"` and the like are types of their own; those here are not.
    Some((NAMES[found].1, at + 1))
}

/// `timestamp [..] with time zone`
fn with_suffix(oid: u32, tokens: Tokens<'_>, end: usize) -> (u32, usize) {
    let zone = tokens.is(end + 1, "time") && tokens.is(end + 2, "zone");
    match (oid, zone && tokens.is(end, "with"), zone && tokens.is(end, "without")) {
        (1114, true, _) => (1184, end + 3),
        (1083, true, _) => (1266, end + 3),
        (1114 | 1083, _, true) => (oid, end + 3),
        _ => (oid, end),
    }
}

/// The type of a constant without a sign (`make_const` in `src/backend/parser/parse_node.c`).
pub(super) fn of_number(raw: &str) -> Option<Argument> {
    if raw.bytes().all(|c| c.is_ascii_digit()) {
        let oid = match raw.parse::<i128>() {
            Ok(value) if value <= i128::from(i32::MAX) => INT4,
            Ok(value) if value <= i128::from(i64::MAX) => INT8,
            _ => NUMERIC,
        };
        return Some(Argument::Typed(oid));
    }
    // Other bases and underscores: before PostgreSQL 16 these were a number and a name behind it.
    let plain = raw.bytes().all(|c| c.is_ascii_digit() || matches!(c, b'.' | b'e' | b'E' | b'+' | b'-'));
    plain.then_some(Argument::Typed(NUMERIC))
}

/// Whether it is one of the types above, of which the catalogue knows what they turn into.
pub(super) fn is_builtin(oid: u32) -> bool {
    NAMES.iter().any(|&(_, known)| known == oid) || oid == BIT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_in_order() {
        assert!(NAMES.is_sorted());
    }

    #[test]
    fn numbers_have_the_type_that_holds_them() {
        for (raw, oid) in [
            ("1", INT4),
            ("2147483647", INT4),
            ("2147483648", INT8),
            ("9223372036854775808", NUMERIC),
            ("1.0", NUMERIC),
            ("1e3", NUMERIC),
        ] {
            assert_eq!(of_number(raw), Some(Argument::Typed(oid)), "{raw}");
        }
        assert_eq!((of_number("0x1F"), of_number("1_0")), (None, None));
    }
}
