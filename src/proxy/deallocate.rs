//! DEALLOCATE of one statement in the extended protocol, as psycopg sends it: servers know the statement by another name, and others use it, too. So
//! each of its messages gets pgpilot's own reply, in its turn.

use bytes::BytesMut;

use super::assess::Frame;
use super::fault::End;
use super::link::Link;
use super::session::{Session, Transaction};
use crate::decide::session::{Fate, Kind, StatementId};
use crate::decide::sql::{Intent, Verdict};
use crate::wire::backend;
use crate::wire::frontend::{self, BindHead, Parse, Target};

/// A portal in which a DEALLOCATE waits for its Execute.
#[derive(Debug)]
pub(super) struct Deallocation {
    portal: Box<[u8]>,
    /// What the session calls the statement that is to go.
    statement: Box<[u8]>,
}

/// Answers the frame if it is about a DEALLOCATE of something that the session has prepared. Returns whether it was.
///
/// # Errors
/// The frame is malformed.
pub(super) fn answer(
    link: &mut Link,
    session: &mut Session,
    transaction: &Transaction,
    frame: Frame<'_>,
) -> Result<bool, End> {
    // In a failed transaction the server has to refuse it.
    if matches!(transaction, Transaction::Failed) || link.dues.is_skipping() {
        return Ok(false);
    }
    match frame.tag {
        frontend::PARSE => {
            let name = Parse::read(frame.body())?.name;
            let Some((id, _)) = deallocated(session, name) else { return Ok(false) };
            if !name.is_empty() && !session.take_unsent(name) {
                return Ok(false);
            }
            reply(link, Some(id), |out| backend::put_empty(out, backend::PARSE_COMPLETE));
        }
        frontend::BIND => {
            let BindHead { portal, statement, .. } = BindHead::parse(frame.body())?;
            let Some((_, statement)) = deallocated(session, statement) else {
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
    let (target, name) = frontend::target(frame.tag, frame.body())?;
    let waits = link.deallocation.as_ref().is_some_and(|waiting| *waiting.portal == *name);
    match (frame.tag, target) {
        (frontend::DESCRIBE, Target::Statement) if deallocated(session, name).is_some() => reply(link, None, |out| {
            crate::wire::frame::put(out, backend::PARAMETER_DESCRIPTION, |out| out.extend_from_slice(&[0, 0]));
            backend::put_empty(out, backend::NO_DATA);
        }),
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

/// If the statement that the session calls `name` is a DEALLOCATE of one that it has: the DEALLOCATE's number, and the other's name.
fn deallocated(session: &Session, name: &[u8]) -> Option<(StatementId, Box<[u8]>)> {
    let known = session.find(name)?;
    match &*known.verdict.statements {
        [Verdict { intent: Intent::Deallocate { name: Some(name) }, .. }] => {
            session.statements.contains_key(name.as_bytes()).then(|| (known.statement.id, name.as_bytes().into()))
        }
        _ => None,
    }
}

fn reply(link: &mut Link, statement: Option<StatementId>, put: impl FnOnce(&mut BytesMut)) {
    let mut bytes = BytesMut::new();
    put(&mut bytes);
    link.dues.push(Kind::Own(bytes.to_vec().into(), statement), Fate::Client);
}
