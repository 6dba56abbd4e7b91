//! The packets that come before authentication: they have a length, but no type byte.

use bytes::{BufMut, BytesMut};

use super::frame::{Body, WireError};

/// PostgreSQL's `MAX_STARTUP_PACKET_LENGTH` (`src/include/libpq/pqcomm.h`).
pub const MAX_STARTUP: usize = 10_000;

pub const PROTOCOL_3_0: i32 = 3 << 16;
pub const PROTOCOL_3_2: i32 = 3 << 16 | 2;
const CANCEL: i32 = 1234 << 16 | 5678;
const SSL: i32 = 1234 << 16 | 5679;
const GSS: i32 = 1234 << 16 | 5680;
/// Between instances of pgpilot alone: no version of PostgreSQL's protocol and none of its special codes has this number.
const PASSED_ON: i32 = 1234 << 16 | 26_432;

/// A cancel key may have up to this many bytes in protocol 3.2; in 3.0 it has four.
pub const MAX_CANCEL_KEY: usize = 256;

/// What a connection begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Startup<'a> {
    Start { version: i32, parameters: Vec<(&'a str, &'a str)> },
    Cancel { pid: u32, key: &'a [u8], via: Via },
    Ssl,
    Gss,
}

/// Who sends a cancel request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The client itself.
    Client,
    /// Another instance of pgpilot, to which the client had sent it. It is not to be passed on again.
    Instance,
}

/// The length of the packet at the start of `bytes`, its own four bytes included; `None` when fewer than four are there.
///
/// # Errors
/// A length that no startup packet has.
pub fn packet_len(bytes: &[u8]) -> Result<Option<usize>, WireError> {
    let Some(length) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = i32::from_be_bytes(*length);
    match usize::try_from(length) {
        Ok(n) if (8..=MAX_STARTUP).contains(&n) => Ok(Some(n)),
        _ => Err(WireError::Length(length)),
    }
}

impl<'a> Startup<'a> {
    /// Reads a whole packet, its length included.
    ///
    /// # Errors
    /// A cancel request of a wrong length, or parameters that are not UTF-8 or not terminated.
    pub fn parse(packet: &'a [u8]) -> Result<Self, WireError> {
        let mut body = Body::new(b'-', packet);
        body.i32()?;
        match body.i32()? {
            code @ (CANCEL | PASSED_ON) => {
                let via = if code == CANCEL { Via::Client } else { Via::Instance };
                let pid = body.i32()?.cast_unsigned();
                let key = body.rest();
                if (4..=MAX_CANCEL_KEY).contains(&key.len()) {
                    Ok(Self::Cancel { pid, key, via })
                } else {
                    Err(WireError::Length(i32::try_from(packet.len()).unwrap_or(i32::MAX)))
                }
            }
            SSL => Ok(Self::Ssl),
            GSS => Ok(Self::Gss),
            // What follows in another major version is not known, and version 2 has no names in it.
            version if version >> 16 != 3 => Ok(Self::Start { version, parameters: Vec::new() }),
            version => Ok(Self::Start { version, parameters: parameters(body)? }),
        }
    }
}

fn parameters(mut body: Body<'_>) -> Result<Vec<(&str, &str)>, WireError> {
    let text = |bytes| std::str::from_utf8(bytes).map_err(|_| WireError::Encoding);
    let mut parameters = Vec::new();
    loop {
        let name = text(body.cstr()?)?;
        if name.is_empty() {
            body.end()?;
            return Ok(parameters);
        }
        parameters.push((name, text(body.cstr()?)?));
    }
}

pub fn put_startup(out: &mut BytesMut, version: i32, parameters: &[(&str, &str)]) {
    packet(out, |out| {
        out.put_i32(version);
        for (name, value) in parameters {
            put_cstr(out, name.as_bytes());
            put_cstr(out, value.as_bytes());
        }
        out.put_u8(0);
    });
}

pub fn put_cancel(out: &mut BytesMut, pid: u32, key: &[u8]) {
    put_cancel_via(out, pid, key, Via::Client);
}

pub fn put_cancel_via(out: &mut BytesMut, pid: u32, key: &[u8], via: Via) {
    packet(out, |out| {
        out.put_i32(match via {
            Via::Client => CANCEL,
            Via::Instance => PASSED_ON,
        });
        out.put_u32(pid);
        out.put_slice(key);
    });
}

pub fn put_ssl_request(out: &mut BytesMut) {
    packet(out, |out| out.put_i32(SSL));
}

