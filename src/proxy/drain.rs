//! A server connection that its session has no use for any more, and that is not done yet: it finishes by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::link::Link;
use super::scan::Signal;
use crate::decide::session::{Fate, Kind, ParameterMap};
use crate::wire::backend::TransactionStatus;
use crate::wire::frontend;

/// Nobody waits for a connection that is being cleaned up for longer.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// Lets a server finish what nobody wants any more, then gives the connection back.
pub(super) async fn drain(mut link: Link) {
    let finished = async {
        let lease = &mut *link.lease;
        lease.send().await.ok()?;
        let mut nobody = Arc::new(ParameterMap::default());
        loop {
            // The client has no part in this: its end is played by a reply that is thrown away.
            link.reply.take_passable(&mut link.lease.input);
            if link.dues.is_empty() {
                return Some(());
            }
            match link.scan(&mut nobody).ok()? {
                Some(Signal::Error { fatal: false, len, .. }) => {
                    if let Some(Signal::Skipped(dues)) = link.pass_error(len).ok()? {
                        link.forget_skipped(&dues);
                    }
                    link.forget_prepared();
                    if link.forgetting.iter().any(|forgetting| forgetting.message == link.dues.first()) {
                        return None;
                    }
                }
                Some(Signal::Error { .. }) => return None,
                Some(_) => {}
                None if link.dues.is_empty() => return Some(()),
                None => {
                    let lease = &mut *link.lease;
                    lease.input.reserve(4096);
                    let read = tokio_util::io::read_buf(&mut lease.stream, &mut lease.input).await.ok()?;
                    (read > 0).then_some(())?;
                }
            }
        }
    };
    if let Ok(Some(())) = tokio::time::timeout(LIMIT, finished).await
        && (link.status == TransactionStatus::Idle || link.lease.query("ROLLBACK").await.is_ok())
    {
        link.lease.release(Instant::now());
    }
}

/// A connection whose server has answered with an error, which is still to be passed on, is not needed any more: the batches run elsewhere.
pub(super) fn recycle(mut link: Link, error: usize) {
    match link.pass_error(error) {
        Ok(Some(Signal::Skipped(dues))) => link.forget_skipped(&dues),
        Ok(_) => {}
        Err(_) => return,
    }
    if !link.forgetting.is_empty() {
        // Nobody knows which statements it has.
        return;
    }
    if link.dues.is_skipping() {
        // Its end has not been sent.
        frontend::put_sync(&mut link.lease.output);
        link.dues.push(Kind::Sync, Fate::Us);
    }
    link.forget_prepared();
    tokio::spawn(drain(link));
}
