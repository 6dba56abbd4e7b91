-- What people and scripts do with psql. It is run twice, through pgpilot and on the server itself, and has to print the same.
\set ON_ERROR_STOP off
\pset null '(null)'
\encoding
SHOW server_version;
SELECT current_user, current_database(), :'USER' AS "user", :'DBNAME' AS database;

CREATE TABLE customers (id serial PRIMARY KEY, name text NOT NULL, tags text[], info jsonb, picture bytea);
COMMENT ON TABLE customers IS 'who buys';
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, amount numeric(10, 2) CHECK (amount > 0), at timestamptz);
CREATE INDEX orders_customer ON orders (customer);
CREATE VIEW totals AS SELECT c.name, sum(o.amount) AS total FROM customers c JOIN orders o ON o.customer = c.id GROUP BY c.name;
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT n * 2';
CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'order %', NEW.id; RETURN NEW; END $$;
CREATE TRIGGER loud BEFORE INSERT ON orders FOR EACH ROW WHEN (NEW.id > 100) EXECUTE FUNCTION loud();
GRANT SELECT ON customers TO other;

INSERT INTO customers (name, tags, info, picture) VALUES
  ('Ann', '{a,"b,c",NULL}', '{"vip": true}', '\x00ff'), ('Bob', NULL, NULL, NULL), ('Zoë', '{}', '[1, null]', '');
COPY orders FROM STDIN;
1	1	10.50	2024-01-01 00:00:00+00
2	1	5.25	2024-01-02 00:00:00+00
3	3	7	\N
\.
INSERT INTO orders VALUES (101, 2, 1, NULL);
SET TIME ZONE 'UTC';
SELECT * FROM customers ORDER BY id;
SELECT * FROM totals ORDER BY name;
TABLE orders;
\x
SELECT * FROM orders WHERE id = 1;
\x
COPY (SELECT id, amount FROM orders ORDER BY id) TO STDOUT WITH (FORMAT csv, HEADER);
\copy (SELECT * FROM orders ORDER BY id) TO 'orders.csv' CSV
CREATE TABLE copies (LIKE orders);
\copy copies FROM 'orders.csv' CSV
SELECT count(*), sum(amount) FROM copies;
\copy copies FROM 'no such file'
INSERT INTO orders VALUES (1, 1, 1, NULL);
SELECT nothing FROM orders;
\echo :SQLSTATE :LAST_ERROR_MESSAGE
\errverbose
SELECT 1 AS one; SELECT 2 AS two \; SELECT 3 AS three;
SELEC;

-- What psql asks the catalogue.
\l
\d
\d customers
\d+ orders
\d totals
\dt+
\di
\dv
\ds
\df
\df+ twice
\sf twice
\dT+
\dn+
\du
\dp
\dx
\do ||
\dd
\db
\sv totals
\dconfig search_path

-- Variables, generated statements.
SELECT count(*) AS how_many, max(id) AS newest FROM orders \gset
\echo :how_many :newest
SELECT * FROM orders WHERE id = :newest;
SELECT format('SELECT %s + 1 AS "%s"', n, n) FROM generate_series(1, 3) n \gexec
SELECT customer, extract(day FROM at) AS day, amount FROM orders WHERE at IS NOT NULL ORDER BY 1, 2 \crosstabview
SELECT 1 AS a, 'x' AS b \gdesc
\if :{?newest}
\echo known
\endif
\set FETCH_COUNT 7
SELECT n FROM generate_series(1, 20) n;
\unset FETCH_COUNT
SELECT count(*), sum(length(t)) FROM (SELECT repeat('x', 100) AS t FROM generate_series(1, 10000)) s;

-- Transactions.
BEGIN;
SAVEPOINT a;
DELETE FROM orders WHERE id = 101;
ROLLBACK TO a;
SELECT count(*) FROM orders;
SELECT 1 / 0;
SELECT 1;
COMMIT;
START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;
SELECT count(*) FROM orders;
DELETE FROM orders;
ROLLBACK;
ROLLBACK;
BEGIN; UPDATE orders SET amount = amount + 1; COMMIT AND CHAIN; SELECT sum(amount) FROM orders; ROLLBACK;
\set AUTOCOMMIT off
SELECT sum(amount) FROM orders;
UPDATE orders SET amount = 99 WHERE id = 1;
ROLLBACK;
\set ON_ERROR_ROLLBACK on
UPDATE orders SET amount = 20 WHERE id = 1;
SELECT nothing;
COMMIT;
\set AUTOCOMMIT on
\unset ON_ERROR_ROLLBACK
SELECT amount FROM orders WHERE id = 1;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT id FROM orders ORDER BY id;
FETCH 2 FROM c;
FETCH BACKWARD 1 FROM c;
MOVE LAST IN c;
FETCH PRIOR FROM c;
CLOSE c;
COMMIT;
DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 5);
FETCH 2 FROM held;
SELECT 1;
FETCH 2 FROM held;
CLOSE held;

-- What a session keeps.
PREPARE by_id (int) AS SELECT id, amount FROM orders WHERE id = $1;
EXECUTE by_id (1);
EXECUTE by_id (2);
PREPARE by_id AS SELECT 1;
PREPARE add_one (int) AS INSERT INTO copies (id) VALUES ($1) RETURNING id;
EXECUTE add_one (7);
EXPLAIN (COSTS OFF) EXECUTE by_id (1);
DEALLOCATE by_id;
EXECUTE by_id (1);
DEALLOCATE ALL;
CREATE TEMP TABLE scratch AS SELECT * FROM orders;
SELECT count(*) FROM scratch;
DROP TABLE scratch;
SET search_path = pg_catalog;
SHOW search_path;
SELECT count(*) FROM orders;
RESET search_path;
SET LOCAL work_mem = '8MB';
SHOW work_mem;
SET app.tenant = 'blue';
SELECT current_setting('app.tenant');
SET nonsense = 1;
SET ROLE other;
RESET ROLE;
SET statement_timeout = '100ms';
SELECT pg_sleep(30);
RESET ALL;
SET default_transaction_read_only = on;
INSERT INTO copies (id) VALUES (8);
SELECT count(*) FROM copies;
SET default_transaction_read_only = off;
LISTEN news;
NOTIFY news, 'hello';
UNLISTEN *;
DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning' USING HINT = 'a hint'; END $$;
EXPLAIN (COSTS OFF) SELECT * FROM orders WHERE id = 1;
VACUUM (ANALYZE) orders;
SELECT nextval('customers_id_seq'), currval('customers_id_seq'), lastval();
SELECT currval('customers_id_seq');
SELECT txid_current_if_assigned(), pg_is_in_recovery();
SELECT twice(21), (SELECT array_agg(x) FROM unnest(ARRAY[1, 2]) x), NULL;

SELECT format('SELECT count(*) FROM orders WHERE id <> %s', n) FROM generate_series(1, 80) n \gexec

DROP VIEW totals;
DROP TABLE copies, orders, customers;
DROP FUNCTION twice, loud;
DROP TYPE mood;
\d
