//! Messages from a server to a client.

use bytes::{BufMut, BytesMut};

use super::frame::{Body, HEADER_LEN, Header, WireError, put};
use super::sqlstate::SqlState;
use super::startup::put_cstr;

pub const AUTHENTICATION: u8 = b'R';
pub const BACKEND_KEY_DATA: u8 = b'K';
pub const BIND_COMPLETE: u8 = b'2';
pub const CLOSE_COMPLETE: u8 = b'3';
pub const COMMAND_COMPLETE: u8 = b'C';
pub const COPY_BOTH_RESPONSE: u8 = b'W';
pub const COPY_DATA: u8 = b'd';
pub const COPY_DONE: u8 = b'c';
pub const COPY_IN_RESPONSE: u8 = b'G';
pub const COPY_OUT_RESPONSE: u8 = b'H';
pub const DATA_ROW: u8 = b'D';
pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
pub const ERROR_RESPONSE: u8 = b'E';
pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
pub const NO_DATA: u8 = b'n';
pub const NOTICE_RESPONSE: u8 = b'N';
pub const NOTIFICATION_RESPONSE: u8 = b'A';
pub const PARAMETER_DESCRIPTION: u8 = b't';
pub const PARAMETER_STATUS: u8 = b'S';
pub const PARSE_COMPLETE: u8 = b'1';
pub const PORTAL_SUSPENDED: u8 = b's';
pub const READY_FOR_QUERY: u8 = b'Z';
pub const ROW_DESCRIPTION: u8 = b'T';

/// What ReadyForQuery says of the session's transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    Idle,
    InTransaction,
    Failed,
}

impl TransactionStatus {
    /// # Errors
    /// The body is not one of `I`, `T`, `E`.
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        match body {
            b"I" => Ok(Self::Idle),
            b"T" => Ok(Self::InTransaction),
            b"E" => Ok(Self::Failed),
            _ => Err(WireError::Field(char::from(READY_FOR_QUERY))),
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// ParameterStatus: name and value.
///
/// # Errors
/// One of them is not terminated or not UTF-8.
pub fn parameter_status(body: &[u8]) -> Result<(&str, &str), WireError> {
    let field = WireError::Field(char::from(PARAMETER_STATUS));
    let mut body = Body::new(PARAMETER_STATUS, body);
    let name = std::str::from_utf8(body.cstr()?).map_err(|_| field)?;
    let value = std::str::from_utf8(body.cstr()?).map_err(|_| field)?;
    Ok((name, value))
}

/// BackendKeyData: process id and secret key (four bytes in protocol 3.0, up to 256 in 3.2).
///
/// # Errors
/// The body is shorter than eight bytes.
pub fn backend_key_data(body: &[u8]) -> Result<(u32, &[u8]), WireError> {
    let mut body = Body::new(BACKEND_KEY_DATA, body);
    let pid = body.i32()?.cast_unsigned();
    let key = body.rest();
    if key.len() < 4 { Err(WireError::Field('K')) } else { Ok((pid, key)) }
}

/// NotificationResponses, whole frames one behind the other: where they name `from` as the process that notified, they name
/// `to` from now on.
///
/// # Errors
/// What is there is not that.
pub fn rename_notifier(mut frames: &mut [u8], from: u32, to: u32) -> Result<(), WireError> {
    let field = WireError::Field(char::from(NOTIFICATION_RESPONSE));
    while let Some(header) = Header::peek(frames)? {
        let (frame, rest) = frames.split_at_mut_checked(header.frame_len()).ok_or(field)?;
        let pid = frame.get_mut(HEADER_LEN..HEADER_LEN + 4).ok_or(field)?;
        if *pid == from.to_be_bytes() {
            pid.copy_from_slice(&to.to_be_bytes());
        }
        frames = rest;
    }
    Ok(())
}

/// The fields of an ErrorResponse or NoticeResponse that pgpilot reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorView<'a> {
    /// Never translated: ERROR, FATAL, PANIC, WARNING, ..
    pub severity: &'a str,
    pub code: SqlState,
    pub message: &'a str,
    /// The C function that reported it.
    pub routine: &'a str,
}

impl<'a> ErrorView<'a> {
    /// # Errors
    /// A field is not terminated, or there is no valid SQLSTATE.
    pub fn parse(body: &'a [u8]) -> Result<Self, WireError> {
        let field = WireError::Field(char::from(ERROR_RESPONSE));
        let mut body = Body::new(ERROR_RESPONSE, body);
        let (mut severity, mut code, mut message, mut routine) = ("", None, "", "");
        loop {
            let kind = body.u8()?;
            if kind == 0 {
                let code = code.ok_or(field)?;
                return Ok(Self { severity, code, message, routine });
            }
            let value = body.cstr()?;
            let text = std::str::from_utf8(value).unwrap_or("");
            match kind {
                // 'V' comes after 'S' and is the one that is not translated.
                b'S' | b'V' => severity = text,
                b'C' => code = SqlState::from_bytes(value),
                b'M' => message = text,
                b'R' => routine = text,
                _ => {}
            }
        }
    }

