//! The client's part towards a server that pgpilot logs in to.

use super::credential::{Credential, ScramKeys};
use super::error::LoginError;
use super::md5::Md5Hash;
use super::request::{AuthRequest, MalformedRequest, message};
use super::scram::{self, AwaitServerFinal, AwaitServerFirst, ChannelSupport};

/// A login that waits for the server's next `R` message.
pub struct ServerLogin {
    account: Account,
    state: State,
}

struct Account {
    user: String,
    credential: Credential,
    channel_binding: Option<Vec<u8>>,
    nonce: [u8; scram::NONCE],
}

/// What to do next.
pub enum LoginStep {
    /// Send these bytes (a whole message) and give the next `R` message to the login.
    Reply(ServerLogin, Vec<u8>),
    /// Send nothing; another `R` message is due.
    Expect(ServerLogin),
    /// The server lets us in. The credential to use next time: keys that were derived for this login are in it.
    Done(Credential),
}

enum State {
    /// The start-up message is sent.
    Start,
    /// A password is sent: only Ok may follow.
    Answered,
    ServerFirst(AwaitServerFirst),
    ServerFinal(AwaitServerFinal),
}

impl ServerLogin {
    /// `channel_binding`: the `tls-server-end-point` hash of the server's certificate if the connection is encrypted and
    /// the certificate has one. `nonce`: fresh random bytes ([`super::Random::nonce`]).
    pub fn new(
        user: &str,
        credential: Credential,
        channel_binding: Option<Vec<u8>>,
        nonce: [u8; scram::NONCE],
    ) -> Self {
        let account = Account { user: user.to_owned(), credential, channel_binding, nonce };
        Self { account, state: State::Start }
    }

    /// Takes the body of an `R` message. An `ErrorResponse` is not for this machine: the login has failed.
    /// Deriving keys from a password takes milliseconds; see [`Credential::Password`].
    ///
    /// # Errors
    /// [`LoginError`]: close the connection.
    pub fn on_request(self, body: &[u8]) -> Result<LoginStep, LoginError> {
        let request = AuthRequest::parse(body).map_err(|MalformedRequest| LoginError::Malformed("cut or too long"))?;
        let Self { account, state } = self;
        match (state, request) {
            (State::Start | State::Answered, AuthRequest::Ok) => Ok(LoginStep::Done(account.credential)),
            (State::Start, AuthRequest::CleartextPassword) => account.answer_cleartext(),
            (State::Start, AuthRequest::Md5Password { salt }) => account.answer_md5(salt),
            (State::Start, AuthRequest::Sasl { mechanisms }) => account.begin_scram(&mechanisms),
            (State::Start, AuthRequest::Other(code)) => Err(LoginError::UnsupportedMethod(code)),
            (State::ServerFirst(exchange), AuthRequest::SaslContinue(data)) => {
                let (exchange, client_final) = exchange.on(&data)?;
                let mut reply = Vec::with_capacity(client_final.len() + 5);
                message(&mut reply, b'p', |out| out.extend_from_slice(&client_final));
                Ok(account.reply(State::ServerFinal(exchange), reply))
            }
            (State::ServerFinal(exchange), AuthRequest::SaslFinal(data)) => {
                let keys = exchange.on(&data)?;
                let login = Self { account: account.with_keys(keys), state: State::Answered };
                Ok(LoginStep::Expect(login))
            }
            // In particular Ok before the server has proven itself.
            _ => Err(LoginError::Malformed("out of order")),
        }
    }
}

impl Account {
    fn reply(self, state: State, message: Vec<u8>) -> LoginStep {
        LoginStep::Reply(ServerLogin { account: self, state }, message)
    }

    fn cannot(&self, method: &'static str) -> LoginError {
        LoginError::CredentialKind { method, credential: self.credential.kind() }
    }

    fn with_keys(self, keys: ScramKeys) -> Self {
        let credential = match self.credential {
            Credential::Password { password, .. } => Credential::Password { password, keys: Some(keys) },
            other => other,
        };
        Self { credential, ..self }
    }

    fn answer_cleartext(self) -> Result<LoginStep, LoginError> {
        let Credential::Password { password, .. } = &self.credential else {
            return Err(self.cannot("a password in clear"));
        };
        let reply = password_message(password.expose().as_bytes());
        Ok(self.reply(State::Answered, reply))
    }

    fn answer_md5(self, salt: [u8; 4]) -> Result<LoginStep, LoginError> {
        let response = match &self.credential {
            Credential::Password { password, .. } => Md5Hash::of(password.expose(), &self.user).response(salt),
            Credential::Md5(hash) => hash.response(salt),
            Credential::Absent | Credential::Scram(_) => return Err(self.cannot("md5")),
        };
        let reply = password_message(&response);
        Ok(self.reply(State::Answered, reply))
    }

    fn begin_scram(mut self, mechanisms: &[String]) -> Result<LoginStep, LoginError> {
        let offered = |name| mechanisms.iter().any(|m| m == name);
        let (mechanism, channel) = match self.channel_binding.take() {
            Some(hash) if offered(scram::MECHANISM_PLUS) => (scram::MECHANISM_PLUS, ChannelSupport::EndPoint(hash)),
            Some(_) => (scram::MECHANISM, ChannelSupport::ServerDoesNot),
            None => (scram::MECHANISM, ChannelSupport::None),
        };
        if !offered(mechanism) {
            return Err(LoginError::NoCommonMechanism);
        }
        let secret = match self.credential.clone() {
            Credential::Password { password, keys } => scram::Secret::Password { password, keys },
            Credential::Scram(keys) => scram::Secret::Keys(keys),
            Credential::Absent | Credential::Md5(_) => return Err(self.cannot("SCRAM-SHA-256")),
        };
        let (exchange, first) = AwaitServerFirst::begin(secret, channel, self.nonce);
        let mut reply = Vec::new();
        message(&mut reply, b'p', |out| {
            out.extend_from_slice(mechanism.as_bytes());
            out.push(0);
            let length = i32::try_from(first.len()).expect("a client-first-message is short");
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&first);
        });
        Ok(self.reply(State::ServerFirst(exchange), reply))
    }
}

fn password_message(text: &[u8]) -> Vec<u8> {
    let mut reply = Vec::with_capacity(text.len() + 6);
    message(&mut reply, b'p', |out| {
        out.extend_from_slice(text);
        out.push(0);
    });
    reply
}
