//! What can be written on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::parse_duration;

const EXIT_CODES: &str = "Exit codes: 0 done; 1 refused, failed, or a check found something wrong; \
                          2 wrong arguments or a topology file that cannot be used; 3 cannot connect; \
                          4 an order still runs.";

/// A proxy for PostgreSQL that sends writes to the primary and reads to its replicas.
#[derive(Debug, Parser)]
#[command(name = "pgpilot", version, after_help = EXIT_CODES, propagate_version = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the proxy. SIGHUP reloads the topology file, SIGTERM drains, a second SIGTERM ends at once
    Serve(FileArguments),
    /// Check the topology file, then the servers that it names
    Check(CheckArguments),
    /// Show nodes, pools and where statements go
    Status(StatusArguments),
    /// Show where a statement would go now, and why
    Explain(ExplainArguments),
    /// Send no more reads to a node
    Drain(NodeArguments),
    /// Let a node take reads again
    Undrain(NodeArguments),
    /// Hand over to a replica, without an error to anybody; undone whole if it takes too long
    Switchover(SwitchoverArguments),
    /// Promote a replica of a lost primary
    Failover(FailoverArguments),
    /// No automatic failover, until it is ended
    Maintenance(MaintenanceArguments),
    /// Hold all statements; returns when none runs any more
    Pause(Remote),
    /// Let statements go on after a pause
    Resume(Remote),
    /// Have the topology file read again
    Reload(Remote),
    /// Stop, after transactions have had `drain_timeout` to finish
    Shutdown(Remote),
    /// Start a throwaway primary with replicas and pgpilot in front, and show where statements go
    Demo(DemoArguments),
    /// A hook of a demo's cluster, run by the demo's pgpilot
    #[command(hide = true)]
    DemoHook(DemoHookArguments),
    /// Print every option of the topology file
    Options(OptionsArguments),
}

#[derive(Debug, Args)]
pub(super) struct FileArguments {
    /// The topology file [default: ./pgpilot.toml, then /etc/pgpilot/pgpilot.toml]
    #[arg(long, short, env = "PGPILOT_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    pub(super) file: FileArguments,
    /// Check the file only
    #[arg(long)]
    pub(super) offline: bool,
    #[arg(long, value_enum, default_value_t)]
    pub(super) output: Output,
}

/// How to reach a running pgpilot.
#[derive(Debug, Args)]
pub(super) struct Remote {
    /// Its admin console, as postgresql://user:password@host:port, with sslmode and sslrootcert as libpq knows them
    /// [default: the admin.socket of the topology file]
    #[arg(long, env = "PGPILOT_URL", hide_env_values = true, value_name = "URL")]
    pub(super) url: Option<String>,
    #[command(flatten)]
    pub(super) file: FileArguments,
}

#[derive(Debug, Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    pub(super) remote: Remote,
    #[arg(long, value_enum, default_value_t)]
    pub(super) output: Output,
    /// Show it again and again
    #[arg(long, short)]
    pub(super) watch: bool,
    /// How often, with --watch
    #[arg(long, value_parser = duration, default_value = "2s", value_name = "TIME")]
    pub(super) interval: Duration,
}

#[derive(Debug, Args)]
pub(super) struct ExplainArguments {
    /// One statement or several
    pub(super) sql: String,
    /// Whose functions and settings count [default: the database of the probes]
    #[arg(long, short, value_name = "NAME")]
    pub(super) database: Option<String>,
    /// Whose settings count [default: who asks]
    #[arg(long, short, value_name = "NAME")]
    pub(super) user: Option<String>,
    #[command(flatten)]
    pub(super) remote: Remote,
    #[arg(long, value_enum, default_value_t)]
    pub(super) output: Output,
}

#[derive(Debug, Args)]
pub(super) struct NodeArguments {
    pub(super) node: String,
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Debug, Args)]
pub(super) struct SwitchoverArguments {
    /// The new primary [default: the replica with most of the log, then the highest priority]
    #[arg(long, value_name = "NODE")]
    pub(super) to: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) giving: Giving,
}

#[derive(Debug, Args)]
pub(super) struct FailoverArguments {
    /// The new primary [default: the replica with most of the log, then the highest priority]
    #[arg(long, value_name = "NODE")]
    pub(super) to: Option<String>,
    /// Needed, unless --dry-run: a replica is promoted whether or not the primary is lost
    #[arg(long)]
    pub(super) force: bool,
    /// Even if acknowledged commits may be lost
    #[arg(long)]
    pub(super) allow_data_loss: bool,
    /// Even if the old primary, or a candidate that died half-way, is not proven to be fenced
    #[arg(long)]
    pub(super) allow_unfenced: bool,
    /// Even if the primary still answers, or a replica still hears it
    #[arg(long)]
    pub(super) allow_live_primary: bool,
    /// Even if the last failover was a moment ago
    #[arg(long)]
    pub(super) ignore_interval: bool,
    /// Only say what would be done
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) giving: Giving,
}

#[derive(Debug, Args)]
pub(super) struct MaintenanceArguments {
    pub(super) switch: Switch,
    #[command(flatten)]
    pub(super) giving: Giving,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

/// How an order is given.
#[derive(Debug, Args)]
pub(super) struct Giving {
    #[command(flatten)]
    pub(super) remote: Remote,
    #[arg(long, value_enum, default_value_t)]
    pub(super) output: Output,
    /// After so long it is no longer waited for; it goes on
    #[arg(long, value_parser = duration, default_value = "2m", value_name = "TIME")]
    pub(super) wait: Duration,
}

#[derive(Debug, Args)]
pub(super) struct DemoArguments {
    /// How many replicas
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=8), value_name = "N")]
    pub(super) replicas: u8,
    /// Where pgpilot listens [default: 6432, or any port if that is taken]
    #[arg(long, value_name = "PORT")]
    pub(super) port: Option<u16>,
    /// End after so long [default: on Ctrl-C]
    #[arg(long = "for", alias = "exit-after", value_parser = duration, value_name = "TIME")]
    pub(super) limit: Option<Duration>,
    /// Run a small workload through pgpilot, so that there is something to see
    #[arg(long)]
    pub(super) load: bool,
}

#[derive(Debug, Args)]
pub(super) struct DemoHookArguments {
    /// The socket of the demo
    #[arg(long, value_name = "SOCKET")]
    pub(super) control: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct OptionsArguments {
    /// As a reference in Markdown, or as a topology file with comments
    #[arg(long, value_enum, default_value_t)]
    pub(super) form: OptionsForm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum OptionsForm {
    #[default]
    Reference,
    Sample,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Output {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

fn duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than nothing".to_owned()),
        other => other.map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_declaration_is_sound_and_every_command_explains_itself() {
        let command = Arguments::command();
        command.clone().debug_assert();
        for command in command.get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
        assert!(command.clone().render_help().to_string().contains("Exit codes: 0"));
    }

    #[test]
    fn durations_have_units_and_something_in_them() {
        let demo = |text: &str| Arguments::try_parse_from(["pgpilot", "demo", "--for", text]).map(|it| it.command);
        assert!(
            matches!(demo("30s"), Ok(Command::Demo(arguments)) if arguments.limit == Some(Duration::from_secs(30)))
        );
        assert!(demo("30").is_err() && demo("0").is_err());
        assert!(Arguments::try_parse_from(["pgpilot", "demo", "--exit-after", "1s"]).is_ok());
    }
}
