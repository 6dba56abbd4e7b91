//! Keywords of PostgreSQL's grammar (`src/include/parser/kwlist.h`), by what they may mean before a parenthesis.

use super::types::Effects;

/// A word in lower case, without an allocation; what is longer than any keyword is left as it is.
#[derive(Debug)]
pub(super) struct Lower<'a> {
    raw: &'a str,
    buffer: [u8; Lower::LONGEST],
}

impl<'a> Lower<'a> {
    const LONGEST: usize = 24;

    pub(super) fn new(raw: &'a str) -> Self {
        let mut buffer = [0; Lower::LONGEST];
        if let Some(place) = buffer.get_mut(..raw.len()) {
            place.copy_from_slice(raw.as_bytes());
            place.make_ascii_lowercase();
        }
        Lower { raw, buffer }
    }

    pub(super) fn as_str(&self) -> &str {
        let lower = self.buffer.get(..self.raw.len()).and_then(|bytes| std::str::from_utf8(bytes).ok());
        lower.unwrap_or(self.raw)
    }
}

/// Reserved words: neither functions nor relations, unless quoted. (Those that may be functions, such as `left`, are
/// not among them.)
pub(super) fn is_never_a_name(word: &str) -> bool {
    RESERVED.binary_search(&word).is_ok()
}

/// In order, to be searched.
const RESERVED: [&str; 77] = [
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "column",
    "constraint",
    "create",
    "current_catalog",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "initially",
    "intersect",
    "into",
    "lateral",
    "leading",
    "limit",
    "localtime",
    "localtimestamp",
    "not",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "primary",
    "references",
    "returning",
    "select",
    "session_user",
    "some",
    "symmetric",
    "table",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "when",
    "where",
    "window",
    "with",
];

/// Words that stand before a string constant without being the name of its type: also the last ones of such names
/// as `double precision`.
pub(super) fn is_before_text(word: &str) -> bool {
    is_never_a_name(word)
        || matches!(
            word,
            "between"
                | "by"
                | "content"
                | "document"
                | "escape"
                | "first"
                | "groups"
                | "ilike"
                | "key"
                | "like"
                | "nested"
                | "next"
                | "passing"
                | "path"
                | "precision"
                | "range"
                | "ref"
                | "rows"
                | "similar"
                | "uescape"
                | "value"
                | "varying"
                | "version"
                | "zone"
        )
}

/// [`Effects::MOMENT`], if that is what a built-in function has.
pub(super) fn moment_of_function(name: &str) -> Effects {
    match name {
        "clock_timestamp"
        | "gen_random_bytes"
        | "gen_random_uuid"
        | "now"
        | "random"
        | "random_normal"
        | "statement_timestamp"
        | "timeofday"
        | "transaction_timestamp"
        | "uuid_generate_v1"
        | "uuid_generate_v1mc"
        | "uuid_generate_v4"
        | "uuidv4"
        | "uuidv7" => Effects::MOMENT,
        _ => Effects::empty(),
    }
}

/// The same of a keyword.
pub(super) fn moment_of_keyword(word: &str) -> Effects {
    match word {
        "current_time" | "current_timestamp" | "localtime" | "localtimestamp" | "tablesample" => Effects::MOMENT,
        _ => Effects::empty(),
    }
}

/// Operators that a word stands for, or may stand for (`src/backend/parser/gram.y`, `parse_clause.c`): they are looked up
/// like any other, in the search path. Where rows are sorted or made distinct, the type's default operators are meant.
pub(super) fn operators_behind(word: &str) -> &'static [&'static str] {
    match word {
        "like" => &["~~", "!~~"],
        "ilike" => &["~~*", "!~~*"],
        "similar" => &["~", "!~"],
        "between" => &[">=", "<=", "<", ">"],
        "in" => &["=", "<>"],
        "case" | "nullif" | "using" | "natural" | "distinct" | "group" | "partition" | "union" | "intersect"
        | "except" => &["="],
        "order" | "greatest" | "least" => &["<", ">"],
        _ => &[],
    }
}

/// What the names of types that are keywords may mean (`SimpleTypename` in gram.y): always a type of `pg_catalog`.
pub(super) fn types_behind(word: &str) -> &'static [&'static str] {
    match word {
        "int" | "integer" => &["int4"],
        "smallint" => &["int2"],
        "bigint" => &["int8"],
        "real" => &["float4"],
        "float" => &["float4", "float8"],
        "double" => &["float8"],
        "decimal" | "dec" | "numeric" => &["numeric"],
        "boolean" => &["bool"],
        "varchar" => &["varchar"],
        "character" | "char" | "nchar" | "national" => &["bpchar", "varchar"],
        "bit" => &["bit", "varbit"],
        "time" => &["time", "timetz"],
        "timestamp" => &["timestamp", "timestamptz"],
        "interval" => &["interval"],
        "json" => &["json"],
        _ => &[],
    }
}

