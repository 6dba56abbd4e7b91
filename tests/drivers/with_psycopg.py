"""What an application does with psycopg 3, through the server that the PG* variables name.

Exits with 1 and a traceback at the first difference. PGSSLROOTCERT names the authority of the server's certificate.
"""

import asyncio
import datetime
import decimal
import os
import sys
import threading
import uuid

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb


def equal(found, expected, what=""):
    if found != expected:
        raise AssertionError(f"{what}: {found!r} instead of {expected!r}")


def connect(**more):
    # In clear unless a test says otherwise: that is what most applications next to their database do.
    more.setdefault("sslmode", "disable")
    return psycopg.connect("", autocommit=more.pop("autocommit", True), **more)


# What another session has written, a session sees at once only if it asks for it.
STRONG = "-c pgpilot.consistency=strong"


def one(connection, sql, *arguments, **more):
    return connection.execute(sql, arguments or None, **more).fetchone()[0]


def fails(sqlstate, act):
    try:
        act()
    except psycopg.Error as error:
        equal(error.sqlstate, sqlstate, str(error))
        return error
    raise AssertionError(f"no error, {sqlstate} expected")


def logging_in():
    with connect() as connection:
        equal(connection.info.encoding, "utf-8")
        equal(connection.info.user, os.environ["PGUSER"])
        equal(connection.info.server_version >= 140000, True)
        equal(one(connection, "SELECT current_user"), os.environ["PGUSER"])
    for more in ({"sslmode": "require"}, {"sslmode": "verify-full", "channel_binding": "require"}):
        with connect(host="localhost", hostaddr=os.environ["PGHOST"], **more) as connection:
            equal(connection.pgconn.ssl_in_use, True)
            equal(one(connection, "SELECT 1"), 1)
    for more in ({"password": "wrong"}, {"user": "nobody"}):
        try:
            connect(**more)
        except psycopg.OperationalError as error:
            equal("password authentication failed" in str(error), True, str(error))
        else:
            raise AssertionError("logged in with a wrong password")
    try:
        connect(dbname="nowhere")
    except psycopg.OperationalError as error:
        equal('database "nowhere" does not exist' in str(error), True, str(error))
    else:
        raise AssertionError("logged in to a database that does not exist")


def the_old_user():
    with connect(user="old", password="old-secret") as connection:
        equal(one(connection, "SELECT current_user"), "old")
        equal(one(connection, "SELECT %s + 1", 41), 42)


def types():
    now = datetime.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=datetime.timezone.utc)
    values = [
        7,
        2**40,
        1.5,
        decimal.Decimal("123456789.000000001"),
        "gr\u00fc\u00dfe \U0001f418",
        bytes(range(256)),
        True,
        None,
        datetime.date(2024, 2, 29),
        now,
        uuid.UUID("12345678-1234-5678-1234-567812345678"),
        [1, 2, None],
        ["a", "b,c", '"', "\\"],
        [[1, 2], [3, 4]],
        Jsonb({"a": [1, None, {"b": "\u20ac"}]}),
    ]
    casts = "int int8 float8 numeric text bytea bool text date timestamptz uuid int[] text[] int[] jsonb".split()
    expected = [value.obj if isinstance(value, Jsonb) else value for value in values]
    with connect() as connection:
        connection.execute("SET TIME ZONE 'UTC'")
        sql = "SELECT " + ", ".join(f"%s::{cast}" for cast in casts)
        for binary in (False, True):
            row = connection.cursor(binary=binary).execute(sql, values).fetchone()
            equal(list(row), expected, f"binary {binary}")
        row = connection.cursor(row_factory=dict_row).execute("SELECT 1 AS a, NULL AS b").fetchone()
        equal(row, {"a": 1, "b": None})


