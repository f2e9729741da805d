//! A waiter for Rust code, and a scripted server.
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use _emcache::pool::{Address, Context, Error, LocalSetHost, Pool, PoolConfig, Waiter};
use _emcache::protocol::{Command, Nanos, OwnedRequest};
use _emcache::protocol::{
    ItemRef, Key, NEVER, Reply, ReplyHandler, Request, RetrievalVerb, StatLine, StorageVerb,
};
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

/// The end of a request: the items and the reply as text, or the error's text.
pub type WaitResult = Result<String, String>;

pub struct TestWaiter {
    items: Vec<String>,
    sender: oneshot::Sender<WaitResult>,
    /// For `noreply` requests: set when the request is on a connection.
    accepted: Option<Rc<Cell<bool>>>,
}

impl TestWaiter {
    /// An item with this key makes the waiter panic, as a bug would.
    pub const PANIC: &str = "panic";

    pub fn new() -> (Self, oneshot::Receiver<WaitResult>) {
        let (sender, reply) = oneshot::channel();
        (Self { items: Vec::new(), sender, accepted: None }, reply)
    }

    pub fn noreply() -> (Self, NoReply) {
        let (waiter, ended) = Self::new();
        let accepted = Rc::new(Cell::new(false));
        let waiter = Self { accepted: Some(accepted.clone()), ..waiter };
        (waiter, NoReply { ended, accepted })
    }
}

/// The end of a `noreply` request.
pub struct NoReply {
    pub ended: oneshot::Receiver<WaitResult>,
    accepted: Rc<Cell<bool>>,
}

impl NoReply {
    pub fn is_accepted(&self) -> bool {
        self.accepted.get()
    }
}

impl ReplyHandler for TestWaiter {
    type Value = Bytes;
    fn item(&mut self, index: usize, item: &ItemRef<'_>, _shared: Option<&Bytes>) {
        assert_ne!(item.key, Self::PANIC.as_bytes(), "a bug");
        self.items.push(format!("{index}={}", String::from_utf8_lossy(item.value)));
    }
    fn stat(&mut self, _stat: &StatLine<'_>) {}
    fn restart(&mut self) {
        self.items.clear();
    }
    fn reply(self, reply: &Reply<'_>, _from: &str) {
        let _ = self.sender.send(Ok(format!("{} {reply:?}", self.items.join(","))));
    }
    fn is_abandoned(&self) -> bool {
        self.sender.is_closed()
    }
    fn is_noreply(&self) -> bool {
        self.accepted.is_some()
    }
    fn accepted(&mut self) {
        if let Some(accepted) = &self.accepted {
            accepted.set(true);
        }
    }
}

impl Waiter for TestWaiter {
    fn fail(self, error: &Error) {
        let _ = self.sender.send(Err(error.to_string()));
    }
    fn split(self, _missing: &[usize]) -> Vec<Self> {
        // Each request has one key.
        vec![self]
    }
}

pub fn config() -> PoolConfig {
    PoolConfig {
        min_connections: 1,
        max_connections: 2,
        purge_unused_after: None,
        connection_timeout: Some(Duration::from_secs(5)),
        timeout: Some(Duration::from_secs(1)),
        max_merged_keys: 32,
        security: Arc::default(),
    }
}

pub fn key(key: &str) -> Key<'_> {
    Key::parse(key.as_bytes()).unwrap()
}

