//! From a new connection to an authenticated client: TLS, start-up packet, authentication.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::io::read_buf;

use super::cancel;
use super::fault::End;
use super::logins::Permit;
use super::shared::Shared;
use super::welcome;
use crate::config::{ADMIN_DATABASE, AuthMethod, SslMode};
use crate::decide::auth::{
    AuthError, AuthRequest, Begin, ClientAuth, Credential, Encryption, MAX_RESPONSE, Next, Origin, Peer, Random,
    Verifier, admit,
};
use crate::net::Stream;
use crate::net::stream::{Opening, opening};
use crate::net::tls::{Accepted, Start};
use crate::telemetry::{Count, Login};
use crate::wire::backend::{self, Report};
use crate::wire::startup::{self, PROTOCOL_3_2, Startup, split_options};
use crate::wire::{HEADER_LEN, Header, SqlState, WireError, frontend};

/// Whoever comes by the operators' socket is this user of the admin console.
pub(super) const OPERATOR: &str = "operator";

/// A connection that has just been accepted.
pub(super) enum Arrival {
    Tcp(TcpStream, IpAddr),
    Unix(UnixStream),
    /// By the operators' socket.
    Operator(UnixStream),
}

/// A client that has proven who it is. Nothing else can be made into a client loop.
pub(super) struct Authenticated {
    pub stream: Stream,
    /// What the client sent along.
    pub input: BytesMut,
    pub request: Request,
    pub credential: Credential,
    pub address: Option<IpAddr>,
    /// The operating system vouches for it: it may do everything on the admin console.
    pub is_operator: bool,
}

/// What a start-up packet asks for.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub version: i32,
    pub user: String,
    pub database: String,
    /// Settings by lower-case name, from `options` and from parameters of their own.
    pub settings: Vec<(String, String)>,
}

/// A connection on its way through the handshake.
struct Visitor {
    stream: Stream,
    input: BytesMut,
    address: Option<IpAddr>,
    common_name: Option<String>,
    channel_binding: Option<Arc<[u8]>>,
    /// The operating system vouches for it.
    is_operator: bool,
}

/// Takes one connection from its first byte to its last. `permit`: given back when the client is in.
pub(super) async fn welcome(arrival: Arrival, permit: Permit, shared: Arc<Shared>) {
    let limit = shared.config.load().clients.login_timeout;
    let outcome = tokio::time::timeout(limit, handshake(arrival, &shared)).await;
    drop(permit);
    match outcome {
        Ok(Ok(Some(authenticated))) => welcome::begin(authenticated, shared).await,
        Ok(Ok(None)) => {}
        Ok(Err(error)) => {
            shared.metrics.count(Count::Login(Login::Refused));
            tracing::info!(%error, "a client did not get in");
        }
        Err(_) => {
            shared.metrics.count(Count::Login(Login::Refused));
            tracing::info!("a client did not log in in time");
        }
    }
}

/// `None`: it was a cancel request, or nothing.
async fn handshake(arrival: Arrival, shared: &Arc<Shared>) -> Result<Option<Authenticated>, End> {
    let Some((mut visitor, packet)) = receive(arrival, shared).await? else { return Ok(None) };
    match authenticate(&mut visitor, &packet, shared).await {
        Ok((request, credential)) => {
            let Visitor { stream, input, address, is_operator, .. } = visitor;
            Ok(Some(Authenticated { stream, input, request, credential, address, is_operator }))
        }
        Err(end) => Err(visitor.refused(end).await),
    }
}

