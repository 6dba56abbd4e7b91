//! Between batches: bringing a connection to a session's state, finding out what the session left on it, and letting it go.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;

use super::client::Client;
use super::deallocate;
use super::drain;
use super::exchange::{Passing, Side, keep_last_reply, keep_reply};
use super::fault::End;
use super::link::{Link, Purpose};
use super::listening::DEAF;
use super::registry::{Quiet, Rest};
use super::resets;
use super::sequences;
use super::session::{IDLE_LIMIT, Leftovers, Transaction};
use super::vigil::Denied;
use crate::config::Consistency;
use crate::decide::session::{Inventory, ParameterMap, Pin, Settings, inventory_sql};
use crate::decide::sql::Effects;
use crate::pool::{Lease, QueryError, SequenceState, ServerConnection};
use crate::telemetry::{Count, Direction};
use crate::wire::SqlState;
use crate::wire::backend::{self, Report, TransactionStatus};

/// Sets what differs between a connection and a session.
///
/// # Errors
/// The server refuses a setting (a role that was revoked, for instance), or is lost. Either way the connection must be closed.
pub(super) async fn bring_to(connection: &mut ServerConnection, wanted: &mut Arc<Settings>) -> Result<(), QueryError> {
    if are_one(wanted, &mut connection.settings) {
        return Ok(());
    }
    if let Some(sql) = connection.settings.sql_to(wanted) {
        connection.query(&sql).await?;
        // It was a simple Query.
        connection.unnamed = None;
    }
    connection.settings = wanted.clone();
    Ok(())
}

/// Whether two are equal. From now on they are one object, so that the next comparison is one of pointers; of two objects it is always the lower one, so that
/// soon all equal ones are one.
pub(super) fn are_one<T: PartialEq>(ours: &mut Arc<T>, theirs: &mut Arc<T>) -> bool {
    if Arc::ptr_eq(ours, theirs) {
        return true;
    }
    if **ours != **theirs {
        return false;
    }
    match Arc::as_ptr(ours).cmp(&Arc::as_ptr(theirs)) {
        Ordering::Less => theirs.clone_from(ours),
        Ordering::Equal | Ordering::Greater => ours.clone_from(theirs),
    }
    true
}

/// Tells the client of parameters that this server has otherwise than the one before.
pub(super) fn tell_parameters(reported: &mut Arc<ParameterMap>, theirs: &mut Arc<ParameterMap>, out: &mut BytesMut) {
    if are_one(reported, theirs) {
        return;
    }
    for (name, value) in theirs.iter() {
        if reported.get(name) != Some(value) {
            backend::put_parameter_status(out, name, value);
            Arc::make_mut(reported).set(name, value);
        }
    }
}

impl Client {
    /// A batch has been answered in full.
    pub(super) fn batch_answered(&mut self, status: TransactionStatus) {
        let Client { side, link, session, transaction, shared, verdicts, registration, who, .. } = self;
        let Some(link) = link.as_mut() else { return };
        side.batch_answered(link);
        deallocate::settle(link, session);
        resets::settle(link, &mut session.reported);
        session.names.decided(link.dues.first());
        *transaction = match status {
            TransactionStatus::Idle => Transaction::Idle,
            TransactionStatus::InTransaction => Transaction::Open,
            TransactionStatus::Failed => Transaction::Failed,
        };
        if transaction.is_idle() {
            session.heed_end(link, shared, &who.database);
        }
        let now = Instant::now();
        link.answered = now;
        if link.executing {
            session.has_run = true;
            match link.purpose {
                Purpose::Any if !link.is_replica() => {
                    session.freshness.wrote(now);
                    sequences::note_write(link, session, registration.slot.pid());
                }
                _ => session.freshness.read_from(link.node(), now),
            }
            if link.has_written && status == TransactionStatus::Idle {
                if !link.failed {
                    session.freshness.committed(now);
                }
                // What has been sent behind it may have written, too.
                link.has_written = !link.dues.is_empty();
            }
            let asks = transaction.is_idle() && session.policy.consistency == Consistency::Session;
            if asks && session.freshness.wants_mark() {
                shared.cluster.want_mark();
            }
            shared.metrics.statement(link.served(), link.reason, now - link.started);
        }
        let next = link.behind.pop_front();
        if let Some(executed) = std::mem::replace(&mut link.executed, next) {
            shared.slow.note(link, executed.text.as_deref(), who, now);
            executed.ran(link.served(), link.reason, now - link.started);
        }
        if let Some(lesson) = link.lesson.take().filter(|_| !link.failed) {
            lesson.learn(link.node(), verdicts, &mut session.names, shared.cluster.journal());
        }
        for name in link.failed_prepares() {
            session.names.set(&name, None);
        }
        if link.dues.is_empty() {
            link.executing = false;
            link.may_commit = false;
            link.ends_transaction = false;
        }
        link.failed = false;
        link.deallocation = None;
        link.renamed = None;
        link.began = None;
    }