def prepared():
    with connect(prepare_threshold=3) as connection:
        for n in range(20):
            equal(one(connection, "SELECT %s * 2", n), n * 2)
        connection.execute("CREATE TABLE prepared (n int PRIMARY KEY, t text)")
        for n in range(20):
            connection.execute("INSERT INTO prepared VALUES (%s, %s)", (n, str(n)), prepare=True)
            equal(one(connection, "SELECT t FROM prepared WHERE n = %s", n, prepare=True), str(n))
        # More statements than the driver keeps: it deallocates the least recently used one.
        connection.prepared_max = 3
        for n in range(40):
            k = n % 8
            equal(one(connection, f"SELECT %s + {k}", n, prepare=True), n + k)
        equal(one(connection, "SELECT count(*) FROM pg_prepared_statements") >= 0, True)
        connection.execute("DEALLOCATE ALL")
        connection.execute("DROP TABLE prepared")


def transactions():
    with connect() as connection:
        connection.execute("CREATE TABLE account (id int PRIMARY KEY, amount int CHECK (amount >= 0))")
        connection.execute("INSERT INTO account SELECT n, 100 FROM generate_series(1, 10) n")
        with connection.transaction():
            connection.execute("UPDATE account SET amount = amount - 30 WHERE id = 1")
            equal(one(connection, "SELECT amount FROM account WHERE id = 1"), 70)

            def overdraw():
                with connection.transaction():
                    connection.execute("UPDATE account SET amount = amount - 300 WHERE id = 1")

            fails("23514", overdraw)
            equal(one(connection, "SELECT amount FROM account WHERE id = 1"), 70)
        equal(one(connection, "SELECT amount FROM account WHERE id = 1"), 70)
        try:
            with connection.transaction():
                connection.execute("DELETE FROM account")
                raise psycopg.Rollback
        except psycopg.Rollback:
            pass
        equal(one(connection, "SELECT count(*) FROM account"), 10)
    with connect(autocommit=False) as connection:
        connection.execute("UPDATE account SET amount = 1 WHERE id = 2")
        fails("42703", lambda: connection.execute("SELECT nothing FROM account"))
        fails("25P02", lambda: connection.execute("SELECT 1"))
        equal(connection.info.transaction_status, psycopg.pq.TransactionStatus.INERROR)
        connection.rollback()
        equal(one(connection, "SELECT amount FROM account WHERE id = 2"), 100)
        connection.commit()
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        equal(one(connection, "SHOW transaction_isolation"), "serializable")
        connection.execute("UPDATE account SET amount = amount + 1 WHERE id = 3")
        connection.commit()
        connection.isolation_level = None
        connection.read_only = True
        for _ in range(5):
            equal(one(connection, "SELECT sum(amount) FROM account"), 971)
            connection.commit()
        fails("25006", lambda: connection.execute("DELETE FROM account"))
        connection.rollback()
        connection.read_only = None
        connection.execute("DROP TABLE account")


def copying():
    with connect() as connection:
        connection.execute("CREATE TABLE copied (n int PRIMARY KEY, t text, b bytea)")
        cursor = connection.cursor()
        with cursor.copy("COPY copied FROM STDIN") as copy:
            for n in range(20000):
                copy.write_row((n, None if n % 7 == 0 else f"row\t{n}\\", b"\x00\xff"))
        equal(cursor.rowcount, 20000)
        with cursor.copy("COPY copied FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text", "bytea"])
            for n in range(20000, 20100):
                copy.write_row((n, "x" * 1000, b""))
        count, nulls = connection.execute("SELECT count(*), count(*) - count(t) FROM copied").fetchone()
        equal((count, nulls), (20100, 2858))
        for _ in range(3):
            with cursor.copy("COPY (SELECT n, t FROM copied WHERE n < 20000 ORDER BY n) TO STDOUT") as copy:
                copy.set_types(["int4", "text"])
                for n, row in enumerate(copy.rows()):
                    equal(row, (n, None if n % 7 == 0 else f"row\t{n}\\"))
            equal(n, 19999)

        def twice():
            with cursor.copy("COPY copied (n) FROM STDIN") as copy:
                copy.write("1\n")

        fails("23505", twice)

        def given_up():
            with cursor.copy("COPY copied (n) FROM STDIN") as copy:
                copy.write("99999\n")
                raise psycopg.DataError("given up")

        fails("57014", given_up)
        equal(one(connection, "SELECT count(*) FROM copied"), 20100)
        # Left in the middle, which makes the driver cancel it.
        try:
            with cursor.copy("COPY copied TO STDOUT") as copy:
                copy.read()
                raise KeyError
        except KeyError:
            pass
        equal(one(connection, "SELECT 5"), 5)
        connection.execute("DROP TABLE copied")


