//! What is known of a client that has closed its side of the connection.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, Sleep, sleep};

use crate::wire::backend;

/// Whether more can come from a client.
pub(super) enum Ending {
    Open,
    /// It has said Terminate, and closed its side. What it asked for before that is done, as a server does it.
    Goodbye,
    /// It has closed its side without a word. What it asked for before that is done, too, as long as there is somebody to listen.
    Mute(Pulse),
}

/// Finds out whether a client that sends no more still reads. One that is gone looks the same until it is sent something, to which its system answers with
/// a reset: so it is told now and then what it knows already.
pub(super) struct Pulse {
    timer: Pin<Box<Sleep>>,
    pause: Duration,
}

/// The first one comes so soon; each time it takes twice as long to the next,
const FIRST: Duration = Duration::from_millis(250);
/// up to this.
const LONGEST: Duration = Duration::from_secs(60);

impl Pulse {
    pub(super) fn start() -> Self {
        Self { timer: Box::pin(sleep(FIRST)), pause: FIRST }
    }

    /// Ready when the next one is due. The one after it is then on its way.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.pause = (2 * self.pause).min(LONGEST);
        self.timer.as_mut().reset(Instant::now() + self.pause);
        Poll::Ready(())
    }
}

/// A message that may come at any time (documentation, "Asynchronous Operations") and is always true.
pub(super) fn put_pulse(out: &mut BytesMut) {
    backend::put_parameter_status(out, "integer_datetimes", "on");
}