    /// After an exchange: whatever a session has left is seen to, and the client is told that it may go on if it waits for that.
    pub(super) async fn settle(&mut self) -> Result<(), End> {
        self.count_bytes();
        let awaited = self.link.as_mut().is_some_and(|link| link.resets.take_ready());
        self.put_in_order().await?;
        if awaited {
            if let Some(link) = self.link.as_mut() {
                keep_reply(&mut self.side, link);
            }
            backend::put_ready(&mut self.side.output, TransactionStatus::Idle);
        }
        Ok(())
    }

    /// Asks the server what the session has left, and gives the connection back if nothing holds it.
    async fn put_in_order(&mut self) -> Result<(), End> {
        let Some(link) = self.link.as_ref() else { return Ok(()) };
        if link.batch_open || !self.transaction.is_idle() || !link.is_quiet() {
            return Ok(());
        }
        if self.session.left.forgets_statements || self.session.left.need_inventory() {
            self.keep_cancels_off().await;
            self.take_inventory().await?;
            if let Some(link) = self.link.as_ref() {
                self.registration.slot.set_busy(&link.lease.cancel_key, link.lease.node);
            }
        }
        // One that was local is over.
        self.session.left.resets = false;
        if self.session.pins.is_empty() {
            self.release().await?;
        } else if self.is_kept_by_replica() {
            self.leave_pins_behind().await;
        } else {
            self.registration.slot.set_rest(Rest::Resting);
        }
        Ok(())
    }

    fn count_bytes(&mut self) {
        let (received, sent) = (std::mem::take(&mut self.side.received), std::mem::take(&mut self.side.sent));
        self.shared.metrics.add(Count::Bytes(Direction::FromClients), received);
        self.shared.metrics.add(Count::Bytes(Direction::ToClients), sent);
    }

    async fn take_inventory(&mut self) -> Result<(), End> {
        let mut left = std::mem::take(&mut self.session.left);
        left.names.extend(
            left.effects.contains(Effects::SETTINGS).then(|| self.verdicts.placeholders()).into_iter().flatten(),
        );
        let Some(mut link) = self.link.take() else { return Ok(()) };
        // The client may not have taken all of its reply: that must not be taken for the inventory.
        keep_reply(&mut self.side, &mut link);
        let settings = self.session.settings.clone();
        let asked = self.after(ask(&mut link.lease, &left, &settings)).await?;
        let link = self.link.insert(link);
        let inventory = match asked {
            Ok(inventory) => inventory,
            Err(error) if left.is_suspicion() && self.session.pins.is_empty() && error.is_loss() => {
                // It very likely had left nothing.
                self.drop_lost();
                return Ok(());
            }
            Err(error) => return self.inventory_failed(&error),
        };
        link.lease.tainted |= left.effects.contains(Effects::SETTINGS);
        let Inventory { mut settings, mut pins, channels } = inventory;
        self.session.listening = channels;
        // It is always among them; this is what the server's connection was opened with.
        if left.resets && settings.get("statement_timeout") == Some("0") {
            settings.remove("statement_timeout");
        }
        let settings = Arc::new(settings);
        link.lease.settings = settings.clone();
        let settings = self.session.adopt_own(settings);
        let startup = &self.session.began_with.settings;
        let lacks = startup.names().any(|name| settings.get(name).is_none());
        self.session.settings = if lacks { Arc::new(settings.over(startup)) } else { settings };
        if *self.session.settings == *link.lease.settings {
            link.lease.settings = self.session.settings.clone();
        }
        if left.resets {
            self.session.tell_beginning(&link.lease.parameters, &mut self.side.output);
        }
        self.session.settings_changed();
        Pin::lasting(left.effects).for_each(|pin| self.session.pins_stand(pin));
        pins.extend(&self.session.standing_pins);
        if pins != self.session.pins {
            tracing::debug!(?pins, "the session's pins have changed");
            pins.iter()
                .filter(|pin| !self.session.pins.contains(pin))
                .for_each(|pin| self.shared.metrics.count(Count::Pin(*pin)));
            self.registration.slot.set_pins(&pins);
            self.session.pins = pins;
        }
        self.keep_pinned().await
    }

