//! Who shall be the primary: what admins may order, and what everybody sees of it.

use super::console::{code, connect};
use crate::admin::{Action, Level};
use crate::decide::failover::{Guards, Maintenance, Order, Run};
use crate::decide::route::NodeId;

#[tokio::test]
async fn an_order_names_a_node_and_says_what_it_waives() {
    let (admin, fake, mut notices) = connect(Level::Admin).await;
    admin.batch_execute("SWITCHOVER; switchover to \"pg2\"; MAINTENANCE ON").await.unwrap();
    admin.execute("SWITCHOVER TO pg2 DRY RUN", &[]).await.unwrap();
    assert_eq!(notices.recv().await.unwrap(), "INFO: pg2 would be promoted");
    let running = admin.batch_execute("FAILOVER TO pg3 FORCE ALLOW DATA LOSS").await.unwrap_err();
    assert_eq!(code(&running), "57014");
    assert!(running.as_db_error().unwrap().message().starts_with("still running, epoch 10"));
    let actions = std::mem::take(&mut *fake.actions.lock().unwrap());
    let (to, run) = (Some(NodeId(1)), Run::Real);
    let orders = [
        Order::Switchover { to: None, run },
        Order::Switchover { to, run },
        Order::Maintenance(Maintenance::On),
        Order::Switchover { to, run: Run::Dry },
        Order::Failover { to: Some(NodeId(2)), waived: Guards::DATA_LOSS, run },
    ];
    assert_eq!(actions, orders.map(Action::Order));
    let journal: Vec<_> = fake.journal.entries().into_iter().map(|entry| (entry.node, entry.text)).collect();
    assert_eq!(journal[1], (Some("pg2".into()), "SWITCHOVER by olga: done".into()));
    assert_eq!(journal[2], (None, "MAINTENANCE ON by olga: done".into()));
    assert_eq!(journal[4], (Some("pg3".into()), "FAILOVER ALLOW DATA LOSS by olga: still running".into()));
}

#[tokio::test]
async fn what_is_no_order_is_not_passed_on() {
    let (admin, fake, _notices) = connect(Level::Admin).await;
    let unforced = admin.batch_execute("FAILOVER TO pg2").await.unwrap_err();
    assert_eq!(code(&unforced), "42601");
    let hint = unforced.as_db_error().unwrap().hint().unwrap();
    assert!(hint.contains("SWITCHOVER hands over") && hint.contains("FORCE [ALLOW DATA LOSS]"), "{hint}");
    for (wrong, expected) in [
        ("SWITCHOVER pg2", "42601"),
        ("MAINTENANCE", "42601"),
        ("SWITCHOVER TO pg9", "42704"),
        ("FAILOVER TO pg9 FORCE", "42704"),
    ] {
        assert_eq!(code(&admin.batch_execute(wrong).await.unwrap_err()), expected, "{wrong}");
    }
    assert!(fake.actions.lock().unwrap().is_empty());

    let (reader, fake, _notices) = connect(Level::Reader).await;
    for command in ["SWITCHOVER", "FAILOVER FORCE", "FAILOVER DRY RUN", "MAINTENANCE OFF"] {
        assert_eq!(code(&reader.batch_execute(command).await.unwrap_err()), "42501", "{command}");
    }
    assert!(fake.actions.lock().unwrap().is_empty());
}

#[tokio::test]
async fn everybody_sees_what_is_being_done() {
    let (reader, fake, _notices) = connect(Level::Reader).await;
    let row = reader.query_one("SHOW FAILOVER", &[]).await.unwrap();
    assert_eq!((row.get::<_, bool>("automatic"), row.get::<_, bool>("maintenance")), (true, false));
    assert_eq!((row.get::<_, &str>("state"), row.get::<_, i64>("epoch")), ("steady", 9));
    assert_eq!((row.get::<_, &str>("primary"), row.get::<_, &str>("candidate")), ("pg1", "pg3"));
    assert_eq!(row.get::<_, f64>("since_ms"), 1500.0);
    assert_eq!(row.get::<_, &str>("last_outcome"), "failover to pg1 at epoch 9: done");
    assert_eq!(row.get::<_, Option<&str>>("reason"), None);

    {
        let mut status = fake.failover.lock().unwrap();
        status.maintenance = Maintenance::On;
        status.state = "promote".into();
        status.reason = Some("<slow>".into());
    }
    assert!(reader.query_one("SHOW FAILOVER", &[]).await.unwrap().get::<_, bool>("maintenance"));
    let page = crate::admin::page::page(&*fake);
    assert!(page.contains("running, in maintenance,") && page.contains("<td>promote</td>"), "{page}");
    assert!(page.contains("&lt;slow&gt;"), "{page}");
    let metrics = crate::admin::exposition::metrics(&*fake);
    for line in [
        r#"pgpilot_failover_state{state="promote"} 1"#,
        "pgpilot_failover_automatic 1",
        "pgpilot_failover_epoch 9",
        "pgpilot_maintenance 1",
        r#"pgpilot_failovers_total{outcome="done"} 0"#,
        r#"pgpilot_switchovers_total{outcome="rolled_back"} 0"#,
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
}