fn packet(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_i32(0);
    body(out);
    let length = i32::try_from(out.len() - at).expect("a startup packet is a few kilobytes");
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

pub(super) fn put_cstr(out: &mut BytesMut, text: &[u8]) {
    out.put_slice(text);
    out.put_u8(0);
}

/// Splits the `options` start-up parameter into settings, as PostgreSQL does (`pg_split_opts` in `src/backend/utils/init/postinit.c`, then
/// `process_postgres_switches`): words separated by white space, backslash quotes, `-c name=value`, `-cname=value`, `--name=value`, and those of the old
/// switches that are for sessions and not for servers or their developers.
///
/// # Errors
/// The word that is none of these.
pub fn split_options(options: &str) -> Result<Vec<(String, String)>, String> {
    let mut settings = Vec::new();
    let mut words = words(options).into_iter();
    while let Some(word) = words.next() {
        let (switch, rest) = match word.as_bytes() {
            [b'-', switch, ..] if switch.is_ascii() => (*switch, &word[2..]),
            _ => return Err(word),
        };
        let mut argument = || match rest {
            "" => words.next().ok_or_else(|| word.clone()),
            rest => Ok(rest.to_owned()),
        };
        let setting = match switch {
            b'-' => rest.to_owned(),
            b'c' => argument()?,
            b'e' if rest.is_empty() => "datestyle=euro".to_owned(),
            b'S' => format!("work_mem={}", argument()?),
            b'f' => format!("{}=off", plan(&argument()?).ok_or(word)?),
            _ => return Err(word),
        };
        match setting.split_once('=') {
            // Dashes stand for underscores, as in ParseLongOption (src/backend/utils/misc/guc.c).
            Some((name, value)) if !name.is_empty() => settings.push((name.replace('-', "_"), value.to_owned())),
            _ => return Err(setting),
        }
    }
    Ok(settings)
}

/// The setting behind `-f` (`set_plan_disabling_options` in `src/backend/tcop/postgres.c`).
fn plan(letter: &str) -> Option<&'static str> {
    Some(match letter {
        "s" => "enable_seqscan",
        "i" => "enable_indexscan",
        "o" => "enable_indexonlyscan",
        "b" => "enable_bitmapscan",
        "t" => "enable_tidscan",
        "n" => "enable_nestloop",
        "m" => "enable_mergejoin",
        "h" => "enable_hashjoin",
        _ => return None,
    })
}

fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let mut out = BytesMut::new();
        put_startup(&mut out, PROTOCOL_3_2, &[("user", "u"), ("database", "d")]);
        assert_eq!(packet_len(&out), Ok(Some(out.len())));
        let parameters = vec![("user", "u"), ("database", "d")];
        assert_eq!(Startup::parse(&out), Ok(Startup::Start { version: PROTOCOL_3_2, parameters }));
        for cut in 8..out.len() {
            assert!(Startup::parse(&out[..cut]).is_err(), "cut at {cut}");
        }
        out.clear();
        for via in [Via::Client, Via::Instance] {
            out.clear();
            put_cancel_via(&mut out, 7, b"abcd", via);
            assert_eq!(Startup::parse(&out), Ok(Startup::Cancel { pid: 7, key: b"abcd", via }));
        }
        out.clear();
        put_ssl_request(&mut out);
        assert_eq!(Startup::parse(&out), Ok(Startup::Ssl));
    }

    #[test]
    fn another_major_version_is_told_by_its_number_alone() {
        // Version 2 has names of fixed lengths: "database" in 64 bytes, "user" in 32, and so on, 296 bytes in all.
        let mut packet = BytesMut::zeroed(296);
        packet[..8].copy_from_slice(&[0, 0, 1, 40, 0, 2, 0, 0]);
        packet[8..13].copy_from_slice(b"shop\xff");
        assert_eq!(Startup::parse(&packet), Ok(Startup::Start { version: 2 << 16, parameters: vec![] }));
        packet[4..8].copy_from_slice(&PROTOCOL_3_0.to_be_bytes());
        assert_eq!(Startup::parse(&packet), Err(WireError::Encoding));
    }

    #[test]
    fn options_are_split_as_the_server_does() {
        let split = split_options(r"-c geqo=off --work-mem=4MB  -csearch_path=a,\ b").unwrap();
        let expected = [("geqo", "off"), ("work_mem", "4MB"), ("search_path", "a, b")];
        assert_eq!(split, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        let split = split_options("-e -S 64 -S65 -fs -f h").unwrap();
        let names = ["datestyle", "work_mem", "work_mem", "enable_seqscan", "enable_hashjoin"];
        let values = ["euro", "64", "65", "off", "off"];
        assert_eq!(split, names.iter().zip(values).map(|(n, v)| ((*n).to_owned(), v.to_owned())).collect::<Vec<_>>());
        for (options, wrong) in [("-ex", "-ex"), ("-S", "-S"), ("-fx", "-fx"), ("-\u{e9}", "-\u{e9}"), ("e", "e")] {
            assert_eq!(split_options(options), Err(wrong.to_owned()));
        }
        assert_eq!(split_options("-d 5"), Err("-d".to_owned()));
        assert_eq!(split_options("-c"), Err("-c".to_owned()));
    }
}
