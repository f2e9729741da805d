//! Dialing: the steps of every dial, and the pool's task that opens connections when they are
//! needed.
use std::cell::Cell;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::address::Address;
use super::context::{Context, catch_panic, unless_notified};
use super::error::{Cause, Phase};
use super::exchange::exchange;
use super::io::Io;
use super::open::{Security, open};
use super::shared::Shared;
use super::transport::DialTarget;
use super::waiter::Waiter;
use crate::protocol::{Dialect, Excerpt, ItemRef, Key, ProtocolError, Request, RetrievalVerb};

/// The timeout of a probe if there is no `connection_timeout`.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// A new connection.
pub(super) struct Connected {
    pub stream: Box<dyn Io>,
    /// The peer's address; `None` if the connection is not over IP.
    pub peer: Option<IpAddr>,
    pub took: Duration,
    /// Whether the node answered a probe on this connection.
    pub is_verified: bool,
}

/// The parts of a pool that a dial needs.
pub(super) struct Connector {
    pub context: Rc<Context>,
    address: Arc<Address>,
    limit: Option<Duration>,
    security: Arc<Security>,
    /// The progress of the current dial.
    phase: Rc<Cell<Phase>>,
    /// Distinguishes the keys of probes that run at the same time.
    probe_offset: u32,
}

impl Connector {
    pub fn new<W: Waiter>(pool: &Shared<W>) -> Self {
        let (context, address) = (pool.context.clone(), pool.address.clone());
        let (limit, security) = (pool.config.connection_timeout, pool.config.security.clone());
        Self { context, address, limit, security, phase: Rc::default(), probe_offset: 0 }
    }

    pub fn with_probe_offset(self, probe_offset: u32) -> Self {
        Self { probe_offset, ..self }
    }

    /// Dials once: first `ip`, then the addresses of the name, except those to avoid.
    ///
    /// # Cancel safety
    /// Dropping the future closes what was opened.
    pub async fn dial<W: Waiter>(
        &self,
        pool: &Weak<Shared<W>>,
        ip: Option<IpAddr>,
        avoid: &[IpAddr],
    ) -> Result<Connected, Cause> {
        let Self { context, address, limit, security, phase, probe_offset } = self;
        let started = Instant::now();
        let number = pool.upgrade().map_or(0, |pool| pool.state().health.probe());
        let key = probe_key(number.wrapping_add(*probe_offset));
        let limit = &pool.upgrade().map_or(*limit, |pool| pool.dial_limit());
        let target = DialTarget { address, ip, avoid, limit: *limit };
        let connected = catch_panic(async {
            let (stream, peer) = open(context, &target, security, phase).await?;
            // Kernels accept connections for servers that are stopped or full, so only a reply
            // proves that the server works.
            if !pool.upgrade().is_some_and(|pool| pool.state().needs_probe()) {
                return Ok((stream, peer, false));
            }
            let limit = limit.unwrap_or(PROBE_TIMEOUT);
            let proved =
                context.timeout(Some(limit), probe(stream, security.dialect(), &key)).await;
            proved.unwrap_or(Err(Cause::NoAnswer)).map(|stream| (stream, peer, true))
        });
        match context.timeout(*limit, connected).await {
            Some(Some(Ok((stream, peer, is_verified)))) => {
                Ok(Connected { stream, peer, took: started.elapsed(), is_verified })
            }
            Some(Some(Err(cause))) => Err(cause),
            Some(None) => Err(Cause::Panicked),
            None => {
                let (limit, phase) = (limit.unwrap_or_default(), phase.get());
                Err(Cause::ConnectTimeout { limit, phase })
            }
        }
    }
}

/// Dials until a connection is open or no longer needed.
pub(super) async fn dial<W: Waiter>(pool: Weak<Shared<W>>) {
    let Some(strong) = pool.upgrade() else { return };
    let mut delay = strong.state().health.next_dial_after(strong.context.now());
    let connector = Connector { phase: strong.phase.clone(), ..Connector::new(&strong) };
    let (closing, relocated) = (strong.closing.clone(), strong.relocated.clone());
    drop(strong);
    loop {
        if delay > Duration::ZERO {
            // A new address of the node ends the wait too.
            let slept = unless_notified(&relocated, connector.context.sleep(delay));
            if unless_notified(&closing, slept).await.is_none() {
                return;
            }
        }
        let Some(ip) = pool.upgrade().map(|pool| pool.state().location.ip()) else { return };
        let dialling = pin!(connector.dial(&pool, ip, &[]));
        let dialling = unless_notified(&relocated, dialling);
        let Some(result) = unless_notified(&closing, dialling).await else { return };
        let Some(pool) = pool.upgrade() else { return };
        delay = match result {
            // The node has moved.
            None => Duration::ZERO,
            Some(Ok(new)) => {
                let mut state = pool.state();
                state.growth.set_dialling(false);
                // A silent connection may have been answered in the meantime.
                let is_wanted = state.connections.has_room(pool.config.max_connections);
                drop(state);
                if is_wanted {
                    pool.connected(new);
                }
                return;
            }
            Some(Err(cause)) => match pool.connect_failed(&cause) {
                Some(next) => next,
                None => return,
            },
        };
    }
}

/// The key that a probe requests. It changes, because behind a proxy the backend of one key may
/// hang.
fn probe_key(number: u32) -> String {
    match number {
        0 => "emcache:probe".to_owned(),
        some => format!("emcache:probe:{some}"),
    }
}

/// Requests a key, which every server and proxy supports. Any reply counts, even an error line,
/// because the backend of this key may be down behind a proxy that is up.
///
/// # Cancel safety
/// Dropping the future closes the connection.
async fn probe(mut stream: Box<dyn Io>, dialect: Dialect, key: &str) -> Result<Box<dyn Io>, Cause> {
    let key = Key::trusted(key.as_bytes());
    let request = Request::Retrieval { verb: RetrievalVerb::Get, keys: &[key] };
    let is_of_key = |item: &ItemRef<'_>| {
        let is_of_key = item.key == key.as_bytes();
        let foreign = || ProtocolError::ForeignKey(Excerpt::from_key(item.key));
        is_of_key.then_some(()).ok_or_else(foreign)
    };
    exchange(&mut stream, dialect, &request, is_of_key, |_| Ok(())).await?;
    Ok(stream)
}
