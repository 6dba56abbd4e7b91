//! One client's session, statement by statement, on a primary and as pgpilot would offload it on a standby.

use std::collections::HashSet;
use std::mem::take;

use pgpilot::decide::session::{Defaults, Inventory, Pin, Settings, inventory_sql, quote_literal};
use pgpilot::decide::sql::{Classified, Effects, Intent, Reason, Verdict};
use pgpilot::demo::Node;

use super::judge::{Judge, Known, needs, offloads};
use super::session::{Answer, SUPERUSER, Session};
use super::tally::{Outcome, Tally};
use crate::support::{LIMIT, wait_for};

pub(super) struct Lockstep<'n> {
    nodes: [&'n Node; 2],
    primary: Session,
    replica: Session,
    /// As a superuser, on the primary and on the replica.
    control: [Session; 2],
    database: String,
    user: String,
    judge: Judge,
    known: Known,
    /// What the client's session has set, and what the replica's connection has.
    settings: Settings,
    replica_settings: Settings,
    pins: Vec<Pin>,
    /// What has to be asked when the transaction is over.
    left: Effects,
    names: HashSet<Box<str>>,
    /// Since the replica was last waited for, since the catalogue was last loaded.
    written: bool,
    redefined: bool,
    pub(super) tally: Tally,
}

/// A replica's refusals that the proxy answers by asking the primary (`proxy::dispatch`).
pub(super) const NET: [&str; 12] =
    ["25006", "55000", "XX000", "22023", "0A000", "42P01", "42883", "42703", "42704", "3F000", "34000", "26000"];

impl<'n> Lockstep<'n> {
    pub(super) async fn begin(primary: &'n Node, replica: &'n Node, database: &str) -> Self {
        let open = async |node| Session::open(node, SUPERUSER, database).await;
        let mut control = [open(primary).await, open(replica).await];
        control[0].run("SET lock_timeout = '5s'").await;
        Lockstep {
            judge: Judge::load(&mut control[0]).await,
            primary: open(primary).await,
            replica: open(replica).await,
            control,
            nodes: [primary, replica],
            database: database.to_owned(),
            user: SUPERUSER.to_owned(),
            known: Known::default(),
            settings: Settings::default(),
            replica_settings: Settings::default(),
            pins: Vec::new(),
            left: Effects::empty(),
            names: HashSet::new(),
            written: true,
            redefined: false,
            tally: Tally::default(),
        }
    }

    /// Begins another session, on another database or as somebody else; empty: as before.
    pub(super) async fn connect(&mut self, database: &str, user: &str) {
        self.catch_up().await;
        let name = |given: &str, before: &str| if given.is_empty() { before.to_owned() } else { given.to_owned() };
        let (database, user) = (name(database, &self.database), name(user, &self.user));
        let Ok(primary) = Session::try_open(self.nodes[0], &user, &database).await else { return };
        let Ok(replica) = Session::try_open(self.nodes[1], &user, &database).await else { return };
        if database != self.database {
            for (control, node) in self.control.iter_mut().zip(self.nodes) {
                *control = Session::open(node, SUPERUSER, &database).await;
            }
            self.redefined = true;
        }
        (self.primary, self.replica, self.database, self.user) = (primary, replica, database, user);
        (self.settings, self.replica_settings, self.known) = Default::default();
        self.pins.clear();
        self.names.clear();
        self.left = Effects::empty();
    }

