//! `synchronous_standby_names`, held against the nodes that there are.

/// What the setting says. Source: `src/backend/replication/syncrep_gram.y`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Synchronous {
    /// How many standbys a commit waits for.
    pub(super) count: usize,
    /// `*` is any standby.
    pub(super) names: Vec<String>,
}

impl Synchronous {
    /// `None`: nobody is waited for.
    pub(super) fn read(setting: &str) -> Option<Self> {
        let words = words(setting);
        let texts: Vec<&str> = words.iter().map(String::as_str).collect();
        let (count, listed) = match texts[..] {
            [] => return None,
            [method, count, "(", ref listed @ .., ")"] if is_method(method) => (count.parse().ok()?, listed),
            [count, "(", ref listed @ .., ")"] => (count.parse().ok()?, listed),
            ref listed => (1, listed),
        };
        let names = listed.iter().filter(|word| **word != ",").map(|word| (*word).to_owned()).collect();
        Some(Self { count, names })
    }

    fn lists(&self, name: &str) -> bool {
        // PostgreSQL compares them so: SyncRepGetStandbyPriority in src/backend/replication/syncrep.c.
        self.names.iter().any(|listed| listed == "*" || listed.eq_ignore_ascii_case(name))
    }

    /// What is wrong with it on a primary. `own`: the name under which it would follow itself; `others`: those of the other
    /// nodes, where they are known.
    pub(super) fn trouble(&self, own: &str, others: &[Option<String>]) -> Vec<String> {
        let mut trouble = Vec::new();
        let known = |listed: &&String| {
            let same = |name: Option<&str>| name.is_some_and(|name| name.eq_ignore_ascii_case(listed));
            *listed == "*" || same(Some(own)) || others.iter().any(|name| same(name.as_deref()))
        };
        let unseen = others.iter().any(Option::is_none);
        if !unseen {
            let strangers: Vec<&str> = self.names.iter().filter(|listed| !known(listed)).map(String::as_str).collect();
            if !strangers.is_empty() {
                trouble.push(format!("it lists {}, under which no node follows", strangers.join(", ")));
            }
        }
        let listed = others.iter().filter(|name| name.as_deref().is_none_or(|name| self.lists(name))).count();
        let (count, away) = (self.count, listed.saturating_sub(self.count));
        if count > listed {
            trouble.push(format!("a commit waits for {count} replicas, and {listed} can answer: it waits for ever"));
        } else if away == 0 {
            trouble
                .push(format!("a commit waits for all of {listed} replicas: it hangs as soon as one of them is away"));
        } else if count == 1 && listed > 2 {
            trouble.push(format!(
                "a commit waits for 1 of {listed} replicas: a failover is only safe while all {listed} answer; with 2 of \
                 {listed}, one may be away"
            ));
        }
        trouble
    }
}

fn is_method(word: &str) -> bool {
    word.eq_ignore_ascii_case("any") || word.eq_ignore_ascii_case("first")
}

/// Names, numbers, parentheses and commas; quotes removed, and doubled ones halved.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(first) = chars.next() {
        let mut word = String::new();
        match first {
            c if c.is_whitespace() => continue,
            '(' | ')' | ',' => word.push(first),
            '"' => {
                while let Some(c) = chars.next() {
                    if c == '"' && chars.next_if_eq(&'"').is_none() {
                        break;
                    }
                    word.push(c);
                }
            }
            _ => {
                word.push(first);
                let inside = |c: &char| !c.is_whitespace() && !matches!(c, '(' | ')' | ',' | '"');
                word.extend(std::iter::from_fn(|| chars.next_if(inside)));
            }
        }
        words.push(word);
    }
    words
}

/// The name under which a standby follows: that of `primary_conninfo`, or else `cluster_name`, or else `walreceiver`.
/// Source: PostgreSQL's documentation, `cluster_name` in "Error Reporting and Logging".
pub(super) fn follows_as(conninfo: &str, cluster_name: &str) -> String {
    let named = if conninfo.starts_with("postgres://") || conninfo.starts_with("postgresql://") {
        let query = conninfo.split_once('?').map_or("", |(_, query)| query);
        query.split('&').find_map(|pair| pair.strip_prefix("application_name=")).map(str::to_owned)
    } else {
        keyword(conninfo, "application_name")
    };
    let cluster = Some(cluster_name).filter(|name| !name.is_empty()).map(str::to_owned);
    named.filter(|name| !name.is_empty()).or(cluster).unwrap_or_else(|| "walreceiver".to_owned())
}

