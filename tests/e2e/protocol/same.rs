//! A session through pgpilot is, message for message, what it would be without: `scripts.txt`, played to both.

use std::fmt::Write as _;
use std::path::Path;

use super::play::{Delivery, Meanwhile, SHOP, TWIN, difference, found, play, play_among, reset};
use super::script::{Script, scripts};
use crate::support::proxy::Proxy;
use crate::support::raw::Raw;

fn all() -> Vec<Script> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/protocol/scripts.txt");
    let text = std::fs::read_to_string(&file).expect("the scripts");
    let mut all = scripts(&text);
    // For work on one of them.
    if let Ok(only) = std::env::var("SCRIPT") {
        all.retain(|script| script.name.contains(&only));
    }
    all
}

/// Plays every script to a server, and to each of the proxies.
async fn compare(mode: &str, more: &str, with_others: bool, how: Delivery) {
    let proxy = Proxy::with(more).await;
    found(&proxy.servers).await;
    let server = proxy.servers.nodes()[0].port();
    let mut other = Raw::connect(proxy.port(), SHOP).await;
    let mut problems = String::new();
    for script in all() {
        let direct = play(server, TWIN, &script.steps, Delivery::Whole).await;
        let meanwhile = if with_others { Meanwhile::Others(&mut other) } else { Meanwhile::Nothing };
        let proxied = play_among(proxy.port(), SHOP, &script.steps, how, meanwhile).await;
        if let Some(difference) = difference(&direct, &proxied) {
            let _ = writeln!(problems, "{} ({mode}):\n{difference}", script.name);
        }
        reset(&proxy.servers).await;
    }
    assert!(problems.is_empty(), "\n{problems}");
}

#[tokio::test]
async fn as_configured_by_default() {
    compare("default", "", false, Delivery::Whole).await;
}

#[tokio::test]
async fn over_few_connections_that_others_use_as_well() {
    let few = "[pool]\nmax_server_connections = 2\nmax_prepared = 1\n";
    compare("few connections", few, true, Delivery::Whole).await;
}

#[tokio::test]
async fn in_session_mode_and_in_small_pieces() {
    compare("session mode", "[pool]\nmode = \"session\"\n", false, Delivery::Pieces(7)).await;
}
