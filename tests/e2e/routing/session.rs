//! A session on one server: it runs texts and tells what came back, so that it can be compared with another server's.

use bytes::BytesMut;
use pgpilot::demo::Node;
use pgpilot::wire::backend::{self, ErrorView, data_row};
use pgpilot::wire::{Body, HEADER_LEN, Header, frame, frontend, startup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::support::LIMIT;

pub(super) const SUPERUSER: &str = "postgres";

pub(super) struct Session {
    stream: UnixStream,
    input: BytesMut,
    /// The transaction status of the last ReadyForQuery; `None`: the connection is lost.
    pub(super) status: Option<u8>,
}

/// What a text gave. Two servers that agree give equal answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Answer {
    /// Rows, and data of COPY, as they came.
    pub(super) rows: Vec<Vec<u8>>,
    /// The columns of the last result.
    pub(super) columns: Vec<String>,
    /// The SQLSTATE of the first error.
    pub(super) error: Option<String>,
}

/// What a client is told that has lost its server.
const LOST: &str = "08006";

impl Session {
    /// # Panics
    /// The server refuses the login.
    pub(super) async fn open(node: &Node, user: &str, database: &str) -> Self {
        let opened = Self::try_open(node, user, database).await;
        opened.unwrap_or_else(|error| panic!("{} as {user} in {database}: {error:?}", node.name()))
    }

    /// # Errors
    /// What the server answers to the login.
    pub(super) async fn try_open(node: &Node, user: &str, database: &str) -> Result<Self, Answer> {
        let path = node.socket_directory().join(format!(".s.PGSQL.{}", node.port()));
        let stream = UnixStream::connect(path).await.expect("the server listens");
        let mut session = Session { stream, input: BytesMut::new(), status: Some(b'I') };
        let mut out = BytesMut::new();
        startup::put_startup(&mut out, startup::PROTOCOL_3_0, &[("user", user), ("database", database)]);
        session.send(&out).await;
        let answer = session.answer(&[]).await;
        if answer.error.is_some() { Err(answer) } else { Ok(session) }
    }

    pub(super) async fn run(&mut self, text: &str) -> Answer {
        self.run_with(text, &[]).await
    }

    /// `data`: what a COPY FROM STDIN in the text reads.
    pub(super) async fn run_with(&mut self, text: &str, data: &[u8]) -> Answer {
        let mut out = BytesMut::new();
        frontend::put_query(&mut out, text.as_bytes());
        self.send(&out).await;
        self.answer(data).await
    }

    /// The first column of the first row, empty if there is none or it is NULL.
    pub(super) async fn value(&mut self, text: &str) -> String {
        let answer = self.run(text).await;
        assert_eq!(answer.error, None, "{text}");
        answer.cells().into_iter().flatten().next().flatten().unwrap_or_default()
    }

    async fn send(&mut self, bytes: &[u8]) {
        if self.status.is_some() && self.stream.write_all(bytes).await.is_err() {
            self.status = None;
        }
    }

    async fn answer(&mut self, data: &[u8]) -> Answer {
        let mut answer = Answer::default();
        loop {
            let Some((tag, body)) = timeout(4 * LIMIT, self.message()).await.expect("an answer in time") else {
                self.status = None;
                answer.error.get_or_insert(LOST.to_owned());
                return answer;
            };
            match tag {
                backend::DATA_ROW | backend::COPY_DATA => answer.rows.push(body),
                backend::ROW_DESCRIPTION => answer.columns = columns(&body),
                backend::ERROR_RESPONSE => {
                    let code = ErrorView::parse(&body).expect("an error").code;
                    answer.error.get_or_insert(code.to_string());
                }
                backend::COPY_IN_RESPONSE => self.copy(data).await,
                backend::READY_FOR_QUERY => {
                    self.status = body.first().copied();
                    return answer;
                }
                _ => {}
            }
        }
    }

    async fn copy(&mut self, data: &[u8]) {
        let mut out = BytesMut::new();
        for part in data.chunks(32 * 1024) {
            frame::put(&mut out, frontend::COPY_DATA, |body| body.extend_from_slice(part));
        }
        frame::put(&mut out, frontend::COPY_DONE, |_| {});
        self.send(&out).await;
    }

    async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        self.status?;
        loop {
            if let Some(header) = Header::peek(&self.input).expect("a frame")
                && self.input.len() >= header.frame_len()
            {
                let frame = self.input.split_to(header.frame_len());
                return Some((header.tag, frame[HEADER_LEN..].to_vec()));
            }
            if self.stream.read_buf(&mut self.input).await.ok()? == 0 {
                return None;
            }
        }
    }
}

impl Answer {
    /// The rows, column by column, as text.
    pub(super) fn cells(&self) -> Vec<Vec<Option<String>>> {
        let text = |value: Option<&[u8]>| value.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        self.rows.iter().map(|row| data_row(row).expect("a row").into_iter().map(text).collect()).collect()
    }
}

fn columns(body: &[u8]) -> Vec<String> {
    let mut body = Body::new(backend::ROW_DESCRIPTION, body);
    let count = body.i16().expect("a count");
    let mut column = || {
        let name = String::from_utf8_lossy(body.cstr().expect("a name")).into_owned();
        body.take(18).expect("a description");
        name
    };
    (0..count).map(|_| column()).collect()
}
