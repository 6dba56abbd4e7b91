"""What an application does with asyncpg, through the server that the PG* variables name; with the argument `pgpilot`, if that is pgpilot.

Exits with 1 and a traceback at the first difference. PGSSLROOTCERT names the authority of the server's certificate.
"""

import asyncio
import datetime
import decimal
import json
import os
import ssl
import sys
import uuid

import asyncpg


def equal(found, expected, what=""):
    if found != expected:
        raise AssertionError(f"{what}: {found!r} instead of {expected!r}")


async def connect(**more):
    more.setdefault("ssl", "disable")
    return await asyncpg.connect(timeout=30, **more)


async def fails(sqlstate, awaitable):
    try:
        await awaitable
    except asyncpg.PostgresError as error:
        equal(error.sqlstate, sqlstate, str(error))
        return error
    raise AssertionError(f"no error, {sqlstate} expected")


async def logging_in():
    context = ssl.create_default_context(cafile=os.environ["PGSSLROOTCERT"])
    # The certificate is for this address, too.
    for tls in ("disable", "require", context):
        connection = await connect(ssl=tls)
        equal(await connection.fetchval("SELECT current_user"), os.environ["PGUSER"])
        equal(connection.get_server_version().major >= 14, True)
        await connection.close()
    await fails("28P01", connect(password="wrong"))
    await fails("3D000", connect(database="nowhere"))
    connection = await connect(user="old", password="old-secret")
    equal(await connection.fetchval("SELECT $1::int + 1", 41), 42)
    await connection.close()


async def types(connection):
    now = datetime.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=datetime.timezone.utc)
    values = [
        ("int", 7),
        ("int8", 2**40),
        ("numeric", decimal.Decimal("123456789.000000001")),
        ("text", "gr\u00fc\u00dfe \U0001f418"),
        ("bytea", bytes(range(256))),
        ("text", None),
        ("timestamptz", now),
        ("interval", datetime.timedelta(days=3, seconds=4)),
        ("uuid", uuid.UUID("12345678-1234-5678-1234-567812345678")),
        ("int[]", [1, 2, None]),
        ("text[]", ["a", "b,c", '"', None]),
        ("int[]", [[1, 2], [3, 4]]),
        ("jsonb", '{"a": [1, null]}'),
    ]
    row = await connection.fetchrow(
        "SELECT " + ", ".join(f"${n}::{kind}" for n, (kind, _) in enumerate(values, 1)), *[value for _, value in values]
    )
    equal(list(row.values()), [value for _, value in values])
    # These make it look into the catalogue.
    await connection.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')")
    await connection.execute("CREATE TYPE pair AS (n int, m mood)")
    await connection.execute("CREATE TABLE typed (m mood, p pair, ps pair[])")
    await connection.execute("INSERT INTO typed VALUES ($1, $2, $3)", "sad", (1, "happy"), [(2, "sad"), (3, None)])
    row = await connection.fetchrow("SELECT m, p, ps FROM typed WHERE m = $1", "sad")
    equal((row["m"], tuple(row["p"]), [tuple(p) for p in row["ps"]]), ("sad", (1, "happy"), [(2, "sad"), (3, None)]))
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    equal(await connection.fetchval("SELECT $1::jsonb", {"a": 1}), {"a": 1})
    await connection.execute("DROP TABLE typed; DROP TYPE pair; DROP TYPE mood")


async def prepared(connection):
    statement = await connection.prepare("SELECT $1::int * 2")
    for n in range(30):
        equal(await statement.fetchval(n), n * 2)
        equal(await connection.fetchval("SELECT $1::int + 1", n), n + 1)
    # More than its cache holds, so that it closes some.
    small = await connect(statement_cache_size=5)
    for n in range(100):
        equal(await small.fetchval(f"SELECT $1::int + {n % 12}", n), n + n % 12)
    none = await connect(statement_cache_size=0)
    for n in range(10):
        equal(await none.fetchval("SELECT $1::int", n), n)
    await small.close()
    await none.close()
    await connection.reload_schema_state()
    equal(await statement.fetchval(4), 8)


