//! What a session has left on a server connection, as the server tells it: the text of a statement can only raise the suspicion.

use std::fmt;

use super::settings::{Settings, ascii_expression};
use crate::decide::sql::Effects;

/// So many channels are remembered; of a session that listens to more, none.
const MAX_CHANNELS: usize = 1000;

/// Why a session keeps its server connection outside a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pin {
    TemporaryObject,
    AdvisoryLock,
    HoldCursor,
    Listen,
    /// Something was prepared where pgpilot could not see it (in a function, in a text it could not parse), or under a name
    /// that it does not replace.
    HiddenPrepare,
    /// One that its server drops when the connection ends.
    ReplicationSlot,
    /// `setseed()`: the connection's random numbers are those that the session has asked for.
    RandomSeed,
    /// dblink's connections to other databases.
    Dblink,
    /// A backup that the connection has begun.
    Backup,
    ReplicationOrigin,
    /// LOAD.
    Library,
    /// The session asks for `currval()` or `lastval()` between its transactions: from the first time on it keeps its connection.
    SequenceState,
    /// The topology file's pool mode.
    SessionMode,
}

impl Pin {
    /// In the order of their declaration; counters are numbered by it. The length is the last one's number, so that a
    /// new one cannot be forgotten here.
    pub const ALL: [Pin; Pin::SessionMode as usize + 1] = [
        Pin::TemporaryObject,
        Pin::AdvisoryLock,
        Pin::HoldCursor,
        Pin::Listen,
        Pin::HiddenPrepare,
        Pin::ReplicationSlot,
        Pin::RandomSeed,
        Pin::Dblink,
        Pin::Backup,
        Pin::ReplicationOrigin,
        Pin::Library,
        Pin::SequenceState,
        Pin::SessionMode,
    ];

    /// Stable: a metric label, and part of the console's output.
    pub fn label(self) -> &'static str {
        match self {
            Pin::TemporaryObject => "temporary_object",
            Pin::AdvisoryLock => "advisory_lock",
            Pin::HoldCursor => "hold_cursor",
            Pin::Listen => "listen",
            Pin::HiddenPrepare => "hidden_prepare",
            Pin::ReplicationSlot => "replication_slot",
            Pin::RandomSeed => "random_seed",
            Pin::Dblink => "dblink",
            Pin::Backup => "backup",
            Pin::ReplicationOrigin => "replication_origin",
            Pin::Library => "library",
            Pin::SequenceState => "sequence_state",
            Pin::SessionMode => "session_mode",
        }
    }

    /// What such statements hold from now on, and no server tells of: until the session ends.
    pub fn lasting(effects: Effects) -> impl Iterator<Item = Pin> {
        const LASTING: [(Effects, Pin); 5] = [
            (Effects::SEED, Pin::RandomSeed),
            (Effects::CONNECTS, Pin::Dblink),
            (Effects::BACKUP, Pin::Backup),
            (Effects::ORIGIN, Pin::ReplicationOrigin),
            (Effects::LIBRARY, Pin::Library),
        ];
        LASTING.into_iter().filter(move |(effect, _)| effects.contains(*effect)).map(|(_, pin)| pin)
    }

    /// Whether DISCARD ALL leaves it: the connection is of no use to anybody else.
    pub fn outlives_discard(self) -> bool {
        match self {
            Pin::ReplicationSlot
            | Pin::RandomSeed
            | Pin::Dblink
            | Pin::Backup
            | Pin::ReplicationOrigin
            | Pin::Library => true,
            Pin::TemporaryObject
            | Pin::AdvisoryLock
            | Pin::HoldCursor
            | Pin::Listen
            | Pin::HiddenPrepare
            | Pin::SequenceState
            | Pin::SessionMode => false,
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// The server's answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    pub settings: Settings,
    pub pins: Vec<Pin>,
    /// What it listens to, if those are not too many to be remembered.
    pub channels: Vec<String>,
}

/// The server answered something else than what [`inventory_sql`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server's inventory of the session cannot be read")]
pub struct InventoryError;

const STATEMENT_TIMEOUT: &str = "statement_timeout";

/// The question. `pg_settings` knows what was set in the session, but neither placeholders (`app.user`) nor the identity: those are asked for by name.
///
/// The answer is in ASCII, whatever the client's encoding is: see [`escaped`].
///
/// Every name is qualified: the session's search_path, or a temporary table, must not answer in the catalogue's place.
pub fn inventory_sql<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let mut sql = String::new();
    let mut unasked = "'transaction_isolation','transaction_read_only','transaction_deferrable'".to_owned();
    if names.contains(&STATEMENT_TIMEOUT) {
        unasked.push_str(",'statement_timeout'");
        // The client's limit is for the client's statements. It is read before it is lifted, for this one message.
        sql.push_str(
            "SELECT 'c', 'statement_timeout', pg_catalog.current_setting('statement_timeout');\
             SET LOCAL statement_timeout = 0;",
        );
    }
    let (channel, limit) = (escaped("channel"), MAX_CHANNELS + 1);
    let (setting, role, authorization) = (
        escaped("setting"),
        escaped("pg_catalog.current_setting('role')"),
        escaped("pg_catalog.current_setting('session_authorization')"),
    );
    sql.push_str(&format!(
        "SELECT 's', name, {setting} FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session' \
         AND name OPERATOR(pg_catalog.<>) ALL (ARRAY[{unasked}]) \
         UNION ALL SELECT 'i', 'role', {role} \
         UNION ALL SELECT 'i', 'session_authorization', {authorization} \
         UNION ALL SELECT 'p', 'temporary_object', NULL WHERE pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 \
         AND (EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
         OR EXISTS (SELECT FROM pg_catalog.pg_type WHERE typnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
         OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())) \
         UNION ALL SELECT 'p', 'advisory_lock', NULL WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
         WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()) \
         UNION ALL SELECT 'p', 'hold_cursor', NULL WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
         UNION ALL (SELECT 'l', {channel}, NULL FROM pg_catalog.pg_listening_channels() AS l (channel) LIMIT {limit}) \
         UNION ALL SELECT 'p', 'hidden_prepare', NULL WHERE EXISTS (SELECT FROM pg_catalog.pg_prepared_statements \
         WHERE name OPERATOR(pg_catalog.!~~) 'pgpilot%') \
         UNION ALL SELECT 'p', 'replication_slot', NULL WHERE EXISTS (SELECT FROM pg_catalog.pg_replication_slots \
         WHERE temporary AND active_pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())",
    ));
    for name in names.into_iter().filter(|name| name.contains('.')) {
        let name = ascii_expression(name);
        let value = escaped(&format!("pg_catalog.current_setting({name}, true)"));
        sql.push_str(&format!(" UNION ALL SELECT 'c', {}, {value}", escaped(&name)));
    }
    sql
}

