//! `pgpilot demo --load`: a small shop that reads more than it writes.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_postgres::{Client, Config, Error, NoTls};
use tokio_util::task::AbortOnDropHandle;

const CLIENTS: usize = 4;
/// Of each client.
const PACE: Duration = Duration::from_millis(10);
/// After an error, before the next connection.
const PAUSE: Duration = Duration::from_millis(500);
const ORDERS: u32 = 1000;

/// Goes on until it is dropped; what fails is tried again.
pub(super) async fn run(config: Config) {
    while set_up(&config).await.is_err() {
        sleep(PAUSE).await;
    }
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let config = config.clone();
        clients.spawn(async move {
            loop {
                // A failover, a restart: the view shows it.
                let _: Result<(), Error> = shop(&config).await;
                sleep(PAUSE).await;
            }
        });
    }
    clients.join_all().await;
}

async fn connect(config: &Config) -> Result<(Client, AbortOnDropHandle<()>), Error> {
    let (client, connection) = config.connect(NoTls).await?;
    Ok((client, AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }))))
}

async fn set_up(config: &Config) -> Result<(), Error> {
    let (client, _driver) = connect(config).await?;
    let sql = "CREATE TABLE IF NOT EXISTS orders (id bigserial PRIMARY KEY, item int4 NOT NULL, sold timestamptz DEFAULT now())";
    client.batch_execute(sql).await
}

/// Nine reads, one write; every now and then a transaction.
async fn shop(config: &Config) -> Result<(), Error> {
    let (mut client, _driver) = connect(config).await?;
    let insert = client.prepare("INSERT INTO orders (item) VALUES ($1)").await?;
    let select = client.prepare("SELECT count(*) FROM orders WHERE item = $1").await?;
    let trim = client.prepare("DELETE FROM orders WHERE id < (SELECT max(id) FROM orders) - $1").await?;
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let item = i32::try_from(fastrand::u32(..100)).unwrap_or_default();
        match fastrand::u8(..100) {
            0..8 => drop(client.execute(&insert, &[&item]).await?),
            8..9 => drop(client.execute(&trim, &[&i64::from(ORDERS)]).await?),
            9..10 => {
                let transaction = client.transaction().await?;
                transaction.execute(&insert, &[&item]).await?;
                transaction.query_one(&select, &[&item]).await?;
                transaction.commit().await?;
            }
            _ => drop(client.query_one(&select, &[&item]).await?),
        }
    }
}
