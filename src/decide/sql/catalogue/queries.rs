//! The questions to a server whose answers make up a catalogue. All columns are text; they run on PostgreSQL 14 and
//! later with no privilege.

/// One question; ask all of [`CatalogueQuery::ALL`], in any order, and hand each row to the builder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogueQuery {
    Functions,
    Relations,
    Operators,
    Types,
    Schemas,
    Scalars,
    Casts,
    Defaults,
}

impl CatalogueQuery {
    pub const ALL: [CatalogueQuery; 8] = [
        CatalogueQuery::Functions,
        CatalogueQuery::Relations,
        CatalogueQuery::Operators,
        CatalogueQuery::Types,
        CatalogueQuery::Schemas,
        CatalogueQuery::Scalars,
        CatalogueQuery::Casts,
        CatalogueQuery::Defaults,
    ];

    pub fn sql(self) -> &'static str {
        match self {
            CatalogueQuery::Functions => FUNCTIONS,
            CatalogueQuery::Relations => RELATIONS,
            CatalogueQuery::Operators => OPERATORS,
            CatalogueQuery::Types => TYPES,
            CatalogueQuery::Schemas => SCHEMAS,
            CatalogueQuery::Scalars => SCALARS,
            CatalogueQuery::Casts => CASTS,
            CatalogueQuery::Defaults => DEFAULTS,
        }
    }
}

/// schema, name, volatile, language, arguments, extension, field, body, types; one row per overload.
///
/// - arguments: the least and the most that it can be called with; but for aggregates, the OIDs of the elements of a
///   VARIADIC array and of the types.
/// - field: a function of one composite argument, which can be called as `row.name`.
/// - body: its source, where that is no machine code; of an aggregate, calls of the functions it is made of.
/// - types: of its arguments and its result, those that are not built in, one a line: a domain may be checked on the way.
const FUNCTIONS: &str = r"
SELECT n.nspname::text, p.proname::text, (p.provolatile = 'v')::text, l.lanname::text,
       CASE WHEN p.prokind = 'a' THEN '0 ' ELSE (p.pronargs - p.pronargdefaults)::text || ' ' END
           || CASE WHEN p.prokind = 'a' OR p.provariadic <> 0 THEN '1000' ELSE p.pronargs::text END
           || CASE WHEN p.prokind = 'a' THEN '' ELSE ' ' || p.provariadic::text || ' ' || p.proargtypes::text END,
       e.extname::text,
       (p.pronargs = 1 AND a.typtype = 'c')::text,
       CASE WHEN g.aggfnoid IS NOT NULL THEN (
                SELECT 'SELECT ' || string_agg(
                    pg_catalog.quote_ident(nf.nspname) || '.' || pg_catalog.quote_ident(f.proname) || '()', ', ')
                FROM pg_catalog.pg_proc f JOIN pg_catalog.pg_namespace nf ON nf.oid = f.pronamespace
                WHERE f.oid IN (g.aggtransfn, g.aggfinalfn, g.aggmtransfn, g.aggminvtransfn, g.aggmfinalfn))
            WHEN p.prosqlbody IS NOT NULL THEN pg_catalog.pg_get_function_sqlbody(p.oid)
            WHEN l.lanname NOT IN ('c', 'internal') THEN p.prosrc END,
       CASE WHEN n.nspname <> 'pg_catalog' THEN (
                SELECT string_agg(t.typname::text, E'\n') FROM pg_catalog.pg_type t
                WHERE t.oid = ANY (p.proargtypes::oid[] || p.prorettype)
                  AND t.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace) END
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
LEFT JOIN pg_catalog.pg_aggregate g ON g.aggfnoid = p.oid AND n.nspname <> 'pg_catalog'
LEFT JOIN pg_catalog.pg_type a ON a.oid = p.proargtypes[0]
LEFT JOIN pg_catalog.pg_depend d
       ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype = 'e'
LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
WHERE (p.pronargs > 0 OR p.prorettype NOT IN (
        'pg_catalog.trigger'::pg_catalog.regtype, 'pg_catalog.event_trigger'::pg_catalog.regtype))
  AND n.nspname !~ '^pg_(temp|toast)'
ORDER BY p.oid";

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

/// schema, name, a query that calls its function. Only of functions that are not built in.
const OPERATORS: &str = r"
SELECT DISTINCT s.nspname::text, o.oprname::text,
       'SELECT ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname) || '()'
FROM pg_catalog.pg_operator o
JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace
JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname <> 'pg_catalog'";

/// schema, name, a query that does what reading a constant of the type does, or a cast to it: calls its input function or the
/// cast's, or checks the domain's constraint. Only where a function that is not built in may be called.
const TYPES: &str = r"
SELECT s.nspname::text, t.typname::text,
       'SELECT ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname) || '()'
FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_namespace s ON s.oid = t.typnamespace
JOIN pg_catalog.pg_proc p ON p.oid = t.typinput
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname <> 'pg_catalog'
UNION
SELECT s.nspname::text, t.typname::text,
       'SELECT ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname) || '()'
FROM pg_catalog.pg_cast c
JOIN pg_catalog.pg_proc p ON p.oid = c.castfunc
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_type t ON t.oid = c.casttarget
JOIN pg_catalog.pg_namespace s ON s.oid = t.typnamespace
WHERE n.nspname <> 'pg_catalog'
UNION
SELECT s.nspname::text, t.typname::text, 'SELECT ' || pg_catalog.pg_get_expr(k.conbin, 0)
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_type t ON t.oid = k.contypid
JOIN pg_catalog.pg_namespace s ON s.oid = t.typnamespace
WHERE k.contypid <> 0 AND k.conbin IS NOT NULL";

/// name, owner, whether everybody may use it.
const SCHEMAS: &str = r"
SELECT n.nspname::text, pg_catalog.pg_get_userbyid(n.nspowner)::text,
       EXISTS (SELECT FROM pg_catalog.aclexplode(n.nspacl) a WHERE a.grantee = 0 AND a.privilege_type = 'USAGE')::text
FROM pg_catalog.pg_namespace n
WHERE n.nspname !~ '^pg_(temp|toast)'";

/// OID, category, whether it is the category's preferred type: of those that are neither domains, row types,
/// pseudo-types nor arrays of what somebody has made.
const SCALARS: &str = r"
SELECT t.oid::text, t.typcategory::text, t.typispreferred::text
FROM pg_catalog.pg_type t
WHERE t.typtype IN ('b', 'e', 'r', 'm') AND (t.typcategory <> 'A' OR t.oid < 16384)";

/// The OIDs of source and target of the casts that happen by themselves, and whether PostgreSQL brings the cast: OIDs
/// below `FirstNormalObjectId` are its own.
const CASTS: &str = r"
SELECT c.castsource::text, c.casttarget::text, (c.oid < 16384)::text
FROM pg_catalog.pg_cast c
WHERE c.castcontext = 'i'";

/// role (NULL: all of them), scope, setting, value. Scopes: `database` (this one alone), `everywhere`, `asked` (what the
/// role that asks has).
const DEFAULTS: &str = r"
SELECT r.rolname::text, CASE WHEN s.setdatabase = 0 THEN 'everywhere' ELSE 'database' END,
       pg_catalog.split_part(c.text, '=', 1), pg_catalog.substr(c.text, pg_catalog.strpos(c.text, '=') + 1)
FROM pg_catalog.pg_db_role_setting s
LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
CROSS JOIN pg_catalog.unnest(s.setconfig) c (text)
WHERE (s.setrole = 0 OR r.rolname IS NOT NULL)
  AND (s.setdatabase = 0 OR s.setdatabase = (
        SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()))
  AND pg_catalog.split_part(c.text, '=', 1) IN ('search_path', 'role', 'session_authorization')
UNION ALL
SELECT session_user::text, 'asked', s.name, s.reset_val
FROM pg_catalog.pg_settings s
WHERE s.name = 'search_path'";