/// Negotiates encryption and reads the start-up packet.
async fn receive(arrival: Arrival, shared: &Arc<Shared>) -> Result<Option<(Visitor, BytesMut)>, End> {
    let mut visitor = match arrival {
        Arrival::Unix(socket) => Visitor::new(Stream::Unix(socket), None),
        Arrival::Operator(socket) => {
            let theirs = socket.peer_cred().map_err(End::ClientLost)?.uid();
            let is_operator = theirs == 0 || theirs == rustix::process::geteuid().as_raw();
            Visitor { is_operator, ..Visitor::new(Stream::Unix(socket), None) }
        }
        Arrival::Tcp(socket, address) => match opening(&socket).await.map_err(End::ClientLost)? {
            Opening::Closed => return Ok(None),
            Opening::Packet => Visitor::new(Stream::Tcp(socket), Some(address)),
            Opening::DirectTls => Visitor::encrypt(socket, Start::Direct, address, shared).await?,
        },
    };
    // One SSLRequest and one GSSENCRequest at most, in either order, as a server allows.
    for _ in 0..3 {
        // A length that no packet has, as a server sees it too, belongs to no protocol that an answer could be given in.
        let Some(packet) = visitor.packet().await? else { return Ok(None) };
        let startup = match Startup::parse(&packet) {
            Ok(startup) => startup,
            Err(error @ WireError::Length(_)) => return Err(error.into()),
            Err(error) => return Err(visitor.refused(error.into()).await),
        };
        match startup {
            Startup::Ssl => match visitor.answer_ssl(shared).await? {
                Some(encrypted) => visitor = encrypted,
                None => return Ok(None),
            },
            // GSSAPI encryption is not offered; the client goes on with TLS or in clear.
            Startup::Gss => visitor = visitor.decline("GSSAPI encryption").await?,
            Startup::Cancel { pid, key, via } => {
                cancel::arrived(shared, pid, key, via).await;
                return Ok(None);
            }
            Startup::Start { .. } => return Ok(Some((visitor, packet))),
        }
    }
    Err(visitor.refused(End::fatal(SqlState::PROTOCOL_VIOLATION, "too many encryption requests")).await)
}

impl Visitor {
    fn new(stream: Stream, address: Option<IpAddr>) -> Self {
        Self {
            stream,
            input: BytesMut::with_capacity(1024),
            address,
            common_name: None,
            channel_binding: None,
            is_operator: false,
        }
    }

    async fn encrypt(socket: TcpStream, start: Start<'_>, address: IpAddr, shared: &Shared) -> Result<Self, End> {
        let acceptor = shared.acceptor.load_full();
        let Some(acceptor) = acceptor.as_ref() else {
            return Err(End::ClientLost(io::Error::other("the client wants TLS, which is not configured")));
        };
        let accepted =
            acceptor.accept(socket, start).await.map_err(|error| End::ClientLost(io::Error::other(error)))?;
        let Accepted { stream, common_name, channel_binding } = accepted;
        Ok(Self { common_name, channel_binding, ..Self::new(stream, Some(address)) })
    }

    async fn answer_ssl(self, shared: &Shared) -> Result<Option<Self>, End> {
        let offered = shared.acceptor.load().is_some();
        match self {
            Self { stream: Stream::Tcp(socket), input, address: Some(address), .. } if offered => {
                Self::encrypt(socket, Start::Request { unread: &input }, address, shared).await.map(Some)
            }
            plain => plain.decline("SSL").await.map(Some),
        }
    }

    /// Tells a client that there is no such encryption. One that has not waited for that might have been made to believe something else by somebody in between
    /// (`ProcessStartupPacket` in src/backend/tcop/backend_startup.c).
    async fn decline(mut self, encryption: &str) -> Result<Self, End> {
        self.send(&mut BytesMut::from(&b"N"[..])).await?;
        if self.input.is_empty() {
            return Ok(self);
        }
        let message = format!("received unencrypted data after {encryption} request");
        let report = Report::fatal(SqlState::PROTOCOL_VIOLATION, message)
            .detail("This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.");
        Err(self.refused(End::Fatal(Box::new(report))).await)
    }

    /// The next packet without a type byte; `None` at the end of the stream.
    async fn packet(&mut self) -> Result<Option<BytesMut>, End> {
        loop {
            if let Some(length) = startup::packet_len(&self.input)?
                && self.input.len() >= length
            {
                return Ok(Some(self.input.split_to(length)));
            }
            if !self.read().await? {
                return Ok(None);
            }
        }
    }

    /// The body of the next `p` message.
    async fn response(&mut self) -> Result<BytesMut, End> {
        loop {
            if let Some(header) = Header::peek(&self.input)? {
                if header.tag != frontend::PASSWORD {
                    return Err(WireError::Unexpected(char::from(header.tag)).into());
                }
                if header.body > MAX_RESPONSE {
                    return Err(WireError::Field('p').into());
                }
                if self.input.len() >= header.frame_len() {
                    let frame = self.input.split_to(header.frame_len());
                    return Ok(BytesMut::from(&frame[HEADER_LEN..]));
                }
            }
            if !self.read().await? {
                return Err(End::Left);
            }
        }
    }

    async fn read(&mut self) -> Result<bool, End> {
        read_buf(&mut self.stream, &mut self.input).await.map(|n| n > 0).map_err(End::ClientLost)
    }

