//! `pgpilot`: see `pgpilot help`.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    let path = std::env::args().nth(1).unwrap_or_default();
    let config = match pgpilot::config::Config::load(path.as_ref()) {
        Ok(config) => config,
        Err(problems) => {
            tracing::error!("{problems}");
            return ExitCode::from(2);
        }
    };
    let Ok(_app) = pgpilot::app::App::start(config, None).await else { return ExitCode::FAILURE };
    let _ = tokio::signal::ctrl_c().await;
    ExitCode::SUCCESS
}
