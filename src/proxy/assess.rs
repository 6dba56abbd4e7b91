//! Reading a batch before it is sent: what it needs, and what it prepares.

use std::collections::HashMap;
use std::sync::Arc;

use super::adopt;
use super::batch::Batch;
use super::client::Client;
use super::contexts::{Names, SessionContext};
use super::forward::may_name_a_statement;
use super::judged::{Executed, Judged};
use super::link::Link;
use super::names::SessionStatement;
use super::own_settings::Step;
use super::session::Transaction;
use crate::decide::route::Need;
use crate::decide::session::{Among, Departure, Needs, Origin, Pin, Protocol, Statement, Turn};
use crate::decide::sql::{Classified, Effects, Intent, Reason, SessionCommand, TransactionEnd, Verdict};
use crate::wire::frontend::{self, BindHead, Parse, Target};
use crate::wire::{HEADER_LEN, Header, WireError};

/// What a batch is, besides what it needs.
#[derive(Default)]
pub(super) struct Assessed {
    pub needs: Needs,
    /// It asks for something to be executed, or for a portal, which no other server would have: a Query, a Bind, an Execute, a FunctionCall.
    pub executes: bool,
    /// It does something that lasts, if nothing rolls it back.
    pub writes: bool,
    /// How far it goes beyond reads.
    pub reach: Reach,
    /// It ends a transaction.
    pub ends: Option<TransactionEnd>,
    /// What it does to pgpilot's own settings.
    pub steps: Vec<Step>,
    /// What it runs, as far as those mind: what was there before it, and what is there behind it. `None`: a statement has
    /// to be refused, and nothing behind it is run.
    pub among: (Among, Option<Among>),
    /// It has statements of pgpilot's own, or such as pgpilot may answer.
    pub own: bool,
    /// The verdict on a Query.
    pub query: Option<Arc<Judged>>,
    /// The verdicts on the statements that it executes.
    pub executed: Executed,
    /// What its names mean at the point up to which it has been looked at, where that is not what they mean before it.
    pub names: NamesWithin,
}

/// How far a batch goes beyond reads, which is what others would have to do to repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Reach {
    #[default]
    Reads,
    /// A transaction begins.
    Begin,
    /// To what only changes its transaction, and can be done again in another one: savepoints, cursors, settings.
    Transaction,
    /// To what is not known to be one of these, or to what an earlier batch has left.
    Anything,
}

impl Assessed {
    /// Of nothing yet, which comes behind what the connection has been sent.
    pub(super) fn behind(link: Option<&Link>) -> Self {
        let among = link.filter(|link| link.batch_open).map_or(Some(Among::default()), |link| link.among.1);
        Self { among: (among.unwrap_or_default(), among), ..Self::default() }
    }

    /// Whether nothing is any different after it, wherever and however often it runs.
    pub(super) fn only_reads(&self) -> bool {
        self.reach == Reach::Reads
            && self.needs.effects.difference(Effects::HARMLESS).is_empty()
            && self.needs.names.is_empty()
    }

    /// It leaves a prepared statement that only its server connection has.
    fn keep_connection(&mut self) {
        self.needs.want(Need::Primary, Reason::Prepared);
        self.needs.depart(Departure::Certain, Reason::Prepared);
        self.needs.effects |= Effects::PINS;
    }
}

fn reach(verdict: &Verdict) -> Reach {
    match &verdict.intent {
        Intent::Read | Intent::Own(_) => Reach::Reads,
        Intent::Begin(_) => Reach::Begin,
        Intent::WithinTransaction | Intent::Savepoint(_) | Intent::Session(SessionCommand::Set { .. }) => {
            Reach::Transaction
        }
        Intent::Write if matches!(verdict.reason, Reason::Show | Reason::SessionState) => Reach::Transaction,
        _ => Reach::Anything,
    }
}

/// What a batch makes of the session's names, before any of it is sent.
#[derive(Default)]
pub(super) struct NamesWithin {
    /// The outer `None`: as before the batch.
    unnamed: Option<Option<SessionStatement>>,
    named: HashMap<Box<[u8]>, Option<SessionStatement>, foldhash::fast::RandomState>,
}

impl NamesWithin {
    fn set(&mut self, name: &[u8], now: Option<SessionStatement>) {
        match name {
            b"" => self.unnamed = Some(now),
            name => drop(self.named.insert(name.into(), now)),
        }
    }

