//! Reading a batch before it is sent: what it needs, and what it prepares.

use std::sync::Arc;

use super::client::Client;
use super::fault::End;
use super::judged::Judged;
use super::session::{MAX_STATEMENTS, SessionStatement, Texts};
use crate::decide::route::Need;
use crate::decide::session::{Needs, Origin};
use crate::decide::sql::{Classified, Effects, Intent, Reason, TransactionEnd};
use crate::wire::backend::Report;
use crate::wire::frontend::{self, BindHead, Parse, Target};
use crate::wire::{HEADER_LEN, Header, SqlState};

/// What a batch is, besides what it needs.
#[derive(Debug, Default)]
pub(super) struct Assessed {
    pub needs: Needs,
    /// It asks for something to be executed, or for a portal, which no other server would have: a Query, a Bind, an Execute, a FunctionCall.
    pub executes: bool,
    /// It does something that lasts, if nothing rolls it back.
    pub writes: bool,
    /// It ends a transaction.
    pub ends: Option<TransactionEnd>,
    /// It has statements of pgpilot's own, or such as pgpilot may answer.
    pub own: bool,
    /// The verdict on a Query.
    pub query: Option<Arc<Judged>>,
    /// The verdict on the first statement that it executes.
    pub first: Option<Arc<Judged>>,
    pub order: Order,
    unnamed: Unnamed,
    /// The statements that it closes.
    closed: Vec<Box<[u8]>>,
}

/// Whether a batch can be looked at as a whole before any of it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Order {
    #[default]
    Irrelevant,
    /// A name means one thing at its beginning and another at its end: each frame is to be looked at when its turn has come.
    Matters,
}

/// Which unnamed statement a batch has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Unnamed {
    #[default]
    None,
    /// One from before the batch.
    Older,
    /// Its own.
    Own,
}

impl Assessed {
    fn uses(&mut self, name: &[u8]) {
        if name.is_empty() && self.unnamed == Unnamed::None {
            self.unnamed = Unnamed::Older;
        }
    }
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

/// How a text reaches the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Simple,
    Extended,
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

/// A value that can be the name of a setting that no server knows beforehand, `app.user`.
fn custom_setting(value: &[u8]) -> Option<Box<str>> {
    let name = std::str::from_utf8(value).ok().filter(|name| name.len() <= 128 && name.contains('.'))?;
    let is_identifier = |part: &str| {
        part.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_alphanumeric() || "_$".contains(c))
    };
    name.split('.').all(is_identifier).then(|| name.to_lowercase().into())
}

impl Client {
    /// Looks at the frames in `bytes`, which are about to be sent for the first time.
    pub(super) fn assess(&mut self, bytes: &[u8]) -> Result<Assessed, End> {
        let mut assessed = Assessed::default();
        for frame in frames(bytes) {
            if self.redefines(frame, &assessed)? {
                assessed.order = Order::Matters;
                break;
            }
            self.assess_frame(frame, &mut assessed)?;
        }
        Ok(assessed)
    }

    /// Whether a frame gives a name anew that frames before it in the same batch use, or close, in its older meaning.
    fn redefines(&self, frame: Frame<'_>, assessed: &Assessed) -> Result<bool, End> {
        if frame.tag != frontend::PARSE {
            return Ok(false);
        }
        let name = Parse::read(frame.body())?.name;
        Ok(match name {
            b"" => assessed.unnamed == Unnamed::Older || assessed.closed.iter().any(|closed| closed.is_empty()),
            name => {
                self.session.statements.contains_key(name) && assessed.closed.iter().any(|closed| **closed == *name)
            }
        })
    }

