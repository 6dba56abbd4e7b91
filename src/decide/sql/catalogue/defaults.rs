//! The `search_path` of sessions that have set none: of the role, the database, the server.

use std::collections::HashMap;

/// What the settings of roles, of the database, and of the server's configuration say, as a catalogue was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Defaults {
    /// By role; the empty name stands for all of them.
    roles: HashMap<Box<str>, Given>,
    /// The role that asked, and what it would have.
    asked: Option<(Box<str>, Box<str>)>,
}

/// What `ALTER ROLE .. SET` and `ALTER DATABASE .. SET` have laid down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Given {
    /// In this database alone.
    here: Option<Box<str>>,
    everywhere: Option<Box<str>>,
    /// Sessions become somebody else when they begin.
    changes_identity: bool,
}

/// Where a setting holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Database,
    Everywhere,
}

impl Defaults {
    /// `role` is empty for all roles.
    pub(super) fn give(&mut self, role: &str, scope: Scope, setting: &str, value: &str) {
        let given = self.roles.entry(role.into()).or_default();
        match (setting, scope) {
            ("search_path", Scope::Database) => given.here = Some(value.into()),
            ("search_path", Scope::Everywhere) => given.everywhere = Some(value.into()),
            _ => given.changes_identity = true,
        }
    }

    /// What a session of `role` would have that gives no settings of its own.
    pub(super) fn asked(&mut self, role: &str, value: &str) {
        self.asked = Some((role.into(), value.into()));
    }

    /// What a session of `user` begins with; `None` if that is not known.
    pub(super) fn search_path(&self, user: &str) -> Option<&str> {
        let all = self.roles.get("");
        let changes_identity = |given: Option<&Given>| given.is_some_and(|given| given.changes_identity);
        if changes_identity(all) || changes_identity(self.roles.get(user)) {
            return None;
        }
        self.laid_down(user).or_else(|| {
            // What the server's configuration says is known by a role for which nothing else is said.
            let (asker, value) = self.asked.as_ref()?;
            self.laid_down(asker).is_none().then_some(&**value)
        })
    }

    /// The narrowest first (`process_settings` in `src/backend/utils/init/postinit.c`).
    fn laid_down(&self, user: &str) -> Option<&str> {
        let (own, all) = (self.roles.get(user), self.roles.get(""));
        own.and_then(|given| given.here.as_deref())
            .or_else(|| own.and_then(|given| given.everywhere.as_deref()))
            .or_else(|| all.and_then(|given| given.here.as_deref()))
            .or_else(|| all.and_then(|given| given.everywhere.as_deref()))
    }
}
