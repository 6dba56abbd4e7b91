//! Orders about who is the primary: SWITCHOVER, FAILOVER, MAINTENANCE.

use std::fmt;

use super::command::NotACommand;
use crate::decide::failover::{Guards, Maintenance, Order, Run};
use crate::decide::route::NodeId;

/// An [`Order`] whose node is a name still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wish {
    Switchover { to: Option<String>, run: Run },
    Failover { to: Option<String>, waived: Guards, run: Run },
    Maintenance(Maintenance),
}

pub(super) const SWITCHOVER: &str = "SWITCHOVER [TO node] [DRY RUN]";
pub(super) const FAILOVER: &str = "FAILOVER [TO node] FORCE [ALLOW DATA LOSS] [ALLOW UNFENCED] [ALLOW LIVE PRIMARY] \
                                   [IGNORE INTERVAL] [DRY RUN]";
pub(super) const MAINTENANCE: &str = "MAINTENANCE ON | OFF";

/// Each guard, with the words that waive it.
const WAIVERS: [(Guards, &[&str]); 4] = [
    (Guards::DATA_LOSS, &["allow", "data", "loss"]),
    (Guards::FENCE, &["allow", "unfenced"]),
    (Guards::LIVE_PRIMARY, &["allow", "live", "primary"]),
    (Guards::INTERVAL, &["ignore", "interval"]),
];

impl Wish {
    /// Reads the words of a command, lower-case where they were not quoted. `None`: it is none of these.
    ///
    /// # Errors
    /// It begins like one and goes on differently; a failover that is neither forced nor a dry run.
    pub(super) fn read(words: &[&str]) -> Option<Result<Self, NotACommand>> {
        Some(match words {
            ["switchover", clauses @ ..] => switchover(clauses),
            ["failover", clauses @ ..] => failover(clauses),
            ["maintenance", "on"] => Ok(Self::Maintenance(Maintenance::On)),
            ["maintenance", "off"] => Ok(Self::Maintenance(Maintenance::Off)),
            ["maintenance", ..] => Err(NotACommand::Usage(MAINTENANCE)),
            _ => return None,
        })
    }

    /// The node that is to become the primary.
    pub(super) fn node(&self) -> Option<&str> {
        match self {
            Self::Switchover { to, .. } | Self::Failover { to, .. } => to.as_deref(),
            Self::Maintenance(_) => None,
        }
    }

    /// `to`: the number of [`node`](Self::node).
    pub(super) fn order(&self, to: Option<NodeId>) -> Order {
        match *self {
            Self::Switchover { run, .. } => Order::Switchover { to, run },
            Self::Failover { waived, run, .. } => Order::Failover { to, waived, run },
            Self::Maintenance(maintenance) => Order::Maintenance(maintenance),
        }
    }

    /// The command tag.
    pub(super) fn tag(&self) -> &'static str {
        match self {
            Self::Switchover { .. } => "SWITCHOVER",
            Self::Failover { .. } => "FAILOVER",
            Self::Maintenance(_) => "MAINTENANCE",
        }
    }
}

/// As it is kept in the journal; the node stands beside it.
impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tag())?;
        let run = match self {
            Self::Switchover { run, .. } => run,
            Self::Failover { waived, run, .. } => {
                for (_, words) in WAIVERS.iter().filter(|(guard, _)| waived.contains(*guard)) {
                    write!(f, " {}", words.join(" ").to_uppercase())?;
                }
                run
            }
            Self::Maintenance(Maintenance::On) => return f.write_str(" ON"),
            Self::Maintenance(Maintenance::Off) => return f.write_str(" OFF"),
        };
        f.write_str(if *run == Run::Dry { " DRY RUN" } else { "" })
    }
}

fn switchover(clauses: &[&str]) -> Result<Wish, NotACommand> {
    const USAGE: NotACommand = NotACommand::Usage(SWITCHOVER);
    let clauses = Clauses::read(clauses).ok_or(USAGE)?;
    if clauses.force == Force::Forced || !clauses.waived.is_empty() {
        return Err(USAGE);
    }
    Ok(Wish::Switchover { to: clauses.to, run: clauses.run })
}

