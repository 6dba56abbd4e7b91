//! Scripts for psql, as far as PostgreSQL's regression tests need it: statements, data of COPY, and the meta-commands
//! that change what is run.

use std::collections::HashMap;

/// Reads one script, statement by statement.
pub(super) struct Script {
    text: Vec<char>,
    at: usize,
    pub(super) variables: HashMap<String, String>,
    /// One entry per open `\if`: whether its branch is taken, and whether any branch was.
    conditions: Vec<(bool, bool)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Run {
        text: String,
        data: Vec<u8>,
        then: Then,
    },
    /// `\connect database user`; empty: as before.
    Connect {
        database: String,
        user: String,
    },
}

/// What is done with the result.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Then {
    Show,
    /// `\gset prefix`
    Set(String),
    /// `\gexec`
    Execute,
}

/// A statement that is being read.
#[derive(Default)]
struct Draft {
    text: String,
    parentheses: usize,
    /// The first words, and how many BEGIN and CASE are open in the body of a function.
    words: Vec<String>,
    blocks: usize,
}

impl Script {
    pub(super) fn new(text: &str, variables: HashMap<String, String>) -> Self {
        Script { text: text.chars().collect(), at: 0, variables, conditions: Vec::new() }
    }

    pub(super) fn next(&mut self) -> Option<Step> {
        let mut draft = Draft::default();
        loop {
            let Some(c) = self.peek(0) else {
                let text = std::mem::take(&mut draft.text);
                let live = !text.trim().is_empty() && self.is_live();
                return live.then(|| Step::Run { text, data: Vec::new(), then: Then::Show });
            };
            match c {
                ';' if draft.parentheses == 0 && draft.blocks == 0 => {
                    self.at += 1;
                    if let Some(step) = self.finish(&mut draft, Then::Show) {
                        return Some(step);
                    }
                }
                '\\' => {
                    if let Some(step) = self.meta(&mut draft) {
                        return Some(step);
                    }
                }
                ':' => self.variable(&mut draft),
                _ => self.copy(&mut draft, c),
            }
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.text.get(self.at + ahead).copied()
    }

    fn starts(&self, prefix: &str) -> bool {
        prefix.chars().enumerate().all(|(i, c)| self.peek(i) == Some(c))
    }

    fn is_live(&self) -> bool {
        self.conditions.iter().all(|(live, _)| *live)
    }

    fn finish(&mut self, draft: &mut Draft, then: Then) -> Option<Step> {
        let text = std::mem::take(draft).text;
        if text.trim().is_empty() {
            return None;
        }
        let words = text.to_lowercase();
        let copies = words.trim_start().starts_with("copy") && words.contains("stdin");
        let data = if copies { self.data() } else { Vec::new() };
        self.is_live().then_some(Step::Run { text, data, then })
    }

    /// The lines up to `\.`
    fn data(&mut self) -> Vec<u8> {
        self.line();
        let mut data = String::new();
        while self.at < self.text.len() {
            let line = self.line();
            if line.trim_end() == "\\." {
                break;
            }
            data += &line;
            data.push('\n');
        }
        data.into_bytes()
    }

    fn line(&mut self) -> String {
        let rest = &self.text[self.at..];
        let end = rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
        let line = rest[..end].iter().collect();
        self.at += (end + 1).min(rest.len());
        line
    }

    /// Copies one token, or a character of white space.
    fn copy(&mut self, draft: &mut Draft, c: char) {
        let start = self.at;
        let rest = &self.text[start..];
        let previous = start.checked_sub(1).map_or(' ', |i| self.text[i]);
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let length = match c {
            '-' if self.starts("--") => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            '/' if self.starts("/*") => comment(rest),
            '\'' => quoted(rest, '\'', previous.eq_ignore_ascii_case(&'e')),
            '"' => quoted(rest, '"', false),
            '$' if !is_word(previous) => dollar(rest).unwrap_or(1),
            c if c.is_alphabetic() || c == '_' => {
                let end = rest.iter().position(|c| !is_word(*c)).unwrap_or(rest.len());
                // A prefix belongs to its string.
                let length = if rest.get(end) == Some(&'\'') && end == 1 { 1 } else { end };
                draft.word(&rest[..length].iter().collect::<String>().to_lowercase());
                length
            }
            _ => 1,
        };
        match c {
            '(' => draft.parentheses += 1,
            ')' => draft.parentheses = draft.parentheses.saturating_sub(1),
            _ => {}
        }
        let comment = matches!(c, '-' | '/') && length > 1;
        if !(draft.text.is_empty() && (comment || c.is_whitespace())) {
            draft.text.extend(&rest[..length]);
        }
        self.at += length;
    }

    /// `:name`, `:'name'` and `:"name"`, where the variable is set; anything else stays as it is.
    fn variable(&mut self, draft: &mut Draft) {
        let quote = self.peek(1).filter(|c| matches!(c, '\'' | '"'));
        let start = self.at + 1 + usize::from(quote.is_some());
        let name: String = self.text[start..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
        let end = start + name.chars().count();
        let closed = quote.is_none() || self.text.get(end) == quote.as_ref();
        match self.variables.get(&name).filter(|_| closed && self.peek(1) != Some(':')) {
            Some(value) => {
                match quote {
                    Some(q) => draft.text += &format!("{q}{}{q}", value.replace(q, &format!("{q}{q}"))),
                    None => draft.text += value,
                }
                self.at = end + usize::from(quote.is_some());
            }
            None => {
                let length = if self.starts("::") { 2 } else { 1 };
                draft.text.extend(&self.text[self.at..self.at + length]);
                self.at += length;
            }
        }
    }

    /// A meta-command, up to the end of its line.
    fn meta(&mut self, draft: &mut Draft) -> Option<Step> {
        if self.starts("\\;") {
            draft.text.push(';');
            self.at += 2;
            return None;
        }
        let line = self.line();
        let (name, rest) = line[1..].split_once(char::is_whitespace).unwrap_or((&line[1..], ""));
        let name = name.trim_end_matches(';');
        let arguments = self.arguments(rest);
        let argument = |n: usize| arguments.get(n).cloned().unwrap_or_default();
        let truth = || matches!(argument(0).to_lowercase().as_str(), "t" | "true" | "on" | "yes" | "1");
        match name {
            "if" => {
                let live = truth();
                self.conditions.push((live, live));
            }
            "elif" => {
                let live = truth();
                if let Some(last) = self.conditions.last_mut() {
                    *last = (live && !last.1, last.1 || live);
                }
            }
            "else" => {
                if let Some(last) = self.conditions.last_mut() {
                    *last = (!last.1, true);
                }
            }
            "endif" => drop(self.conditions.pop()),
            _ if !self.is_live() => {}
            "set" => drop(self.variables.insert(argument(0), arguments.get(1..).unwrap_or_default().concat())),
            "unset" => drop(self.variables.remove(&argument(0))),
            "getenv" => {
                if let Some(value) = self.variables.get(&argument(1)).cloned() {
                    self.variables.insert(argument(0), value);
                }
            }
            "q" | "quit" => self.at = self.text.len(),
            "c" | "connect" => {
                let given = |n| Some(argument(n)).filter(|name| name != "-").unwrap_or_default();
                return Some(Step::Connect { database: given(0), user: given(1) });
            }
            "copy" if rest.to_lowercase().contains("from stdin") => {
                let data = self.data();
                return Some(Step::Run { text: format!("COPY {rest}"), data, then: Then::Show });
            }
            "g" | "gx" | "gdesc" | "crosstabview" => return self.finish(draft, Then::Show),
            "gset" => return self.finish(draft, Then::Set(argument(0))),
            "gexec" => return self.finish(draft, Then::Execute),
            _ => {}
        }
        None
    }

    fn arguments(&self, text: &str) -> Vec<String> {
        let mut all = Vec::new();
        for word in text.trim().trim_end_matches(';').split_whitespace() {
            let name = word.strip_prefix(':').map(|name| name.trim_matches(['\'', '"']));
            all.push(match name {
                Some(name) => self.variables.get(name).cloned().unwrap_or_default(),
                None => word.trim_matches('\'').to_owned(),
            });
        }
        all
    }
}

impl Draft {
    fn word(&mut self, word: &str) {
        if self.words.len() < 5 {
            self.words.push(word.to_owned());
        }
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let routine = matches!(
            words[..],
            ["create", "function" | "procedure", ..] | ["create", "or", "replace", "function" | "procedure", ..]
        );
        match word {
            "begin" if routine => self.blocks += 1,
            "case" if self.blocks > 0 => self.blocks += 1,
            "end" => self.blocks = self.blocks.saturating_sub(1),
            _ => {}
        }
    }
}

fn comment(rest: &[char]) -> usize {
    let (mut depth, mut i) = (0, 0);
    while i < rest.len() {
        match (rest[i], rest.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 1),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 1),
            _ => {}
        }
        i += 1;
        if depth == 0 {
            break;
        }
    }
    i
}

