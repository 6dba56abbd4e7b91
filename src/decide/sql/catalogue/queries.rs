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
    Writes,
    Names,
}

impl CatalogueQuery {
    pub const ALL: [CatalogueQuery; 10] = [
        CatalogueQuery::Functions,
        CatalogueQuery::Relations,
        CatalogueQuery::Operators,
        CatalogueQuery::Types,
        CatalogueQuery::Schemas,
        CatalogueQuery::Scalars,
        CatalogueQuery::Casts,
        CatalogueQuery::Defaults,
        CatalogueQuery::Writes,
        CatalogueQuery::Names,
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
            CatalogueQuery::Writes => WRITES,
            CatalogueQuery::Names => NAMES,
        }
    }
}

/// schema, name, volatile, language, arguments, extension, field, body, types, defaults; one row per overload.
///
/// - arguments: the least and the most that it can be called with; but for aggregates, the OIDs of the elements of a
///   VARIADIC array and of the types.
/// - field: a function that takes a row as its only argument (the further ones have defaults), which can be called as
///   `row.name` (`ParseFuncOrColumn` in src/backend/parser/parse_func.c).
/// - body: its source, where that is no machine code; of an aggregate, calls of the functions it is made of; of another
///   name for a built-in function, calls of those that its source is the source of.
/// - types: of its arguments (OUT and TABLE are among them) and its result, those that are not built in, one a line: a domain
///   may be checked on the way.
/// - defaults: a query over what its arguments are where a call leaves them out.
///
/// No query can call a trigger's function: only those that triggers call are of interest.
const FUNCTIONS: &str = r"
SELECT n.nspname::text, p.proname::text, (p.provolatile = 'v')::text, l.lanname::text,
       CASE WHEN p.prokind = 'a' THEN '0 ' ELSE (p.pronargs - p.pronargdefaults)::text || ' ' END
           || CASE WHEN p.prokind = 'a' OR p.provariadic <> 0 THEN '1000' ELSE p.pronargs::text END
           || CASE WHEN p.prokind = 'a' THEN '' ELSE ' ' || p.provariadic::text || ' ' || p.proargtypes::text END,
       e.extname::text,
       (p.prokind <> 'p' AND p.pronargs > 0 AND p.pronargs - p.pronargdefaults <= 1
        AND (a.typtype = 'c' OR a.typtype = 'd' AND a.typbasetype >= 16384
             OR a.typtype = 'p' AND a.typname IN ('record', 'any', 'anyelement', 'anynonarray', 'anycompatible',
                                                  'anycompatiblenonarray')))::text,
       CASE WHEN g.aggfnoid IS NOT NULL THEN (
                SELECT 'SELECT ' || string_agg(
                    pg_catalog.quote_ident(nf.nspname) || '.' || pg_catalog.quote_ident(f.proname) || '()', ', ')
                FROM pg_catalog.pg_proc f JOIN pg_catalog.pg_namespace nf ON nf.oid = f.pronamespace
                WHERE f.oid IN (g.aggtransfn, g.aggfinalfn, g.aggmtransfn, g.aggminvtransfn, g.aggmfinalfn,
                                g.aggcombinefn, g.aggserialfn, g.aggdeserialfn))
            WHEN p.prosqlbody IS NOT NULL THEN pg_catalog.pg_get_function_sqlbody(p.oid)
            WHEN l.lanname = 'internal' AND p.oid >= 16384 AND p.prokind <> 'a' THEN (
                SELECT 'SELECT ' || string_agg('pg_catalog.' || pg_catalog.quote_ident(b.proname) || '()', ', ')
                FROM pg_catalog.pg_proc b WHERE b.prolang = p.prolang AND b.prosrc = p.prosrc AND b.oid < 16384)
            WHEN l.lanname NOT IN ('c', 'internal') THEN p.prosrc END,
       CASE WHEN n.nspname <> 'pg_catalog' THEN (
                SELECT string_agg(t.typname::text, E'\n') FROM pg_catalog.pg_type t
                WHERE t.oid = ANY (coalesce(p.proallargtypes, p.proargtypes::oid[]) || p.prorettype)
                  AND t.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace) END,
       'SELECT ' || pg_catalog.pg_get_expr(p.proargdefaults, 0)
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
LEFT JOIN pg_catalog.pg_aggregate g ON g.aggfnoid = p.oid AND n.nspname <> 'pg_catalog'
LEFT JOIN pg_catalog.pg_type a
       ON a.oid = CASE WHEN p.pronargs = 1 AND p.provariadic <> 0 THEN p.provariadic ELSE p.proargtypes[0] END
LEFT JOIN pg_catalog.pg_depend d
       ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype = 'e'
LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
WHERE (p.pronargs > 0 OR p.prorettype NOT IN (
        'pg_catalog.trigger'::pg_catalog.regtype, 'pg_catalog.event_trigger'::pg_catalog.regtype)
       OR p.oid IN (SELECT t.tgfoid FROM pg_catalog.pg_trigger t) AND n.nspname <> 'pg_catalog'
       OR p.oid IN (SELECT t.evtfoid FROM pg_catalog.pg_event_trigger t))
  AND n.nspname !~ '^pg_(temp|toast)'
ORDER BY p.oid";

/// schema, name, kind, definition. Kinds: `sequence`, `unlogged`, `foreign` (by a wrapper that may answer otherwise on each
/// node), `view` (its query), `policy` (an expression of a row-security policy; one row each), `cast` (a query that does what
/// a cast does that happens by itself, of a column; one row each).
///
/// A cast to json happens by itself in `to_json` and its kin, whatever its context, and for the parts of arrays and rows
/// (`json_categorize_type` in src/backend/utils/adt/jsonfuncs.c).
///
/// A table is also what the tables are that inherit from it, and its partitions. Some foreign-data wrappers are known to ask
/// the same server whichever node they run on; but not if that is one on the node itself (postgres_fdw's default).
const RELATIONS: &str = r"
WITH RECURSIVE bound (relation, kind) AS (
    SELECT c.oid, CASE WHEN c.relkind = 'S' THEN 'sequence' WHEN c.relpersistence = 'u' THEN 'unlogged' ELSE 'foreign' END
    FROM pg_catalog.pg_class c
    LEFT JOIN pg_catalog.pg_foreign_table t ON t.ftrelid = c.oid
    LEFT JOIN pg_catalog.pg_foreign_server s ON s.oid = t.ftserver
    LEFT JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
    WHERE c.relkind = 'S' OR c.relkind IN ('r', 'm', 'p') AND c.relpersistence = 'u'
       OR w.fdwname NOT IN ('postgres_fdw', 'mysql_fdw', 'oracle_fdw', 'tds_fdw', 'mongo_fdw', 'redis_fdw')
       OR w.fdwname = 'postgres_fdw' AND NOT EXISTS (
            SELECT FROM pg_catalog.unnest(s.srvoptions) o (text)
            WHERE o.text ~ '^host(addr)?=' AND o.text !~ '^[a-z]+=(localhost|127[.]|::1|/|@|$)')
    UNION
    SELECT i.inhparent, b.kind FROM bound b JOIN pg_catalog.pg_inherits i ON i.inhrelid = b.relation
), jsonable (type, function) AS (
    SELECT k.castsource, k.castfunc
    FROM pg_catalog.pg_cast k
    WHERE k.casttarget = 'pg_catalog.json'::pg_catalog.regtype AND k.oid >= 16384
    UNION
    SELECT p.type, j.function
    FROM jsonable j
    JOIN (SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type t WHERE t.typbasetype <> 0
          UNION ALL
          SELECT t.oid, t.typelem FROM pg_catalog.pg_type t WHERE t.typelem <> 0
          UNION ALL
          SELECT c.reltype, a.atttypid
          FROM pg_catalog.pg_attribute a
          JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
          WHERE a.attnum > 0 AND NOT a.attisdropped AND c.reltype <> 0
         ) p (type, part) ON p.part = j.type
), found (relation, kind, definition) AS (
    SELECT b.relation, b.kind, NULL FROM bound b
    UNION ALL
    SELECT c.oid, 'view', pg_catalog.pg_get_viewdef(c.oid) FROM pg_catalog.pg_class c WHERE c.relkind = 'v'
    UNION ALL
    SELECT p.polrelid, 'policy', 'SELECT ' || pg_catalog.pg_get_expr(p.polqual, p.polrelid)
    FROM pg_catalog.pg_policy p
    WHERE p.polqual IS NOT NULL AND p.polcmd IN ('r', '*')
    UNION
    SELECT a.attrelid, 'cast',
           'SELECT ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname) || '()'
    FROM (SELECT t.oid, c.castfunc
          FROM pg_catalog.pg_cast c
          JOIN pg_catalog.pg_type t ON c.castsource IN (t.oid, t.typbasetype)
          WHERE c.castcontext = 'i' AND c.oid >= 16384
          UNION
          SELECT j.type, j.function FROM jsonable j
         ) k (type, function)
    JOIN pg_catalog.pg_proc p ON p.oid = k.function
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    JOIN pg_catalog.pg_attribute a ON a.atttypid = k.type
    WHERE a.attnum > 0 AND NOT a.attisdropped
)
SELECT n.nspname::text, c.relname::text, f.kind, f.definition
FROM found f
JOIN pg_catalog.pg_class c ON c.oid = f.relation
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(temp|toast)'
  AND c.relkind IN ('r', 'm', 'p', 'v', 'f', 'S')";

