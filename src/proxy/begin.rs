//! BEGIN in an extended batch of its own: as a simple one, it is answered here and sent with the first statement of its transaction, which chooses the server.

use super::assess::{Assessed, frames};
use super::batch::BatchEnd;
use super::client::Client;
use super::fault::End;
use super::forward::name_of_portal;
use super::judged::Judged;
use super::session::Transaction;
use crate::decide::session::Origin;
use crate::decide::sql::{Intent, Reason, Verdict};
use crate::wire::backend;
use crate::wire::frontend::{self, BindHead, Parse, Target};

/// What follows the names in a Bind without formats and parameters: the number of either, and of the formats of what has no columns.
const NO_PARAMETERS: &[u8] = &[0; 4];

impl Client {
    /// Answers a batch that does nothing but begin a transaction. Returns whether it is one.
    pub(super) fn answer_begin(&mut self, bytes: &[u8], end: BatchEnd, assessed: &Assessed) -> Result<bool, End> {
        let begins =
            matches!(assessed.needs.server, Some((_, Reason::ReadOnlyTransaction | Reason::ReadWriteTransaction)));
        if !begins || end != BatchEnd::Sync || self.link.is_some() || !matches!(self.transaction, Transaction::Idle) {
            return Ok(false);
        }
        let Some((text, verdict)) = self.lone_begin(bytes) else { return Ok(false) };
        for frame in frames(bytes) {
            if frame.tag != frontend::EXECUTE {
                if let Err(report) = self.answer_frame(frame, None)? {
                    self.tell(&report);
                    break;
                }
            } else if let Some(Ok(answer)) = self.run_own(&text, &verdict) {
                backend::put_command_complete(&mut self.side.output, answer.tag);
            }
        }
        let status = self.status();
        backend::put_ready(&mut self.side.output, status);
        Ok(true)
    }

    /// The BEGIN that a batch executes once, and besides which it at most prepares it: its text, and the verdict on it.
    fn lone_begin(&self, bytes: &[u8]) -> Option<(Box<[u8]>, Verdict)> {
        let (mut parsed, mut bound, mut executed) = (None, None, false);
        for frame in frames(bytes) {
            match frame.tag {
                frontend::PARSE if parsed.is_none() && bound.is_none() => {
                    let parse = Parse::read(frame.body()).ok()?;
                    let is_taken = !parse.name.is_empty() && self.session.names.find(parse.name).is_some();
                    let verdict = begin_of(&self.verdict_on(parse.query))?;
                    parsed = (!is_taken).then(|| (parse.name, (Box::from(parse.query), verdict)));
                    parsed.as_ref()?;
                }
                frontend::BIND if bound.is_none() => {
                    let head = BindHead::parse(frame.body()).ok()?;
                    if !frame.body()[head.rest_at..].starts_with(NO_PARAMETERS) {
                        return None;
                    }
                    let begin = match parsed.take() {
                        Some((name, begin)) if name == head.statement => begin,
                        Some(_) => return None,
                        None => {
                            let known = self.session.names.find(head.statement)?;
                            let Origin::Parse { query, .. } = &known.statement.origin else { return None };
                            (query.clone(), begin_of(&known.verdict)?)
                        }
                    };
                    bound = Some((head.portal, begin));
                }
                frontend::EXECUTE if !executed => {
                    executed = bound.as_ref().is_some_and(|(bound, _)| *bound == name_of_portal(&frame));
                }
                frontend::DESCRIBE => match frontend::target(frame.tag, frame.body()).ok()? {
                    (Target::Statement, name) if parsed.as_ref().is_some_and(|(parsed, _)| *parsed == name) => {}
                    (Target::Portal, name) if bound.as_ref().is_some_and(|(bound, _)| *bound == name) => {}
                    _ => return None,
                },
                frontend::SYNC => {}
                _ => return None,
            }
        }
        bound.filter(|_| executed).map(|(_, begin)| begin)
    }
}

fn begin_of(judged: &Judged) -> Option<Verdict> {
    match &*judged.statements {
        [verdict @ Verdict { intent: Intent::Begin(_), .. }] => Some(verdict.clone()),
        _ => None,
    }
}
