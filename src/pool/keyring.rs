//! With what pgpilot logs in to the servers in its clients' names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;

use crate::decide::auth::Credential;

/// The key of every user of whom there is a session or a pool, one for all nodes and databases: as for the servers, a
/// user has one password. So a session that logged in before a change of the password has no old one to bring along.
#[derive(Default)]
pub struct Keyring {
    users: Mutex<Users>,
}

#[derive(Default)]
struct Users {
    keys: HashMap<Arc<str>, Weak<UserKey>>,
    /// Keys that nobody holds any more are looked for when there are so many.
    sweep_at: usize,
}

/// What the user's last client that had to prove itself has left.
pub struct UserKey {
    newest: ArcSwap<Credential>,
}

/// Fewer are not worth a sweep.
const SWEEP_FROM: usize = 64;

impl Keyring {
    /// A client has just been let in as `user`, with this credential. One who had to prove nothing takes nothing away.
    pub fn prove(&self, user: &Arc<str>, credential: Credential) -> Arc<UserKey> {
        // Under the lock, so that the order of the calls is the order of the keys.
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = users.keys.get(user).and_then(Weak::upgrade) {
            key.renew(credential);
            return key;
        }
        if users.keys.len() >= users.sweep_at {
            users.keys.retain(|_, key| key.strong_count() > 0);
            users.sweep_at = (2 * users.keys.len()).max(SWEEP_FROM);
        }
        let key = Arc::new(UserKey { newest: ArcSwap::from_pointee(credential) });
        users.keys.insert(user.clone(), Arc::downgrade(&key));
        key
    }
}

impl UserKey {
    pub(super) fn newest(&self) -> Arc<Credential> {
        self.newest.load_full()
    }

    /// A login with `used` has derived keys, which are in `learned`. They are of no use if `used` is not the newest any more.
    pub(super) fn learned(&self, used: &Arc<Credential>, learned: Credential) {
        self.newest.compare_and_swap(used, Arc::new(learned));
    }

    /// Whether the user has proved itself with another secret since `used` was the newest.
    pub(super) fn has_changed_since(&self, used: &Credential) -> bool {
        !self.newest.load().is_same_secret(used)
    }

    fn renew(&self, credential: Credential) {
        let known = self.newest.load();
        // The same password: keys that have been derived from it stay.
        if credential != Credential::Absent && !known.is_same_secret(&credential) {
            self.newest.store(Arc::new(credential));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn password(text: &str) -> Credential {
        Credential::password(Secret::new(text.to_owned()))
    }

    #[test]
    fn the_newest_proof_counts_and_no_proof_takes_nothing_away() {
        let (ring, user) = (Keyring::default(), Arc::from("app"));
        let first = ring.prove(&user, Credential::Absent);
        let used = first.newest();
        assert!(*used == Credential::Absent);
        let second = ring.prove(&user, password("old"));
        assert!(Arc::ptr_eq(&first, &second), "one key for all of a user's sessions");
        let old = first.newest();
        ring.prove(&user, password("new"));
        assert!(first.has_changed_since(&old));
        // A login with the old one comes to its end now.
        first.learned(&old, password("old"));
        ring.prove(&user, Credential::Absent);
        assert!(*first.newest() == password("new"));
        let newest = first.newest();
        ring.prove(&user, password("new"));
        assert!(Arc::ptr_eq(&newest, &first.newest()) && !first.has_changed_since(&newest));
    }

    #[test]
    fn users_who_are_gone_are_forgotten() {
        let ring = Keyring::default();
        let kept = ring.prove(&Arc::from("kept"), password("x"));
        for n in 0..10 * SWEEP_FROM {
            ring.prove(&Arc::from(format!("user{n}")), Credential::Absent);
        }
        assert!(ring.users.lock().unwrap().keys.len() <= SWEEP_FROM);
        assert!(Arc::ptr_eq(&kept, &ring.prove(&Arc::from("kept"), Credential::Absent)));
    }
}
