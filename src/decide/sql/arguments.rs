//! How many arguments a call has, and of which types they are, as far as the text says it.

use smallvec::SmallVec;

use super::catalogue::Argument;
use super::classify::Asker;
use super::lex::Kind;
use super::tokens::Tokens;
use super::typenames;
use super::types::Depends;

/// The arguments of a call.
#[derive(Debug)]
pub(super) struct Arguments {
    pub(super) list: SmallVec<[Argument; 8]>,
    /// What gave them their types, besides the words of the text.
    pub(super) typed_by: Depends,
}

/// Calls are not followed further than so many tokens.
const FURTHEST: usize = 500;

impl Arguments {
    /// Those of the call whose parenthesis is at `open`; `None`: that takes a closer look.
    pub(super) fn read(tokens: Tokens<'_>, open: usize, asker: &Asker<'_>) -> Option<Self> {
        let mut arguments = Arguments { list: SmallVec::new(), typed_by: Depends::empty() };
        let (mut depth, mut start) = (0_usize, open + 1);
        for i in open..(open + FURTHEST).min(tokens.len()) {
            let mut ends = false;
            match tokens.get(i)?.kind {
                Kind::Punctuation(b'(' | b'[') => depth += 1,
                Kind::Punctuation(b')' | b']') => {
                    depth = depth.checked_sub(1)?;
                    ends = depth == 0;
                }
                Kind::Punctuation(b',') => ends = depth == 1,
                // Not all commas are between arguments, or not each argument is one.
                Kind::Word if depth == 1 && tokens.is_any(i, &["order", "variadic"]) => return None,
                _ => {}
            }
            if ends {
                // `f()` and `count(*)` have none.
                let none = i == open + 1 || tokens.is_operator(open + 1, "*");
                if !(depth == 0 && none) {
                    arguments.add(tokens.slice(start..i), asker);
                }
                start = i + 1;
            }
            if depth == 0 {
                // What is behind WITHIN GROUP (ORDER BY ..) is among them.
                return (!tokens.is(i + 1, "within")).then_some(arguments);
            }
        }
        None
    }

    fn add(&mut self, argument: Tokens<'_>, asker: &Asker<'_>) {
        // In an argument of another kind, the parentheses of a call may hold these as well.
        let is_named = (0..argument.len()).any(|i| argument.is_operator(i, "=>") || argument.is_operator(i, ":="));
        let found = if is_named { Some(Argument::Named) } else { self.type_of(argument, asker) };
        self.list.push(found.unwrap_or(Argument::Any));
    }

    fn type_of(&mut self, argument: Tokens<'_>, asker: &Asker<'_>) -> Option<Argument> {
        let last = argument.len().checked_sub(1)?;
        if last == 0 {
            return self.single(argument, asker);
        }
        // The grammar takes a minus for part of the number (`doNegate` in gram.y); a plus is an operator.
        if argument.is_operator(0, "-") && last == 1 {
            self.typed_by |= Depends::LITERALS;
            return typenames::of_number(argument.raw(1)).filter(|_| is_far_from_limits(argument.raw(1)));
        }
        if argument.is(0, "cast") && argument.is_punctuation(1, b'(') && argument.after_group(1) == argument.len() {
            let at = argument.slice(2..last).find(0, &["as"])? + 2;
            let (oid, end) = typenames::read(argument, at + 1, asker)?;
            return (end == last).then_some(Argument::Typed(oid));
        }
        // `date '2020-01-01'`
        if argument.get(last)?.kind == Kind::Text {
            let (oid, end) = typenames::read(argument, 0, asker)?;
            return (end == last).then_some(Argument::Typed(oid));
        }
        // `primary::type`, whose cast binds closer than any operator before it.
        let mut at = primary_end(argument)?;
        let mut cast = None;
        while argument.is_operator(at, "::") {
            let (oid, end) = typenames::read(argument, at + 1, asker)?;
            (cast, at) = (Some(oid), end);
        }
        cast.filter(|_| at == argument.len()).map(Argument::Typed)
    }

    fn single(&mut self, argument: Tokens<'_>, asker: &Asker<'_>) -> Option<Argument> {
        let raw = argument.raw(0);
        match argument.get(0)?.kind {
            Kind::Number => {
                self.typed_by |= Depends::LITERALS;
                typenames::of_number(raw)
            }
            Kind::Text => {
                self.typed_by |= Depends::LITERALS;
                match raw.as_bytes()[0] {
                    b'b' | b'B' | b'x' | b'X' => Some(Argument::Typed(typenames::BIT)),
                    b'n' | b'N' => None,
                    _ => Some(Argument::Literal),
                }
            }
            Kind::Parameter => {
                self.typed_by |= Depends::PARAMETERS;
                let index = raw[1..].parse::<usize>().ok()?.checked_sub(1)?;
                // One without a type may have been given one elsewhere in the statement.
                let oid = asker.parameters.get(index).copied().filter(|&oid| typenames::is_builtin(oid))?;
                Some(Argument::Typed(oid))
            }
            Kind::Word if argument.is_any(0, &["true", "false"]) => Some(Argument::Typed(typenames::BOOL)),
            Kind::Word if argument.is(0, "null") => Some(Argument::Literal),
            _ => None,
        }
    }
}

/// The smallest integers are one farther from zero than the largest ones.
fn is_far_from_limits(number: &str) -> bool {
    !matches!(number.trim_start_matches('0'), "2147483648" | "9223372036854775808")
}

/// The index after what a cast at the beginning of the tokens is a cast of: a constant, a name, a call, a group.
fn primary_end(tokens: Tokens<'_>) -> Option<usize> {
    let mut at = 1;
    match tokens.get(0)?.kind {
        Kind::Number | Kind::Text | Kind::Parameter => return Some(1),
        Kind::Punctuation(b'(') => return Some(tokens.after_group(0)),
        Kind::Word | Kind::Quoted | Kind::UnicodeQuoted => {}
        _ => return None,
    }
    while tokens.is_punctuation(at, b'.') && tokens.is_identifier(at + 1) {
        at += 2;
    }
    Some(if tokens.is_punctuation(at, b'(') { tokens.after_group(at) } else { at })
}
