//! A client that sends what it is told, message by message: what drivers do not do, or hide.

use bytes::{BufMut, BytesMut};
use pgpilot::demo::Node;
use pgpilot::wire::backend::{self, ErrorView};
use pgpilot::wire::frontend::{self, BindHead, Parse};
use pgpilot::wire::{HEADER_LEN, Header, startup};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::LIMIT;
use super::proxy::USER;

/// Lets a raw client in without a password: it goes at the end of the topology file.
pub(crate) const TRUST: &str =
    "[[auth.rules]]\nmethod = \"trust\"\n[[users]]\nname = \"app\"\npassword = \"app-secret\"\n";

trait Line: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Line for T {}

pub(crate) struct Raw {
    reader: Reader,
    writer: WriteHalf<Box<dyn Line>>,
    /// For a CancelRequest.
    pub(crate) pid: u32,
    pub(crate) key: Vec<u8>,
}

struct Reader {
    stream: ReadHalf<Box<dyn Line>>,
    input: BytesMut,
}

/// One message from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) tag: u8,
    pub(crate) body: Vec<u8>,
}

impl Raw {
    /// Connects to a pgpilot that was started with [`TRUST`].
    pub(crate) async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("pgpilot listens");
        stream.set_nodelay(true).expect("a TCP socket");
        Self::begin(Box::new(stream)).await
    }

    /// Connects to a server itself.
    pub(crate) async fn direct(node: &Node) -> Self {
        let path = node.socket_directory().join(format!(".s.PGSQL.{}", node.port()));
        Self::begin(Box::new(UnixStream::connect(path).await.expect("the server listens"))).await
    }

    async fn begin(mut stream: Box<dyn Line>) -> Self {
        let mut out = BytesMut::new();
        startup::put_startup(&mut out, startup::PROTOCOL_3_0, &[("user", USER), ("database", "shop")]);
        stream.write_all(&out).await.expect("the start-up packet is sent");
        let (stream, writer) = tokio::io::split(stream);
        let reader = Reader { stream, input: BytesMut::new() };
        let mut raw = Self { reader, writer, pid: 0, key: Vec::new() };
        for reply in raw.replies().await {
            assert_ne!(reply.tag, backend::ERROR_RESPONSE, "{reply:?}");
            if reply.tag == backend::BACKEND_KEY_DATA {
                let (pid, key) = backend::backend_key_data(&reply.body).expect("a key");
                (raw.pid, raw.key) = (pid, key.to_vec());
            }
        }
        raw
    }

    pub(crate) async fn send(&mut self, messages: Messages) {
        self.writer.write_all(&messages.0).await.expect("the messages are sent");
    }

    pub(crate) async fn reply(&mut self) -> Reply {
        self.reader.reply().await
    }

    /// Everything up to and including the next ReadyForQuery.
    pub(crate) async fn replies(&mut self) -> Vec<Reply> {
        self.reader.replies().await
    }

    pub(crate) async fn ask(&mut self, messages: Messages) -> Vec<Reply> {
        self.send(messages).await;
        self.replies().await
    }

    pub(crate) async fn query(&mut self, sql: &str) -> Vec<Reply> {
        self.ask(Messages::new().query(sql)).await
    }

    /// Sends, and reads at the same time until `batches` ReadyForQuery have come.
    pub(crate) async fn pipeline(&mut self, messages: Messages, batches: usize) -> Vec<Reply> {
        let Self { reader, writer, .. } = self;
        let sending = async { writer.write_all(&messages.0).await.expect("the messages are sent") };
        let receiving = async {
            let mut all = Vec::new();
            for _ in 0..batches {
                all.extend(reader.replies().await);
            }
            all
        };
        tokio::join!(sending, receiving).1
    }

    /// Sends a CancelRequest as libpq does, and waits until the other side has closed the connection.
    pub(crate) async fn cancel(port: u16, pid: u32, key: &[u8]) {
        let mut out = BytesMut::new();
        startup::put_cancel(&mut out, pid, key);
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("pgpilot listens");
        stream.write_all(&out).await.expect("the request is sent");
        let closed = timeout(LIMIT, stream.read(&mut [0])).await.expect("the connection is closed");
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
}

impl Reader {
    async fn reply(&mut self) -> Reply {
        timeout(LIMIT, self.next()).await.expect("an answer in time").expect("the connection stays open")
    }

