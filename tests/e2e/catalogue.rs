//! Catalogues of databases, loaded from real servers.

use std::collections::BTreeSet;
use std::time::Duration;

use pgpilot::cluster::catalogue::{Catalogues, Recipe, TextRow};

use crate::support::wait_for;
use crate::support::watch::{servers, watched};

/// The names of the functions in `public`.
struct Functions;

impl Recipe for Functions {
    type Value = BTreeSet<String>;

    fn initial(&self) -> Self::Value {
        BTreeSet::from(["initial".to_owned()])
    }

    fn queries(&self) -> Vec<&str> {
        vec!["SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace", "SELECT NULL, 'x'"]
    }

    fn build(&self, answers: &[Vec<Box<TextRow>>], _before: &Self::Value) -> Result<Self::Value, String> {
        let [functions, constant] = answers else { return Err(format!("{answers:?}")) };
        assert_eq!(constant[0].as_ref(), [None, Some("x".to_owned())]);
        functions.iter().map(|row| row[0].clone().ok_or("NULL".to_owned())).collect()
    }
}

/// Much less than the time after which it would be loaded again anyway.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn catalogues_are_loaded_per_database_and_again_after_ddl() {
    let servers = servers().await;
    let primary = servers.node("pg1").unwrap();
    primary.sql("CREATE DATABASE other").await.unwrap();
    primary.sql("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'").await.unwrap();
    servers.wait_caught_up(primary).await.unwrap();
    let cluster = watched(&servers).await;
    let catalogues = Catalogues::new(Functions, &cluster);

    let here = catalogues.database("postgres");
    assert!(here.current().contains("initial"));
    let has = |names: &[&str]| *here.current() == names.iter().map(ToString::to_string).collect();
    wait_for("it is loaded", SOON, async || has(&["f"])).await;
    let other = catalogues.database("other");
    wait_for("the other one is loaded", SOON, async || other.current().is_empty()).await;

    primary.sql("CREATE FUNCTION g() RETURNS int LANGUAGE sql AS 'SELECT 2'").await.unwrap();
    let change = catalogues.invalidate("postgres").unwrap();
    assert!(!here.covers(change));
    wait_for("it is loaded again", SOON, async || here.covers(change)).await;
    assert!(has(&["f", "g"]), "{:?}", here.current());

    // One that cannot be loaded keeps what it has, and gets there when the database appears.
    let missing = catalogues.database("later");
    assert!(missing.current().contains("initial"));
    primary.sql("CREATE DATABASE later").await.unwrap();
    wait_for("it is loaded when it is there", SOON, async || missing.current().is_empty()).await;
}
