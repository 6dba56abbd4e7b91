//! What a batch needs, from the verdicts on its statements: the most demanding one decides.

use crate::config::Consistency;
use crate::decide::route::Need;
use crate::decide::sql::{
    Access, Effects, Hint, Hints, Intent, Isolation, Reason, SessionCommand, SetScope, TransactionMode, Verdict,
};

/// What a batch, or a part of it, asks of the session and its server.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// `None`: nothing in it has to run on a server.
    pub server: Option<(Need, Reason)>,
    /// What its reads are promised.
    pub promise: Promise,
    /// What its statements may leave behind.
    pub effects: Effects,
    /// Settings that it may change for the session.
    pub names: Vec<Box<str>>,
    /// It throws away prepared statements: DISCARD ALL, DEALLOCATE ALL.
    pub forgets_statements: bool,
    /// It takes settings back to what they were at the session's start.
    pub resets: bool,
    /// The transaction that begins in it, and does not end there.
    pub opens: Option<TransactionMode>,
    /// Why it must not run in a transaction on a replica, were that as READ ONLY as can be.
    pub departs: Option<(Departure, Reason)>,
    /// The primary is wanted for more than what lives in a transaction, and nowhere else.
    beyond: bool,
}

/// How much a statement in a transaction on a replica asks for the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Departure {
    /// Nobody knows what it does: the replica may run it if nothing else can be done.
    Doubtful,
    /// What a replica says to it is wrong, or it leaves something there that would keep the session.
    Certain,
}

/// What the reads of a batch are promised, as far as comments say: the strongest promise counts for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Promise {
    hinted: Option<Consistency>,
    /// What the transaction that began in this batch is promised.
    transaction: Option<Consistency>,
    /// Reads of which nothing is said.
    unhinted: u32,
}

impl Promise {
    /// `None`: what the session is promised. `session`: that, for those reads of which nothing is said.
    pub fn over(self, session: Consistency) -> Option<Consistency> {
        let hinted = self.hinted?;
        Some(if self.unhinted == 0 { hinted } else { hinted.max(session) })
    }

    /// Whether there are any: then a snapshot is taken.
    pub fn reads(self) -> bool {
        self.hinted.is_some() || self.unhinted > 0
    }

    fn read(&mut self, hint: Option<Consistency>) {
        match hint.or(self.transaction) {
            Some(consistency) => self.hinted = self.hinted.max(Some(consistency)),
            None => self.unhinted += 1,
        }
    }

    fn begin(&mut self, hint: Option<Consistency>) {
        self.transaction = hint;
        self.hinted = self.hinted.max(hint);
    }