    /// Runs one text of the client's. `place` is for the report.
    pub(super) async fn run(&mut self, place: &str, text: &str, data: &[u8]) -> Answer {
        if self.redefined && self.primary.status == Some(b'I') && !is_placed_by_its_word(text) {
            self.judge.reload(&mut self.control[0]).await;
            self.redefined = false;
        }
        let classified = self.classify(text);
        let needs = needs(&classified, &self.known);
        let (offloaded, reason) = offloads(&needs);
        let bound = self.primary.status != Some(b'I') || !self.pins.is_empty();
        let only = |is: fn(&Intent) -> bool| classified.statements.iter().all(|verdict| is(&verdict.intent));
        let replica = match (bound, offloaded) {
            // What was prepared is known to pgpilot, which does not ask a server.
            _ if only(|intent| matches!(intent, Intent::Deallocate { .. })) => {
                self.replica.run(text).await;
                None
            }
            (true, _) => {
                self.tally.bound += 1;
                None
            }
            (false, true) => Some(self.on_replica(text).await),
            (false, false) if may_be_lost(text, &classified, reason) => Some(self.on_replica(text).await),
            (false, false) => {
                self.tally.count(Outcome::Kept);
                None
            }
        };
        let answer = self.primary.run_with(text, data).await;
        match replica {
            Some(replica) if offloaded => self.compare(place, text, &replica, &answer).await,
            Some(replica) => {
                let same = replica.error.is_none() && replica == answer;
                if !same || self.is_known_hazard(&classified) {
                    self.tally.count(Outcome::Kept);
                } else if self.runs_texts(&classified).await {
                    self.tally.count(Outcome::Dynamic);
                } else {
                    self.tally.lost(reason, deciding(&classified), text);
                }
            }
            None => {}
        }
        self.written |= bound || !offloaded;
        self.note(&classified);
        self.left |= needs.effects;
        self.names.extend(needs.names);
        self.settle().await;
        answer
    }

    fn classify(&self, text: &str) -> Classified {
        let is = |name: &str, value: &str| self.settings.get(name) == Some(value);
        if is("standard_conforming_strings", "off") {
            return Classified::opaque(Reason::Encoding);
        }
        self.judge.classify(text)
    }

    /// The text on the replica, brought to the session's state, with everything replayed that the session wrote.
    async fn on_replica(&mut self, text: &str) -> Answer {
        self.catch_up().await;
        if self.replica.status != Some(b'I') {
            self.replica = Session::open(self.nodes[1], &self.user, &self.database).await;
            self.replica_settings = Settings::default();
        }
        if let Some(sql) = self.replica_settings.sql_to(&self.settings) {
            let answer = self.replica.run(&sql).await;
            assert_eq!(answer.error, None, "{sql}");
            self.replica_settings = self.settings.clone();
        }
        let answer = self.replica.run(text).await;
        if self.replica.status == Some(b'T') || self.replica.status == Some(b'E') {
            self.replica.run("ROLLBACK").await;
        }
        answer
    }

    async fn catch_up(&mut self) {
        if !take(&mut self.written) {
            return;
        }
        let [primary, replica] = &mut self.control;
        // A commit of one's own is on disk, and so is everything before it.
        primary.run("SELECT pg_logical_emit_message(true, 'pgpilot', '')").await;
        let written = primary.value("SELECT pg_current_wal_flush_lsn()").await;
        let question = format!("SELECT pg_last_wal_replay_lsn() >= '{written}'");
        wait_for("the replica to catch up", 4 * LIMIT, async || replica.value(&question).await == "t").await;
    }

    async fn compare(&mut self, place: &str, text: &str, replica: &Answer, primary: &Answer) {
        let sorted = |answer: &Answer| {
            let mut rows = answer.rows.clone();
            rows.sort();
            rows
        };
        match (&replica.error, &primary.error) {
            (None, None) if replica == primary => self.tally.count(Outcome::Same),
            (Some(a), Some(b)) if a == b => self.tally.count(Outcome::SameError),
            (Some(code), _) if NET.contains(&code.as_str()) => self.tally.caught(place, text, code),
            (Some(code), _) => self.tally.harmful(place, text, &format!("the replica says {code}")),
            (None, Some(code)) => self.tally.harmful(place, text, &format!("only the primary says {code}")),
            (None, None) if sorted(replica) == sorted(primary) => self.tally.count(Outcome::Order),
            (None, None) if first_word(text) == "explain" => self.tally.count(Outcome::Plan),
            (None, None) => {
                let again = self.primary.run(text).await;
                if again == *primary {
                    self.tally.harmful(place, text, "the replica answers otherwise");
                } else {
                    self.tally.count(Outcome::Unsteady);
                }
            }
        }
    }

    /// A built-in name that only the primary answers rightly, even where both happen to say the same now.
    fn is_known_hazard(&self, classified: &Classified) -> bool {
        let Some(verdict) = deciding(classified) else { return false };
        let object = verdict.object.as_deref().unwrap_or_default();
        match verdict.reason {
            Reason::PrimaryRelation | Reason::Show | Reason::SessionState => true,
            Reason::PrimaryFunction => {
                let name = object.rsplit('.').next().unwrap_or_default();
                self.judge.catalogue.why(name).is_some() && !self.judge.catalogue.has_own_function(name)
            }
            _ => false,
        }
    }

