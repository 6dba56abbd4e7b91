//! A replica's `primary_conninfo`: where it streams from.
//!
//! Source: PostgreSQL's documentation, "Connection Strings", keyword/value form; fe-connect.c, `conninfo_parse`.

use std::fmt::Write;

/// Put behind a replica's `primary_conninfo`, it names a place where nobody listens: the last value of a keyword counts.
/// What stands before it is what the replica is to go back to, so that nobody else has to remember that.
const SEAL: &str = " host=/pgpilot-sealed hostaddr='' port=1";

/// The value that cuts a replica off.
pub fn sealed(conninfo: &str) -> String {
    format!("{}{SEAL}", unsealed(conninfo))
}

/// The value before it was sealed.
pub fn unsealed(conninfo: &str) -> &str {
    conninfo.strip_suffix(SEAL).unwrap_or(conninfo)
}

pub fn is_sealed(conninfo: &str) -> bool {
    conninfo.ends_with(SEAL)
}

/// The text is no connection string in keyword/value form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("primary_conninfo is not in keyword/value form")]
pub struct NotKeywords;

/// The same connection, to another host and port.
///
/// # Errors
/// A text that is not in keyword/value form.
pub fn to_host(conninfo: &str, host: &str, port: u16) -> Result<String, NotKeywords> {
    let mut pairs = parse(unsealed(conninfo))?;
    pairs.retain(|(keyword, _)| !matches!(keyword.as_str(), "host" | "hostaddr" | "port"));
    pairs.insert(0, ("port".to_owned(), port.to_string()));
    pairs.insert(0, ("host".to_owned(), host.to_owned()));
    let mut text = String::new();
    for (keyword, value) in pairs {
        let separator = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{separator}{keyword}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
    }
    Ok(text)
}

/// Whether it leads to this host and port already.
pub fn leads_to(conninfo: &str, host: &str, port: u16) -> bool {
    let address = value(conninfo, "hostaddr").filter(|address| !address.is_empty()).or_else(|| value(conninfo, "host"));
    let port_of = value(conninfo, "port").unwrap_or_else(|| "5432".to_owned());
    address.is_some_and(|address| address.eq_ignore_ascii_case(host)) && port_of == port.to_string()
}

/// The value that counts of a keyword, which is its last one; `None`: it has none, or the text is not of this form.
pub fn value(conninfo: &str, keyword: &str) -> Option<String> {
    let pairs = parse(conninfo).ok()?;
    pairs.into_iter().rev().find(|(name, _)| name == keyword).map(|(_, value)| value)
}

fn parse(text: &str) -> Result<Vec<(String, String)>, NotKeywords> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (keyword, after) = rest.split_once('=').ok_or(NotKeywords)?;
        let keyword = keyword.trim();
        if keyword.is_empty() || keyword.contains(char::is_whitespace) {
            return Err(NotKeywords);
        }
        let after = after.trim_start();
        let (value, after) = match after.strip_prefix('\'') {
            Some(quoted) => up_to(quoted, |c| c == '\'').ok_or(NotKeywords)?,
            None => up_to(after, char::is_whitespace).unwrap_or_else(|| (unescaped(after), "")),
        };
        pairs.push((keyword.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// The value up to an end that is not escaped, and what follows that end; `None`: there is no end.
fn up_to(text: &str, ends: impl Fn(char) -> bool) -> Option<(String, &str)> {
    let mut escaped = false;
    for (index, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if ends(c) {
            return Some((unescaped(&text[..index]), &text[index + c.len_utf8()..]));
        }
    }
    None
}

fn unescaped(text: &str) -> String {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        value.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str =
        r"user=replicator password='a \'b\\' host = 10.0.0.1 port=5433 application_name=pg2 hostaddr=10.0.0.1";

    #[test]
    fn only_the_place_changes() {
        let new = to_host(OLD, "10.0.0.2", 5432).unwrap();
        assert_eq!(new, r"host='10.0.0.2' port='5432' user='replicator' password='a \'b\\' application_name='pg2'");
        assert!(leads_to(&new, "10.0.0.2", 5432) && !leads_to(&new, "10.0.0.1", 5433));
        assert_eq!(to_host(&new, "10.0.0.2", 5432).unwrap(), new);
        assert_eq!(to_host("postgresql://10.0.0.1/", "h", 1), Err(NotKeywords));
    }

    #[test]
    fn a_seal_can_be_taken_off() {
        let cut = sealed(OLD);
        assert!(is_sealed(&cut) && !leads_to(&cut, "10.0.0.1", 5433));
        assert_eq!(unsealed(&cut), OLD);
        assert_eq!(sealed(&cut), cut);
        assert!(leads_to(OLD, "10.0.0.1", 5433));
        assert_eq!(to_host(&cut, "h", 1).unwrap(), to_host(OLD, "h", 1).unwrap());
    }
}
