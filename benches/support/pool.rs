//! A pool and a server with one value for all keys, in one thread.
use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use _emcache::pool::{Address, Context, Error, Host, LocalFuture, Pool, PoolConfig, Waiter};
use _emcache::protocol::{ItemRef, Reply, ReplyHandler, StatLine};
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local, yield_now};

use super::with_get;

/// Far enough that no count depends on the speed of the run.
const FAR: Duration = Duration::from_secs(3600);

/// A host whose caller flushes.
struct FixtureHost;

impl Host for FixtureHost {
    fn spawn(&self, task: LocalFuture) {
        spawn_local(task);
    }
    fn wants_flush(&self) {}
    fn wake_later(&self, waker: &Waker) {
        waker.wake_by_ref();
    }
}

#[derive(Default)]
struct Burst {
    left: Cell<usize>,
    done: Notify,
}

struct Awaited {
    burst: Rc<Burst>,
}

impl ReplyHandler for Awaited {
    type Value = Bytes;
    fn item(&mut self, _index: usize, item: &ItemRef<'_>, _shared: Option<&Bytes>) {
        std::hint::black_box(item);
    }
    fn stat(&mut self, _stat: &StatLine<'_>) {}
    fn restart(&mut self) {}
    fn reply(self, _reply: &Reply<'_>, _from: &str) {
        self.burst.left.set(self.burst.left.get() - 1);
        if self.burst.left.get() == 0 {
            self.burst.done.notify_one();
        }
    }
}

impl Waiter for Awaited {
    fn fail(self, error: &Error) {
        panic!("{error}");
    }

    fn split(self, _missing: &[usize]) -> Vec<Self> {
        vec![self]
    }
}

pub struct Fixture {
    runtime: Runtime,
    tasks: LocalSet,
    context: Rc<Context>,
    pool: Pool<Awaited>,
    burst: Rc<Burst>,
}

impl Fixture {
    #[allow(clippy::unwrap_used, reason = "a bench may panic")]
    pub fn new(value: &'static [u8]) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let tasks = LocalSet::new();
        let (context, pool) = runtime.block_on(tasks.run_until(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            spawn_local(async move {
                let (stream, _) = listener.accept().await.unwrap();
                serve(&stream, value).await;
            });
            let context = Context::new(|_| Box::new(FixtureHost));
            let address = Address::Tcp { host: "127.0.0.1".into(), port };
            let pool = Pool::new(&context, address, config());
            while !pool.is_connected() {
                yield_now().await;
            }
            (context, pool)
        }));
        Self { runtime, tasks, context, pool, burst: Rc::default() }
    }

    /// Gets of `keys` in one burst, with a deadline.
    pub fn gets(&self, keys: &[String]) {
        self.runtime.block_on(self.tasks.run_until(async {
            self.burst.left.set(keys.len());
            for key in keys {
                let deadline = self.context.deadline_after(Some(FAR));
                let waiter = Awaited { burst: self.burst.clone() };
                with_get(key, |request| self.pool.submit(request, waiter, deadline));
            }
            self.context.flush();
            self.burst.done.notified().await;
        }));
    }
}

pub fn config() -> PoolConfig {
    PoolConfig {
        min_connections: 1,
        max_connections: 1,
        purge_unused_after: None,
        connection_timeout: Some(FAR),
        timeout: Some(FAR),
        max_merged_keys: 32,
        security: Arc::default(),
    }
}

/// Answers each `get` with `value` for all of its keys.
#[allow(clippy::unwrap_used, reason = "a bench may panic")]
async fn serve(stream: &TcpStream, value: &[u8]) {
    let (mut buf, mut out) = (vec![0; 1 << 16], Vec::with_capacity(1 << 16));
    loop {
        stream.readable().await.unwrap();
        let Ok(len @ 1..) = stream.try_read(&mut buf) else { continue };
        out.clear();
        for line in buf[..len].split_inclusive(|&byte| byte == b'\n') {
            for key in line.trim_ascii_end().split(|&byte| byte == b' ').skip(1) {
                out.extend_from_slice(b"VALUE ");
                out.extend_from_slice(key);
                write!(out, " 0 {}\r\n", value.len()).unwrap();
                out.extend_from_slice(value);
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b"END\r\n");
        }
        assert_eq!(stream.try_write(&out).unwrap(), out.len());
    }
}