    pub(super) fn assess_frame(&mut self, frame: Frame<'_>, assessed: &mut Assessed) -> Result<(), End> {
        match frame.tag {
            frontend::QUERY => {
                let text = frontend::query(frame.body())?;
                let verdict = self.verdict_on(text);
                // "A simple Query message also destroys the unnamed statement" (documentation, "Extended Query").
                self.session.unnamed = None;
                assessed.executes = true;
                self.add(&verdict, Protocol::Simple, assessed);
                assessed.first.get_or_insert_with(|| verdict.clone());
                assessed.query = Some(verdict);
            }
            frontend::PARSE => self.assess_parse(Parse::read(frame.body())?, assessed)?,
            frontend::BIND => {
                assessed.executes = true;
                let head = BindHead::parse(frame.body())?;
                assessed.uses(head.statement);
                self.add_statement(head.statement, assessed);
                if assessed.needs.effects.contains(Effects::SETTINGS) {
                    // `set_config($1, ..)`: the name is among the values.
                    let values = frontend::bind_values(&frame.body()[head.rest_at..])?;
                    assessed.needs.names.extend(values.into_iter().flatten().filter_map(custom_setting));
                }
            }
            frontend::DESCRIBE => {
                if let (Target::Statement, name) = frontend::target(frame.tag, frame.body())? {
                    assessed.uses(name);
                    self.add_statement(name, assessed);
                } else if assessed.needs.server.is_none() {
                    assessed.needs.want(Need::Primary, Reason::InTransaction);
                }
            }
            frontend::CLOSE => match frontend::target(frame.tag, frame.body())? {
                (Target::Statement, name) => assessed.closed.push(name.into()),
                (Target::Portal, _) if assessed.needs.server.is_none() => {
                    assessed.needs.want(Need::Read, Reason::Empty);
                }
                (Target::Portal, _) => {}
            },
            frontend::EXECUTE => {
                assessed.executes = true;
                if assessed.needs.server.is_none() {
                    // A portal of an earlier batch: where that ran, which is an open transaction, or nowhere.
                    assessed.needs.want(Need::Primary, Reason::InTransaction);
                }
            }
            frontend::FUNCTION_CALL => {
                (assessed.executes, assessed.writes) = (true, true);
                assessed.needs.want(Need::Primary, Reason::FunctionCall);
            }
            _ => {}
        }
        Ok(())
    }

    /// The verdict on a text of this session's.
    pub(super) fn verdict_on(&self, text: &[u8]) -> Arc<Judged> {
        match self.session.texts {
            Texts::Legible => self.verdicts.of(text),
            Texts::Opaque => Arc::new(Classified::opaque(Reason::Encoding).into()),
        }
    }

    fn assess_parse(&mut self, parse: Parse<'_>, assessed: &mut Assessed) -> Result<(), End> {
        let verdict = self.verdict_on(parse.query);
        self.add(&verdict, Protocol::Extended, assessed);
        if parse.name.is_empty() && assessed.unnamed == Unnamed::None {
            assessed.unnamed = Unnamed::Own;
        }
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
            assessed.first.get_or_insert_with(|| verdict.clone());
            return self.add(&verdict, Protocol::Extended, assessed);
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
        self.add(&verdict, Protocol::Extended, assessed);
    }

    fn add(&self, classified: &Classified, protocol: Protocol, assessed: &mut Assessed) {
        let session = &self.session;
        let is_tracked = protocol == Protocol::Simple && classified.statements.len() == 1;
        let prepared = |name: &str| session.statements.get(name.as_bytes())?.verdict.statements.first();
        for verdict in &classified.statements {
            assessed.needs.add(verdict, session.defaults, &prepared);
            match verdict.intent {
                // The server knows it by the client's name, so the session has to stay there.
                Intent::Prepare { .. } if !is_tracked => {
                    assessed.needs.want(Need::Primary, Reason::Prepared);
                    assessed.needs.effects |= Effects::PINS;
                }
                Intent::Deallocate { .. } if !is_tracked => assessed.needs.effects |= Effects::UNPINS,
                Intent::Own(_) => assessed.own = true,
                _ => {}
            }
            assessed.writes |= match &verdict.intent {
                Intent::Write | Intent::WithinTransaction => true,
                Intent::Execute { name, .. } => prepared(name).is_none_or(|inner| inner.intent != Intent::Read),
                _ => false,
            };
            if let Intent::End(end) = verdict.intent
                && assessed.ends != Some(TransactionEnd::Commit)
            {
                assessed.ends = Some(end);
            }
        }
        if classified.statements.is_empty() {
            assessed.needs.want(Need::Read, Reason::Empty);
        }
    }
}
