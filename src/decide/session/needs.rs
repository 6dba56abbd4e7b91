//! What a batch needs, from the verdicts on its statements: the most demanding one decides.

use crate::decide::route::Need;
use crate::decide::sql::{
    Access, Effects, Intent, Isolation, Reason, SessionCommand, SetScope, TransactionMode, Verdict,
};

/// What a batch, or a part of it, asks of the session and its server.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// `None`: nothing in it has to run on a server.
    pub server: Option<(Need, Reason)>,
    /// What its statements may leave behind.
    pub effects: Effects,
    /// Settings that it may change for the session.
    pub names: Vec<Box<str>>,
    /// It throws away prepared statements: DISCARD ALL, DEALLOCATE ALL.
    pub forgets_statements: bool,
}

/// What the session has set, as far as it decides where transactions may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Defaults {
    /// `default_transaction_read_only` is on.
    pub read_only: bool,
    /// `default_transaction_isolation` is serializable, which a standby refuses.
    pub serializable: bool,
}

impl Needs {
    /// Adds one statement. `prepared` finds what the session has prepared under a name.
    pub fn add<'v>(
        &mut self,
        verdict: &'v Verdict,
        defaults: Defaults,
        prepared: &dyn Fn(&str) -> Option<&'v Verdict>,
    ) {
        self.effects |= verdict.effects;
        self.names.extend(verdict.settings.iter().cloned());
        match &verdict.intent {
            Intent::Read => self.read(verdict, defaults),
            Intent::Write => self.want(Need::Primary, verdict.reason),
            Intent::Begin(mode) => self.add_begin(*mode, defaults),
            Intent::End(_) => self.want(Need::Read, verdict.reason),
            Intent::WithinTransaction => self.want(Need::Primary, verdict.reason),
            Intent::Session(command) => {
                self.session(command);
                self.want(Need::Primary, verdict.reason);
            }
            Intent::Prepare { statement, .. } => {
                let inner = Verdict { effects: Effects::empty(), ..Verdict::clone(statement) };
                match inner.intent {
                    Intent::Read => self.read(&inner, defaults),
                    _ => self.want(Need::Primary, inner.reason),
                }
            }
            Intent::Execute { name, .. } => match prepared(name) {
                Some(inner) if !verdict.effects.contains(Effects::WRITES) => self.add(inner, defaults, &|_| None),
                _ => self.want(Need::Primary, Reason::Prepared),
            },
            Intent::Deallocate { name } => {
                self.forgets_statements |= name.is_none();
                self.want(Need::Read, verdict.reason);
            }
            Intent::Own(_) => {}
        }
    }

    /// Something that only the primary may get.
    pub fn want(&mut self, need: Need, reason: Reason) {
        let stronger = match self.server {
            None => true,
            Some((Need::Primary, _)) => false,
            Some(_) => need == Need::Primary,
        };
        if stronger {
            self.server = Some((need, reason));
        }
    }

    fn read(&mut self, verdict: &Verdict, defaults: Defaults) {
        if verdict.effects.contains(Effects::HINT_PRIMARY) {
            self.want(Need::Primary, Reason::Hint);
        } else if defaults.serializable {
            self.want(Need::Primary, Reason::SessionState);
        } else if verdict.effects.contains(Effects::HINT_REPLICA) {
            self.want(Need::Replica, Reason::Hint);
        } else {
            self.want(Need::Read, verdict.reason);
        }
    }

    /// A transaction begins.
    pub fn add_begin(&mut self, mode: TransactionMode, defaults: Defaults) {
        let serializable = mode.isolation.map_or(defaults.serializable, |level| level == Isolation::Serializable);
        let read_only = mode.access.map_or(defaults.read_only, |access| access == Access::ReadOnly);
        if read_only && !serializable {
            self.want(Need::Read, Reason::ReadOnlyTransaction);
        } else {
            self.want(Need::Primary, Reason::ReadWriteTransaction);
        }
    }

    fn session(&mut self, command: &SessionCommand) {
        match command {
            SessionCommand::Set { names, scope: SetScope::Session } => self.names.extend(names.iter().cloned()),
            SessionCommand::Set { scope: SetScope::Local, .. } => {}
            SessionCommand::Reset { name } => self.names.push(name.clone()),
            SessionCommand::ResetAll => self.effects |= Effects::SETTINGS,
            SessionCommand::DiscardAll => {
                self.effects |= Effects::SETTINGS | Effects::UNPINS;
                self.forgets_statements = true;
            }
            SessionCommand::DiscardSome => self.effects |= Effects::UNPINS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(verdicts: &[Verdict], defaults: Defaults) -> Option<(Need, Reason)> {
        let mut needs = Needs::default();
        verdicts.iter().for_each(|verdict| needs.add(verdict, defaults, &|_| None));
        needs.server
    }

    fn read() -> Verdict {
        Verdict::new(Intent::Read, Reason::PlainRead)
    }

    fn begin(access: Option<Access>, isolation: Option<Isolation>) -> Verdict {
        let mode = TransactionMode { access, isolation, deferrable: false };
        Verdict::new(Intent::Begin(mode), Reason::TransactionControl)
    }

    #[test]
    fn the_most_demanding_statement_decides() {
        let write = Verdict::new(Intent::Write, Reason::Dml);
        let plain = Defaults::default();
        assert_eq!(needs(&[read(), write.clone(), read()], plain), Some((Need::Primary, Reason::Dml)));
        assert_eq!(needs(&[read()], plain), Some((Need::Read, Reason::PlainRead)));
        assert_eq!(needs(&[], plain), None);
        let hinted = read().with(Effects::HINT_PRIMARY);
        assert_eq!(needs(&[hinted], plain), Some((Need::Primary, Reason::Hint)));
    }

    #[test]
    fn only_a_read_only_transaction_may_run_on_a_replica() {
        let plain = Defaults::default();
        let read_only = Some(Access::ReadOnly);
        let primary = Some((Need::Primary, Reason::ReadWriteTransaction));
        let replica = Some((Need::Read, Reason::ReadOnlyTransaction));
        assert_eq!(needs(&[begin(None, None), read()], plain), primary);
        assert_eq!(needs(&[begin(read_only, None), read()], plain), replica);
        assert_eq!(needs(&[begin(read_only, Some(Isolation::Serializable))], plain), primary);
        assert_eq!(needs(&[begin(None, None)], Defaults { read_only: true, serializable: false }), replica);
        assert_eq!(needs(&[begin(read_only, None)], Defaults { read_only: false, serializable: true }), primary);
    }

    #[test]
    fn an_execute_needs_what_was_prepared() {
        let execute = Verdict::new(Intent::Execute { name: "q".into(), name_at: 8..9 }, Reason::Prepared);
        let (read, mut needs) = (read(), Needs::default());
        needs.add(&execute, Defaults::default(), &|name| (name == "q").then_some(&read));
        assert_eq!(needs.server, Some((Need::Read, Reason::PlainRead)));
        let mut needs = Needs::default();
        needs.add(&execute, Defaults::default(), &|_| None);
        assert_eq!(needs.server, Some((Need::Primary, Reason::Prepared)));
    }

    #[test]
    fn a_local_set_changes_nothing_for_the_session() {
        let set = |scope| {
            let names = Box::from([Box::from("work_mem")]);
            Verdict::new(Intent::Session(SessionCommand::Set { names, scope }), Reason::SessionState)
        };
        let mut needs = Needs::default();
        needs.add(&set(SetScope::Local), Defaults::default(), &|_| None);
        assert!(needs.names.is_empty());
        needs.add(&set(SetScope::Session), Defaults::default(), &|_| None);
        assert_eq!(needs.names, [Box::from("work_mem")]);
    }
}