    /// What a session that keeps its connection finds there after the inventory: its start-up settings, which a RESET or DISCARD has taken away, as a server
    /// would have gone back to them; and what it has been notified of meanwhile.
    async fn keep_pinned(&mut self) -> Result<(), End> {
        if self.session.pins.is_empty() {
            return Ok(());
        }
        let Some(mut link) = self.link.take() else { return Ok(()) };
        let mut settings = self.session.settings.clone();
        let brought = self.after(bring_to(&mut link.lease, &mut settings)).await?;
        self.session.settings = settings;
        let link = self.link.insert(link);
        if let Err(error) = brought {
            return self.inventory_failed(&error);
        }
        tell_parameters(&mut self.session.reported, &mut link.lease.parameters, &mut self.side.output);
        match link.take_notifications() {
            Ok(notifications) => self.side.output.unsplit(notifications),
            Err(error) => return self.inventory_failed(&error.into()),
        }
        Ok(())
    }

    fn drop_lost(&mut self) {
        if let Some(link) = self.link.take() {
            self.shared.cluster.nudge(link.node());
        }
        self.registration.slot.set_idle();
    }

    /// Without the inventory nobody knows what the session is: better to end it than to go on with other settings than it believes in. Only if the server is
    /// lost, so is what it had of the session: that goes on with what it was before its last statement, and is told.
    fn inventory_failed(&mut self, error: &QueryError) -> Result<(), End> {
        self.drop_lost();
        tracing::warn!(%error, "cannot ask a server for the session's state");
        if !error.is_loss() {
            let code = if let QueryError::Server { code, .. } = error { *code } else { SqlState::CONNECTION_FAILURE };
            return Err(End::fatal(code, format!("cannot find out the session's state: {error}")));
        }
        let standing = self.session.standing_pins.clone();
        let pins = std::mem::replace(&mut self.session.pins, standing);
        self.registration.slot.set_pins(&self.session.pins);
        if pins.contains(&Pin::Listen) {
            return Err(End::fatal(SqlState::CONNECTION_FAILURE, DEAF));
        }
        let report =
            Report::error(SqlState::CONNECTION_FAILURE, "the server was lost on which this session kept its state");
        let report = report.detail("What the statement before this one has set is lost, too.");
        let report = report.hint("The session goes on without it. This statement has not been run.");
        self.session.untold = Some(Box::new(report));
        Ok(())
    }

    /// Gives the connection back. It is idle, and what the session left on it is known.
    async fn release(&mut self) -> Result<(), End> {
        self.session.left = Leftovers::default();
        // One that ends while it is idle is nobody's to use.
        let is_unfit =
            |link: &Link| link.lease.tainted || link.lease.settings.get(IDLE_LIMIT).is_some_and(|limit| limit != "0");
        if self.link.as_ref().is_some_and(is_unfit) {
            self.untaint().await?;
        }
        self.release_slot().await;
        let Some(mut link) = self.link.take() else { return Ok(()) };
        keep_reply(&mut self.side, &mut link);
        link.lease.last_session = u64::from(self.registration.slot.pid());
        let Link { lease, answered, .. } = link;
        lease.release(answered);
        Ok(())
    }

    /// What is known of the session's settings is set again on its next connection; what is not known must not reach anybody else.
    async fn untaint(&mut self) -> Result<(), End> {
        self.keep_cancels_off().await;
        let Some(mut link) = self.link.take() else { return Ok(()) };
        keep_reply(&mut self.side, &mut link);
        match self.after(link.lease.query("RESET SESSION AUTHORIZATION;RESET ROLE;RESET ALL")).await? {
            Ok(_) => {
                link.lease.unnamed = None;
                link.lease.settings = Arc::new(Settings::default());
                link.lease.tainted = false;
                self.link = Some(link);
            }
            Err(error) => tracing::info!(%error, "a connection could not be reset, and is closed"),
        }
        Ok(())
    }

    /// Statements of pgpilot's own follow: no cancel request may hit those, for it is about a statement that is over.
    pub(super) async fn keep_cancels_off(&self) {
        let Some(link) = &self.link else { return };
        let slot = &self.registration.slot;
        if slot.set_own(&link.lease.cancel_key, link.lease.node) == Quiet::CancelOnItsWay {
            slot.wait_quiet().await;
        }
        link.lease.cancel_key.requests.settle();
    }

    /// Brings a connection that has just been leased to the session's state. If that fails, it must be closed.
    pub(super) async fn prepare_lease(&mut self, lease: &mut Lease, wanted: &mut Arc<Settings>) -> Result<(), Denied> {
        self.registration.slot.set_own(&lease.cancel_key, lease.node);
        let brought = self.vigil_before().until(bring_to(lease, wanted)).await;
        if !matches!(brought, Ok(Ok(()))) {
            self.registration.slot.set_idle();
        }
        Ok(brought??)
    }

