//! A migration between two scripted servers: which requests go where, in which order.
use std::sync::Arc;
use std::time::Duration;

use _emcache::client::{Client, Expect, MigrationOptions, Nodes, Outcome, Phase, Target};
use _emcache::cluster::NodeList;
use _emcache::cluster::routing::Routing;
use _emcache::protocol::{ArithmeticVerb, Command, Request, RetrievalVerb};
use tokio::io::AsyncWriteExt;

use crate::client::{Pending, TestCaller, get, one_connection, open, submit};
use crate::support::{Listener, Peer, key, run, with_set};

/// A client that moves from one node to another, each with one connection.
struct Two {
    client: Client<TestCaller>,
    old: Peer,
    new: Peer,
    old_listener: Listener,
}

async fn two(phase: Phase) -> Two {
    let (old_listener, new_listener) = (Listener::bind().await, Listener::bind().await);
    let client = open(std::slice::from_ref(&new_listener.address), one_connection());
    let list = NodeList {
        addresses: vec![old_listener.address.clone()],
        routing: Routing::Emcache,
        specs: Arc::default(),
    };
    let options = MigrationOptions { phase, drain: None, unknown_ttl: 60 };
    assert_eq!(client.migrate_from(&list, &options), Some(vec![0]));
    assert_eq!(client.migrate_from(&list, &options), None);
    let (new, old) = (new_listener.accept().await, old_listener.accept().await);
    Two { client, old, new, old_listener }
}

impl Two {
    fn set(&self, name: &str) -> Pending {
        with_set(name, b"1", |r| submit(&self.client, Target::Key, Expect::Command, r))
    }

    fn command(&self, command: Command<'_>) -> Pending {
        submit(&self.client, Target::Key, Expect::Command, &Request::Command(command))
    }
}

impl Peer {
    /// Reads one line and answers it.
    async fn exchange(&mut self, line: &str, answer: &str) {
        assert_eq!(self.line().await, line);
        self.stream.write_all(answer.as_bytes()).await.unwrap();
    }

    /// Reads a stub and stores it. Returns its value as an item with this token.
    async fn store_stub(&mut self, name: &str, token: u64) {
        assert_eq!(self.line().await, format!("add {name} 0 3 24"));
        let mut value = [0; 26];
        tokio::io::AsyncReadExt::read_exact(&mut self.stream, &mut value).await.unwrap();
        self.stream.write_all(b"STORED\r\n").await.unwrap();
        assert_eq!(self.line().await, format!("gets {name}"));
        let mut answer = format!("VALUE {name} 0 24 {token}\r\n").into_bytes();
        answer.extend_from_slice(&value);
        answer.extend_from_slice(b"END\r\n");
        self.stream.write_all(&answer).await.unwrap();
    }
}

/// Whether the old node knows meta commands is asked on a connection of its own.
async fn answer_meta_probe(listener: &Listener) {
    let mut isolated = listener.accept().await;
    isolated.exchange("mn", "MN\r\n").await;
    isolated.exchange("version", "VERSION 1.6.45\r\n").await;
}

#[test]
fn a_hit_at_the_old_node_is_moved_with_its_time() {
    run(async {
        let mut two = two(Phase::Move).await;
        let found = get(&two.client, "a");
        two.new.exchange("get a", "END\r\n").await;
        two.old.exchange("get a", "VALUE a 5 1\r\nA\r\nEND\r\n").await;
        assert!(matches!(found.outcome().await, Outcome::Item(Some(value)) if value == "A"));
        two.new.store_stub("a", 7).await;
        answer_meta_probe(&two.old_listener).await;
        two.old.exchange("mg a v f c t", "VA 1 f5 c33 t40\r\nA\r\n").await;
        // The old place is cleared before the new one has it.
        two.old.exchange("cas a 0 2592001 0 33", "").await;
        two.old.exchange("", "STORED\r\n").await;
        two.new.exchange("cas a 5 40 1 7", "").await;
        two.new.exchange("A", "STORED\r\n").await;
        while two.client.migration_status().unwrap().queued > 0 {
            tokio::task::yield_now().await;
        }
        let counters = two.client.migration_status().unwrap().counters;
        assert_eq!((counters.moved, counters.fallback_hits), (1, 1));
    });
}

#[test]
fn an_item_that_changes_is_read_again() {
    run(async {
        let mut two = two(Phase::Move).await;
        let verb = ArithmeticVerb::Incr;
        let number = two.command(Command::Arithmetic { verb, key: key("n"), delta: 1 });
        two.new.exchange("gets n", "END\r\n").await;
        two.old.exchange("gets n", "VALUE n 0 1 4\r\n5\r\nEND\r\n").await;
        two.new.store_stub("n", 7).await;
        answer_meta_probe(&two.old_listener).await;
        two.old.exchange("mg n v f c t", "VA 1 f0 c4 t-1\r\n5\r\n").await;
        two.old.exchange("cas n 0 2592001 0 4", "").await;
        two.old.exchange("", "EXISTS\r\n").await;
        two.old.exchange("mg n v f c t", "VA 1 f0 c5 t-1\r\n6\r\n").await;
        two.old.exchange("cas n 0 2592001 0 5", "").await;
        two.old.exchange("", "STORED\r\n").await;
        two.new.exchange("cas n 0 0 1 7", "").await;
        two.new.exchange("6", "STORED\r\n").await;
        // The client waits a moment and looks again.
        two.new.exchange("gets n", "VALUE n 0 1 8\r\n6\r\nEND\r\n").await;
        two.new.exchange("incr n 1", "7\r\n").await;
        assert!(matches!(number.outcome().await, Outcome::Number(7)));
    });
}