async def transactions(connection):
    await connection.execute("CREATE TABLE account (id int PRIMARY KEY, amount int CHECK (amount >= 0))")
    await connection.executemany("INSERT INTO account VALUES ($1, $2)", [(n, 100) for n in range(300)])
    async with connection.transaction():
        await connection.execute("UPDATE account SET amount = 70 WHERE id = $1", 1)
        try:
            async with connection.transaction():
                await connection.execute("UPDATE account SET amount = -1 WHERE id = 1")
        except asyncpg.CheckViolationError:
            pass
        equal(await connection.fetchval("SELECT amount FROM account WHERE id = 1"), 70)
    equal(await connection.fetchval("SELECT amount FROM account WHERE id = 1"), 70)
    transaction = connection.transaction(isolation="serializable")
    await transaction.start()
    await connection.execute("DELETE FROM account")
    await fails("42703", connection.fetch("SELECT nothing FROM account"))
    await fails("25P02", connection.fetch("SELECT 1"))
    await transaction.rollback()
    equal(await connection.fetchval("SELECT count(*) FROM account"), 300)
    for _ in range(5):
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            equal(await connection.fetchval("SELECT sum(amount) FROM account"), 29970)
    async with connection.transaction(readonly=True):
        await fails("25006", connection.execute("DELETE FROM account"))
    # All of a failed executemany is undone.
    await fails("23505", connection.executemany("INSERT INTO account VALUES ($1, 1)", [(1000,), (1001,), (1,)]))
    equal(await connection.fetchval("SELECT count(*) FROM account WHERE id >= 1000"), 0)
    await connection.execute("DROP TABLE account")


async def cursors(connection):
    async with connection.transaction():
        total = 0
        async for row in connection.cursor("SELECT generate_series(1, $1::int)", 2000, prefetch=100):
            total += row[0]
        equal(total, 2001000)
        cursor = await connection.cursor("SELECT n FROM generate_series(1, 100) n")
        equal((await cursor.fetchrow())[0], 1)
        equal(await cursor.forward(10), 10)
        equal([row[0] for row in await cursor.fetch(2)], [12, 13])
    rows = await connection.fetch("SELECT n, repeat('y', 50) FROM generate_series(1, 100000) n")
    equal((len(rows), tuple(rows[-1])), (100000, (100000, "y" * 50)))
    big = b"z" * 3_000_000
    equal(await connection.fetchval("SELECT $1::bytea", big), big)


async def copying(connection):
    await connection.execute("CREATE TABLE copied (n int PRIMARY KEY, t text)")
    records = [(n, None if n % 7 == 0 else f"row {n}") for n in range(20000)]
    equal(await connection.copy_records_to_table("copied", records=records), "COPY 20000")
    pieces = []

    async def take(data):
        pieces.append(data)

    await connection.copy_from_query("SELECT n, t FROM copied ORDER BY n", output=take, format="csv")
    lines = b"".join(pieces).decode().splitlines()
    equal((len(lines), lines[7], lines[8]), (20000, "7,", "8,row 8"))
    await fails("23505", connection.copy_records_to_table("copied", records=[(1, "again")]))
    equal(await connection.fetchval("SELECT count(*) FROM copied"), 20000)
    await connection.execute("DROP TABLE copied")


async def notifications(connection):
    heard, notices = asyncio.Queue(), []
    listener = await connect()
    await listener.add_listener("news", lambda _connection, _pid, channel, payload: heard.put_nowait((channel, payload)))
    connection.add_log_listener(lambda _connection, message: notices.append(message.message))
    await connection.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$")
    for n in range(3):
        await connection.execute("SELECT pg_notify('news', $1)", str(n))
    # Nothing is asked of the listener meanwhile: they come by themselves.
    for n in range(3):
        equal(await asyncio.wait_for(heard.get(), 30), ("news", str(n)))
    equal(notices, ["hello"])
    equal(await listener.fetchval("SELECT 1"), 1)
    await listener.close()


