//! What a session has prepared by SQL, and names where pgpilot does not put the server's name in its place: in a Parse, and among other statements. There,
//! names are looked up by the server, and by the time that a text is run they may mean something else than when it was prepared. So the statement is made
//! the server's own, under the name that the client knows, and is no longer the session's; which keeps its connection for as long as the server has it.

use super::aside;
use super::link::Link;
use super::session::Session;
use super::statements::Statements;
use crate::decide::session::{Origin, quote_identifier};
use crate::decide::sql::{Classified, Intent, Verdict};

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
    let statements = if session.names.have_sql() { &*classified.statements } else { &[] };
    statements.iter().filter_map(name).filter(|name| origin(session, name).is_some())
}

/// The text is about to be sent: those become the server's own.
pub(super) fn adopt(link: &mut Link, session: &mut Session, statements: &Statements, classified: &Classified) {
    let names: Vec<Box<str>> = named(session, classified).map(Into::into).collect();
    for name in names {
        let Some((before, after)) = origin(session, &name) else { continue };
        let text = format!("{before}{}{after}", quote_identifier(&name));
        let number = aside::run(link, statements, &text);
        session.names.change(number, name.as_bytes(), None);
    }
}

/// The text before and after the name of something that the session has prepared by SQL.
fn origin<'a>(session: &'a Session, name: &str) -> Option<(&'a str, &'a str)> {
    match &session.names.find(name.as_bytes())?.statement.origin {
        Origin::Sql { before, after } => Some((before, after)),
        Origin::Parse { .. } | Origin::Large => None,
    }
}