/// A text in UTF-8, in which a backslash is two and every other byte than ASCII is a backslash and three octal digits (the format `escape` of `encode`):
/// what servers send as text is in the client's encoding, which need not have its characters. A database in SQL_ASCII has no characters, but bytes, and
/// from MULE_INTERNAL there is no way to UTF-8: those come as they are.
fn escaped(text: &str) -> String {
    format!(
        "pg_catalog.encode(pg_catalog.convert_to({text}, CASE WHEN pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.=) \
         ANY (ARRAY['SQL_ASCII','MULE_INTERNAL']::pg_catalog.name[]) THEN pg_catalog.getdatabaseencoding() \
         ELSE 'UTF8'::pg_catalog.name END), 'escape')"
    )
}

/// The text of which [`escaped`] made this. What is not UTF-8 comes from a database without characters.
fn unescaped(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, after @ ..] = rest {
        let octal = after.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        let (byte, used) = match (first, octal) {
            (b'\\', Some(byte)) => (byte, 4),
            (b'\\', None) => (b'\\', 2),
            (byte, _) => (*byte, 1),
        };
        bytes.push(byte);
        rest = rest.get(used..).unwrap_or_default();
    }
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

impl Inventory {
    /// Reads the rows of the answer; `login` is the user that the connection was opened as.
    ///
    /// # Errors
    /// A row is not of the form asked for.
    pub fn read<'a>(
        rows: impl IntoIterator<Item = &'a [Option<String>]>,
        login: &str,
    ) -> Result<Inventory, InventoryError> {
        let mut inventory = Inventory::default();
        for row in rows {
            let [Some(kind), Some(name), value] = row else { return Err(InventoryError) };
            // What was not escaped has no backslash.
            let (name, value) = (unescaped(name), value.as_deref().map(unescaped));
            match (kind.as_str(), name.as_str(), value.as_deref()) {
                // Servers write some names with capitals (`DateStyle`), clients as they like.
                ("s", name, Some(value)) => inventory.settings.insert(&name.to_lowercase(), value),
                ("i", "role", Some("none")) => {}
                ("i", "session_authorization", Some(value)) if value == login => {}
                ("i", name, Some(value)) => inventory.settings.insert(name, value),
                // A placeholder that was reset is empty, not absent.
                ("c", _, None | Some("")) => {}
                ("c", name, Some(value)) => inventory.settings.insert(name, value),
                ("p", name, _) => inventory.pins.push(pin(name).ok_or(InventoryError)?),
                ("l", channel, _) => inventory.channels.push(channel.to_owned()),
                _ => return Err(InventoryError),
            }
        }
        if !inventory.channels.is_empty() {
            inventory.pins.push(Pin::Listen);
        }
        if inventory.channels.len() > MAX_CHANNELS {
            inventory.channels.clear();
        }
        Ok(inventory)
    }
}

