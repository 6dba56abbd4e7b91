//! `pgpilot serve`.

use std::future::pending;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::arguments::FileArguments;
use super::exit::{Exit, Failure};
use super::file;
use crate::admin::{Action, Sources};
use crate::app::App;
use crate::config::Config;
use crate::telemetry::logging;

pub(super) fn run(arguments: &FileArguments) -> Result<Exit, Failure> {
    let path = file::find(arguments)?;
    let config = file::load(&path)?;
    logging::apply(&config.log).map_err(Failure::usage)?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(workers) = config.workers {
        builder.worker_threads(workers);
    }
    let runtime = builder.enable_all().thread_name("pgpilot").build().map_err(Failure::failed)?;
    runtime.block_on(serve(config, path))
}

async fn serve(config: Config, path: std::path::PathBuf) -> Result<Exit, Failure> {
    let (mut hang_up, mut terminate, mut interrupt) =
        (on(SignalKind::hangup())?, on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    let app = App::start(config, Some(path)).await.map_err(|error| Failure { exit: Exit::Failed, error })?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), addresses = ?app.addresses(), "serving");
    let sources = app.sources();
    tokio::select! {
        () = reload_on(&mut hang_up, &sources) => {}
        _ = terminate.recv() => tracing::info!("SIGTERM: draining"),
        _ = interrupt.recv() => tracing::info!("SIGINT: draining"),
        () = app.shutdown_requested() => tracing::info!("SHUTDOWN: draining"),
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

/// Never returns.
async fn reload_on(hang_up: &mut Signal, sources: &Arc<dyn Sources>) {
    while hang_up.recv().await.is_some() {
        match sources.perform(Action::Reload).await {
            Ok(outcome) => {
                tracing::info!("SIGHUP: topology file reloaded");
                outcome.notices.iter().for_each(|notice| tracing::warn!("{notice}"));
            }
            Err(refused) => tracing::error!("SIGHUP: {refused}"),
        }
    }
    pending().await
}
