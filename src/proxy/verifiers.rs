//! What clients' passwords are checked against: the topology file's passwords, or the server's own verifiers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use tokio_util::task::AbortOnDropHandle;

use super::shared::Shared;
use crate::cluster::connect_control;
use crate::config::{AuthQuery, Config, Health};
use crate::decide::auth::Verifier;
use crate::decide::route::{Role, Snapshot, State};

/// The verifiers that have been read, and the connection that reads them.
#[derive(Default)]
pub(super) struct Verifiers {
    known: Mutex<HashMap<Box<str>, Known>>,
    reader: Mutex<Option<Arc<VerifierReader>>>,
}

struct VerifierReader {
    client: Client,
    _driver: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Known {
    /// `None`: there is no such user, or it has no password.
    verifier: Option<Arc<Verifier>>,
    read_at: Instant,
}

/// Whether a verifier that was read a while ago will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    AsConfigured,
    /// A login has just failed: the password may have been changed.
    New,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum VerifierError {
    #[error("no node can be asked for verifiers")]
    NoNode,
    #[error("auth.query failed: {0}")]
    Query(#[from] tokio_postgres::Error),
    #[error("cannot connect for auth.query: {0}")]
    Connect(String),
    #[error("auth.query took too long")]
    TimedOut,
}

/// A wrong password does not make pgpilot ask more often than this.
const NEW: Duration = Duration::from_secs(1);
/// Names that are tried do not fill the memory.
const MAX_KNOWN: usize = 10_000;
const LIMIT: Duration = Duration::from_secs(5);

impl Verifiers {
    /// What `user`'s password is checked against; `None` if there is nothing, which the client must not learn.
    pub(super) async fn of(
        &self,
        user: &str,
        age: Age,
        shared: &Shared,
    ) -> Result<Option<Arc<Verifier>>, VerifierError> {
        let config = shared.config.load_full();
        let limit = match age {
            Age::AsConfigured => config.auth.verifier_ttl,
            Age::New => NEW,
        };
        if let Some(known) = self.known(user).filter(|known| known.read_at.elapsed() < limit) {
            return Ok(known.verifier);
        }
        let verifier = self.read(user, &config, shared).await?.map(Arc::new);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(user.into(), Known { verifier: verifier.clone(), read_at: Instant::now() });
        Ok(verifier)
    }

    /// The topology file has changed.
    pub(super) fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn known(&self, user: &str) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(user).cloned()
    }

    async fn read(&self, user: &str, config: &Config, shared: &Shared) -> Result<Option<Verifier>, VerifierError> {
        let configured = config.users.iter().find(|known| known.name == user).and_then(|known| known.password.clone());
        if let Some(password) = configured {
            let mut salt = [0; 16];
            getrandom::fill(&mut salt).map_err(|error| VerifierError::Connect(error.to_string()))?;
            return Ok(Some(Verifier::from_setting(password, salt)));
        }
        let Some(query) = &config.auth.query else { return Ok(None) };
        let read = async {
            let reader = loop {
                let snapshot = shared.cluster.snapshot();
                match self.reader(query, config, &snapshot).await {
                    // Nothing has been discovered yet, or everything is down: that may change.
                    Err(VerifierError::NoNode) => {
                        drop(shared.cluster.wait_change(&snapshot, Instant::now() + LIMIT).await)
                    }
                    reader => break reader?,
                }
            };
            let row = reader.client.query_opt(&query.sql, &[&user]).await?;
            let text = row.map(|row| row.try_get::<_, Option<String>>(1)).transpose()?.flatten();
            // A password that is none of the known forms lets nobody in, as in PostgreSQL.
            Ok(text.and_then(|text| Verifier::parse(&text).ok()))
        };
        tokio::time::timeout(LIMIT, read).await.unwrap_or(Err(VerifierError::TimedOut))
    }

    /// The connection that is kept, or a new one: to the primary, or to any node that answers.
    async fn reader(
        &self,
        query: &AuthQuery,
        config: &Config,
        snapshot: &Snapshot,
    ) -> Result<Arc<VerifierReader>, VerifierError> {
        let kept = self.reader.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reader) = kept.filter(|reader| !reader.client.is_closed()) {
            return Ok(reader);
        }
        let login = Health { user: query.user.clone(), password: query.password.clone(), ..config.health.clone() };
        let mut nodes: Vec<_> = snapshot.nodes.iter().filter(|node| node.state == State::Up).collect();
        nodes.sort_by_key(|node| node.role != Role::Primary);
        let mut failure = VerifierError::NoNode;
        for view in nodes {
            let Some(node) = config.nodes.iter().find(|node| node.name == view.name) else { continue };
            match connect_control(node, &login, &query.database).await {
                Ok((client, driver)) => {
                    let reader = Arc::new(VerifierReader { client, _driver: driver });
                    *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader.clone());
                    return Ok(reader);
                }
                Err(error) => failure = VerifierError::Connect(error.to_string()),
            }
        }
        Err(failure)
    }
}
