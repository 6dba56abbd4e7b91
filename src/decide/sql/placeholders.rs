//! Settings of an application's own (`app.tenant`) that are set where no statement of the client's names them: in a function's body, in a block, in a
//! string that is put together there. Servers do not list them (`GUC_CUSTOM_PLACEHOLDER` in src/backend/utils/misc/guc.c), so they are asked for by name.

use super::lex::is_word;

/// Of one text, no more are looked for.
const MOST: usize = 32;
/// No longer name is one.
const LONGEST: usize = 128;

/// The names that `text` sets, or may set, in the order in which they stand there. One too many does no harm.
pub(super) fn placeholders(text: &str) -> Vec<Box<str>> {
    let mut names: Vec<Box<str>> = Vec::new();
    let mut rest = text;
    while let Some((word, behind)) = next_word(rest) {
        rest = behind;
        let name = if word.eq_ignore_ascii_case("set_config") {
            first_argument(rest)
        } else if word.eq_ignore_ascii_case("set") {
            assigned(rest)
        } else {
            None
        };
        if let Some(name) =
            name.map(str::to_ascii_lowercase).filter(|name| !names.iter().any(|known| **known == **name))
        {
            names.push(name.into());
            if names.len() == MOST {
                break;
            }
        }
    }
    names
}

fn is_name(c: char) -> bool {
    !c.is_ascii() || is_word(c as u8)
}

/// The next run of letters and digits, and what comes behind it.
fn next_word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches(|c| !is_name(c));
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// `('app.tenant', ..`; within a string, the quotes are doubled.
fn first_argument(text: &str) -> Option<&str> {
    let text = text.trim_start().strip_prefix('(')?.trim_start();
    let text = text.strip_prefix(['e', 'E']).unwrap_or(text).strip_prefix('\'')?;
    dotted(text.trim_start_matches('\'')).map(|(name, _)| name)
}

/// `[SESSION] app.tenant = ..`
fn assigned(text: &str) -> Option<&str> {
    let (word, behind) = next_word(text)?;
    let text = if word.eq_ignore_ascii_case("session") { behind } else { text };
    let (name, behind) = dotted(text.trim_start())?;
    let behind = behind.trim_start();
    let to = next_word(behind).is_some_and(|(word, _)| behind.starts_with(word) && word.eq_ignore_ascii_case("to"));
    (to || behind.starts_with('=')).then_some(name)
}

/// Two or more identifiers at the beginning of a text, and what comes behind them.
fn dotted(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c| !is_name(c) && c != '.').unwrap_or(text.len());
    let (name, behind) = text.split_at(end);
    let is_identifier = |part: &str| part.starts_with(|c: char| c.is_alphabetic() || c == '_');
    (name.contains('.') && name.len() <= LONGEST && name.split('.').all(is_identifier)).then_some((name, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_text_sets_by_name_is_found() {
        for (text, names) in [
            ("BEGIN PERFORM set_config('app.tenant', x, false); END", "app.tenant"),
            ("SELECT pg_catalog.SET_CONFIG ( E'App.A', 'b', true), set_config('app.a', '', false)", "app.a"),
            ("EXECUTE 'SELECT set_config(''app.b'', ''x'', false)'", "app.b"),
            ("SET app.c = 'x'; SET SESSION app.d TO 1; SET work_mem = 1; SET LOCAL x.y = 1", "app.c app.d"),
            ("EXECUTE format('SET app.e = %L', v); UPDATE t SET a = b.c", "app.e"),
            ("SELECT set_config(name, 'x', false), set_config('work_mem', 'x', false), set_config('", ""),
            ("reset_config('a.b'); offset a.b; set", ""),
        ] {
            assert_eq!(placeholders(text).join(" "), names, "{text}");
        }
    }
}