    fn end(&mut self) {
        self.transaction = None;
    }
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
        self.add_with(verdict, verdict.hints, defaults, prepared);
    }

    fn add_with<'v>(
        &mut self,
        verdict: &'v Verdict,
        hints: Hints,
        defaults: Defaults,
        prepared: &dyn Fn(&str) -> Option<&'v Verdict>,
    ) {
        self.effects |= verdict.effects;
        if verdict.reason == Reason::Ddl && verdict.effects.contains(Effects::CATALOGUE) {
            self.effects |= Effects::DDL;
        }
        if verdict.effects.contains(Effects::CATALOGUE) {
            // Without the word TEMPORARY, what is made is temporary where the search_path begins with such a schema, be it
            // by set_config() or a function's own SET.
            self.effects |= Effects::UNPINS;
        }
        self.names.extend(verdict.settings.iter().cloned());
        self.departs = self.departs.max(departure(verdict));
        match &verdict.intent {
            Intent::Read => self.read(verdict.reason, hints, defaults),
            Intent::Write => self.want(Need::Primary, verdict.reason),
            Intent::Begin(mode) => {
                self.promise.begin(hints.consistency);
                self.opens = Some(*mode);
                self.add_begin(*mode, defaults);
                if hints.route == Some(Hint::Primary) {
                    self.want(Need::Primary, Reason::Hint);
                }
            }
            Intent::End(_) => {
                self.promise.end();
                self.opens = None;
                self.want(Need::Read, verdict.reason);
            }
            Intent::WithinTransaction if is_declare(verdict) => {
                // What its cursor reads is what is there now.
                self.promise.read(hints.consistency);
                if hints.route == Some(Hint::Primary) {
                    self.depart(Departure::Certain, Reason::Hint);
                }
                self.want_within(Reason::Utility);
            }
            Intent::WithinTransaction
            | Intent::Savepoint(_)
            | Intent::Session(SessionCommand::Set { scope: SetScope::Local, .. }) => self.want_within(verdict.reason),
            Intent::Session(command) => {
                self.session(command);
                self.want(Need::Primary, verdict.reason);
            }
            Intent::Prepare { statement, .. } => match statement.intent {
                Intent::Read => self.read(statement.reason, hints, defaults),
                _ => self.want(Need::Primary, statement.reason),
            },
            Intent::Execute { name, .. } => match prepared(name) {
                Some(inner) if !verdict.effects.contains(Effects::WRITES) => {
                    self.add_with(inner, hints.or(inner.hints), defaults, &|_| None);
                }
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
        self.beyond |= need == Need::Primary;
        let stronger = match self.server {
            None => true,
            Some((Need::Primary, _)) => false,
            Some(_) => need == Need::Primary,
        };
        if stronger {
            self.server = Some((need, reason));
        }
    }

    /// Something that goes where its transaction is.
    fn want_within(&mut self, reason: Reason) {
        let beyond = self.beyond;
        self.want(Need::Primary, reason);
        self.beyond = beyond;
    }

    /// Whether it wants the primary only if the transaction does that begins with it, and that one reads only.
    pub fn may_begin(&self, mode: TransactionMode, defaults: Defaults) -> bool {
        let mut begun = Self::default();
        begun.add_begin(mode, defaults);
        !begun.beyond && !self.beyond && self.departs.is_none()
    }

    fn read(&mut self, reason: Reason, hints: Hints, defaults: Defaults) {
        // What shows a setting takes no snapshot.
        if reason != Reason::Show {
            self.promise.read(hints.consistency);
        }
        match hints.route {
            Some(Hint::Primary) => {
                self.want(Need::Primary, Reason::Hint);
                self.depart(Departure::Certain, Reason::Hint);
            }
            _ if defaults.serializable => self.want(Need::Primary, Reason::SessionState),
            Some(Hint::Replica) => self.want(Need::Replica, Reason::Hint),
            None => {
                // Of a read that may go to a replica in any mode, and one that may not, the second counts.
                self.server = self.server.filter(|(need, _)| *need != Need::Replica);
                self.want(Need::Read, reason);
            }
        }
    }

    /// It must not run in a transaction on a replica.
    pub fn depart(&mut self, departure: Departure, reason: Reason) {
        self.departs = self.departs.max(Some((departure, reason)));
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
            SessionCommand::Set { names, scope } => {
                self.names.extend(names.iter().filter(|_| *scope == SetScope::Session).cloned());
            }
            SessionCommand::Reset { name, scope } => {
                self.names.extend((*scope == SetScope::Session).then(|| name.clone()));
                self.resets = true;
            }
            SessionCommand::ResetAll => {
                self.effects |= Effects::SETTINGS;
                self.resets = true;
            }
            SessionCommand::DiscardAll => {
                self.resets = true;
                self.effects |= Effects::SETTINGS | Effects::UNPINS;
                self.forgets_statements = true;
            }
            SessionCommand::DiscardSome => self.effects |= Effects::UNPINS,
        }
    }
}

/// Whether what is within a transaction is DECLARE: then the reason is that of its query.
fn is_declare(verdict: &Verdict) -> bool {
    !matches!(verdict.reason, Reason::Utility | Reason::TransactionControl)
}