    /// Tells the client why it does not get in, if there is something to tell, and hangs up.
    async fn refused(mut self, end: End) -> End {
        if let End::Fatal(report) = &end {
            let mut message = BytesMut::new();
            report.put(&mut message);
            if let Err(lost) = self.send(&mut message).await {
                return lost;
            }
            let _ = self.stream.shutdown().await;
        }
        end
    }

    async fn send(&mut self, bytes: &mut BytesMut) -> Result<(), End> {
        let sent = async {
            while !bytes.is_empty() {
                self.stream.write_buf(bytes).await?;
            }
            self.stream.flush().await
        };
        sent.await.map_err(End::ClientLost)
    }
}

/// Reads what the client asks for, and has it prove who it is.
async fn authenticate(visitor: &mut Visitor, packet: &[u8], shared: &Shared) -> Result<(Request, Credential), End> {
    let Startup::Start { version, parameters } = Startup::parse(packet)? else {
        return Err(WireError::Unexpected('-').into());
    };
    let mut reply = BytesMut::new();
    let request = Request::read(version, &parameters, &mut reply)?;
    if !reply.is_empty() {
        visitor.send(&mut reply).await?;
    }
    if visitor.is_operator && request.is_for_console() {
        let mut ok = Vec::new();
        AuthRequest::Ok.write(&mut ok);
        visitor.send(&mut BytesMut::from(&ok[..])).await?;
        return Ok((Request { user: OPERATOR.to_owned(), ..request }, Credential::Absent));
    }
    let method = rule_for(visitor, &request, shared)?;
    match prove(visitor, &request, method, shared).await? {
        Ok(credential) => Ok((request, credential)),
        Err(error) => Err(auth_failed(&error)),
    }
}

fn auth_failed(error: &AuthError) -> End {
    let code = SqlState::from_bytes(error.sqlstate().as_bytes()).unwrap_or(SqlState::INVALID_AUTHORIZATION);
    End::fatal(code, error.to_string())
}

fn rule_for(visitor: &Visitor, request: &Request, shared: &Shared) -> Result<AuthMethod, End> {
    let config = shared.config.load();
    let encryption = if visitor.stream.is_encrypted() { Encryption::Tls } else { Encryption::None };
    let demanded = matches!(config.tls.mode, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull);
    if demanded && encryption == Encryption::None && visitor.address.is_some() {
        return Err(End::fatal(SqlState::INVALID_AUTHORIZATION, "TLS is required (tls.mode)"));
    }
    if config.tls.mode == SslMode::VerifyFull && visitor.address.is_some() {
        crate::decide::auth::check_certificate(&request.user, visitor.common_name.as_deref())
            .map_err(|error| auth_failed(&error))?;
    }
    let origin = visitor.address.map_or(Origin::Local, Origin::Tcp);
    let peer = Peer { origin, encryption, user: &request.user, database: &request.database };
    admit(&config.auth.rules, &peer).map_err(|error| auth_failed(&error))
}

async fn prove(
    visitor: &mut Visitor,
    request: &Request,
    method: AuthMethod,
    shared: &Shared,
) -> Result<Result<Credential, AuthError>, End> {
    let verifier: Option<Arc<Verifier>> = match shared.verifiers.of(&request.user, shared).await {
        Ok(verifier) => verifier,
        // Such a login needs none.
        Err(_) if matches!(method, AuthMethod::Trust | AuthMethod::Cert) => None,
        Err(error) => {
            tracing::error!(%error, "cannot read verifiers");
            return Err(End::fatal(SqlState::CANNOT_CONNECT_NOW, "pgpilot cannot check passwords at the moment"));
        }
    };
    let mut random = Random { nonce: [0; 18], md5_salt: [0; 4] };
    let filled = getrandom::fill(&mut random.nonce).and_then(|()| getrandom::fill(&mut random.md5_salt));
    filled.map_err(|error| End::fatal(SqlState::INTERNAL_ERROR, error.to_string()))?;
    let begin = Begin {
        method,
        user: &request.user,
        verifier: verifier.as_deref(),
        channel_binding: visitor.channel_binding.as_deref(),
        certificate_name: visitor.common_name.as_deref(),
        mock: &shared.mock,
        random,
    };
    let mut next = match ClientAuth::begin(begin) {
        Ok(next) => next,
        Err(error) => return Ok(Err(error)),
    };
    loop {
        let mut message = Vec::new();
        match next {
            Next::Ask(state, ask) => {
                ask.write(&mut message);
                visitor.send(&mut BytesMut::from(&message[..])).await?;
                let body = visitor.response().await?;
                next = match state.on_response(&body) {
                    Ok(next) => next,
                    Err(error) => return Ok(Err(error)),
                };
            }
            Next::Done { last, credential } => {
                if let Some(last) = last {
                    last.write(&mut message);
                }
                AuthRequest::Ok.write(&mut message);
                visitor.send(&mut BytesMut::from(&message[..])).await?;
                return Ok(Ok(credential));
            }
        }
    }
}

