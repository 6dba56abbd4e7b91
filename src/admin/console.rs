//! The admin console: one connection to the database `pgpilot`.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::session::{Next, Session};
use super::sources::Sources;
use crate::wire::backend::Report;
use crate::wire::{HEADER_LEN, Header, SqlState, WireError};

pub use super::courtesy::SERVER_VERSION;

/// A longer message ends the connection: no command is nearly so long, and `EXPLAIN ROUTE` explains up to `max_parse`.
const MAX_MESSAGE: usize = 1 << 20;

/// What may be read ahead while a command runs.
const READ_AHEAD: usize = 64 << 10;

/// Who talks to the console, as the handshake has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleUser {
    pub name: Arc<str>,
    pub level: Level,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// May do everything.
    Admin,
    /// May only look.
    Reader,
}

/// Why a connection to the console ended, other than by the client's wish.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The operator's connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// 08P01, which the client has been told.
    #[error(transparent)]
    Protocol(#[from] WireError),
    /// 54000, which the client has been told.
    #[error("a message of {0} bytes")]
    TooLong(usize),
}

/// Talks to one operator until it leaves, or until `closing` comes while it asks for nothing. The greeting, up to ReadyForQuery, has been sent; `input` is what came behind
/// the start-up messages already.
///
/// # Errors
/// [`ConsoleError`]; there is nothing left to be done with the connection.
///
/// # Cancel safety
/// Dropped, it closes the connection; a command that is being carried out is carried out or not, never by half.
pub async fn serve<S>(
    mut stream: S,
    mut input: BytesMut,
    who: ConsoleUser,
    sources: Arc<dyn Sources>,
    closing: impl Future<Output = ()>,
) -> Result<(), ConsoleError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut session = Session::new(who, &*sources);
    let mut out = BytesMut::new();
    let mut closing = pin!(closing);
    loop {
        while let Some(frame) = next_frame(&mut input, &mut out).transpose() {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    stream.write_all(&out).await?;
                    stream.shutdown().await?;
                    return Err(error);
                }
            };
            let next = tokio::select! {
                biased;
                next = session.on_message(frame[0], &frame[HEADER_LEN..], &mut out) => next,
                // Who asked is gone, and a PAUSE could wait for long.
                error = gone(&mut stream, &mut input) => return Err(error.into()),
            };
            if let Next::End = next {
                stream.write_all(&out).await?;
                return Ok(stream.shutdown().await?);
            }
        }
        stream.write_all(&out).await?;
        stream.flush().await?;
        out.clear();
        tokio::select! {
            read = stream.read_buf(&mut input) => if read? == 0 {
                return Ok(());
            },
            () = &mut closing => {
                Report::fatal(SqlState::ADMIN_SHUTDOWN, "pgpilot is shutting down").put(&mut out);
                stream.write_all(&out).await?;
                return Ok(stream.shutdown().await?);
            }
        }
    }
}

/// Cuts the next whole message off. What it refuses, it has reported in `out`.
fn next_frame(input: &mut BytesMut, out: &mut BytesMut) -> Result<Option<BytesMut>, ConsoleError> {
    let header = Header::peek(input).inspect_err(|error| {
        Report::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string()).put(out);
    })?;
    let Some(header) = header else { return Ok(None) };
    if header.body > MAX_MESSAGE {
        Report::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, "the message is too long for the admin console").put(out);
        return Err(ConsoleError::TooLong(header.body));
    }
    let len = header.frame_len();
    Ok((input.len() >= len).then(|| input.split_to(len)))
}

/// Returns when the client has gone; until then keeps what it sends.
async fn gone(stream: &mut (impl AsyncRead + Unpin), input: &mut BytesMut) -> io::Error {
    while input.len() < READ_AHEAD {
        match stream.read_buf(input).await {
            Ok(0) => return io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => {}
            Err(error) => return error,
        }
    }
    std::future::pending().await
}
