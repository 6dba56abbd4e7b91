//! One client connection, message by message. Its end is an outcome, not a failure of the test.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use pgpilot::wire::backend::{self, ErrorView};
use pgpilot::wire::frontend::{self, BindHead, Parse};
use pgpilot::wire::{HEADER_LEN, Header, startup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::proxy::USER;

/// Longer than any statement may wait for a primary.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Connection {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
    /// How many replies are due for what has been put.
    due: usize,
}

/// Everything up to a ReadyForQuery.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// The first column of each row.
    pub(super) values: Vec<String>,
    /// The SQLSTATE of the error, and its message.
    pub(super) error: Option<(String, String)>,
}

#[derive(Debug)]
pub(super) enum Lost {
    /// The connection has ended.
    Closed,
    /// No reply within a time that is beyond all settings.
    Hung,
}

impl Connection {
    /// To a pgpilot that asks for no password.
    pub(super) async fn open(port: u16) -> Result<Self, Lost> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|_| Lost::Closed)?;
        stream.set_nodelay(true).expect("a TCP socket");
        let mut connection = Self { stream, input: BytesMut::new(), output: BytesMut::new(), due: 1 };
        let parameters = [("user", USER), ("database", "shop")];
        startup::put_startup(&mut connection.output, startup::PROTOCOL_3_0, &parameters);
        let replies = connection.exchange().await?;
        if replies[0].error.is_some() { Err(Lost::Closed) } else { Ok(connection) }
    }

    pub(super) fn query(&mut self, text: &str) -> &mut Self {
        frontend::put_query(&mut self.output, text.as_bytes());
        self.due += 1;
        self
    }

    pub(super) fn parse(&mut self, name: &str, text: &str) -> &mut Self {
        Parse { name: name.as_bytes(), query: text.as_bytes(), types: &[0, 0] }.put(&mut self.output);
        self
    }

    /// Bind and Execute of the unnamed portal, with text parameters.
    pub(super) fn execute(&mut self, statement: &str, parameters: &[&str]) -> &mut Self {
        let out = &mut self.output;
        let values: usize = parameters.iter().map(|value| 4 + value.len()).sum();
        BindHead::put(out, b"", statement.as_bytes(), 2 + 2 + values + 2);
        out.put_i16(0);
        out.put_i16(i16::try_from(parameters.len()).expect("few parameters"));
        for value in parameters {
            out.put_i32(i32::try_from(value.len()).expect("a short value"));
            out.put_slice(value.as_bytes());
        }
        out.put_i16(0);
        out.put_slice(&[frontend::EXECUTE, 0, 0, 0, 9, 0, 0, 0, 0, 0]);
        self
    }

    pub(super) fn sync(&mut self) -> &mut Self {
        frontend::put_sync(&mut self.output);
        self.due += 1;
        self
    }

    /// Sends what has been put, in one write, and gathers the replies.
    pub(super) async fn exchange(&mut self) -> Result<Vec<Reply>, Lost> {
        let due = std::mem::take(&mut self.due);
        let output = self.output.split();
        let exchange = async {
            self.stream.write_all(&output).await.map_err(|_| Lost::Closed)?;
            let mut replies = Vec::with_capacity(due);
            for _ in 0..due {
                replies.push(self.reply().await?);
            }
            Ok(replies)
        };
        timeout(PATIENCE, exchange).await.unwrap_or(Err(Lost::Hung))
    }

    async fn reply(&mut self) -> Result<Reply, Lost> {
        let mut reply = Reply::default();
        loop {
            let Some(header) = Header::peek(&self.input).expect("a valid header") else {
                self.receive().await?;
                continue;
            };
            if self.input.len() < header.frame_len() {
                self.receive().await?;
                continue;
            }
            let frame = self.input.split_to(header.frame_len());
            let body = &frame[HEADER_LEN..];
            match header.tag {
                backend::READY_FOR_QUERY => return Ok(reply),
                backend::DATA_ROW => {
                    let row = backend::data_row(body).expect("a row");
                    let value = row.first().copied().flatten().unwrap_or_default();
                    reply.values.push(String::from_utf8_lossy(value).into_owned());
                }
                backend::ERROR_RESPONSE => {
                    let error = ErrorView::parse(body).expect("an error");
                    reply.error = Some((error.code.to_string(), error.message.to_string()));
                }
                _ => {}
            }
        }
    }

    async fn receive(&mut self) -> Result<(), Lost> {
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) | Err(_) => Err(Lost::Closed),
            Ok(_) => Ok(()),
        }
    }
}
