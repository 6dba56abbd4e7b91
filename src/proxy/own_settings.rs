//! pgpilot's own settings of a session, which end where a server's would: `SET` is undone by a rollback, `SET LOCAL` ends
//! with its transaction, and `DISCARD ALL` leaves what the session began with.

use std::sync::Arc;

use super::assess::Assessed;
use super::client::Client;
use super::session::{Session, Transaction};
use crate::config::Consistency;
use crate::decide::position::Position;
use crate::decide::session::Settings;
use crate::decide::sql::{Hint, Hints, Intent, OwnCommand, Savepoint, SessionCommand, SetScope, TransactionEnd};
use crate::wire::SqlState;
use crate::wire::backend::Report;

/// Of more, those beyond are taken for one that is older than the first change.
const MAX_SAVEPOINTS: usize = 64;

/// Their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct OwnSettings {
    /// `None`: as configured.
    pub(super) consistency: Option<Consistency>,
    pub(super) hint: Option<Hint>,
    /// The token: reads see at least what was there then.
    pub(super) required: Option<Position>,
}

/// What they are when the transaction at hand has ended.
#[derive(Debug)]
pub(super) struct Afterwards {
    rolled_back: OwnSettings,
    committed: OwnSettings,
    /// What has been sent to end it.
    end: Option<TransactionEnd>,
    /// Those that have been set since the first change, and what the settings were then, now and at a commit.
    savepoints: Vec<(Box<str>, OwnSettings, OwnSettings)>,
}

impl Session {
    pub(super) fn own_settings(&self) -> OwnSettings {
        OwnSettings { consistency: self.own_consistency, hint: self.hint, required: self.freshness.required() }
    }

    fn set_own_settings(&mut self, own: OwnSettings) {
        self.own_consistency = own.consistency;
        self.policy.consistency = own.consistency.unwrap_or(self.configured.consistency);
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
        let after = || Box::new(Afterwards { rolled_back: own, committed: own, end: None, savepoints: Vec::new() });
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
                own.consistency = hints.consistency.or(own.consistency);
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
            after.end = Some(end);
        }
    }

    /// What has been sent ends the transaction in which they have been changed, and begins another one.
    pub(super) fn is_chaining(&self) -> bool {
        self.afterwards.as_ref().is_some_and(|after| after.end.is_some_and(TransactionEnd::chains))
    }

    /// The transaction in which they have been changed is over.
    pub(super) fn settle_own_settings(&mut self) {
        if let Some(after) = self.afterwards.take() {
            let commits = after.end.is_some_and(TransactionEnd::commits);
            self.set_own_settings(if commits { after.committed } else { after.rolled_back });
        }
    }

    /// The transaction goes on: something has failed before it came to its end.
    fn does_not_end(&mut self) {
        if let Some(after) = &mut self.afterwards {
            after.end = None;
        }
    }

    /// What setting one of them changes; `None` is its default: what the session began with.
    pub(super) fn change(&self, name: &str, value: Option<&str>) -> Result<impl Fn(&mut OwnSettings) + use<>, Report> {
        let mut new = self.own_settings();
        let setting = match name {
            "consistency" => {
                new.consistency = match value {
                    None => self.own_at_start.consistency,
                    Some(value) => Some(parse_consistency(value).ok_or_else(|| invalid(name, value))?),
                };
                Setting::Consistency
            }
            "route" => {
                new.hint = match value {
                    None => self.own_at_start.hint,
                    Some("auto" | "") => None,
                    Some("primary") => Some(Hint::Primary),
                    Some("replica") => Some(Hint::Replica),
                    Some(value) => return Err(invalid(name, value)),
                };
                Setting::Route
            }
            "min_lsn" => {
                new.required = match value {
                    None => self.own_at_start.required,
                    Some("") => None,
                    Some(value) => Some(value.parse().map_err(|_| invalid(name, value))?),
                };
                Setting::MinLsn
            }
            _ => return Err(unknown(name)),
        };
        Ok(move |own: &mut OwnSettings| match setting {
            Setting::Consistency => own.consistency = new.consistency,
            Setting::Route => own.hint = new.hint,
            Setting::MinLsn => own.required = new.required,
        })
    }

    /// What a server says that the session has set: if there are settings of pgpilot's among it, by `set_config()` or
    /// where a text was not looked into, they are taken for what they say, and no server has them any more. Returns what
    /// is left.
    pub(super) fn adopt_own(&mut self, settings: Arc<Settings>) -> Arc<Settings> {
        let of_own = |name: &str| name.strip_prefix(OWN_PREFIX).map(str::to_owned);
        let found: Vec<_> =
            settings.iter().filter_map(|(name, value)| Some((of_own(name)?, value.to_owned()))).collect();
        if found.is_empty() {
            return settings;
        }
        // There is no transaction.
        self.settle_own_settings();
        let mut rest = Settings::clone(&settings);
        for (name, value) in found {
            rest.remove(&format!("{OWN_PREFIX}{name}"));
            match self.change(&name, Some(&value)) {
                Ok(change) => self.change_own_settings(change),
                Err(report) => {
                    let report = report.detail("A function in a statement before this one has set it.");
                    self.untold =
                        Some(Box::new(report.hint("The session goes on without it. This statement has not been run.")));
                }
            }
        }
        Arc::new(rest)
    }
}

