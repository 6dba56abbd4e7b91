//! Reading a batch before it is sent: what it needs, and what it prepares.

use std::sync::Arc;

use smallvec::SmallVec;

use super::client::Client;
use super::fault::End;
use super::session::{MAX_STATEMENTS, SessionStatement, Texts};
use crate::decide::route::Need;
use crate::decide::session::{Needs, Origin};
use crate::decide::sql::{Classified, Effects, Intent, Reason};
use crate::wire::backend::Report;
use crate::wire::frontend::{self, BindHead, Parse, Target};
use crate::wire::{HEADER_LEN, Header, SqlState, WireError};

/// What a batch is, besides what it needs.
#[derive(Debug, Default)]
pub(super) struct Assessed {
    pub needs: Needs,
    /// It asks for something to be executed: a Query, an Execute, a FunctionCall.
    pub executes: bool,
    /// It makes a portal.
    pub binds: bool,
    /// It may end a transaction in a way that commits.
    pub commits: bool,
    /// It has statements of pgpilot's own, or such as pgpilot may answer.
    pub own: bool,
    /// Not assessed from here on: it prepares a statement under a name that has meant something else in it. What comes before has to be sent
    /// first.
    pub cut: Option<usize>,
    /// The verdict on a Query.
    pub query: Option<Arc<Classified>>,
}

/// How a text comes to a server. Only a PREPARE or EXECUTE alone in a simple Query gets a name that pgpilot gives (`forward_sql_prepared`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Simple,
    Extended,
}

/// One frame of a client's.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    pub tag: u8,
    /// Header and body.
    pub bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    pub(super) fn body(&self) -> &'a [u8] {
        &self.bytes[HEADER_LEN..]
    }
}

/// The whole frames in `bytes`.
pub(super) fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let header = Header::peek(bytes).ok().flatten()?;
        let (frame, rest) = bytes.split_at_checked(header.frame_len())?;
        bytes = rest;
        Some(Frame { tag: header.tag, bytes: frame })
    })
}

