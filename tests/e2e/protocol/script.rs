//! What a client does in a session, as text: one message a line. See `scripts.txt` for the notation.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use bytes::{BufMut, BytesMut};
use pgpilot::wire::frontend::{self as f, BindHead, Parse};
use pgpilot::wire::{backend, frame::put};

/// A named sequence of steps.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) name: String,
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Query(String),
    Parse {
        name: String,
        types: Vec<u32>,
        text: String,
    },
    Bind {
        portal: String,
        statement: String,
        values: Vec<Option<String>>,
    },
    /// `S` or `P`, and the name.
    Describe(char, String),
    Execute {
        portal: String,
        rows: i32,
    },
    Close(char, String),
    Sync,
    Flush,
    Data(String),
    Done,
    Fail(String),
    Call {
        function: u32,
        arguments: Vec<String>,
    },
    /// A message as it is: its type and its body.
    Raw(char, Vec<u8>),
    /// Not a message: waits for the replies up to one of this type.
    Await(char),
}

/// Bytes that are sent in one go, and what is waited for after that.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) bytes: BytesMut,
    pub(crate) until: Option<u8>,
}

/// The scripts in a text: each begins with a line `== name`; `#` begins a comment.
pub(crate) fn scripts(text: &str) -> Vec<Script> {
    let mut scripts: Vec<Script> = Vec::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim_end)) {
        if let Some(name) = line.strip_prefix("== ") {
            scripts.push(Script { name: name.to_owned(), steps: Vec::new() });
        } else if !line.is_empty() && !line.starts_with('#') {
            let step = line.parse().unwrap_or_else(|()| panic!("line {number} is no step: {line}"));
            scripts.last_mut().expect("a script begins with its name").steps.push(step);
        }
    }
    scripts
}

pub(crate) fn segments(steps: &[Step]) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut bytes = BytesMut::new();
    for step in steps {
        match step {
            Step::Await(tag) => {
                let until = Some(u8::try_from(*tag).expect("a message type is one byte"));
                segments.push(Segment { bytes: bytes.split(), until });
            }
            message => message.put(&mut bytes),
        }
    }
    if !bytes.is_empty() {
        segments.push(Segment { bytes, until: None });
    }
    segments
}

/// A text in which `x{20}` stands for as many of that letter.
fn long(text: &str) -> Cow<'_, str> {
    let found = text.split_once("x{").and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    let repeated = found.and_then(|(before, (count, after))| {
        Some(format!("{before}{}{after}", "x".repeat(count.parse().ok()?)).into())
    });
    repeated.unwrap_or(text.into())
}

impl Step {
    pub(crate) fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Query(text) => f::put_query(out, long(text).as_bytes()),
            Self::Parse { name, types, text } => {
                let mut oids = BytesMut::new();
                oids.put_u16(u16::try_from(types.len()).expect("few types"));
                types.iter().for_each(|oid| oids.put_u32(*oid));
                Parse { name: name.as_bytes(), query: text.as_bytes(), types: &oids }.put(out);
            }
            Self::Bind { portal, statement, values } => {
                let mut rest = BytesMut::new();
                rest.put_u16(0);
                put_values(&mut rest, values.iter().map(Option::as_deref));
                rest.put_u16(0);
                BindHead::put(out, portal.as_bytes(), statement.as_bytes(), rest.len());
                out.extend_from_slice(&rest);
            }
            Self::Describe(kind, name) => put_target(out, f::DESCRIBE, *kind, name),
            Self::Close(kind, name) => put_target(out, f::CLOSE, *kind, name),
            Self::Execute { portal, rows } => put(out, f::EXECUTE, |out| {
                out.extend_from_slice(portal.as_bytes());
                out.put_u8(0);
                out.put_i32(*rows);
            }),
            Self::Raw(tag, body) => {
                put(out, u8::try_from(*tag).expect("a message type is one byte"), |out| out.extend_from_slice(body));
            }
            Self::Sync => f::put_sync(out),
            Self::Flush => put(out, f::FLUSH, |_| ()),
            Self::Data(text) => put(out, f::COPY_DATA, |out| out.extend_from_slice(text.as_bytes())),
            Self::Done => put(out, f::COPY_DONE, |_| ()),
            Self::Fail(why) => put(out, f::COPY_FAIL, |out| {
                out.extend_from_slice(why.as_bytes());
                out.put_u8(0);
            }),
            Self::Call { function, arguments } => put(out, f::FUNCTION_CALL, |out| {
                out.put_u32(*function);
                out.put_u16(0);
                put_values(out, arguments.iter().map(|argument| Some(argument.as_str())));
                out.put_u16(0);
            }),
            Self::Await(_) => {}
        }
    }

    pub(crate) fn ready() -> Self {
        Self::Await(char::from(backend::READY_FOR_QUERY))
    }
}

fn put_target(out: &mut BytesMut, tag: u8, kind: char, name: &str) {
    put(out, tag, |out| {
        out.put_u8(u8::try_from(kind).expect("S or P"));
        out.extend_from_slice(name.as_bytes());
        out.put_u8(0);
    });
}

