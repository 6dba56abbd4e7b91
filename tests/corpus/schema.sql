-- What the statements of placed.txt are about.
CREATE SCHEMA app;
CREATE SCHEMA audit;
CREATE EXTENSION pg_trgm;
CREATE EXTENSION pgcrypto SCHEMA app;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);

CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, email text, city text, mood mood, tags text[], data jsonb, born date, joined timestamptz);
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, total numeric(10, 2), placed timestamp, status text, note text);
CREATE TABLE items (item_order int REFERENCES orders, product text, quantity int, price numeric(10, 2));
CREATE TABLE tree (id int PRIMARY KEY, parent int, label text);
CREATE TABLE "Odd Names" ("update" int, "delete" int, "insert" int, "into" int, "for" text, "Größe" int);
CREATE TABLE parts (id int, region text, amount int) PARTITION BY LIST (region);
CREATE TABLE parts_eu PARTITION OF parts FOR VALUES IN ('eu');
CREATE TABLE parts_us PARTITION OF parts FOR VALUES IN ('us');
CREATE TABLE documents (id int PRIMARY KEY, body text, words tsvector, area box, spot point, valid int4range, net inet, raw bytea, x xml);
CREATE TABLE pairs (id int, p pair);
CREATE UNLOGGED TABLE scratch (a int);
CREATE TABLE guarded (id int, owner text);
CREATE TABLE tenants (id int, tenant text);
CREATE TABLE audit.log (at timestamptz DEFAULT now(), what text);
CREATE SEQUENCE counter;
CREATE SEQUENCE app.numbers;

INSERT INTO customers SELECT n, 'name' || n, CASE WHEN n % 3 > 0 THEN 'n' || n || '@example.org' END, (ARRAY['Bonn', 'Oslo', 'Rome'])[n % 3 + 1],
    (ARRAY['sad', 'ok', 'happy'])[n % 3 + 1]::mood, ARRAY['t' || n % 2, 'u' || n % 5], jsonb_build_object('n', n, 'deep', jsonb_build_object('k', n % 4)),
    date '1980-01-01' + n, timestamptz '2024-01-01 00:00:00+00' + n * interval '1 hour' FROM generate_series(1, 30) n;
INSERT INTO orders SELECT n, n % 30 + 1, n * 1.25, timestamp '2024-02-01' + n * interval '90 min', (ARRAY['new', 'paid', 'sent'])[n % 3 + 1], NULL FROM generate_series(1, 90) n;
INSERT INTO items SELECT n % 90 + 1, 'p' || n % 7, n % 4 + 1, n * 0.5 FROM generate_series(1, 200) n;
INSERT INTO tree VALUES (1, NULL, 'root'), (2, 1, 'a'), (3, 1, 'b'), (4, 2, 'c'), (5, 4, 'd');
INSERT INTO "Odd Names" VALUES (1, 2, 3, 4, 'x', 5);
INSERT INTO parts SELECT n, CASE WHEN n % 2 = 0 THEN 'eu' ELSE 'us' END, n FROM generate_series(1, 20) n;
INSERT INTO documents SELECT n, 'the quick brown fox ' || n, to_tsvector('english', 'the quick brown fox ' || n), box(point(n, n), point(n + 2, n + 2)), point(n, n),
    int4range(n, n + 5), ('10.0.0.' || n)::inet, decode('00ff', 'hex'), '<a><b>1</b></a>' FROM generate_series(1, 9) n;
INSERT INTO pairs VALUES (1, ROW(1, 'one')), (2, ROW(2, 'two'));
INSERT INTO scratch VALUES (1), (2);
INSERT INTO guarded VALUES (1, 'postgres'), (2, 'nobody');
INSERT INTO tenants VALUES (1, 'a'), (2, 'b');
SELECT nextval('counter') FROM generate_series(1, 3);
SELECT nextval('app.numbers');

