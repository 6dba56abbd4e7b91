//! pgpilot's end, as every client waits for it: told once, and looked at without a lock.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Whether pgpilot is to stop.
#[derive(Debug, Default)]
pub struct Shutdown {
    drain: Arc<Word>,
    cut_off: Arc<Word>,
}

/// Something that everybody is told.
#[derive(Debug, Default)]
struct Word {
    /// Set before the token is: a token has a lock, for which all clients would queue.
    told: AtomicBool,
    token: CancellationToken,
}

impl Shutdown {
    /// From now on nobody is waited for who is not in a transaction.
    pub fn begin(&self) {
        self.drain.tell();
    }

    /// From now on nobody is waited for.
    pub fn cut_off(&self) {
        self.cut_off.tell();
    }

    pub fn has_begun(&self) -> bool {
        self.drain.is_told()
    }

    /// Waits until it begins.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn begins(&self) {
        self.drain.token.cancelled().await;
    }

    /// The same for one task that asks again and again.
    pub(super) fn watch(&self) -> Watch {
        self.drain.watch()
    }

    /// As [`Self::watch`], of the moment when nobody is waited for.
    pub(super) fn watch_cut_off(&self) -> Watch {
        self.cut_off.watch()
    }
}

impl Word {
    fn tell(&self) {
        self.told.store(true, Ordering::Release);
        self.token.cancel();
    }

    fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    fn watch(self: &Arc<Self>) -> Watch {
        Watch { word: self.clone(), told: Box::pin(self.token.clone().cancelled_owned()), waker: None }
    }
}

/// A future that is ready when the word is out, and cheap to poll again from the same task.
pub(super) struct Watch {
    word: Arc<Word>,
    told: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Who is going to be woken.
    waker: Option<Waker>,
}

impl Future for Watch {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.word.is_told() {
            return Poll::Ready(());
        }
        if self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        self.waker = Some(cx.waker().clone());
        ready!(self.told.as_mut().poll(cx));
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_watches_is_woken_whichever_task_polled_before() {
        let shutdown = Shutdown::default();
        let mut watch = shutdown.watch();
        // Polled once by a task that is not going to wait.
        assert!(Pin::new(&mut watch).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let waiting = tokio::spawn(async move {
            for _ in 0..3 {
                let mut first = true;
                tokio::select! {
                    biased;
                    () = &mut watch => return,
                    () = std::future::poll_fn(|cx| {
                        cx.waker().wake_by_ref();
                        if std::mem::take(&mut first) { Poll::Pending } else { Poll::Ready(()) }
                    }) => {}
                }
            }
            watch.await;
        });
        tokio::task::yield_now().await;
        assert!(!shutdown.has_begun() && !waiting.is_finished());
        shutdown.begin();
        tokio::time::timeout(std::time::Duration::from_secs(10), waiting).await.unwrap().unwrap();
        shutdown.begins().await;
    }
}