/// The names of statements in a batch, which is assessed as a whole before its first frame is sent.
#[derive(Default)]
struct Names<'a> {
    prepared: SmallVec<[&'a [u8]; 4]>,
    /// In the sense that they had before the batch.
    used: SmallVec<[&'a [u8]; 4]>,
}

impl<'a> Names<'a> {
    /// Whether the frame prepares a statement under a name that frames before it use in another sense.
    fn is_redefined(&mut self, frame: Frame<'a>) -> Result<bool, WireError> {
        let used = match frame.tag {
            frontend::PARSE => {
                let name = Parse::read(frame.body())?.name;
                self.prepared.push(name);
                return Ok(self.used.contains(&name));
            }
            frontend::BIND => BindHead::parse(frame.body())?.statement,
            frontend::DESCRIBE | frontend::CLOSE => match frontend::target(frame.tag, frame.body())? {
                (Target::Statement, name) => name,
                (Target::Portal, _) => return Ok(false),
            },
            _ => return Ok(false),
        };
        let is_new = frame.tag == frontend::CLOSE || !self.prepared.contains(&used);
        if is_new && !self.used.contains(&used) {
            self.used.push(used);
        }
        Ok(false)
    }
}

impl Client {
    /// Looks at the frames in `bytes`, which are about to be sent for the first time.
    pub(super) fn assess(&mut self, bytes: &[u8]) -> Result<Assessed, End> {
        let mut assessed = Assessed::default();
        let mut names = Names::default();
        let mut at = 0;
        for frame in frames(bytes) {
            if names.is_redefined(frame)? {
                assessed.cut = Some(at);
                break;
            }
            self.assess_frame(frame, &mut assessed)?;
            at += frame.bytes.len();
        }
        Ok(assessed)
    }

    pub(super) fn assess_frame(&mut self, frame: Frame<'_>, assessed: &mut Assessed) -> Result<(), End> {
        match frame.tag {
            frontend::QUERY => {
                let text = frontend::query(frame.body())?;
                let verdict = self.verdict_on(text);
                // "A simple Query message also destroys the unnamed statement" (documentation, "Extended Query").
                self.session.unnamed = None;
                assessed.executes = true;
                self.add(&verdict, Sent::Simple, assessed);
                assessed.query = Some(verdict);
            }
            frontend::PARSE => self.assess_parse(Parse::read(frame.body())?, assessed)?,
            frontend::BIND => {
                assessed.binds = true;
                let head = BindHead::parse(frame.body())?;
                self.add_statement(head.statement, assessed);
            }
            frontend::DESCRIBE => {
                if let (Target::Statement, name) = frontend::target(frame.tag, frame.body())? {
                    self.add_statement(name, assessed);
                } else if assessed.needs.server.is_none() {
                    assessed.needs.want(Need::Primary, Reason::InTransaction);
                }
            }
            frontend::CLOSE => {
                if let (Target::Portal, _) = frontend::target(frame.tag, frame.body())?
                    && assessed.needs.server.is_none()
                {
                    assessed.needs.want(Need::Read, Reason::Empty);
                }
            }
            frontend::EXECUTE => {
                assessed.executes = true;
                if assessed.needs.server.is_none() {
                    // A portal of an earlier batch: where that ran, which is an open transaction, or nowhere.
                    assessed.needs.want(Need::Primary, Reason::InTransaction);
                }
            }
            frontend::FUNCTION_CALL => {
                assessed.executes = true;
                assessed.needs.want(Need::Primary, Reason::FunctionCall);
            }
            _ => {}
        }
        Ok(())
    }

    /// The verdict on a text of this session's.
    pub(super) fn verdict_on(&self, text: &[u8]) -> Arc<Classified> {
        match self.session.texts {
            Texts::Legible => self.verdicts.of(text),
            Texts::Opaque => Arc::new(Classified::opaque(Reason::Encoding)),
        }
    }

    fn assess_parse(&mut self, parse: Parse<'_>, assessed: &mut Assessed) -> Result<(), End> {
        let verdict = self.verdict_on(parse.query);
        self.add(&verdict, Sent::Extended, assessed);
        if self.session.statements.contains_key(parse.name) {
            // The server is made to say that the name is taken, when it is this message's turn.
            return Ok(());
        }
        if self.session.statements.len() >= MAX_STATEMENTS {
            let report = Report::fatal(SqlState::PROGRAM_LIMIT_EXCEEDED, "too many prepared statements in one session");
            return Err(End::Fatal(Box::new(report)));
        }
        let statement = self.statement_of(parse);
        let stamp = self.verdicts.stamp();
        self.session.define(parse.name, SessionStatement { statement, verdict, stamp, sent: false });
        Ok(())
    }

    fn statement_of(&self, parse: Parse<'_>) -> Arc<crate::decide::session::Statement> {
        if parse.name.is_empty() {
            // Preparing the same text again is common; its number may stay, and nothing has to be copied.
            if let Some(SessionStatement { statement, .. }) = &self.session.unnamed
                && let Origin::Parse { query, types } = &statement.origin
                && (&**query, &**types) == (parse.query, parse.types)
            {
                return statement.clone();
            }
            let origin = Origin::Parse { query: parse.query.into(), types: parse.types.into() };
            return Arc::new(self.shared.statements.single(origin));
        }
        let origin = Origin::Parse { query: parse.query.into(), types: parse.types.into() };
        self.shared.statements.intern(origin, &self.session.naming_context())
    }

    /// A Bind or Describe of something prepared earlier.
    fn add_statement(&mut self, name: &[u8], assessed: &mut Assessed) {
        let Some(known) = self.session.find(name) else {
            // It fails wherever it goes.
            return assessed.needs.want(Need::Read, Reason::Prepared);
        };
        let stamp = self.verdicts.stamp();
        if known.stamp == stamp {
            let verdict = known.verdict.clone();
            return self.add(&verdict, Sent::Extended, assessed);
        }
        // What is known of functions has changed since: judge it anew.
        let verdict = match &known.statement.origin {
            Origin::Parse { query, .. } => self.verdict_on(query),
            Origin::Sql { .. } => known.verdict.clone(),
        };
        let renewed = SessionStatement { verdict: verdict.clone(), stamp, ..known.clone() };
        match name {
            b"" => self.session.unnamed = Some(renewed),
            _ => drop(self.session.statements.insert(name.into(), renewed)),
        }
        self.add(&verdict, Sent::Extended, assessed);
    }

    fn add(&self, classified: &Classified, how: Sent, assessed: &mut Assessed) {
        let session = &self.session;
        let renamed = how == Sent::Simple && classified.statements.len() == 1;
        let prepared = |name: &str| session.statements.get(name.as_bytes())?.verdict.statements.first();
        for verdict in &classified.statements {
            assessed.needs.add(verdict, session.defaults, &prepared);
            assessed.own |= matches!(verdict.intent, Intent::Own(_));
            match verdict.intent {
                // They act on the server's own names.
                Intent::Prepare { .. } if !renamed => assessed.needs.effects |= Effects::PINS,
                Intent::Deallocate { .. } if !renamed => assessed.needs.effects |= Effects::UNPINS,
                _ => {}
            }
            assessed.commits |= matches!(verdict.intent, Intent::End(_) | Intent::Write | Intent::WithinTransaction);
        }
        if classified.statements.is_empty() {
            assessed.needs.want(Need::Read, Reason::Empty);
        }
    }
}
