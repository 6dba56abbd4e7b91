//! `pgpilot serve`.

use std::path::PathBuf;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::arguments::FileArguments;
use super::exit::{Exit, Failure};
use super::file;
use crate::app::App;
use crate::config::Config;
use crate::telemetry::logging;

pub(super) fn run(arguments: &FileArguments) -> Result<Exit, Failure> {
    let path = file::find(arguments)?;
    let config = file::load(&path)?;
    logging::apply(&config.log).map_err(Failure::usage)?;
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = config.workers {
        builder.worker_threads(workers);
    }
    let runtime = builder.enable_all().thread_name("pgpilot").build().map_err(Failure::failed)?;
    runtime.block_on(serve(config, path))
}

async fn serve(config: Config, path: PathBuf) -> Result<Exit, Failure> {
    let (mut hang_up, mut terminate, mut interrupt) =
        (on(SignalKind::hangup())?, on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    let app = App::start(config, Some(path)).await.map_err(|error| Failure { exit: Exit::Failed, error })?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), addresses = ?app.addresses(), "serving");
    loop {
        tokio::select! {
            Some(()) = hang_up.recv() => {
                app.reload();
                continue;
            }
            _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
            _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
            () = app.asked_to_stop() => tracing::info!("SHUTDOWN: draining"),
        }
        break;
    }
    tokio::select! {
        () = app.shutdown() => tracing::info!("stopped"),
        _ = terminate.recv() => tracing::warn!("second SIGTERM: ending at once"),
        _ = interrupt.recv() => tracing::warn!("second SIGINT: ending at once"),
    }
    Ok(Exit::Done)
}

fn on(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(Failure::failed)
}
