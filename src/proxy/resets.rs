//! RESET within a transaction. A server goes back to what its connection was opened with, which is pgpilot's; the client's start-up packet said something
//! else, and that is what it goes back to. Outside of transactions it is set when the connection is next brought to the session's state.

use std::fmt::Write as _;

use super::aside;
use super::assess::Frame;
use super::link::Link;
use super::session::{Session, Transaction};
use super::statements::Statements;
use crate::decide::session::{Fate, Kind, Settings, ascii_expression};
use crate::decide::sql::{Classified, Intent, SessionCommand};
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend::{self, BindHead};

/// What is to be set behind a RESET.
#[derive(Debug, Default)]
pub(super) struct Resets {
    /// Portals that such a statement has been bound to, and what is to be set when one has been executed.
    portals: Vec<(Box<[u8]>, String)>,
    /// Behind a Query of several statements under way, if it ends within a transaction.
    behind: Option<String>,
}

/// More portals of this kind are not kept in mind.
const MAX_PORTALS: usize = 64;

impl Resets {
    /// Whether what comes next has to wait until it is known what the last Query has ended in.
    pub(super) fn are_open(&self) -> bool {
        self.behind.is_some()
    }
}

/// A Query is being sent.
pub(super) fn note_query(link: &mut Link, session: &Session, transaction: &Transaction, classified: &Classified) {
    if !session.left.resets {
        return;
    }
    let Some(sql) = to_startup(&session.startup, classified) else { return };
    match (&*classified.statements, transaction) {
        ([_], Transaction::Open) => run(link, &sql),
        ([_], _) => {}
        // What it has reset may have been undone by its end.
        _ => link.resets.behind = Some(sql),
    }
}

/// A batch has been answered.
pub(super) fn settle(link: &mut Link) {
    if let Some(sql) = link.resets.behind.take()
        && link.status == TransactionStatus::InTransaction
    {
        run(link, &sql);
    }
    if link.status == TransactionStatus::Idle && link.dues.is_empty() {
        link.resets.portals.clear();
    }
}

fn run(link: &mut Link, sql: &str) {
    frontend::put_query(&mut link.lease.output, sql.as_bytes());
    link.dues.push(Kind::Query, Fate::Us);
    link.lease.unnamed = None;
}

/// A Bind is being sent.
pub(super) fn note_bind(link: &mut Link, session: &Session, head: BindHead<'_>) {
    link.resets.portals.retain(|(portal, _)| **portal != *head.portal);
    if !session.left.resets || link.resets.portals.len() == MAX_PORTALS {
        return;
    }
    let known = session.names.find(head.statement);
    if let Some(sql) = known.and_then(|known| to_startup(&session.startup, &known.verdict)) {
        link.resets.portals.push((head.portal.into(), sql));
    }
}

/// An Execute has been sent.
pub(super) fn note_execute(link: &mut Link, statements: &Statements, frame: Frame<'_>) {
    let portal = frame.body().split(|byte| *byte == 0).next().unwrap_or_default();
    if let Some(at) = link.resets.portals.iter().position(|(known, _)| **known == *portal) {
        let (_, sql) = link.resets.portals.swap_remove(at);
        aside::run(link, statements, &sql);
    }
}

/// What sets those settings that a text resets, and that the client began with.
fn to_startup(startup: &Settings, classified: &Classified) -> Option<String> {
    let mut sql = String::new();
    let mut set = |name: &str, value: &str| {
        let _ = write!(
            sql,
            "{} pg_catalog.set_config({},{},false)",
            if sql.is_empty() { "SELECT" } else { "," },
            ascii_expression(name),
            ascii_expression(value)
        );
    };
    for verdict in &classified.statements {
        match &verdict.intent {
            Intent::Session(SessionCommand::Reset { name }) => {
                startup.get(name).into_iter().for_each(|value| set(name, value));
            }
            Intent::Session(SessionCommand::ResetAll) => {
                // Who one is stays (`GUC_NO_RESET_ALL` in src/backend/utils/misc/guc_tables.c).
                let is_kept = |name: &str| matches!(name, "role" | "session_authorization");
                startup.iter().filter(|(name, _)| !is_kept(name)).for_each(|(name, value)| set(name, value));
            }
            _ => {}
        }
    }
    (!sql.is_empty()).then_some(sql)
}
