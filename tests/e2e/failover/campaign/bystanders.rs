//! Others at work meanwhile: nobody counts what they do, but what they are told has to be true.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use tokio_postgres::{Client, Error};

use super::Seen;

/// What one of them does again and again.
#[derive(Debug, Clone, Copy)]
pub(super) enum Bystander {
    /// Reads a result that is longer than all buffers, and looks at every row.
    Streams,
    /// Reads twice in one transaction on a replica.
    Compares,
    /// Changes a table that the one before reads.
    Defines,
    /// Keeps something on its connection.
    Keeps,
}

impl Bystander {
    pub(super) const ALL: [Self; 4] = [Self::Streams, Self::Compares, Self::Defines, Self::Keeps];

    /// Until the campaign is over.
    pub(super) async fn work(self, client: Client, seen: Arc<Seen>) {
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        // Servers are being lost already.
        while client.batch_execute("CREATE TABLE IF NOT EXISTS defined (n bigint)").await.is_err() {
            pace.tick().await;
        }
        while !seen.stop.load(Ordering::Relaxed) {
            let outcome = match self {
                Self::Streams => streams(&client).await,
                Self::Compares => compares(&client).await,
                Self::Defines => {
                    client
                        .batch_execute(
                            "ALTER TABLE defined ALTER n SET DEFAULT 1; ALTER TABLE defined ALTER n DROP DEFAULT",
                        )
                        .await
                }
                Self::Keeps => keeps(&client).await,
            };
            if let Err(error) = outcome {
                let error = error.as_db_error().unwrap_or_else(|| panic!("{self:?}: {error:?}"));
                let told = ["08006", "08007", "57P01", "57P03", "40001", "40P01", "42P01", "25P02"];
                assert!(told.contains(&error.code().code()), "{self:?}: {error:?}");
                // Whatever became of its transaction, it is over.
                let _ = client.batch_execute("ROLLBACK").await;
            }
            assert!(!client.is_closed(), "pgpilot has closed the connection of one who {self:?}");
            pace.tick().await;
        }
    }
}

async fn streams(client: &Client) -> Result<(), Error> {
    let sql = "/* pgpilot: primary */ SELECT n, repeat('x', 1000) FROM generate_series(1, 2000) n";
    let mut rows = pin!(client.query_raw(sql, std::iter::empty::<i32>()).await?);
    let (mut expected, text) = (0, "x".repeat(1000));
    while let Some(row) = rows.try_next().await? {
        expected += 1;
        assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (expected, text.as_str()));
    }
    assert_eq!(expected, 2000);
    Ok(())
}

async fn compares(client: &Client) -> Result<(), Error> {
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let count = "SELECT count(*) FROM defined";
    let first: i64 = client.query_one(count, &[]).await?.get(0);
    let second: i64 = client.query_one(count, &[]).await?.get(0);
    assert_eq!(first, second);
    client.batch_execute("COMMIT").await
}

async fn keeps(client: &Client) -> Result<(), Error> {
    client.batch_execute("CREATE TEMP TABLE kept AS SELECT 7 AS n").await?;
    let kept: i32 = client.query_one("SELECT n FROM kept", &[]).await?.get(0);
    assert_eq!(kept, 7);
    client.batch_execute("DROP TABLE kept").await
}
