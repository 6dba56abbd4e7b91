//! DEALLOCATE of one statement in the extended protocol, as psycopg sends it: servers know the statement by another name, and others use it, too. So
//! each of its messages gets pgpilot's own reply, in its turn. DEALLOCATE ALL, and DISCARD ALL, are the server's: what they take away is gone from the
//! message on that runs them.

use super::assess::Frame;
use super::forward::reply;
use super::link::Link;
use super::session::{Session, Transaction};
use crate::decide::session::Forgotten;
use crate::decide::sql::{Classified, Intent, SessionCommand, Verdict};
use crate::wire::WireError;
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::frontend::{self, BindHead, Target};

/// A portal in which a DEALLOCATE waits for its Execute.
#[derive(Debug)]
pub(super) struct Deallocation {
    portal: Box<[u8]>,
    /// What the session calls the statement that is to go.
    statement: Box<[u8]>,
}

/// A DEALLOCATE ALL or DISCARD ALL under way.
#[derive(Debug)]
pub(super) struct Forgetting {
    /// The number of the message that runs it.
    pub message: u64,
    /// What the server knew before it.
    pub before: Forgotten,
    pub within: Within,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Within {
    /// In a Query, whose other statements may fail before it or behind it.
    Query,
    /// In a portal, which runs or does not.
    Portal,
}

/// More portals of this kind are not kept in mind.
const MAX_FORGETFUL: usize = 64;

/// A Bind is being sent.
pub(super) fn note_bind(link: &mut Link, session: &Session, head: BindHead<'_>) {
    link.forgetful.retain(|portal| **portal != *head.portal);
    // Most sessions never do.
    if !session.left.forgets_statements || link.forgetful.len() == MAX_FORGETFUL {
        return;
    }
    if session.names.find(head.statement).is_some_and(|known| forgets(&known.verdict)) {
        link.forgetful.push(head.portal.into());
    }
}

/// Whether an Execute is of such a portal.
pub(super) fn is_forgetful(link: &Link, frame: Frame<'_>) -> bool {
    let mut name = frame.body().split(|byte| *byte == 0);
    !link.forgetful.is_empty() && name.next().is_some_and(|name| link.forgetful.iter().any(|portal| **portal == *name))
}

/// Whether a text takes all prepared statements away.
pub(super) fn forgets(classified: &Classified) -> bool {
    let all = |verdict: &Verdict| {
        matches!(verdict.intent, Intent::Deallocate { name: None } | Intent::Session(SessionCommand::DiscardAll))
    };
    classified.statements.iter().any(all)
}

/// The message of this number, which is being sent, takes all prepared statements away.
pub(super) fn forget(link: &mut Link, session: &mut Session, message: u64, within: Within) {
    session.names.forget(message);
    let before = link.lease.statements.forget();
    link.forgetting.push(Forgetting { message, before, within });
}

/// A batch has been answered: what it was to take away is gone, or it is not known whether it is.
pub(super) fn settle(link: &mut Link, session: &mut Session) {
    if link.forgetting.is_empty() && link.forgetful.is_empty() {
        return;
    }
    let (first, failed) = (link.dues.first(), link.failed);
    let answered = link.forgetting.iter().take_while(|forgetting| forgetting.message < first).count();
    for Forgetting { message, before, within } in link.forgetting.drain(..answered).rev() {
        if failed && within == Within::Query {
            session.names.take_back(message, message);
            link.lease.statements.remember(before);
            session.left.may_have_forgotten = true;
        }
    }
    if link.dues.is_empty() && link.status == TransactionStatus::Idle {
        link.forgetful.clear();
    }
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
) -> Result<bool, WireError> {
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

fn answer_target(link: &mut Link, session: &Session, frame: Frame<'_>) -> Result<bool, WireError> {
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
