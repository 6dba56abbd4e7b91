//! Queries, and what modifies rows.

use crate::decide::sql::classify::Facts;
use crate::decide::sql::newcomers::newcomer;
use crate::decide::sql::parse;
use crate::decide::sql::references::strangers;
use crate::decide::sql::scan::{Cause, Doubt, Scan, scan};
use crate::decide::sql::tokens::Tokens;
use crate::decide::sql::types::{Depends, Effects, Intent, Reason, Verdict};

/// SELECT, VALUES, TABLE, WITH: a read unless something in it is not.
pub(super) fn read(tokens: Tokens<'_>, facts: &Facts<'_>) -> Verdict {
    let Scan { cause, mut doubts, effects, mut depends, settings } = scan(tokens, facts);
    if cause.is_none() {
        doubts.extend(strangers(tokens, facts));
    }
    let mut confirmed = parse::judge(tokens, &doubts, facts);
    if cause.is_none()
        && let Some(newcomer) = newcomer(tokens, facts)
    {
        depends |= Depends::STRANGERS;
        confirmed.push(newcomer);
    }
    let effects = effects | confirmed.iter().fold(Effects::empty(), |all, cause| all | cause.effects);
    // What is known of says more than what is not.
    let is_guess =
        |cause: &Cause| matches!(cause.reason, Reason::UnknownFunction | Reason::UnknownRelation | Reason::Unparsable);
    if confirmed.iter().any(|cause| cause.reason == Reason::UnknownRelation) {
        depends |= Depends::STRANGERS;
    }
    let mut verdict = match cause.or_else(|| confirmed.into_iter().min_by_key(is_guess)) {
        None => Verdict::new(Intent::Read, Reason::PlainRead),
        Some(Cause { reason, object, .. }) => Verdict { object, ..Verdict::new(Intent::Write, reason) },
    };
    verdict.settings = settings.into();
    verdict.depends = depends;
    verdict.with(effects)
}

/// INSERT, UPDATE, DELETE, MERGE: a write whatever is in it, but the functions it calls may leave something behind.
pub(super) fn modification(tokens: Tokens<'_>, facts: &Facts<'_>) -> Verdict {
    let mut verdict = Verdict::new(Intent::Write, Reason::Dml).with(Effects::WRITES);
    leave_behind(&mut verdict, tokens, facts);
    verdict
}

/// REFRESH MATERIALIZED VIEW. What its functions do to settings is undone by the server (it runs as a
/// security-restricted operation).
pub(super) fn refresh() -> Verdict {
    Verdict::new(Intent::Write, Reason::Utility).with(Effects::WRITES)
}

/// Adds the effects of the functions that a query or modification calls.
pub(super) fn leave_behind(verdict: &mut Verdict, tokens: Tokens<'_>, facts: &Facts<'_>) {
    let Scan { doubts, effects, depends, settings, .. } = scan(tokens, facts);
    let matters = |doubt: &Doubt| match doubt {
        Doubt::Call { .. } => true,
        Doubt::Relation { schema, name } => {
            facts.catalogue.relation(schema.as_deref(), name, None).is_some_and(|hazard| !hazard.effects.is_empty())
        }
        Doubt::Strange { .. } | Doubt::Modification => false,
    };
    let doubts: Vec<Doubt> = doubts.into_iter().filter(matters).collect();
    let implied = parse::judge(tokens, &doubts, facts).iter().fold(Effects::empty(), |all, cause| all | cause.effects);
    verdict.effects |= effects | implied;
    verdict.depends |= depends;
    verdict.settings = settings.into();
}
