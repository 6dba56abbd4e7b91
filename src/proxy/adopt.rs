//! What a session has prepared, and names where pgpilot does not put the server's name in its place: by SQL in a Parse, and among other statements. There,
//! names are looked up by the server, and by the time that a text is run they may mean something else than when it was prepared. So the statement is made
//! the server's own, under the name that the client knows, and is no longer the session's; which keeps its connection for as long as the server has it.

use super::aside;
use super::link::Link;
use super::session::Session;
use super::statements::Statements;
use crate::decide::session::{Origin, Pin, SERVER_NAME_PREFIX, quote_identifier};
use crate::decide::sql::{Classified, Effects, Intent, Verdict};

/// Whether a text executes something prepared by SQL: what it means depends on who runs it.
pub(super) fn executes(classified: &Classified) -> bool {
    classified.statements.iter().any(|verdict| matches!(verdict.intent, Intent::Execute { .. }))
}

/// The statements of the session's that such a text names.
pub(super) fn named<'a>(session: &'a Session, classified: &'a Classified) -> impl Iterator<Item = &'a str> {
    let alone = classified.statements.len() == 1;
    let name = move |verdict: &'a Verdict| match &verdict.intent {
        Intent::Execute { name, .. } => Some(&**name),
        // Alone, in a Parse, it is answered by pgpilot.
        Intent::Deallocate { name } if !alone => name.as_deref(),
        _ => None,
    };
    classified.statements.iter().filter_map(name).filter(|name| origin(session, name).is_some())
}

/// Whether what is about to be sent may name some. Who has been found to do so has been noted as somebody who leaves
/// something on the server; few others prepare anything by SQL.
pub(super) fn may_adopt(session: &Session) -> bool {
    session.names.have_sql() || session.left.effects.contains(Effects::PINS)
}

/// The text is about to be sent: those become the server's own.
pub(super) fn adopt(link: &mut Link, session: &mut Session, statements: &Statements, classified: &Classified) {
    let names: Vec<Box<str>> = named(session, classified).map(Into::into).collect();
    for name in names {
        let number = match origin(session, &name) {
            Some(Origin::Sql { before, after }) => {
                aside::run(link, statements, &format!("{before}{}{after}", quote_identifier(&name)))
            }
            Some(Origin::Parse { query, types }) => aside::prepare(link, statements, &name, query, types),
            Some(Origin::Large) | None => continue,
        };
        session.names.change(number, name.as_bytes(), None);
    }
}

/// Whether the server may know a statement by a name that means nothing to pgpilot: one that has been adopted, or that a
/// PREPARE has made which pgpilot does not keep track of. `effects`: of what stands before it and has not been sent.
pub(super) fn may_be_there(session: &Session, effects: Effects, name: &[u8]) -> bool {
    let may_have_any =
        (session.left.effects | effects).contains(Effects::PINS) || session.pins.contains(&Pin::HiddenPrepare);
    // Names of pgpilot's are for statements that others may have prepared.
    may_have_any
        && !name.is_empty()
        && !name.starts_with(SERVER_NAME_PREFIX.as_bytes())
        && session.names.find(name).is_none()
}

/// How something came to be that the session has prepared, if it can be prepared again.
fn origin<'a>(session: &'a Session, name: &str) -> Option<&'a Origin> {
    let origin = &session.names.find(name.as_bytes())?.statement.origin;
    (!matches!(origin, Origin::Large)).then_some(origin)
}
