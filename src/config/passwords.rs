//! Where passwords come from: the topology file, the environment, a file of their own, or a passfile in the format of libpq.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::files;
use super::problem::{Findings, Place};
use super::units::Secret;
use super::value::At;

/// What passwords are looked up in.
pub(super) struct Vault<'v> {
    env: &'v dyn Fn(&str) -> Option<String>,
    base: &'v Path,
    passfile: Option<Passfile>,
}

/// The keys of one section that say where its password is.
pub(super) struct Sources<'w> {
    pub(super) section: &'static str,
    pub(super) password: &'w At<Option<Secret>>,
    pub(super) env: &'w At<Option<String>>,
    pub(super) file: &'w At<Option<PathBuf>>,
}

/// The password-related keys of a section as written.
macro_rules! sources {
    ($section:literal, $written:expr) => {
        Sources {
            section: $section,
            password: &$written.password,
            env: &$written.password_env,
            file: &$written.password_file,
        }
    };
}
pub(super) use sources;

/// For whom a passfile is asked.
pub(super) struct Login<'l> {
    /// Host and port of every node.
    pub(super) servers: &'l [(String, u16)],
    /// `None`: whichever.
    pub(super) database: Option<&'l str>,
    pub(super) user: &'l str,
    /// Where the user is named.
    pub(super) place: Place,
}

impl<'v> Vault<'v> {
    pub(super) fn open(
        env: &'v dyn Fn(&str) -> Option<String>,
        base: &'v Path,
        passfile: &At<Option<PathBuf>>,
        findings: &mut Findings<'_>,
    ) -> Self {
        let passfile = passfile.value.as_ref().and_then(|path| {
            let (path, text) = files::read("passfile", &base.join(path), passfile.place, findings)?;
            Some(Passfile::parse(&path, &text, findings))
        });
        Self { env, base, passfile }
    }

    /// The password that a section names, or else the one that the passfile has for `login`.
    pub(super) fn find(&self, sources: &Sources<'_>, login: &Login<'_>, findings: &mut Findings<'_>) -> Option<Secret> {
        if sources.written() {
            return self.named(sources, findings);
        }
        match self.passfile.as_ref()?.look_up(login) {
            Found::One(secret) => Some(secret),
            Found::None => None,
            Found::Several => {
                findings.contradiction(&[login.place], || {
                    let user = login.user;
                    format!("the passfile has several passwords for the user {user:?}; expected the same for all nodes")
                });
                None
            }
        }
    }

    /// The password that a section names itself.
    pub(super) fn named(&self, sources: &Sources<'_>, findings: &mut Findings<'_>) -> Option<Secret> {
        let section = sources.section;
        let places: Vec<_> = sources.places().collect();
        if places.len() > 1 {
            // The last one: it is the one that was added.
            findings.contradiction(&[places[places.len() - 1]], || {
                format!("{section}: expected only one of password, password_env and password_file")
            });
            return None;
        }
        if let Some(password) = &sources.password.value {
            return Some(password.clone());
        }
        let (place, text, origin) = if let Some(name) = &sources.env.value {
            let place = sources.env.place;
            let Some(text) = (self.env)(name) else {
                let message = || format!("{section}.password_env: the environment has no variable {name}");
                findings.contradiction(&[place], message);
                return None;
            };
            (place, Zeroizing::new(text), format!("{section}.password_env: the variable {name}"))
        } else {
            let path = sources.file.value.as_ref()?;
            let key = format!("{section}.password_file");
            let (full, text) = files::read(&key, &self.base.join(path), sources.file.place, findings)?;
            (sources.file.place, text, format!("{key}: {}", full.display()))
        };
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() || line.contains(['\n', '\0']) {
            let found = if line.is_empty() { "is empty" } else { "has several lines" };
            findings.contradiction(&[place], || format!("{origin} {found}; expected one line, the password"));
            return None;
        }
        Some(Secret::new(line.to_owned()))
    }
}

impl Sources<'_> {
    pub(super) fn written(&self) -> bool {
        self.places().next().is_some()
    }

    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        [self.password.place, self.env.place, self.file.place].into_iter().filter(|place| *place != Place::Default)
    }
}

/// The lines of a passfile (PostgreSQL documentation, "The Password File").
struct Passfile(Vec<[Zeroizing<String>; 5]>);

enum Found {
    None,
    One(Secret),
    Several,
}

impl Passfile {
    fn parse(path: &Path, text: &str, findings: &mut Findings<'_>) -> Self {
        let mut entries = Vec::new();
        for (number, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match <[_; 5]>::try_from(fields(line)) {
                Ok(entry) => entries.push(entry),
                Err(_) => {
                    let expected = "expected host:port:database:user:password; this line is passed over".to_owned();
                    findings.warning_elsewhere(path.display().to_string(), number + 1, expected);
                }
            }
        }
        Self(entries)
    }

    /// The first line that matches counts for each server, and all must agree: a role has one password on all nodes.
    fn look_up(&self, login: &Login<'_>) -> Found {
        let mut found: Option<&str> = None;
        for (host, port) in login.servers {
            let Some(password) = self.first(host, *port, login) else { continue };
            if found.is_some_and(|other| other != password) {
                return Found::Several;
            }
            found = Some(password);
        }
        found.map_or(Found::None, |password| Found::One(Secret::new(password.to_owned())))
    }

    fn first(&self, host: &str, port: u16, login: &Login<'_>) -> Option<&str> {
        let port = port.to_string();
        let fits = |pattern: &str, value: &str| pattern == "*" || pattern == value;
        // libpq looks for "localhost" when it connects through the default socket directory.
        let fits_host = |pattern: &str| fits(pattern, host) || (host.starts_with('/') && pattern == "localhost");
        let entry = self.0.iter().find(|[h, p, database, user, _]| {
            fits_host(h)
                && fits(p, &port)
                && login.database.is_none_or(|wanted| fits(database, wanted))
                && fits(user, login.user)
        })?;
        Some(entry[4].as_str()).filter(|password| !password.is_empty())
    }
}

/// Splits at colons; a backslash takes the next character as it is. What follows a fifth field is not looked at, as in libpq.
fn fields(line: &str) -> Vec<Zeroizing<String>> {
    // Made as large as it can become: growing would leave copies of the password behind.
    let empty = || Zeroizing::new(String::with_capacity(line.len()));
    let mut fields = vec![empty()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        let index = fields.len() - 1;
        match c {
            ':' if index == 4 => break,
            ':' => fields.push(empty()),
            '\\' => fields[index].push(chars.next().unwrap_or(c)),
            c => fields[index].push(c),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_as_libpq_does() {
        let split = |line| fields(line).iter().map(|f| f.to_string()).collect::<Vec<_>>();
        assert_eq!(split("h:5432:db:u:p"), ["h", "5432", "db", "u", "p"]);
        assert_eq!(split(r"\:\:1:*:*:a\\b:p:q"), ["::1", "*", "*", r"a\b", "p"]);
        assert_eq!(split(r"h:5432:db:u:p\:q\"), ["h", "5432", "db", "u", r"p:q\"]);
        assert_eq!(split("h:5432"), ["h", "5432"]);
    }
}
