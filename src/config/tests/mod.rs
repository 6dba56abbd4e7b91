mod coordination;
mod failover;
mod files;
mod passwords;
mod problems;
mod properties;
mod resolving;

use super::{Config, Problems};

/// What every valid file needs, on its first three lines.
const NODE: &str = "[[nodes]]\nname = \"pg1\"\nhost = \"10.0.0.1\"\n";

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(text, "t.toml", &|_| None)
}

/// The lines of problems, without the name of the file.
fn problems(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(config) => panic!("no problem in {text:?}: {config:?}"),
        Err(problems) => problems.to_string().lines().map(|line| line.replacen("t.toml:", "", 1)).collect(),
    }
}

/// Top-level keys, then the node, then sections.
fn with_node(top: &str, sections: &str) -> String {
    format!("{top}\n{NODE}{sections}\n")
}

fn warnings(config: &Config) -> Vec<String> {
    config.warnings.iter().map(|w| w.to_string().replacen("t.toml:", "", 1)).collect()
}
