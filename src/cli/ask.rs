//! One command for the admin console.

use super::arguments::{ExplainArguments, NodeArguments, Output, Remote};
use super::exit::{Exit, Failure};
use super::remote::Console;
use super::{block_on, output};

pub(super) fn command(command: &str, remote: &Remote) -> Result<Exit, Failure> {
    block_on(async {
        Console::connect(remote).await?.run(command).await?;
        Ok(Exit::Done)
    })?
}

pub(super) fn node(verb: &str, arguments: &NodeArguments) -> Result<Exit, Failure> {
    command(&format!("{verb} {}", quoted(&arguments.node)), &arguments.remote)
}

pub(super) fn explain(arguments: &ExplainArguments) -> Result<Exit, Failure> {
    let question = question(arguments);
    let rows = block_on(async { Console::connect(&arguments.remote).await?.rows(&question).await })??;
    output::say(match arguments.output {
        Output::Json => rows.show(Output::Json),
        Output::Text => {
            // The route is that of the whole text: said once, not with each statement.
            let statements = rows.only(&["statement", "verdict"]).to_table();
            let mut whole = rows.only(&[
                "route",
                "node",
                "lag_ms",
                "route_reason",
                "candidates",
                "left_out",
                "consistency",
                "user",
                "database",
                "search_path",
                "note",
            ]);
            whole.rows.truncate(1);
            format!("{statements}\n{}", whole.to_table())
        }
    });
    Ok(Exit::Done)
}

fn question(arguments: &ExplainArguments) -> String {
    let option = |key: &str, name: &Option<String>| name.as_ref().map(|name| format!("{key} {}", quoted(name)));
    let options: Vec<String> =
        option("USER", &arguments.user).into_iter().chain(option("DATABASE", &arguments.database)).collect();
    let options = if options.is_empty() { String::new() } else { format!("({}) ", options.join(", ")) };
    format!("EXPLAIN ROUTE {options}{}", arguments.sql)
}

/// A name as the console takes it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::arguments::FileArguments;

    #[test]
    fn names_are_quoted() {
        let arguments = ExplainArguments {
            sql: "SELECT 1".into(),
            database: Some("a\"b".into()),
            user: None,
            remote: Remote { url: None, file: FileArguments { config: None } },
            output: Output::Text,
        };
        assert_eq!(question(&arguments), "EXPLAIN ROUTE (DATABASE \"a\"\"b\") SELECT 1");
    }
}
