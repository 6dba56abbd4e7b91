//! Reading the topology file.

use std::path::Path;

use toml::de::DeTable;
use zeroize::Zeroizing;

use super::files::{Readers, read_text, readers};
use super::problem::{Findings, Place, Problem, Problems};
use super::resolve::resolve;
use super::resolved::Config;
use super::scope::Scope;
use super::section::Written;
use super::written::Root;

impl Config {
    /// Reads the topology file at `path`, and the files and environment variables that it names.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let file = path.display().to_string();
        let unreadable = |error| Problem { file: file.clone(), at: None, message: format!("cannot be read: {error}") };
        let full = std::path::absolute(path).map_err(unreadable)?;
        let text = Zeroizing::new(read_text(&full).map_err(unreadable)?);
        let metadata = std::fs::metadata(&full).map_err(unreadable)?;
        let source = Source { text: &text, file: &file, path: &full, readers: readers(&metadata) };
        source.read(&|name| std::env::var(name).ok())
    }

    /// Reads the text of a topology file, and the files that it names. `file_name` is for the problems; its directory is
    /// where relative paths start. `env` looks up environment variables.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, file_name: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, Problems> {
        Source { text, file: file_name, path: Path::new(file_name), readers: Readers::Owner }.read(env)
    }
}

struct Source<'s> {
    text: &'s str,
    /// As it was named.
    file: &'s str,
    path: &'s Path,
    readers: Readers,
}

impl Source<'_> {
    fn read(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Problems> {
        let mut findings = Findings::new(self.file, self.text);
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            findings.syntax(error);
        }
        let root = Root::read(&Scope::root(table.get_ref()), &mut findings);
        if self.readers == Readers::Others {
            warn_of_passwords(&root, &mut findings);
        }
        let base = self.path.parent().unwrap_or(Path::new(""));
        let config = resolve(&root, env, base, &mut findings);
        let warnings = findings.finish()?;
        Ok(Config { warnings, ..config })
    }
}

/// For a topology file that others can read.
fn warn_of_passwords(root: &Root, findings: &mut Findings<'_>) {
    let query = root.auth.query.iter().map(|query| &query.password);
    let users = root.users.iter().map(|user| &user.password);
    for password in [&root.health.password, &root.failover.password].into_iter().chain(query).chain(users) {
        if let Place::Written(_) = password.place {
            let message = "a password in a file that others than its owner can read; chmod 600 keeps it secret";
            findings.warning(&[password.place], message.to_owned());
        }
    }
}
