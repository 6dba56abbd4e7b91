//! Sending a client's frames to its server connection, in the server's names, with what the server lacks before them.

use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::adopt;
use super::among::Own;
use super::assess::{Assessed, Frame};
use super::client::Client;
use super::deallocate::{self, Within};
use super::judged::Judged;
use super::link::{Link, Preparing, Purpose};
use super::names::{MAX_BYTES, MAX_STATEMENTS, SessionStatement};
use super::own::name_taken;
use super::resets;
use super::reword::Renamed;
use super::session::{Deferred, Session, Transaction};
use super::statements::Statements;
use super::verdicts::Verdicts;
use crate::decide::session::{Fate, Kind, Origin, ServerName, Statement, StatementId, server_name};
use crate::decide::sql::{Classified, Effects, Intent};
use crate::wire::backend::{self, Report};
use crate::wire::frontend::{self, BindHead, Parse, Target};
use crate::wire::{HEADER_LEN, SqlState, WireError};

impl Client {
    /// Appends one whole frame to what goes to the server. What is malformed goes there as it is: it says what is wrong with it, and how it goes on.
    pub(super) fn forward_frame(&mut self, frame: Frame<'_>) {
        self.begin_deferred();
        if self.forward_sound(frame).is_err()
            && let Some(link) = self.link.as_mut()
        {
            pass(link, frame, if frame.tag == frontend::QUERY { Kind::Query } else { Kind::Describe });
        }
    }

    /// # Errors
    /// The frame is malformed, and nothing has been done about it.
    fn forward_sound(&mut self, frame: Frame<'_>) -> Result<(), WireError> {
        match if self.session.has_own { self.answer_own(frame)? } else { Own::None } {
            Own::Answered => Ok(()),
            Own::Replaced(bytes) => self.forward_others(Frame { bytes: &bytes, ..frame }),
            Own::None => self.forward_others(frame),
        }
    }

    fn forward_others(&mut self, frame: Frame<'_>) -> Result<(), WireError> {
        let Client { session, link, transaction, shared, verdicts, .. } = self;
        let Some(link) = link.as_mut() else { return Ok(()) };
        if link.dues.is_skipping() && frame.tag != frontend::SYNC {
            // The server would ignore it.
            return Ok(());
        }
        if deallocate::answer(link, session, transaction, frame)? {
            return Ok(());
        }
        match frame.tag {
            frontend::QUERY => {
                let text = frontend::query(frame.body())?;
                let verdict = forward_query(link, session, &shared.statements, verdicts, text);
                if let Some(verdict) = verdict {
                    resets::note_query(link, session, transaction, &verdict);
                }
            }
            frontend::PARSE => self.forward_parse(frame)?,
            frontend::BIND => {
                let body = frame.body();
                let head = BindHead::parse(body)?;
                deallocate::note_bind(link, session, head);
                resets::note_bind(link, session, head);
                if adopt::may_adopt(session)
                    && let Some(verdict) = session.names.find(head.statement).map(|known| known.verdict.clone())
                {
                    adopt::adopt(link, session, &shared.statements, &verdict);
                }
                forward_bind(link, session, head, body.len() - head.rest_at);
                link.lease.output.extend_from_slice(&body[head.rest_at..]);
            }
            frontend::DESCRIBE | frontend::CLOSE => forward_target(link, session, frame)?,
            frontend::EXECUTE => {
                link.executing = true;
                let number = pass(link, frame, Kind::Execute);
                if deallocate::is_forgetful(link, frame) {
                    deallocate::forget(link, session, number, Within::Portal);
                }
                resets::note_execute(link, &shared.statements, frame);
            }
            frontend::SYNC => forward_plain(link, frame, Kind::Sync),
            frontend::FUNCTION_CALL => {
                link.executing = true;
                forward_plain(link, frame, Kind::Call);
            }
            // Flush; a CopyData that comes too late is dropped, as the server would.
            frontend::FLUSH if !frame.body().is_empty() => return Err(WireError::Field(char::from(frame.tag))),
            frontend::FLUSH => link.lease.output.extend_from_slice(frame.bytes),
            _ => {}
        }
        Ok(())
    }

