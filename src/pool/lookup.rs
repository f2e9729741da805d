//! DNS lookups: at most one per name at a time, for all pools and threads of the process.
//!
//! The system's resolver cannot be interrupted. A lookup whose caller has given up continues, and
//! the next caller joins it. Otherwise every attempt to connect would leave another thread behind
//! while a DNS server is silent.
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::panic::catch_unwind;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// How long the result of a lookup without a caller can be used by the next caller.
const REUSE_WITHIN: Duration = Duration::from_secs(10);

type Answer = Result<Vec<SocketAddr>, Failure>;
/// The result and its time; `None` before.
type Lookup = watch::Receiver<Option<(Answer, Instant)>>;
type Resolver = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// An error that several callers share.
#[derive(Clone, Debug)]
struct Failure {
    kind: io::ErrorKind,
    code: Option<i32>,
    text: String,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self { kind: error.kind(), code: error.raw_os_error(), text: error.to_string() }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure.code {
            Some(code) => Self::from_raw_os_error(code),
            None => Self::new(failure.kind, failure.text),
        }
    }
}

/// Resolves a host to addresses with this port.
///
/// # Cancel safety
/// May be dropped at any time: the lookup continues for the next caller.
pub(super) async fn resolve_host(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut found = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => Lookups::current().find(host, resolve).await?,
    };
    for address in &mut found {
        address.set_port(port);
    }
    Ok(found)
}

fn resolve(host: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((host, 0).to_socket_addrs()?.collect())
}

/// Invariant: a name has an entry while its lookup runs, or if it ended without a caller.
struct Lookups {
    entries: Mutex<BTreeMap<String, Lookup>>,
    /// The lookups of the child of a fork.
    next: OnceLock<Box<Lookups>>,
}

static FIRST: Lookups = Lookups::new();

/// Forgets the parent's lookups: their threads do not exist in the child, and one of them may have
/// held the lock.
pub fn after_fork_in_child() {
    // No other thread is running yet, so the value is not set concurrently.
    let _ = Lookups::current().next.set(Box::new(Lookups::new()));
}

impl Lookups {
    const fn new() -> Self {
        Self { entries: Mutex::new(BTreeMap::new()), next: OnceLock::new() }
    }

    fn current() -> &'static Self {
        let mut last = &FIRST;
        while let Some(next) = last.next.get() {
            last = next;
        }
        last
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, Lookup>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn find(&'static self, host: &str, resolver: Resolver) -> io::Result<Vec<SocketAddr>> {
        let mut lookup = self.join(host, resolver)?;
        let ended = lookup.wait_for(Option::is_some).await.map_err(io::Error::other)?;
        let answer = ended.as_ref().map(|(answer, _)| answer.clone());
        answer.unwrap_or_else(|| Ok(Vec::new())).map_err(io::Error::from)
    }

    /// Returns the running lookup, or one that has just ended without a caller, or starts a new
    /// one.
    fn join(&'static self, host: &str, resolver: Resolver) -> io::Result<Lookup> {
        let mut entries = self.entries();
        entries.retain(|_, lookup| match &*lookup.borrow() {
            Some((answer, ended)) => answer.is_ok() && ended.elapsed() < REUSE_WITHIN,
            None => true,
        });
        if let Some(lookup) = entries.get(host).cloned() {
            if lookup.borrow().is_some() {
                entries.remove(host);
            }
            return Ok(lookup);
        }
        let (sender, receiver) = watch::channel(None);
        let name = host.to_owned();
        // Each lookup has a thread of its own, because resolvers that do not answer would exhaust a
        // thread pool.
        std::thread::Builder::new().name("emcache-lookup".to_owned()).spawn(move || {
            let panicked = |_| Err(io::Error::other("the lookup of the name panicked"));
            let answer = catch_unwind(|| resolver(&name)).unwrap_or_else(panicked);
            let mut entries = self.entries();
            // One receiver belongs to the entry itself. Callers drop theirs as soon as they have
            // the result.
            if sender.receiver_count() > 1 {
                entries.remove(&name);
            }
            sender.send_replace(Some((answer.map_err(Failure::from), Instant::now())));
        })?;
        entries.insert(host.to_owned(), receiver.clone());
        Ok(receiver)
    }
}

