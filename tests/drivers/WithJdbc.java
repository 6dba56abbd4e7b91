import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.*;
import java.util.*;
import java.util.concurrent.*;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;
import org.postgresql.ds.PGSimpleDataSource;

/** What an application does with the JDBC driver, through the server that the PG* variables name. Fails at the first difference. */
public class WithJdbc {
    interface Act {
        void run() throws Exception;
    }

    static final String HOST = System.getenv("PGHOST"), DATABASE = System.getenv("PGDATABASE");
    static final int PORT = Integer.parseInt(System.getenv("PGPORT"));

    static void equal(Object found, Object expected) {
        if (!Objects.deepEquals(found, expected)) {
            throw new AssertionError(found + " instead of " + expected);
        }
    }

    static SQLException fails(String state, Act act) throws Exception {
        try {
            act.run();
        } catch (SQLException error) {
            equal(error.getSQLState() + " " + error.getMessage(), state + " " + error.getMessage());
            return error;
        }
        throw new AssertionError("no error, " + state + " expected");
    }

    /** What another session has written, a session sees at once only if it asks for it. */
    static final String STRONG = "-c pgpilot.consistency=strong";

    static Connection connect(String... more) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        properties.setProperty("sslmode", "disable");
        for (int i = 0; i < more.length; i += 2) {
            properties.setProperty(more[i], more[i + 1]);
        }
        return DriverManager.getConnection("jdbc:postgresql://" + HOST + ":" + PORT + "/" + DATABASE, properties);
    }

    static Object one(Connection connection, String sql, Object... arguments) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int i = 0; i < arguments.length; i++) {
                statement.setObject(i + 1, arguments[i]);
            }
            try (ResultSet rows = statement.executeQuery()) {
                rows.next();
                return rows.getObject(1);
            }
        }
    }

    static int run(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
            return statement.getUpdateCount();
        }
    }

    static void loggingIn() throws Exception {
        for (String mode : new String[] {"disable", "require", "verify-full"}) {
            try (Connection connection = connect("sslmode", mode, "sslrootcert", System.getenv("PGSSLROOTCERT"))) {
                equal(one(connection, "SELECT current_user"), System.getenv("PGUSER"));
                equal(connection.isValid(5), true);
                equal(connection.getMetaData().getDatabaseMajorVersion() >= 14, true);
            }
        }
        fails("28P01", () -> connect("password", "wrong"));
        try (Connection connection = connect("user", "old", "password", "old-secret")) {
            equal(one(connection, "SELECT ?::int + 1", 41), 42);
        }
    }

    static void types() throws Exception {
        try (Connection connection = connect()) {
            String sql = "SELECT ?::int8, ?::numeric, ?::text, ?::bytea, ?::int[], ?::jsonb, ?::timestamptz, ?::uuid, ?::bool";
            UUID uuid = UUID.fromString("12345678-1234-5678-1234-567812345678");
            Timestamp now = Timestamp.valueOf("2024-02-29 12:30:15.123456");
            byte[] bytes = new byte[256];
            for (int i = 0; i < 256; i++) {
                bytes[i] = (byte) i;
            }
            try (PreparedStatement statement = connection.prepareStatement(sql)) {
                // Beyond the fifth the driver prepares it on the server, and receives in binary.
                for (int n = 0; n < 12; n++) {
                    statement.setLong(1, 1L << 40);
                    statement.setBigDecimal(2, new BigDecimal("123456789.000000001"));
                    statement.setString(3, "gr\u00fc\u00dfe");
                    statement.setBytes(4, bytes);
                    statement.setArray(5, connection.createArrayOf("int4", new Object[] {1, 2, null}));
                    statement.setString(6, "{\"a\": [1, null]}");
                    statement.setTimestamp(7, now);
                    statement.setObject(8, uuid);
                    statement.setNull(9, Types.BOOLEAN);
                    try (ResultSet row = statement.executeQuery()) {
                        row.next();
                        equal(row.getLong(1), 1L << 40);
                        equal(row.getBigDecimal(2), new BigDecimal("123456789.000000001"));
                        equal(row.getString(3), "gr\u00fc\u00dfe");
                        equal(row.getBytes(4), bytes);
                        equal(row.getArray(5).getArray(), new Integer[] {1, 2, null});
                        equal(row.getString(6), "{\"a\": [1, null]}");
                        equal(row.getTimestamp(7), now);
                        equal(row.getObject(8), uuid);
                        equal(row.getObject(9), null);
                    }
                }
            }
        }
    }

    static void prepared() throws Exception {
        for (String mode : new String[] {"extended", "extendedForPrepared", "extendedCacheEverything", "simple"}) {
            try (Connection connection = connect("preferQueryMode", mode, "prepareThreshold", "3", "preparedStatementCacheQueries", "4")) {
                for (int n = 0; n < 40; n++) {
                    equal(one(connection, "SELECT ?::int + " + n % 6, n), n + n % 6);
                }
                try (PreparedStatement statement = connection.prepareStatement("SELECT ?::int * 2")) {
                    for (int n = 0; n < 20; n++) {
                        statement.setInt(1, n);
                        ResultSet rows = statement.executeQuery();
                        rows.next();
                        equal(rows.getInt(1), 2 * n);
                    }
                }
            }
        }
        try (Connection connection = connect("prepareThreshold", "-1")) {
            equal(one(connection, "SELECT ?::int", 1), 1);
            equal(one(connection, "SELECT ?::int", 2), 2);
        }
    }

    static void transactions() throws Exception {
        try (Connection connection = connect("options", STRONG)) {
            run(connection, "CREATE TABLE account (id int PRIMARY KEY, amount int CHECK (amount >= 0))");
            run(connection, "INSERT INTO account SELECT n, 100 FROM generate_series(1, 10) n");
            connection.setAutoCommit(false);
            run(connection, "UPDATE account SET amount = 70 WHERE id = 1");
            Savepoint savepoint = connection.setSavepoint();
            fails("23514", () -> run(connection, "UPDATE account SET amount = -1 WHERE id = 1"));
            fails("25P02", () -> run(connection, "SELECT 1"));
            connection.rollback(savepoint);
            equal(one(connection, "SELECT amount FROM account WHERE id = 1"), 70);
            connection.commit();
            run(connection, "DELETE FROM account");
            connection.rollback();
            equal(one(connection, "SELECT count(*) FROM account"), 10L);
            connection.commit();
            connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            equal(one(connection, "SHOW transaction_isolation"), "serializable");
            connection.commit();
            connection.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
            connection.setReadOnly(true);
            for (int n = 0; n < 10; n++) {
                equal(one(connection, "SELECT sum(amount) FROM account WHERE ? = ?", n, n), 970L);
                connection.commit();
            }
            fails("25006", () -> run(connection, "DELETE FROM account"));
            connection.rollback();
            connection.setReadOnly(false);
            connection.setAutoCommit(true);
            // Outside a transaction, and for the whole session.
            for (String mode : new String[] {"transaction", "always"}) {
                try (Connection reader = connect("readOnlyMode", mode, "options", STRONG)) {
                    reader.setReadOnly(true);
                    for (int n = 0; n < 10; n++) {
                        equal(one(reader, "SELECT count(*) FROM account"), 10L);
                    }
                    if (mode.equals("always")) {
                        fails("25006", () -> run(reader, "DELETE FROM account"));
                    }
                    reader.setReadOnly(false);
                    equal(run(reader, "UPDATE account SET amount = amount WHERE id = 2"), 1);
                }
            }
            try (Connection saving = connect("autosave", "always")) {
                saving.setAutoCommit(false);
                run(saving, "UPDATE account SET amount = 5 WHERE id = 3");
                fails("42P01", () -> run(saving, "SELECT * FROM nowhere"));
                equal(one(saving, "SELECT amount FROM account WHERE id = 3"), 5);
                saving.commit();
            }
            equal(one(connection, "SELECT amount FROM account WHERE id = 3"), 5);
            run(connection, "DROP TABLE account");
        }
    }

    static void batches() throws Exception {
        for (String rewrite : new String[] {"false", "true"}) {
            try (Connection connection = connect("reWriteBatchedInserts", rewrite)) {
                run(connection, "CREATE TABLE batched (n serial PRIMARY KEY, t text)");
                String sql = "INSERT INTO batched (t) VALUES (?)";
                try (PreparedStatement statement = connection.prepareStatement(sql)) {
                    for (int n = 0; n < 3000; n++) {
                        statement.setString(1, "row " + n);
                        statement.addBatch();
                    }
                    equal(statement.executeBatch().length, 3000);
                }
                equal(one(connection, "SELECT count(*) FROM batched"), 3000L);
                try (PreparedStatement statement = connection.prepareStatement(sql, Statement.RETURN_GENERATED_KEYS)) {
                    for (int n = 0; n < 10; n++) {
                        statement.setString(1, "key " + n);
                        statement.addBatch();
                    }
                    statement.executeBatch();
                    ResultSet keys = statement.getGeneratedKeys();
                    for (int n = 0; n < 10; n++) {
                        keys.next();
                        equal(keys.getInt(1), 3001 + n);
                    }
                }
                try (Statement statement = connection.createStatement()) {
                    statement.addBatch("INSERT INTO batched VALUES (9000, 'good')");
                    statement.addBatch("INSERT INTO batched VALUES (9000, 'twice')");
                    statement.addBatch("INSERT INTO batched VALUES (9001, 'never')");
                    SQLException error = fails("23505", () -> statement.executeBatch());
                    equal(error instanceof BatchUpdateException, true);
                }
                // Several statements in one string.
                try (Statement statement = connection.createStatement()) {
                    statement.execute("DELETE FROM batched WHERE n = 1; SELECT count(*) FROM batched WHERE n <= 3000");
                    equal(statement.getUpdateCount(), 1);
                    equal(statement.getMoreResults(), true);
                    ResultSet rows = statement.getResultSet();
                    rows.next();
                    equal(rows.getLong(1), 2999L);
                }
                run(connection, "DROP TABLE batched");
            }
        }
    }

    static void cursorsAndLargeResults() throws Exception {
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            try (PreparedStatement statement = connection.prepareStatement("SELECT n, repeat('x', 50) FROM generate_series(1, ?) n")) {
                // Portals that are suspended between fetches.
                statement.setFetchSize(100);
                for (int round = 0; round < 8; round++) {
                    statement.setInt(1, 1000);
                    long sum = 0;
                    try (ResultSet rows = statement.executeQuery()) {
                        while (rows.next()) {
                            sum += rows.getInt(1);
                        }
                    }
                    equal(sum, 500500L);
                }
            }
            connection.commit();
            connection.setAutoCommit(true);
            try (Statement statement = connection.createStatement()) {
                ResultSet rows = statement.executeQuery("SELECT n, repeat('y', 50) FROM generate_series(1, 100000) n");
                int count = 0;
                while (rows.next()) {
                    equal(rows.getInt(1), ++count);
                }
                equal(count, 100000);
                statement.setMaxRows(10);
                rows = statement.executeQuery("SELECT generate_series(1, 1000)");
                for (count = 0; rows.next(); count++) {}
                equal(count, 10);
            }
            char[] big = new char[3_000_000];
            Arrays.fill(big, 'z');
            equal(one(connection, "SELECT length(?::text)", new String(big)), 3_000_000);
        }
    }

    static void copying() throws Exception {
        try (Connection connection = connect()) {
            run(connection, "CREATE TABLE copied (n int PRIMARY KEY, t text)");
            CopyManager copier = connection.unwrap(PGConnection.class).getCopyAPI();
            StringBuilder data = new StringBuilder();
            for (int n = 0; n < 20000; n++) {
                data.append(n).append(n % 7 == 0 ? "\t\\N\n" : "\trow " + n + "\n");
            }
            equal(copier.copyIn("COPY copied FROM STDIN", new StringReader(data.toString())), 20000L);
            StringWriter out = new StringWriter();
            copier.copyOut("COPY (SELECT * FROM copied ORDER BY n) TO STDOUT", out);
            equal(out.toString(), data.toString());
            fails("23505", () -> copier.copyIn("COPY copied FROM STDIN", new StringReader("1\tagain\n")));
            equal(one(connection, "SELECT count(*) FROM copied"), 20000L);
            run(connection, "DROP TABLE copied");
        }
    }

    static void noticesAndNotifications() throws Exception {
        try (Connection listener = connect(); Connection speaker = connect()) {
            try (Statement statement = speaker.createStatement()) {
                statement.execute("DO $$ BEGIN RAISE NOTICE 'hello'; END $$");
                equal(statement.getWarnings().getMessage(), "hello");
            }
            run(listener, "LISTEN news");
            List<String> found = new ArrayList<>();
            for (int n = 0; n < 4; n++) {
                one(speaker, "SELECT pg_notify('news', ?)", "" + n);
            }
            long limit = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
            while (found.size() < 4 && System.nanoTime() < limit) {
                PGNotification[] heard = listener.unwrap(PGConnection.class).getNotifications(1000);
                for (PGNotification one : heard == null ? new PGNotification[0] : heard) {
                    found.add(one.getParameter());
                }
            }
            equal(found, List.of("0", "1", "2", "3"));
        }
    }

    /** The cancelled statement runs on the primary, so that another session knows where to look for it. */
    static final String ON_PRIMARY = "-c pgpilot.route=primary";

    static void cancelling() throws Exception {
        try (Connection connection = connect("options", ON_PRIMARY); Connection observer = connect("options", ON_PRIMARY)) {
            try (Statement statement = connection.createStatement()) {
                FutureTask<Void> cancel = new FutureTask<>(() -> {
                    // The driver says it once per statement, and a server that has not begun ignores it.
                    awaitSleeper(observer);
                    statement.cancel();
                    return null;
                });
                inBackground(cancel);
                fails("57014", () -> statement.execute("SELECT pg_sleep(60)"));
                cancel.get(30, TimeUnit.SECONDS);
            }
            for (int n = 0; n < 10; n++) {
                equal(one(connection, "SELECT ?::int", n), n);
            }
            try (Statement statement = connection.createStatement()) {
                statement.setQueryTimeout(2);
                fails("57014", () -> statement.execute("SELECT pg_sleep(60)"));
            }
            equal(one(connection, "SELECT 1"), 1);
        }
    }

    static void awaitSleeper(Connection observer) throws Exception {
        String asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE 'SELECT pg_sleep(60)'";
        long limit = System.nanoTime() + TimeUnit.SECONDS.toNanos(50);
        while (!one(observer, asked).equals(1L)) {
            equal(System.nanoTime() < limit, true);
            Thread.sleep(10);
        }
    }

    /** Keeps nobody from leaving. */
    static void inBackground(Runnable work) {
        Thread thread = new Thread(work);
        thread.setDaemon(true);
        thread.start();
    }

    static void settings() throws Exception {
        try (Connection plain = connect();
                Connection connection = connect("ApplicationName", "reports", "currentSchema", "elsewhere,public", "options", "-c work_mem=7MB " + STRONG)) {
            run(plain, "CREATE SCHEMA elsewhere");
            run(plain, "CREATE TABLE elsewhere.things (n int)");
            run(plain, "INSERT INTO elsewhere.things VALUES (5)");
            for (int n = 0; n < 8; n++) {
                equal(one(connection, "SELECT n FROM things WHERE ? = ?", n, n), 5);
                fails("42P01", () -> one(plain, "SELECT n FROM things"));
                equal(one(connection, "SHOW work_mem"), "7MB");
                equal(one(plain, "SHOW work_mem"), "4MB");
                equal(one(connection, "SHOW application_name"), "reports");
            }
            connection.setSchema("pg_catalog");
            equal(connection.getSchema(), "pg_catalog");
            connection.setClientInfo("ApplicationName", "other");
            equal(one(connection, "SHOW application_name"), "other");
            equal(plain.getSchema(), "public");
            run(plain, "DROP SCHEMA elsewhere CASCADE");
        }
    }

    static void catalogue() throws Exception {
        try (Connection connection = connect()) {
            run(connection, "CREATE TABLE described (id int PRIMARY KEY, name text NOT NULL)");
            DatabaseMetaData data = connection.getMetaData();
            List<String> names = new ArrayList<>();
            try (ResultSet columns = data.getColumns(null, "public", "described", "%")) {
                while (columns.next()) {
                    names.add(columns.getString("COLUMN_NAME"));
                }
            }
            equal(names, List.of("id", "name"));
            try (ResultSet keys = data.getPrimaryKeys(null, "public", "described")) {
                keys.next();
                equal(keys.getString("COLUMN_NAME"), "id");
            }
            run(connection, "DROP TABLE described");
        }
    }

    static void pooled() throws Exception {
        PGSimpleDataSource source = new PGSimpleDataSource();
        source.setServerNames(new String[] {HOST});
        source.setPortNumbers(new int[] {PORT});
        source.setDatabaseName(DATABASE);
        source.setUser(System.getenv("PGUSER"));
        source.setPassword(System.getenv("PGPASSWORD"));
        source.setSslMode("disable");
        source.setOptions(STRONG);
        try (Connection connection = source.getConnection()) {
            run(connection, "CREATE TABLE counters (id int PRIMARY KEY, n int)");
            run(connection, "INSERT INTO counters SELECT g, 0 FROM generate_series(0, 7) g");
        }
        // A pool as frameworks have it: fewer connections than workers, checked before each use.
        BlockingQueue<Connection> pool = new LinkedBlockingQueue<>();
        for (int n = 0; n < 4; n++) {
            pool.add(source.getConnection());
        }
        ExecutorService workers = Executors.newFixedThreadPool(8);
        List<Future<?>> work = new ArrayList<>();
        for (int worker = 0; worker < 8; worker++) {
            int me = worker;
            work.add(workers.submit(() -> {
                for (int n = 1; n <= 25; n++) {
                    Connection connection = pool.take();
                    equal(connection.isValid(5), true);
                    connection.setAutoCommit(false);
                    one(connection, "UPDATE counters SET n = n + 1 WHERE id = ? RETURNING n", me);
                    connection.commit();
                    connection.setAutoCommit(true);
                    equal(one(connection, "SELECT n FROM counters WHERE id = ?", me), n);
                    pool.put(connection);
                }
                return null;
            }));
        }
        for (Future<?> done : work) {
            done.get(60, TimeUnit.SECONDS);
        }
        workers.shutdown();
        for (Connection connection : pool) {
            connection.close();
        }
        try (Connection connection = source.getConnection()) {
            equal(one(connection, "SELECT sum(n) FROM counters"), 200L);
            run(connection, "DROP TABLE counters");
        }
    }

    static void step(String name, Act act) throws Exception {
        System.out.println(name);
        act.run();
    }

    public static void main(String[] arguments) {
        try {
            everything();
        } catch (Throwable failure) {
            failure.printStackTrace();
            System.exit(1);
        }
        // Whatever thread still runs.
        System.exit(0);
    }

    static void everything() throws Exception {
        step("logging in", WithJdbc::loggingIn);
        step("types", WithJdbc::types);
        step("prepared", WithJdbc::prepared);
        step("transactions", WithJdbc::transactions);
        step("batches", WithJdbc::batches);
        step("cursors and large results", WithJdbc::cursorsAndLargeResults);
        step("copying", WithJdbc::copying);
        step("notices and notifications", WithJdbc::noticesAndNotifications);
        step("cancelling", WithJdbc::cancelling);
        step("settings", WithJdbc::settings);
        step("catalogue", WithJdbc::catalogue);
        step("pooled", WithJdbc::pooled);
    }
}