    /// A BEGIN that has been answered is sent before whatever comes next.
    pub(super) fn begin_deferred(&mut self) {
        let Client { link, transaction, shared, .. } = self;
        if let (Some(link), Transaction::Deferred(deferred)) = (link.as_mut(), &*transaction) {
            begin(link, &shared.statements, deferred);
            link.began = Some(deferred.clone());
            *transaction = Transaction::Open;
        }
    }

    /// Prepares a statement for the session, and on the server if that does not know it.
    fn forward_parse(&mut self, frame: Frame<'_>) -> Result<(), WireError> {
        let parse = Parse::read(frame.body())?;
        let taken = self.session.names.find(parse.name).filter(|_| !parse.name.is_empty());
        let taken = taken.map(|known| known.statement.clone());
        let prepared = if taken.is_none() { Some(self.take_parsed(parse)) } else { None };
        let verdict = prepared.as_ref().map_or_else(|| self.verdict_on(parse.query), |known| known.verdict.clone());
        let Client { session, link, transaction, shared, .. } = self;
        let Some(link) = link.as_mut() else { return Ok(()) };
        if let Some(statement) = taken {
            if is_failed(transaction, link) && !link.lease.statements.knows(statement.id) {
                if !is_refused(&verdict) {
                    // A server that does not know the statement cannot be taught it now.
                    fail(link, &name_taken(parse.name));
                    return Ok(());
                }
            } else {
                // The server says that the name is taken, if there is nothing else to be said of the text.
                teach(link, &statement);
            }
            put_parse(link, parse, statement.id, Kind::Taken(parse.name.into()));
            return Ok(());
        }
        let Some(prepared) = prepared else { return Ok(()) };
        adopt::adopt(link, session, &shared.statements, &verdict);
        let id = prepared.statement.id;
        let number = if deallocate::is_one(session, transaction, &verdict) {
            own(link, backend::PARSE_COMPLETE)
        } else if parse.name.is_empty() {
            link.lease.unnamed = Some(id);
            link.lease.output.extend_from_slice(frame.bytes);
            link.dues.push(Kind::Parse(id), Fate::Client)
        } else if !session.names.have_room_for(frame.bytes.len()) {
            fail(link, &too_many_statements());
            return Ok(());
        } else if link.lease.statements.touch(id) {
            if is_failed(transaction, link) && is_refused(&verdict) {
                put_parse(link, parse, id, Kind::Taken(parse.name.into()));
                return Ok(());
            }
            own(link, backend::PARSE_COMPLETE)
        } else {
            make_room(link, id);
            put_parse(link, parse, id, Kind::Parse(id))
        };
        session.names.change(number, parse.name, Some(prepared));
        Ok(())
    }

    /// Assesses and forwards a frame of a batch whose end was not in sight when it was routed.
    pub(super) fn forward_unseen(&mut self, frame: Frame<'_>) {
        if frame.tag != frontend::SYNC && self.link.as_ref().is_some_and(|link| link.dues.is_skipping()) {
            return;
        }
        let mut assessed = Assessed::behind(self.link.as_ref());
        self.assess_frame(frame, &mut assessed);
        self.foresee_own_settings(&assessed);
        self.note_own(&assessed);
        if let Some(link) = self.link.as_mut() {
            link.note_end(&assessed, &self.transaction);
            link.take_up(std::mem::take(&mut assessed.executed));
        }
        self.session.note_left(&mut assessed.needs);
        if let Some(link) = self.link.as_mut() {
            link.purpose = Purpose::Any;
            link.resets.note_left(&self.session, link.dues.batches());
        }
        self.forward_frame(frame);
    }
}

/// Whether a text can be a PREPARE or EXECUTE at all, as most are not: those begin with the word, or with EXPLAIN or CREATE, or with a comment.
pub(super) fn may_name_a_statement(text: &[u8]) -> bool {
    text.trim_ascii_start().first().is_some_and(|first| b"pPeEcC-/".contains(first))
}

