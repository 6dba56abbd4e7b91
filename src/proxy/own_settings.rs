//! pgpilot's own settings of a session, which end where a server's would: `SET` is undone by a rollback, `SET LOCAL` ends
//! with its transaction, and `DISCARD ALL` leaves what was configured.

use super::assess::Assessed;
use super::client::Client;
use super::session::{Session, Transaction};
use crate::config::Consistency;
use crate::decide::position::Position;
use crate::decide::sql::{Hint, Hints, Savepoint, SetScope, TransactionEnd};

/// Of more, those beyond are taken for one that is older than the first change.
const MAX_SAVEPOINTS: usize = 64;

/// Their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OwnSettings {
    pub(super) consistency: Consistency,
    pub(super) hint: Option<Hint>,
    /// The token: reads see at least what was there then.
    pub(super) required: Option<Position>,
}

/// What they are when the transaction at hand has ended.
#[derive(Debug)]
pub(super) struct Afterwards {
    rolled_back: OwnSettings,
    committed: OwnSettings,
    commits: bool,
    /// Those that have been set since the first change, and what the settings were then, now and at a commit.
    savepoints: Vec<(Box<str>, OwnSettings, OwnSettings)>,
}

impl Session {
    pub(super) fn own_settings(&self) -> OwnSettings {
        OwnSettings { consistency: self.policy.consistency, hint: self.hint, required: self.freshness.required() }
    }

    fn set_own_settings(&mut self, own: OwnSettings) {
        self.policy.consistency = own.consistency;
        self.hint = own.hint;
        match own.required {
            Some(position) => self.freshness.require(position),
            None => self.freshness.require_nothing(),
        }
    }

    /// Outside of a transaction, there is nothing to come back to.
    pub(super) fn change_own_settings(&mut self, change: impl Fn(&mut OwnSettings)) {
        let mut own = self.own_settings();
        change(&mut own);
        self.set_own_settings(own);
    }

    /// Within a transaction.
    pub(super) fn change_own_settings_within(&mut self, scope: SetScope, change: impl Fn(&mut OwnSettings)) {
        let own = self.own_settings();
        let after =
            || Box::new(Afterwards { rolled_back: own, committed: own, commits: false, savepoints: Vec::new() });
        let after = self.afterwards.get_or_insert_with(after);
        if scope == SetScope::Session {
            change(&mut after.committed);
        }
        self.change_own_settings(change);
    }

    /// What the comments of a BEGIN say holds for its transaction, as if it had been set there.
    pub(super) fn heed(&mut self, hints: Hints) {
        if hints != Hints::default() {
            self.change_own_settings_within(SetScope::Local, |own| {
                own.hint = hints.route.or(own.hint);
                own.consistency = hints.consistency.unwrap_or(own.consistency);
            });
        }
    }

    /// A statement about a savepoint is about to be run.
    fn heed_savepoint(&mut self, savepoint: &Savepoint) {
        let own = self.own_settings();
        let Some(after) = &mut self.afterwards else { return };
        let find = |name: &str| after.savepoints.iter().rposition(|(known, ..)| **known == *name);
        match savepoint {
            Savepoint::Set(name) => {
                if after.savepoints.len() < MAX_SAVEPOINTS {
                    let committed = after.committed;
                    after.savepoints.push((name.clone(), own, committed));
                }
            }
            Savepoint::Release(name) => {
                let kept = find(name).unwrap_or_default();
                after.savepoints.truncate(kept);
            }
            Savepoint::RollBackTo(name) => {
                // One that is not among them is older than the first change.
                let at = find(name);
                let (now, committed) = match at {
                    Some(at) => (after.savepoints[at].1, after.savepoints[at].2),
                    None => (after.rolled_back, after.rolled_back),
                };
                after.savepoints.truncate(at.map_or(0, |at| at + 1));
                after.committed = committed;
                self.set_own_settings(now);
            }
        }
    }

    /// The transaction has ended with an error.
    pub(super) fn did_not_commit(&mut self) {
        self.will_end(TransactionEnd::Rollback);
    }

    /// A statement is about to end the transaction.
    pub(super) fn will_end(&mut self, end: TransactionEnd) {
        if let Some(after) = &mut self.afterwards {
            after.commits = end == TransactionEnd::Commit;
        }
    }

    /// There is no transaction.
    pub(super) fn settle_own_settings(&mut self) {
        if let Some(after) = self.afterwards.take() {
            self.set_own_settings(if after.commits { after.committed } else { after.rolled_back });
        }
    }
}

impl Client {
    /// What a batch is going to do to them.
    pub(super) fn foresee_own_settings(&mut self, batch: &Assessed) {
        if batch.resets {
            let consistency = self.session.configured.consistency;
            let reset = move |own: &mut OwnSettings| *own = OwnSettings { consistency, hint: None, required: None };
            match self.transaction {
                Transaction::Idle => self.session.change_own_settings(reset),
                _ => self.session.change_own_settings_within(SetScope::Session, reset),
            }
        }
        batch.savepoints.iter().for_each(|savepoint| self.session.heed_savepoint(savepoint));
        if let Some(end) = batch.ends {
            let failed = matches!(self.transaction, Transaction::Failed | Transaction::Lost { .. });
            self.session.will_end(if failed { TransactionEnd::Rollback } else { end });
        }
    }
}
