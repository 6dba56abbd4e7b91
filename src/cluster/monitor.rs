//! One node's monitor: keeps a connection to it and asks over it.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{Sleep, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use crate::config;
use crate::decide::health::{Door, Event, Failure, Progress, Stage};
use crate::decide::position::Lsn;
use crate::decide::route::{NodeId, NodeView, Role, State};
use crate::pool::{DialError, QueryError};
use crate::wire::SqlState;

use super::board::{Bell, Board, Call, Chase};
use super::probe::{Dialer, Probe, Side, failure_of, refusal_of};
use super::pursuit::{CHASE_STEP, MARK_GAP, Pursuit, Unflushed};

/// Between two new connections to a node that answers on the kept one.
const KNOCK: Duration = Duration::from_secs(2);
/// `server_version_num` of the first version that knows WAIT FOR LSN.
const WAIT_FOR_LSN_SINCE: u32 = 190_000;
/// Only one question is under way: for so long, nobody else's can be put to a replica that does not reach the mark.
const WAIT_LIMIT: Duration = Duration::from_millis(50);
/// Before another dial, however often somebody rings: each costs the node something.
const DIAL_STEP: Duration = Duration::from_millis(5);

pub(super) struct Monitor {
    id: NodeId,
    node: config::Node,
    health: config::Health,
    dialer: Dialer,
    board: Arc<Board>,
    bell: Arc<Bell>,
    chases: watch::Receiver<Option<Chase>>,
    /// When the next whole probe is due.
    whole_due: Instant,
    pursuit: Pursuit,
    unflushed: Unflushed,
    last_asked: Instant,
    /// Goes off when an answer is late. It is set anew only when it has gone off, since every timer that is set costs
    /// the runtime a system call, and questions can be many.
    alarm: Pin<Box<Sleep>>,
    /// Failed dials in a row.
    failed_dials: u32,
    telling: Telling,
}

/// How a replica tells that it has reached a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    /// When it is asked.
    Asked,
    /// Of itself, when it has: with WAIT FOR LSN, as of PostgreSQL 19.
    ByItself,
    /// It should, by its version, and has refused to.
    Refuses,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Whole,
    /// Somebody wants a mark.
    Mark,
    /// Has the replica reached the mark?
    Chase,
    /// To be answered when the replica has reached the mark, or after so long.
    Wait(Lsn, Duration),
    /// The primary's log goes to disk, and makes a mark.
    Flush,
}

impl Monitor {
    pub(super) fn new(id: NodeId, node: config::Node, health: config::Health, board: Arc<Board>) -> Self {
        let now = Instant::now();
        let bell = board.bell(id).unwrap_or_default();
        let chases = board.chases();
        let dialer = Dialer::new(id, node.clone(), health.clone());
        Self {
            id,
            node,
            health,
            dialer,
            board,
            bell,
            chases,
            whole_due: now,
            pursuit: Pursuit::default(),
            unflushed: Unflushed::default(),
            last_asked: now,
            alarm: Box::pin(sleep_until(now.into())),
            failed_dials: 0,
            telling: Telling::Asked,
        }
    }

    /// Runs until it is aborted.
    ///
    /// # Cancel safety
    /// The control connection closes.
    pub(super) async fn run(mut self) {
        loop {
            let begun = Instant::now();
            match timeout(self.health.timeout, Probe::connect(&mut self.dialer)).await {
                Ok(Ok(probe)) => {
                    self.failed_dials = 0;
                    self.whole_due = Instant::now();
                    self.telling = Telling::Asked;
                    self.unflushed = Unflushed::default();
                    let knocking = knock(self.id, self.dialer.clone(), Arc::clone(&self.board));
                    let _knocking = AbortOnDropHandle::new(tokio::spawn(knocking));
                    let failure = self.watch(probe).await;
                    if failure != Failure::Timeout {
                        self.report_failure(failure);
                    }
                }
                Ok(Err(error)) => {
                    debug!(node = %self.node.name, error = &error as &dyn std::error::Error, "cannot connect");
                    self.report_failure(refusal_of(&error));
                    self.pause_before_dialling(begun).await;
                }
                Err(_) => {
                    self.report_failure(Failure::Timeout);
                    self.pause_before_dialling(begun).await;
                }
            }
        }
    }

    fn report_failure(&self, failure: Failure) {
        self.board.report(Event::Failed { node: self.id, failure });
    }

