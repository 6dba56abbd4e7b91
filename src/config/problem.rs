//! What is wrong with a topology file, and where.

use std::collections::BTreeSet;
use std::fmt;

/// One thing that is wrong. Its `Display` is `file:line:column: message`, which editors and terminals can follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    /// `None`: the file as a whole, as when it cannot be read.
    pub at: Option<Position>,
    /// What was found and what was expected. Never holds a secret.
    pub message: String,
}

/// A place in a text. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// Everything that is wrong with a topology file, in the order of the file; never empty. One line for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(Vec<Problem>);

/// Something that works, but hardly as it was meant: a password file that others can read, a rule that can never match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub Problem);

impl Problems {
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Position { line, column }) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a value comes from, for problems that concern it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A byte offset in the topology file.
    Written(usize),
    /// Not written: a default.
    Default,
    /// Written, but refused, and reported as such: what is said of the stand-in would mislead.
    Refused,
}

/// Collects problems and warnings while a topology file is read. Without `Debug`: the text may hold passwords.
pub(super) struct Findings<'s> {
    file: &'s str,
    text: &'s str,
    /// Byte offsets at which lines begin.
    lines: Vec<usize>,
    /// Lines that are not TOML. What else is found on them is guesswork of the parser's recovery, and is not reported.
    broken: BTreeSet<usize>,
    /// Where every value comes from, when the text is a default rather than the file.
    stand_in: Option<Place>,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

impl<'s> Findings<'s> {
    pub(super) fn new(file: &'s str, text: &'s str) -> Self {
        let lines = std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|i| i + 1)).collect();
        let (problems, warnings) = (Vec::new(), Vec::new());
        Self { file, text, lines, broken: BTreeSet::new(), stand_in: None, problems, warnings }
    }

    /// For reading a default, whose values all come from `place`.
    pub(super) fn of_default(text: &'s str, place: Place) -> Self {
        Self { stand_in: Some(place), ..Self::new("default", text) }
    }

    /// The place of a value that begins at `offset`.
    pub(super) fn place(&self, offset: usize) -> Place {
        self.stand_in.unwrap_or(Place::Written(offset))
    }

    /// Reports what the TOML parser refused.
    pub(super) fn syntax(&mut self, error: &toml::de::Error) {
        let offset = error.span().map_or(0, |span| span.start);
        self.problem(offset, format!("not TOML: {}", error.message()));
        self.broken.insert(self.position(offset).line);
    }

    pub(super) fn problem(&mut self, offset: usize, message: String) {
        let at = self.position(offset);
        if !self.broken.contains(&at.line) {
            self.problems.push(Problem { file: self.file.to_owned(), at: Some(at), message });
        }
    }

    /// Something that should be there and is not. Said only of a text that is TOML: otherwise it may well be there.
    pub(super) fn missing(&mut self, offset: usize, message: String) {
        if self.broken.is_empty() {
            self.problem(offset, message);
        }
    }

    /// Values that are fine one by one and wrong together, most telling place first.
    pub(super) fn contradiction(&mut self, places: &[Place], message: impl FnOnce() -> String) {
        if !places.contains(&Place::Refused) {
            self.problem(offset(places), message());
        }
    }

    pub(super) fn warning(&mut self, places: &[Place], message: String) {
        let at = Some(self.position(offset(places)));
        self.warnings.push(Warning(Problem { file: self.file.to_owned(), at, message }));
    }

    /// About a file that the topology file names.
    pub(super) fn warning_elsewhere(&mut self, file: String, line: usize, message: String) {
        self.warnings.push(Warning(Problem { file, at: Some(Position { line, column: 1 }), message }));
    }

    /// The text of a value as it was written, shortened to one line.
    pub(super) fn quote(&self, span: std::ops::Range<usize>) -> String {
        const LONGEST: usize = 60;
        let text = self.text.get(span).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let short: String = line.chars().take(LONGEST).collect();
        if short.len() == text.len() { short } else { short + ".." }
    }

    /// # Errors
    /// The problems, when there were any.
    pub(super) fn finish(mut self) -> Result<Vec<Warning>, Problems> {
        if self.problems.is_empty() {
            return Ok(self.warnings);
        }
        self.problems.sort_by_key(|p| p.at);
        Err(Problems(self.problems))
    }

    fn position(&self, offset: usize) -> Position {
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines[line - 1];
        let before = self.text.get(start..offset).map_or(offset - start, |before| before.chars().count());
        Position { line, column: before + 1 }
    }
}

fn offset(places: &[Place]) -> usize {
    places.iter().find_map(|place| if let Place::Written(offset) = place { Some(*offset) } else { None }).unwrap_or(0)
}
