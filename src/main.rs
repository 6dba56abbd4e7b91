//! `pgpilot`: see `pgpilot help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    pgpilot::cli::main()
}
