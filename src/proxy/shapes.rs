//! What the statements that came have been, without their literals: how many, where they went, and why.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::judged::{Judged, RunCount, Way};
use crate::decide::sql::{Reason, outline};

/// Statements that are the same but for their literals, and went one way for one reason.
#[derive(Debug, Clone)]
pub struct ShapeRow {
    pub outline: String,
    pub way: Way,
    /// Why the last one went there.
    pub reason: Reason,
    pub runs: RunCount,
    /// What keeps it on the primary.
    pub object: Option<Box<str>>,
    age: Age,
}

/// Of the catalogue under which something was judged, and whether that knew all relations. Greater is newer.
type Age = (u64, bool);

/// Collects what is kept under several texts, catalogues and contexts.
#[derive(Default)]
pub(super) struct Shapes {
    /// A text and its shape share their verdict.
    met: HashSet<*const Judged>,
    rows: HashMap<(String, Way, Reason), ShapeRow>,
}

impl Shapes {
    pub(super) fn add(&mut self, bytes: &[u8], age: Age, judged: &Judged) {
        if !self.met.insert(judged) {
            return;
        }
        let outline = outline(bytes);
        for way in [Way::Primary, Way::Replica] {
            let Some((runs, reason)) = judged.ran_on(way) else { continue };
            let object = judged.statements.iter().find_map(|verdict| verdict.object.clone());
            let object = object.filter(|_| way == Way::Primary);
            let found = ShapeRow { outline: outline.clone(), way, reason, runs, object, age };
            match self.rows.entry((outline.clone(), way, reason)) {
                Entry::Vacant(entry) => drop(entry.insert(found)),
                Entry::Occupied(mut entry) => entry.get_mut().join(found),
            }
        }
    }

    pub(super) fn into_rows(self) -> Vec<ShapeRow> {
        self.rows.into_values().collect()
    }
}

impl ShapeRow {
    /// The same shape, as it was judged under another catalogue.
    fn join(&mut self, other: Self) {
        self.runs.statements += other.runs.statements;
        self.runs.time += other.runs.time;
        if other.age > self.age {
            (self.object, self.age) = (other.object, other.age);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::decide::route::NodeId;
    use crate::decide::sql::{Catalogue, Facts, FunctionLists, classify};
    use crate::proxy::judged::Executed;
    use crate::telemetry::Served;
    use std::sync::Arc;

    #[test]
    fn a_row_is_of_one_way_and_one_reason() {
        let (catalogue, lists) = (Catalogue::builtin(), FunctionLists::default());
        let judge = |text: &str| Arc::new(Judged::from(classify(text, &Facts::new(&catalogue, &lists, 1 << 16))));
        let run = |judged: &Arc<Judged>, times, served, reason| {
            for _ in 0..times {
                let mut executed = Executed::default();
                executed.add(judged);
                executed.ran(served, reason, Duration::from_millis(1));
            }
        };
        let (replica, primary) = (Served::Replica(NodeId(1)), Served::Primary(NodeId(0)));
        let (plain, sequence, never) = (judge("SELECT 1"), judge("SELECT nextval('once')"), judge("SELECT a"));
        let mut shapes = Shapes::default();
        run(&plain, 3, replica, Reason::PlainRead);
        run(&plain, 2, primary, Reason::NotCaughtUp);
        run(&sequence, 1, primary, Reason::PrimaryFunction);
        // Under its text and its shape; and judged anew, since the catalogue has changed.
        shapes.add(b"SELECT 1", (1, true), &plain);
        shapes.add(b"SELECT 0", (1, true), &plain);
        let again = judge("SELECT 1");
        run(&again, 4, replica, Reason::PlainRead);
        shapes.add(b"SELECT 1", (2, true), &again);
        shapes.add(b"SELECT nextval('once')", (2, true), &sequence);
        shapes.add(b"SELECT a", (2, true), &never);
        let mut rows = shapes.into_rows();
        rows.sort_by_key(|row| row.reason);
        let told: Vec<_> = rows.iter().map(|row| (&*row.outline, row.way, row.runs.statements, row.reason)).collect();
        let expected = [
            ("SELECT 0", Way::Replica, 7, Reason::PlainRead),
            ("SELECT nextval ('?')", Way::Primary, 1, Reason::PrimaryFunction),
            ("SELECT 0", Way::Primary, 2, Reason::NotCaughtUp),
        ];
        assert_eq!(told, expected);
        assert_eq!(rows[1].object.as_deref(), Some("pg_catalog.nextval"));
    }
}
