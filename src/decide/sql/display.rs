//! Verdicts for people: `write: function public.next_id() needs the primary`.

use std::fmt;

use super::types::{
    Access, Effects, Intent, Isolation, OwnCommand, Reason, SessionCommand, SetScope, TransactionEnd, TransactionMode,
    Verdict,
};

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.intent, Because(self))?;
        if let Some(consistency) = self.hints.consistency {
            write!(f, "; by hint, consistency is {}", consistency.name())?;
        }
        if self.effects.contains(Effects::HINT_UNKNOWN) {
            f.write_str("; a hint in its comments is not known")?;
        }
        Ok(())
    }
}

/// The reason with its object.
struct Because<'a>(&'a Verdict);

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(object) = self.0.object.as_deref() else { return f.write_str(self.0.reason.explained()) };
        let parenthesis = if object.starts_with("operator ") || object.starts_with("type ") { "" } else { "()" };
        match self.0.reason {
            Reason::PrimaryFunction if parenthesis.is_empty() => write!(f, "{object} needs the primary"),
            Reason::PrimaryFunction => write!(f, "function {object}() needs the primary"),
            Reason::UnknownFunction if parenthesis.is_empty() => write!(f, "{object} is not known"),
            Reason::UnknownFunction => write!(f, "function {object}() is not known"),
            Reason::UnknownRelation => write!(f, "relation {object} is not known"),
            Reason::ListedFunction => write!(f, "function {object}() is listed in routing.primary_functions"),
            Reason::PrimaryRelation => write!(f, "only the primary answers for {object}"),
            Reason::Unparsable => write!(f, "{object:?} is not understood"),
            reason => write!(f, "{} ({object})", reason.explained()),
        }
    }
}

impl Reason {
    /// The reason in words, where there is no object.
    fn explained(self) -> &'static str {
        match self {
            Reason::PlainRead => "nothing in it needs the primary",
            Reason::Dml => "modifies rows",
            Reason::DmlInCte => "a WITH query modifies rows",
            Reason::Ddl => "changes definitions",
            Reason::RowLock => "locks rows",
            Reason::SelectInto => "SELECT INTO makes a table",
            Reason::PrimaryFunction => "a function needs the primary",
            Reason::UnknownFunction => "a function is not known",
            Reason::UnknownRelation => "a relation is not known",
            Reason::NoCatalogue => "the database's catalogue is not loaded yet",
            Reason::CatalogueChanged => "the session has changed the catalogue just now",
            Reason::Unparsable => "not understood",
            Reason::TooLarge => "larger than routing.max_parse",
            Reason::Encoding => "not in UTF-8, or lexed by rules that pgpilot does not follow",
            Reason::Empty => "no statement",
            Reason::TransactionControl => "controls the transaction",
            Reason::SessionState => "changes the session's state",
            Reason::Utility => "a utility statement",
            Reason::Show => "shows a setting",
            Reason::Explain => "explains a read",
            Reason::Prepared => "concerns a prepared statement",
            other => other.label(),
        }
    }
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Intent::Read => f.write_str("read"),
            Intent::Write => f.write_str("write"),
            Intent::Begin(mode) => write!(f, "begin{mode}"),
            Intent::End(TransactionEnd::Commit) => f.write_str("commit"),
            Intent::End(TransactionEnd::Rollback) => f.write_str("rollback"),
            Intent::End(TransactionEnd::CommitAndChain) => f.write_str("commit and chain"),
            Intent::End(TransactionEnd::RollbackAndChain) => f.write_str("rollback and chain"),
            Intent::Savepoint(_) => f.write_str("about a savepoint"),
            Intent::WithinTransaction => f.write_str("within the transaction"),
            Intent::Session(command) => write!(f, "{command}"),
            Intent::Prepare { name, statement, .. } => write!(f, "prepare {name} ({statement})"),
            Intent::Execute { name, .. } => write!(f, "execute {name}"),
            Intent::Deallocate { name: Some(name) } => write!(f, "deallocate {name}"),
            Intent::Deallocate { name: None } => f.write_str("deallocate all"),
            Intent::Own(OwnCommand::Show { name }) => write!(f, "show pgpilot.{name}"),
            Intent::Own(OwnCommand::Set { name, .. }) => write!(f, "set pgpilot.{name}"),
        }
    }
}

impl fmt::Display for TransactionMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.isolation {
            Some(Isolation::ReadUncommitted) => " read uncommitted",
            Some(Isolation::ReadCommitted) => " read committed",
            Some(Isolation::RepeatableRead) => " repeatable read",
            Some(Isolation::Serializable) => " serializable",
            None => "",
        })?;
        f.write_str(match self.access {
            Some(Access::ReadOnly) => " read only",
            Some(Access::ReadWrite) => " read write",
            None => "",
        })
    }
}

impl fmt::Display for SessionCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionCommand::Set { names, scope } => {
                f.write_str(if *scope == SetScope::Local { "set local " } else { "set " })?;
                f.write_str(&names.join(", "))
            }
            SessionCommand::Reset { name, scope: SetScope::Session } => write!(f, "reset {name}"),
            SessionCommand::Reset { name, scope: SetScope::Local } => write!(f, "set local {name} to default"),
            SessionCommand::ResetAll => f.write_str("reset all"),
            SessionCommand::DiscardAll => f.write_str("discard all"),
            SessionCommand::DiscardSome => f.write_str("discard"),
        }
    }
}
