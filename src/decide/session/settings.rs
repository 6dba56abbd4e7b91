//! The settings (GUCs) that a session has changed, and how a server connection is brought to them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// What a session has set, by lower-case name: the values as the server prints them, or as the client gave them at its start. Small: compared as a whole for every lease.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Settings(BTreeMap<Box<str>, Box<str>>);

/// The parameters that a server reports by itself (ParameterStatus), as last reported.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ParameterMap(BTreeMap<Box<str>, Box<str>>);

/// Setting these has to come first: what may be set depends on who one is.
const STATEMENT_TIMEOUT: &str = "statement_timeout";
const IDENTITY: [&str; 2] = ["session_authorization", "role"];

impl Settings {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| &**value)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn insert(&mut self, name: &str, value: &str) {
        self.0.insert(name.into(), value.into());
    }

    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|name| &**name)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// These settings, and those of `below` that they do not have.
    pub fn over(&self, below: &Settings) -> Settings {
        let mut all = below.clone();
        all.0.extend(self.0.iter().map(|(name, value)| (name.clone(), value.clone())));
        all
    }

    /// SQL that takes a connection from `self` to `wanted`; `None` when they are equal. One simple Query, whose statements are one implicit transaction:
    /// either everything is applied or nothing.
    pub fn sql_to(&self, wanted: &Settings) -> Option<String> {
        if self == wanted {
            return None;
        }
        let mut sql = String::new();
        if self.get(STATEMENT_TIMEOUT).is_some() {
            // The client's limit is not for this.
            sql.push_str("SET LOCAL statement_timeout=0;");
        }
        // Who the session is changes who may set what: go back to the login role before anything else, and become somebody else after everything else.
        let identity_differs = IDENTITY.iter().any(|name| self.get(name) != wanted.get(name));
        let had_identity = IDENTITY.iter().any(|name| self.get(name).is_some());
        if had_identity {
            sql.push_str("RESET SESSION AUTHORIZATION;RESET ROLE;");
        }
        let ordinary = |name: &str| !IDENTITY.contains(&name);
        for name in self.names().filter(|name| ordinary(name) && wanted.get(name).is_none()) {
            if name.is_ascii() {
                let _ = write!(sql, "RESET {};", quote_identifier(name));
            } else {
                let _ = write!(sql, "SELECT pg_catalog.set_config({},NULL,false);", ascii_expression(name));
            }
        }
        let is_timeout = |(name, _): &(&str, &str)| *name == STATEMENT_TIMEOUT;
        let timeout = wanted.iter().filter(is_timeout);
        for (name, value) in
            wanted.iter().filter(|(name, _)| ordinary(name)).filter(|pair| !is_timeout(pair)).chain(timeout)
        {
            if self.get(name) != Some(value) {
                let _ = write!(
                    sql,
                    "SELECT pg_catalog.set_config({},{},false);",
                    ascii_expression(name),
                    ascii_expression(value)
                );
            }
        }
        if identity_differs || had_identity {
            for name in IDENTITY {
                if let Some(value) = wanted.get(name) {
                    let _ = write!(sql, "SELECT pg_catalog.set_config('{name}',{},false);", ascii_expression(value));
                }
            }
        }
        Some(sql)
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for Settings {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.as_ref().into(), value.as_ref().into())).collect())
    }
}

impl ParameterMap {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| &**value)
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.0.insert(name.into(), value.into());
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// A time as the value of a setting whose unit is the millisecond (documentation, "Parameter Names and Values").
pub fn milliseconds(value: &str) -> Option<Duration> {
    let value = value.trim();
    let digits = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let unit = match unit.trim_start() {
        "us" => 1e-6,
        "" | "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}

/// A string literal that means `text` whatever `standard_conforming_strings` is.
pub fn quote_literal(text: &str) -> String {
    let escape = if text.contains('\\') { "E" } else { "" };
    format!("{escape}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// An expression for a value, whatever the client's encoding is: of ASCII alone, which all of them have.
pub fn ascii_expression(text: &str) -> String {
    if text.is_ascii() {
        return quote_literal(text);
    }
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("pg_catalog.convert_from(pg_catalog.decode('{hex}','hex'),'UTF8')")
}

/// A setting's name, part by part: `app.user` is two identifiers.
pub fn quote_identifier(name: &str) -> String {
    name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings<const N: usize>(pairs: [(&str, &str); N]) -> Settings {
        pairs.into_iter().collect()
    }

    #[test]
    fn only_differences_are_sent() {
        let from = settings([("work_mem", "4MB"), ("app.user", "1")]);
        let to = settings([("work_mem", "4MB"), ("search_path", r#""a'b", \c"#)]);
        assert_eq!(from.sql_to(&from), None);
        assert_eq!(
            from.sql_to(&to).unwrap(),
            r#"RESET "app"."user";SELECT pg_catalog.set_config('search_path',E'"a''b", \\c',false);"#
        );
    }

    #[test]
    fn times_are_read_as_servers_read_them() {
        let times =
            [("300", 300), ("0", 0), (" 5 s", 5_000), ("1.5min", 90_000), ("2h", 7_200_000), ("1d", 86_400_000)];
        for (text, expected) in times {
            assert_eq!(milliseconds(text), Some(Duration::from_millis(expected)), "{text}");
        }
        for text in ["", "-1", "5 weeks", "s", "1e99d"] {
            assert_eq!(milliseconds(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_sent_is_ascii() {
        let from = settings([("app.größe", "1")]);
        let sql = from.sql_to(&settings([("app.name", "é"), ("role", "ü")])).unwrap();
        assert!(sql.is_ascii(), "{sql}");
        let value = "set_config('app.name',pg_catalog.convert_from(pg_catalog.decode('c3a9','hex'),'UTF8'),false)";
        assert!(sql.contains(value), "{sql}");
    }

    #[test]
    fn identity_is_left_first_and_taken_last() {
        let from = settings([("role", "a"), ("work_mem", "1MB")]);
        let to = settings([("role", "b"), ("work_mem", "2MB")]);
        assert_eq!(
            from.sql_to(&to).unwrap(),
            "RESET SESSION AUTHORIZATION;RESET ROLE;SELECT pg_catalog.set_config('work_mem','2MB',false);\
             SELECT pg_catalog.set_config('role','b',false);"
        );
        let same_role = settings([("role", "a"), ("work_mem", "2MB")]);
        assert!(from.sql_to(&same_role).unwrap().ends_with("set_config('role','a',false);"));
    }
}
