//! A database of 50,000 functions and 20,000 views: `./dev routes`.

use std::time::{Duration, Instant};

use pgpilot::decide::sql::{CatalogueSize, Intent};

use super::session::{SUPERUSER, Session};
use crate::support::proxy::{Proxy, ask};

/// Each function calls the one before it; the first one writes.
const FUNCTIONS: &str = "DO $$ BEGIN FOR n IN 2..50000 LOOP EXECUTE format('CREATE FUNCTION f%s(int) RETURNS int \
     LANGUAGE sql AS ''SELECT $1 + a FROM t WHERE a > %s''', n, n); \
     IF n % 1000 = 0 THEN COMMIT; END IF; END LOOP; END $$";
const VIEWS: &str = "DO $$ BEGIN FOR n IN 1..20000 LOOP EXECUTE format('CREATE VIEW v%s AS SELECT a, f%s(a) AS b \
     FROM t', n, n); IF n % 1000 = 0 THEN COMMIT; END IF; END LOOP; END $$";

/// Nobody is held up for longer while it loads; on an idle machine it is a few milliseconds.
const PAUSE: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute: ./dev routes"]
async fn a_large_catalogue_loads_in_the_background() {
    let proxy = Proxy::with("").await;
    let mut session = Session::open(proxy.node("pg1"), SUPERUSER, "shop").await;
    let first = "CREATE FUNCTION f1(int) RETURNS int LANGUAGE sql AS 'INSERT INTO t VALUES ($1); SELECT 1'";
    for text in ["CREATE TABLE t (a int)", first, FUNCTIONS, VIEWS] {
        assert_eq!(session.run(text).await.error, None, "{text}");
    }
    let client = proxy.connect().await;
    let shared = proxy.app.shared();
    shared.catalogues.invalidate("shop");
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    let size = loop {
        let asked = Instant::now();
        ask(&client, "SELECT 1").await;
        longest = longest.max(asked.elapsed());
        let size: CatalogueSize = shared.catalogues.database("shop").read().size().unwrap_or_default();
        if size.functions >= 50_000 {
            break size;
        }
        assert!(begun.elapsed() < LIMIT, "{size:?}");
    };
    println!("{:?} after {:.1?}; nobody waited longer than {longest:.1?}", size, begun.elapsed());
    assert!(longest < PAUSE, "{longest:?}");
    let intent = |text: &str| shared.verdicts(&"shop".into()).of(text.as_bytes()).statements[0].intent.clone();
    assert_eq!(intent("SELECT * FROM v20000"), Intent::Read);
    assert_eq!(intent("SELECT * FROM v1"), Intent::Write);
    assert_eq!(intent("SELECT f49999(1)"), Intent::Read);
}