    /// The outer `None`: as before the batch.
    pub(super) fn find(&self, name: &[u8]) -> Option<Option<&SessionStatement>> {
        let here = match name {
            b"" => self.unnamed.as_ref(),
            // Most batches prepare nothing.
            _ if self.named.is_empty() => None,
            name => self.named.get(name),
        };
        here.map(Option::as_ref)
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
    pub(super) fn assess(&mut self, bytes: &[u8]) -> Assessed {
        let mut assessed = Assessed::behind(self.link.as_ref());
        self.session.parsed.clear();
        for frame in frames(bytes) {
            self.assess_frame(frame, &mut assessed);
        }
        self.heed_own_change(&mut assessed);
        assessed
    }

    /// Whoever has changed what names mean is not judged by what they meant before.
    fn heed_own_change(&mut self, assessed: &mut Assessed) {
        self.session.changed = self.session.changed.filter(|change| !self.verdicts.covers(*change));
        if self.session.changed.is_some() && matches!(assessed.needs.server, Some((Need::Read | Need::Primary, _))) {
            assessed.needs.want(Need::Primary, Reason::CatalogueChanged);
        }
    }

    /// Whether what a batch means, or what its server has to be taught for it, depends on batches that have not been answered yet: servers skip what stands
    /// behind an error.
    pub(super) fn hangs_on_an_outcome(&self, batch: Batch) -> bool {
        // Of what is malformed, the server's answer is awaited.
        self.hangs_on(batch).unwrap_or(true)
    }

    fn hangs_on(&self, batch: Batch) -> Result<bool, WireError> {
        let Some(link) = self.link.as_ref() else { return Ok(false) };
        let (names, first, teaching) = (&self.session.names, link.dues.first(), link.dues.is_teaching());
        if self.may_fail_a_parse(batch)? {
            return Ok(true);
        }
        if !teaching && !names.are_in_flux(first) {
            return Ok(false);
        }
        let mut own_unnamed = false;
        for frame in frames(&self.side.fresh()[..batch.len]) {
            let name = match frame.tag {
                frontend::QUERY if may_name_a_statement(frontend::query(frame.body())?) => return Ok(true),
                frontend::PARSE => {
                    let parse = Parse::read(frame.body())?;
                    if may_name_a_statement(parse.query) {
                        return Ok(true);
                    }
                    parse.name
                }
                frontend::BIND => BindHead::parse(frame.body())?.statement,
                frontend::DESCRIBE | frontend::CLOSE => match frontend::target(frame.tag, frame.body())? {
                    (Target::Statement, name) => name,
                    (Target::Portal, _) => continue,
                },
                _ => continue,
            };
            own_unnamed |= name.is_empty() && frame.tag == frontend::PARSE;
            if name.is_empty() && own_unnamed {
                continue;
            }
            let id = names.find(name).map(|known| known.statement.id);
            let unsettled = match id {
                Some(id) if link.dues.teaches(id) => true,
                Some(id) => !name.is_empty() && !link.lease.statements.knows(id),
                None => frame.tag == frontend::PARSE,
            };
            if names.is_undecided(name, first) || (teaching && unsettled) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a server may refuse a Parse in a batch because what it works at fails a transaction: if it knows the statement, it is not asked.
    fn may_fail_a_parse(&self, batch: Batch) -> Result<bool, WireError> {
        let parses = frames(&self.side.fresh()[..batch.len]).filter(|frame| frame.tag == frontend::PARSE);
        for parse in parses {
            if !Parse::read(parse.body())?.name.is_empty() {
                let mut under_way = self.link.iter().flat_map(|link| link.executed.iter().chain(&link.behind));
                return Ok(!self.transaction.is_idle() || under_way.any(Executed::begins));
            }
        }
        Ok(false)
    }

    pub(super) fn assess_frame(&mut self, frame: Frame<'_>, assessed: &mut Assessed) {
        if self.assess_sound(frame, assessed).is_err() {
            // It fails wherever it goes.
            assessed.executes = true;
            assessed.needs.want(Need::Read, Reason::Empty);
        }
    }

    fn assess_sound(&mut self, frame: Frame<'_>, assessed: &mut Assessed) -> Result<(), WireError> {
        match frame.tag {
            frontend::QUERY => {
                let text = frontend::query(frame.body())?;
                let verdict = self.verdict_within(text, &[], assessed);
                self.renew_executed(&verdict, assessed);
                assessed.executes = true;
                self.add(&verdict, Protocol::Simple, assessed);
                assessed.among = (Among::default(), Some(Among::default()));
                self.note_executed(&verdict, Protocol::Simple, assessed);
                assessed.query = Some(verdict);
            }
            frontend::PARSE => self.assess_parse(Parse::read(frame.body())?, assessed),
            frontend::BIND => {
                let head = BindHead::parse(frame.body())?;
                if let Some(verdict) = self.add_statement(head.statement, assessed) {
                    self.note_executed(&verdict, Protocol::Extended, assessed);
                }
                assessed.executes = true;
                if assessed.needs.effects.contains(Effects::SETTINGS) {
                    // `set_config($1, ..)`: the name is among the values.
                    let values = frontend::bind_values(&frame.body()[head.rest_at..])?;
                    assessed.needs.names.extend(values.into_iter().flatten().filter_map(custom_setting));
                }
            }
            frontend::DESCRIBE => {
                if let (Target::Statement, name) = frontend::target(frame.tag, frame.body())? {
                    self.add_statement(name, assessed);
                } else if assessed.needs.server.is_none() && !assessed.own {
                    assessed.reach = Reach::Anything;
                    assessed.needs.want(Need::Primary, Reason::InTransaction);
                }
            }
            frontend::CLOSE => match frontend::target(frame.tag, frame.body())? {
                (Target::Statement, name) => {
                    if self.is_known_there(name, assessed) {
                        assessed.needs.effects |= Effects::UNPINS;
                    }
                    assessed.names.set(name, None);
                }
                (Target::Portal, _) if assessed.needs.server.is_none() => {
                    assessed.needs.want(Need::Read, Reason::Empty);
                }
                (Target::Portal, _) => {}
            },
            frontend::EXECUTE => {
                assessed.executes = true;
                if assessed.needs.server.is_none() && !assessed.own {
                    // A portal of an earlier batch: where that ran, which is an open transaction, or nowhere.
                    assessed.reach = Reach::Anything;
                    assessed.needs.want(Need::Primary, Reason::InTransaction);
                }
            }
            frontend::SYNC | frontend::FLUSH if !frame.body().is_empty() => {
                return Err(WireError::Field(char::from(frame.tag)));
            }
            frontend::FUNCTION_CALL => {
                (assessed.executes, assessed.writes, assessed.reach) = (true, true, Reach::Anything);
                assessed.needs.want(Need::Primary, Reason::FunctionCall);
                assessed.needs.depart(Departure::Doubtful, Reason::FunctionCall);
                // Of the function it gives but the number.
                assessed.needs.effects |= Effects::SETTINGS | Effects::PINS | Effects::UNPINS;
            }
            _ => {}
        }
        Ok(())
    }

    fn note_executed(&self, judged: &Arc<Judged>, protocol: Protocol, assessed: &mut Assessed) {
        assessed.executed.add(judged);
        let continues = self.link.as_ref().is_some_and(|link| link.batch_open);
        for verdict in &judged.statements {
            let Some(among) = &mut assessed.among.1 else { return };
            let turn = among.pass(&verdict.intent, protocol);
            assessed.among.1 = turn.is_ok().then_some(*among);
            let step = Step::of(&verdict.intent).filter(|_| turn.is_ok());
            let sets = matches!(step, Some(Step::Set(_)));
            if turn == Ok(Turn::Primary) || (sets && continues) {
                assessed.needs.want(Need::Primary, Reason::SessionState);
            }
            // Savepoints mind only those who have set something.
            let minds = sets || !assessed.steps.is_empty() || self.session.afterwards.is_some();
            assessed.steps.extend(step.filter(|step| minds || matches!(step, Step::Reset)));
        }
    }

    /// The verdict on a text of this session's that comes behind what has been assessed. `types`: of its parameters.
    pub(super) fn verdict_within(&self, text: &[u8], types: &[u8], assessed: &Assessed) -> Arc<Judged> {
        let (session, user) = (&self.session, &*self.who.user);
        if !session.texts.reads(text) {
            return self.verdict_on(text);
        }
        // Whatever has been executed and not been settled may have changed what names mean; so may a transaction.
        let is_settled = self.link.is_none()
            && matches!(self.transaction, Transaction::Idle | Transaction::Deferred(_))
            && !session.left.need_inventory()
            && !assessed.executes;
        let names = is_settled.then(|| Names { role: session.role(user), path: session.search_path() });
        self.verdicts.of_session(text, &SessionContext { user, names, types })
    }

    /// The verdict on a text of this session's, whatever its names mean.
    pub(super) fn verdict_on(&self, text: &[u8]) -> Arc<Judged> {
        if self.session.texts.reads(text) {
            self.verdicts.of(text)
        } else {
            Arc::new(Classified::illegible(text).into())
        }
    }

    fn assess_parse(&mut self, parse: Parse<'_>, assessed: &mut Assessed) {
        let before = assessed.names.find(parse.name).unwrap_or_else(|| self.session.names.find(parse.name));
        if before.is_some() && !parse.name.is_empty() {
            // The server is made to say that the name is taken, when it is this message's turn.
            let verdict = self.verdict_on(parse.query);
            return self.add(&verdict, Protocol::Extended, assessed);
        }
        let stamp = self.verdicts.stamp();
        let verdict = self.verdict_within(parse.query, parse.types, assessed);
        // What it executes is its session's, and not anybody's who prepares the same text.
        let of_session = if adopt::executes(&verdict) { Effects::PINS } else { Effects::empty() };
        let statement = self.prepare(parse, before, assessed.needs.effects | of_session);
        let prepared = SessionStatement { statement, verdict, stamp };
        self.add(&prepared.verdict, Protocol::Extended, assessed);
        assessed.names.set(parse.name, Some(prepared.clone()));
        self.session.parsed.push_back(prepared);
    }

    /// What a Parse prepares. `before`: what had its name.
    fn prepare(&self, parse: Parse<'_>, before: Option<&SessionStatement>, effects: Effects) -> Arc<Statement> {
        let statements = &self.shared.statements;
        let origin = || Origin::Parse { query: parse.query.into(), types: parse.types.into() };
        match before {
            // Preparing the same text again is common; its number may stay, and nothing has to be copied.
            Some(before) if before.is_of(parse) => before.statement.clone(),
            _ if parse.name.is_empty() => Arc::new(statements.single(origin())),
            _ => statements.intern(origin(), &self.session.naming_context(effects)),
        }
    }

    /// What a Parse that is being forwarded prepares. If the batch is sent for the second time, it is not in the queue any more.
    pub(super) fn take_parsed(&mut self, parse: Parse<'_>) -> SessionStatement {
        match self.session.parsed.pop_front().filter(|prepared| prepared.is_of(parse)) {
            Some(prepared) => prepared,
            None => {
                let (stamp, statement) =
                    (self.verdicts.stamp(), self.prepare(parse, self.session.names.find(parse.name), Effects::empty()));
                SessionStatement { statement, verdict: self.verdict_on(parse.query), stamp }
            }
        }
    }

    pub(super) fn add(&self, classified: &Classified, protocol: Protocol, assessed: &mut Assessed) {
        let session = &self.session;
        let is_tracked = protocol == Protocol::Simple && classified.statements.len() == 1;
        let prepared = |name: &str| session.names.find(name.as_bytes())?.verdict.statements.first();
        for verdict in &classified.statements {
            assessed.needs.add(verdict, session.defaults, &prepared);
            match verdict.intent {
                // The server knows it by the client's name, so the session has to stay there.
                Intent::Prepare { .. } if !is_tracked => {
                    assessed.keep_connection();
                }
                Intent::Deallocate { name: Some(ref name) } if session.names.find(name.as_bytes()).is_none() => {
                    // The server may have it.
                    assessed.needs.effects |= Effects::UNPINS;
                }
                Intent::Deallocate { .. } if !is_tracked => assessed.needs.effects |= Effects::UNPINS,
                Intent::Own(_) => assessed.own = true,
                _ => {}
            }
            if verdict.effects.contains(Effects::VACATES) {
                verdict.object.iter().for_each(|database| self.shared.pools.vacate(database));
            }
            assessed.writes |= match &verdict.intent {
                Intent::Write | Intent::WithinTransaction | Intent::Savepoint(_) => true,
                Intent::Execute { name, .. } => prepared(name).is_none_or(|inner| inner.intent != Intent::Read),
                _ => false,
            };
            let reach = match &verdict.intent {
                Intent::Execute { name, .. } => prepared(name).map_or(Reach::Anything, reach),
                _ => reach(verdict),
            };
            assessed.reach = assessed.reach.max(reach);
            if let Intent::End(end) = verdict.intent
                && assessed.ends != Some(TransactionEnd::Commit)
            {
                assessed.ends = Some(end);
            }
        }
        if !is_tracked && adopt::named(session, classified).next().is_some() {
            assessed.keep_connection();
        }
        if classified.statements.is_empty() {
            assessed.needs.want(Need::Read, Reason::Empty);
        }
        // What nothing is known of is a temporary table where there are any.
        let effects = &mut assessed.needs.effects;
        let makes_temporary = || (session.left.effects | *effects).contains(Effects::PINS);
        let is_strange = effects.contains(Effects::STRANGE_RELATION);
        if is_strange && !session.pins.contains(&Pin::TemporaryObject) && !makes_temporary() {
            effects.insert(Effects::SETTINGS);
        }
    }
}
