//! What a changed topology file changes for sessions that are there.

use std::sync::atomic::Ordering;

use super::client::Client;
use super::session::Session;
use crate::decide::route::Policy;

impl Client {
    /// Between batches. Its user's way of pooling stays as it was when the session began, and so does what the session has set itself.
    #[inline]
    pub(super) fn heed_reload(&mut self) {
        let generation = self.shared.generation.load(Ordering::Acquire);
        let goes_on = self.link.as_ref().is_some_and(|link| link.batch_open);
        if generation != self.generation && !goes_on && self.transaction.is_idle() {
            self.generation = generation;
            self.session.reconfigure(self.shared.policy(&self.who));
            self.who.limits = self.shared.config.load().clients.clone();
            self.verdicts = self.shared.verdicts(&self.who.database);
            self.session.names.outdate();
            // A node may have gone and come back.
            self.pools.clear();
        }
    }

    /// Whether the file has changed since what is under way was sent: what begins from now on goes by the new one.
    #[inline]
    pub(super) fn is_outdated(&self) -> bool {
        self.shared.generation.load(Ordering::Relaxed) != self.generation
    }
}

impl Session {
    fn reconfigure(&mut self, configured: Policy) {
        self.policy = configured.clone();
        self.configured = configured;
        self.change_own_settings(|_| {});
    }
}