def cursors():
    with connect() as connection:
        with connection.transaction(), connection.cursor("walk") as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT n, repeat('x', 100) FROM generate_series(1, %s) n", (2000,))
            equal(sum(row[0] for row in cursor), 2001000)
        with connection.transaction(), connection.cursor("jump", scrollable=True) as cursor:
            cursor.execute("SELECT generate_series(1, 100)")
            cursor.scroll(50)
            equal(cursor.fetchone(), (51,))
            cursor.scroll(10, mode="absolute")
            equal(cursor.fetchmany(2), [(11,), (12,)])
        cursor = connection.cursor("held", withhold=True)
        cursor.execute("SELECT generate_series(1, 100)")
        equal(cursor.fetchone(), (1,))
        equal(one(connection, "SELECT 1"), 1)
        equal(cursor.fetchone(), (2,))
        cursor.close()
        equal(sum(row[0] for row in connection.cursor().stream("SELECT generate_series(1, 3000)")), 4501500)
        # Large results, and large parameters.
        rows = connection.execute("SELECT n, repeat('y', 50) FROM generate_series(1, 100000) n").fetchall()
        equal((len(rows), rows[-1]), (100000, (100000, "y" * 50)))
        big = "z" * 3_000_000
        equal(one(connection, "SELECT %s::text", big), big)
        equal(one(connection, "SELECT length(%s::bytea)", big.encode()), 3_000_000)
        equal(len(one(connection, "SELECT repeat('w', 5000000)")), 5_000_000)


def pipelines():
    with connect() as connection:
        connection.execute("CREATE TABLE piped (n int PRIMARY KEY, t text)")
        with connection.pipeline():
            cursors = []
            for n in range(500):
                connection.execute("INSERT INTO piped VALUES (%s, %s)", (n, "t" * 200))
                if n % 10 == 0:
                    cursors.append(connection.execute("SELECT count(*) FROM piped"))
        equal([cursor.fetchone()[0] for cursor in cursors], [n + 1 for n in range(0, 500, 10)])

        def bad():
            with connection.pipeline() as pipeline:
                good = connection.execute("INSERT INTO piped VALUES (1000, '')")
                pipeline.sync()
                equal(good.rowcount, 1)
                connection.execute("INSERT INTO piped VALUES (1000, 'again')")
                connection.execute("INSERT INTO piped VALUES (1001, 'never')")

        fails("23505", bad)
        equal(one(connection, "SELECT count(*) FROM piped WHERE n >= 1000"), 1)
        with connection.pipeline(), connection.transaction():
            connection.execute("DELETE FROM piped WHERE n < 1000")
            with connection.transaction():
                left = connection.execute("SELECT count(*) FROM piped")
            equal(left.fetchone()[0], 1)
        # Reads alone, and a read that fails among them.
        with connection.pipeline() as pipeline:
            reads = [connection.execute("SELECT %s + count(*) FROM piped", (n,)) for n in range(300)]
            pipeline.sync()
            equal([read.fetchone()[0] for read in reads], [n + 1 for n in range(300)])
            fails("22012", lambda: connection.execute("SELECT 1 / 0").fetchone())
        equal(one(connection, "SELECT 1"), 1)
        # The driver deallocates what it keeps no longer within the pipeline.
        connection.prepared_max = 2
        with connection.pipeline():
            reads = [connection.execute(f"SELECT %s + {n % 5}", (n,), prepare=True) for n in range(50)]
        equal([read.fetchone()[0] for read in reads], [n + n % 5 for n in range(50)])
        cursor = connection.cursor()
        cursor.executemany("INSERT INTO piped VALUES (%s, %s) RETURNING n", [(n, "") for n in range(200)], returning=True)
        found = [cursor.fetchone()[0]]
        while cursor.nextset():
            found.append(cursor.fetchone()[0])
        equal(found, list(range(200)))
        connection.execute("DROP TABLE piped")


