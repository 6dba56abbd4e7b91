//! What a text does not say, and a server does: the catalogue's queries beside a real catalogue.

use pgpilot::decide::sql::{Effects, Intent};

use super::judge::Judge;
use super::session::{SUPERUSER, Session};
use crate::support::own_cluster;

const SCHEMA: &str = "
CREATE FUNCTION told(r bool DEFAULT pg_is_in_recovery()) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT r';
CREATE FUNCTION locked(a int, b text DEFAULT pg_advisory_lock(77)::text) RETURNS int STABLE LANGUAGE sql AS 'SELECT a';
CREATE FUNCTION plain(a int, b timestamptz DEFAULT now(), c text DEFAULT NULL) RETURNS int STABLE LANGUAGE sql AS 'SELECT a';
CREATE VIEW telling AS SELECT told();
CREATE TABLE t (a int);
CREATE TYPE pair AS (a int, b int);
CREATE DOMAIN own_pair AS pair CHECK ((VALUE).a > 0);
CREATE FUNCTION of_table(t) RETURNS bool STABLE LANGUAGE sql AS 'SELECT pg_is_in_recovery()';
CREATE FUNCTION of_more(t, int DEFAULT 1) RETURNS bool STABLE LANGUAGE sql AS 'SELECT pg_is_in_recovery()';
CREATE FUNCTION of_rest(VARIADIC t[]) RETURNS bool STABLE LANGUAGE sql AS 'SELECT pg_is_in_recovery()';
CREATE FUNCTION of_any(anyelement) RETURNS bool STABLE LANGUAGE plpgsql AS 'BEGIN RETURN pg_is_in_recovery(); END';
CREATE FUNCTION of_record(record) RETURNS bool STABLE LANGUAGE plpgsql AS 'BEGIN RETURN pg_is_in_recovery(); END';
CREATE FUNCTION of_domain(own_pair) RETURNS bool STABLE LANGUAGE sql AS 'SELECT pg_is_in_recovery()';
CREATE FUNCTION of_int(int) RETURNS bool STABLE LANGUAGE sql AS 'SELECT pg_is_in_recovery()';
CREATE FUNCTION step(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + $2';
CREATE FUNCTION combine(int, int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN $1 + $2; END';
CREATE AGGREGATE combined(int) (SFUNC = step, STYPE = int, COMBINEFUNC = combine, PARALLEL = SAFE);
CREATE AGGREGATE summed(int) (SFUNC = step, STYPE = int);
CREATE EXTENSION IF NOT EXISTS tablefunc;
CREATE DOMAIN elsewhere AS int CHECK (VALUE > 0 AND NOT pg_is_in_recovery());
CREATE TABLE dt (d elsewhere);
CREATE FUNCTION gives(OUT d elsewhere, OUT more int) STABLE LANGUAGE plpgsql AS 'BEGIN d := 5; more := 1; END';
CREATE FUNCTION gives_rows() RETURNS TABLE (d elsewhere) STABLE LANGUAGE plpgsql AS 'BEGIN d := 5; RETURN NEXT; END';
CREATE FUNCTION holds() RETURNS int STABLE LANGUAGE plpgsql AS 'DECLARE v dt.d%TYPE; BEGIN v := 5; RETURN v; END';
CREATE SEQUENCE s;
CREATE FUNCTION next_of(regclass) RETURNS int8 STABLE STRICT LANGUAGE internal AS 'nextval_oid';
CREATE FUNCTION recovers() RETURNS bool STABLE LANGUAGE internal AS 'pg_is_in_recovery';
CREATE FUNCTION lowered(text) RETURNS text IMMUTABLE STRICT LANGUAGE internal AS 'lower';
CREATE TYPE letter AS ENUM ('x');
CREATE FUNCTION shown(letter) RETURNS json STABLE LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN 1::text; END';
CREATE CAST (letter AS json) WITH FUNCTION shown(letter);
CREATE TYPE letters AS (a int, l letter[]);
CREATE TABLE lettered (l letter);
CREATE TABLE deeper (a letters);
";

#[tokio::test]
async fn what_stands_behind_names_is_found_in_the_catalogue() {
    let cluster = own_cluster().await;
    let mut session = Session::open(cluster.node("pg1").unwrap(), SUPERUSER, "postgres").await;
    assert_eq!(session.run(SCHEMA).await.error, None);
    let mut judge = Judge::load(&mut session).await;
    for (text, intent) in [
        ("SELECT told()", Intent::Write),
        ("SELECT abs(plain(told()::int))", Intent::Write),
        ("SELECT * FROM told()", Intent::Write),
        ("SELECT * FROM telling", Intent::Write),
        ("SELECT locked(b => 'x', a => 1)", Intent::Write),
        ("SELECT plain(1)", Intent::Read),
        ("SELECT t.of_table FROM t", Intent::Write),
        ("SELECT t.of_more FROM t", Intent::Write),
        ("SELECT t.of_rest FROM t", Intent::Write),
        ("SELECT t.of_any FROM t", Intent::Write),
        ("SELECT t.of_record FROM t", Intent::Write),
        ("SELECT (ROW(1, 2)::pair).of_domain", Intent::Write),
        ("SELECT t.of_int FROM t", Intent::Read),
        ("SELECT combined(a) FROM t", Intent::Write),
        ("SELECT summed(a) FROM t", Intent::Read),
        ("SELECT * FROM crosstab('SELECT 1, 2, 3') AS c(a int, b int)", Intent::Write),
        ("SELECT json_populate_record(dt, '{}') FROM dt", Intent::Write),
        ("SELECT dt FROM dt", Intent::Read),
        ("SELECT more FROM gives()", Intent::Write),
        ("SELECT * FROM gives_rows()", Intent::Write),
        ("SELECT holds()", Intent::Write),
        ("SELECT next_of('s')", Intent::Write),
        ("SELECT recovers()", Intent::Write),
        ("SELECT lowered('A')", Intent::Read),
        ("SELECT to_json(l) FROM lettered", Intent::Write),
        ("SELECT jsonb_agg(deeper) FROM deeper", Intent::Write),
        ("SELECT to_jsonb('{x}'::letter[])", Intent::Write),
        ("SELECT to_json(t) FROM t", Intent::Read),
    ] {
        // Where it can be called at all, the server says so.
        if intent == Intent::Write {
            assert_eq!(session.run(text).await.error, None, "{text}");
        }
        assert_eq!(judge.classify(text).statements[0].intent, intent, "{text}");
    }
    // Nothing is known of what has been made since; and then it is.
    let made = "CREATE DOMAIN fresh AS int CHECK (VALUE > 0);
                CREATE OPERATOR <<@ (LEFTARG = int, RIGHTARG = int, FUNCTION = step)";
    assert_eq!(session.run(made).await.error, None);
    for intent in [Intent::Write, Intent::Read] {
        for text in ["SELECT 5::fresh", "SELECT CAST(5 AS public.fresh)", "SELECT fresh '5'", "SELECT a <<@ 3 FROM t"] {
            assert_eq!(judge.classify(text).statements[0].intent, intent, "{text}");
        }
        judge.reload(&mut session).await;
    }
    let left = judge.classify("SELECT locked(1)").statements[0].effects;
    assert!(left.contains(Effects::PINS), "{left:?}");
}