/// Whether a statement that changes definitions may begin with the word, or hold it: `SELECT .. INTO`.
pub(super) fn begins_ddl(word: &str) -> bool {
    matches!(
        word,
        "alter" | "comment" | "create" | "drop" | "grant" | "import" | "into" | "reassign" | "revoke" | "security"
    )
}

/// What a word before a parenthesis is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grammatical {
    /// No call, whatever functions there are.
    Always,
    /// No call, unless a function has been given the keyword's name.
    UnlessDefined,
    /// A call.
    Never,
}

/// Words that stand before a parenthesis without being the call of a function in `pg_proc`: constructs of the
/// grammar, types with a modifier. `previous` is the token before the word, in lower case.
pub(super) fn before_parenthesis(word: &str, previous: &str) -> Grammatical {
    if is_placed_clause(word, previous) {
        Grammatical::Always
    } else if is_construct(word) || is_type(word) || is_clause(word, previous) {
        Grammatical::UnlessDefined
    } else {
        Grammatical::Never
    }
}

/// Words of clauses that their place tells from functions of the same name: `OVER (`, `GROUPING SETS (`, `AS
/// MATERIALIZED (`, ..
fn is_placed_clause(word: &str, previous: &str) -> bool {
    match word {
        "by" => matches!(previous, "order" | "group" | "partition"),
        "over" | "filter" | "repeatable" => previous == ")",
        "sets" => previous == "grouping",
        "materialized" => previous == "as",
        "system" | "bernoulli" => previous == "tablesample",
        "set" => previous == "update",
        _ => false,
    }
}

/// Constructs that look like calls.
fn is_construct(word: &str) -> bool {
    matches!(
        word,
        "between"
            | "coalesce"
            | "exists"
            | "extract"
            | "greatest"
            | "grouping"
            | "json"
            | "json_array"
            | "json_arrayagg"
            | "json_exists"
            | "json_object"
            | "json_objectagg"
            | "json_query"
            | "json_scalar"
            | "json_serialize"
            | "json_table"
            | "json_value"
            | "least"
            | "merge_action"
            | "normalize"
            | "nullif"
            | "overlay"
            | "position"
            | "row"
            | "substring"
            | "treat"
            | "trim"
            | "values"
            | "xmlattributes"
            | "xmlconcat"
            | "xmlelement"
            | "xmlexists"
            | "xmlforest"
            | "xmlnamespaces"
            | "xmlparse"
            | "xmlpi"
            | "xmlroot"
            | "xmlserialize"
            | "xmltable"
    )
}

fn is_type(word: &str) -> bool {
    matches!(
        word,
        "bigint"
            | "bit"
            | "boolean"
            | "char"
            | "character"
            | "dec"
            | "decimal"
            | "float"
            | "int"
            | "integer"
            | "interval"
            | "national"
            | "nchar"
            | "numeric"
            | "precision"
            | "real"
            | "setof"
            | "smallint"
            | "time"
            | "timestamp"
            | "timestamptz"
            | "timetz"
            | "varbit"
            | "varchar"
            | "varying"
    )
}

/// Other words of clauses: they may name functions elsewhere.
fn is_clause(word: &str, previous: &str) -> bool {
    match word {
        "cross" | "full" | "inner" | "join" | "natural" | "ilike" | "like" | "is" | "outer" | "similar" => true,
        "cube" | "rollup" => matches!(previous, "by" | "," | "(" | "all" | "distinct"),
        "materialized" => previous == "not",
        "conflict" => previous == "on",
        "first" | "next" => previous == "fetch",
        "zone" => previous == "time",
        "second" => matches!(previous, "to" | "interval") || previous.ends_with('\''),
        "document" | "content" => previous == "(",
        "escape" | "passing" | "columns" | "operator" => ends_value(previous),
        _ => false,
    }
}

/// Whether an expression may end with this token, so that no call can follow it.
fn ends_value(token: &str) -> bool {
    let last = token.bytes().last();
    last.is_some_and(|c| {
        c.is_ascii_alphanumeric() || c >= 0x80 || matches!(c, b'_' | b'"' | b'\'' | b')' | b']' | b'$')
    }) && !is_never_a_name(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_leaves_long_and_foreign_words_alone() {
        assert_eq!(Lower::new("SeLeCt").as_str(), "select");
        assert_eq!(Lower::new("Größe").as_str(), "größe");
        let long = "A".repeat(40);
        assert_eq!(Lower::new(&long).as_str(), long);
        assert_eq!(Lower::new("").as_str(), "");
    }
}