fn quoted(rest: &[char], quote: char, escapes: bool) -> usize {
    let mut i = 1;
    while i < rest.len() {
        match rest[i] {
            '\\' if escapes => i += 1,
            c if c == quote && rest.get(i + 1) == Some(&quote) => i += 1,
            c if c == quote => return i + 1,
            _ => {}
        }
        i += 1;
    }
    rest.len()
}

fn dollar(rest: &[char]) -> Option<usize> {
    let length = 1 + rest[1..].iter().position(|c| !(c.is_alphanumeric() || *c == '_'))?;
    if rest[length] != '$' || rest[1].is_ascii_digit() {
        return None;
    }
    let tag = &rest[..=length];
    let body = length + 1;
    let end = rest[body..].windows(tag.len()).position(|part| part == tag)?;
    Some(body + end + tag.len())
}

#[test]
fn scripts_are_taken_apart_as_psql_does() {
    let text = "-- c;\nSELECT ';', $$;$$ -- ;\n;\n\\set x 'a' b\n\\if :no\nSELECT 0;\n\\else\nSELECT :'x', y::int \\gset p_\n\\endif\n\
                COPY t FROM STDIN;\n1;\n\\.\n\\c - joe\nSELECT 1\\; SELECT E'\\';' (;) ; \
                CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN 1 THEN 2 END; END; DO 1";
    let mut script = Script::new(text, HashMap::from([("no".to_owned(), "false".to_owned())]));
    let mut found = Vec::new();
    while let Some(step) = script.next() {
        found.push(match step {
            Step::Run { text, data, then } => format!("{text}|{}|{then:?}", String::from_utf8(data).unwrap()),
            Step::Connect { database, user } => format!("{database}/{user}"),
        });
    }
    let expected = [
        "SELECT ';', $$;$$ -- ;\n||Show",
        "SELECT 'ab', y::int ||Set(\"p_\")",
        "COPY t FROM STDIN|1;\n|Show",
        "/joe",
        "SELECT 1; SELECT E'\\';' (;) ||Show",
        "CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE WHEN 1 THEN 2 END; END||Show",
        "DO 1||Show",
    ];
    assert_eq!(found, expected);
}
