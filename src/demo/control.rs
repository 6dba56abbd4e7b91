//! Talking SQL to a node, as the superuser over its private Unix socket.

use std::ops::Deref;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::error::Error;
use super::node::Node;
use super::template::SUPERUSER;
use super::wait::LIMIT;

/// An open control connection; it closes when this is dropped.
#[derive(Debug)]
pub struct Session {
    client: Client,
    driver: JoinHandle<()>,
}

/// One row, every column as text; `None` is NULL.
pub type Row = Vec<Option<String>>;

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Node {
    /// Connects to the database `postgres` as its superuser.
    pub async fn connect(&self) -> Result<Session, Error> {
        self.connect_to("postgres").await
    }

    pub async fn connect_to(&self, database: &str) -> Result<Session, Error> {
        let mut config = Config::new();
        config.host_path(self.socket_directory()).port(self.port()).user(SUPERUSER).dbname(database);
        config.application_name("control");
        let connecting = config.connect(NoTls);
        let (client, connection) = self.limited(LIMIT, "connecting", connecting).await?;
        // An error of the connection shows in the next query.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Session { client, driver })
    }

    /// How anybody else connects: over TCP, with a password. The superuser `postgres` has the password `postgres`.
    pub fn config(&self, user: &str, password: &str) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port()).user(user).password(password).dbname("postgres");
        config
    }

    /// Runs statements over a new connection and returns the rows of all of them.
    pub async fn sql(&self, sql: &str) -> Result<Vec<Row>, Error> {
        self.sql_within(LIMIT, sql).await
    }

    /// The first column of the first row; `None`: no row, or NULL.
    pub async fn value(&self, sql: &str) -> Result<Option<String>, Error> {
        Ok(self.sql(sql).await?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    pub(super) async fn sql_within(&self, limit: Duration, sql: &str) -> Result<Vec<Row>, Error> {
        let session = match timeout(limit, self.connect()).await {
            Ok(session) => session?,
            Err(_) => return Err(self.too_slow(limit, "connecting")),
        };
        let messages = self.limited(limit, sql, session.simple_query(sql)).await?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
            _ => None,
        });
        Ok(rows.collect())
    }

    async fn limited<T>(
        &self,
        limit: Duration,
        what: &str,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        match timeout(limit, work).await {
            Ok(done) => done.map_err(|source| Error::Sql { node: self.name().to_owned(), source }),
            Err(_) => Err(self.too_slow(limit, what)),
        }
    }

    fn too_slow(&self, limit: Duration, what: &str) -> Error {
        Error::Timeout { what: format!("node {}: {what}", self.name()), limit, log: String::new() }
    }
}
