//! The log: one line an event, on standard error.

use std::io::{self, IsTerminal as _};
use std::sync::OnceLock;

use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::reload;
use tracing_subscriber::{EnvFilter, Registry};

use crate::config::{Log, LogFormat};

/// Where and how lines are written, with the filter that decides which.
type Output = Box<dyn Layer<Registry> + Send + Sync>;

static OUTPUT: OnceLock<reload::Handle<Output, Registry>> = OnceLock::new();

/// The log cannot be set up as asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log.level: {0:?} is not a filter: {1}")]
    Filter(String, tracing_subscriber::filter::ParseError),
    #[error("something else in this process writes the log already")]
    Taken,
}

/// Logs as `log` says, from now on. There is one log in a process: the first call sets it up, each later one changes it.
///
/// # Errors
/// The filter cannot be read (then nothing has changed), or another library has set up a log of its own.
pub fn apply(log: &Log) -> Result<(), LogError> {
    let output = output(log)?;
    let mut output = Some(output);
    let mut outcome = Ok(());
    let handle = OUTPUT.get_or_init(|| {
        let first = output.take().expect("it is only taken here, once");
        let (layer, handle) = reload::Layer::new(first);
        outcome = tracing::subscriber::set_global_default(Registry::default().with(layer)).map_err(|_| LogError::Taken);
        handle
    });
    outcome?;
    match output {
        None => Ok(()),
        Some(output) => handle.reload(output).map_err(|_| LogError::Taken),
    }
}

fn output(log: &Log) -> Result<Output, LogError> {
    let filter = EnvFilter::try_new(&log.level).map_err(|error| LogError::Filter(log.level.clone(), error))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let lines: Output = match log.format {
        LogFormat::Text => Box::new(lines),
        LogFormat::Json => Box::new(lines.with_ansi(false).json().flatten_event(true)),
    };
    // Not as the filter of the one layer: such filters cannot be replaced. As a layer, it decides for all of them.
    Ok(Box::new(filter.and_then(lines)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tracing::Level;

    use super::*;

    #[test]
    fn the_filter_can_be_changed_while_it_runs() {
        let log = |level: &str, format| Log { level: level.to_owned(), format, slow_statement: Duration::ZERO };
        apply(&log("warn", LogFormat::Text)).unwrap();
        assert!(!tracing::enabled!(Level::INFO) && tracing::enabled!(Level::WARN));
        apply(&log("off,pgpilot::telemetry=debug", LogFormat::Json)).unwrap();
        assert!(tracing::enabled!(Level::DEBUG) && !tracing::enabled!(target: "other", Level::ERROR));
        assert!(matches!(apply(&log("a=b=c", LogFormat::Text)), Err(LogError::Filter(..))));
        assert!(tracing::enabled!(Level::DEBUG), "a filter that cannot be read changes nothing");
        apply(&log("off", LogFormat::Text)).unwrap();
    }
}
