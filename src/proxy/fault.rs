//! What goes wrong in a session: whose fault it is, what the client is told, and whether the session goes on.

use super::hold::HoldError;
use crate::decide::route::Refusal;
use crate::pool::{DialError, LeaseError, QueryError};
use crate::telemetry::Side;
use crate::wire::backend::Report;
use crate::wire::{SqlState, WireError};

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// Terminate, or the client hung up between statements.
    #[error("the client left")]
    Left,
    #[error("the client's connection broke: {0}")]
    ClientLost(std::io::Error),
    /// The server was lost in the middle of a long message: whatever the client was told now, it would take for the rest.
    #[error("the server was lost in the middle of a message")]
    Torn,
    /// The client is told before it is disconnected.
    #[error("{}", .0.message)]
    Fatal(Box<Report>),
}

impl End {
    pub(super) fn fatal(code: SqlState, message: impl Into<String>) -> Self {
        Self::Fatal(Box::new(Report::fatal(code, message)))
    }
}

impl End {
    /// Whose fault it is; `None`: nobody's.
    pub(super) fn side(&self) -> Option<Side> {
        match self {
            Self::Left | Self::ClientLost(_) => None,
            Self::Torn => Some(Side::Backend),
            Self::Fatal(report) => Some(at_fault(report.code)),
        }
    }
}

/// Whose fault an error of pgpilot's own is.
pub(super) fn at_fault(code: SqlState) -> Side {
    match code {
        // A server is lost, cannot be reached, or there is none to ask.
        SqlState::CONNECTION_FAILURE
        | SqlState::TRANSACTION_RESOLUTION_UNKNOWN
        | SqlState::CANNOT_CONNECT_NOW
        | SqlState::CRASH_SHUTDOWN => Side::Backend,
        // Limits, and what is stopped or handed over.
        SqlState::ADMIN_SHUTDOWN | SqlState::TOO_MANY_CONNECTIONS => Side::Operator,
        SqlState::INTERNAL_ERROR => Side::Us,
        _ => Side::Client,
    }
}

/// pgpilot is told to stop.
pub(super) fn stopping() -> End {
    End::fatal(SqlState::ADMIN_SHUTDOWN, "pgpilot is shutting down")
}

impl From<WireError> for End {
    fn from(error: WireError) -> Self {
        Self::fatal(SqlState::PROTOCOL_VIOLATION, error.to_string())
    }
}

/// Why a statement fails without a server's having failed it. The session goes on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// What the session kept on a server was lost before the statement was sent there.
    #[error("{}", .0.message)]
    Lost(Box<Report>),
    /// A CancelRequest came while the statement waited for its turn.
    #[error("canceling statement due to user request")]
    Cancelled,
    /// A transaction cannot move from its replica to another server.
    #[error("could not move the transaction to the primary: what it has read on a replica is not the same there")]
    Diverged,
    /// A transaction on a replica has come to something that needs the primary, and cannot move there.
    #[error(
        "this statement needs the primary, and the transaction on a replica to which it belongs cannot move there any more"
    )]
    BoundToReplica,
    /// The connection could not be brought to the session's state.
    #[error(transparent)]
    Prepare(#[from] QueryError),
}

impl Fault {
    /// Whether the node is the trouble, and nothing of the client's had been sent there.
    pub(super) fn is_about_the_node(&self) -> bool {
        match self {
            Self::Lease(LeaseError::Dismissed) => true,
            Self::Lease(LeaseError::Dial(error)) => error.is_about_the_node(),
            // It broke before it had been given anything of the client's.
            Self::Prepare(QueryError::Lost(_)) => true,
            Self::Prepare(QueryError::Server { code, .. }) => code.0.starts_with(b"57P0"),
            Self::Prepare(QueryError::Wire(_))
            | Self::Lease(LeaseError::Timeout | LeaseError::QueueFull)
            | Self::Refused(_)
            | Self::Hold(_)
            | Self::Lost(_)
            | Self::Diverged
            | Self::BoundToReplica
            | Self::Cancelled => false,
        }
    }

    /// Whether a server has not let this session in, for a reason that is not the node's: the user, the database, or
    /// settings that it refuses.
    pub(super) fn is_refused_session(&self) -> bool {
        match self {
            Self::Lease(LeaseError::Dial(error)) => !error.is_about_the_node(),
            Self::Prepare(QueryError::Server { .. }) => true,
            _ => false,
        }
    }

    /// Whether the node had no connection to spare.
    pub(super) fn is_want_of_room(&self) -> bool {
        matches!(self, Self::Lease(LeaseError::Timeout | LeaseError::QueueFull))
    }

    pub(super) fn report(&self) -> Report {
        match self {
            Self::Refused(refusal) => {
                let code = SqlState::from_bytes(refusal.sqlstate().as_bytes()).unwrap_or(SqlState::CANNOT_CONNECT_NOW);
                Report::error(code, refusal.to_string())
            }
            Self::Hold(error) => Report::error(SqlState::CANNOT_CONNECT_NOW, error.to_string()),
            Self::Lost(report) => Report::clone(report),
            Self::Cancelled => Report::error(SqlState::QUERY_CANCELED, self.to_string()),
            Self::Diverged => Report::error(SqlState::SERIALIZATION_FAILURE, self.to_string())
                .hint("Nothing has been written. The transaction might succeed if retried."),
            Self::BoundToReplica => Report::error(SqlState::READ_ONLY_SQL_TRANSACTION, self.to_string())
                .hint("Begin the transaction with BEGIN READ ONLY /* pgpilot: primary */."),
            Self::Lease(LeaseError::Dial(error)) => dial_report(error),
            Self::Lease(error @ (LeaseError::Timeout | LeaseError::QueueFull)) => {
                Report::error(SqlState::TOO_MANY_CONNECTIONS, error.to_string())
                    .hint("Raise pool.max_server_connections, or look for transactions that are left open.")
            }
            Self::Lease(error @ LeaseError::Dismissed) => {
                Report::error(SqlState::CANNOT_CONNECT_NOW, error.to_string())
            }
            Self::Prepare(QueryError::Server { code, message }) => {
                Report::error(*code, format!("cannot restore the session's settings: {message}"))
            }
            Self::Prepare(_) => Report::error(SqlState::CONNECTION_FAILURE, "the connection to the server was lost"),
        }
    }
}

/// What a client may know of a connection that could not be opened: the server's own words about its own login, but no addresses.
pub(super) fn dial_report(error: &DialError) -> Report {
    match error {
        DialError::Refused { code, message } => Report::error(*code, message.clone()),
        DialError::Login(_) => {
            Report::error(SqlState::INVALID_AUTHORIZATION, "pgpilot cannot log in to the server as this user")
                .hint("pgpilot's log says why.")
        }
        _ => Report::error(SqlState::CONNECTION_FAILURE, "the server cannot be reached"),
    }
}
