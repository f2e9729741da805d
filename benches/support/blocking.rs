//! A core whose caller waits, and a server with one value, on a thread of its own.
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use _emcache::client::{Expect, Outcome, Target};
use _emcache::cluster::ClusterConfig;
use _emcache::cluster::routing::Routing;
use _emcache::host::{Core, NodeAt, Receiver, SharedSource};
use _emcache::pool::{Address, Submission};
use _emcache::protocol::ItemRef;
use bytes::{Bytes, BytesMut};

use super::{answer, pool, with_get};

const SLICE: Duration = Duration::from_millis(30);

/// Items are only measured.
enum Lengths {}

impl Receiver for Lengths {
    type Item = usize;
    type Value = Bytes;
    type Source = SharedSource;

    fn item(item: &ItemRef<'_>, _shared: Option<&Bytes>, _block: &mut BytesMut) -> usize {
        item.value.len()
    }
}

pub struct Fixture {
    core: Core<Lengths>,
    key: String,
    value_len: usize,
}

impl Fixture {
    #[allow(clippy::unwrap_used, reason = "a bench may panic")]
    pub fn new(key: String, value_len: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let reply = answer(std::slice::from_ref(&key), 1, value_len);
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buf = [0; 1024];
            while stream.read(&mut buf).is_ok_and(|len| len > 0) {
                stream.write_all(reply.as_bytes()).unwrap();
            }
        });
        let address = Address::Tcp { host: "127.0.0.1".into(), port };
        let config = ClusterConfig {
            pool: pool::config(),
            purge_unhealthy_nodes: false,
            routing: Routing::Emcache,
            specs: Arc::default(),
            hot_keys: 0,
            failover: None,
        };
        let core = Core::open(vec![NodeAt { address, ip: None }], &config).unwrap();
        Self { core, key, value_len }
    }

    pub fn get(&mut self) {
        let Self { core, key, value_len } = self;
        core.begin(|to| {
            let (deadline, caller) = (to.deadline(), to.caller(0));
            with_get(key, |get| {
                let get = Submission::Borrowed(get);
                to.client.submit(Target::Key, Expect::Item, get, deadline, caller);
            });
        });
        while !core.wait(1, SLICE) {}
        assert!(matches!(core.take(), Some(Outcome::Item(Some(len))) if len == *value_len));
    }
}