def notices_and_notifications():
    with connect() as listener, connect() as speaker:
        heard = []
        speaker.add_notice_handler(lambda diagnostic: heard.append((diagnostic.severity, diagnostic.message_primary)))
        speaker.execute("DO $$ BEGIN RAISE NOTICE 'hello'; RAISE WARNING 'oh'; END $$")
        equal(heard, [("NOTICE", "hello"), ("WARNING", "oh")])
        listener.execute("LISTEN news")
        for n in range(3):
            speaker.execute("SELECT pg_notify('news', %s)", (str(n),))
        speaker.execute("NOTIFY news, '3'")
        stop = threading.Timer(30, listener.close)
        stop.start()
        found = []
        for notification in listener.notifies():
            found.append(notification.payload)
            if len(found) == 4:
                break
        stop.cancel()
        equal(found, ["0", "1", "2", "3"])
        equal(one(listener, "SELECT 1"), 1)
        listener.execute("UNLISTEN *")


def cancelling():
    with connect() as connection, connect() as other:
        # Both ways: as soon as it can be known that it runs, and long before the statement ends.
        for sql in ("SELECT pg_sleep(30)", "SELECT count(*) FROM generate_series(1, 100000000000) AS sleeper"):
            running = threading.Event()

            def cancel():
                # It may be too early; a cancel request for nothing does nothing.
                while not running.wait(0.05):
                    connection.cancel()

            thread = threading.Thread(target=cancel)
            thread.start()
            fails("57014", lambda: connection.execute(sql))
            running.set()
            thread.join()
            # A cancel request that comes too late must hit nobody.
            for _ in range(20):
                equal(one(connection, "SELECT 1"), 1)
                equal(one(other, "SELECT 2"), 2)
        connection.execute("SET statement_timeout = '50ms'")
        fails("57014", lambda: connection.execute("SELECT pg_sleep(30)"))
        equal(one(other, "SHOW statement_timeout"), "0")
        connection.execute("RESET statement_timeout")
        equal(one(connection, "SHOW statement_timeout"), "0")
    with connect(options="-c statement_timeout=50ms") as connection:
        fails("57014", lambda: connection.execute("SELECT pg_sleep(30)"))


def settings():
    options = "-c search_path=elsewhere,public -c app.tenant=blue " + STRONG
    with connect() as plain, connect(application_name="reports", options=options) as connection:
        plain.execute("CREATE SCHEMA elsewhere")
        plain.execute("CREATE TABLE elsewhere.things (n int)")
        plain.execute("INSERT INTO elsewhere.things VALUES (5)")
        for _ in range(3):
            equal(one(connection, "SELECT n FROM things"), 5)
            fails("42P01", lambda: plain.execute("SELECT n FROM things"))
            equal(one(connection, "SHOW application_name"), "reports")
            equal(one(connection, "SELECT current_setting('app.tenant')"), "blue")
            equal(one(plain, "SELECT coalesce(current_setting('app.tenant', true), '')"), "")
        equal(connection.info.parameter_status("application_name"), "reports")
        connection.execute("SET TIME ZONE 'Asia/Kolkata'")
        equal(connection.info.parameter_status("TimeZone"), "Asia/Kolkata")
        equal(connection.info.timezone.key, "Asia/Kolkata")
        moment = "SELECT '2024-01-01 00:00+00'::timestamptz::text"
        for _ in range(3):
            equal(one(connection, moment), "2024-01-01 05:30:00+05:30")
            equal(one(plain, "SELECT extract(timezone FROM now())") == 19800, False)
        with connection.transaction():
            connection.execute("SET LOCAL TIME ZONE 'UTC'")
            equal(one(connection, moment), "2024-01-01 00:00:00+00")
        equal(one(connection, moment), "2024-01-01 05:30:00+05:30")
        connection.execute("SET client_encoding = 'LATIN1'")
        equal(connection.info.encoding, "iso8859-1")
        equal(one(connection, "SELECT %s::text", "\u00fc"), "\u00fc")
        connection.execute("RESET client_encoding")
        connection.execute("DISCARD ALL")
        equal(one(connection, "SHOW TIME ZONE"), one(plain, "SHOW TIME ZONE"))
        equal(one(connection, "SHOW application_name"), "reports")
        equal(one(connection, "SELECT n FROM things"), 5)
        connection.execute("DROP SCHEMA elsewhere CASCADE")