    async fn replies(&mut self) -> Vec<Reply> {
        let mut all = Vec::new();
        loop {
            let reply = self.reply().await;
            let last = reply.tag == backend::READY_FOR_QUERY;
            all.push(reply);
            if last {
                return all;
            }
        }
    }

    async fn next(&mut self) -> Option<Reply> {
        loop {
            if let Some(header) = Header::peek(&self.input).expect("a frame")
                && self.input.len() >= header.frame_len()
            {
                let frame = self.input.split_to(header.frame_len());
                return Some(Reply { tag: header.tag, body: frame[HEADER_LEN..].to_vec() });
            }
            if self.stream.read_buf(&mut self.input).await.ok()? == 0 {
                return None;
            }
        }
    }
}

/// Messages to be sent in one write.
#[derive(Debug, Clone, Default)]
pub(crate) struct Messages(BytesMut);

impl Messages {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn query(mut self, sql: &str) -> Self {
        frontend::put_query(&mut self.0, sql.as_bytes());
        self
    }

    pub(crate) fn parse(mut self, name: &str, sql: &str) -> Self {
        Parse { name: name.as_bytes(), query: sql.as_bytes(), types: &[0, 0] }.put(&mut self.0);
        self
    }

    pub(crate) fn close(mut self, statement: &str) -> Self {
        frontend::put_statement_target(&mut self.0, frontend::CLOSE, statement.as_bytes());
        self
    }

    /// The unnamed portal, with parameters as text.
    pub(crate) fn bind(mut self, statement: &str, parameters: &[&str]) -> Self {
        let rest = 2 + 2 + parameters.iter().map(|value| 4 + value.len()).sum::<usize>() + 2;
        BindHead::put(&mut self.0, b"", statement.as_bytes(), rest);
        self.0.put_i16(0);
        self.0.put_i16(i16::try_from(parameters.len()).expect("few parameters"));
        for value in parameters {
            self.0.put_i32(i32::try_from(value.len()).expect("a short value"));
            self.0.put_slice(value.as_bytes());
        }
        self.0.put_i16(0);
        self
    }

    /// Execute of the unnamed portal, without a limit.
    pub(crate) fn execute(mut self) -> Self {
        self.0.put_slice(&[frontend::EXECUTE, 0, 0, 0, 9, 0, 0, 0, 0, 0]);
        self
    }

    pub(crate) fn copy_data(mut self, data: &[u8]) -> Self {
        self.0.put_u8(frontend::COPY_DATA);
        self.0.put_i32(i32::try_from(data.len() + 4).expect("short data"));
        self.0.put_slice(data);
        self
    }

    pub(crate) fn copy_done(mut self) -> Self {
        self.0.put_slice(&[frontend::COPY_DONE, 0, 0, 0, 4]);
        self
    }

    pub(crate) fn flush(mut self) -> Self {
        self.0.put_slice(&[frontend::FLUSH, 0, 0, 0, 4]);
        self
    }

    pub(crate) fn sync(mut self) -> Self {
        frontend::put_sync(&mut self.0);
        self
    }
}

/// The types of messages, as they are written in the documentation, without what may come at any time.
pub(crate) fn tags(replies: &[Reply]) -> String {
    let at_any_time = [backend::NOTICE_RESPONSE, backend::PARAMETER_STATUS, backend::NOTIFICATION_RESPONSE];
    replies.iter().filter(|reply| !at_any_time.contains(&reply.tag)).map(|reply| char::from(reply.tag)).collect()
}

/// The first column of every row.
pub(crate) fn values(replies: &[Reply]) -> Vec<String> {
    let rows = replies.iter().filter(|reply| reply.tag == backend::DATA_ROW);
    rows.map(|row| {
        let length = i32::from_be_bytes(row.body[2..6].try_into().expect("four bytes"));
        let end = usize::try_from(length).map_or(6, |length| 6 + length);
        String::from_utf8_lossy(&row.body[6..end]).into_owned()
    })
    .collect()
}

/// The SQLSTATE of every error.
pub(crate) fn errors(replies: &[Reply]) -> Vec<String> {
    let errors = replies.iter().filter(|reply| reply.tag == backend::ERROR_RESPONSE);
    errors.map(|error| ErrorView::parse(&error.body).expect("an error").code.to_string()).collect()
}