    /// After FATAL or PANIC the server closes the connection.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity, "FATAL" | "PANIC")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    Error,
    Fatal,
    Warning,
    /// Sent whatever `client_min_messages` says: PostgreSQL's documentation, "Message Severity Levels".
    Info,
}

/// An error or notice of pgpilot's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub severity: Severity,
    pub code: SqlState,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Report {
    pub fn error(code: SqlState, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), detail: None, hint: None }
    }

    pub fn warning(code: SqlState, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    pub fn fatal(code: SqlState, message: impl Into<String>) -> Self {
        Self { severity: Severity::Fatal, ..Self::error(code, message) }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Appends it as ErrorResponse, or as NoticeResponse if it is a warning.
    pub fn put(&self, out: &mut BytesMut) {
        let (tag, severity) = match self.severity {
            Severity::Error => (ERROR_RESPONSE, "ERROR"),
            Severity::Fatal => (ERROR_RESPONSE, "FATAL"),
            Severity::Warning => (NOTICE_RESPONSE, "WARNING"),
            Severity::Info => (NOTICE_RESPONSE, "INFO"),
        };
        put(out, tag, |out| {
            let mut field = |kind: u8, text: &str| {
                out.put_u8(kind);
                // A zero byte would end the field early.
                out.extend(text.bytes().filter(|b| *b != 0));
                out.put_u8(0);
            };
            field(b'S', severity);
            field(b'V', severity);
            field(b'C', self.code.as_str());
            field(b'M', &self.message);
            if let Some(detail) = &self.detail {
                field(b'D', detail);
            }
            if let Some(hint) = &self.hint {
                field(b'H', hint);
            }
            // Tells a reader of the application's log that the server never saw it.
            field(b'R', "pgpilot");
            out.put_u8(0);
        });
    }
}

pub fn put_ready(out: &mut BytesMut, status: TransactionStatus) {
    out.put_slice(&[READY_FOR_QUERY, 0, 0, 0, 5, status.byte()]);
}

pub fn put_command_complete(out: &mut BytesMut, tag: &str) {
    put(out, COMMAND_COMPLETE, |out| put_cstr(out, tag.as_bytes()));
}

/// ParameterDescription of a statement without parameters.
pub fn put_no_parameters(out: &mut BytesMut) {
    put(out, PARAMETER_DESCRIPTION, |out| out.put_i16(0));
}

/// Appends a message that has no body: ParseComplete, BindComplete, NoData, ..
pub fn put_empty(out: &mut BytesMut, tag: u8) {
    out.put_slice(&[tag, 0, 0, 0, 4]);
}

pub fn put_parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    put(out, PARAMETER_STATUS, |out| {
        put_cstr(out, name.as_bytes());
        put_cstr(out, value.as_bytes());
    });
}

pub fn put_backend_key(out: &mut BytesMut, pid: u32, key: &[u8]) {
    put(out, BACKEND_KEY_DATA, |out| {
        out.put_u32(pid);
        out.put_slice(key);
    });
}

/// NegotiateProtocolVersion: the newest minor version spoken here, and the `_pq_.` options that are not known.
pub fn put_negotiate_protocol(out: &mut BytesMut, version: i32, unknown: &[&str]) {
    put(out, NEGOTIATE_PROTOCOL_VERSION, |out| {
        out.put_i32(version);
        out.put_i32(i32::try_from(unknown.len()).unwrap_or(i32::MAX));
        for name in unknown {
            put_cstr(out, name.as_bytes());
        }
    });
}