/// Why a statement must not run in a READ ONLY transaction on a replica. What such a transaction refuses everywhere is
/// refused there as well, and what only lives within it has to be where it is.
fn departure(verdict: &Verdict) -> Option<(Departure, Reason)> {
    let stays = verdict.effects.intersects(Effects::STAYS);
    match (&verdict.intent, verdict.reason) {
        (
            Intent::Write,
            Reason::Dml | Reason::DmlInCte | Reason::Ddl | Reason::RowLock | Reason::SelectInto | Reason::Show,
        ) => None,
        (
            Intent::Write,
            reason @ (Reason::UnknownFunction | Reason::Unparsable | Reason::TooLarge | Reason::Encoding),
        ) => Some((Departure::Doubtful, reason)),
        // A setting whose name is known.
        (Intent::Write, Reason::SessionState) => stays.then_some((Departure::Certain, Reason::SessionState)),
        (Intent::Write, reason) => Some((Departure::Certain, reason)),
        (Intent::Execute { .. }, _) if verdict.effects.contains(Effects::WRITES) => {
            Some((Departure::Doubtful, Reason::Prepared))
        }
        _ => stays.then_some((Departure::Certain, Reason::SessionState)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::sql::{Savepoint, TransactionEnd};

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
        let hinted = |route| Verdict { hints: Hints { route: Some(route), consistency: None }, ..read() };
        assert_eq!(needs(&[hinted(Hint::Primary)], plain), Some((Need::Primary, Reason::Hint)));
        let replica = hinted(Hint::Replica);
        assert_eq!(needs(std::slice::from_ref(&replica), plain), Some((Need::Replica, Reason::Hint)));
        for both in [[replica.clone(), read()], [read(), replica]] {
            assert_eq!(needs(&both, plain), Some((Need::Read, Reason::PlainRead)));
        }
        let begin = begin(Some(Access::ReadOnly), None);
        let begin = Verdict { hints: Hints { route: Some(Hint::Primary), consistency: None }, ..begin };
        assert_eq!(needs(&[begin], plain), Some((Need::Primary, Reason::Hint)));
    }

    #[test]
    fn the_strongest_promise_counts_for_a_whole_batch() {
        use Consistency::{Eventual, Primary, Session, Strong};
        let hinted = |consistency| Verdict { hints: Hints { route: None, consistency: Some(consistency) }, ..read() };
        let begun = |consistency| Verdict { intent: begin(None, None).intent, ..hinted(consistency) };
        let end = || Verdict::new(Intent::End(TransactionEnd::Commit), Reason::TransactionControl);
        for (batch, session, expected) in [
            (vec![read()], Strong, None),
            (vec![hinted(Eventual)], Strong, Some(Eventual)),
            (vec![hinted(Primary)], Eventual, Some(Primary)),
            (vec![hinted(Eventual), hinted(Strong)], Session, Some(Strong)),
            (vec![hinted(Eventual), read()], Session, Some(Session)),
            (vec![read(), hinted(Strong)], Session, Some(Strong)),
            (vec![begun(Eventual), read(), end()], Session, Some(Eventual)),
            (vec![begun(Eventual), read(), end(), read()], Session, Some(Session)),
            (vec![begun(Eventual), hinted(Strong)], Session, Some(Strong)),
        ] {
            let mut needs = Needs::default();
            batch.iter().for_each(|verdict| needs.add(verdict, Defaults::default(), &|_| None));
            assert_eq!(needs.promise.over(session), expected, "{batch:?}");
        }
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
    fn what_only_lives_within_a_transaction_begins_where_that_does() {
        let declare = Verdict::new(Intent::WithinTransaction, Reason::PlainRead);
        let hinted = Verdict { hints: Hints { route: Some(Hint::Primary), consistency: None }, ..declare.clone() };
        let set = |scope| {
            let names = Box::from([Box::from("work_mem")]);
            Verdict::new(Intent::Session(SessionCommand::Set { names, scope }), Reason::SessionState)
        };
        let savepoint = Verdict::new(Intent::Savepoint(Savepoint::Set("s".into())), Reason::TransactionControl);
        let read_only = TransactionMode { access: Some(Access::ReadOnly), ..TransactionMode::default() };
        let serializable = TransactionMode { isolation: Some(Isolation::Serializable), ..read_only };
        for (batch, may) in [
            (vec![declare.clone()], true),
            (vec![set(SetScope::Local), savepoint, declare.clone(), read()], true),
            (vec![begin(Some(Access::ReadOnly), None), declare.clone()], true),
            (vec![hinted], false),
            (vec![set(SetScope::Session)], false),
            (vec![Verdict::new(Intent::Write, Reason::Dml), declare.clone()], false),
            (vec![declare.clone().with(Effects::SEED)], false),
        ] {
            let mut needs = Needs::default();
            batch.iter().for_each(|verdict| needs.add(verdict, Defaults::default(), &|_| None));
            assert_eq!(needs.may_begin(read_only, Defaults::default()), may, "{batch:?}");
            assert!(!needs.may_begin(serializable, Defaults::default()));
            assert!(!needs.may_begin(TransactionMode::default(), Defaults::default()));
        }
        // By itself it says why it is on the primary; and what it reads is promised what a read is.
        assert_eq!(needs(std::slice::from_ref(&declare), Defaults::default()), Some((Need::Primary, Reason::Utility)));
        let mut needs = Needs::default();
        needs.add(&declare, Defaults::default(), &|_| None);
        assert!(needs.promise.reads());
    }

    #[test]
    fn what_shows_a_setting_takes_no_snapshot() {
        let mut needs = Needs::default();
        needs.add(&Verdict::new(Intent::Read, Reason::Show), Defaults::default(), &|_| None);
        assert!(!needs.promise.reads());
        needs.add(&read(), Defaults::default(), &|_| None);
        assert!(needs.promise.reads());
    }

    #[test]
    fn what_leaves_something_or_asks_of_the_primary_departs_from_a_replica() {
        let (certain, doubtful) = (Departure::Certain, Departure::Doubtful);
        let write = |reason| Verdict::new(Intent::Write, reason);
        let within = |effects| Verdict::new(Intent::WithinTransaction, Reason::Utility).with(effects);
        let hinted = Verdict { hints: Hints { route: Some(Hint::Primary), consistency: None }, ..read() };
        for (verdict, expected) in [
            (read(), None),
            (hinted, Some((certain, Reason::Hint))),
            (write(Reason::Dml), None),
            (write(Reason::Ddl).with(Effects::PINS), None),
            (write(Reason::PrimaryFunction), Some((certain, Reason::PrimaryFunction))),
            (write(Reason::SessionState), None),
            (write(Reason::SessionState).with(Effects::PINS), Some((certain, Reason::SessionState))),
            (Verdict::opaque(Reason::Unparsable), Some((doubtful, Reason::Unparsable))),
            (within(Effects::UNPINS), None),
            (within(Effects::SEED), Some((certain, Reason::SessionState))),
            (Verdict::new(Intent::Savepoint(Savepoint::Set("s".into())), Reason::TransactionControl), None),
        ] {
            let mut needs = Needs::default();
            for verdict in [&read(), &verdict, &read()] {
                needs.add(verdict, Defaults::default(), &|_| None);
            }
            assert_eq!(needs.departs, expected, "{verdict:?}");
        }
    }

    #[test]
    fn after_whatever_makes_an_object_the_server_is_asked_whether_it_is_temporary() {
        for (verdict, asks) in [
            (Verdict::new(Intent::Write, Reason::Ddl).with(Effects::CATALOGUE), true),
            (Verdict::new(Intent::Write, Reason::SelectInto).with(Effects::CATALOGUE), true),
            (Verdict::new(Intent::Write, Reason::PrimaryFunction).with(Effects::CATALOGUE), true),
            (Verdict::new(Intent::Write, Reason::Dml).with(Effects::WRITES), false),
        ] {
            let mut needs = Needs::default();
            needs.add(&verdict, Defaults::default(), &|_| None);
            assert_eq!(needs.effects.contains(Effects::UNPINS), asks, "{verdict:?}");
        }
    }

    #[test]
    fn a_batch_opens_what_it_does_not_end() {
        let end = |end| Verdict::new(Intent::End(end), Reason::TransactionControl);
        let begun = begin(Some(Access::ReadOnly), None);
        for (batch, opens) in [
            (vec![read()], false),
            (vec![begun.clone(), read()], true),
            (vec![begun.clone(), read(), end(TransactionEnd::Commit)], false),
            (vec![end(TransactionEnd::Rollback), begun], true),
        ] {
            let mut needs = Needs::default();
            batch.iter().for_each(|verdict| needs.add(verdict, Defaults::default(), &|_| None));
            assert_eq!(needs.opens.is_some(), opens, "{batch:?}");
        }
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
        // What is said of it goes before what was said of the statement.
        let hints = |consistency| Hints { route: None, consistency: Some(consistency) };
        let prepared = Verdict { hints: hints(Consistency::Strong), ..read.clone() };
        let hinted = Verdict { hints: hints(Consistency::Eventual), ..execute.clone() };
        for (execute, expected) in [(&execute, Consistency::Strong), (&hinted, Consistency::Eventual)] {
            let mut needs = Needs::default();
            needs.add(execute, Defaults::default(), &|_| Some(&prepared));
            assert_eq!(needs.promise.over(Consistency::Session), Some(expected));
        }
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
