//! Talking to the admin console of a running pgpilot.

use std::error::Error as _;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::timeout;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Row};
use tokio_util::task::AbortOnDropHandle;

use super::arguments::Remote;
use super::exit::Failure;
use super::output::{self, Rows};
use super::place::Place;
use crate::net::Stream;

/// To be logged in.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection to an admin console.
pub(super) struct Console {
    client: Client,
    _driver: AbortOnDropHandle<()>,
}

impl Console {
    pub(super) async fn connect(remote: &Remote) -> Result<Self, Failure> {
        Self::connect_with(remote, Notices::Printed).await
    }

    pub(super) async fn connect_with(remote: &Remote, notices: Notices) -> Result<Self, Failure> {
        let place = Place::of(remote)?;
        let (client, mut connection) = match timeout(CONNECT, log_in(&place)).await {
            Ok(connected) => connected?,
            Err(_) => return Err(Failure::unreachable(anyhow::anyhow!("no answer within {CONNECT:?}"))),
        };
        let driver = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notice(notice) = message {
                    notices.take(notice.message());
                }
            }
        });
        Ok(Self { client, _driver: AbortOnDropHandle::new(driver) })
    }

    pub(super) async fn rows(&self, command: &str) -> Result<Rows, Failure> {
        let statement = self.client.prepare(command).await.map_err(|error| said(&error))?;
        let columns = statement.columns().iter().map(|column| column.name().to_owned()).collect();
        let rows = self.client.query(&statement, &[]).await.map_err(|error| said(&error))?;
        let rows = rows.iter().map(values).collect::<Result<_, _>>().map_err(Failure::failed)?;
        Ok(Rows { columns, rows })
    }

    pub(super) async fn run(&self, command: &str) -> Result<(), Failure> {
        self.try_run(command).await.map_err(|error| said(&error))
    }

    pub(super) async fn try_run(&self, command: &str) -> Result<(), tokio_postgres::Error> {
        self.client.batch_execute(command).await
    }
}

/// What becomes of the console's notices: they are for whoever gave the command.
pub(super) enum Notices {
    Printed,
    Kept(Notes),
}

/// Notices that were kept. Those of a command are there when it is done.
#[derive(Clone, Default)]
pub(super) struct Notes(Arc<Mutex<Vec<String>>>);

impl Notices {
    /// The second sees what the first takes.
    pub(super) fn kept() -> (Self, Notes) {
        let notes = Notes::default();
        (Self::Kept(notes.clone()), notes)
    }

    fn take(&self, message: &str) {
        match self {
            Self::Printed => output::complain(&format!("note: {message}")),
            Self::Kept(notes) => notes.lock().push(message.to_owned()),
        }
    }
}

impl Notes {
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// To the first that answers, in the first way that it takes.
async fn log_in(place: &Place) -> Result<(Client, Connection<Stream, NoTlsStream>), Failure> {
    let mut failure = None;
    for target in &place.targets {
        for attempt in target.attempts() {
            let opened = target.open_by(*attempt).await;
            // The stream is encrypted already where it has to be.
            let outcome = match opened {
                Ok(secured) => place.login.connect_raw(secured.stream, NoTls).await.map_err(|e| not_connected(&e)),
                Err(error) => Err(Failure::unreachable(error)),
            };
            match outcome {
                Ok(connected) => return Ok(connected),
                Err(error) => failure = Some(error),
            }
        }
    }
    Err(failure.unwrap_or_else(|| Failure::unreachable(anyhow::anyhow!("nowhere to connect to"))))
}

/// A server that answers with an error refuses; all else is that nobody could be reached.
fn not_connected(error: &tokio_postgres::Error) -> Failure {
    match error.as_db_error() {
        Some(_) => said(error),
        None => Failure::unreachable(anyhow::anyhow!("{}", with_cause(error))),
    }
}

pub(super) fn said(error: &tokio_postgres::Error) -> Failure {
    let Some(said) = error.as_db_error() else {
        return Failure::failed(anyhow::anyhow!("{}", with_cause(error)));
    };
    let hint = said.hint().map(|hint| format!("\n{hint}")).unwrap_or_default();
    Failure::failed(anyhow::anyhow!("{} ({}){hint}", said.message(), said.code().code()))
}

pub(super) fn with_cause(error: &tokio_postgres::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

fn values(row: &Row) -> Result<Vec<Value>, tokio_postgres::Error> {
    let value = |number: usize| {
        Ok(match *row.columns()[number].type_() {
            Type::INT8 => row.try_get::<_, Option<i64>>(number)?.into(),
            Type::FLOAT8 => row.try_get::<_, Option<f64>>(number)?.into(),
            Type::BOOL => row.try_get::<_, Option<bool>>(number)?.into(),
            _ => row.try_get::<_, Option<String>>(number)?.into(),
        })
    };
    (0..row.len()).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::FileArguments;
    use crate::cli::exit::Exit;

    fn remote(url: &str) -> Remote {
        Remote { url: Some(url.to_owned()), file: FileArguments { config: None } }
    }

    #[tokio::test]
    async fn nobody_there_is_not_the_same_as_refused() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let failure = Console::connect(&remote(&format!("postgresql://127.0.0.1:{port}"))).await.err().unwrap();
        assert_eq!(failure.exit, Exit::Unreachable);
    }
}