/// Authentication: `code`, then what the method needs.
pub fn put_authentication(out: &mut BytesMut, code: i32, data: &[u8]) {
    put(out, AUTHENTICATION, |out| {
        out.put_i32(code);
        out.put_slice(data);
    });
}

const TEXT_OID: i32 = 25;

/// A column of a RowDescription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnHead<'a> {
    pub name: &'a str,
    /// `pg_type.oid`
    pub oid: i32,
    /// `pg_type.typlen`: bytes, -1 if it varies.
    pub len: i16,
    /// 0: text, 1: binary.
    pub format: i16,
}

/// RowDescription of columns that belong to no table.
pub fn put_columns<'a>(out: &mut BytesMut, columns: impl ExactSizeIterator<Item = ColumnHead<'a>>) {
    put(out, ROW_DESCRIPTION, |out| {
        out.put_i16(i16::try_from(columns.len()).unwrap_or(i16::MAX));
        for column in columns {
            put_cstr(out, column.name.as_bytes());
            out.put_i32(0); // table
            out.put_i16(0); // column number
            out.put_i32(column.oid);
            out.put_i16(column.len);
            out.put_i32(-1); // no type modifier
            out.put_i16(column.format);
        }
    });
}

/// RowDescription of columns that are all of type text.
pub fn put_text_columns(out: &mut BytesMut, names: &[&str]) {
    put_columns(out, names.iter().map(|name| ColumnHead { name, oid: TEXT_OID, len: -1, format: 0 }));
}

/// DataRow of text values; `None` is NULL.
pub fn put_text_row<'a>(out: &mut BytesMut, values: impl ExactSizeIterator<Item = Option<&'a str>>) {
    put_row(out, values.map(|value| value.map(str::as_bytes)));
}

/// DataRow of values in whatever format their columns announce; `None` is NULL.
pub fn put_row<T: AsRef<[u8]>>(out: &mut BytesMut, values: impl ExactSizeIterator<Item = Option<T>>) {
    put(out, DATA_ROW, |out| {
        out.put_i16(i16::try_from(values.len()).unwrap_or(i16::MAX));
        for value in values {
            match value {
                None => out.put_i32(-1),
                Some(bytes) => {
                    let bytes = bytes.as_ref();
                    out.put_i32(i32::try_from(bytes.len()).unwrap_or(0));
                    out.put_slice(bytes);
                }
            }
        }
    });
}

/// DataRow: the values, `None` for NULL.
///
/// # Errors
/// The row is cut off or its count is negative.
pub fn data_row(body: &[u8]) -> Result<Vec<Option<&[u8]>>, WireError> {
    let mut body = Body::new(DATA_ROW, body);
    let count = usize::try_from(body.i16()?).map_err(|_| WireError::Field(char::from(DATA_ROW)))?;
    (0..count).map(|_| body.nullable()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notifier_is_renamed_in_each_of_several_frames() {
        let notified = |pid: u8| [b'A', 0, 0, 0, 13, 0, 0, 0, pid, b'n', 0, b'x', 0, 0];
        let mut frames = [notified(7), notified(8), notified(7)].concat();
        rename_notifier(&mut frames, 7, 9).unwrap();
        assert_eq!(frames, [notified(9), notified(8), notified(9)].concat());
        assert!(rename_notifier(&mut frames[..20], 7, 9).is_err(), "cut in the middle of the second");
        assert!(rename_notifier(&mut [b'A', 0, 0, 0, 4], 7, 9).is_err(), "without a process");
    }

    #[test]
    fn an_error_is_read_back_and_every_cut_is_refused() {
        let mut out = BytesMut::new();
        Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "no\0pe").hint("later").put(&mut out);
        let body = &out[5..];
        let view = ErrorView::parse(body).unwrap();
        assert_eq!((view.severity, view.code, view.message), ("FATAL", SqlState::TOO_MANY_CONNECTIONS, "nope"));
        assert!(view.is_fatal());
        for cut in 0..body.len() {
            assert!(ErrorView::parse(&body[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn rows_are_read_back() {
        let mut out = BytesMut::new();
        put_text_row(&mut out, [Some("a"), None, Some("")].into_iter());
        assert_eq!(data_row(&out[5..]).unwrap(), [Some(&b"a"[..]), None, Some(b"")]);
        for cut in 5..out.len() {
            assert!(data_row(&out[5..cut]).is_err());
        }
    }
}