/// schema, name, a query that calls its function. Only where the operator or the function is not built in.
const OPERATORS: &str = r"
SELECT DISTINCT s.nspname::text, o.oprname::text,
       'SELECT ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname) || '()'
FROM pg_catalog.pg_operator o
JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace
JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname <> 'pg_catalog' OR s.nspname <> 'pg_catalog'";

/// schema, name, kind, a query that does what reading a constant of the type does, or a cast to it: calls its input
/// function or the cast's, checks the domain's constraint, or does so for a type of which it is made. Only where a function
/// that is not built in may be called, or a cast is not built in (its OID is that of a user's object).
///
/// Kinds: `row` (a table's row type, whose name mostly means the table), `type` (any other). A cast that happens by itself
/// counts for its source as well, and so does one to json.
const TYPES: &str = r"
WITH RECURSIVE own (type, query) AS (
    SELECT f.type, 'SELECT ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname) || '()'
    FROM (SELECT t.oid, t.typinput, false FROM pg_catalog.pg_type t
          UNION ALL
          SELECT c.casttarget, c.castfunc, c.oid >= 16384 FROM pg_catalog.pg_cast c
          UNION ALL
          SELECT c.castsource, c.castfunc, c.oid >= 16384 FROM pg_catalog.pg_cast c
          WHERE c.castcontext = 'i' OR c.casttarget = 'pg_catalog.json'::pg_catalog.regtype
         ) f (type, function, is_own)
    JOIN pg_catalog.pg_proc p ON p.oid = f.function
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE f.is_own OR n.nspname <> 'pg_catalog'
    UNION
    SELECT k.contypid, 'SELECT ' || pg_catalog.pg_get_expr(k.conbin, 0)
    FROM pg_catalog.pg_constraint k
    WHERE k.contypid <> 0 AND k.conbin IS NOT NULL
), parts (type, part) AS (
    SELECT t.oid, t.typbasetype FROM pg_catalog.pg_type t WHERE t.typbasetype <> 0
    UNION ALL
    SELECT t.oid, t.typelem FROM pg_catalog.pg_type t WHERE t.typelem <> 0
    UNION ALL
    SELECT r.rngtypid, r.rngsubtype FROM pg_catalog.pg_range r
    UNION ALL
    SELECT r.rngmultitypid, r.rngtypid FROM pg_catalog.pg_range r
    UNION ALL
    SELECT c.reltype, a.atttypid
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.reltype <> 0
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(temp|toast)'
), made (type, part) AS (
    SELECT p.type, p.part FROM parts p WHERE p.part IN (SELECT type FROM own)
    UNION
    SELECT p.type, p.part FROM made m JOIN parts p ON p.part = m.type
)
SELECT s.nspname::text, t.typname::text,
       CASE WHEN r.relkind <> 'c' THEN 'row' ELSE 'type' END, q.query
FROM (SELECT type, query FROM own
      UNION ALL
      SELECT m.type, 'SELECT NULL::' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.typname)
      FROM made m
      JOIN pg_catalog.pg_type p ON p.oid = m.part
      JOIN pg_catalog.pg_namespace n ON n.oid = p.typnamespace
     ) q
JOIN pg_catalog.pg_type t ON t.oid = q.type
JOIN pg_catalog.pg_namespace s ON s.oid = t.typnamespace
LEFT JOIN pg_catalog.pg_class r ON r.oid = t.typrelid";

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

/// schema, name, kind: of every relation, type and operator that a query can name, schema by schema. Kinds: `relation`, `type`,
/// `operator`.
const NAMES: &str = r"
SELECT n.nspname::text, o.name::text, o.kind
FROM (SELECT c.relnamespace, c.relname, 'relation'
      FROM pg_catalog.pg_class c
      WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      UNION ALL
      SELECT t.typnamespace, t.typname, 'type' FROM pg_catalog.pg_type t
      UNION ALL
      SELECT DISTINCT p.oprnamespace, p.oprname, 'operator' FROM pg_catalog.pg_operator p
     ) o (schema, name, kind)
JOIN pg_catalog.pg_namespace n ON n.oid = o.schema
WHERE n.nspname !~ '^pg_(temp|toast)'
ORDER BY n.nspname";