pub fn with_get<T>(name: &str, run: impl FnOnce(&Request<'_>) -> T) -> T {
    run(&Request::Retrieval { verb: RetrievalVerb::Get, keys: &[key(name)] })
}

pub fn with_set<T>(name: &str, value: &[u8], run: impl FnOnce(&Request<'_>) -> T) -> T {
    let (verb, flags, exptime) = (StorageVerb::Set, 0, 0);
    run(&Request::Command(Command::Storage { verb, key: key(name), flags, exptime, value }))
}

pub const NO_DEADLINE: Nanos = NEVER;
const FLUSH_ALL: Request<'_> = Request::Command(Command::FlushAll { delay: 0 });

/// Runs a test in a `LocalSet`, and fails it if it hangs.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tasks = LocalSet::new();
    let limit = Duration::from_secs(20);
    let done = runtime.block_on(tasks.run_until(async { tokio::time::timeout(limit, test).await }));
    done.expect("the test hangs");
}

/// A pool and its host.
pub struct Fixture {
    pub context: Rc<Context>,
    pub pool: Pool<TestWaiter>,
}

impl Fixture {
    pub fn new(address: &Address, config: PoolConfig) -> Self {
        let context = LocalSetHost::context();
        let pool = Pool::new(&context, address.clone(), config);
        Self { context, pool }
    }

    pub fn get(&self, name: &str) -> oneshot::Receiver<WaitResult> {
        self.get_within(name, None)
    }

    pub fn get_within(&self, name: &str, limit: Option<Duration>) -> oneshot::Receiver<WaitResult> {
        let (waiter, reply) = TestWaiter::new();
        let deadline = self.context.deadline_after(limit);
        with_get(name, |request| self.pool.submit(request, waiter, deadline));
        reply
    }

    /// Waits until the pool has `count` connections.
    pub async fn connections(&self, count: u64) {
        while self.pool.metrics().cur_connections != count {
            tokio::task::yield_now().await;
        }
    }

    pub fn check_out(&self, checkout: u64) -> oneshot::Receiver<WaitResult> {
        let (waiter, reply) = TestWaiter::new();
        self.pool.check_out(checkout, waiter, NO_DEADLINE);
        reply
    }

    pub fn get_checked_out(&self, checkout: u64, name: &str) -> oneshot::Receiver<WaitResult> {
        let (waiter, reply) = TestWaiter::new();
        let request = with_get(name, OwnedRequest::copy_from);
        self.pool.submit_checked_out(checkout, request, waiter, NO_DEADLINE);
        reply
    }

    pub fn set_noreply_checked_out(&self, checkout: u64, name: &str, value: &[u8]) -> NoReply {
        let (waiter, reply) = TestWaiter::noreply();
        let request = with_set(name, value, OwnedRequest::copy_from);
        self.pool.submit_checked_out(checkout, request, waiter, NO_DEADLINE);
        reply
    }

    pub fn set(&self, name: &str, value: &[u8]) -> oneshot::Receiver<WaitResult> {
        let (waiter, reply) = TestWaiter::new();
        with_set(name, value, |request| self.pool.submit(request, waiter, NO_DEADLINE));
        reply
    }

    pub fn set_noreply(&self, name: &str, value: &[u8]) -> NoReply {
        let (waiter, reply) = TestWaiter::noreply();
        with_set(name, value, |request| self.pool.submit(request, waiter, NO_DEADLINE));
        reply
    }

    pub fn get_many(&self, names: &[&str]) -> oneshot::Receiver<WaitResult> {
        let (waiter, reply) = TestWaiter::new();
        let keys: Vec<_> = names.iter().map(|name| key(name)).collect();
        let request = Request::Retrieval { verb: RetrievalVerb::Get, keys: &keys };
        self.pool.submit(&request, waiter, NO_DEADLINE);
        reply
    }

    pub fn flush_all(&self) -> oneshot::Receiver<WaitResult> {
        let (waiter, reply) = TestWaiter::new();
        self.pool.submit(&FLUSH_ALL, waiter, NO_DEADLINE);
        reply
    }

    pub fn flush_all_noreply(&self) -> NoReply {
        let (waiter, reply) = TestWaiter::noreply();
        self.pool.submit(&FLUSH_ALL, waiter, NO_DEADLINE);
        reply
    }
}

/// One accepted connection of a scripted server.
pub struct Peer {
    pub stream: BufReader<TcpStream>,
}

impl Peer {
    pub async fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    /// The number of bytes that the client sends until it closes.
    pub async fn rest(&mut self) -> usize {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await.unwrap_or(rest.len())
    }
}

pub struct Listener {
    socket: tokio::net::TcpListener,
    pub address: Address,
    pub accepted: Rc<RefCell<usize>>,
}

impl Listener {
    pub async fn bind() -> Self {
        Self::bind_at("127.0.0.1", 0).await
    }

    pub async fn bind_at(host: &str, port: u16) -> Self {
        let socket = tokio::net::TcpListener::bind((host, port)).await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let address = Address::Tcp { host: host.into(), port };
        Self { socket, address, accepted: Rc::default() }
    }

    pub fn port(&self) -> u16 {
        self.socket.local_addr().unwrap().port()
    }

    pub fn host(&self) -> String {
        self.socket.local_addr().unwrap().ip().to_string()
    }

    pub async fn accept(&self) -> Peer {
        let (stream, _) = self.socket.accept().await.unwrap();
        *self.accepted.borrow_mut() += 1;
        Peer { stream: BufReader::new(stream) }
    }
}