    /// Waits for what pgpilot itself asks a server after a statement, as long as there is a client to wait for.
    pub(super) async fn after<T>(&mut self, asked: impl Future<Output = T>) -> Result<T, End> {
        self.vigil_after().until(asked).await.map_err(|denied| match denied {
            Denied::End(end) => end,
            // No cancel request is heeded, and there is no other cause.
            Denied::Fault(fault) => End::Fatal(Box::new(fault.report())),
        })
    }

    /// The session is over: whatever it holds is cleaned up, and the client is told why, if it does not know.
    pub(super) async fn finish(&mut self, end: End) {
        let is_whole = self.link.as_mut().is_none_or(|link| keep_last_reply(&mut self.side, link));
        match &end {
            End::Fatal(report) if is_whole => report.put(&mut self.side.output),
            _ => {}
        }
        self.count_bytes();
        if let Some(side) = end.side() {
            self.shared.metrics.count(Count::Error(side));
        }
        if let Some(link) = self.link.take() {
            self.abandon(link).await;
        }
        let Side { stream, output, .. } = &mut self.side;
        let patience = if matches!(end, End::Left) { LAST_WORDS } else { GOODBYE };
        while !output.is_empty() {
            // A client that does not read is not waited for.
            let Ok(Ok(_)) = tokio::time::timeout(patience, stream.write_buf(output)).await else { break };
        }
        let _ = tokio::time::timeout(GOODBYE, stream.shutdown()).await;
        match end {
            End::Left => tracing::debug!(user = %self.who.user, "client left"),
            end => {
                tracing::info!(user = %self.who.user, database = %self.who.database, why = %end, "client disconnected")
            }
        }
    }

    /// A connection that was in use when its session ended: what runs is cancelled, what is open is rolled back, what was left is discarded.
    pub(super) async fn abandon(&self, mut link: Link) {
        self.release_slot().await;
        if link.is_quiet() && self.session.marks_its_connection() {
            return;
        }
        if !link.is_quiet() || link.batch_open || matches!(self.side.rest, Passing::Forward(_)) {
            let key = link.lease.cancel_key.clone();
            // Also when pgpilot is about to end.
            self.shared.tasks.spawn(async move {
                // Closing the connection alone would let the statement run on.
                let _ = key.send().await;
                drop(link);
            });
            return;
        }
        tokio::spawn(async move {
            let clean = async {
                if link.status != TransactionStatus::Idle {
                    link.lease.query("ROLLBACK").await?;
                }
                link.lease.query("DISCARD ALL").await?;
                Ok::<_, QueryError>(())
            };
            if let Ok(Ok(())) = tokio::time::timeout(drain::LIMIT, clean).await {
                link.lease.statements.clear();
                link.lease.unnamed = None;
                link.lease.sequences = SequenceState::Nobodys;
                link.lease.settings = Arc::new(Settings::default());
                link.lease.tainted = false;
                link.lease.release(Instant::now());
            }
        });
    }

    /// Waits until what the client is owed has been written, or it is clear that it will not read.
    pub(super) async fn flush_output(&mut self) -> Result<(), End> {
        let Side { stream, output, .. } = &mut self.side;
        while output.len() > OUTPUT_MAX {
            stream.write_buf(output).await.map_err(End::ClientLost)?;
        }
        Ok(())
    }
}

const GOODBYE: Duration = Duration::from_secs(1);
/// What a client had asked for before it left is worth more patience.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// A client that owes so much reading is not served further.
const OUTPUT_MAX: usize = 64 * 1024;

async fn ask(lease: &mut Lease, left: &Leftovers, settings: &Settings) -> Result<Inventory, QueryError> {
    if left.may_have_forgotten {
        // Now they are gone for certain.
        lease.query("DEALLOCATE ALL").await?;
        lease.statements.clear();
    }
    lease.unnamed = None;
    let names = settings.names().chain(left.names.iter().map(|name| &**name));
    let names: std::collections::BTreeSet<&str> = names.collect();
    let sql = inventory_sql(names);
    let rows = match lease.query(&sql).await {
        // A limit or a request that was meant for the client's own statement; or what `Link::note_query_within` tells of.
        Err(QueryError::Server { code: SqlState::QUERY_CANCELED | SqlState::INTERNAL_ERROR, .. }) => {
            lease.query(&sql).await?
        }
        rows => rows?,
    };
    let user = lease.user.clone();
    Inventory::read(rows.iter().map(Vec::as_slice), &user)
        .map_err(|error| QueryError::Server { code: SqlState::INTERNAL_ERROR, message: error.to_string() })
}
