//! A client that speaks the protocol message by message: it sends any bytes, and sees every reply.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use pgpilot::config::Secret;
use pgpilot::decide::auth::{Credential, LoginStep, ServerLogin};
use pgpilot::wire::startup::{PROTOCOL_3_0, put_startup};
use pgpilot::wire::{HEADER_LEN, Header, backend, frontend};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::proxy::{PASSWORD, USER};
use super::{LIMIT, wait_for};

/// One connection.
pub(crate) struct Raw {
    stream: TcpStream,
    input: BytesMut,
    /// From BackendKeyData.
    pub(crate) pid: u32,
    pub(crate) key: Vec<u8>,
    /// Everything between the authentication and the first ReadyForQuery.
    pub(crate) greeting: Vec<Frame>,
}

/// One message from the server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) tag: u8,
    pub(crate) body: Vec<u8>,
}

/// Why a login did not succeed.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// ErrorResponse.
    Error(Frame),
    /// The connection was closed without a word.
    Closed,
}

/// Keys of the last login: deriving them takes most of a login's time.
static CREDENTIAL: Mutex<Option<Credential>> = Mutex::new(None);

fn credential() -> Credential {
    let known = CREDENTIAL.lock().unwrap_or_else(PoisonError::into_inner).clone();
    known.unwrap_or_else(|| Credential::password(Secret::new(PASSWORD.to_owned())))
}

impl Raw {
    /// A connection on which nothing has been sent.
    pub(crate) async fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("something listens");
        stream.set_nodelay(true).expect("a socket");
        Self { stream, input: BytesMut::new(), pid: 0, key: Vec::new(), greeting: Vec::new() }
    }

    /// Logs in as the application's user.
    pub(crate) async fn connect(port: u16, database: &str) -> Self {
        let parameters = [("user", USER), ("database", database), ("application_name", "raw")];
        let connected = Self::connect_with(port, PROTOCOL_3_0, &parameters).await;
        connected.unwrap_or_else(|refusal| panic!("cannot log in: {refusal:?}"))
    }

    pub(crate) async fn connect_with(port: u16, version: i32, parameters: &[(&str, &str)]) -> Result<Self, Refusal> {
        let mut raw = Self::open(port).await;
        let mut packet = BytesMut::new();
        put_startup(&mut packet, version, parameters);
        raw.send(&packet).await;
        raw.log_in().await?;
        Ok(raw)
    }

    /// Authenticates with the application's password; the start-up packet has been sent. Messages before the first request go to the greeting.
    pub(crate) async fn log_in(&mut self) -> Result<(), Refusal> {
        self.log_in_cut_at(usize::MAX).await.map(drop)
    }

    /// As `log_in`; each message is cut at this byte, if it is longer. Returns whether one was.
    pub(crate) async fn log_in_cut_at(&mut self, at: usize) -> Result<bool, Refusal> {
        let mut cut = false;
        let mut login = Some(ServerLogin::new(USER, credential(), None, [7; 18]));
        loop {
            let frame = self.frame().await.ok_or(Refusal::Closed)?;
            match frame.tag {
                backend::ERROR_RESPONSE => return Err(Refusal::Error(frame)),
                backend::AUTHENTICATION => {
                    let state = login.take().expect("no request after the login is done");
                    match state.on_request(&frame.body).expect("a request that can be answered") {
                        LoginStep::Reply(next, message) => {
                            let (head, tail) = message.split_at(at.min(message.len()));
                            if !tail.is_empty() {
                                self.send_taken(head).await;
                                cut = true;
                            }
                            self.send(if tail.is_empty() { head } else { tail }).await;
                            login = Some(next);
                        }
                        LoginStep::Expect(next) => login = Some(next),
                        LoginStep::Done(credential) => {
                            *CREDENTIAL.lock().unwrap_or_else(PoisonError::into_inner) = Some(credential);
                        }
                    }
                }
                backend::BACKEND_KEY_DATA => {
                    let (pid, key) = backend::backend_key_data(&frame.body).expect("a key");
                    (self.pid, self.key) = (pid, key.to_vec());
                }
                backend::READY_FOR_QUERY => return Ok(cut),
                _ => self.greeting.push(frame),
            }
        }
    }

    /// Authenticates, but sends no more than so many bytes in all. Returns whether that was enough.
    pub(crate) async fn log_in_up_to(&mut self, mut limit: usize) -> bool {
        let mut login = ServerLogin::new(USER, credential(), None, [7; 18]);
        loop {
            let frame = self.frame().await.expect("a request");
            assert_eq!(frame.tag, backend::AUTHENTICATION, "{frame:?}");
            login = match login.on_request(&frame.body).expect("a request that can be answered") {
                LoginStep::Reply(next, message) => {
                    self.send(&message[..limit.min(message.len())]).await;
                    let Some(left) = limit.checked_sub(message.len()) else { return false };
                    limit = left;
                    next
                }
                LoginStep::Expect(next) => next,
                LoginStep::Done(_) => return true,
            };
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let sent = timeout(LIMIT, self.stream.write_all(bytes)).await.expect("the other side reads");
        // A reset says that the other side has closed; what it said before is still to be read.
        drop(sent);
    }

    /// Sends, and waits until the other side has read it: its socket's queue is empty again.
    pub(crate) async fn send_taken(&mut self, bytes: &[u8]) {
        self.send(bytes).await;
        let (own, peer) = (self.stream.local_addr(), self.stream.peer_addr());
        let (own, peer) = (own.expect("a socket").port(), peer.expect("a socket").port());
        wait_for("the other side to read", LIMIT, async || !is_queued(own, peer)).await;
    }

    /// The next message; `None` at the end of the stream. Panics when nothing comes for long.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(header) = Header::peek(&self.input).expect("a valid header")
                && self.input.len() >= header.frame_len()
            {
                let bytes = self.input.split_to(header.frame_len());
                return Some(Frame { tag: header.tag, body: bytes[HEADER_LEN..].to_vec() });
            }
            let read = timeout(LIMIT, self.stream.read_buf(&mut self.input)).await.expect("a reply in time");
            if read.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// One byte that is no message: the answer to SSLRequest and GSSENCRequest.
    pub(crate) async fn byte(&mut self) -> u8 {
        assert!(self.input.is_empty());
        timeout(LIMIT, self.stream.read_u8()).await.expect("an answer in time").expect("an answer")
    }

    /// The messages up to one of this type, or up to the end of the stream.
    pub(crate) async fn until(&mut self, tag: u8) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.frame().await {
            let last = frame.tag == tag;
            frames.push(frame);
            if last {
                break;
            }
        }
        frames
    }

    /// The messages up to the end of the stream.
    pub(crate) async fn rest(&mut self) -> Vec<Frame> {
        self.until(0).await
    }

    /// Says that nothing more will be sent.
    pub(crate) async fn end_of_input(&mut self) {
        drop(self.stream.shutdown().await);
    }

    /// Ends the connection as a system does whose process is gone and which is sent something: by a reset.
    pub(crate) fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("a socket");
    }

    /// Whatever bytes come up to the end of the stream.
    pub(crate) async fn rest_of_bytes(&mut self) -> Vec<u8> {
        let mut rest = self.input.split().to_vec();
        // A reset is an end, too.
        drop(timeout(LIMIT, self.stream.read_to_end(&mut rest)).await.expect("the end in time"));
        rest
    }

    /// Runs a simple Query.
    pub(crate) async fn query(&mut self, text: &str) -> Vec<Frame> {
        let mut message = BytesMut::new();
        frontend::put_query(&mut message, text.as_bytes());
        self.send(&message).await;
        self.until(backend::READY_FOR_QUERY).await
    }

    /// The first column of the first row of a simple Query.
    pub(crate) async fn ask(&mut self, text: &str) -> String {
        let frames = self.query(text).await;
        let row = frames.iter().find(|frame| frame.tag == backend::DATA_ROW);
        let row = row.unwrap_or_else(|| panic!("{text}: {frames:#?}"));
        let values = backend::data_row(&row.body).expect("a row");
        String::from_utf8_lossy(values[0].unwrap_or_default()).into_owned()
    }

    /// Reads and forgets `n` bytes that come after what has been read.
    pub(crate) async fn discard(&mut self, n: u64) {
        let buffered = u64::try_from(self.input.len()).expect("a length").min(n);
        drop(self.input.split_to(usize::try_from(buffered).expect("a length")));
        let mut left = n - buffered;
        let mut buffer = vec![0; 256 * 1024];
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let read = timeout(LIMIT, self.stream.read(&mut buffer[..most])).await.expect("bytes in time");
            let read = read.expect("a connection");
            assert!(read > 0, "{left} bytes are missing");
            left -= u64::try_from(read).expect("a length");
        }
    }

    /// The header of the next message, of which the body has not been read.
    pub(crate) async fn header(&mut self) -> Header {
        while self.input.len() < HEADER_LEN {
            let read = timeout(LIMIT, self.stream.read_buf(&mut self.input)).await.expect("a reply in time");
            assert!(read.expect("a connection") > 0, "the connection was closed");
        }
        let header = Header::peek(&self.input).expect("a valid header").expect("five bytes");
        drop(self.input.split_to(HEADER_LEN));
        header
    }
}