/// Returns the verdict, if it had to be looked at.
fn forward_query(
    link: &mut Link,
    session: &mut Session,
    statements: &Statements,
    verdicts: &Verdicts,
    text: &[u8],
) -> Option<Arc<Judged>> {
    link.executing = true;
    let is_legible = session.texts.reads(text);
    if is_legible
        && may_name_a_statement(text)
        && let [verdict] = &*verdicts.of(text).statements
        && forward_sql_prepared(link, session, statements, text, (&verdict.intent, verdicts.stamp()))
    {
        return None;
    }
    let counts = adopt::may_adopt(session) || session.left.forgets_statements || session.left.resets;
    let verdict = (is_legible && counts).then(|| verdicts.of(text));
    if let Some(verdict) = &verdict {
        adopt::adopt(link, session, statements, verdict);
    }
    let number = push_query(link, session, Fate::Client);
    if verdict.as_ref().is_some_and(|verdict| deallocate::forgets(verdict)) {
        deallocate::forget(link, session, number, Within::Query);
    }
    frontend::put_query(&mut link.lease.output, text);
    verdict
}

fn forward_plain(link: &mut Link, frame: Frame<'_>, kind: Kind) {
    pass(link, frame, kind);
}

/// A Describe or a Close.
fn forward_target(link: &mut Link, session: &mut Session, frame: Frame<'_>) -> Result<(), WireError> {
    let closes = frame.tag == frontend::CLOSE;
    match frontend::target(frame.tag, frame.body())? {
        (Target::Statement, name) if !adopt::may_be_there(session, Effects::empty(), name) => {
            if closes {
                // The server may go on knowing it: others use it, too.
                let number = own(link, backend::CLOSE_COMPLETE);
                session.names.change(number, name, None);
            } else if let Some(name) = known_name(link, session, name) {
                frontend::put_statement_target(&mut link.lease.output, frontend::DESCRIBE, name.as_bytes());
                link.dues.push(Kind::Describe, Fate::Client);
            }
        }
        // A portal, or what the server knows by this name.
        _ => forward_plain(link, frame, if closes { Kind::Close(None) } else { Kind::Describe }),
    }
    Ok(())
}

/// Sends a frame as it is. Returns its number.
fn pass(link: &mut Link, frame: Frame<'_>, kind: Kind) -> u64 {
    link.lease.output.extend_from_slice(frame.bytes);
    link.dues.push(kind, Fate::Client)
}

/// A reply without a body that pgpilot gives itself, in its turn.
pub(super) fn own(link: &mut Link, tag: u8) -> u64 {
    reply(link, |out| backend::put_empty(out, tag))
}

/// As [`own`], of any kind.
pub(super) fn reply(link: &mut Link, put: impl FnOnce(&mut BytesMut)) -> u64 {
    let mut bytes = BytesMut::new();
    put(&mut bytes);
    link.dues.push(Kind::Own(bytes.to_vec().into()), Fate::Client)
}

/// A Query is being sent. "A simple Query message also destroys the unnamed statement" (documentation, "Extended Query").
fn push_query(link: &mut Link, session: &mut Session, fate: Fate) -> u64 {
    let number = link.dues.push(Kind::Query, fate);
    link.lease.unnamed = None;
    session.names.change(number, b"", None);
    number
}

/// The server is made to fail here, so that it is in the same state as a server that had failed by itself, and the client is told `report`.
pub(super) fn fail(link: &mut Link, report: &Report) {
    let mut message = BytesMut::new();
    report.put(&mut message);
    frontend::put_statement_target(&mut link.lease.output, frontend::DESCRIBE, NOBODY);
    link.dues.push(Kind::Describe, Fate::Fail(message.to_vec().into()));
}

/// As [`fail`], in place of a Query.
pub(super) fn refuse_query(link: &mut Link, session: &mut Session, report: &Report) {
    let mut message = BytesMut::new();
    report.put(&mut message);
    frontend::put_query(&mut link.lease.output, NOBODY);
    push_query(link, session, Fate::Fail(message.to_vec().into()));
}

/// The portal that an Execute is of.
pub(super) fn name_of_portal<'a>(execute: &Frame<'a>) -> &'a [u8] {
    execute.body().split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A statement that no server has.
const NOBODY: &[u8] = b"pgpilot_does_not_exist";

fn no_such_statement(name: &[u8]) -> Report {
    let message = match name {
        b"" => "unnamed prepared statement does not exist".to_owned(),
        name => format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name)),
    };
    Report::error(SqlState::INVALID_SQL_STATEMENT_NAME, message)
}

fn too_many_statements() -> Report {
    let message = "this session holds too many prepared statements";
    let limits = format!("It may hold {MAX_STATEMENTS}, of {} MiB altogether.", MAX_BYTES >> 20);
    Report::error(SqlState::CONFIGURATION_LIMIT_EXCEEDED, message)
        .detail(limits)
        .hint("Close those that are not used any more.")
}

