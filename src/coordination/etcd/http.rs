//! Requests to whichever member of etcd answers.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{Coordination, EtcdEndpoint, Scheme};
use crate::net::Stream;
use crate::net::tls::{HttpsConnector, TlsError};

/// Connections that are kept between requests; further ones are closed after their answer.
const KEPT: usize = 4;
/// What is kept under one prefix is a few kilobytes.
const LARGEST: usize = 4 << 20;
/// However little time is left, a member gets so long.
const SHORTEST: Duration = Duration::from_millis(100);

/// What etcd did not do.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    #[error("no member of etcd answers: {0}")]
    Unreachable(String),
    /// `code` is gRPC's.
    #[error("etcd refuses: {message} (code {code})")]
    Refused { code: u32, message: String },
    #[error("etcd's answer is not understood: {0}")]
    Malformed(String),
}

/// gRPC's codes for what another member may be able to do: 4 deadline exceeded, 14 unavailable.
const ELSEWHERE: [u32; 2] = [4, 14];

/// The members, and connections to them.
pub(super) struct Http {
    members: Vec<EtcdEndpoint>,
    tls: Option<HttpsConnector>,
    /// Who answered last.
    preferred: AtomicUsize,
    kept: Mutex<VecDeque<Connection>>,
    /// From where the last connection was made.
    local: Mutex<Option<IpAddr>>,
}

struct Connection {
    member: usize,
    sender: SendRequest<Full<Bytes>>,
    driver: AbortOnDropHandle<()>,
}

/// An answer that has no end: JSON objects, one a line.
pub(super) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    _driver: AbortOnDropHandle<()>,
}

impl Http {
    /// # Errors
    /// TLS files that cannot be used.
    pub(super) fn new(settings: &Coordination) -> Result<Self, TlsError> {
        let https = settings.etcd.iter().any(|member| member.scheme == Scheme::Https);
        Ok(Self {
            members: settings.etcd.clone(),
            tls: if https { Some(HttpsConnector::new(&settings.tls)?) } else { None },
            preferred: AtomicUsize::new(0),
            kept: Mutex::default(),
            local: Mutex::default(),
        })
    }

