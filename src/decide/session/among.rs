//! pgpilot's own statements among others of one batch: which of them can be given their meaning there.

use crate::decide::sql::{Intent, OwnCommand, Savepoint, SessionCommand, SetScope};

/// How a statement was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// In a Query, to which a server replies as a whole.
    Simple,
    /// In messages of its own, of which each has its reply.
    Extended,
}

/// What a batch has run up to some point, as far as pgpilot's own statements mind: a batch has one route, and its
/// settings hold for all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Among {
    /// Something that a server runs, other than the beginning or the end of a transaction.
    others: bool,
    ended: bool,
    shown: bool,
    set: Option<SetScope>,
}

/// What a statement means for the batch's route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing: what has been set holds for all that a server runs.
    Any,
    /// Something else held before it: the primary does what either asks for.
    Primary,
}

/// A statement cannot stand where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// SHOW in a Query of several statements: the reply is the server's.
    ShownInQuery,
    /// `SHOW pgpilot.lsn`: what comes before it has not ended, so it has no position yet.
    Unended,
    /// Behind something that makes an end of settings, or before it: whether that is done is not known before the whole
    /// batch has been answered.
    OutOfOrder,
}

impl Among {
    /// One more statement is run.
    ///
    /// # Errors
    /// It has to be refused, and with it all that follows in the batch.
    pub fn pass(&mut self, intent: &Intent, protocol: Protocol) -> Result<Turn, Refused> {
        match intent {
            Intent::Own(OwnCommand::Show { .. }) if protocol == Protocol::Simple => return Err(Refused::ShownInQuery),
            Intent::Own(_) if self.ended => return Err(Refused::OutOfOrder),
            Intent::Own(OwnCommand::Show { name }) => {
                if &**name == "lsn" && self.others {
                    return Err(Refused::Unended);
                }
                self.shown = true;
            }
            Intent::Own(OwnCommand::Set { scope, .. }) => {
                if self.shown {
                    return Err(Refused::OutOfOrder);
                }
                if self.set != Some(SetScope::Session) {
                    self.set = Some(*scope);
                }
                if self.others {
                    return Ok(Turn::Primary);
                }
            }
            Intent::End(_) => self.ended = true,
            Intent::Begin(_) if !self.ended => {}
            other => return self.pass_other(other),
        }
        Ok(Turn::Any)
    }

    fn pass_other(&mut self, intent: &Intent) -> Result<Turn, Refused> {
        let undoes = matches!(
            intent,
            Intent::Savepoint(Savepoint::RollBackTo(_))
                | Intent::Session(SessionCommand::ResetAll | SessionCommand::DiscardAll)
        );
        if self.shown && undoes {
            return Err(Refused::OutOfOrder);
        }
        self.others = true;
        match self.set {
            // Should this fail, what has been committed before it stays.
            Some(SetScope::Session) if self.ended => Err(Refused::OutOfOrder),
            Some(SetScope::Local) if self.ended => Ok(Turn::Primary),
            _ => Ok(Turn::Any),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::sql::{TransactionEnd, TransactionMode};

    fn intent(word: &str) -> Intent {
        let set = |scope| OwnCommand::Set { name: "consistency".into(), value: None, scope, at: 0..0 };
        let show = |name: &str| OwnCommand::Show { name: name.into() };
        match word {
            "set" => Intent::Own(set(SetScope::Session)),
            "local" => Intent::Own(set(SetScope::Local)),
            "show" => Intent::Own(show("consistency")),
            "lsn" => Intent::Own(show("lsn")),
            "begin" => Intent::Begin(TransactionMode::default()),
            "commit" => Intent::End(TransactionEnd::Commit),
            "back" => Intent::Savepoint(Savepoint::RollBackTo("a".into())),
            "discard" => Intent::Session(SessionCommand::DiscardAll),
            "read" => Intent::Read,
            _ => Intent::Write,
        }
    }

    /// The verdict on each statement: `.` any, `P` primary, and why the batch ends.
    fn verdicts(batch: &str, protocol: Protocol) -> String {
        let mut among = Among::default();
        let mut out = String::new();
        for word in batch.split(' ') {
            match among.pass(&intent(word), protocol) {
                Ok(Turn::Any) => out.push('.'),
                Ok(Turn::Primary) => out.push('P'),
                Err(refused) => return format!("{out} {refused:?}"),
            }
        }
        out
    }

    #[test]
    fn what_is_set_first_holds_for_all_that_follows() {
        for (batch, expected) in [
            ("set read", ".."),
            ("set local read write", "...."),
            ("begin local read commit", "...."),
            ("begin local read commit read", "....P"),
            ("set begin read back commit", "....."),
            // Before it, something else held.
            ("read set read", ".P."),
            ("begin read local read commit", "..P.."),
        ] {
            assert_eq!(verdicts(batch, Protocol::Simple), expected, "{batch}");
            assert_eq!(verdicts(batch, Protocol::Extended), expected, "{batch}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        for (batch, expected) in [
            ("begin lsn read", "..."),
            ("set show read", "..."),
            ("read show write", "..."),
            ("write lsn", ". Unended"),
            ("read lsn", ". Unended"),
            ("show set", ". OutOfOrder"),
            ("set show back", ".. OutOfOrder"),
            ("show discard", ". OutOfOrder"),
            ("begin set commit read", "... OutOfOrder"),
            ("commit set", ". OutOfOrder"),
            ("commit show", ". OutOfOrder"),
        ] {
            assert_eq!(verdicts(batch, Protocol::Extended), expected, "{batch}");
        }
        assert_eq!(verdicts("set show", Protocol::Simple), ". ShownInQuery");
    }
}