#[cfg(test)]
#[allow(clippy::unnecessary_wraps, reason = "resolvers may fail")]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    const HOST: &str = "cache.example";

    fn lookups() -> &'static Lookups {
        Box::leak(Box::new(Lookups::new()))
    }

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 0))
    }

    fn wait_until(condition: impl Fn() -> bool) {
        while !condition() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[tokio::test]
    async fn callers_share_one_lookup_of_a_name_and_later_ones_join_it() {
        static BEGUN: AtomicUsize = AtomicUsize::new(0);
        static MAY_END: AtomicBool = AtomicBool::new(false);
        fn slow(_: &str) -> io::Result<Vec<SocketAddr>> {
            BEGUN.fetch_add(1, Ordering::SeqCst);
            while !MAY_END.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(vec![address(1)])
        }
        let lookups = lookups();
        for _ in 0..20 {
            let given_up = tokio::time::timeout(Duration::from_millis(1), lookups.find(HOST, slow));
            assert!(given_up.await.is_err());
        }
        let (one, other) = (lookups.find(HOST, slow), lookups.find(HOST, slow));
        let end = async { MAY_END.store(true, Ordering::SeqCst) };
        let (one, other, ()) = tokio::join!(one, other, end);
        assert_eq!((one.unwrap(), other.unwrap()), (vec![address(1)], vec![address(1)]));
        assert_eq!(BEGUN.load(Ordering::SeqCst), 1);
        assert!(lookups.entries().is_empty());
        lookups.find(HOST, slow).await.unwrap();
        assert_eq!(BEGUN.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_result_without_a_caller_is_used_once() {
        static ENDED: AtomicUsize = AtomicUsize::new(0);
        fn counting(_: &str) -> io::Result<Vec<SocketAddr>> {
            let count = ENDED.fetch_add(1, Ordering::SeqCst);
            Ok(vec![address(u8::try_from(count).unwrap())])
        }
        let lookups = lookups();
        drop(lookups.join(HOST, counting).unwrap());
        wait_until(|| lookups.entries()[HOST].borrow().is_some());
        assert_eq!(lookups.find(HOST, counting).await.unwrap(), [address(0)]);
        assert_eq!(lookups.find(HOST, counting).await.unwrap(), [address(1)]);
    }

    #[tokio::test]
    async fn a_failure_is_shared_by_waiting_callers_and_not_cached() {
        fn failing(_: &str) -> io::Result<Vec<SocketAddr>> {
            Err(io::Error::new(io::ErrorKind::NotFound, "no such name"))
        }
        let lookups = lookups();
        let error = lookups.find(HOST, failing).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string()),
            (io::ErrorKind::NotFound, "no such name".into())
        );
        drop(lookups.join(HOST, failing).unwrap());
        wait_until(|| lookups.entries().get(HOST).is_none_or(|lookup| lookup.borrow().is_some()));
        let found = lookups.find(HOST, |_| Ok(vec![address(9)])).await;
        assert_eq!(found.unwrap(), [address(9)]);
    }

    #[tokio::test]
    async fn a_resolver_that_panics_is_a_failure() {
        let found = lookups().find(HOST, |_| panic!("in a resolver")).await;
        assert!(found.unwrap_err().to_string().contains("panicked"));
    }

    #[tokio::test]
    async fn an_ip_address_needs_no_lookup() {
        let ipv6 = resolve_host("::1", 11211).await.unwrap();
        assert_eq!(ipv6, ["[::1]:11211".parse().unwrap()]);
        assert_eq!(resolve_host("127.0.0.1", 1).await.unwrap(), ["127.0.0.1:1".parse().unwrap()]);
    }
}