    /// The address of this host from which etcd was reached last.
    pub(super) fn local(&self) -> Option<IpAddr> {
        *self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the members in turn until one answers, for `limit` in all.
    ///
    /// # Errors
    /// None answers in time, or one refuses what all would refuse. A request that fails may have been carried out.
    ///
    /// # Cancel safety
    /// The request may have been carried out.
    pub(super) async fn post(
        &self,
        path: &str,
        body: &Bytes,
        token: Option<&str>,
        limit: Duration,
    ) -> Result<Bytes, EtcdError> {
        let mut turns = self.turns(limit);
        while let Some((member, share)) = turns.next() {
            let outcome = timeout(share, self.post_to(member, path, body, token)).await;
            if let Some(answer) = self.judge(member, outcome, &mut turns)? {
                return Ok(answer);
            }
        }
        Err(EtcdError::Unreachable(turns.last))
    }

    async fn post_to(&self, member: usize, path: &str, body: &Bytes, token: Option<&str>) -> Result<Bytes, Failure> {
        if let Some(connection) = self.kept_connection(member).await
            // It may have ended unnoticed, as when etcd was started anew.
            && let outcome @ (Ok(_) | Err(Failure::Final(_))) = self.exchange(connection, path, body, token).await
        {
            return outcome;
        }
        self.exchange(self.open(member).await?, path, body, token).await
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        path: &str,
        body: &Bytes,
        token: Option<&str>,
    ) -> Result<Bytes, Failure> {
        let response = self.send(&mut connection, path, body, token).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await.map_err(lost)?.to_bytes();
        self.keep(connection);
        if status.is_success() { Ok(body) } else { Err(refusal(status, &body)) }
    }

    /// As [`Http::post`], for an answer without an end; `limit` is for its beginning.
    ///
    /// # Errors
    /// As [`Http::post`].
    ///
    /// # Cancel safety
    /// Safe.
    pub(super) async fn stream(
        &self,
        path: &str,
        body: &Bytes,
        token: Option<&str>,
        limit: Duration,
    ) -> Result<Lines, EtcdError> {
        let mut turns = self.turns(limit);
        while let Some((member, share)) = turns.next() {
            let outcome = timeout(share, self.stream_from(member, path, body, token)).await;
            if let Some(lines) = self.judge(member, outcome, &mut turns)? {
                return Ok(lines);
            }
        }
        Err(EtcdError::Unreachable(turns.last))
    }

    async fn stream_from(
        &self,
        member: usize,
        path: &str,
        body: &Bytes,
        token: Option<&str>,
    ) -> Result<Lines, Failure> {
        let mut connection = self.open(member).await?;
        let response = self.send(&mut connection, path, body, token).await?;
        let (status, body) = (response.status(), response.into_body());
        if status.is_success() {
            return Ok(Lines { body, buffer: BytesMut::new(), _driver: connection.driver });
        }
        let body = Limited::new(body, LARGEST).collect().await.map_err(lost)?;
        Err(refusal(status, &body.to_bytes()))
    }

    fn turns(&self, limit: Duration) -> Turns {
        let (count, first) = (self.members.len(), self.preferred.load(Ordering::Relaxed));
        Turns { count, first, taken: 0, end: Instant::now() + limit, last: "none is named".to_owned() }
    }

    /// `None`: another member is to be asked.
    fn judge<T>(
        &self,
        member: usize,
        outcome: Result<Result<T, Failure>, Elapsed>,
        turns: &mut Turns,
    ) -> Result<Option<T>, EtcdError> {
        let name = &self.members[member];
        turns.last = match outcome {
            Ok(Ok(answer)) => {
                self.preferred.store(member, Ordering::Relaxed);
                return Ok(Some(answer));
            }
            Ok(Err(Failure::Final(error))) => return Err(error),
            Ok(Err(Failure::Lost(why))) => format!("{name}: {why}"),
            Err(_) => format!("{name}: timed out"),
        };
        Ok(None)
    }

    async fn kept_connection(&self, member: usize) -> Option<Connection> {
        while let Some(mut connection) = self.take(member) {
            if connection.sender.ready().await.is_ok() {
                return Some(connection);
            }
        }
        None
    }

    fn take(&self, member: usize) -> Option<Connection> {
        let mut kept = self.lock();
        let index = kept.iter().position(|connection| connection.member == member)?;
        kept.remove(index)
    }

    fn keep(&self, connection: Connection) {
        let mut kept = self.lock();
        kept.push_back(connection);
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Connection>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self, member: usize) -> Result<Connection, Failure> {
        let it = &self.members[member];
        let socket = TcpStream::connect((it.host.as_str(), it.port)).await.map_err(lost)?;
        socket.set_nodelay(true).map_err(lost)?;
        let local = socket.local_addr().map_err(lost)?.ip();
        *self.local.lock().unwrap_or_else(PoisonError::into_inner) = Some(local);
        let stream = match (it.scheme, &self.tls) {
            (Scheme::Https, Some(tls)) => tls.secure(socket, &it.host).await.map_err(lost)?,
            _ => Stream::Tcp(socket),
        };
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let driver = AbortOnDropHandle::new(tokio::spawn(async move {
            // Whoever has sent a request is told of its failure there.
            let _ = connection.await;
        }));
        Ok(Connection { member, sender, driver })
    }

    async fn send(
        &self,
        connection: &mut Connection,
        path: &str,
        body: &Bytes,
        token: Option<&str>,
    ) -> Result<Response<Incoming>, Failure> {
        let member = &self.members[connection.member];
        let mut request = Request::post(path)
            .header(HOST, format!("{}:{}", member.host, member.port))
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::new(body.clone())).map_err(|error| malformed(&error))?;
        connection.sender.send_request(request).await.map_err(lost)
    }
}

impl Lines {
    /// `None`: etcd has ended it. Has no time limit of its own.
    ///
    /// # Errors
    /// The connection is lost, or what comes is no line.
    ///
    /// # Cancel safety
    /// Safe: what has come is kept.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, EtcdError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(end + 1).freeze();
                if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
                    return Ok(Some(line));
                }
                continue;
            }
            if self.buffer.len() > LARGEST {
                return Err(EtcdError::Malformed("a line without an end".to_owned()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(EtcdError::Unreachable(error.to_string())),
                None => return Ok(None),
            }
        }
    }
}

/// Whose turn it is to be asked.
struct Turns {
    count: usize,
    first: usize,
    taken: usize,
    end: Instant,
    /// What the last one said.
    last: String,
}

impl Turns {
    /// A member, and how long it may take: the others are to have their chance, too.
    fn next(&mut self) -> Option<(usize, Duration)> {
        let left = u32::try_from(self.count - self.taken).ok().filter(|&left| left > 0)?;
        let member = (self.first + self.taken) % self.count;
        self.taken += 1;
        Some((member, (self.end.saturating_duration_since(Instant::now()) / left).max(SHORTEST)))
    }
}

/// What became of a request to one member.
enum Failure {
    /// It may be made to another one.
    Lost(String),
    Final(EtcdError),
}

fn lost(error: impl std::fmt::Display) -> Failure {
    Failure::Lost(error.to_string())
}

fn malformed(error: &dyn std::fmt::Display) -> Failure {
    Failure::Final(EtcdError::Malformed(error.to_string()))
}

/// As grpc-gateway words an error.
#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    message: String,
    #[serde(default)]
    code: u32,
}

fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    match serde_json::from_slice::<Refusal>(body) {
        Ok(Refusal { message, code }) if !ELSEWHERE.contains(&code) => {
            Failure::Final(EtcdError::Refused { code, message })
        }
        Ok(Refusal { message, .. }) => Failure::Lost(message),
        Err(_) => Failure::Lost(format!("HTTP status {status}")),
    }
}