-- Functions that do what their volatility says, and such that do not.
CREATE FUNCTION app.add_one(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1';
CREATE FUNCTION app.order_count(int) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM public.orders WHERE customer = $1';
CREATE FUNCTION app.labels() RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN QUERY SELECT label FROM public.tree; END $$;
CREATE FUNCTION app.sum_all(VARIADIC int[]) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT sum(n) FROM unnest($1) n';
CREATE FUNCTION app.greet(name text, greeting text DEFAULT 'hello') RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT greeting || '' '' || name';
CREATE FUNCTION app.any_first(anyarray) RETURNS anyelement LANGUAGE sql IMMUTABLE AS 'SELECT $1[1]';
CREATE FUNCTION app.lazy(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 2';
CREATE FUNCTION app.lazy_total(who int) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE result numeric := 0; r record;
BEGIN
    SELECT sum(total) INTO result FROM public.orders WHERE customer = who;
    FOR r IN SELECT quantity FROM public.items LIMIT 3 LOOP
        IF r.quantity > 100 THEN RAISE EXCEPTION 'too many: %', r.quantity; END IF;
        result := coalesce(result, 0) + app.lazy(r.quantity);
    END LOOP;
    RETURN result;
END $$;
CREATE FUNCTION app.lazy_labels() RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT label FROM public.tree ORDER BY id; RETURN NEXT 'end'; RETURN; END $$;
CREATE FUNCTION app.log_it(text) RETURNS int LANGUAGE sql AS 'INSERT INTO audit.log (what) VALUES ($1); SELECT 1';
CREATE FUNCTION app.log_all(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit.log (what) VALUES ($1); RETURN 1; END $$;
CREATE FUNCTION app.dynamic(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'INSERT INTO audit.log (what) VALUES (' || quote_literal($1) || ')'; RETURN 1; END $$;
CREATE FUNCTION app.next_id() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('public.counter') $$;
CREATE FUNCTION app.via_lazy() RETURNS bigint LANGUAGE sql AS 'SELECT app.next_id()';
CREATE FUNCTION app.lying_stable() RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT nextval('public.counter') $$;
CREATE FUNCTION app.lying_immutable(text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM app.log_all($1); RETURN 1; END $$;
CREATE FUNCTION app.stable_lock(int) RETURNS int LANGUAGE sql STABLE AS 'SELECT pg_advisory_xact_lock($1); SELECT $1';
CREATE FUNCTION app.stable_dynamic_lock(int) RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN EXECUTE 'SELECT pg_advisory_xact_lock(' || $1 || ')'; RETURN $1; END $$;
CREATE FUNCTION app.stable_last() RETURNS bigint LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT last_value FROM public.counter); END $$;
CREATE FUNCTION app.stable_node() RETURNS boolean LANGUAGE sql STABLE AS 'SELECT pg_is_in_recovery()';
CREATE FUNCTION app.stable_dynamic(text) RETURNS int LANGUAGE plpgsql STABLE AS $$ DECLARE n int; BEGIN EXECUTE 'SELECT count(*) FROM ' || quote_ident($1) INTO n; RETURN n; END $$;
CREATE FUNCTION app.tenant() RETURNS text LANGUAGE sql STABLE AS $$ SELECT current_setting('app.tenant', true) $$;
CREATE FUNCTION app.locks(int) RETURNS int LANGUAGE plpgsql AS $$ DECLARE n int; BEGIN SELECT id INTO n FROM public.orders WHERE id = $1 FOR UPDATE; RETURN n; END $$;
CREATE FUNCTION app.over(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION app.over(text) RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO audit.log (what) VALUES ($1); SELECT 1';
CREATE FUNCTION app.by_count(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION app.by_count(int, int) RETURNS int LANGUAGE sql AS 'INSERT INTO audit.log (what) VALUES ($1 || ''/'' || $2); SELECT 1';
CREATE FUNCTION public.price(customers) RETURNS int LANGUAGE sql AS $$ INSERT INTO audit.log (what) VALUES ($1.name); SELECT 1 $$;
CREATE FUNCTION public.initials(customers) RETURNS text LANGUAGE sql STABLE AS 'SELECT left($1.name, 1)';
CREATE PROCEDURE app.touch() LANGUAGE sql AS $$ INSERT INTO audit.log (what) VALUES ('touch') $$;
CREATE PROCEDURE app.look() LANGUAGE plpgsql AS $$ BEGIN PERFORM count(*) FROM public.orders; END $$;
CREATE FUNCTION app.log_state(int, int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit.log (what) VALUES ('agg'); RETURN coalesce($1, 0) + coalesce($2, 0); END $$;
CREATE AGGREGATE app.logged_sum(int) (SFUNC = app.log_state, STYPE = int);
CREATE AGGREGATE app.plain_sum(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE OPERATOR ### (LEFTARG = int, RIGHTARG = int, FUNCTION = app.log_state);
CREATE OPERATOR @+@ (LEFTARG = int, RIGHTARG = int, FUNCTION = int4pl);
CREATE FUNCTION app.to_pair(int) RETURNS pair LANGUAGE sql AS $$ INSERT INTO audit.log (what) VALUES ('cast'); SELECT ROW($1, 'x')::pair $$;
CREATE CAST (int AS pair) WITH FUNCTION app.to_pair(int);
CREATE DOMAIN audited AS int CHECK (app.log_all('domain') = 1);
CREATE DOMAIN audited_again AS audited;
CREATE TYPE audited_pair AS (a audited_again, b text);
CREATE TABLE audited_rows (a audited);
CREATE OPERATOR @#@ (RIGHTARG = bigint, FUNCTION = pg_try_advisory_xact_lock);
CREATE TYPE segment AS (length int);
CREATE FUNCTION app.to_lseg(segment) RETURNS lseg LANGUAGE sql AS $$ INSERT INTO audit.log (what) VALUES ('cast'); SELECT lseg '((0,0),(0,1))' $$;
CREATE CAST (segment AS lseg) WITH FUNCTION app.to_lseg(segment) AS IMPLICIT;
CREATE TABLE segments (id int, s segment);
INSERT INTO segments VALUES (1, ROW(1)::segment);

-- Tables of which a part is not the same on every node.
CREATE TABLE mixed (id int, kind text) PARTITION BY LIST (kind);
CREATE TABLE mixed_kept PARTITION OF mixed FOR VALUES IN ('kept');
CREATE UNLOGGED TABLE mixed_scratch PARTITION OF mixed FOR VALUES IN ('scratch');
CREATE TABLE ancestors (id int);
CREATE TABLE parents (name text) INHERITS (ancestors);
CREATE UNLOGGED TABLE children () INHERITS (parents);
CREATE FOREIGN DATA WRAPPER peculiar;
CREATE SERVER peculiar FOREIGN DATA WRAPPER peculiar;
CREATE FOREIGN TABLE foreign_things (a int) SERVER peculiar;

-- Views and policies.
CREATE VIEW paid AS SELECT * FROM orders WHERE status = 'paid';
CREATE VIEW paid_names AS SELECT c.name, p.total FROM paid p JOIN customers c ON c.id = p.customer;
CREATE VIEW app.counts AS SELECT c.id, app.order_count(c.id) AS orders FROM customers c;
CREATE VIEW logging AS SELECT app.log_it('view') AS logged;
CREATE VIEW nested_logging AS SELECT * FROM logging;
CREATE VIEW activity AS SELECT pid, state FROM pg_stat_activity;
CREATE VIEW scratched AS SELECT * FROM scratch;
CREATE VIEW counter_view AS SELECT last_value FROM counter;
CREATE VIEW locked AS SELECT * FROM orders WHERE id < 3 FOR UPDATE;
CREATE VIEW lazily AS SELECT app.lazy(id) AS twice FROM tree;
CREATE MATERIALIZED VIEW totals AS SELECT customer, sum(total) AS total FROM orders GROUP BY customer;
CREATE RULE logged AS ON INSERT TO tree DO ALSO INSERT INTO audit.log (what) VALUES ('rule');
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
CREATE POLICY guard ON guarded USING (app.log_all('policy') = 1);
ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON tenants USING (tenant = current_setting('app.tenant', true));
CREATE ROLE reader;
GRANT USAGE ON SCHEMA app, audit, public TO reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader;
GRANT INSERT ON audit.log TO reader;
CREATE PUBLICATION everything FOR TABLE tree;
ANALYZE;
