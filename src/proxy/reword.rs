//! Errors in the client's words: names that only servers know give way to the client's own.

use bytes::{BufMut, BytesMut};
use memchr::memmem;

use super::client::Client;
use crate::decide::session::{Kind, SERVER_NAME_PREFIX, StatementId};
use crate::wire::backend::ERROR_RESPONSE;
use crate::wire::{Body, HEADER_LEN, frame};

/// Where the text that was sent differs from the client's: another name, in characters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Renamed {
    pub at: usize,
    pub client: usize,
    pub server: usize,
    /// The client's.
    pub name: Box<[u8]>,
}

impl Client {
    /// Rewords the error of `len` bytes that stands behind what is passable. Returns its length after that.
    pub(super) fn reword(&mut self, len: usize) -> usize {
        let Self { link, session, .. } = self;
        let Some(link) = link.as_mut() else { return len };
        let at = link.reply.passable();
        let error = &link.lease.input[at..at + len];
        // Of several batches under way, the renamed one is the last.
        let renamed = link.renamed.as_ref().filter(|_| link.dues.batches() <= 1);
        if renamed.is_none() && memmem::find(error, SERVER_NAME_PREFIX.as_bytes()).is_none() {
            return len;
        }
        // Two names may mean the same statement: it is the one that this message is about.
        let meant = match link.dues.front().map(|due| &due.kind) {
            Some(Kind::Taken(name)) => Some(&**name),
            _ => renamed.map(|renamed| &*renamed.name),
        };
        let name = |id| meant.or_else(|| session.names.name_of(id));
        let Some(reworded) = reword(&error[HEADER_LEN..], renamed, name) else { return len };
        link.reply.replace(&mut link.lease.input, len, &reworded);
        reworded.len()
    }
}

/// `None`: the body is malformed.
fn reword<'n>(
    error: &[u8],
    renamed: Option<&Renamed>,
    name: impl Fn(StatementId) -> Option<&'n [u8]>,
) -> Option<BytesMut> {
    let mut fields = Body::new(ERROR_RESPONSE, error);
    let mut body = BytesMut::with_capacity(error.len());
    loop {
        let kind = fields.u8().ok()?;
        body.put_u8(kind);
        if kind == 0 {
            break;
        }
        let value = fields.cstr().ok()?;
        match (kind, renamed) {
            // The position in the text, from 1.
            (b'P', Some(renamed)) => body.extend_from_slice(moved(value, renamed).as_bytes()),
            _ => put_renamed(&mut body, value, &name),
        }
        body.put_u8(0);
    }
    let mut message = BytesMut::with_capacity(HEADER_LEN + body.len());
    frame::put(&mut message, ERROR_RESPONSE, |out| out.extend_from_slice(&body));
    Some(message)
}

fn moved(position: &[u8], &Renamed { at, client, server, .. }: &Renamed) -> String {
    let text = String::from_utf8_lossy(position);
    match text.parse::<usize>() {
        Ok(n) if n > at + server => (n - server + client).to_string(),
        Ok(n) if n > at => (at + 1).to_string(),
        _ => text.into_owned(),
    }
}

fn put_renamed<'n>(out: &mut BytesMut, mut text: &[u8], name: impl Fn(StatementId) -> Option<&'n [u8]>) {
    while let Some(at) = memmem::find(text, SERVER_NAME_PREFIX.as_bytes()) {
        let digits_at = at + SERVER_NAME_PREFIX.len();
        let digits = text[digits_at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let end = digits_at + digits;
        let id = std::str::from_utf8(&text[digits_at..end]).ok().and_then(|digits| digits.parse().ok());
        out.extend_from_slice(&text[..at]);
        out.extend_from_slice(id.and_then(|id| name(StatementId(id))).unwrap_or(&text[at..end]));
        text = &text[end..];
    }
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    fn reworded(fields: &[u8], renamed: Option<&Renamed>) -> String {
        let known = StatementId(NonZeroU64::new(12).unwrap());
        let message = reword(fields, renamed, |id| (id == known).then_some(&b"mine"[..])).unwrap();
        assert_eq!(usize::from(message[4]), message.len() - 1);
        message[5..].escape_ascii().to_string()
    }

    #[test]
    fn names_are_the_clients() {
        let fields = b"SERROR\0Mno \"pgpilot_12\", pgpilot_123, pgpilot_\0\0";
        assert_eq!(reworded(fields, None), r#"SERROR\x00Mno \"mine\", pgpilot_123, pgpilot_\x00\x00"#);
        assert!(reword(b"SERROR", None, |_| None).is_none());
    }

    #[test]
    fn positions_are_the_clients() {
        let renamed = Renamed { at: 8, client: 1, server: 10, name: Box::from(&b"q"[..]) };
        for (sent, told) in [("3", "3"), ("9", "9"), ("12", "9"), ("22", "13"), ("x", "x")] {
            let fields = format!("P{sent}\0\0");
            assert_eq!(reworded(fields.as_bytes(), Some(&renamed)), format!("P{told}\\x00\\x00"));
        }
    }
}
