//! Connections for pgpilot's own work on the servers.

use std::error::Error as _;
use std::io;

use tokio_postgres::{Client, Config, NoTls};
use tokio_util::task::AbortOnDropHandle;

use crate::config::{Health, Node};
use crate::net::tls::Attempt;
use crate::net::{OpenError, Target};

/// Why pgpilot's own questions are not answered.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("{}", with_cause(.0))]
    Server(#[from] tokio_postgres::Error),
}

/// tokio-postgres keeps what the server said behind a general word.
fn with_cause(error: &tokio_postgres::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// Opens a connection for pgpilot's own questions, encrypted as the node's settings say. The caller limits the time.
///
/// # Errors
/// Those of the connection; [`refusal_of`] says what they tell of the node.
///
/// # Cancel safety
/// Closes the half-open connection.
pub async fn connect_control(
    node: &Node,
    health: &Health,
    database: &str,
) -> Result<(Client, AbortOnDropHandle<()>), ControlError> {
    // Nothing that a role or a database sets may change the questions' meaning.
    let options = "-c search_path=pg_catalog -c jit=off -c statement_timeout=0 -c row_security=on";
    connect_with(options, node, health, database).await
}

/// As [`connect_control`], but the connection can be asked which `search_path` others find.
///
/// # Errors
/// Those of [`connect_control`].
///
/// # Cancel safety
/// Closes the half-open connection.
pub(super) async fn connect_guest(
    node: &Node,
    health: &Health,
    database: &str,
) -> Result<(Client, AbortOnDropHandle<()>), ControlError> {
    let (client, driver) =
        connect_with("-c jit=off -c statement_timeout=0 -c row_security=on", node, health, database).await?;
    client.batch_execute("SET search_path = pg_catalog").await?;
    Ok((client, driver))
}

async fn connect_with(
    options: &str,
    node: &Node,
    health: &Health,
    database: &str,
) -> Result<(Client, AbortOnDropHandle<()>), ControlError> {
    let mut config = Config::new();
    config.user(&health.user).dbname(database).application_name("pgpilot").options(options);
    if let Some(password) = &health.password {
        config.password(password.expose());
    }
    let target = Target::try_from(node).map_err(OpenError::from)?;
    let mut outcome = Err(OpenError::from(io::Error::from(io::ErrorKind::NotConnected)).into());
    for attempt in target.attempts() {
        outcome = log_in(&target, *attempt, &config).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn log_in(
    target: &Target,
    attempt: Attempt,
    config: &Config,
) -> Result<(Client, AbortOnDropHandle<()>), ControlError> {
    let secured = target.open_by(attempt).await?;
    // The stream is encrypted already where it has to be.
    let (client, connection) = config.connect_raw(secured.stream, NoTls).await?;
    // An error of the connection shows in the query that it ends.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok((client, AbortOnDropHandle::new(driver)))
}