#[test]
fn a_write_clears_the_old_node_first() {
    run(async {
        for phase in [Phase::Move, Phase::Finish] {
            let mut two = two(phase).await;
            let stored = two.set("a");
            two.old.exchange("delete a", "DELETED\r\n").await;
            two.new.exchange("set a 0 0 1", "").await;
            two.new.exchange("1", "STORED\r\n").await;
            assert!(matches!(stored.outcome().await, Outcome::Done));
        }
        let mut two = two(Phase::Prepare).await;
        let stored = two.set("a");
        two.old.exchange("set a 0 0 1", "").await;
        two.old.exchange("1", "STORED\r\n").await;
        two.new.exchange("delete a", "NOT_FOUND\r\n").await;
        assert!(matches!(stored.outcome().await, Outcome::Done));
    });
}

#[test]
fn a_delete_removes_what_it_saw() {
    run(async {
        let mut two = two(Phase::Move).await;
        let deleted = two.command(Command::Delete { key: key("a") });
        two.new.exchange("gets a", "END\r\n").await;
        two.old.exchange("gets a", "VALUE a 0 1 9\r\nA\r\nEND\r\n").await;
        two.old.exchange("cas a 0 2592001 0 9", "").await;
        // It was moved in the meantime.
        two.old.exchange("", "NOT_FOUND\r\n").await;
        two.new.exchange("gets a", "VALUE a 0 1 3\r\nA\r\nEND\r\n").await;
        two.new.exchange("cas a 0 2592001 0 3", "").await;
        two.new.exchange("", "STORED\r\n").await;
        assert!(matches!(deleted.outcome().await, Outcome::Done));
    });
}

#[test]
fn a_stub_is_not_a_value() {
    run(async {
        let mut two = two(Phase::Finish).await;
        let found = get(&two.client, "a");
        let stub = "VALUE a 0 24\r\n\0emcache:moving\x0012345678\r\nEND\r\n";
        two.new.exchange("get a", stub).await;
        two.new.exchange("get a", "VALUE a 0 1\r\nA\r\nEND\r\n").await;
        assert!(matches!(found.outcome().await, Outcome::Item(Some(value)) if value == "A"));
    });
}

#[test]
fn writes_go_on_without_the_old_node() {
    run(async {
        let mut two = two(Phase::Move).await;
        let stored = two.set("a");
        assert_eq!(two.old.line().await, "delete a");
        drop(two.old_listener);
        drop(two.old);
        two.new.exchange("set a 0 0 1", "").await;
        two.new.exchange("1", "STORED\r\n").await;
        assert!(matches!(stored.outcome().await, Outcome::Done));
        // What it has may be outdated.
        let missed = get(&two.client, "b");
        two.new.exchange("get b", "END\r\n").await;
        assert!(matches!(missed.outcome().await, Outcome::Item(None)));
        let status = two.client.migration_status().unwrap();
        assert_eq!((status.unreachable, status.counters.unreached), (vec![1], 1));
    });
}

#[test]
fn many_keys_take_one_more_round_trip() {
    run(async {
        let mut two = two(Phase::Prepare).await;
        let names: Vec<_> = ["a", "b", "c"].map(str::to_owned).into();
        let pending = crate::client::get_many(&two.client, &names, false);
        two.old.exchange("get a b c", "VALUE b 0 1\r\nB\r\nEND\r\n").await;
        two.new.exchange("get a c", "VALUE c 0 1\r\nC\r\nEND\r\n").await;
        let Outcome::Items(mut gathered) = pending.outcome().await else { panic!() };
        let mut items = crate::client::items_of(&mut gathered);
        items.sort_unstable();
        assert_eq!(items, [(1, "B".to_owned()), (2, "C".to_owned())]);
    });
}

#[test]
fn a_close_completes_every_caller() {
    run(async {
        let mut two = two(Phase::Move).await;
        let pending = [two.set("a"), get(&two.client, "b")];
        let request = Request::Retrieval { verb: RetrievalVerb::Gets, keys: &[key("c")] };
        let gets = submit(&two.client, Target::Key, Expect::Item, &request);
        assert_eq!(two.old.line().await, "delete a");
        two.client.close();
        for pending in pending.into_iter().chain([gets]) {
            let mut pending = pending;
            assert!(pending.is_completed());
        }
    });
}

#[test]
fn it_ends_by_itself_and_the_old_node_is_closed() {
    run(async {
        let mut two = two(Phase::Move).await;
        assert!(two.client.finish_migration());
        let limit = Duration::from_secs(10);
        let ended = async {
            while two.client.migration_status().is_some() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(limit, ended).await.unwrap();
        assert_eq!(two.old.rest().await, 0);
        assert!(!two.client.roll_back(None));
        assert_eq!(two.client.health(), (vec![0], vec![]));
    });
}
