//! What an authenticated client is told before its first statement, and the session that begins with it.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio_util::io::read_buf;

use super::client::Client;
use super::exchange::Side;
use super::fault::{Fault, dial_report};
use super::handshake::{Authenticated, Request, turn_away};
use super::registry::{ClientInfo, Registration};
use super::session::{IDLE_LIMIT, Session, Transaction};
use super::settle;
use super::shared::{ConsoleLevel, ConsoleVisit, Shared, Who};
use super::venture::Ventures;
use crate::config::PoolMode;
use crate::decide::route::{NodeId, Role, State};
use crate::decide::session::{ParameterMap, Pin, Settings};
use crate::net::Stream;
use crate::pool::{LeaseError, QueryError};
use crate::telemetry::{Count, Login};
use crate::wire::backend::{self, Report, TransactionStatus};
use crate::wire::{SqlState, frontend};

/// What servers report after a login with given settings, so that not every login needs a server.
#[derive(Default)]
pub(super) struct Greetings {
    known: Mutex<HashMap<GreetingKey, Greeting>>,
}

impl Greetings {
    /// Servers may say something else from now on.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<GreetingKey, Greeting>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type GreetingKey = (Arc<str>, Arc<str>, Settings);

#[derive(Clone)]
struct Greeting {
    /// The settings as the client has given them.
    settings: Settings,
    parameters: Arc<ParameterMap>,
    asked_at: Instant,
}

/// Why there is no greeting.
enum Ungreeted {
    /// The server does not want this user, this database or these settings.
    Refused(Report),
    NoServer(Report),
}

const MAX_GREETINGS: usize = 4096;

/// Greets the client, and serves it until it leaves in a task of its own: this one, which has logged it in, is several times as large.
pub(super) async fn begin(client: Authenticated, shared: Arc<Shared>) {
    // Operators get in however many clients there are.
    if client.request.is_for_console() {
        return shared.tasks.track_future(console(client, &shared)).await;
    }
    let Some(seat) = shared.registry.take_seat(shared.config.load().clients.max) else {
        shared.metrics.count(Count::Login(Login::Refused));
        let report = Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already");
        return turn_away(client.stream, &report).await;
    };
    let generation = shared.generation.load(Ordering::Acquire);
    let who = who(&client, &shared);
    let Authenticated { mut stream, mut input, request, address, .. } = client;
    let session = tokio::select! {
        session = session(&who, &request, &shared) => session,
        () = left(&mut stream, &mut input) => {
            tracing::debug!(user = %who.user, "client left before it was greeted");
            return;
        }
    };
    match session {
        Err(report) => {
            shared.metrics.count(Count::Login(Login::Refused));
            turn_away(stream, &report).await;
        }
        Ok((mut session, own)) => {
            let application = session.settings.get("application_name").unwrap_or("").into();
            let info = ClientInfo {
                user: who.user.clone(),
                database: who.database.clone(),
                address,
                application,
                since: Instant::now(),
            };
            let instance = shared.membership.get().and_then(|membership| membership.number());
            let Ok(registration) = shared.registry.register(seat, info, request.version, instance) else { return };
            session.number = registration.slot.pid();
            let mut side = Side::new(stream, input);
            put_greeting(&mut side.output, &session, &registration);
            let verdicts = shared.verdicts(&who.database);
            let snapshots = shared.cluster.reader();
            let shutdown = shared.shutdown.watch();
            let mut client = Client {
                verdicts,
                snapshots,
                side,
                link: None,
                transaction: Transaction::Idle,
                session,
                registration,
                pools: Vec::new(),
                skipping: false,
                pass: None,
                shutdown,
                cancels_seen: 0,
                ventures: Ventures::default(),
                who,
                generation,
                shared: shared.clone(),
            };
            if let Err(report) = own.iter().try_for_each(|(name, value)| client.set_at_startup(name, value)) {
                let report = Report { severity: backend::Severity::Fatal, ..report };
                return turn_away(client.side.stream, &report).await;
            }
            client.shared.metrics.count(Count::Login(Login::Accepted));
            let served = client.run();
            drop(shared.tasks.spawn(served));
        }
    }
}

fn put_greeting(out: &mut BytesMut, session: &Session, registration: &Registration) {
    for (name, value) in session.reported.iter() {
        backend::put_parameter_status(out, name, value);
    }
    backend::put_backend_key(out, registration.slot.pid(), registration.slot.secret());
    backend::put_ready(out, TransactionStatus::Idle);
}

/// Returns when the client has left. What it sends meanwhile is kept; one that has asked for something and closed its side
/// of the connection may still wait for the answer.
async fn left(stream: &mut Stream, input: &mut BytesMut) {
    while input.len() < EARLY_MAX {
        match read_buf(stream, input).await {
            Ok(n) if n > 0 => {}
            _ if input.is_empty() || input[0] == frontend::TERMINATE => return,
            _ => break,
        }
    }
    std::future::pending().await
}

/// So much of what comes before the greeting is read.
const EARLY_MAX: usize = 16 * 1024;

/// Hands a client over to the admin console, if it is allowed there.
async fn console(client: Authenticated, shared: &Arc<Shared>) {
    let Authenticated { mut stream, input, request, is_operator, .. } = client;
    let config = shared.config.load_full();
    let level = if is_operator || config.admin.users.contains(&request.user) {
        ConsoleLevel::Admin
    } else if config.admin.readers.contains(&request.user) {
        ConsoleLevel::Reader
    } else {
        let message = format!("user \"{}\" is not allowed to use the admin console", request.user);
        return turn_away(stream, &Report::fatal(SqlState::INSUFFICIENT_PRIVILEGE, message)).await;
    };
    let Some(console) = shared.console.get() else { return };
    let mut greeting = console_greeting();
    while !greeting.is_empty() {
        if stream.write_buf(&mut greeting).await.is_err() {
            return;
        }
    }
    if stream.flush().await.is_ok() {
        console.serve(ConsoleVisit { stream, input, user: request.user, level }).await;
    }
}

fn who(client: &Authenticated, shared: &Shared) -> Who {
    let config = shared.config.load();
    let Request { user, database, .. } = &client.request;
    let user_settings = config.users.iter().find(|known| known.name == *user);
    let database_settings = config.databases.iter().find(|known| known.name == *database);
    let mode = user_settings.and_then(|u| u.pool_mode).or(database_settings.and_then(|d| d.pool_mode));
    let user: Arc<str> = user.as_str().into();
    Who {
        key: shared.keyring.prove(&user, client.credential.clone()),
        user,
        database: database.as_str().into(),
        mode: mode.unwrap_or(config.pool.mode),
        limits: config.clients.clone(),
    }
}

/// The session as it begins, and the start-up settings that are pgpilot's own.
async fn session(
    who: &Who,
    request: &Request,
    shared: &Arc<Shared>,
) -> Result<(Session, Vec<(String, String)>), Report> {
    let (own, theirs): (Vec<_>, Vec<_>) =
        request.settings.iter().cloned().partition(|(name, _)| name.starts_with("pgpilot."));
    let wanted = Settings::from_iter(theirs);
    let greeting = greeting(who, wanted, shared).await?;
    let mut session = Session::new(greeting.settings, greeting.parameters, shared.policy(who));
    if who.mode == PoolMode::Session {
        session.pin_for_good(Pin::SessionMode);
    }
    let own = own.into_iter().map(|(name, value)| (name["pgpilot.".len()..].to_owned(), value)).collect();
    Ok((session, own))
}

/// What a server says to these settings: asked for once, and then remembered for as long as a verifier is.
async fn greeting(who: &Who, wanted: Settings, shared: &Arc<Shared>) -> Result<Greeting, Report> {
    let key = (who.user.clone(), who.database.clone(), wanted);
    let ttl = shared.config.load().auth.verifier_ttl;
    let old = match shared.greetings.lock().get_mut(&key) {
        Some(known) if known.asked_at.elapsed() < ttl => return Ok(known.clone()),
        Some(old) => {
            // Whoever else comes now need not ask as well.
            old.asked_at = Instant::now();
            Some(old.clone())
        }
        None => None,
    };
    let asked = match &old {
        None => ask(who, &key.2, shared).await,
        Some(old) => {
            // The database or the user may be gone. If nobody can be asked, what is known has to do.
            let asked = tokio::time::timeout(SECOND_LOOK, ask(who, &key.2, shared)).await;
            match asked.unwrap_or_else(|_| Ok(old.clone())) {
                Err(Ungreeted::NoServer(_)) => Ok(old.clone()),
                asked => asked,
            }
        }
    };
    let mut known = shared.greetings.lock();
    match asked {
        Ok(greeting) => {
            if known.len() >= MAX_GREETINGS {
                known.clear();
            }
            known.insert(key, greeting.clone());
            Ok(greeting)
        }
        Err(Ungreeted::Refused(report)) => {
            known.remove(&key);
            Err(report)
        }
        Err(Ungreeted::NoServer(report)) => Err(report),
    }
}

/// So long a client waits for what is most probably known.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// A server that takes longer for a few settings has stopped.
const SETTINGS_LIMIT: Duration = Duration::from_secs(5);

/// Logs in to a server as the client would have, with the client's settings.
async fn ask(who: &Who, wanted: &Settings, shared: &Arc<Shared>) -> Result<Greeting, Ungreeted> {
    let until = Instant::now() + shared.policy(who).primary_wait;
    let mut failure = Report::error(SqlState::CANNOT_CONNECT_NOW, "no server is available");
    let fatal = |report: Report| Report { severity: backend::Severity::Fatal, ..report };
    loop {
        let snapshot = shared.cluster.snapshot();
        let mut nodes: Vec<(bool, NodeId)> = snapshot
            .nodes
            .iter()
            .filter(|node| node.state == State::Up && matches!(node.role, Role::Primary | Role::Replica))
            .map(|node| (node.role != Role::Primary, node.id))
            .collect();
        nodes.sort_unstable();
        for (_, node) in nodes {
            let Some(pool) = shared.pool(node, who) else { continue };
            let mut settings = Arc::new(wanted.clone());
            match pool.lease(|c| *c.settings == *settings, Instant::now()).await {
                Ok((mut lease, _)) => {
                    let set = settle::bring_to(&mut lease, &mut settings);
                    match tokio::time::timeout(SETTINGS_LIMIT, set).await {
                        Ok(Ok(())) => {}
                        Ok(Err(QueryError::Server { code, message })) if !code.0.starts_with(b"57P0") => {
                            return Err(Ungreeted::Refused(Report::fatal(code, message)));
                        }
                        Ok(Err(_)) | Err(_) => continue,
                    }
                    let parameters = lease.parameters.clone();
                    if lease.settings.get(IDLE_LIMIT).is_none() {
                        lease.release(Instant::now());
                    }
                    return Ok(Greeting { settings: wanted.clone(), parameters, asked_at: Instant::now() });
                }
                Err(LeaseError::Dial(error)) if !error.is_about_the_node() => {
                    return Err(Ungreeted::Refused(fatal(dial_report(&error))));
                }
                Err(error) => {
                    failure = Fault::Lease(error).report();
                    shared.cluster.nudge(node);
                }
            }
        }
        if Instant::now() >= until {
            return Err(Ungreeted::NoServer(fatal(failure)));
        }
        let soon = (Instant::now() + Duration::from_millis(200)).min(until);
        shared.cluster.wait_change(&snapshot, soon).await;
    }
}

/// The first messages of a console session.
fn console_greeting() -> BytesMut {
    let mut out = BytesMut::new();
    let parameters = [
        ("server_version", concat!("15.0 (pgpilot ", env!("CARGO_PKG_VERSION"), ")")),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
    ];
    for (name, value) in parameters {
        backend::put_parameter_status(&mut out, name, value);
    }
    backend::put_backend_key(&mut out, 0, &[0; 4]);
    backend::put_ready(&mut out, TransactionStatus::Idle);
    out
}
