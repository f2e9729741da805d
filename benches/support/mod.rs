//! Shared by the benches: keys, replies, and a handler that only counts.
#![allow(dead_code, reason = "each bench uses a part of it")]
pub mod blocking;
pub mod pool;

use std::fmt::Write;
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Waker};

use _emcache::pool::Connection;
use _emcache::protocol::{
    Command, Dialect, ItemRef, Key, NEVER, NodeStats, Reply, ReplyHandler, Request, RetrievalVerb,
    StatLine, StorageVerb,
};
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Counts the bytes of items.
#[derive(Default)]
pub struct Counting(u64);

impl ReplyHandler for Counting {
    type Value = Bytes;
    fn item(&mut self, _index: usize, item: &ItemRef<'_>, _shared: Option<&Bytes>) {
        self.0 += item.value.len() as u64;
    }
    fn stat(&mut self, _stat: &StatLine<'_>) {}
    fn restart(&mut self) {}
    fn reply(self, reply: &Reply<'_>, _from: &str) {
        black_box((self.0, reply));
    }
}

pub fn keys(count: usize) -> Vec<String> {
    (0..count).map(|i| format!("bench:{i:06}:key")).collect()
}

pub fn key(text: &str) -> Key<'_> {
    #[allow(clippy::unwrap_used, reason = "the benches' keys are good")]
    Key::parse(text.as_bytes()).unwrap()
}

/// The reply of a server to gets of `keys` in lines of `merged`, with values of `size` bytes.
pub fn answer(keys: &[String], merged: usize, size: usize) -> String {
    let value = "v".repeat(size);
    let mut text = String::new();
    for line in keys.chunks(merged) {
        for key in line {
            let _ = write!(text, "VALUE {key} 0 {size}\r\n{value}\r\n");
        }
        text.push_str("END\r\n");
    }
    text
}

pub fn with_get<T>(name: &str, run: impl FnOnce(&Request<'_>) -> T) -> T {
    run(&Request::Retrieval { verb: RetrievalVerb::Get, keys: &[key(name)] })
}

pub fn set<'a>(name: &'a str, value: &'a [u8]) -> Command<'a> {
    let (verb, flags, exptime) = (StorageVerb::Set, 0, 60);
    Command::Storage { verb, key: key(name), flags, exptime, value }
}

/// A connection over an in-memory duplex, and the server at its other end.
pub struct Wire {
    connection: Connection<Counting>,
    server: DuplexStream,
    received: Vec<u8>,
    stats: NodeStats,
}

impl Wire {
    pub fn new(max_merged_keys: u32) -> Self {
        let (ours, server) = tokio::io::duplex(1 << 20);
        let connection =
            Connection::new(Box::new(ours), Dialect::default(), max_merged_keys, "node".into());
        Self { connection, server, received: vec![0; 1 << 16], stats: NodeStats::default() }
    }

    /// Gets of `keys` in one burst, which the server answers with `answer`.
    pub fn gets(&mut self, keys: &[String], answer: &str) {
        for key in keys {
            with_get(key, |request| self.connection.push(request, Counting::default(), NEVER));
        }
        self.exchange(answer);
    }

    pub fn sets(&mut self, keys: &[String], value: &[u8], answer: &str) {
        for key in keys {
            let request = Request::Command(set(key, value));
            self.connection.push(&request, Counting::default(), NEVER);
        }
        self.exchange(answer);
    }

    fn exchange(&mut self, answer: &str) {
        self.connection.flush();
        let mut cx = Context::from_waker(Waker::noop());
        let mut read = ReadBuf::new(&mut self.received);
        assert!(Pin::new(&mut self.server).poll_read(&mut cx, &mut read).is_ready());
        assert!(!read.filled().is_empty());
        assert!(Pin::new(&mut self.server).poll_write(&mut cx, answer.as_bytes()).is_ready());
        assert!(self.connection.poll(&mut cx, || 0, &mut self.stats).is_pending());
        // One poll reads only a part of a large value.
        while self.connection.has_more() {
            assert!(self.connection.poll(&mut cx, || 0, &mut self.stats).is_pending());
        }
        assert_eq!(self.connection.in_flight(), 0);
    }
}
