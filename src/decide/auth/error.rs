//! What goes wrong in an authentication, and whose fault it is.

/// A client is not let in. The text is what the client may be told; [`AuthError::sqlstate`] goes with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No rule matches; the text describes the connection.
    #[error("no authentication rule for {0}")]
    NoRule(String),
    /// The first rule that matches rejects; the text describes the connection.
    #[error("an authentication rule rejects connection for {0}")]
    Rejected(String),
    /// The password is wrong, or there is no such user: the client is told the same. `because` is for the log.
    #[error("password authentication failed for user \"{user}\"")]
    Failed { user: String, because: FailedBecause },
    /// No verified TLS client certificate, or one whose common name is not the user's name.
    #[error("certificate authentication failed for user \"{user}\"")]
    Certificate { user: String },
    /// The client's message breaks the protocol.
    #[error("malformed authentication message: {0}")]
    Malformed(&'static str),
    /// The client asks for a part of SCRAM that PostgreSQL does not have either.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The client would have bound the exchange to the TLS channel, but believes that we cannot: someone in the middle
    /// has taken SCRAM-SHA-256-PLUS out of the list.
    #[error("SCRAM channel binding negotiation error")]
    Downgrade,
    /// The client is bound to another TLS channel than ours.
    #[error("SCRAM channel binding check failed")]
    ChannelBinding,
}

/// Why a password was not accepted. For the log alone: a client that knew could find out which users exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedBecause {
    WrongPassword,
    /// No such user, or none with a password.
    NoVerifier,
    /// The rule demands SCRAM, but only an md5 hash is known.
    OnlyMd5Known,
}

impl FailedBecause {
    pub fn label(self) -> &'static str {
        match self {
            Self::WrongPassword => "wrong_password",
            Self::NoVerifier => "no_verifier",
            Self::OnlyMd5Known => "only_md5_known",
        }
    }
}

impl AuthError {
    /// As PostgreSQL reports the same failure.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::Failed { .. } => "28P01",
            Self::NoRule(_) | Self::Rejected(_) | Self::Certificate { .. } | Self::Downgrade | Self::ChannelBinding => {
                "28000"
            }
            Self::Malformed(_) => "08P01",
            Self::Unsupported(_) => "0A000",
        }
    }
}

/// pgpilot could not log in to a server. The text names no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The server asks for what the credential cannot give: the method, and the kind of credential.
    #[error("the server asks for {method}, which {credential} cannot answer")]
    CredentialKind { method: &'static str, credential: &'static str },
    /// The server's salt or iteration count is not the one of the verifier that the client was checked against: the
    /// password has been changed, or the nodes do not share it. Read the verifier again.
    #[error("the server holds another SCRAM verifier than the one the client was checked against")]
    OtherVerifier,
    #[error("the server asks for an authentication method that pgpilot does not have (code {0})")]
    UnsupportedMethod(i32),
    #[error("the server offers no SASL mechanism that pgpilot has")]
    NoCommonMechanism,
    /// The server could not prove that it knows the password: it is not the server it claims to be.
    #[error("the server's SCRAM signature is wrong")]
    ServerSignature,
    /// The server ended the exchange with `e=`.
    #[error("the server refused the SCRAM exchange")]
    Refused,
    /// More than a million: deriving the keys would stall this process.
    #[error("the server asks for {0} SCRAM iterations, too many")]
    TooManyIterations(u32),
    #[error("malformed authentication message from the server: {0}")]
    Malformed(&'static str),
}

impl LoginError {
    /// What a client whose server connection failed for this reason is given.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::CredentialKind { .. } | Self::OtherVerifier | Self::Refused => "28000",
            Self::UnsupportedMethod(_) | Self::NoCommonMechanism | Self::TooManyIterations(_) => "0A000",
            Self::ServerSignature | Self::Malformed(_) => "08P01",
        }
    }
}
