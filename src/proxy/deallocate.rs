//! DEALLOCATE of one statement in the extended protocol, as psycopg sends it: servers know the statement by another name, and others use it, too. So
//! each of its messages gets pgpilot's own reply, in its turn.

use bytes::BytesMut;

use super::assess::Frame;
use super::fault::End;
use super::link::Link;
use super::session::{Session, Texts, Transaction};
use super::verdicts::Verdicts;
use crate::decide::session::{Fate, Kind, StatementId};
use crate::decide::sql::{Classified, Intent, Verdict};
use crate::wire::backend;
use crate::wire::frontend::{self, BindHead, Parse, Target};

/// A portal in which a DEALLOCATE waits for its Execute.
#[derive(Debug)]
pub(super) struct Deallocation {
    portal: Box<[u8]>,
    /// What the session calls the statement that is to go.
    statement: Box<[u8]>,
}

/// What the unnamed statement is at the point of a batch up to which it has been forwarded. The session knows what it is at the batch's end.
#[derive(Debug, Default)]
pub(super) enum Unnamed {
    /// Not prepared in this batch: what the session has.
    #[default]
    AsBefore,
    Other,
    /// DEALLOCATE of what the session calls so.
    Deallocates(Box<[u8]>),
}

/// Answers the frame if it is about a DEALLOCATE of something that the session has prepared. Returns whether it was.
///
/// # Errors
/// The frame is malformed.
pub(super) fn answer(
    link: &mut Link,
    session: &mut Session,
    verdicts: &Verdicts,
    transaction: &Transaction,
    frame: Frame<'_>,
) -> Result<bool, End> {
    // In a failed transaction the server has to refuse it.
    if matches!(transaction, Transaction::Failed) || link.dues.is_skipping() {
        return Ok(false);
    }
    match frame.tag {
        frontend::PARSE => {
            let parse = Parse::read(frame.body())?;
            let id = match parse.name {
                b"" => {
                    link.unnamed = unnamed(session, verdicts, parse.query);
                    let Unnamed::Deallocates(_) = link.unnamed else { return Ok(false) };
                    None
                }
                name => {
                    let Some(known) = session.find(name).filter(|known| target(session, &known.verdict).is_some())
                    else {
                        return Ok(false);
                    };
                    let id = known.statement.id;
                    if !session.take_unsent(name) {
                        return Ok(false);
                    }
                    Some(id)
                }
            };
            reply(link, id, |out| backend::put_empty(out, backend::PARSE_COMPLETE));
        }
        frontend::BIND => {
            let BindHead { portal, statement, .. } = BindHead::parse(frame.body())?;
            let Some(statement) = deallocated(link, session, statement) else {
                link.deallocation.take_if(|waiting| *waiting.portal == *portal);
                return Ok(false);
            };
            link.deallocation = Some(Deallocation { portal: portal.into(), statement });
            reply(link, None, |out| backend::put_empty(out, backend::BIND_COMPLETE));
        }
        frontend::DESCRIBE | frontend::CLOSE => return answer_target(link, session, frame),
        frontend::EXECUTE => {
            let portal = frame.body().split(|byte| *byte == 0).next().unwrap_or_default();
            let waiting = link.deallocation.take_if(|waiting| *waiting.portal == *portal);
            let Some(Deallocation { statement, .. }) = waiting else { return Ok(false) };
            session.statements.remove(&statement);
            reply(link, None, |out| backend::put_command_complete(out, "DEALLOCATE"));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn answer_target(link: &mut Link, session: &Session, frame: Frame<'_>) -> Result<bool, End> {
    let (what, name) = frontend::target(frame.tag, frame.body())?;
    let waits = link.deallocation.as_ref().is_some_and(|waiting| *waiting.portal == *name);
    match (frame.tag, what) {
        (frontend::DESCRIBE, Target::Statement) if deallocated(link, session, name).is_some() => {
            reply(link, None, |out| {
                crate::wire::frame::put(out, backend::PARAMETER_DESCRIPTION, |out| out.extend_from_slice(&[0, 0]));
                backend::put_empty(out, backend::NO_DATA);
            })
        }
        (frontend::DESCRIBE, Target::Portal) if waits => {
            reply(link, None, |out| backend::put_empty(out, backend::NO_DATA))
        }
        (frontend::CLOSE, Target::Portal) if waits => {
            link.deallocation = None;
            reply(link, None, |out| backend::put_empty(out, backend::CLOSE_COMPLETE));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// The unnamed statement after a Parse with this text.
fn unnamed(session: &Session, verdicts: &Verdicts, text: &[u8]) -> Unnamed {
    let may_be_one = text.trim_ascii_start().first().is_some_and(|first| b"dD-/".contains(first));
    if session.texts != Texts::Legible || !may_be_one {
        return Unnamed::Other;
    }
    target(session, &verdicts.of(text)).map_or(Unnamed::Other, Unnamed::Deallocates)
}

/// If the statement that the session calls `name` is a DEALLOCATE of one that it has: that one's name.
fn deallocated(link: &Link, session: &Session, name: &[u8]) -> Option<Box<[u8]>> {
    match (name, &link.unnamed) {
        (b"", Unnamed::Other) => None,
        (b"", Unnamed::Deallocates(target)) => Some(target.clone()),
        _ => target(session, &session.find(name)?.verdict),
    }
}

fn target(session: &Session, verdict: &Classified) -> Option<Box<[u8]>> {
    match &*verdict.statements {
        [Verdict { intent: Intent::Deallocate { name: Some(name) }, .. }] => {
            session.statements.contains_key(name.as_bytes()).then(|| name.as_bytes().into())
        }
        _ => None,
    }
}

fn reply(link: &mut Link, statement: Option<StatementId>, put: impl FnOnce(&mut BytesMut)) {
    let mut bytes = BytesMut::new();
    put(&mut bytes);
    link.dues.push(Kind::Own(bytes.to_vec().into(), statement), Fate::Client);
}
