//! A client that writes and reads at random, by all protocols, and judges what it is told.

use std::collections::VecDeque;
use std::sync::Arc;

use pgpilot::config::Consistency;

use super::connection::{Connection, Lost, Reply};
use super::ledger::{Begun, COUNTERS, Ledger, Place, Session, Stale};
use super::tally::Tally;

pub(super) struct Client {
    pub(super) number: usize,
    /// Of several pgpilots before the same servers; each connection goes to any of them.
    pub(super) ports: Vec<u16>,
    pub(super) mode: Consistency,
    pub(super) ledger: Arc<Ledger>,
    pub(super) tally: Arc<Tally>,
    pub(super) random: fastrand::Rng,
    pub(super) session: Session,
    pub(super) connection: Option<Connection>,
    /// The last operations, for the report of a violation.
    pub(super) trace: VecDeque<String>,
    /// A prepared transaction of which it is not known whether it is there.
    pub(super) in_doubt: Option<String>,
}

/// Why an operation did not end as it should.
#[derive(Debug)]
enum Trouble {
    Lost(Lost),
    Error(String, String),
    Stale(Stale),
}

impl From<Lost> for Trouble {
    fn from(lost: Lost) -> Self {
        Self::Lost(lost)
    }
}

impl From<Stale> for Trouble {
    fn from(stale: Stale) -> Self {
        Self::Stale(stale)
    }
}

const VECTOR: &str = "SELECT string_agg(n::text, ',' ORDER BY id) || place() FROM counters";
const ONE: &str = "SELECT n || place() FROM counters WHERE id = $1";
const RAISE: &str = "UPDATE counters SET n = n + 1 WHERE id = $1 RETURNING n";
const CALL: &str = "SELECT raise_counter($1)";

/// What the clients work on.
pub(super) fn schema() -> String {
    format!(
        "CREATE TABLE counters (id int PRIMARY KEY, n bigint NOT NULL) WITH (fillfactor = 20);
         INSERT INTO counters SELECT id, 0 FROM generate_series(0, {}) id;
         CREATE FUNCTION raise_counter(which int) RETURNS bigint LANGUAGE sql
             AS 'UPDATE counters SET n = n + 1 WHERE id = which RETURNING n';
         CREATE FUNCTION place() RETURNS text STABLE LANGUAGE plpgsql AS $$
         BEGIN
             IF pg_is_in_recovery() THEN
                 RETURN format(' on replica %s at %s', current_setting('cluster_name'), pg_last_wal_replay_lsn());
             END IF;
             RETURN format(' on primary %s at %s', current_setting('cluster_name'), pg_current_wal_insert_lsn());
         END $$",
        COUNTERS - 1
    )
}

impl Client {
    /// Until the tally says that it is enough.
    pub(super) async fn run(mut self) {
        while self.tally.goes_on() {
            let outcome = self.operation().await;
            match outcome {
                Ok(()) => {}
                Err(Trouble::Error(code, message)) => {
                    self.note(|| format!("error {code}: {message}"));
                    self.tally.error(&code, &message);
                    self.roll_back().await;
                }
                Err(Trouble::Lost(lost)) => {
                    self.tally.error(if matches!(lost, Lost::Hung) { "hung" } else { "closed" }, "");
                    self.disconnect();
                }
                Err(Trouble::Stale(stale)) => self.tally.violation(&format!(
                    "client {}, mode {:?}: counter {} was {}, had to be {} or more; its last operations:\n  {}",
                    self.number,
                    self.mode,
                    stale.counter,
                    stale.seen,
                    stale.needed,
                    Vec::from(self.trace.clone()).join("\n  ")
                )),
            }
        }
    }

    async fn operation(&mut self) -> Result<(), Trouble> {
        if self.connection.is_none() {
            self.connect().await?;
        }
        if let Some(name) = self.in_doubt.clone() {
            self.settle(&name).await?;
        }
        match self.random.u32(..1000) {
            0 => {
                self.disconnect();
                Ok(())
            }
            1..=19 => self.give_token().await,
            20..=39 => self.take_token().await,
            40..=299 => self.write().await,
            _ => self.read().await,
        }
    }

    async fn connect(&mut self) -> Result<(), Trouble> {
        let instance = self.random.usize(..self.ports.len());
        self.note(|| format!("connects to instance {instance}"));
        self.session = Session::default();
        let mut connection = Connection::open(self.ports[instance]).await?;
        if self.random.bool() {
            connection.query("SET synchronous_commit = off");
        }
        connection.parse("vector", VECTOR).parse("one", ONE).parse("raise", RAISE).parse("call", CALL).sync();
        self.connection = Some(connection);
        self.ask().await.map(drop)
    }

    fn disconnect(&mut self) {
        self.connection = None;
        self.note(|| "disconnected".to_owned());
    }

    async fn roll_back(&mut self) {
        self.put().query("ROLLBACK");
        if self.exchange().await.is_err() {
            self.disconnect();
        }
    }

    // ---- Reads ----

