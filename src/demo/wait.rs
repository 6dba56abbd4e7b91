//! Waiting for a condition, with a limit.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::error::Error;

/// What every wait of this module is limited by, unless its caller says otherwise. Generous: a loaded machine is slow.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(5);

/// Looks at `condition` every few milliseconds until it yields a value.
///
/// # Errors
/// [`Error::Timeout`] with `what` after `limit`, also if one look takes that long; any error of the condition, at
/// once.
///
/// # Cancel safety
/// Drops the look that is under way.
pub async fn until<T, F>(what: &str, limit: Duration, mut condition: F) -> Result<T, Error>
where
    F: AsyncFnMut() -> Result<Option<T>, Error>,
{
    let end = Instant::now() + limit;
    let timeout = || Error::Timeout { what: what.to_owned(), limit, log: String::new() };
    loop {
        match timeout_at(end, condition()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) if Instant::now() < end => sleep(STEP).await,
            Ok(Ok(None)) | Err(_) => return Err(timeout()),
            Ok(Err(error)) => return Err(error),
        }
    }
}