/// Whether bytes from port `own` to port `peer` have not been acknowledged or read. Both are on this machine: the kernel's table tells
/// (Documentation/networking/proc_net_tcp.rst).
fn is_queued(own: u16, peer: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let port = |field: &str| u16::from_str_radix(field.rsplit(':').next().unwrap_or(""), 16).ok();
    table.lines().skip(1).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, _, queues, ..] = fields[..] else { return false };
        let (local, remote) = (port(local), port(remote));
        let ours = (local, remote) == (Some(own), Some(peer));
        let theirs = (local, remote) == (Some(peer), Some(own));
        let (unacknowledged, unread) = queues.split_once(':').unwrap_or(("0", "0"));
        (ours && unacknowledged != "00000000") || (theirs && unread != "00000000")
    })
}

impl Refusal {
    /// The SQLSTATE, if there is one.
    pub(crate) fn code(&self) -> &str {
        match self {
            Self::Error(frame) => frame.field(b'C').unwrap_or(""),
            Self::Closed => "",
        }
    }
}

impl Frame {
    /// A field of ErrorResponse or NoticeResponse.
    pub(crate) fn field(&self, kind: u8) -> Option<&str> {
        self.fields().find(|(k, _)| *k == kind).map(|(_, value)| value)
    }

    pub(crate) fn fields(&self) -> impl Iterator<Item = (u8, &str)> {
        let fields = self.body.split(|byte| *byte == 0).filter_map(|field| field.split_first());
        fields.map(|(kind, value)| (*kind, std::str::from_utf8(value).unwrap_or("?")))
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = &self.body[..self.body.len().min(400)];
        write!(f, "{} {}", char::from(self.tag), start.escape_ascii())
    }
}

/// The types of the messages, as a word.
pub(crate) fn tags(frames: &[Frame]) -> String {
    frames.iter().map(|frame| char::from(frame.tag)).collect()
}
