//! Finding and reading the topology file.

use std::path::{Path, PathBuf};

use super::arguments::FileArguments;
use super::exit::Failure;
use super::output;
use crate::config::Config;

const PLACES: [&str; 2] = ["pgpilot.toml", "/etc/pgpilot/pgpilot.toml"];

/// The file that is meant.
pub(super) fn find(arguments: &FileArguments) -> Result<PathBuf, Failure> {
    if let Some(path) = &arguments.config {
        return Ok(path.clone());
    }
    let found = PLACES.iter().map(Path::new).find(|path| path.is_file());
    found.map(Path::to_owned).ok_or_else(|| {
        Failure::usage(anyhow::anyhow!(
            "there is no topology file, neither ./{} nor {}; name one with --config, or see what goes into it with \
             `pgpilot options --form sample`",
            PLACES[0],
            PLACES[1]
        ))
    })
}

/// Reads it, and prints its warnings on standard error.
pub(super) fn load(path: &Path) -> Result<Config, Failure> {
    let config = Config::load(path).map_err(Failure::usage)?;
    for warning in &config.warnings {
        output::complain(&format!("warning: {warning}"));
    }
    Ok(config)
}