    async fn read(&mut self) -> Result<(), Trouble> {
        let mut begun = self.begin();
        let counter = self.random.usize(..COUNTERS);
        let id = counter.to_string();
        let way = self.random.u32(..10);
        let hint = if way == 1 && self.mode != Consistency::Primary { "/* pgpilot: replica */ " } else { "" };
        if way == 9 {
            return self.read_only_transaction().await;
        }
        let put = self.put();
        match way {
            0 | 1 => drop(put.query(&format!("{hint}{VECTOR}"))),
            2 => drop(put.parse("", VECTOR).execute("", &[]).sync()),
            3 => drop(put.execute("vector", &[]).sync()),
            4 => drop(put.execute("one", &[&id]).sync()),
            5 => drop(put.parse("", ONE).execute("", &[&id]).sync()),
            6 => drop(put.execute("vector", &[]).sync().execute("one", &[&id]).sync().execute("vector", &[]).sync()),
            7 => drop(put.execute("vector", &[]).execute("one", &[&id]).sync()),
            _ => drop(put.query("BEGIN READ ONLY").query(VECTOR).execute("vector", &[]).sync().query("COMMIT")),
        }
        let replies = self.ask().await?;
        let mut reads = 0;
        for value in replies.iter().flat_map(|reply| &reply.values) {
            self.judge(&mut begun, counter, value)?;
            reads += 1;
        }
        self.tally.reads(reads);
        Ok(())
    }

    /// Message by message: each statement has to show what was acknowledged before it, or, at REPEATABLE READ, before the first one of its transaction.
    async fn read_only_transaction(&mut self) -> Result<(), Trouble> {
        let counter = self.random.usize(..COUNTERS);
        let one_snapshot = self.random.bool();
        let isolation = if one_snapshot { "REPEATABLE READ" } else { "READ COMMITTED" };
        self.note(|| format!("reads at {isolation}"));
        self.put().query(&format!("BEGIN ISOLATION LEVEL {isolation}, READ ONLY"));
        self.ask().await?;
        for end in ["COMMIT AND CHAIN", "COMMIT"] {
            let mut begun = self.begin();
            for statement in ["vector", "one", "vector"] {
                if !one_snapshot {
                    begun = self.begin();
                }
                let id = counter.to_string();
                let parameters: &[&str] = if statement == "one" { &[&id] } else { &[] };
                self.put().execute(statement, parameters).sync();
                let replies = self.ask().await?;
                self.judge(&mut begun, counter, first(&replies))?;
                self.tally.reads(1);
            }
            self.put().query(end);
            self.ask().await?;
        }
        Ok(())
    }

    /// A value with commas is that of all counters.
    fn judge(&mut self, begun: &mut Begun, counter: usize, value: &str) -> Result<(), Trouble> {
        let number = |text: &str| text.parse().expect("a number");
        let (numbers, place) = value.split_once(' ').unwrap_or((value, ""));
        let place = if place.starts_with("on replica") { Place::Replica } else { Place::Primary };
        let seen: Vec<(usize, u64)> = if numbers.contains(',') {
            numbers.split(',').map(number).enumerate().collect()
        } else {
            vec![(counter, number(numbers))]
        };
        self.note(|| format!("read {value} (counter {counter})"));
        Ok(self.ledger.read(begun, &mut self.session, &seen, place)?)
    }

    // ---- Writes ----

    async fn write(&mut self) -> Result<(), Trouble> {
        let mut begun = self.begin();
        let counter = self.random.usize(..COUNTERS);
        let id = counter.to_string();
        let update = format!("UPDATE counters SET n = n + 1 WHERE id = {id} RETURNING n");
        let way = self.random.u32(..14);
        let put = self.put();
        match way {
            0 => drop(put.query(&update)),
            1 => drop(put.parse("", RAISE).execute("", &[&id]).sync()),
            2 => drop(put.execute("raise", &[&id]).sync()),
            3 => drop(put.execute("call", &[&id]).sync()),
            4 => drop(put.query(&format!("SELECT raise_counter({id})"))),
            5 => drop(put.query(&format!("WITH w AS ({update}) SELECT n FROM w"))),
            6 => drop(put.query(&format!("BEGIN; SET LOCAL synchronous_commit = off; {update}; COMMIT"))),
            7 => {
                put.parse("", "BEGIN").execute("", &[]).execute("raise", &[&id]);
                put.parse("", "COMMIT").execute("", &[]).sync();
            }
            8 => drop(put.query("BEGIN").execute("raise", &[&id]).sync().query("COMMIT")),
            9 => return self.transaction(begun, counter).await,
            10 => return self.two_phases(begun, counter).await,
            11 => {
                // What is rolled back was never there.
                put.query("BEGIN").execute("raise", &[&id]).sync().query("ROLLBACK");
                return self.ask().await.map(drop);
            }
            12 => drop(put.execute("raise", &[&id]).sync().execute("vector", &[]).sync()),
            _ => drop(put.execute("raise", &[&id]).execute("one", &[&id]).sync().query(VECTOR)),
        }
        let replies = self.ask().await?;
        let mut values = replies.iter().flat_map(|reply| &reply.values);
        let value = values.next().cloned().unwrap_or_default();
        self.wrote(&mut begun, counter, &value);
        // Reads that were sent along with the write, in the same pipeline.
        for value in values {
            self.judge(&mut begun, counter, value)?;
            self.tally.reads(1);
        }
        Ok(())
    }

