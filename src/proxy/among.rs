//! pgpilot's own statements among others of one batch. No server gets them: in the extended protocol each of their
//! messages has pgpilot's own reply, in its turn; in a Query of several statements, which a server answers as a whole, a
//! harmless SET of the same length stands in a SET's place.

use std::ops::Range;

use bytes::BytesMut;

use super::assess::{Assessed, Frame};
use super::client::Client;
use super::forward::{fail, name_of_portal, own, refuse_query, reply};
use super::loss::aborted;
use super::own::{Answer, describe, name_taken};
use super::session::Transaction;
use crate::decide::session::{Among, Protocol, Refused};
use crate::decide::sql::{Classified, Intent, OwnCommand, Verdict};
use crate::wire::backend::{self, Report};
use crate::wire::frontend::{self, BindHead, Parse, Target};
use crate::wire::{SqlState, WireError};

/// A portal to which a statement of pgpilot's own has been bound.
#[derive(Debug)]
pub(super) struct OwnPortal {
    name: Box<[u8]>,
    /// What Describe says of it, and Execute.
    description: Box<[u8]>,
    result: Box<[u8]>,
}

/// More of these portals are not kept in mind.
const MAX_PORTALS: usize = 64;

/// What became of a frame.
pub(super) enum Own {
    /// Nothing: it is a server's.
    None,
    Answered,
    /// It goes to the server like this.
    Replaced(BytesMut),
}

/// In the place of a SET of pgpilot's own: of a setting that nobody has, as long as its transaction lasts. No SET of
/// pgpilot's settings is shorter.
const STAND_IN: &str = "SET LOCAL pg.pilot=1";

impl Client {
    /// A batch, or a part of one, that has been assessed is about to be forwarded.
    pub(super) fn note_own(&mut self, assessed: &Assessed) {
        self.session.has_own |= assessed.own;
        if let Some(link) = self.link.as_mut() {
            if self.transaction.is_idle() && !link.batch_open {
                link.own_portals.clear();
            }
            (link.among_sent, link.among) = (assessed.among.0, assessed.among);
        }
    }

    /// One more statement of a batch that is being forwarded.
    fn pass(&self, among: &mut Among, verdict: &Verdict, protocol: Protocol) -> Result<(), Report> {
        among.pass(&verdict.intent, protocol).map_err(|refused| report(refused, &verdict.intent))?;
        match &verdict.intent {
            Intent::Own(OwnCommand::Set { name, value, .. }) => self.session.change(name, value.as_deref()).map(drop),
            _ => Ok(()),
        }
    }

    /// Does what is to be done about a frame that is about to be forwarded, if it is about a statement of pgpilot's own,
    /// or cannot stand behind one.
    ///
    /// # Errors
    /// The frame is malformed.
    pub(super) fn answer_own(&mut self, frame: Frame<'_>) -> Result<Own, WireError> {
        if self.link.as_ref().is_none_or(|link| link.dues.is_skipping()) && frame.tag != frontend::SYNC {
            return Ok(Own::None);
        }
        if frame.tag == frontend::QUERY {
            return Ok(self.query_own(frontend::query(frame.body())?));
        }
        Ok(if self.answers_own(frame)? { Own::Answered } else { Own::None })
    }