    /// Short at first, since a server that restarts is back soon; up to the interval.
    async fn pause_before_dialling(&mut self, begun: Instant) {
        let step = self.health.interval / 4 * 2_u32.pow(self.failed_dials.min(2));
        self.failed_dials = self.failed_dials.saturating_add(1);
        let call = timeout(begun.elapsed().max(step).saturating_sub(begun.elapsed()), self.bell.rung()).await;
        if call.is_ok() {
            self.bell.answer(Call::Probe);
            self.bell.answer(Call::Mark);
            sleep_until((begun + DIAL_STEP).into()).await;
        }
    }

    /// Asks until the connection is of no more use, and returns why. [`Failure::Timeout`] has been reported then.
    async fn watch(&mut self, mut probe: Probe) -> Failure {
        loop {
            let question = tokio::select! {
                biased;
                () = probe.ended() => return Failure::Lost,
                question = self.next_question() => question,
            };
            if let Err(failure) = self.put(&mut probe, question).await {
                match failure {
                    Failure::Lost | Failure::Timeout | Failure::Refused => return failure,
                    Failure::Alive(_) => self.report_failure(failure),
                }
            }
        }
    }

    /// Waits until something is to be asked.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    async fn next_question(&mut self) -> Question {
        loop {
            let sooner = [self.pursuit.due(), self.unflushed.due()];
            let due = sooner.into_iter().flatten().fold(self.whole_due, Instant::min);
            tokio::select! {
                biased;
                () = sleep_until(due.into()) => {
                    return match due {
                        due if due == self.whole_due => Question::Whole,
                        due if self.unflushed.due() == Some(due) => match self.is_primary_in_use() {
                            true => Question::Flush,
                            false => {
                                self.unflushed.forget();
                                continue;
                            }
                        },
                        _ => self.chase(),
                    };
                }
                Ok(()) = self.chases.changed() => self.pursue(),
                call = self.bell.rung() => match call {
                    Call::Probe => return Question::Whole,
                    Call::Mark => {
                        sleep_until((self.last_asked + MARK_GAP).into()).await;
                        return Question::Mark;
                    }
                },
            }
        }
    }

    fn chase(&self) -> Question {
        let until_whole = self.whole_due.saturating_duration_since(Instant::now());
        let wait = until_whole.min(WAIT_LIMIT).min(self.health.timeout / 2);
        match (self.telling, self.pursuit.mark()) {
            // Zero is for ever, and less than this is nothing to wait for.
            (Telling::ByItself, Some(lsn)) if wait >= CHASE_STEP => Question::Wait(lsn, wait),
            _ => Question::Chase,
        }
    }

    fn pursue(&mut self) {
        let chase = *self.chases.borrow_and_update();
        let Some(chase) = chase else { return };
        let snapshot = self.board.snapshot();
        let usable = |node: &&NodeView| node.role == Role::Replica && node.state == State::Up;
        let (mut before, mut count, mut behind) = (0, 0, false);
        for node in snapshot.nodes.iter().filter(usable) {
            count += 1;
            before += usize::from(node.id < self.id);
            behind |= node.id == self.id && node.position.is_none_or(|at| at.lsn < chase.lsn);
        }
        if behind {
            let rank = before.wrapping_add(chase.turn) % count;
            self.pursuit.begin(chase, rank, self.telling == Telling::ByItself);
        }
    }

    fn role(&self) -> Role {
        self.board.snapshot().node(self.id).map_or(Role::Unknown, |node| node.role)
    }

    /// Asks one question and reports the answer. A late answer is an answer: while it is awaited, each elapsed time
    /// limit counts as a failure, and only after as many as make a node count as down the connection is given up.
    async fn put(&mut self, probe: &mut Probe, question: Question) -> Result<(), Failure> {
        // Whoever rings from here on wants a later question than this one.
        let wanted = self.bell.answer(Call::Mark);
        if question == Question::Whole {
            self.bell.answer(Call::Probe);
        }
        let side = if self.role() == Role::Replica { Side::Replica } else { Side::Primary };
        let asked_at = Instant::now();
        self.last_asked = asked_at;
        let mut asking = pin!(ask(probe, question, side, self.id, asked_at));
        let mut limits = 0;
        let answer = loop {
            let late_at = asked_at + self.health.timeout * (limits + 1);
            tokio::select! {
                biased;
                answer = &mut asking => break answer,
                () = &mut self.alarm => {}
            }
            if Instant::now() < late_at {
                // It had been set for an earlier question.
                self.alarm.as_mut().reset(late_at.into());
                continue;
            }
            self.report_failure(Failure::Timeout);
            limits += 1;
            if limits >= self.health.failures {
                return Err(Failure::Timeout);
            }
        };
        let event = match answer {
            Ok(event) => event,
            Err(error) => {
                debug!(node = %self.node.name, error = &error as &dyn std::error::Error, "probe failed");
                return self.failed(question, &error);
            }
        };
        if let Some(event) = event {
            self.heed(&event, wanted);
            self.board.report(event);
        }
        self.plan(question, asked_at);
        if wanted || question == Question::Flush {
            self.board.chase_newest_mark();
        }
        Ok(())
    }

    fn heed(&mut self, event: &Event, wanted: bool) {
        let (insert, flush) = match event {
            Event::Sampled { progress: Progress::Written { insert, flush }, .. } => (*insert, *flush),
            Event::Answered { answer, .. } => {
                if self.telling == Telling::Asked && answer.server_version >= WAIT_FOR_LSN_SINCE {
                    self.telling = Telling::ByItself;
                }
                let Stage::Writable { insert, flush } = answer.stage else { return };
                (insert, flush)
            }
            _ => return,
        };
        let end = self.board.snapshot().wal.record_end(insert);
        self.unflushed.told(end, flush, wanted && self.is_primary_in_use(), Instant::now());
    }

    /// In a change of primary, nothing more may be added to the log of the one that leaves.
    fn is_primary_in_use(&self) -> bool {
        self.board.snapshot().usable_primary().is_some_and(|primary| primary.id == self.id)
    }

    /// Sets the times of the next questions.
    fn plan(&mut self, question: Question, asked_at: Instant) {
        if question == Question::Whole {
            self.whole_due = (asked_at + self.health.interval).max(Instant::now() + self.health.interval / 4);
        }
        let now = Instant::now();
        let snapshot = self.board.snapshot();
        let position = snapshot.node(self.id).and_then(|node| node.position).map(|sample| sample.lsn);
        let mark = self.pursuit.mark();
        self.pursuit.looked(position, now, self.health.interval, matches!(question, Question::Wait(..)));
        if let (Question::Wait(_, limit), Some(mark)) = (question, mark)
            && now < asked_at + limit
            && position.is_none_or(|lsn| lsn < mark)
        {
            // It is no replica any more.
            self.pursuit.stop();
            self.whole_due = now;
        }
    }

    /// A question that a node of this role cannot answer is a sign that it changed its role: the whole probe tells.
    fn failed(&mut self, question: Question, error: &QueryError) -> Result<(), Failure> {
        let failure = failure_of(error);
        if let (Question::Wait(..), Failure::Alive(_)) = (question, failure) {
            // Recovery may cancel what waits for it, too. It is asked as others are.
            self.telling = Telling::Refuses;
            return Ok(());
        }
        if let (Question::Flush, Failure::Alive(_)) = (question, failure) {
            self.unflushed.refused();
            self.whole_due = Instant::now();
            return Ok(());
        }
        let changed_sides =
            matches!(error, QueryError::Server { code: SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, .. });
        let pause = if changed_sides && question != Question::Whole { Duration::ZERO } else { self.health.interval };
        self.whole_due = Instant::now() + pause;
        self.pursuit.stop();
        if changed_sides { Ok(()) } else { Err(failure) }
    }
}