async def cancelling(connection):
    try:
        await connection.fetchval("SELECT pg_sleep(30)", timeout=0.1)
        raise AssertionError("no timeout")
    except asyncio.TimeoutError:
        pass
    for _ in range(10):
        equal(await connection.fetchval("SELECT 1"), 1)
    await connection.execute("SET statement_timeout = '50ms'")
    await fails("57014", connection.fetchval("SELECT pg_sleep(30)"))
    await connection.execute("RESET statement_timeout")


async def settings(connection):
    other = await connect(server_settings={"application_name": "reports", "timezone": "Asia/Kolkata", "enable_hashjoin": "off"})
    for _ in range(3):
        equal(await other.fetchval("SELECT '2024-01-01 00:00+00'::timestamptz::text"), "2024-01-01 05:30:00+05:30")
        equal(await other.fetchval("SHOW application_name"), "reports")
        equal(await other.fetchval("SHOW enable_hashjoin"), "off")
        equal(await connection.fetchval("SHOW enable_hashjoin"), "on")
    equal(other.get_settings().TimeZone, "Asia/Kolkata")
    await other.execute("SET search_path = pg_catalog")
    equal(await other.fetchval("SHOW search_path"), "pg_catalog")
    await other.reset()
    equal(await other.fetchval("SHOW search_path"), '"$user", public')
    equal(await other.fetchval("SHOW application_name"), "reports")
    await other.close()
    reader = await connect(server_settings={"default_transaction_read_only": "on"})
    await fails("25006", reader.execute("CREATE TABLE hidden (n int)"))
    equal(await reader.fetchval("SHOW transaction_read_only"), "on")
    await reader.close()


async def pooled():
    # What another session has written, a session sees at once only if it asks for it.
    strong = {"pgpilot.consistency": "strong"}
    async with asyncpg.create_pool(min_size=2, max_size=8, ssl="disable", server_settings=strong) as pool:
        await pool.execute("CREATE TABLE counters (id int PRIMARY KEY, n int)")
        await pool.execute("INSERT INTO counters SELECT g, 0 FROM generate_series(0, 19) g")

        async def work(me):
            for n in range(1, 11):
                async with pool.acquire() as connection:
                    await connection.execute("UPDATE counters SET n = n + 1 WHERE id = $1", me)
                    equal(await connection.fetchval("SELECT n FROM counters WHERE id = $1", me), n)
                    # What a user of the driver's pool leaves behind, the next one does not find.
                    equal(await connection.fetchval("SHOW work_mem"), "4MB")
                    await connection.execute("SET work_mem = '7MB'")
                    equal(await connection.fetchval("SHOW work_mem"), "7MB")

        await asyncio.gather(*[work(me) for me in range(20)])
        equal(await pool.fetchval("SELECT sum(n) FROM counters"), 200)
        await pool.execute("DROP TABLE counters")


async def own_settings(connection):
    """What only pgpilot knows, in the protocol that this driver speaks."""
    equal(await connection.fetchval("SHOW pgpilot.consistency"), "session")
    await connection.execute("SET pgpilot.consistency = 'eventual'")
    equal(await connection.fetchval("SHOW pgpilot.consistency"), "eventual")
    statement = await connection.prepare("SET pgpilot.consistency TO DEFAULT")
    await statement.fetch()
    equal(await connection.fetchval("SHOW pgpilot.consistency"), "session")
    await fails("42704", connection.fetchval("SHOW pgpilot.nonsense"))
    equal("/" in await connection.fetchval("SHOW pgpilot.lsn"), True)


async def main():
    steps = [types, prepared, transactions, cursors, copying, notifications, cancelling, settings]
    for step in (logging_in, pooled):
        print(step.__name__, flush=True)
        await step()
    connection = await connect()
    if "pgpilot" in sys.argv:
        await own_settings(connection)
    for step in steps:
        print(step.__name__, flush=True)
        await step(connection)
    # Plain reads, without a write or a transaction around them.
    for n in range(50):
        equal(await connection.fetchval("SELECT count(*) + $1::int FROM pg_class WHERE relname = 'pg_class'", n), n + 1)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(main(), 100))
    sys.exit(0)
