//! Opening a connection to a server: TCP or Unix socket, TLS, start-up, login.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::cancel::{CancelKey, Requests};
use super::connection::{QueryError, SequenceState, ServerConnection};
use crate::decide::auth::{Credential, LoginError, LoginStep, ServerLogin};
use crate::decide::pool::PoolIndex;
use crate::decide::route::NodeId;
use crate::decide::session::{ParameterMap, ServerStatements, Settings};
use crate::net::tls::{Attempt, Secured};
use crate::net::{OpenError, Target};
use crate::wire::backend::{self, ErrorView};
use crate::wire::{HEADER_LEN, SqlState, WireError, startup};

/// As whom, and to what.
#[derive(Clone)]
pub struct Login {
    pub user: Arc<str>,
    pub database: Arc<str>,
    pub credential: Credential,
}

/// What every connection of a node has in common.
pub(super) struct Terms {
    pub node: NodeId,
    pub pool: PoolIndex,
    pub connect_timeout: Duration,
    pub max_lifetime: Duration,
    pub max_prepared: usize,
    pub generation: u64,
    /// What the start-up packet says beside user and database.
    pub parameters: &'static [(&'static str, &'static str)],
}

#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    #[error("cannot connect: timed out")]
    TimedOut,
    /// The server refused, in its own words. Those are about the user's own login, so the user may read them.
    #[error("{message}")]
    Refused { code: SqlState, message: String },
    #[error("login: {0}")]
    Login(#[from] LoginError),
    #[error("not the PostgreSQL protocol: {0}")]
    Wire(#[from] WireError),
}

impl DialError {
    /// Whether the node itself, and not this user's login, is the trouble.
    pub fn is_about_the_node(&self) -> bool {
        match self {
            Self::Open(_) | Self::Io(_) | Self::TimedOut | Self::Wire(_) => true,
            Self::Refused { code, .. } => {
                matches!(*code, SqlState::CANNOT_CONNECT_NOW | SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN)
            }
            Self::Login(_) => false,
        }
    }
}

impl From<QueryError> for DialError {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Server { code, message } => Self::Refused { code, message },
            QueryError::Lost(error) => Self::Io(error),
            QueryError::Wire(error) => Self::Wire(error),
        }
    }
}

/// Opens a connection for pgpilot's own questions, which is in no pool. The start-up packet says `parameters`, too. Also
/// returns the credential to use next time.
///
/// # Errors
/// Those of the connection and the login; [`DialError::TimedOut`] after `limit`.
///
/// # Cancel safety
/// Closes the half-open connection.
pub async fn dial_own(
    target: Arc<Target>,
    login: Login,
    node: NodeId,
    limit: Duration,
    parameters: &'static [(&'static str, &'static str)],
) -> Result<(ServerConnection, Credential), DialError> {
    let terms = Terms {
        node,
        pool: PoolIndex(usize::MAX),
        connect_timeout: limit,
        max_lifetime: Duration::ZERO,
        max_prepared: 0,
        generation: 0,
        parameters,
    };
    dial(target, login, &terms).await
}