impl Request {
    /// Checks a start-up packet's parameters. What has to be said about the protocol's version goes to `reply`.
    fn read(version: i32, parameters: &[(&str, &str)], reply: &mut BytesMut) -> Result<Self, End> {
        let (major, minor) = (version >> 16, version & 0xffff);
        if major != 3 {
            let message = format!("unsupported frontend protocol {major}.{minor}: pgpilot supports 3.0 to 3.2");
            return Err(End::fatal(SqlState::FEATURE_NOT_SUPPORTED, message));
        }
        let unknown: Vec<&str> =
            parameters.iter().map(|(name, _)| *name).filter(|name| name.starts_with("_pq_.")).collect();
        if version > PROTOCOL_3_2 || !unknown.is_empty() {
            backend::put_negotiate_protocol(reply, version.min(PROTOCOL_3_2), &unknown);
        }
        let value = |wanted: &str| parameters.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        let user = value("user").filter(|user| !user.is_empty()).map(as_name);
        let Some(user) = user else {
            let message = "no PostgreSQL user name specified in startup packet";
            return Err(End::fatal(SqlState::INVALID_AUTHORIZATION, message));
        };
        if value("replication").is_some_and(|value| !matches!(value, "false" | "off" | "no" | "0")) {
            let message = "pgpilot does not pass on replication connections: connect to the server itself";
            return Err(End::fatal(SqlState::FEATURE_NOT_SUPPORTED, message));
        }
        let mut settings = Vec::new();
        if let Some(options) = value("options") {
            let split = split_options(options).map_err(|word| {
                End::fatal(SqlState::SYNTAX_ERROR, format!("invalid command-line argument for server process: {word}"))
            })?;
            settings.extend(split);
        }
        let own =
            |name: &str| matches!(name, "user" | "database" | "options" | "replication") || name.starts_with("_pq_.");
        settings.extend(
            parameters
                .iter()
                .filter(|(name, _)| !own(name))
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        for (name, _) in &mut settings {
            name.make_ascii_lowercase();
        }
        let database = value("database").filter(|name| !name.is_empty()).map_or(user, as_name);
        Ok(Self { version: version.min(PROTOCOL_3_2), user: user.to_owned(), database: database.to_owned(), settings })
    }

    /// Whether it is the admin console that is asked for.
    pub(super) fn is_for_console(&self) -> bool {
        self.database == ADMIN_DATABASE
    }
}

/// What a server takes for the name, also where it is longer than any name there (`ProcessStartupPacket` in
/// src/backend/tcop/backend_startup.c). Names are cut between characters when something is made with them.
fn as_name(text: &str) -> &str {
    &text[..text.floor_char_boundary(NAME_MAX)]
}

/// `NAMEDATALEN` less the byte that ends it.
const NAME_MAX: usize = 63;

/// An error in place of a greeting.
pub(super) async fn turn_away(mut stream: Stream, report: &Report) {
    let mut message = BytesMut::new();
    report.put(&mut message);
    while !message.is_empty() && stream.write_buf(&mut message).await.is_ok() {}
    let _ = stream.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_long_as_a_servers() {
        let (long, cut) = (format!("{}\u{e9}\u{e9}", "n".repeat(62)), "n".repeat(62));
        let read = |parameters: &[(&str, &str)]| {
            let Ok(request) = Request::read(PROTOCOL_3_2, parameters, &mut BytesMut::new()) else { panic!() };
            (request.user, request.database)
        };
        assert_eq!(read(&[("user", &long)]), (cut.clone(), cut.clone()));
        assert_eq!(read(&[("user", "u"), ("database", &long)]), ("u".to_owned(), cut));
        let longest = "n".repeat(63);
        assert_eq!(read(&[("user", &longest)]), (longest.clone(), longest));
    }
}
