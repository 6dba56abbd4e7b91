//! One connection to a server, with what is known of its state.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio_util::io::read_buf;

use super::cancel::CancelKey;
use crate::decide::pool::PoolIndex;
use crate::decide::route::NodeId;
use crate::decide::session::{ParameterMap, ServerStatements, Settings, StatementId};
use crate::net::{Liveness, Stream};
use crate::wire::backend::{self, ErrorView};
use crate::wire::{HEADER_LEN, Header, SqlState, WireError, frontend};

/// Idle, it is in sync: nothing is due from the server, and it is outside a transaction.
pub struct ServerConnection {
    pub stream: Stream,
    /// What has come from the server and has not been dealt with.
    pub input: BytesMut,
    /// Notifications that came while a statement of pgpilot's own ran: they are for whoever listens on this connection.
    pub notifications: BytesMut,
    /// What has to be sent to the server.
    pub output: BytesMut,
    pub node: NodeId,
    /// The pool it belongs to.
    pub pool: PoolIndex,
    /// Whom pgpilot logged in as.
    pub user: Arc<str>,
    pub cancel_key: Arc<CancelKey>,
    /// What the server has reported, of what clients are told.
    pub parameters: Arc<ParameterMap>,
    /// The settings that have been brought onto it.
    pub settings: Arc<Settings>,
    pub statements: ServerStatements,
    /// Whose unnamed statement it holds.
    pub unnamed: Option<StatementId>,
    /// It may hold settings under names that nobody knows: they have to be reset before somebody else gets it.
    pub tainted: bool,
    /// The session that used it last.
    pub last_session: u64,
    /// Whose sequences `currval()` and `lastval()` tell of there.
    pub sequences: SequenceState,
    /// A statement of pgpilot's own may take so long.
    pub own_limit: Duration,
    /// When it is too old to be leased again.
    pub expires_at: Option<Instant>,
    /// Its node's pools were cleared since it was opened, if this is not the newest generation.
    pub generation: u64,
}

/// Who may have advanced sequences on a connection since its server knew of none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SequenceState {
    #[default]
    Nobodys,
    /// This session, and nobody else; and as long as it did, nowhere else.
    Of(u64),
    /// Several sessions, or one that has been elsewhere meanwhile.
    Mixed,
}

/// A statement of pgpilot's own did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("the server answered {code}: {message}")]
    Server { code: SqlState, message: String },
    #[error("connection lost: {0}")]
    Lost(#[from] std::io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl QueryError {
    /// Whether the server is lost, or says that it is about to be: 57P01 and its like.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Lost(_) => true,
            Self::Server { code, .. } => code.0.starts_with(b"57P0"),
            Self::Wire(_) => false,
        }
    }
}

impl ServerConnection {
    /// Whether the server has hung up or said something while nobody listened.
    pub fn is_stale(&mut self) -> bool {
        !self.input.is_empty() || self.stream.probe() != Liveness::Quiet
    }

