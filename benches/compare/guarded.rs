//! A process that does not outlive this one.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use pgpilot::demo::account::Account;

/// A program in the care of a shell, which ends it as soon as the pipe from this process closes: when this is dropped,
/// or when this process is gone, for whatever reason.
#[derive(Debug)]
pub(crate) struct Guarded {
    shell: Child,
    log: PathBuf,
}

/// How a program is told to stop at once.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ending {
    Interrupt,
    Terminate,
}

/// `$1` is the signal, the rest is the command.
const SHELL: &str = r#"
signal=$1
shift
"$@" &
program=$!
while read -r _; do :; done
kill -s "$signal" $program
wait $program
"#;

impl Guarded {
    /// Starts the command (its program and arguments, nothing else of it) as this account. It works in `directory`, and
    /// what it prints goes to the file `log` there.
    pub(crate) fn start(account: Account, command: &Command, directory: &Path, ending: Ending) -> anyhow::Result<Self> {
        let signal = match ending {
            Ending::Interrupt => "INT",
            Ending::Terminate => "TERM",
        };
        let path = directory.join("log");
        let log = std::fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut shell = account.command("sh");
        shell.args(["-c", SHELL, "guard", signal]).arg(command.get_program()).args(command.get_args());
        shell.current_dir(directory).stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        Ok(Self { shell: shell.spawn().context("cannot run sh")?, log: path })
    }

    /// The shell's process id: everything below it belongs to the program.
    pub(crate) fn pid(&self) -> u32 {
        self.shell.id()
    }

    /// What the program has printed.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}