/// BEGIN, in the extended protocol and without a Sync: should it fail, what follows is skipped and not run outside a transaction.
fn begin(link: &mut Link, statements: &Statements, deferred: &Deferred) {
    let statement = statements.begin(&deferred.text);
    teach(link, &statement);
    frontend::put_bind_execute(&mut link.lease.output, server_name(statement.id).as_bytes());
    link.dues.push(Kind::Bind, Fate::Us);
    link.dues.push(Kind::Execute, Fate::Us);
    // The client does not know of a portal.
    frontend::put_close_portal(&mut link.lease.output);
    link.dues.push(Kind::Close(None), Fate::Us);
}

/// Makes sure that the server knows a named statement.
fn teach(link: &mut Link, statement: &Arc<Statement>) {
    if link.lease.statements.touch(statement.id) {
        return;
    }
    make_room(link, statement.id);
    let name = server_name(statement.id);
    match &statement.origin {
        Origin::Parse { query, types } => {
            Parse { name: name.as_bytes(), query, types }.put(&mut link.lease.output);
            link.dues.push(Kind::Parse(statement.id), Fate::Us);
        }
        // It has no name, so it is never taught to anybody.
        Origin::Large => {}
        Origin::Sql { before, after } => {
            frontend::put_query(&mut link.lease.output, format!("{before}{}{after}", name.as_str()).as_bytes());
            link.dues.push(Kind::Prepare(statement.id), Fate::Us);
        }
    }
}

/// The server is about to know `id`: what it has not used for longest is closed.
fn make_room(link: &mut Link, id: StatementId) {
    if let Some(evicted) = link.lease.statements.insert(id) {
        let name = server_name(evicted);
        frontend::put_statement_target(&mut link.lease.output, frontend::CLOSE, name.as_bytes());
        link.dues.push(Kind::Close(Some(evicted)), Fate::Us);
    }
}

/// Sends a Parse under the name that servers know the statement by. Returns its number.
fn put_parse(link: &mut Link, parse: Parse<'_>, id: StatementId, kind: Kind) -> u64 {
    Parse { name: server_name(id).as_bytes(), ..parse }.put(&mut link.lease.output);
    link.dues.push(kind, Fate::Client)
}

/// Whether the server is in a failed transaction for certain: nothing under way may end it.
fn is_failed(transaction: &Transaction, link: &Link) -> bool {
    matches!(transaction, Transaction::Failed) && link.dues.is_empty()
}

/// Whether a failed transaction has the server refuse even to prepare this.
fn is_refused(classified: &Classified) -> bool {
    classified.statements.iter().all(|verdict| matches!(verdict.intent, Intent::Read | Intent::Write))
}

/// Sends the beginning of a Bind; its formats and parameters follow.
pub(super) fn forward_bind(link: &mut Link, session: &Session, head: BindHead<'_>, rest: usize) {
    if adopt::may_be_there(session, Effects::empty(), head.statement) {
        BindHead::put(&mut link.lease.output, head.portal, head.statement, rest);
        link.dues.push(Kind::Bind, Fate::Client);
        return;
    }
    match known_name(link, session, head.statement) {
        Some(name) => {
            BindHead::put(&mut link.lease.output, head.portal, name.as_bytes(), rest);
            link.dues.push(Kind::Bind, Fate::Client);
        }
        // The caller appends the rest of the message, so there has to be a message: one that fails, too, but is skipped.
        None => BindHead::put(&mut link.lease.output, head.portal, NOBODY, rest),
    }
}

/// The server's name for what the session calls `name`, after the server has been taught it. If the session has no such statement, the server is made to
/// fail instead.
fn known_name(link: &mut Link, session: &Session, name: &[u8]) -> Option<ServerName> {
    let Some(SessionStatement { statement, .. }) = session.names.find(name) else {
        fail(link, &no_such_statement(name));
        return None;
    };
    if !name.is_empty() {
        teach(link, statement);
        return Some(server_name(statement.id));
    }
    if link.lease.unnamed != Some(statement.id) {
        let Origin::Parse { query, types } = &statement.origin else {
            fail(link, &no_such_statement(name));
            return None;
        };
        Parse { name: b"", query, types }.put(&mut link.lease.output);
        link.dues.push(Kind::Parse(statement.id), Fate::Us);
        link.lease.unnamed = Some(statement.id);
    }
    Some(ServerName::UNNAMED)
}