    /// Runs one simple Query of pgpilot's own and returns its rows, as text. Only between batches: nothing else may be due.
    ///
    /// # Errors
    /// The server's error (the connection stays usable), or a loss (it does not); a server that takes longer than
    /// `own_limit` counts as lost.
    ///
    /// # Cancel safety
    /// Not cancel safe: when dropped half-way, replies are still due. The caller must then close the connection.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, QueryError> {
        let limit = self.own_limit;
        let late = |_| Err(QueryError::Lost(std::io::ErrorKind::TimedOut.into()));
        tokio::time::timeout(limit, self.run(sql)).await.unwrap_or_else(late)
    }

    async fn run(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, QueryError> {
        frontend::put_query(&mut self.output, sql.as_bytes());
        let mut rows = Vec::new();
        self.converse(|tag, frame| {
            if tag == backend::DATA_ROW {
                rows.push(text_row(&frame[HEADER_LEN..])?);
            }
            Ok(())
        })
        .await?;
        Ok(rows)
    }

    /// Sends what is to be sent, and shows what of the reply is about it, message by message, up to the first ReadyForQuery.
    ///
    /// # Errors
    /// The server's error, or a loss, as with [`Self::query`].
    ///
    /// # Cancel safety
    /// As [`Self::query`].
    pub async fn converse(
        &mut self,
        mut see: impl FnMut(u8, &[u8]) -> Result<(), WireError>,
    ) -> Result<(), QueryError> {
        self.send().await?;
        let mut error = None;
        loop {
            let header = self.next_frame().await?;
            let frame = self.input.split_to(header.frame_len());
            let body = &frame[HEADER_LEN..];
            match header.tag {
                backend::NOTIFICATION_RESPONSE => self.notifications.extend_from_slice(&frame),
                backend::PARAMETER_STATUS => self.note_parameter(body)?,
                backend::ERROR_RESPONSE => {
                    let view = ErrorView::parse(body)?;
                    error = Some(QueryError::Server { code: view.code, message: view.message.to_owned() });
                    if view.is_fatal() {
                        break;
                    }
                }
                backend::READY_FOR_QUERY => break,
                tag => see(tag, &frame)?,
            }
        }
        error.map_or(Ok(()), Err)
    }

    /// Returns when the server has hung up, or said that it is about to. Only between batches.
    ///
    /// # Cancel safety
    /// Safe: what has been read stays in `input`.
    pub async fn ended(&mut self) {
        while let Ok(header) = self.next_frame().await {
            let frame = self.input.split_to(header.frame_len());
            if header.tag == backend::ERROR_RESPONSE
                && ErrorView::parse(&frame[HEADER_LEN..]).is_ok_and(|e| e.is_fatal())
            {
                return;
            }
        }
    }

    /// Sends all that is to be sent.
    ///
    /// # Errors
    /// Those of the stream.
    ///
    /// # Cancel safety
    /// Safe: what has not been written stays in `output`.
    pub async fn send(&mut self) -> std::io::Result<()> {
        while !self.output.is_empty() {
            self.stream.write_buf(&mut self.output).await?;
        }
        self.stream.flush().await
    }

    /// Records a ParameterStatus, if clients are told of it.
    ///
    /// # Errors
    /// The body is malformed.
    pub fn note_parameter(&mut self, body: &[u8]) -> Result<(), WireError> {
        let (name, value) = backend::parameter_status(body)?;
        if is_told(name) && self.parameters.get(name) != Some(value) {
            Arc::make_mut(&mut self.parameters).set(name, value);
        }
        Ok(())
    }

    /// Waits until a whole frame is at the front of `input`.
    ///
    /// # Cancel safety
    /// Safe: what has been read stays in `input`.
    pub(super) async fn next_frame(&mut self) -> Result<Header, QueryError> {
        loop {
            if let Some(header) = Header::peek(&self.input)? {
                if header.body > MAX_OWN_REPLY {
                    return Err(WireError::Field(char::from(header.tag)).into());
                }
                if self.input.len() >= header.frame_len() {
                    return Ok(header);
                }
            }
            self.input.reserve(4096);
            if read_buf(&mut self.stream, &mut self.input).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// Tells the server goodbye, without waiting for it to listen.
    pub fn close(mut self) {
        self.output.clear();
        frontend::put_terminate(&mut self.output);
        // When the buffer is full, closing the socket says it as well.
        self.stream.say_at_once(&self.output);
    }
}

/// Which of a server's parameters a client is told of: not those that tell one node from another. Behind one port there is one database, which is writable.
pub fn is_told(name: &str) -> bool {
    name != "in_hot_standby"
}

/// No reply to a statement of pgpilot's own is longer.
const MAX_OWN_REPLY: usize = 1 << 20;

fn text_row(body: &[u8]) -> Result<Vec<Option<String>>, WireError> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    Ok(backend::data_row(body)?.into_iter().map(|value| value.map(text)).collect())
}