/// schema, name, text: what a write to a relation runs besides itself, one row each; without schema and name: what DDL runs.
///
/// Of its own a relation has triggers, defaults (generated columns are among them, and those of domains), checks, policies,
/// rules, and expressions of indexes and partitions; of its columns' types, the checks. A write reaches further relations:
/// the tables under a view, partitions and heirs, and what a foreign key takes along. Such a row is a statement that writes
/// there, and is left out if nothing is known of any relation that is reached.
///
/// The trigger functions of `pg_catalog` (foreign keys, deferred constraints) change no session, and of its rules only that
/// of `pg_settings` does. Neither do constants, and the most common defaults: there may be one in every table.
const WRITES: &str = r"
WITH RECURSIVE own (relation, text) AS (
    SELECT t.tgrelid,
           CASE WHEN t.tgqual IS NOT NULL THEN pg_catalog.pg_get_triggerdef(t.oid) || ';' ELSE '' END
           || 'SELECT ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname) || '()'
    FROM pg_catalog.pg_trigger t
    JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE t.tgenabled <> 'D' AND n.nspname <> 'pg_catalog'
    UNION
    SELECT e.relation, 'SELECT ' || e.text
    FROM (SELECT d.adrelid, pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef d
          UNION ALL
          SELECT k.conrelid, pg_catalog.pg_get_expr(k.conbin, k.conrelid)
          FROM pg_catalog.pg_constraint k WHERE k.contype = 'c' AND k.conrelid <> 0
          UNION ALL
          SELECT p.polrelid, pg_catalog.pg_get_expr(x.tree, p.polrelid)
          FROM pg_catalog.pg_policy p
          CROSS JOIN LATERAL (VALUES (p.polqual), (p.polwithcheck)) x (tree)
          UNION ALL
          SELECT i.indrelid, pg_catalog.pg_get_expr(x.tree, i.indrelid)
          FROM pg_catalog.pg_index i CROSS JOIN LATERAL (VALUES (i.indexprs), (i.indpred)) x (tree)
          UNION ALL
          SELECT p.partrelid, pg_catalog.pg_get_expr(p.partexprs, p.partrelid) FROM pg_catalog.pg_partitioned_table p
          UNION ALL
          SELECT a.attrelid, pg_catalog.pg_get_expr(t.typdefaultbin, 0)
          FROM pg_catalog.pg_type t JOIN pg_catalog.pg_attribute a ON a.atttypid = t.oid
          WHERE t.typtype = 'd' AND a.attnum > 0 AND NOT a.attisdropped
         ) e (relation, text)
    WHERE pg_catalog.strpos(e.text, '(') > 0 AND e.relation >= 16384
      AND e.text !~ '^(nextval\(''[^'']*''::regclass\)|now\(\)|gen_random_uuid\(\)|\(?[a-z_0-9]+ [<>=]+ [(]?[0-9.]+[)]?(::[a-z ]+)?\)?)$'
    UNION
    SELECT r.ev_class, pg_catalog.pg_get_ruledef(r.oid)
    FROM pg_catalog.pg_rewrite r
    WHERE r.ev_type IN ('2', '3', '4') AND r.ev_enabled <> 'D'
      AND (r.oid >= 16384 OR r.ev_class = 'pg_catalog.pg_settings'::pg_catalog.regclass)
    UNION
    SELECT c.oid, 'SELECT NULL::' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    JOIN pg_catalog.pg_type e ON e.oid = CASE WHEN t.typelem <> 0 THEN t.typelem ELSE t.oid END
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE e.typtype IN ('d', 'c', 'r', 'm') AND e.oid >= 16384 AND a.attnum > 0 AND c.relkind IN ('r', 'p', 'f')
), further (relation, reached) AS (
    SELECT k.confrelid, k.conrelid FROM pg_catalog.pg_constraint k
    WHERE k.contype = 'f' AND (k.confdeltype NOT IN ('a', 'r') OR k.confupdtype NOT IN ('a', 'r'))
    UNION
    SELECT i.inhparent, i.inhrelid FROM pg_catalog.pg_inherits i
    UNION
    SELECT r.ev_class, d.refobjid
    FROM pg_catalog.pg_rewrite r
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
    WHERE r.ev_type = '1' AND r.oid >= 16384 AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
      AND d.refobjid <> r.ev_class
), concerned (relation) AS (
    SELECT o.relation FROM own o
    UNION
    SELECT f.relation FROM concerned c JOIN further f ON f.reached = c.relation
), written (relation, text) AS (
    SELECT o.relation, o.text FROM own o
    UNION ALL
    SELECT f.relation, 'UPDATE ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
    FROM further f
    JOIN pg_catalog.pg_class c ON c.oid = f.reached
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE f.reached IN (SELECT relation FROM concerned) AND f.reached <> f.relation
)
SELECT n.nspname::text, c.relname::text, w.text
FROM written w
JOIN pg_catalog.pg_class c ON c.oid = w.relation
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname !~ '^pg_(temp|toast)' AND w.text IS NOT NULL
UNION ALL
SELECT NULL, NULL,
       'SELECT ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname) || '()'
FROM pg_catalog.pg_event_trigger t
JOIN pg_catalog.pg_proc p ON p.oid = t.evtfoid
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE t.evtenabled <> 'D' AND t.evtevent <> 'login'";