    /// Whether a function puts statements together when it runs: whether it writes depends on its arguments.
    async fn runs_texts(&mut self, classified: &Classified) -> bool {
        let Some(verdict) = deciding(classified).filter(|verdict| verdict.reason == Reason::PrimaryFunction) else {
            return false;
        };
        let name = verdict.object.as_deref().and_then(|object| object.rsplit('.').next()).unwrap_or_default();
        let question = format!(
            "SELECT count(*) FROM pg_proc WHERE proname = {} AND provolatile = 'v' AND prosrc ~* '\\mexecute\\M'",
            quote_literal(name)
        );
        self.control[0].value(&question).await != "0"
    }

    /// Remembers what was prepared.
    fn note(&mut self, classified: &Classified) {
        for verdict in &classified.statements {
            match &verdict.intent {
                Intent::Prepare { name, statement, .. } => {
                    self.known.prepared.insert(name.clone(), Verdict::clone(statement));
                }
                Intent::Deallocate { name: Some(name) } => drop(self.known.prepared.remove(name)),
                Intent::Deallocate { name: None } => self.known.prepared.clear(),
                _ => {}
            }
        }
    }

    /// What the session has left on its connection, as the proxy asks for it.
    async fn settle(&mut self) {
        if self.primary.status.is_none() {
            self.connect("", "").await;
        }
        if self.primary.status != Some(b'I') {
            return;
        }
        self.redefined |= self.left.contains(Effects::CATALOGUE);
        // Under a catalogue that is not loaded yet, nobody knows what triggers and the like leave behind.
        let suspect = self.redefined || self.left.intersects(Effects::SETTINGS | Effects::PINS | Effects::UNPINS);
        if suspect || !self.names.is_empty() {
            let names: HashSet<&str> = self.settings.names().chain(self.names.iter().map(|name| &**name)).collect();
            let answer = self.primary.run(&inventory_sql(names)).await;
            let rows = answer.cells();
            let rows: Vec<&[Option<String>]> = rows.iter().map(Vec::as_slice).filter(|row| row.len() == 3).collect();
            let inventory = Inventory::read(rows, &self.user).unwrap_or_default();
            (self.settings, self.pins) = (inventory.settings, inventory.pins);
            let is = |name: &str, value: &str| self.settings.get(name) == Some(value);
            self.known.defaults = Defaults {
                read_only: is("default_transaction_read_only", "on"),
                serializable: is("default_transaction_isolation", "serializable"),
            };
        }
        self.left = Effects::empty();
        self.names.clear();
    }
}

/// The statement that sent the text to the primary.
fn deciding(classified: &Classified) -> Option<&Verdict> {
    classified.statements.iter().find(|verdict| verdict.intent != Intent::Read)
}

fn first_word(text: &str) -> String {
    let uncommented = text.trim_start_matches(|c: char| c == '(' || c.is_whitespace());
    uncommented.chars().take_while(|c| c.is_alphabetic()).collect::<String>().to_lowercase()
}

/// Whether it runs on the primary whatever the catalogue says. Mostly, definitions and writes follow one another: that the
/// catalogue is loaded for none of them but the next read makes the whole suite several times as fast.
fn is_placed_by_its_word(text: &str) -> bool {
    const WORDS: [&str; 13] = [
        "alter", "analyze", "comment", "create", "delete", "drop", "grant", "insert", "merge", "revoke", "truncate",
        "update", "vacuum",
    ];
    WORDS.contains(&first_word(text).as_str())
}

/// A query that was kept on the primary, and can do no harm to a standby.
fn may_be_lost(text: &str, classified: &Classified, reason: Reason) -> bool {
    let harmless = |verdict: &Verdict| !verdict.effects.intersects(Effects::NODE | Effects::UNPINS | Effects::COPY_IN);
    matches!(first_word(text).as_str(), "select" | "with" | "values" | "table")
        && reason != Reason::SessionState
        && classified.statements.iter().all(harmless)
}