    /// In the extended protocol. Returns whether it has been answered.
    fn answers_own(&mut self, frame: Frame<'_>) -> Result<bool, WireError> {
        match frame.tag {
            frontend::PARSE => Ok(self.parse_own(Parse::read(frame.body())?)),
            frontend::BIND => Ok(self.bind_own(BindHead::parse(frame.body())?)),
            frontend::DESCRIBE | frontend::CLOSE => self.answer_own_target(frame),
            frontend::EXECUTE => {
                let name = name_of_portal(&frame);
                let Some(link) = self.link.as_mut() else { return Ok(false) };
                let Some(at) = link.own_portals.iter().position(|portal| *portal.name == *name) else {
                    return Ok(false);
                };
                let OwnPortal { result, .. } = link.own_portals.swap_remove(at);
                reply(link, |out| out.extend_from_slice(&result));
                Ok(true)
            }
            frontend::SYNC => {
                if let Some(link) = self.link.as_mut() {
                    link.among_sent = Among::default();
                }
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// A Query with statements of pgpilot's own goes without them.
    fn query_own(&mut self, text: &[u8]) -> Own {
        let verdict = self.verdict_on(text);
        if !verdict.statements.iter().any(is_own) {
            return Own::None;
        }
        if matches!(self.transaction, Transaction::Failed) && is_own(&verdict.statements[0]) {
            // The server says what it says to everything.
            return Own::None;
        }
        let mut among = Among::default();
        let passed = verdict.statements.iter().try_for_each(|verdict| self.pass(&mut among, verdict, Protocol::Simple));
        let Client { session, link, .. } = self;
        if let (Err(report), Some(link)) = (passed, link.as_mut()) {
            refuse_query(link, session, &report);
            return Own::Answered;
        }
        let places = verdict.statements.iter().filter_map(|verdict| match &verdict.intent {
            Intent::Own(OwnCommand::Set { at, .. }) => Some(at.clone()),
            _ => None,
        });
        let mut bytes = BytesMut::new();
        frontend::put_query(&mut bytes, &stand_in(text, places));
        Own::Replaced(bytes)
    }

    fn parse_own(&mut self, parse: Parse<'_>) -> bool {
        if !is_own_alone(&self.verdict_on(parse.query)) {
            return false;
        }
        let failed = matches!(self.transaction, Transaction::Failed);
        let taken = !parse.name.is_empty() && self.session.names.find(parse.name).is_some();
        let prepared = (!failed && !taken).then(|| self.take_parsed(parse));
        let Client { session, link, .. } = self;
        let Some(link) = link.as_mut() else { return false };
        match prepared {
            None if failed => fail(link, &aborted()),
            None => fail(link, &name_taken(parse.name)),
            Some(prepared) => {
                let number = own(link, backend::PARSE_COMPLETE);
                session.names.change(number, parse.name, Some(prepared));
            }
        }
        true
    }

    fn bind_own(&mut self, BindHead { portal, statement, .. }: BindHead<'_>) -> bool {
        let verdict = self.session.names.find(statement).map(|known| known.verdict.clone());
        let Some(link) = self.link.as_mut() else { return false };
        link.own_portals.retain(|known| *known.name != *portal);
        let Some(verdict) = verdict else { return false };
        let mut among = link.among_sent;
        let passed =
            verdict.statements.iter().try_for_each(|verdict| self.pass(&mut among, verdict, Protocol::Extended));
        let answer = match (&*verdict.statements, passed) {
            ([Verdict { intent: Intent::Own(_), .. }], _) if matches!(self.transaction, Transaction::Failed) => {
                Err(aborted())
            }
            (_, Err(report)) => Err(report),
            ([Verdict { intent: Intent::Own(command), .. }], Ok(())) => match command {
                OwnCommand::Show { name } => self.show(name).map(|shown| (command, Answer::shown(shown))),
                OwnCommand::Set { .. } => Ok((command, Answer::done("SET"))),
            },
            (_, Ok(())) => {
                self.link.iter_mut().for_each(|link| link.among_sent = among);
                return false;
            }
        };
        let Some(link) = self.link.as_mut() else { return false };
        link.among_sent = among;
        match answer {
            Ok((command, answer)) if link.own_portals.len() < MAX_PORTALS => {
                let (mut description, mut result) = (BytesMut::new(), BytesMut::new());
                describe(&mut description, Some(command));
                answer.put(&mut result);
                let [description, result] = [description, result].map(|bytes| bytes.to_vec().into());
                link.own_portals.push(OwnPortal { name: portal.into(), description, result });
                own(link, backend::BIND_COMPLETE);
            }
            Ok(_) => fail(link, &too_many_portals()),
            Err(report) => fail(link, &report),
        }
        true
    }

    fn answer_own_target(&mut self, frame: Frame<'_>) -> Result<bool, WireError> {
        let (what, name) = frontend::target(frame.tag, frame.body())?;
        let Client { session, link, .. } = self;
        let Some(link) = link.as_mut() else { return Ok(false) };
        if let Target::Statement = what {
            let known = session.names.find(name).filter(|_| frame.tag == frontend::DESCRIBE);
            let Some(known) = known.filter(|known| is_own_alone(&known.verdict)) else { return Ok(false) };
            reply(link, |out| {
                backend::put_no_parameters(out);
                describe(out, command_of(&known.verdict));
            });
            return Ok(true);
        }
        let Some(at) = link.own_portals.iter().position(|portal| *portal.name == *name) else { return Ok(false) };
        if frame.tag == frontend::CLOSE {
            link.own_portals.swap_remove(at);
            own(link, backend::CLOSE_COMPLETE);
        } else {
            let description = link.own_portals[at].description.clone();
            reply(link, |out| out.extend_from_slice(&description));
        }
        Ok(true)
    }
}

/// The text with a stand-in in each of these places, which is filled up with blanks: positions in it, which servers count in
/// characters, stay what they are.
fn stand_in(text: &[u8], places: impl Iterator<Item = Range<usize>>) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), 0);
    for place in places.filter(|place| !place.is_empty()) {
        out.extend_from_slice(&text[rest..place.start]);
        let characters = String::from_utf8_lossy(&text[place.clone()]).chars().count();
        out.extend_from_slice(format!("{STAND_IN:characters$}").as_bytes());
        rest = place.end;
    }
    out.extend_from_slice(&text[rest..]);
    out
}

