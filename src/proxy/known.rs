//! What has been prepared earlier, as it is to be judged now.

use std::sync::Arc;

use super::adopt;
use super::assess::{Assessed, Reach};
use super::client::Client;
use super::judged::Judged;
use super::lessons::{prepared_by, text_of};
use crate::decide::route::Need;
use crate::decide::session::{Origin, Protocol};
use crate::decide::sql::{Classified, Effects, Intent, Reason};

impl Client {
    /// A Bind or Describe of something prepared earlier: the verdict on that.
    pub(super) fn add_statement(&mut self, name: &[u8], assessed: &mut Assessed) -> Option<Arc<Judged>> {
        let Some(verdict) = self.current(name, assessed) else {
            if self.is_known_there(name, assessed) {
                // Nobody knows what it does.
                (assessed.writes, assessed.reach) = (true, Reach::Anything);
                assessed.needs.want(Need::Primary, Reason::Prepared);
                assessed.needs.effects |= Effects::SETTINGS | Effects::PINS | Effects::UNPINS;
            } else {
                // It fails wherever it goes.
                assessed.needs.want(Need::Read, Reason::Prepared);
            }
            return None;
        };
        self.renew_executed(&verdict, assessed);
        self.add(&verdict, Protocol::Extended, assessed);
        Some(verdict)
    }

    /// What a text executes by name is judged as of now.
    pub(super) fn renew_executed(&mut self, classified: &Classified, assessed: &Assessed) {
        for verdict in &classified.statements {
            if let Intent::Execute { name, .. } = &verdict.intent {
                self.current(name.as_bytes(), assessed);
            }
        }
    }

    /// Whether a name that means nothing to pgpilot may mean something to the server by then.
    pub(super) fn is_known_there(&self, name: &[u8], assessed: &Assessed) -> bool {
        adopt::may_be_there(&self.session, assessed.needs.effects, name)
    }

    /// The verdict on what the session calls `name`, which is found anew if it does not hold any more.
    fn current(&mut self, name: &[u8], assessed: &Assessed) -> Option<Arc<Judged>> {
        let within = assessed.names.find(name);
        let known = within.unwrap_or_else(|| self.session.names.find(name))?;
        let (verdict, stamp) = (known.verdict.clone(), self.verdicts.stamp());
        let holds = known.stamp == stamp || within.is_some();
        if holds && verdict.depends().is_empty() {
            return Some(verdict);
        }
        // What is known of functions has changed since, or what names mean.
        let verdict = match &known.statement.origin {
            Origin::Parse { query, types } => self.verdict_within(query, types, assessed),
            Origin::Sql { .. } if !holds => {
                text_of(&known.statement, b"p").map_or(verdict, |text| prepared_by(self.verdict_on(&text)))
            }
            Origin::Sql { .. } | Origin::Large => verdict,
        };
        if within.is_none() {
            self.session.names.renew(name, verdict.clone(), stamp);
        }
        Some(verdict)
    }
}