fn pin(label: &str) -> Option<Pin> {
    const TOLD: [Pin; 5] =
        [Pin::TemporaryObject, Pin::AdvisoryLock, Pin::HoldCursor, Pin::HiddenPrepare, Pin::ReplicationSlot];
    TOLD.into_iter().find(|pin| pin.label() == label)
}

/// Listens to these channels, in ASCII: an identifier with escapes is the same in every client encoding.
pub fn listen_sql(channels: &[String]) -> String {
    let mut sql = String::new();
    for channel in channels {
        sql.push_str(if channel.is_ascii() { "LISTEN \"" } else { "LISTEN U&\"" });
        for c in channel.chars() {
            match c {
                '"' => sql.push_str("\"\""),
                '\\' if !channel.is_ascii() => sql.push_str("\\\\"),
                c if c.is_ascii() => sql.push(c),
                c => sql.push_str(&format!("\\+{:06x}", u32::from(c))),
            }
        }
        sql.push_str("\";");
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: &str, name: &str, value: Option<&str>) -> [Option<String>; 3] {
        [Some(kind.to_owned()), Some(name.to_owned()), value.map(str::to_owned)]
    }

    #[test]
    fn what_is_as_at_login_is_not_state() {
        let rows = [
            row("s", "work_mem", Some("4096")),
            row("s", "TimeZone", Some("UTC")),
            row("i", "role", Some("none")),
            row("i", "session_authorization", Some("app")),
            row("c", "app.tenant", Some("7")),
            row("c", "app.gone", Some("")),
            row("l", r"caf\303\251", None),
        ];
        let inventory = Inventory::read(rows.iter().map(|row| &row[..]), "app").unwrap();
        assert_eq!(
            inventory.settings,
            Settings::from_iter([("work_mem", "4096"), ("timezone", "UTC"), ("app.tenant", "7")])
        );
        assert_eq!((inventory.pins, inventory.channels), (vec![Pin::Listen], vec!["café".to_owned()]));
        let many: Vec<_> = (0..=MAX_CHANNELS).map(|n| row("l", &n.to_string(), None)).collect();
        let inventory = Inventory::read(many.iter().map(|row| &row[..]), "app").unwrap();
        assert_eq!((inventory.pins, inventory.channels), (vec![Pin::Listen], vec![]));
        let other = [row("i", "session_authorization", Some("boss"))];
        let inventory = Inventory::read(other.iter().map(|row| &row[..]), "app").unwrap();
        assert_eq!(inventory.settings.get("session_authorization"), Some("boss"));
        assert!(Inventory::read([&row("p", "what", None)[..]], "app").is_err());
    }

    #[test]
    fn channels_are_named_in_ascii() {
        let channels = ["news", "a\"b\\c", "caf\u{e9}\\", "\u{1f418}"].map(str::to_owned);
        assert_eq!(
            listen_sql(&channels),
            "LISTEN \"news\";LISTEN \"a\"\"b\\c\";LISTEN U&\"caf\\+0000e9\\\\\";LISTEN U&\"\\+01f418\";"
        );
    }

    #[test]
    fn values_survive_any_encoding() {
        for (answer, value) in [
            (r"a\303\251b", "aéb"),
            (r"c:\\101", r"c:\101"),
            (r"\\\\\303\274", r"\\ü"),
            ("plain 'quoted'", "plain 'quoted'"),
            (r"torn\", r"torn\"),
        ] {
            assert_eq!(unescaped(answer), value, "{answer}");
        }
        assert!(inventory_sql(["app.größe"]).is_ascii());
    }

    #[test]
    fn only_placeholders_are_asked_for_by_name() {
        let sql = inventory_sql(["work_mem", "app.o'x"]);
        assert!(!sql.contains("work_mem"));
        // A limit that somebody may have set unseen is a setting like any other; one that is known must not end the question.
        assert!(!sql.contains(STATEMENT_TIMEOUT));
        assert!(inventory_sql([STATEMENT_TIMEOUT]).contains("'transaction_deferrable','statement_timeout'])"));
        assert!(sql.contains("convert_to(pg_catalog.current_setting('app.o''x', true), CASE"));
    }
}