/// Opens a connection that is ready for queries. Also returns the credential to use next time (keys derived for this login are in it).
pub(super) async fn dial(
    target: Arc<Target>,
    login: Login,
    terms: &Terms,
) -> Result<(ServerConnection, Credential), DialError> {
    let attempts = async {
        let mut failure = None;
        for attempt in target.attempts() {
            match log_in(&target, *attempt, &login, terms).await {
                Ok(done) => return Ok(done),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or(DialError::TimedOut))
    };
    tokio::time::timeout(terms.connect_timeout, attempts).await.unwrap_or(Err(DialError::TimedOut))
}

async fn log_in(
    target: &Arc<Target>,
    attempt: Attempt,
    login: &Login,
    terms: &Terms,
) -> Result<(ServerConnection, Credential), DialError> {
    let Secured { stream, channel_binding } = target.open_by(attempt).await?;
    let mut connection = ServerConnection {
        stream,
        input: BytesMut::with_capacity(INPUT),
        notifications: BytesMut::new(),
        output: BytesMut::with_capacity(OUTPUT),
        node: terms.node,
        pool: terms.pool,
        user: login.user.clone(),
        cancel_key: Arc::new(CancelKey {
            target: target.clone(),
            pid: 0,
            key: Box::default(),
            breaker: None,
            requests: Requests::default(),
        }),
        parameters: Arc::new(ParameterMap::default()),
        settings: Arc::new(Settings::default()),
        statements: ServerStatements::new(terms.max_prepared),
        unnamed: None,
        tainted: false,
        last_session: 0,
        sequences: SequenceState::default(),
        own_limit: terms.connect_timeout,
        expires_at: expiry(terms.max_lifetime),
        generation: terms.generation,
    };
    let mut parameters = vec![("user", &*login.user), ("database", &*login.database)];
    parameters.extend_from_slice(terms.parameters);
    startup::put_startup(&mut connection.output, startup::PROTOCOL_3_2, &parameters);
    let credential = authenticate(&mut connection, login, channel_binding).await?;
    settle(&mut connection).await?;
    Ok((connection, credential))
}

const INPUT: usize = 16 * 1024;
const OUTPUT: usize = 4 * 1024;

/// Connections opened together must not expire together: up to a tenth is taken off at random.
fn expiry(max_lifetime: Duration) -> Option<Instant> {
    (!max_lifetime.is_zero()).then(|| Instant::now() + max_lifetime.mul_f64(1.0 - 0.1 * fastrand::f64()))
}

async fn authenticate(
    connection: &mut ServerConnection,
    login: &Login,
    channel_binding: Option<Vec<u8>>,
) -> Result<Credential, DialError> {
    let mut nonce = [0; 18];
    getrandom::fill(&mut nonce).map_err(io::Error::other)?;
    let mut state = ServerLogin::new(&login.user, login.credential.clone(), channel_binding, nonce);
    loop {
        connection.send().await?;
        let header = connection.next_frame().await?;
        let frame = connection.input.split_to(header.frame_len());
        let body = &frame[HEADER_LEN..];
        match header.tag {
            backend::AUTHENTICATION => match state.on_request(body)? {
                LoginStep::Reply(next, message) => {
                    connection.output.extend_from_slice(&message);
                    state = next;
                }
                LoginStep::Expect(next) => state = next,
                LoginStep::Done(credential) => return Ok(credential),
            },
            // A server that speaks 3.0 only says so, and goes on with that.
            backend::NEGOTIATE_PROTOCOL_VERSION | backend::NOTICE_RESPONSE => {}
            backend::ERROR_RESPONSE => return Err(refusal(body)?),
            other => return Err(WireError::Unexpected(char::from(other)).into()),
        }
    }
}

/// Reads what a server says between the login and its first ReadyForQuery.
async fn settle(connection: &mut ServerConnection) -> Result<(), DialError> {
    loop {
        let header = connection.next_frame().await?;
        let frame = connection.input.split_to(header.frame_len());
        let body = &frame[HEADER_LEN..];
        match header.tag {
            backend::PARAMETER_STATUS => connection.note_parameter(body)?,
            backend::BACKEND_KEY_DATA => {
                let (pid, key) = backend::backend_key_data(body)?;
                let target = connection.cancel_key.target.clone();
                let breaker = Some(connection.stream.breaker()?);
                connection.cancel_key =
                    Arc::new(CancelKey { target, pid, key: key.into(), breaker, requests: Requests::default() });
            }
            backend::READY_FOR_QUERY => return Ok(()),
            backend::NOTICE_RESPONSE => {}
            backend::ERROR_RESPONSE => return Err(refusal(body)?),
            other => return Err(WireError::Unexpected(char::from(other)).into()),
        }
    }
}

fn refusal(body: &[u8]) -> Result<DialError, WireError> {
    let view = ErrorView::parse(body)?;
    Ok(DialError::Refused { code: view.code, message: view.message.to_owned() })
}
