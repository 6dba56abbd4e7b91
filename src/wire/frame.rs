//! Frames: a type byte, a length that counts itself, a body.

use memchr::memchr;

/// Bytes of a frame's header: one type byte and four of length.
pub const HEADER_LEN: usize = 5;

/// The longest body any message may have: PostgreSQL's `PQ_LARGE_MESSAGE_LIMIT` (`src/include/libpq/libpq.h`), which is `MaxAllocSize`.
pub const MAX_BODY: usize = 0x3fff_ffff;

/// The peer sent something that is not this protocol. Maps to SQLSTATE 08P01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("invalid message length {0}")]
    Length(i32),
    #[error("message {0:?} is too short or not terminated")]
    Truncated(char),
    #[error("unexpected message type {0:?}")]
    Unexpected(char),
    #[error("message {0:?} has an invalid field")]
    Field(char),
    #[error("a name or a value in the startup packet is not in UTF-8")]
    Encoding,
}

/// The first five bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub tag: u8,
    /// Bytes that follow the header.
    pub body: usize,
}

impl Header {
    /// Reads the header at the start of `bytes`; `None` when fewer than five are there.
    ///
    /// # Errors
    /// The length is below four or above [`MAX_BODY`].
    #[inline]
    pub fn peek(bytes: &[u8]) -> Result<Option<Header>, WireError> {
        let [tag, l0, l1, l2, l3, ..] = *bytes else { return Ok(None) };
        let length = i32::from_be_bytes([l0, l1, l2, l3]);
        match usize::try_from(length) {
            Ok(length) if (4..=MAX_BODY + 4).contains(&length) => Ok(Some(Header { tag, body: length - 4 })),
            _ => Err(WireError::Length(length)),
        }
    }

    /// Bytes of header and body together.
    pub fn frame_len(self) -> usize {
        HEADER_LEN + self.body
    }
}

/// Reads the fields of one message's body, front to back.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a> {
    tag: u8,
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    pub fn new(tag: u8, bytes: &'a [u8]) -> Self {
        Self { tag, rest: bytes }
    }

    fn truncated(&self) -> WireError {
        WireError::Truncated(char::from(self.tag))
    }

    /// A string up to its zero byte, without it.
    ///
    /// # Errors
    /// There is no zero byte.
    pub fn cstr(&mut self) -> Result<&'a [u8], WireError> {
        let end = memchr(0, self.rest).ok_or_else(|| self.truncated())?;
        let text = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    /// # Errors
    /// The body is at its end.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.take(1).map(|b| b[0])
    }

    /// # Errors
    /// Fewer than two bytes are left.
    pub fn i16(&mut self) -> Result<i16, WireError> {
        self.take(2).map(|b| i16::from_be_bytes([b[0], b[1]]))
    }

    /// # Errors
    /// Fewer than four bytes are left.
    pub fn i32(&mut self) -> Result<i32, WireError> {
        self.take(4).map(|b| i32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// # Errors
    /// Fewer than `n` bytes are left.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or_else(|| self.truncated())?;
        self.rest = tail;
        Ok(head)
    }

    /// A field whose length stands before it in four bytes; -1 is NULL.
    ///
    /// # Errors
    /// The length is below -1 or longer than what is left.
    pub fn nullable(&mut self) -> Result<Option<&'a [u8]>, WireError> {
        match self.i32()? {
            -1 => Ok(None),
            n => self.take(usize::try_from(n).map_err(|_| self.truncated())?).map(Some),
        }
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// # Errors
    /// Something is left.
    pub fn end(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::Field(char::from(self.tag))) }
    }
}

/// Appends one frame: `body` writes what follows the length, which is filled in afterwards.
///
/// # Panics
/// The body is longer than [`MAX_BODY`]; callers frame bounded content only.
pub fn put(out: &mut bytes::BytesMut, tag: u8, body: impl FnOnce(&mut bytes::BytesMut)) {
    use bytes::BufMut;
    out.put_u8(tag);
    let at = out.len();
    out.put_i32(0);
    body(out);
    let length = i32::try_from(out.len() - at).expect("a frame built by pgpilot is far below 2 GiB");
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_only_when_it_is_whole_and_sane() {
        let frame = [b'Q', 0, 0, 0, 6, b'x', 0];
        for cut in 0..HEADER_LEN {
            assert_eq!(Header::peek(&frame[..cut]), Ok(None));
        }
        assert_eq!(Header::peek(&frame), Ok(Some(Header { tag: b'Q', body: 2 })));
        for bad in [[0u8; 4], [0, 0, 0, 3], [0xff; 4], [0x7f, 0xff, 0xff, 0xff]] {
            assert!(Header::peek(&[b'Q', bad[0], bad[1], bad[2], bad[3]]).is_err());
        }
    }

    #[test]
    fn fields_stop_at_the_end_of_the_body() {
        let mut body = Body::new(b'B', b"ab\0\0\x07");
        assert_eq!(body.cstr(), Ok(&b"ab"[..]));
        assert_eq!(body.i32(), Err(WireError::Truncated('B')));
        assert_eq!(body.i16(), Ok(7));
        assert!(body.end().is_ok());
        assert_eq!(Body::new(b'Q', b"abc").cstr(), Err(WireError::Truncated('Q')));
        assert_eq!(Body::new(b'B', b"\xff\xff\xff\xff").nullable(), Ok(None));
        assert!(Body::new(b'B', b"\xff\xff\xff\xfe").nullable().is_err());
    }
}
