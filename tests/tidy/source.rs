//! Rust source, read just well enough.

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct Source {
    /// Relative to the repository.
    pub(crate) name: String,
    pub(crate) text: String,
    /// The text with everything in comments, strings and character literals blanked.
    pub(crate) code: String,
    /// From here on it is compiled for tests alone.
    pub(crate) first_test_line: usize,
}

pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn rust_files(directory: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> = vec![repository().join(directory)];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(&path).expect("a directory").flatten().map(|entry| entry.path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(Source::read(&path));
        }
    }
    let tests: Vec<String> = found.iter().flat_map(Source::test_modules).collect();
    for file in &mut found {
        let within = |module: &String| file.name.strip_prefix(module).is_some_and(|rest| rest.starts_with(['.', '/']));
        if tests.iter().any(within) {
            file.first_test_line = 1;
        }
    }
    found
}

impl Source {
    pub(crate) fn read(path: &Path) -> Self {
        let name = path.strip_prefix(repository()).unwrap_or(path).to_string_lossy().into_owned();
        let text = fs::read_to_string(path).expect("a Rust file is text");
        let code = blank(&text);
        let tests = ["\n#[cfg(test)]\nmod tests {", "\n#[cfg(test)]\nmod test {"];
        let first = tests.iter().filter_map(|begin| code.find(begin)).min();
        let first_test_line = match first {
            _ if name.starts_with("tests/") => 1,
            Some(at) => code[..at].matches('\n').count() + 2,
            None => usize::MAX,
        };
        Self { name, text, code, first_test_line }
    }

    /// The module of the crate's top level that it belongs to.
    pub(crate) fn module(&self) -> String {
        let path = self.name.strip_prefix("src/").unwrap_or(&self.name);
        path.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned()
    }

    /// How many `super` lead from here to the crate's top level.
    fn depth(&self) -> usize {
        let path = self.name.strip_prefix("src/").unwrap_or(&self.name).trim_end_matches(".rs");
        path.trim_end_matches("/mod").split('/').count()
    }

    pub(crate) fn lines(&self) -> Vec<(usize, &str)> {
        (1..).zip(self.code.lines()).collect()
    }

    pub(crate) fn product_lines(&self) -> Vec<(usize, &str)> {
        self.lines().into_iter().filter(|&(number, _)| number < self.first_test_line).collect()
    }

    pub(crate) fn test_lines(&self) -> Vec<(usize, &str)> {
        self.lines().into_iter().filter(|&(number, _)| number >= self.first_test_line).collect()
    }

    /// The modules in files of their own that are compiled for tests alone: paths without `.rs`.
    fn test_modules(&self) -> Vec<String> {
        let folder = self.name.trim_end_matches(".rs").trim_end_matches("/mod").trim_end_matches("/lib").to_owned();
        let declared = self.code.match_indices("#[cfg(test)]").filter_map(|(at, mark)| {
            let name = self.code[at + mark.len()..].trim_start().strip_prefix("mod ")?.split_once(';')?.0;
            (!name.contains('{')).then(|| format!("{folder}/{name}"))
        });
        declared.collect()
    }

    /// The modules of the crate's top level that it names: by `crate::`, by enough `super::`, or, in `main.rs`, by the
    /// crate's name. With the number of the line.
    pub(crate) fn uses(&self) -> Vec<(usize, String)> {
        let up = "super::".repeat(self.depth());
        let mut found = Vec::new();
        for root in ["crate::", "pgpilot::", &up] {
            for (at, _) in self.code.match_indices(root) {
                if self.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                let line = self.code[..at].matches('\n').count() + 1;
                found.extend(heads(&self.code[at + root.len()..]).into_iter().map(|head| (line, head)));
            }
        }
        found.retain(|(_, head)| head != "super");
        found
    }

    /// Name, line and length of every function.
    pub(crate) fn functions(&self) -> Vec<(String, usize, usize)> {
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices("fn ") {
            if self.code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let name = word(&self.code[at + 3..]);
            let Some(length) = body(&self.code[at..]) else { continue };
            let line = self.code[..at].matches('\n').count() + 1;
            found.push((name, line, self.code[at..at + length].matches('\n').count() + 1));
        }
        found
    }
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first parts of the paths at the beginning of the text: `a::b` has `a`, `{a, b::{c, d}}` has `a` and `b`.
fn heads(text: &str) -> Vec<String> {
    let Some(list) = text.strip_prefix('{') else { return vec![word(text)] };
    let (mut heads, mut depth, mut fresh) = (Vec::new(), 0, true);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && !c.is_whitespace() => {
                heads.push(word(&list[at..]));
                fresh = false;
            }
            _ => {}
        }
    }
    heads
}

/// The length of the text up to the brace that ends the first block; `None` if a `;` comes first: there is no body.
fn body(text: &str) -> Option<usize> {
    // A `;` within brackets is that of an array type.
    let (mut braces, mut brackets) = (0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            ';' if braces == 0 && brackets == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Blanks comments, strings and character literals; lines stay where they are.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = literal(rest, code.chars().next_back());
        if length == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[length..];
        }
    }
    code
}

/// The length of the comment or literal that the text begins with; 0: it does not begin with one.
fn literal(text: &str, before: Option<char>) -> usize {
    let until = |end: &str, from: usize| text[from..].find(end).map_or(text.len(), |at| from + at + end.len());
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return until("*/", 2);
    }
    if text.starts_with('"') {
        return quoted(text, '"');
    }
    if text.starts_with('r') && !before.is_some_and(|c| c.is_alphanumeric() && c != 'b' || c == '_') {
        let hashes = text[1..].chars().take_while(|&c| c == '#').count();
        if text[1 + hashes..].starts_with('"') {
            return until(&format!("\"{}", "#".repeat(hashes)), 2 + hashes);
        }
    }
    if let Some(rest) = text.strip_prefix('\'') {
        // A lifetime has no closing quote after one character.
        let mut characters = rest.chars();
        let (first, second) = (characters.next(), characters.next());
        if first == Some('\\') || second == Some('\'') {
            return quoted(text, '\'');
        }
    }
    0
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_needs() {
        let text = "use crate::{wire, config::{a, b}}; // crate::cli\nfn f(a: [u8; 2]) -> &'static str {\n  \"}\"\n}\n";
        let file = Source { name: "src/decide/x.rs".into(), text: text.into(), code: blank(text), first_test_line: 4 };
        let used: Vec<String> = file.uses().into_iter().map(|(_, head)| head).collect();
        assert_eq!(used, ["wire", "config"]);
        assert_eq!(file.functions(), [("f".to_owned(), 2, 3)]);
        assert_eq!((file.module().as_str(), file.depth()), ("decide", 2));
    }

    #[test]
    fn blanks_literals_only() {
        for (text, code) in [
            (r#"a("x\"y", 'b', '\'')"#, "a(      ,    ,     )"),
            ("r#\"a\"b\"#;", "         ;"),
            ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
            ("a /* b */ c", "a           c".trim_start_matches('-')),
        ] {
            assert_eq!(blank(text).replace(' ', ""), code.replace(' ', ""), "{text}");
        }
    }
}
