//! From a text, as a client sent it, to the verdicts on its statements.

use super::catalogue::{Catalogue, FunctionLists, SearchPath};
use super::hints::hints_in;
use super::lex::{Lexer, Token};
use super::oversized;
use super::statement;
use super::tokens::{Tokens, split};
use super::types::{Classified, Reason};

/// What a verdict depends on besides the text. (It also depends on `standard_conforming_strings`, which must be on,
/// and on the encoding, which must be UTF-8: where they are not, use [`Classified::opaque`].)
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub catalogue: &'a Catalogue,
    /// `routing.primary_functions` and `routing.replica_functions`.
    pub overrides: &'a FunctionLists,
    /// A longer text, in bytes, is only skimmed: it goes to the primary.
    pub max_parse: usize,
    pub asker: Asker<'a>,
}

/// Who sends the text, as far as that may decide which functions and relations its names mean. What is not known is
/// supposed to be the worst.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asker<'a> {
    pub path: Option<&'a SearchPath>,
    /// The OIDs of the types that a Parse message gives its parameters; 0 for none.
    pub parameters: &'a [u32],
}

impl<'a> Facts<'a> {
    /// Facts that hold whoever asks.
    pub fn new(catalogue: &'a Catalogue, overrides: &'a FunctionLists, max_parse: usize) -> Self {
        Facts { catalogue, overrides, max_parse, asker: Asker::default() }
    }

    /// The same, whoever asks.
    pub(super) fn for_anybody(self) -> Self {
        Facts { asker: Asker::default(), ..self }
    }
}

/// Judges each statement of `text`. Takes time linear in the text, apart from texts in doubt, for which the parser's
/// limits hold.
///
/// The server parses a whole text before it runs any of it, so a text that cannot be split into tokens does nothing
/// at all; it still gets the verdict that supposes the worst.
pub fn classify(text: &str, facts: &Facts<'_>) -> Classified {
    if text.len() > facts.max_parse {
        return oversized::classify(text);
    }
    let Ok(tokens) = Lexer::new(text).collect::<Result<Vec<Token>, _>>() else {
        return Classified::opaque(Reason::Unparsable);
    };
    let statements = split(text, &tokens);
    // One statement may change what the names in the next one mean.
    let anybody = facts.for_anybody();
    let facts = if statements.len() > 1 { &anybody } else { facts };
    let mut verdicts = Vec::with_capacity(statements.len());
    for (n, range) in statements.iter().enumerate() {
        let verdict = statement::classify(Tokens::new(text, &tokens[range.clone()]), facts);
        // A statement's comments reach from the token before it to the token after it; the last one's to the end.
        let before =
            range.start.checked_sub(1).map_or(0, |i| tokens[i].end as usize)..tokens[range.start].start as usize;
        let after_last = if n + 1 == statements.len() { text.len() } else { tokens[range.end].start as usize };
        let after = tokens[range.end - 1].end as usize..after_last;
        verdicts.push(hints_in(&text[before]).or(hints_in(&text[after])).on(verdict));
    }
    Classified { statements: verdicts.into() }
}
