//! Messages from a client to a server.

use bytes::{BufMut, BytesMut};

use super::frame::{Body, WireError, put};
use super::startup::put_cstr;

pub const BIND: u8 = b'B';
pub const CLOSE: u8 = b'C';
pub const COPY_DATA: u8 = b'd';
pub const COPY_DONE: u8 = b'c';
pub const COPY_FAIL: u8 = b'f';
pub const DESCRIBE: u8 = b'D';
pub const EXECUTE: u8 = b'E';
pub const FLUSH: u8 = b'H';
pub const FUNCTION_CALL: u8 = b'F';
pub const PARSE: u8 = b'P';
/// PasswordMessage, SASLInitialResponse, SASLResponse and GSSResponse share one type byte.
pub const PASSWORD: u8 = b'p';
pub const QUERY: u8 = b'Q';
pub const SYNC: u8 = b'S';
pub const TERMINATE: u8 = b'X';

/// Query: the text.
///
/// # Errors
/// The text is not terminated, or something follows it.
pub fn query(body: &[u8]) -> Result<&[u8], WireError> {
    let mut body = Body::new(QUERY, body);
    let text = body.cstr()?;
    body.end()?;
    Ok(text)
}

/// Parse: statement name, text, and the OIDs of the parameters' types (a count, then four bytes each).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    pub name: &'a [u8],
    pub query: &'a [u8],
    /// The count and the OIDs as they came.
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// # Errors
    /// A field is not terminated, or the count does not fit what follows.
    pub fn read(body: &'a [u8]) -> Result<Self, WireError> {
        let mut body = Body::new(PARSE, body);
        let (name, query) = (body.cstr()?, body.cstr()?);
        let types = body.rest();
        let count = body.i16()?.cast_unsigned();
        if body.rest().len() != usize::from(count) * 4 {
            return Err(WireError::Field(char::from(PARSE)));
        }
        Ok(Self { name, query, types })
    }

    pub fn put(self, out: &mut BytesMut) {
        put(out, PARSE, |out| {
            put_cstr(out, self.name);
            put_cstr(out, self.query);
            out.put_slice(self.types);
        });
    }
}

/// The beginning of a Bind: portal and statement. Formats and parameters follow; pgpilot passes them on unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindHead<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    /// Where in the body the formats begin.
    pub rest_at: usize,
}

impl<'a> BindHead<'a> {
    /// `bytes` may be cut off behind the two names.
    ///
    /// # Errors
    /// A name is not terminated within `bytes`.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut body = Body::new(BIND, bytes);
        let (portal, statement) = (body.cstr()?, body.cstr()?);
        Ok(Self { portal, statement, rest_at: bytes.len() - body.rest().len() })
    }

    /// Writes the header and the names of a Bind whose remaining body is `rest` bytes long; the caller appends those.
    pub fn put(out: &mut BytesMut, portal: &[u8], statement: &[u8], rest: usize) {
        let length = 4 + portal.len() + 1 + statement.len() + 1 + rest;
        out.put_u8(BIND);
        out.put_i32(i32::try_from(length).expect("a Bind is checked against MAX_BODY when it is read"));
        put_cstr(out, portal);
        put_cstr(out, statement);
    }
}

/// The parameters' values of a Bind, from what follows the two names; `None` is NULL.
///
/// # Errors
/// A count is negative, or the values are cut off.
pub fn bind_values(rest: &[u8]) -> Result<Vec<Option<&[u8]>>, WireError> {
    let mut body = Body::new(BIND, rest);
    let count = |n: i16| usize::try_from(n).map_err(|_| WireError::Field(char::from(BIND)));
    let formats = count(body.i16()?)?;
    body.take(formats * 2)?;
    let values = count(body.i16()?)?;
    (0..values).map(|_| body.nullable()).collect()
}

/// Whether Describe or Close mean a prepared statement or a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Statement,
    Portal,
}

/// Describe and Close: what they mean, and its name.
///
/// # Errors
/// The kind is neither `S` nor `P`, or the name is not terminated.
pub fn target(tag: u8, body: &[u8]) -> Result<(Target, &[u8]), WireError> {
    let mut body = Body::new(tag, body);
    let target = match body.u8()? {
        b'S' => Target::Statement,
        b'P' => Target::Portal,
        _ => return Err(WireError::Field(char::from(tag))),
    };
    let name = body.cstr()?;
    body.end()?;
    Ok((target, name))
}

/// Appends a Describe or Close of a prepared statement.
pub fn put_statement_target(out: &mut BytesMut, tag: u8, name: &[u8]) {
    put(out, tag, |out| {
        out.put_u8(b'S');
        put_cstr(out, name);
    });
}

pub fn put_query(out: &mut BytesMut, text: &[u8]) {
    put(out, QUERY, |out| put_cstr(out, text));
}

/// A Close of the unnamed portal.
pub fn put_close_portal(out: &mut BytesMut) {
    put_portal_target(out, CLOSE, b"");
}

/// Appends a Describe or Close of a portal.
pub fn put_portal_target(out: &mut BytesMut, tag: u8, name: &[u8]) {
    put(out, tag, |out| {
        out.put_u8(b'P');
        put_cstr(out, name);
    });
}

/// An Execute of a portal, for all of its rows.
pub fn put_execute(out: &mut BytesMut, portal: &[u8]) {
    put(out, EXECUTE, |out| {
        put_cstr(out, portal);
        out.put_i32(0);
    });
}

/// A Bind of the unnamed portal without parameters, and its Execute.
pub fn put_bind_execute(out: &mut BytesMut, statement: &[u8]) {
    BindHead::put(out, b"", statement, 6);
    out.put_slice(&[0; 6]);
    put_execute(out, b"");
}

pub fn put_sync(out: &mut BytesMut) {
    out.put_slice(&[SYNC, 0, 0, 0, 4]);
}

pub fn put_flush(out: &mut BytesMut) {
    out.put_slice(&[FLUSH, 0, 0, 0, 4]);
}

pub fn put_terminate(out: &mut BytesMut) {
    out.put_slice(&[TERMINATE, 0, 0, 0, 4]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_is_read_back_and_every_cut_is_refused() {
        let mut out = BytesMut::new();
        let parse = Parse { name: b"s", query: b"select $1", types: &[0, 1, 0, 0, 0, 23] };
        parse.put(&mut out);
        let body = &out[5..];
        assert_eq!(Parse::read(body), Ok(parse));
        for cut in 0..body.len() {
            assert!(Parse::read(&body[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_bind_keeps_its_rest() {
        let head = BindHead::parse(b"p\0s\0rest").unwrap();
        assert_eq!(head, BindHead { portal: b"p", statement: b"s", rest_at: 4 });
        let mut out = BytesMut::new();
        BindHead::put(&mut out, b"p", b"server", 4);
        out.extend_from_slice(b"rest");
        assert_eq!(&out[..], b"B\0\0\0\x11p\0server\0rest");
        assert!(BindHead::parse(b"p\0s").is_err());
    }

    #[test]
    fn describe_and_close_know_their_target() {
        assert_eq!(target(CLOSE, b"Sx\0"), Ok((Target::Statement, &b"x"[..])));
        assert_eq!(target(DESCRIBE, b"P\0"), Ok((Target::Portal, &b""[..])));
        for bad in [&b""[..], b"S", b"Qx\0", b"Sx\0y"] {
            assert!(target(CLOSE, bad).is_err());
        }
    }
}