/// PREPARE and EXECUTE in a message of their own: the name in the text is replaced by the server's. Returns whether it was one that pgpilot keeps track of.
fn forward_sql_prepared(
    link: &mut Link,
    session: &mut Session,
    statements: &Statements,
    text: &[u8],
    (intent, stamp): (&Intent, u64),
) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    match intent {
        Intent::Prepare { name, name_at, statement: verdict } => {
            if let Some(known) = session.names.find(name.as_bytes()) {
                // As with a Parse.
                let statement = known.statement.clone();
                put_renamed(link, &statement, text, name, name_at);
                push_query(link, session, Fate::Client);
                return true;
            }
            let (before, after) = (&text[..name_at.start], &text[name_at.end..]);
            let origin = Origin::Sql { before: before.into(), after: after.into() };
            let statement = statements.intern(origin, &session.naming_context(Effects::empty()));
            let verdict = Classified { statements: Box::new([(**verdict).clone()]) };
            let entry = SessionStatement { statement: statement.clone(), verdict: Arc::new(verdict.into()), stamp };
            // The server would say that the name is taken; so it prepares it anew.
            let superseded = link.lease.statements.touch(statement.id).then_some(statement.id);
            if let Some(gone) = superseded.or_else(|| link.lease.statements.insert(statement.id)) {
                // Not DEALLOCATE, which a failed transaction refuses.
                frontend::put_statement_target(&mut link.lease.output, frontend::CLOSE, server_name(gone).as_bytes());
                link.dues.push(Kind::Close(Some(gone)), Fate::Us);
                end_of_own(link);
            }
            let name_there = server_name(statement.id);
            frontend::put_query(&mut link.lease.output, format!("{before}{}{after}", name_there.as_str()).as_bytes());
            link.renamed = Some(renamed(text, name_at, name, name_there.as_bytes()));
            let number = push_query(link, session, Fate::Client);
            link.preparing.push(Preparing { message: number, name: name.as_bytes().into(), id: statement.id });
            session.names.change(number, name.as_bytes(), Some(entry));
            true
        }
        Intent::Execute { name, name_at } => {
            let Some(known) = session.names.find(name.as_bytes()) else { return false };
            let statement = known.statement.clone();
            put_renamed(link, &statement, text, name, name_at);
            push_query(link, session, Fate::Client);
            true
        }
        _ => false,
    }
}

/// Sends a text in which a statement's name is replaced by the server's, after the server has been taught it.
fn put_renamed(link: &mut Link, statement: &Arc<Statement>, text: &str, name: &str, name_at: &Range<usize>) {
    teach(link, statement);
    if matches!(statement.origin, Origin::Parse { .. }) && !link.dues.is_empty() {
        end_of_own(link);
    }
    let (before, after) = (&text[..name_at.start], &text[name_at.end..]);
    let name_there = server_name(statement.id);
    link.renamed = Some(renamed(text, name_at, name, name_there.as_bytes()));
    frontend::put_query(&mut link.lease.output, format!("{before}{}{after}", name_there.as_str()).as_bytes());
}

/// Extended messages of pgpilot's own before a Query need a Sync, or the Query would be skipped without a word should they fail. In a batch of the
/// client's, it is the client who sends it.
fn end_of_own(link: &mut Link) {
    if !link.batch_open && !link.dues.may_skip() {
        frontend::put_sync(&mut link.lease.output);
        link.dues.push(Kind::Sync, Fate::Us);
    }
}

fn renamed(text: &str, name_at: &Range<usize>, name: &str, name_there: &[u8]) -> Renamed {
    let characters = |range: Range<usize>| text[range].chars().count();
    let (at, client) = (characters(0..name_at.start), characters(name_at.clone()));
    Renamed { at, client, server: name_there.len(), name: name.as_bytes().into() }
}

/// Appends the header of a message whose body follows in pieces.
pub(super) fn put_header(out: &mut BytesMut, header: crate::wire::Header) {
    out.put_u8(header.tag);
    out.put_u32(u32::try_from(header.body + 4).unwrap_or(u32::MAX));
    debug_assert_eq!(HEADER_LEN, 5);
}
