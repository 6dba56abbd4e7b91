//! One node's monitor: keeps a control connection and asks over it.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{Sleep, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use crate::config;
use crate::decide::health::{Door, Event, Failure};
use crate::decide::position::Lsn;
use crate::decide::route::{NodeId, NodeView, Role};

use super::board::{Bell, Board, Call, Chase};
use super::control::{Control, ControlError, Phase, Side, connect_control, failure_of, refusal_of};

/// Between two questions for a mark: sessions that write all the time share one.
const MARK_GAP: Duration = Duration::from_millis(2);
/// The pause after the first look at a replica that has not reached a mark in its usual time. It doubles, up to the interval.
const CHASE_STEP: Duration = Duration::from_millis(1);
/// Between two new connections to a node that answers on the kept one.
const KNOCK: Duration = Duration::from_secs(2);
/// `server_version_num` of the first version that knows WAIT FOR LSN.
const WAIT_FOR_LSN_SINCE: u32 = 190_000;
/// Only one question is under way: for so long, nobody else's can be put to a replica that does not reach the mark.
const WAIT_LIMIT: Duration = Duration::from_millis(50);
/// Nobody waits longer for a replica; its lag is for the regular probes then.
const CHASE_LIMIT: Duration = Duration::from_secs(2);

pub(super) struct Monitor {
    id: NodeId,
    node: config::Node,
    health: config::Health,
    board: Arc<Board>,
    bell: Arc<Bell>,
    chases: watch::Receiver<Option<Chase>>,
    /// When the next whole probe is due.
    whole_due: Instant,
    pursuit: Option<Pursuit>,
    /// How long the replica usually takes to reach a mark: the first look comes after that.
    usual: Duration,
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

/// Following a replica towards a mark.
#[derive(Debug, Clone, Copy)]
struct Pursuit {
    lsn: Lsn,
    begun: Instant,
    /// It has been looked at, in vain.
    missed: bool,
    due: Instant,
    step: Duration,
    end: Instant,
}

impl Pursuit {
    /// The next look comes after ever longer pauses.
    fn pause(&mut self, now: Instant, longest: Duration) {
        self.due = now + self.step;
        self.step = (self.step * 2).min(longest);
    }
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
}

impl Monitor {
    pub(super) fn new(id: NodeId, node: config::Node, health: config::Health, board: Arc<Board>) -> Self {
        let now = Instant::now();
        let bell = board.bell(id).unwrap_or_default();
        let chases = board.chases();
        Self {
            id,
            node,
            health,
            board,
            bell,
            chases,
            whole_due: now,
            pursuit: None,
            usual: Duration::ZERO,
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
            match timeout(self.health.timeout, Control::connect(&self.node, &self.health)).await {
                Ok(Ok(control)) => {
                    self.failed_dials = 0;
                    self.whole_due = Instant::now();
                    self.telling = Telling::Asked;
                    let knocking = knock(self.id, self.node.clone(), self.health.clone(), Arc::clone(&self.board));
                    let _knocking = AbortOnDropHandle::new(tokio::spawn(knocking));
                    let failure = self.watch(control).await;
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
            // However often somebody rings, a dial costs the node something.
            sleep_until((begun + CHASE_STEP * 5).into()).await;
        }
    }

    /// Asks until the connection is of no more use, and returns why. [`Failure::Timeout`] has been reported then.
    async fn watch(&mut self, mut control: Control) -> Failure {
        loop {
            let question = tokio::select! {
                biased;
                () = control.ended() => return Failure::Lost,
                question = self.next_question() => question,
            };
            if let Err(failure) = self.put(&control, question).await {
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
            let pursuit_due = self.pursuit.map(|pursuit| pursuit.due);
            let due = pursuit_due.map_or(self.whole_due, |due| due.min(self.whole_due));
            tokio::select! {
                biased;
                () = sleep_until(due.into()) => {
                    return if due == self.whole_due { Question::Whole } else { self.chase() };
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
        match (self.telling, self.pursuit) {
            // Zero is for ever, and less than this is nothing to wait for.
            (Telling::ByItself, Some(pursuit)) if wait >= CHASE_STEP => Question::Wait(pursuit.lsn, wait),
            _ => Question::Chase,
        }
    }

    fn pursue(&mut self) {
        let chase = *self.chases.borrow_and_update();
        let Some(Chase { lsn, begun }) = chase else { return };
        let snapshot = self.board.snapshot();
        let behind = |view: &NodeView| view.role == Role::Replica && view.position.is_none_or(|at| at.lsn < lsn);
        if snapshot.node(self.id).is_some_and(behind) {
            let due = if self.telling == Telling::ByItself { begun } else { begun + self.usual };
            let end = begun + CHASE_LIMIT;
            self.pursuit = Some(Pursuit { lsn, begun, missed: false, due, step: CHASE_STEP, end });
        }
    }

    fn role(&self) -> Role {
        self.board.snapshot().node(self.id).map_or(Role::Unknown, |node| node.role)
    }

    /// Asks one question and reports the answer. A late answer is an answer: while it is awaited, each elapsed time
    /// limit counts as a failure, and only after as many as make a node count as down the connection is given up.
    async fn put(&mut self, control: &Control, question: Question) -> Result<(), Failure> {
        // Whoever rings from here on wants a later question than this one.
        let wanted = self.bell.answer(Call::Mark);
        if question == Question::Whole {
            self.bell.answer(Call::Probe);
        }
        let side = if self.role() == Role::Replica { Side::Replica } else { Side::Primary };
        let asked_at = Instant::now();
        self.last_asked = asked_at;
        let mut asking = pin!(ask(control, question, side, self.id, asked_at));
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
            self.heed(&event);
            self.board.report(event);
        }
        self.plan(question, asked_at);
        if wanted {
            self.board.chase_newest_mark();
        }
        Ok(())
    }

    fn heed(&mut self, event: &Event) {
        if let Event::Answered { answer, .. } = event
            && self.telling == Telling::Asked
            && answer.server_version >= WAIT_FOR_LSN_SINCE
        {
            self.telling = Telling::ByItself;
        }
    }

    /// Sets the times of the next questions.
    fn plan(&mut self, question: Question, asked_at: Instant) {
        if question == Question::Whole {
            self.whole_due = (asked_at + self.health.interval).max(Instant::now() + self.health.interval / 4);
        }
        let Some(pursuit) = &mut self.pursuit else { return };
        let now = Instant::now();
        let snapshot = self.board.snapshot();
        let position = snapshot.node(self.id).and_then(|node| node.position);
        if position.is_some_and(|sample| sample.lsn >= pursuit.lsn) {
            // There at the first look: it may have been there before. Else it took about so long.
            let took = if pursuit.missed { (self.usual + (now - pursuit.begun)) / 2 } else { self.usual * 3 / 4 };
            self.usual = took.min(self.health.interval);
            self.pursuit = None;
        } else if now >= pursuit.end {
            self.usual = Duration::ZERO;
            self.pursuit = None;
        } else {
            pursuit.missed = true;
            match question {
                // It is no replica any more.
                Question::Wait(_, limit) if now < asked_at + limit => (self.pursuit, self.whole_due) = (None, now),
                // The question itself was the pause.
                Question::Wait(..) => pursuit.due = now,
                _ => pursuit.pause(now, self.health.interval),
            }
        }
    }

    /// A question that a node of this role cannot answer is a sign that it changed its role: the whole probe tells.
    fn failed(&mut self, question: Question, error: &tokio_postgres::Error) -> Result<(), Failure> {
        let failure = failure_of(error, Phase::Connected);
        if let (Question::Wait(..), Failure::Alive(_)) = (question, failure) {
            // Recovery may cancel what waits for it, too. It is asked as others are.
            self.telling = Telling::Refuses;
            return Ok(());
        }
        let changed_sides = error.code() == Some(&tokio_postgres::error::SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
        let pause = if changed_sides && question != Question::Whole { Duration::ZERO } else { self.health.interval };
        self.whole_due = Instant::now() + pause;
        self.pursuit = None;
        if changed_sides { Ok(()) } else { Err(failure) }
    }
}

/// `None`: the node has no position yet.
async fn ask(
    control: &Control,
    question: Question,
    side: Side,
    node: NodeId,
    asked_at: Instant,
) -> Result<Option<Event>, tokio_postgres::Error> {
    match question {
        Question::Whole => {
            let answer = Box::new(control.ask_all().await?);
            Ok(Some(Event::Answered { node, asked_at, answer }))
        }
        Question::Mark | Question::Chase => {
            let progress = control.ask_progress(side).await?;
            Ok(progress.map(|progress| Event::Sampled { node, asked_at, progress }))
        }
        Question::Wait(lsn, limit) => {
            let progress = control.wait_for(lsn, limit).await?;
            Ok(progress.map(|progress| Event::Sampled { node, asked_at, progress }))
        }
    }
}

/// Looks whether a node takes new connections, for as long as it is not dropped.
async fn knock(id: NodeId, node: config::Node, health: config::Health, board: Arc<Board>) {
    let mut last = Door::Open;
    loop {
        sleep(KNOCK).await;
        let door = match timeout(health.timeout, connect_control(&node, &health, &health.database)).await {
            // An error that it tells of itself is an answer.
            Ok(Ok(_)) | Ok(Err(ControlError::Server(_))) => Door::Open,
            Ok(Err(ControlError::Open(_))) | Err(_) => Door::Shut,
        };
        if door != last {
            last = door;
            board.report(Event::Knocked { node: id, door });
        }
    }
}
