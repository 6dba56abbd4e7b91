//! The operators' own lists of functions.

/// `routing.primary_functions` and `routing.replica_functions`: they overrule the catalogue, and the first overrules
/// the second.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FunctionLists {
    primary: Vec<Pattern>,
    replica: Vec<Pattern>,
}

/// Which list a function stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    Not,
    Primary,
    Replica,
}

/// `name` or `schema.name`, as the catalogue spells them; `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    schema: Option<Box<str>>,
    name: Box<str>,
}

impl FunctionLists {
    pub fn new<S: AsRef<str>>(primary: &[S], replica: &[S]) -> Self {
        let parse = |list: &[S]| list.iter().map(|text| Pattern::parse(text.as_ref())).collect();
        FunctionLists { primary: parse(primary), replica: parse(replica) }
    }

    /// A function that exists in `schema`.
    pub fn judge(&self, schema: &str, name: &str) -> Listed {
        let matches = |p: &&Pattern| glob(&p.name, name) && p.schema.as_deref().is_none_or(|s| glob(s, schema));
        self.find(|list| list.iter().any(|p| matches(&p)))
    }

    /// A function that nothing is known of, as it was called. A name without a schema may be in any, so it is safe
    /// only if it is in all.
    pub fn judge_unknown(&self, schema: Option<&str>, name: &str) -> Listed {
        let Some(schema) = schema else {
            if self.primary.iter().any(|p| glob(&p.name, name)) {
                return Listed::Primary;
            }
            let anywhere = |p: &Pattern| p.schema.as_deref().is_none_or(|s| s == "*");
            let safe = self.replica.iter().any(|p| anywhere(p) && glob(&p.name, name));
            return if safe { Listed::Replica } else { Listed::Not };
        };
        self.judge(schema, name)
    }

    fn find(&self, holds: impl Fn(&[Pattern]) -> bool) -> Listed {
        if holds(&self.primary) {
            Listed::Primary
        } else if holds(&self.replica) {
            Listed::Replica
        } else {
            Listed::Not
        }
    }
}

impl Pattern {
    fn parse(text: &str) -> Self {
        match text.split_once('.') {
            Some((schema, name)) => Pattern { schema: Some(schema.into()), name: name.into() },
            None => Pattern { schema: None, name: text.into() },
        }
    }
}

/// Whether `pattern`, in which `*` stands for any characters, is all of `text`.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|head| text.strip_prefix(head)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, text, expected) in [
            ("f", "f", true),
            ("f", "ff", false),
            ("f*", "f", true),
            ("f*", "foo", true),
            ("*_log", "add_log", true),
            ("*_log", "add_logs", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("*", "", true),
            ("aa*aa", "aaa", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_schema_in_the_list_must_match() {
        let lists = FunctionLists::new(&["audit.*"], &["app.get_*", "pure"]);
        assert_eq!(lists.judge("audit", "x"), Listed::Primary);
        assert_eq!(lists.judge("app", "get_x"), Listed::Replica);
        assert_eq!(lists.judge("other", "get_x"), Listed::Not);
        assert_eq!(lists.judge("any", "pure"), Listed::Replica);
        // Nothing is known of these: the worst that the name can be.
        assert_eq!(lists.judge_unknown(None, "x"), Listed::Primary);
        let lists = FunctionLists::new(&["audit.log"], &["app.get_*", "pure"]);
        assert_eq!(lists.judge_unknown(None, "get_x"), Listed::Not);
        assert_eq!(lists.judge_unknown(Some("app"), "get_x"), Listed::Replica);
        assert_eq!(lists.judge_unknown(None, "pure"), Listed::Replica);
        assert_eq!(lists.judge_unknown(None, "log"), Listed::Primary);
    }
}