/// The last value of a keyword. Source: libpq's "Keyword/Value Connection Strings".
fn keyword(conninfo: &str, wanted: &str) -> Option<String> {
    let mut found = None;
    let mut rest = conninfo.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let (quoted, mut chars) = match after.strip_prefix('\'') {
            Some(inner) => (true, inner.chars()),
            None => (false, after.chars()),
        };
        let mut value = String::new();
        while let Some(c) = chars.next() {
            match c {
                '\\' => value.extend(chars.next()),
                '\'' if quoted => break,
                c if !quoted && c.is_whitespace() => break,
                c => value.push(c),
            }
        }
        if key.trim() == wanted {
            found = Some(value);
        }
        rest = chars.as_str().trim_start();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_read_as_postgresql_does() {
        let read = |text| Synchronous::read(text).map(|it| (it.count, it.names.join("|")));
        for (text, expected) in [
            ("", None),
            ("  ", None),
            ("pg2", Some((1, "pg2"))),
            ("pg2, pg3", Some((1, "pg2|pg3"))),
            ("2 (a, b,c)", Some((2, "a|b|c"))),
            ("ANY 1 (pg1, pg2, pg3)", Some((1, "pg1|pg2|pg3"))),
            ("any 2(\"a b\",\"c\"\"d\")", Some((2, "a b|c\"d"))),
            ("FIRST 1 (*)", Some((1, "*"))),
            ("\"open", Some((1, "open"))),
        ] {
            assert_eq!(read(text), expected.map(|(count, names): (usize, &str)| (count, names.to_owned())), "{text}");
        }
    }

    #[test]
    fn numbers_that_do_not_fit_the_nodes_are_named() {
        let name = |name: &str| Some(name.to_owned());
        let three = [name("pg2"), name("pg3")];
        let four = [name("pg2"), name("pg3"), name("pg4")];
        let hidden = [name("pg2"), None];
        for (setting, others, expected) in [
            ("ANY 1 (pg1, pg2, pg3)", &three[..], None),
            ("ANY 1 (PG2, pg3)", &three, None),
            ("ANY 1 (*)", &three, None),
            ("ANY 1 (pg1, pg2, pg3, pg9)", &three, Some("it lists pg9, under which no node follows")),
            ("ANY 3 (pg1, pg2, pg3)", &three, Some("a commit waits for 3 replicas, and 2 can answer")),
            ("ANY 2 (pg2, pg3)", &three, Some("a commit waits for all of 2 replicas")),
            ("pg2", &three, Some("a commit waits for all of 1 replicas")),
            ("ANY 1 (pg2, pg3, pg4)", &four, Some("a commit waits for 1 of 3 replicas")),
            ("ANY 2 (pg2, pg3, pg4)", &four, None),
            // What a node is called that cannot be asked is not held against anybody.
            ("ANY 1 (pg2, other)", &hidden, None),
        ] {
            let trouble = Synchronous::read(setting).unwrap().trouble("pg1", others);
            assert_eq!(trouble.len(), usize::from(expected.is_some()), "{setting}: {trouble:?}");
            assert!(trouble.iter().all(|it| it.starts_with(expected.unwrap_or_default())), "{setting}: {trouble:?}");
        }
    }

    #[test]
    fn a_standby_has_a_name_in_any_case() {
        for (conninfo, cluster, expected) in [
            ("host=h application_name=pg2 user=r", "c", "pg2"),
            ("host='a\\'b c' application_name = 'pg 2'", "c", "pg 2"),
            ("application_name=a application_name=b", "", "b"),
            ("fallback_application_name=a", "c", "c"),
            ("postgresql://h/?sslmode=x&application_name=pg2", "", "pg2"),
            ("", "", "walreceiver"),
        ] {
            assert_eq!(follows_as(conninfo, cluster), expected, "{conninfo}");
        }
    }
}