    fn wrote(&mut self, begun: &mut Begun, counter: usize, value: &str) {
        self.note(|| format!("wrote {value} (counter {counter})"));
        let value = value.parse().expect("a number");
        self.ledger.wrote(begun, &mut self.session, counter, value);
        self.tally.writes(1);
    }

    /// Message by message: it reads its own write before it commits.
    async fn transaction(&mut self, mut begun: Begun, counter: usize) -> Result<(), Trouble> {
        let id = counter.to_string();
        self.put().query("BEGIN");
        self.ask().await?;
        self.put().execute("raise", &[&id]).sync();
        let replies = self.ask().await?;
        let value = first(&replies).to_owned();
        self.put().execute("one", &[&id]).sync();
        let replies = self.ask().await?;
        assert_eq!(first(&replies).split(' ').next(), Some(value.as_str()), "a transaction sees what it has written");
        self.put().query("COMMIT");
        self.ask().await?;
        self.wrote(&mut begun, counter, &value);
        Ok(())
    }

    async fn two_phases(&mut self, mut begun: Begun, counter: usize) -> Result<(), Trouble> {
        let name = format!("{}-{}", self.number, self.random.u64(..));
        self.put().query("BEGIN").execute("raise", &[&counter.to_string()]).sync();
        let replies = self.ask().await?;
        let value = first(&replies).to_owned();
        self.in_doubt = Some(name.clone());
        self.put().query(&format!("PREPARE TRANSACTION '{name}'"));
        self.ask().await?;
        self.put().query(&format!("COMMIT PREPARED '{name}'"));
        self.ask().await?;
        self.in_doubt = None;
        self.wrote(&mut begun, counter, &value);
        Ok(())
    }

    /// Others wait for what an unfinished transaction has locked.
    async fn settle(&mut self, name: &str) -> Result<(), Trouble> {
        const UNDEFINED_OBJECT: &str = "42704";
        self.put().query(&format!("ROLLBACK PREPARED '{name}'"));
        match self.ask().await {
            Ok(_) => {}
            Err(Trouble::Error(code, _)) if code == UNDEFINED_OBJECT => {}
            Err(trouble) => return Err(trouble),
        }
        self.in_doubt = None;
        Ok(())
    }

    // ---- Tokens ----

    async fn give_token(&mut self) -> Result<(), Trouble> {
        const SHOW: &str = "SHOW pgpilot.lsn";
        let mut begun = self.begin();
        let counter = self.random.usize(..COUNTERS);
        let way = self.random.u32(..3);
        let put = self.put();
        match way {
            0 => drop(put.query(SHOW)),
            1 => drop(put.parse("", SHOW).execute("", &[]).sync()),
            // In one pipeline with the write that it is to cover.
            _ => drop(put.execute("raise", &[&counter.to_string()]).sync().query(SHOW)),
        }
        let replies = self.ask().await?;
        if way == 2 {
            self.wrote(&mut begun, counter, first(&replies));
        }
        let token = replies.last().and_then(|reply| reply.values.last()).cloned().unwrap_or_default();
        self.note(|| format!("gives {token}"));
        self.ledger.give(&self.session, token);
        self.tally.tokens(1);
        Ok(())
    }

    async fn take_token(&mut self) -> Result<(), Trouble> {
        let Some((token, promised)) = self.ledger.take(&mut self.random) else { return Ok(()) };
        let counter = self.random.usize(..COUNTERS);
        self.put().query(&format!("SET pgpilot.min_lsn = '{token}'"));
        let with_read = self.random.bool();
        if with_read {
            self.put().execute("one", &[&counter.to_string()]).sync();
        }
        self.session.require(promised);
        let mut begun = self.begin();
        self.note(|| format!("takes {token}"));
        let replies = self.ask().await?;
        for value in replies.iter().flat_map(|reply| &reply.values) {
            self.judge(&mut begun, counter, value)?;
            self.tally.reads(1);
        }
        Ok(())
    }

    // ---- The connection ----

    fn begin(&mut self) -> Begun {
        self.ledger.begin(&mut self.session)
    }

    fn put(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("an operation begins with a connection")
    }

    async fn exchange(&mut self) -> Result<Vec<Reply>, Lost> {
        self.put().exchange().await
    }

    /// The replies, if none of them is an error.
    async fn ask(&mut self) -> Result<Vec<Reply>, Trouble> {
        let mut replies = self.exchange().await?;
        match replies.iter_mut().find_map(|reply| reply.error.take()) {
            Some((code, message)) => Err(Trouble::Error(code, message)),
            None => Ok(replies),
        }
    }

    fn note(&mut self, what: impl Fn() -> String) {
        const KEPT: usize = 12;
        if self.trace.len() == KEPT {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:?} {}", self.tally.elapsed(), what()));
    }
}

fn first(replies: &[Reply]) -> &str {
    replies.iter().flat_map(|reply| &reply.values).next().map_or("", String::as_str)
}
