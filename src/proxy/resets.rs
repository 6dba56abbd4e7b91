//! RESET. A server goes back to what its connection was opened with, which is pgpilot's; the client's start-up packet said something else, and that is what
//! it goes back to: within a transaction at once, outside when a connection is next brought to the session's state. The client is told of its own
//! parameters, and that it may go on only when that has been seen to: it would else write its next statement in an encoding that is not the session's.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::BytesMut;

use super::aside;
use super::assess::Frame;
use super::link::Link;
use super::session::{Session, Transaction};
use super::settle::tell_parameters;
use super::statements::Statements;
use crate::decide::session::{Due, Fate, Kind, ParameterMap, Settings, ascii_expression};
use crate::decide::sql::{Classified, Intent, SessionCommand, SetScope};
use crate::wire::backend::{self, TransactionStatus};
use crate::wire::frontend::{self, BindHead};

/// What a session began with, as far as it came with the start-up packet.
#[derive(Debug, Clone, Default)]
pub(super) struct Beginning {
    /// The settings as the client has given them.
    pub settings: Arc<Settings>,
    /// All parameters, as the client was told of them.
    pub parameters: Arc<ParameterMap>,
}

/// The ReadyForQuery that ends the reply to a batch.
#[derive(Debug, Default)]
enum Ready {
    #[default]
    AsItComes,
    /// It is to be kept when it comes: settings are taken back in this batch.
    ToBeKept {
        beginning: Beginning,
        /// So many others come before it.
        ahead: usize,
    },
    Kept,
}

/// What is to be set behind a RESET.
#[derive(Debug, Default)]
pub(super) struct Resets {
    /// Portals that such a statement has been bound to, and what is to be set when one has been executed.
    portals: Vec<(Box<[u8]>, String)>,
    /// Behind a Query of several statements under way, if it ends within a transaction.
    behind: Option<String>,
    ready: Ready,
}

/// More portals of this kind are not kept in mind.
const MAX_PORTALS: usize = 64;

impl Resets {
    /// Whether what comes next has to wait until it is known what the last batch has ended in.
    pub(super) fn are_open(&self) -> bool {
        self.behind.is_some() || !matches!(self.ready, Ready::AsItComes)
    }

    /// What a batch leaves has been noted, before any of it is sent; the ends of `ahead` replies come before its own.
    pub(super) fn note_left(&mut self, session: &Session, ahead: usize) {
        let is_noted = matches!(self.ready, Ready::ToBeKept { .. });
        if session.left.resets && !session.began_with.settings.is_empty() && !is_noted {
            self.ready = Ready::ToBeKept { beginning: session.began_with.clone(), ahead };
        }
    }

    /// A batch has been answered. Returns whether its ReadyForQuery is to be kept.
    pub(super) fn keep_ready(&mut self) -> bool {
        if let Ready::ToBeKept { ahead: ahead @ 1.., .. } = &mut self.ready {
            *ahead -= 1;
            return false;
        }
        let kept = matches!(self.ready, Ready::ToBeKept { .. });
        self.ready = if kept { Ready::Kept } else { Ready::AsItComes };
        kept
    }

    pub(super) fn has_kept_ready(&self) -> bool {
        matches!(self.ready, Ready::Kept)
    }

    /// Returns whether there was one: it is to be sent now.
    pub(super) fn take_ready(&mut self) -> bool {
        self.has_kept_ready() && matches!(std::mem::take(&mut self.ready), Ready::Kept)
    }

    /// What the client was told at its start of a parameter, if the server goes back there by itself to something else.
    pub(super) fn began_with(&self, parameter: &str) -> Option<&str> {
        match &self.ready {
            Ready::ToBeKept { beginning, ahead: 0 } => beginning.of(parameter),
            Ready::ToBeKept { .. } | Ready::AsItComes | Ready::Kept => None,
        }
    }
}

impl Beginning {
    /// What the client was told of a parameter that it has set itself.
    fn of(&self, parameter: &str) -> Option<&str> {
        self.settings.get(&parameter.to_ascii_lowercase()).and_then(|_| self.parameters.get(parameter))
    }
}

impl Link {
    /// What the end of a reply waited for has been done on the server: the client is told of its parameters, and that it may go on.
    pub(super) fn end_reply(&mut self, reported: &mut Arc<ParameterMap>) {
        let mut end = BytesMut::new();
        tell_parameters(reported, &mut self.lease.parameters, &mut end);
        backend::put_ready(&mut end, self.status);
        self.reply.end(&mut self.lease.input, &end);
    }
}

impl Session {
    /// Settings have been taken back, and it is known to what: tells the client of its parameters, which its next server connection is going to have.
    /// `theirs`: of the last one.
    pub(super) fn tell_beginning(&mut self, theirs: &ParameterMap, out: &mut BytesMut) {
        for (name, theirs) in theirs.iter() {
            let setting = name.to_ascii_lowercase();
            let is_back =
                self.began_with.settings.get(&setting).is_some_and(|began| self.settings.get(&setting) == Some(began));
            let value = if is_back { self.began_with.parameters.get(name) } else { Some(theirs) };
            if let Some(value) = value.filter(|value| self.reported.get(name) != Some(value)) {
                backend::put_parameter_status(out, name, value);
                Arc::make_mut(&mut self.reported).set(name, value);
            }
        }
    }
}

/// A Query is being sent.
pub(super) fn note_query(link: &mut Link, session: &Session, transaction: &Transaction, classified: &Classified) {
    if !session.left.resets {
        return;
    }
    let Some(sql) = to_startup(&session.began_with.settings, classified) else { return };
    match (&*classified.statements, transaction) {
        ([_], Transaction::Open) => run(link, &sql),
        ([_], _) => {}
        // What it has reset may have been undone by its end.
        _ => link.resets.behind = Some(sql),
    }
}

/// A batch has been answered. What it has left is asked for outside of transactions, and the client waits for that.
pub(super) fn settle(link: &mut Link, reported: &mut Arc<ParameterMap>) {
    if let Some(sql) = link.resets.behind.take()
        && link.status == TransactionStatus::InTransaction
    {
        run(link, &sql);
    }
    if link.status == TransactionStatus::Idle && link.dues.is_empty() {
        link.resets.portals.clear();
    }
    let runs = matches!(link.dues.front(), Some(Due { kind: Kind::Query, fate: Fate::Us, .. }));
    if link.status != TransactionStatus::Idle && !runs && link.resets.take_ready() {
        link.end_reply(reported);
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
    if let Some(sql) = known.and_then(|known| to_startup(&session.began_with.settings, &known.verdict)) {
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
    let mut set = |name: &str, value: &str, scope: SetScope| {
        let _ = write!(
            sql,
            "{} pg_catalog.set_config({},{},{})",
            if sql.is_empty() { "SELECT" } else { "," },
            ascii_expression(name),
            ascii_expression(value),
            scope == SetScope::Local
        );
    };
    for verdict in &classified.statements {
        match &verdict.intent {
            Intent::Session(SessionCommand::Reset { name, scope }) => {
                startup.get(name).into_iter().for_each(|value| set(name, value, *scope));
            }
            Intent::Session(SessionCommand::ResetAll) => {
                // Who one is stays (`GUC_NO_RESET_ALL` in src/backend/utils/misc/guc_tables.c).
                let is_kept = |name: &str| matches!(name, "role" | "session_authorization");
                startup
                    .iter()
                    .filter(|(name, _)| !is_kept(name))
                    .for_each(|(name, value)| set(name, value, SetScope::Session));
            }
            _ => {}
        }
    }
    (!sql.is_empty()).then_some(sql)
}