def read_only():
    with connect() as writer:
        writer.execute("CREATE TABLE shown (n int)")
        writer.execute("INSERT INTO shown VALUES (1)")
        with connect(options="-c default_transaction_read_only=on") as connection:
            fails("25006", lambda: connection.execute("INSERT INTO shown VALUES (2)"))
            fails("25006", lambda: connection.execute("CREATE TABLE hidden (n int)"))
            with connection.transaction():
                equal(one(connection, "SHOW transaction_read_only"), "on")
        with connect() as connection:
            connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            for _ in range(3):
                fails("25006", lambda: connection.execute("INSERT INTO shown VALUES (2)"))
            connection.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
            connection.execute("INSERT INTO shown VALUES (2)")
            equal(one(connection, "SELECT count(*) FROM shown"), 2)
        writer.execute("DROP TABLE shown")


def temporary():
    with connect() as connection, connect() as other:
        connection.execute("CREATE TEMP TABLE mine (n int)")
        with connection.cursor().copy("COPY mine FROM STDIN") as copy:
            copy.write("1\n2\n")
        equal(one(connection, "SELECT sum(n) FROM mine"), 3)
        fails("42P01", lambda: other.execute("SELECT * FROM mine"))
        connection.execute("SELECT pg_advisory_lock(77)")
        equal(one(other, "SELECT pg_try_advisory_lock(77)"), False)
        connection.execute("SELECT pg_advisory_unlock(77)")
        equal(one(other, "SELECT pg_try_advisory_xact_lock(77)"), True)


def many_at_once():
    with connect(options=STRONG) as connection:
        connection.execute("CREATE TABLE counters (id int PRIMARY KEY, n int)")
        connection.execute("INSERT INTO counters SELECT g, 0 FROM generate_series(0, 7) g")
        problems = []

        def work(me):
            try:
                with connect(application_name=f"worker {me}") as mine:
                    for n in range(1, 41):
                        mine.execute("UPDATE counters SET n = n + 1 WHERE id = %s", (me,))
                        # Whatever it just wrote, it reads.
                        equal(one(mine, "SELECT n FROM counters WHERE id = %s", me), n)
                        equal(one(mine, "SHOW application_name"), f"worker {me}")
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(me,)) for me in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if problems:
            raise problems[0]
        equal(one(connection, "SELECT sum(n) FROM counters"), 320)
        connection.execute("DROP TABLE counters")


def asynchronously():
    async def work():
        async with await psycopg.AsyncConnection.connect("", autocommit=True, sslmode="require") as connection:
            async with connection.pipeline():
                cursors = [await connection.execute("SELECT %s::int", (n,)) for n in range(20)]
                equal([(await cursor.fetchone())[0] for cursor in cursors], list(range(20)))
            task = asyncio.ensure_future(connection.execute("SELECT pg_sleep(30)"))
            done = set()
            while not done:
                done, _ = await asyncio.wait([task], timeout=0.05)
                if not done:
                    connection.cancel()
            equal(task.exception().sqlstate, "57014")
            equal(await (await connection.execute("SELECT 1")).fetchone(), (1,))

    asyncio.run(work())


STEPS = [
    logging_in,
    the_old_user,
    types,
    prepared,
    transactions,
    copying,
    cursors,
    pipelines,
    notices_and_notifications,
    cancelling,
    settings,
    read_only,
    temporary,
    many_at_once,
    asynchronously,
]

if __name__ == "__main__":
    for step in STEPS:
        if not sys.argv[1:] or step.__name__ in sys.argv[1:]:
            print(step.__name__, flush=True)
            step()
