//! pgpilot's opinion of a text, under a catalogue that was loaded from a server.

use std::collections::HashMap;

use pgpilot::decide::route::Need;
use pgpilot::decide::session::{Defaults, Needs};
use pgpilot::decide::sql::{
    Asker, Catalogue, CatalogueQuery, Classified, Facts, FunctionLists, Reason, Verdict, classify,
};

use super::session::Session;

pub(super) struct Judge {
    pub(super) catalogue: Catalogue,
    lists: FunctionLists,
}

/// What a session has made known.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) defaults: Defaults,
    pub(super) prepared: HashMap<Box<str>, Verdict>,
}

impl Judge {
    pub(super) async fn load(session: &mut Session) -> Self {
        let mut judge = Judge { catalogue: Catalogue::builtin(), lists: FunctionLists::default() };
        judge.reload(session).await;
        judge
    }

    pub(super) async fn reload(&mut self, session: &mut Session) {
        let mut builder = self.catalogue.rebuild();
        for query in CatalogueQuery::ALL {
            let answer = session.run(query.sql()).await;
            assert_eq!(answer.error, None, "{query:?}");
            for row in answer.cells() {
                let row: Vec<Option<&str>> = row.iter().map(Option::as_deref).collect();
                builder.add(query, &row).expect("a row of the catalogue");
            }
        }
        self.catalogue = builder.finish(&self.lists);
    }

    pub(super) fn classify(&self, text: &str) -> Classified {
        self.classify_for(text, Asker::default())
    }

    pub(super) fn classify_for(&self, text: &str, asker: Asker<'_>) -> Classified {
        classify(text, &Facts { asker, ..Facts::new(&self.catalogue, &self.lists, 64 * 1024) })
    }
}

/// What the whole text needs, as the proxy adds it up.
pub(super) fn needs(classified: &Classified, known: &Known) -> Needs {
    let mut needs = Needs::default();
    for verdict in &classified.statements {
        needs.add(verdict, known.defaults, &|name| known.prepared.get(name));
    }
    needs
}

/// Whether it would run on a replica; why, or why not.
pub(super) fn offloads(needs: &Needs) -> (bool, Reason) {
    match needs.server {
        Some((Need::Primary, reason)) => (false, reason),
        Some((Need::Read | Need::Replica, reason)) => (true, reason),
        None => (false, Reason::Empty),
    }
}