fn put_values<'a>(out: &mut BytesMut, values: impl ExactSizeIterator<Item = Option<&'a str>>) {
    out.put_u16(u16::try_from(values.len()).expect("few values"));
    for value in values {
        match value {
            None => out.put_i32(-1),
            Some(text) => {
                out.put_u32(u32::try_from(text.len()).expect("a short value"));
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

/// `-` is the empty name.
fn name(word: &str) -> String {
    if word == "-" { String::new() } else { word.to_owned() }
}

fn word(name: &str) -> &str {
    if name.is_empty() { "-" } else { name }
}

/// Bytes in which `\\x00` stands for one that cannot be written.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut pieces = text.split("\\x");
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        let (code, rest) = piece.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Some(bytes)
}

impl FromStr for Step {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut words = rest.split(' ').filter(|word| !word.is_empty());
        let mut next = || words.next().ok_or(());
        Ok(match verb {
            "query" => Self::Query(rest.replace("\\n", "\n")),
            "parse" => {
                let (target, text) = rest.split_once(' ').unwrap_or((rest, ""));
                let (target, types) = target.split_once(':').unwrap_or((target, ""));
                let types = types.split(',').filter(|oid| !oid.is_empty());
                let types = types.map(|oid| oid.parse().map_err(drop)).collect::<Result<_, ()>>()?;
                Self::Parse { name: name(target), types, text: text.to_owned() }
            }
            "bind" => {
                let (portal, statement) = (name(next()?), name(next()?));
                let values = words.map(|word| (word != "NULL").then(|| name(word))).collect();
                Self::Bind { portal, statement, values }
            }
            "describe" | "close" => {
                let kind = match next()? {
                    "statement" => 'S',
                    "portal" => 'P',
                    _ => return Err(()),
                };
                let target = name(next()?);
                if verb == "close" { Self::Close(kind, target) } else { Self::Describe(kind, target) }
            }
            "execute" => {
                let portal = name(next()?);
                Self::Execute { portal, rows: words.next().unwrap_or("0").parse().map_err(drop)? }
            }
            "sync" => Self::Sync,
            "flush" => Self::Flush,
            "data" => Self::Data(rest.replace("\\t", "\t").replace("\\n", "\n")),
            "done" => Self::Done,
            "fail" => Self::Fail(rest.to_owned()),
            "call" => Self::Call { function: next()?.parse().map_err(drop)?, arguments: words.map(name).collect() },
            "raw" => {
                let (tag, body) = rest.split_once(' ').unwrap_or((rest, ""));
                Self::Raw(tag.parse().map_err(drop)?, unescaped(body).ok_or(())?)
            }
            "ready" => Self::ready(),
            "await" => Self::Await(rest.chars().next().ok_or(())?),
            _ => return Err(()),
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = |kind: &char| if *kind == 'S' { "statement" } else { "portal" };
        match self {
            Self::Query(text) => write!(f, "query {}", text.replace('\n', "\\n")),
            Self::Parse { name, types, text } if types.is_empty() => write!(f, "parse {} {text}", word(name)),
            Self::Parse { name, types, text } => {
                let types: Vec<String> = types.iter().map(u32::to_string).collect();
                write!(f, "parse {}:{} {text}", word(name), types.join(","))
            }
            Self::Bind { portal, statement, values } => {
                write!(f, "bind {} {}", word(portal), word(statement))?;
                values.iter().try_for_each(|value| write!(f, " {}", value.as_deref().map_or("NULL", word)))
            }
            Self::Describe(target, name) => write!(f, "describe {} {}", kind(target), word(name)),
            Self::Close(target, name) => write!(f, "close {} {}", kind(target), word(name)),
            Self::Execute { portal, rows } => write!(f, "execute {} {rows}", word(portal)),
            Self::Sync => write!(f, "sync"),
            Self::Flush => write!(f, "flush"),
            Self::Data(text) => write!(f, "data {}", text.replace('\t', "\\t").replace('\n', "\\n")),
            Self::Done => write!(f, "done"),
            Self::Fail(why) => write!(f, "fail {why}"),
            Self::Call { function, arguments } => {
                write!(f, "call {function}")?;
                arguments.iter().try_for_each(|argument| write!(f, " {}", word(argument)))
            }
            Self::Raw(tag, body) => write!(f, "raw {tag} {}", body.escape_ascii()),
            Self::Await('Z') => write!(f, "ready"),
            Self::Await(tag) => write!(f, "await {tag}"),
        }
    }
}

#[test]
fn a_step_is_printed_as_it_is_written() {
    let text = "query SELECT 1;\\nSELECT 2\nparse s:23,25 SELECT $1\nparse - x\nbind p s 1 NULL -\ndescribe statement s\n\
                close portal -\nexecute - 3\nsync\nflush\ndata a\\tb\\n\ndone\nfail no\ncall 1397 -5\nraw D X\\x00\nready\nawait G";
    for line in text.lines() {
        assert_eq!(line.parse::<Step>().unwrap().to_string(), line);
    }
}
