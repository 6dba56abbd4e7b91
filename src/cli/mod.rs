//! The commands. `serve`, `check`, `demo` and `options` do their work in this process; all others ask the admin console of
//! a running pgpilot.

mod arguments;
mod ask;
mod check;
mod demo;
mod demo_view;
mod exit;
mod file;
mod load;
mod order;
mod output;
mod place;
mod remote;
mod serve;
mod status;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::{Arguments, Command};
use exit::{Exit, Failure};

/// Runs the command that the arguments name, to its end.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // --help and --version come this way, too, and are no errors.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    match run(arguments.command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output::complain(&failure.to_string());
            failure.exit.into()
        }
    }
}

fn run(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Explain(arguments) => ask::explain(&arguments),
        Command::Drain(arguments) => ask::node("DRAIN", &arguments),
        Command::Undrain(arguments) => ask::node("UNDRAIN", &arguments),
        Command::Switchover(arguments) => order::switchover(&arguments),
        Command::Failover(arguments) => order::failover(&arguments),
        Command::Maintenance(arguments) => order::maintenance(&arguments),
        Command::Pause(arguments) => ask::command("PAUSE", &arguments),
        Command::Resume(arguments) => ask::command("RESUME", &arguments),
        Command::Reload(arguments) => ask::command("RELOAD", &arguments),
        Command::Shutdown(arguments) => ask::command("SHUTDOWN", &arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::DemoHook(arguments) => {
            crate::demo::hooks::call(&arguments.control).map_err(Failure::failed)?;
            Ok(Exit::Done)
        }
        Command::Options(arguments) => {
            output::say(match arguments.form {
                arguments::OptionsForm::Reference => crate::config::reference(),
                arguments::OptionsForm::Sample => crate::config::sample(),
            });
            Ok(Exit::Done)
        }
    }
}

/// Runs a future on a small runtime of its own.
fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(Failure::failed)?.block_on(future))
}
