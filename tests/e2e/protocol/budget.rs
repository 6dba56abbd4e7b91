//! What a session may have prepared is limited, in a way that lets it go on.

use super::play::{Delivery, SHOP, play_on};
use super::script::{Step, segments};
use crate::support::proxy::Proxy;
use crate::support::raw::Raw;

fn prepare(name: &str, size: usize) -> Vec<Step> {
    let text = format!("SELECT '{name}' -- {}", "x".repeat(size));
    let execute = Step::Execute { portal: String::new(), rows: 0 };
    let bind = Step::Bind { portal: String::new(), statement: name.to_owned(), values: Vec::new() };
    vec![Step::Parse { name: name.to_owned(), types: Vec::new(), text }, bind, execute, Step::Sync, Step::ready()]
}

#[tokio::test]
async fn a_session_that_prepares_too_much_is_told_so() {
    let proxy = Proxy::shared("").await;
    let mut client = Raw::connect(proxy.port(), SHOP).await;
    let large = 15 << 20;
    for name in ["a", "b", "c", "d"] {
        let replies = play_on(&mut client, &segments(&prepare(name, large)), Delivery::Whole).await;
        assert_eq!(replies.last().map(String::as_str), Some("Z I"));
        assert_eq!(replies.len(), 5, "{replies:#?}");
    }
    let replies = play_on(&mut client, &segments(&prepare("e", large)), Delivery::Whole).await;
    assert!(replies[0].contains("C=53400"), "{replies:#?}");
    assert_eq!((replies.len(), &*replies[1]), (2, "Z I"));
    let close = vec![Step::Close('S', "b".to_owned()), Step::Sync, Step::ready()];
    play_on(&mut client, &segments(&close), Delivery::Whole).await;
    let replies = play_on(&mut client, &segments(&prepare("e", large)), Delivery::Whole).await;
    assert_eq!(replies.len(), 5, "{replies:#?}");
    let replies = play_on(&mut client, &segments(&prepare("a", 0)), Delivery::Whole).await;
    assert!(replies[0].contains("C=42P05"), "{replies:#?}");
}

#[tokio::test]
async fn what_pgpilot_shows_needs_no_sync() {
    let proxy = Proxy::shared("").await;
    let mut client = Raw::connect(proxy.port(), SHOP).await;
    // As asyncpg does it.
    let lines = [
        "parse v SHOW pgpilot.version",
        "describe statement v",
        "flush",
        "await T",
        "bind - v",
        "execute -",
        "sync",
        "ready",
        "parse v SHOW pgpilot.version",
        "flush",
        "await E",
        "bind - v",
        "sync",
        "ready",
        "bind - v",
        "execute -",
        "sync",
        "ready",
    ];
    let steps: Vec<Step> = lines.iter().map(|line| line.parse().expect("a step")).collect();
    let replies = play_on(&mut client, &segments(&steps), Delivery::Whole).await;
    let kinds: String = replies.iter().filter_map(|reply| reply.chars().next()).collect();
    assert_eq!(kinds, "1tT2DCZEZ2DCZ", "{replies:#?}");
    assert!(replies[7].contains("C=42P05"));
}
