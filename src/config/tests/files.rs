//! The files under `config/` and `docs/` say what the code does.

use std::path::PathBuf;

use super::super::section::{Absent, Count, Nested, Section, Written};
use super::super::written::Root;
use super::super::{Config, Secret, reference, sample};
use super::parse;

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The file is as it would be generated; with `UPDATE=1` in the environment it is written anew.
fn in_step(path: &str, generated: &str) {
    let path = repository(path);
    if std::env::var_os("UPDATE").is_some_and(|update| update == "1") {
        std::fs::write(&path, generated).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(text == generated, "{} is out of step; UPDATE=1 cargo test writes it anew", path.display());
}

#[test]
fn the_sample_is_in_step() {
    in_step("config/pgpilot.toml", &sample());
}

#[test]
fn the_reference_is_in_step() {
    in_step("docs/options.md", &reference());
}

#[test]
fn the_minimal_file_is_valid_and_needs_no_second_look() {
    let text = std::fs::read_to_string(repository("config/minimal.toml")).unwrap();
    let env = |name: &str| (name == "PGPILOT_PASSWORD").then(|| "geheim".to_owned());
    let config = Config::parse(&text, "minimal.toml", &env).unwrap();
    assert_eq!(config.nodes.len(), 2);
    assert_eq!(config.warnings, []);
    let query = config.auth.query.unwrap();
    assert_eq!((query.user.as_str(), &query.password), ("pgpilot", &config.health.password));
    assert_eq!(config.health.password.as_ref().map(Secret::expose), Some("geheim"));
}

#[test]
fn the_file_of_the_compose_set_up_is_valid() {
    let text = std::fs::read_to_string(repository("config/compose/pgpilot.toml")).unwrap();
    let env = |name: &str| (name == "PGPILOT_PASSWORD").then(|| "geheim".to_owned());
    let config = Config::parse(&text, "pgpilot.toml", &env).unwrap();
    assert_eq!(config.nodes.len(), 3);
    assert_eq!(config.warnings, []);
    let compose = std::fs::read_to_string(repository("docker-compose.yml")).unwrap();
    for node in &config.nodes {
        assert!(compose.contains(&format!("\n  {}:\n    <<: *", node.host)), "no service {}", node.host);
    }
}

#[test]
fn the_sample_is_valid_and_says_the_defaults() {
    let bare = parse(super::NODE).unwrap();
    let commented = parse(&sample()).unwrap();
    assert_eq!(commented, bare);
    let written = parse(&every_default()).unwrap();
    assert_eq!(written, Config { warnings: written.warnings.clone(), ..bare });
}

/// A file with every key that has a default, at its default, outside of sections that are off by default.
fn every_default() -> String {
    fn go(out: &mut String, path: &str, section: &Section, node: bool) {
        for option in section.options {
            match option.absent {
                Absent::Default(default) => out.push_str(&format!("{} = {default}\n", option.key)),
                Absent::Refused { example } if node => out.push_str(&format!("{} = {example}\n", option.key)),
                _ => {}
            }
        }
        for Nested { key, count, section } in section.sections {
            let path = if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") };
            match count {
                Count::Once => out.push_str(&format!("[{path}]\n")),
                Count::Several => out.push_str(&format!("[[{path}]]\n")),
                Count::Optional | Count::Any => continue,
            }
            go(out, &path, section, *count == Count::Several);
        }
    }
    let mut out = String::new();
    go(&mut out, "", &Root::SECTION, false);
    out
}

#[test]
fn every_example_is_a_valid_value() {
    fn go(path: &str, section: &Section, wrong: &mut Vec<String>) {
        for option in section.options {
            let (Absent::Unset { example, .. } | Absent::Refused { example }) = option.absent else { continue };
            let line = format!("{} = {example}\n", option.key);
            let text = match path {
                "" => format!("{line}{}", super::NODE),
                "nodes" => format!("[[nodes]]\n{line}"),
                "auth.rules" | "users" | "databases" | "zones" => format!("{}[[{path}]]\n{line}", super::NODE),
                _ => format!("{}[{path}]\n{line}", super::NODE),
            };
            // What is missing beside it, and files that are not there, are not about the value's form.
            let form = |p: &&super::super::Problem| p.message.contains("found") || p.message.contains("unknown key");
            wrong.extend(parse(&text).err().iter().flat_map(|p| p.iter()).filter(form).map(ToString::to_string));
        }
        for Nested { key, section, .. } in section.sections {
            go(&if path.is_empty() { (*key).to_owned() } else { format!("{path}.{key}") }, section, wrong);
        }
    }
    let mut wrong = Vec::new();
    go("", &Root::SECTION, &mut wrong);
    assert_eq!(wrong, Vec::<String>::new());
}
