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
use crate::decide::route::{NodeId, NodeView, Role, Snapshot, State};

/// The verifiers that have been read, and the connection that reads them.
#[derive(Default)]
pub(super) struct Verifiers {
    known: Mutex<HashMap<Box<str>, Known>>,
    reader: Mutex<Option<Arc<VerifierReader>>>,
}

struct VerifierReader {
    node: NodeId,
    client: Client,
    _driver: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Known {
    /// `None`: there is no such user, or it has no password.
    verifier: Option<Arc<Verifier>>,
    read_at: Instant,
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

/// For so long nothing is asked again: a flood of logins is no flood of questions.
const NEW: Duration = Duration::from_secs(1);
/// Names that are tried do not fill the memory.
const MAX_KNOWN: usize = 10_000;
const LIMIT: Duration = Duration::from_secs(5);
/// A node that has not answered by then has stopped, most likely; another one is asked, if there is one.
const PATIENCE: Duration = Duration::from_millis(1500);

impl Verifiers {
    /// What `user`'s password is checked against; `None` if there is nothing, which the client must not learn. One that
    /// was read before serves as long as `auth.verifier_ttl` while no node can be asked.
    pub(super) async fn of(&self, user: &str, shared: &Shared) -> Result<Option<Arc<Verifier>>, VerifierError> {
        let config = shared.config.load_full();
        let known = self.known(user);
        if let Some(known) = known.as_ref().filter(|known| known.read_at.elapsed() < NEW) {
            return Ok(known.verifier.clone());
        }
        let verifier = match self.read(user, &config, shared).await {
            Ok(verifier) => verifier.map(Arc::new),
            Err(error) if error.is_the_servers_word() => return Err(error),
            Err(error) => {
                let known = known.filter(|known| known.read_at.elapsed() < config.auth.verifier_ttl);
                return known.map(|known| known.verifier).ok_or(error);
            }
        };
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
        let until = Instant::now() + LIMIT;
        let mut failure = None;
        let mut asked = Vec::new();
        loop {
            let snapshot = shared.cluster.snapshot();
            let (node, more) = {
                let mut nodes = candidates(&snapshot, &asked);
                (nodes.next(), nodes.next().is_some())
            };
            let Some(node) = node else {
                if let Some(failure) = failure {
                    return Err(failure);
                }
                if Instant::now() >= until {
                    return Err(VerifierError::NoNode);
                }
                // Nothing has been discovered yet, or everything is down: that may change.
                drop(shared.cluster.wait_change(&snapshot, until).await);
                continue;
            };
            let patience = if more { PATIENCE } else { LIMIT };
            let limit = until.min(Instant::now() + patience);
            match tokio::time::timeout_at(limit.into(), self.ask(node, user, query, config)).await {
                Ok(Ok(verifier)) => return Ok(verifier),
                // What the query has done wrong there it does wrong everywhere.
                Ok(Err(error @ VerifierError::Query(_))) if error.is_the_servers_word() => return Err(error),
                Ok(Err(error)) => failure = Some(error),
                Err(_) => failure = Some(VerifierError::TimedOut),
            }
            self.forget_reader(node.id);
            shared.cluster.nudge(node.id);
            asked.push(node.id);
        }
    }

    async fn ask(
        &self,
        node: &NodeView,
        user: &str,
        query: &AuthQuery,
        config: &Config,
    ) -> Result<Option<Verifier>, VerifierError> {
        let reader = self.reader(node, query, config).await?;
        let row = reader.client.query_opt(&query.sql, &[&user]).await?;
        let text = row.map(|row| row.try_get::<_, Option<String>>(1)).transpose()?.flatten();
        // A password that is none of the known forms lets nobody in, as in PostgreSQL.
        Ok(text.and_then(|text| Verifier::parse(&text).ok()))
    }

    /// The connection that is kept, if it leads to this node, or a new one.
    async fn reader(
        &self,
        view: &NodeView,
        query: &AuthQuery,
        config: &Config,
    ) -> Result<Arc<VerifierReader>, VerifierError> {
        let kept = self.reader.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(reader) = kept.filter(|reader| reader.node == view.id && !reader.client.is_closed()) {
            return Ok(reader);
        }
        let login = Health { user: query.user.clone(), password: query.password.clone(), ..config.health.clone() };
        let node = config.nodes.iter().find(|node| node.name == view.name).ok_or(VerifierError::NoNode)?;
        let (client, driver) = connect_control(node, &login, &query.database)
            .await
            .map_err(|error| VerifierError::Connect(error.to_string()))?;
        let reader = Arc::new(VerifierReader { node: view.id, client, _driver: driver });
        *self.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(reader.clone());
        Ok(reader)
    }

    fn forget_reader(&self, node: NodeId) {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).take_if(|reader| reader.node == node);
    }
}

impl VerifierError {
    /// Whether a server has answered, with an error.
    fn is_the_servers_word(&self) -> bool {
        matches!(self, Self::Query(error) if error.code().is_some_and(|code| !code.code().starts_with("57P0")))
    }
}

/// Who can be asked: the primary, or else any node that answers.
fn candidates<'a>(snapshot: &'a Snapshot, asked: &[NodeId]) -> impl Iterator<Item = &'a NodeView> {
    let usable = |node: &&NodeView| node.state == State::Up && !asked.contains(&node.id);
    let is_primary = |node: &&NodeView| node.role == Role::Primary;
    let primaries = snapshot.nodes.iter().filter(move |node| usable(node) && is_primary(node));
    primaries.chain(snapshot.nodes.iter().filter(move |node| usable(node) && !is_primary(node)))
}
