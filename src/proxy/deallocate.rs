//! DEALLOCATE of one statement in the extended protocol, as psycopg sends it: servers know the statement by another name, and others use it, too. So
//! each of its messages gets pgpilot's own reply, in its turn.

use bytes::BytesMut;

use super::assess::Frame;
use super::fault::End;
use super::link::Link;
use super::session::{Session, Transaction};
use crate::decide::session::{Fate, Kind};
use crate::decide::sql::{Classified, Intent, Verdict};
use crate::wire::backend;
use crate::wire::frontend::{self, BindHead, Target};

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
    if matches!(transaction, Transaction::Failed) {
        return Ok(false);
    }
    match frame.tag {
        frontend::BIND => {
            let BindHead { portal, statement, .. } = BindHead::parse(frame.body())?;
            let Some(statement) = deallocated(session, statement) else {
                link.deallocation.take_if(|waiting| *waiting.portal == *portal);
                return Ok(false);
            };
            link.deallocation = Some(Deallocation { portal: portal.into(), statement });
            reply(link, |out| backend::put_empty(out, backend::BIND_COMPLETE));
        }
        frontend::DESCRIBE | frontend::CLOSE => return answer_target(link, session, frame),
        frontend::EXECUTE => {
            let portal = frame.body().split(|byte| *byte == 0).next().unwrap_or_default();
            let waiting = link.deallocation.take_if(|waiting| *waiting.portal == *portal);
            let Some(Deallocation { statement, .. }) = waiting else { return Ok(false) };
            let number = reply(link, |out| backend::put_command_complete(out, "DEALLOCATE"));
            session.names.change(number, &statement, None);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn answer_target(link: &mut Link, session: &Session, frame: Frame<'_>) -> Result<bool, End> {
    let (what, name) = frontend::target(frame.tag, frame.body())?;
    let waits = link.deallocation.as_ref().is_some_and(|waiting| *waiting.portal == *name);
    match (frame.tag, what) {
        (frontend::DESCRIBE, Target::Statement) if deallocated(session, name).is_some() => {
            reply(link, |out| {
                crate::wire::frame::put(out, backend::PARAMETER_DESCRIPTION, |out| out.extend_from_slice(&[0, 0]));
                backend::put_empty(out, backend::NO_DATA);
            });
        }
        (frontend::DESCRIBE, Target::Portal) if waits => {
            reply(link, |out| backend::put_empty(out, backend::NO_DATA));
        }
        (frontend::CLOSE, Target::Portal) if waits => {
            link.deallocation = None;
            reply(link, |out| backend::put_empty(out, backend::CLOSE_COMPLETE));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Whether a Parse of this is for pgpilot to answer. In a failed transaction the server has to refuse it.
pub(super) fn is_one(session: &Session, transaction: &Transaction, verdict: &Classified) -> bool {
    !matches!(transaction, Transaction::Failed) && target(session, verdict).is_some()
}

/// If the statement that the session calls `name` is a DEALLOCATE of one that it has: that one's name.
fn deallocated(session: &Session, name: &[u8]) -> Option<Box<[u8]>> {
    target(session, &session.names.find(name)?.verdict)
}

fn target(session: &Session, verdict: &Classified) -> Option<Box<[u8]>> {
    match &*verdict.statements {
        [Verdict { intent: Intent::Deallocate { name: Some(name) }, .. }] => {
            session.names.find(name.as_bytes()).is_some().then(|| name.as_bytes().into())
        }
        _ => None,
    }
}

fn reply(link: &mut Link, put: impl FnOnce(&mut BytesMut)) -> u64 {
    let mut bytes = BytesMut::new();
    put(&mut bytes);
    link.dues.push(Kind::Own(bytes.to_vec().into()), Fate::Client)
}