/// `None`: the node has no position yet.
async fn ask(
    probe: &mut Probe,
    question: Question,
    side: Side,
    node: NodeId,
    asked_at: Instant,
) -> Result<Option<Event>, QueryError> {
    match question {
        Question::Whole => {
            let answer = Box::new(probe.ask_all().await?);
            Ok(Some(Event::Answered { node, asked_at, answer }))
        }
        Question::Mark | Question::Chase => {
            let progress = probe.ask_progress(side).await?;
            Ok(progress.map(|progress| Event::Sampled { node, asked_at, progress }))
        }
        Question::Flush => {
            let progress = probe.flush().await?;
            Ok(progress.map(|progress| Event::Sampled { node, asked_at, progress }))
        }
        Question::Wait(lsn, limit) => {
            let progress = probe.wait_for(lsn, limit).await?;
            Ok(progress.map(|progress| Event::Sampled { node, asked_at, progress }))
        }
    }
}

/// Looks whether a node takes new connections, for as long as it is not dropped.
async fn knock(id: NodeId, mut dialer: Dialer, board: Arc<Board>) {
    let mut last = Door::Open;
    loop {
        sleep(KNOCK).await;
        let door = match dialer.dial().await {
            Ok(connection) => {
                connection.close();
                Door::Open
            }
            Err(DialError::Open(_) | DialError::TimedOut) => Door::Shut,
            // An error that it tells of itself is an answer.
            Err(_) => Door::Open,
        };
        if door != last {
            last = door;
            board.report(Event::Knocked { node: id, door });
        }
    }
}
