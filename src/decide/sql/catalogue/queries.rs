//! The questions to a server whose answers make up a catalogue. All columns are text; they run on PostgreSQL 13 and
//! later with no privilege.

/// One question; ask all of [`CatalogueQuery::ALL`], in any order, and hand each row to the builder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogueQuery {
    Functions,
    Relations,
    Operators,
    Types,
}

impl CatalogueQuery {
    pub const ALL: [CatalogueQuery; 4] =
        [CatalogueQuery::Functions, CatalogueQuery::Relations, CatalogueQuery::Operators, CatalogueQuery::Types];

    pub fn sql(self) -> &'static str {
        match self {
            CatalogueQuery::Functions => FUNCTIONS,
            CatalogueQuery::Relations => RELATIONS,
            CatalogueQuery::Operators => OPERATORS,
            CatalogueQuery::Types => TYPES,
        }
    }
}

/// schema, name, volatile, language, words, extension, field; one row per schema and name, over all overloads.
///
/// - volatile: an aggregate is as volatile as the functions it is made of, whatever it was declared as.
/// - language: of an aggregate, that of its transition function.
/// - words: what the sources mention of session state and of writes, separated by blanks. A function that is declared
///   stable may still call `nextval`.
/// - field: a function of one composite argument, which can be called as `row.name`.
const FUNCTIONS: &str = r"
SELECT n.nspname::text, p.proname::text,
       bool_or(p.provolatile = 'v' OR coalesce(t.provolatile = 'v', false) OR coalesce(f.provolatile = 'v', false))::text,
       string_agg(DISTINCT l.lanname::text, ' '),
       string_agg(DISTINCT lower(w.word), ' '),
       max(e.extname::text),
       bool_or(p.pronargs = 1 AND a.typtype = 'c')::text
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
LEFT JOIN pg_catalog.pg_aggregate g ON g.aggfnoid = p.oid
LEFT JOIN pg_catalog.pg_proc t ON t.oid = g.aggtransfn
JOIN pg_catalog.pg_language l ON l.oid = coalesce(t.prolang, p.prolang)
LEFT JOIN pg_catalog.pg_proc f ON f.oid = g.aggfinalfn
LEFT JOIN pg_catalog.pg_type a ON a.oid = p.proargtypes[0]
LEFT JOIN pg_catalog.pg_depend d
       ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype = 'e'
LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
LEFT JOIN LATERAL (
    SELECT m[1] AS word
    FROM pg_catalog.regexp_matches(p.prosrc,
        '\m((?:create|into)\s+(?:or\s+replace\s+)?(?:global\s+|local\s+)?temp(?:orary)?|pg_temp|listen\s|with\s+hold|setseed|pg_(?:try_)?advisory_lock(?:_shared)?|set_config|nextval|setval|currval|lastval|txid_current|pg_current_xact_id|pg_notify)',
        'gi') AS m
    WHERE l.lanname NOT IN ('c', 'internal')
) w ON true
WHERE p.prorettype NOT IN ('pg_catalog.trigger'::pg_catalog.regtype, 'pg_catalog.event_trigger'::pg_catalog.regtype)
  AND n.nspname !~ '^pg_(temp|toast)'
GROUP BY 1, 2";

/// schema, name, kind, definition. Kinds: `sequence`, `unlogged`, `file` (a foreign table over a file of the node),
/// `view` (its query), `policy` (an expression of a row-security policy; one row each).
const RELATIONS: &str = r"
SELECT n.nspname::text, c.relname::text,
       CASE WHEN c.relkind = 'S' THEN 'sequence' WHEN c.relpersistence = 'u' THEN 'unlogged'
            WHEN c.relkind = 'f' THEN 'file' ELSE 'view' END,
       CASE WHEN c.relkind = 'v' THEN pg_catalog.pg_get_viewdef(c.oid) END
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(temp|toast)'
  AND c.relkind IN ('r', 'm', 'p', 'v', 'f', 'S')
  AND (c.relkind IN ('S', 'v') OR c.relpersistence = 'u' OR EXISTS (
        SELECT FROM pg_catalog.pg_foreign_table t
        JOIN pg_catalog.pg_foreign_server s ON s.oid = t.ftserver
        JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
        WHERE t.ftrelid = c.oid AND w.fdwname = 'file_fdw'))
UNION ALL
SELECT n.nspname::text, c.relname::text, 'policy', 'SELECT ' || pg_catalog.pg_get_expr(p.polqual, p.polrelid)
FROM pg_catalog.pg_policy p
JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE p.polqual IS NOT NULL AND p.polcmd IN ('r', '*')";

/// name
const OPERATORS: &str = r"
SELECT DISTINCT o.oprname::text
FROM pg_catalog.pg_operator o
JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE p.provolatile = 'v' AND n.nspname <> 'pg_catalog'";

/// name, expression. Without an expression, a volatile function of the user's reads or casts to the type; with one,
/// it is the domain's constraint.
const TYPES: &str = r"
SELECT t.typname::text, NULL::text
FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_proc p ON p.oid = t.typinput
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE p.provolatile = 'v' AND n.nspname <> 'pg_catalog'
UNION
SELECT t.typname::text, NULL::text
FROM pg_catalog.pg_cast c
JOIN pg_catalog.pg_proc p ON p.oid = c.castfunc
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_type t ON t.oid = c.casttarget
WHERE p.provolatile = 'v' AND n.nspname <> 'pg_catalog'
UNION
SELECT t.typname::text, 'SELECT ' || pg_catalog.pg_get_expr(k.conbin, 0)
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_type t ON t.oid = k.contypid
WHERE k.contypid <> 0 AND k.conbin IS NOT NULL";