fn is_own(verdict: &Verdict) -> bool {
    matches!(verdict.intent, Intent::Own(_))
}

fn is_own_alone(classified: &Classified) -> bool {
    command_of(classified).is_some()
}

fn command_of(classified: &Classified) -> Option<&OwnCommand> {
    match &*classified.statements {
        [Verdict { intent: Intent::Own(command), .. }] => Some(command),
        _ => None,
    }
}

fn report(refused: Refused, intent: &Intent) -> Report {
    let (message, hint) = match (refused, intent) {
        (Refused::ShownInQuery, _) => (
            "a setting of pgpilot's cannot be shown within a Query of several statements",
            "Send the SHOW as a Query of its own.",
        ),
        (Refused::Unended, _) => (
            "the position of what stands before it in the pipeline is not known yet",
            "Send SHOW pgpilot.lsn behind the Sync.",
        ),
        (Refused::OutOfOrder, Intent::Own(_)) => (
            "a setting of pgpilot's cannot be set or shown behind the end of a transaction, or be set behind a SHOW, in the same message or pipeline",
            "Send it by itself.",
        ),
        (Refused::OutOfOrder, _) => (
            "this cannot stand behind a statement about pgpilot's settings in the same message or pipeline",
            "Send that statement by itself.",
        ),
    };
    Report::error(SqlState::FEATURE_NOT_SUPPORTED, message).hint(hint)
}

fn too_many_portals() -> Report {
    let message = format!("more than {MAX_PORTALS} portals of pgpilot's own");
    Report::error(SqlState::CONFIGURATION_LIMIT_EXCEEDED, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::sql::Shape;

    #[test]
    fn a_stand_in_moves_nothing_behind_it() {
        let text = "SET pgpilot.route=''; SELECT 1; SET pgpilot.min_lsn = '\u{e9}' ; SELECT 2";
        let at = |part: &str| text.find(part).map(|start| start..start + part.len()).unwrap();
        let places = [at("SET pgpilot.route=''"), 0..0, at("SET pgpilot.min_lsn = '\u{e9}'")];
        let sent = String::from_utf8(stand_in(text.as_bytes(), places.into_iter())).unwrap();
        assert_eq!(sent, "SET LOCAL pg.pilot=1; SELECT 1; SET LOCAL pg.pilot=1      ; SELECT 2");
        assert_eq!(sent.chars().count(), text.chars().count());
    }

    /// A text of its shape would have its own values, and places.
    #[test]
    fn a_set_is_remembered_by_its_text_alone() {
        for text in ["SET pgpilot.route = primary; SELECT 1", "SELECT 1; SET pgpilot.route = primary"] {
            assert_eq!(crate::decide::sql::shape(text.as_bytes(), &mut Vec::new()), Shape::LiteralMatters, "{text}");
        }
    }
}