const OWN_PREFIX: &str = "pgpilot.";

/// Those that a session can set: by the names that a server gives them if it is told to.
pub(super) const OWN_NAMES: [&str; 3] = ["pgpilot.consistency", "pgpilot.min_lsn", "pgpilot.route"];

/// One that may be set.
#[derive(Debug, Clone, Copy)]
enum Setting {
    Consistency,
    Route,
    MinLsn,
}

/// Something that a batch does to them.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Set(OwnCommand),
    Savepoint(Savepoint),
    /// RESET ALL, DISCARD ALL.
    Reset,
}

impl Step {
    pub(super) fn of(intent: &Intent) -> Option<Self> {
        match intent {
            Intent::Own(command @ OwnCommand::Set { .. }) => Some(Self::Set(command.clone())),
            Intent::Savepoint(savepoint) => Some(Self::Savepoint(savepoint.clone())),
            Intent::Session(SessionCommand::ResetAll | SessionCommand::DiscardAll) => Some(Self::Reset),
            _ => None,
        }
    }
}

impl Client {
    /// Everything that came before the batch at hand has been answered.
    pub(super) fn settle_own(&mut self) {
        if self.session.afterwards.is_none() || self.link.as_ref().is_some_and(|link| link.batch_open) {
            return;
        }
        match self.transaction {
            Transaction::Idle => self.session.settle_own_settings(),
            _ if !self.session.is_chaining() => {}
            // If this is not the next one, it would have failed.
            Transaction::Open | Transaction::Deferred(_) => self.session.settle_own_settings(),
            Transaction::Failed | Transaction::Lost { .. } => self.session.does_not_end(),
        }
    }

    /// What a batch is going to do to them. A batch outside of a transaction is one by itself, and what it has done is
    /// undone if it fails.
    pub(super) fn foresee_own_settings(&mut self, batch: &Assessed) {
        for step in &batch.steps {
            match step {
                Step::Set(OwnCommand::Set { name, value, scope, .. }) => {
                    // The server is made to say that a value is invalid, when it is this statement's turn.
                    let Ok(change) = self.session.change(name, value.as_deref()) else { break };
                    self.session.change_own_settings_within(*scope, change);
                }
                Step::Set(OwnCommand::Show { .. }) => {}
                Step::Savepoint(savepoint) => self.session.heed_savepoint(savepoint),
                Step::Reset => {
                    let default = self.session.own_at_start;
                    self.session.change_own_settings_within(SetScope::Session, move |own| *own = default);
                }
            }
        }
        if let Some(end) = batch.ends {
            let failed = matches!(self.transaction, Transaction::Failed | Transaction::Lost { .. });
            let end = match end {
                TransactionEnd::Commit if failed => TransactionEnd::Rollback,
                TransactionEnd::CommitAndChain if failed => TransactionEnd::RollbackAndChain,
                end => end,
            };
            self.session.will_end(end);
        } else if self.session.afterwards.is_some() && self.transaction.is_idle() && !batch.executed.begins() {
            self.session.will_end(TransactionEnd::Commit);
        }
    }
}

fn parse_consistency(text: &str) -> Option<Consistency> {
    Consistency::ALL.into_iter().find(|consistency| consistency.name().eq_ignore_ascii_case(text))
}

pub(super) fn unknown(name: &str) -> Report {
    Report::error(SqlState::UNDEFINED_OBJECT, format!("unrecognized configuration parameter \"pgpilot.{name}\""))
        .hint("pgpilot knows consistency, lsn, min_lsn, pins, route and version.")
}

fn invalid(name: &str, value: &str) -> Report {
    Report::error(SqlState::INVALID_PARAMETER_VALUE, format!("invalid value for \"pgpilot.{name}\": \"{value}\""))
}