fn failover(clauses: &[&str]) -> Result<Wish, NotACommand> {
    let clauses = Clauses::read(clauses).ok_or(NotACommand::Usage(FAILOVER))?;
    if clauses.force == Force::Asked && clauses.run == Run::Real {
        return Err(NotACommand::NotForced);
    }
    Ok(Wish::Failover { to: clauses.to, waived: clauses.waived, run: clauses.run })
}

/// What may follow the name of an order, in any order, each once.
struct Clauses {
    to: Option<String>,
    force: Force,
    waived: Guards,
    run: Run,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Force {
    Asked,
    Forced,
}

impl Clauses {
    /// `None`: something else stands there, or one of them twice.
    fn read(mut words: &[&str]) -> Option<Self> {
        let mut clauses = Self { to: None, force: Force::Asked, waived: Guards::empty(), run: Run::Real };
        while !words.is_empty() {
            words = clauses.take(words)?;
        }
        Some(clauses)
    }

    /// Takes one clause; what follows it.
    fn take<'w, 't>(&mut self, words: &'w [&'t str]) -> Option<&'w [&'t str]> {
        match words {
            ["to", node, rest @ ..] if self.to.is_none() => {
                self.to = Some((*node).to_owned());
                Some(rest)
            }
            ["force", rest @ ..] if self.force == Force::Asked => {
                self.force = Force::Forced;
                Some(rest)
            }
            ["dry", "run", rest @ ..] if self.run == Run::Real => {
                self.run = Run::Dry;
                Some(rest)
            }
            _ => {
                let (guard, waiver) = WAIVERS.iter().find(|(_, waiver)| words.starts_with(waiver))?;
                let known = self.waived.contains(*guard);
                self.waived |= *guard;
                (!known).then(|| &words[waiver.len()..])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Wish, NotACommand> {
        Wish::read(&text.split(' ').collect::<Vec<_>>()).expect("an order")
    }

    #[test]
    fn clauses_stand_in_any_order() {
        let to = || Some("pg2".to_owned());
        for (text, expected) in [
            ("switchover", Wish::Switchover { to: None, run: Run::Real }),
            ("switchover to pg2 dry run", Wish::Switchover { to: to(), run: Run::Dry }),
            ("switchover dry run to pg2", Wish::Switchover { to: to(), run: Run::Dry }),
            ("failover force", Wish::Failover { to: None, waived: Guards::empty(), run: Run::Real }),
            ("failover dry run", Wish::Failover { to: None, waived: Guards::empty(), run: Run::Dry }),
            (
                "failover allow live primary to pg2 force allow data loss",
                Wish::Failover { to: to(), waived: Guards::LIVE_PRIMARY | Guards::DATA_LOSS, run: Run::Real },
            ),
            (
                "failover force allow unfenced ignore interval dry run",
                Wish::Failover { to: None, waived: Guards::FENCE | Guards::INTERVAL, run: Run::Dry },
            ),
            // A quoted name is any word.
            (
                "failover to force force",
                Wish::Failover { to: Some("force".into()), waived: Guards::empty(), run: Run::Real },
            ),
            ("maintenance on", Wish::Maintenance(Maintenance::On)),
            ("maintenance off", Wish::Maintenance(Maintenance::Off)),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
        assert_eq!(Wish::read(&["switch"]), None);
    }

    #[test]
    fn nothing_is_guessed() {
        for text in ["failover", "failover to pg2", "failover allow data loss"] {
            assert_eq!(read(text), Err(NotACommand::NotForced), "{text}");
        }
        for text in [
            "switchover pg2",
            "switchover to",
            "switchover force",
            "switchover to pg2 to pg3",
            "switchover allow data loss",
            "switchover dry",
            "failover force force",
            "failover force allow",
            "failover force allow data",
            "failover force allow data loss allow data loss",
            "failover force allow everything",
            "maintenance",
            "maintenance on off",
        ] {
            assert!(matches!(read(text), Err(NotACommand::Usage(_))), "{text}: {:?}", read(text));
        }
    }

    #[test]
    fn the_journal_tells_what_was_waived() {
        for (text, shown) in [
            ("failover to pg2 ignore interval force allow data loss", "FAILOVER ALLOW DATA LOSS IGNORE INTERVAL"),
            ("switchover dry run", "SWITCHOVER DRY RUN"),
            ("maintenance on", "MAINTENANCE ON"),
        ] {
            assert_eq!(read(text).unwrap().to_string(), shown);
        }
    }
}
