//! Finding and reading the topology file.

use std::path::{Path, PathBuf};

use super::arguments::FileArguments;
use super::exit::Failure;
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

/// Reads it. Its warnings are for `serve` and `check`.
pub(super) fn load(path: &Path) -> Result<Config, Failure> {
    Config::load(path).map_err(Failure::usage)
}
