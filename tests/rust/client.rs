//! Whole operations, driven without Python against scripted servers.
use std::cell::Cell;
use std::fmt::Write as _;
use std::rc::Rc;
use std::sync::Arc;

use _emcache::client::{
    Action, BatchResult, BatchSource, BatchValue, Caller, Client, Expect, Failure, FailureKind,
    Gathered, Line, Nodes, Outcome, Target,
};
use _emcache::cluster::ClusterConfig;
use _emcache::cluster::routing::Routing;
use _emcache::pool::{Address, LocalSetHost, PoolConfig, Submission};
use _emcache::protocol::{
    ArithmeticVerb, Command, ItemRef, Key, NEVER, Nanos, Request, RetrievalVerb, StorageVerb, Verb,
};
use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;

use crate::support::{Listener, Peer, config, key, run, with_get, with_set};

/// An outcome of these tests: items are their values.
pub type TestOutcome = Outcome<String>;

pub struct TestCaller {
    sender: Option<oneshot::Sender<TestOutcome>>,
    is_abandoned: Rc<Cell<bool>>,
}

/// The other end of a [`TestCaller`].
pub struct Pending {
    outcome: oneshot::Receiver<TestOutcome>,
    is_abandoned: Rc<Cell<bool>>,
}

fn caller() -> (TestCaller, Pending) {
    let (sender, outcome) = oneshot::channel();
    let is_abandoned: Rc<Cell<bool>> = Rc::default();
    let pending = Pending { outcome, is_abandoned: is_abandoned.clone() };
    (TestCaller { sender: Some(sender), is_abandoned }, pending)
}

impl Pending {
    pub async fn outcome(self) -> TestOutcome {
        self.outcome.await.expect("a caller was dropped without an outcome")
    }

    pub fn is_completed(&mut self) -> bool {
        !matches!(self.outcome.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }

    async fn failure(self) -> Failure {
        match self.outcome().await {
            Outcome::Failed(failure) => *failure,
            other => panic!("{other:?}"),
        }
    }

    async fn batch(self) -> BatchResult<String> {
        match self.outcome().await {
            Outcome::Batch(result) => *result,
            other => panic!("{other:?}"),
        }
    }
}

impl Caller for TestCaller {
    type Item = String;
    type Value = Bytes;
    type Source = Pairs;

    fn item(&self, item: &ItemRef<'_>, _shared: Option<&Bytes>) -> Option<String> {
        (!self.is_abandoned()).then(|| String::from_utf8_lossy(item.value).into_owned())
    }

    fn complete(mut self, outcome: TestOutcome) {
        let sender = self.sender.take().expect("completed twice");
        let _ = sender.send(outcome);
    }

    fn is_abandoned(&self) -> bool {
        self.is_abandoned.get()
    }
}

/// Keys and values of a batch.
pub struct Pairs(Vec<(String, String)>);

impl Pairs {
    fn numbered(count: usize) -> Self {
        Self((0..count).map(|at| (format!("k{at}"), "v".to_owned())).collect())
    }
}

impl BatchSource for Pairs {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn key(&self, at: usize) -> Key<'_> {
        key(&self.0[at].0)
    }
    fn value(&self, at: usize) -> BatchValue<'_> {
        BatchValue::Copied(self.0[at].1.as_bytes())
    }
}

const SET: Action = Action::Store { verb: StorageVerb::Set, flags: 0, exptime: 0 };

pub fn open(addresses: &[Address], pool: PoolConfig) -> Client<TestCaller> {
    let context = LocalSetHost::context();
    let config = ClusterConfig {
        pool,
        purge_unhealthy_nodes: false,
        routing: Routing::Emcache,
        specs: Arc::default(),
        hot_keys: 3,
        failover: None,
    };
    Client::new(&context, addresses.to_vec(), &config, |_| {})
}

pub fn one_connection() -> PoolConfig {
    PoolConfig { max_connections: 1, ..config() }
}

/// A client of one scripted node with one connection.
async fn single() -> (Client<TestCaller>, Listener, Peer) {
    let listener = Listener::bind().await;
    let client = open(std::slice::from_ref(&listener.address), one_connection());
    let peer = listener.accept().await;
    (client, listener, peer)
}

pub fn submit(
    client: &Client<TestCaller>,
    target: Target,
    expect: Expect,
    request: &Request<'_>,
) -> Pending {
    let (caller, pending) = caller();
    client.submit(target, expect, Submission::Borrowed(request), client.deadline(), caller);
    pending
}

pub fn get(client: &Client<TestCaller>, name: &str) -> Pending {
    with_get(name, |request| submit(client, Target::Key, Expect::Item, request))
}

fn set_noreply(client: &Client<TestCaller>, name: &str) -> Pending {
    with_set(name, b"1", |request| submit(client, Target::Key, Expect::NoReply, request))
}

pub fn get_many(client: &Client<TestCaller>, names: &[String], is_partial: bool) -> Pending {
    let (caller, pending) = caller();
    let keys: Vec<_> = names.iter().map(|name| key(name)).collect();
    client.get_many(RetrievalVerb::Get, &keys, None, is_partial, client.deadline(), caller);
    pending
}

fn batch(client: &Client<TestCaller>, source: Pairs, noreply: bool, deadline: Nanos) -> Pending {
    let (caller, pending) = caller();
    client.batch(SET, source, noreply, deadline, caller);
    pending
}

/// Answers a line of `get` with a value for each key, which is the key in capitals.
async fn answer_get(peer: &mut Peer) {
    let line = peer.line().await;
    let mut answer = String::new();
    for name in line.strip_prefix("get ").unwrap().split(' ') {
        let value = name.to_uppercase();
        let _ = write!(answer, "VALUE {name} 0 {}\r\n{value}\r\n", value.len());
    }
    answer += "END\r\n";
    peer.stream.write_all(answer.as_bytes()).await.unwrap();
}

/// Reads `count` sets and answers each.
async fn answer_sets(peer: &mut Peer, count: usize, mut reply: impl FnMut(usize) -> &'static str) {
    for at in 0..count {
        assert!(peer.line().await.starts_with("set "));
        peer.line().await;
        let line = format!("{}\r\n", reply(at));
        peer.stream.write_all(line.as_bytes()).await.unwrap();
    }
}

pub fn items_of(gathered: &mut Gathered<String>) -> Vec<(usize, String)> {
    gathered.take_lines().into_iter().flat_map(Line::into_items).collect()
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("key{at}")).collect()
}

#[test]
fn a_failure_says_the_node_the_command_and_the_status() {
    run(async {
        let (client, listener, mut peer) = single().await;
        let node = Some(listener.address.to_string());
        let found = get(&client, "a");
        answer_get(&mut peer).await;
        assert!(matches!(found.outcome().await, Outcome::Item(Some(value)) if value == "A"));
        for (reply, status, is_miss) in [
            ("NOT_STORED", "NOT_STORED", true),
            ("EXISTS", "EXISTS", true),
            ("NOT_FOUND", "NOT_FOUND", true),
            ("SERVER_ERROR out of memory", "SERVER_ERROR", false),
        ] {
            let set = with_set("a", b"1", |r| submit(&client, Target::Key, Expect::Command, r));
            peer.line().await;
            peer.line().await;
            peer.stream.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
            let failure = set.failure().await;
            assert_eq!(failure.status(), Some(status));
            assert_eq!((failure.node(), failure.command), (node.clone(), Some(Verb::Set)));
            assert_eq!(failure.is_miss(), is_miss);
        }
        let lost = with_set("a", b"1", |r| submit(&client, Target::Key, Expect::Command, r));
        peer.line().await;
        drop(peer);
        let failure = lost.failure().await;
        assert_eq!((failure.node(), failure.command), (node, Some(Verb::Set)));
        assert!(failure.status().is_none() && matches!(failure.kind, FailureKind::Pool(_)));
    });
}

#[test]
fn many_keys_are_gathered_from_all_nodes() {
    run(async {
        let listeners = [Listener::bind().await, Listener::bind().await, Listener::bind().await];
        let addresses: Vec<_> = listeners.iter().map(|l| l.address.clone()).collect();
        let client = open(&addresses, one_connection());
        let names = names(60);
        let pending = get_many(&client, &names, false);
        for listener in &listeners {
            answer_get(&mut listener.accept().await).await;
        }
        let Outcome::Items(mut gathered) = pending.outcome().await else { panic!() };
        let mut items = items_of(&mut gathered);
        items.sort_unstable();
        let expected: Vec<_> =
            names.iter().enumerate().map(|(at, name)| (at, name.to_uppercase())).collect();
        assert_eq!(items, expected);
        assert_eq!(gathered.failures().count(), 0);
    });
}

#[test]
fn one_node_that_fails_fails_a_call_that_is_not_partial() {
    run(async {
        let listeners = [Listener::bind().await, Listener::bind().await];
        let addresses: Vec<_> = listeners.iter().map(|l| l.address.clone()).collect();
        for is_partial in [false, true] {
            let client = open(&addresses, one_connection());
            let (mut good, mut bad) = (listeners[0].accept().await, listeners[1].accept().await);
            let names = names(40);
            let pending = get_many(&client, &names, is_partial);
            bad.line().await;
            bad.stream.write_all(b"SERVER_ERROR busy\r\n").await.unwrap();
            // Each of its keys is asked alone then, on another connection.
            let mut alone = listeners[1].accept().await;
            let failed = (0..names.len())
                .filter(|at| client.node_for(key(&names[*at])).unwrap() == 1)
                .collect::<Vec<_>>();
            for _ in &failed {
                assert!(alone.line().await.starts_with("get "));
                alone.stream.write_all(b"SERVER_ERROR busy\r\n").await.unwrap();
            }
            if !is_partial {
                let failure = pending.failure().await;
                assert_eq!(failure.status(), Some("SERVER_ERROR"));
                assert_eq!(failure.node(), Some(addresses[1].to_string()));
                continue;
            }
            answer_get(&mut good).await;
            let Outcome::Items(mut gathered) = pending.outcome().await else { panic!() };
            assert_eq!(items_of(&mut gathered).len(), names.len() - failed.len());
            let mut positions = Vec::new();
            for (line, failure) in gathered.failures() {
                assert_eq!(failure.status(), Some("SERVER_ERROR"));
                positions.extend_from_slice(line.unwrap());
            }
            positions.sort_unstable();
            assert_eq!(positions, failed);
        }
    });
}

#[test]
fn no_keys_and_no_nodes_have_an_outcome_at_once() {
    run(async {
        let client = open(&[], one_connection());
        assert!(matches!(get_many(&client, &[], false).outcome().await, Outcome::Items(_)));
        assert!(batch(&client, Pairs(Vec::new()), false, NEVER).batch().await.failed.is_empty());
        let failure = get(&client, "a").failure().await;
        assert!(matches!(failure.kind, FailureKind::NoNodes(_)));
        assert_eq!((failure.node(), failure.command), (None, Some(Verb::Get)));
        let failure = get_many(&client, &names(2), false).failure().await;
        assert!(matches!(failure.kind, FailureKind::NoNodes(_)));
        let Outcome::Items(gathered) = get_many(&client, &names(2), true).outcome().await else {
            panic!()
        };
        assert_eq!(gathered.failures().count(), 1);
        let failed = batch(&client, Pairs::numbered(2), false, NEVER).batch().await.failed;
        assert_eq!(failed.len(), 2);
    });
}

/// As many keys as a window has, and one more.
const TWO_WINDOWS: usize = 16 * 1024 + 1;

#[test]
fn a_batch_of_two_windows_says_what_became_of_each_key() {
    run(async {
        let (client, _listener, mut peer) = single().await;
        let pending = batch(&client, Pairs::numbered(TWO_WINDOWS), false, NEVER);
        answer_sets(&mut peer, TWO_WINDOWS - 1, |at| match at {
            3 => "NOT_STORED",
            5 => "SERVER_ERROR out of memory",
            _ => "STORED",
        })
        .await;
        answer_sets(&mut peer, 1, |_| "EXISTS").await;
        let result = pending.batch().await;
        assert_eq!(result.missed, [3, TWO_WINDOWS - 1]);
        assert_eq!(result.failed.len(), 1);
        assert_eq!((result.failed[0].0, result.failed[0].1.status()), (5, Some("SERVER_ERROR")));
        assert!(result.is_done(0) && !result.is_done(3) && !result.is_done(5));
    });
}

#[test]
fn the_next_window_is_not_sent_after_the_deadline_or_for_a_caller_that_gave_up() {
    run(async {
        for is_abandoned in [false, true] {
            let (client, _listener, mut peer) = single().await;
            let deadline = client.context().now() + 3_000_000_000;
            let mut pending = batch(&client, Pairs::numbered(TWO_WINDOWS), false, deadline);
            answer_sets(&mut peer, TWO_WINDOWS - 2, |_| "STORED").await;
            assert!(peer.line().await.starts_with("set "));
            peer.line().await;
            assert!(!pending.is_completed());
            pending.is_abandoned.set(is_abandoned);
            if is_abandoned {
                peer.stream.write_all(b"STORED\r\n").await.unwrap();
                pending.batch().await;
            } else {
                // The last request of the window times out, and with it the batch.
                let failed = pending.batch().await.failed;
                assert_eq!(failed.len(), 2);
                assert!(matches!(failed[0].1.kind, FailureKind::Pool(_)));
                assert!(matches!(failed[1].1.kind, FailureKind::NotSent { .. }));
            }
            let last = get(&client, "after");
            if is_abandoned {
                assert_eq!(peer.line().await, "get after");
            }
            client.close();
            last.failure().await;
        }
    });
}

#[test]
fn a_batch_ends_when_its_client_closes() {
    run(async {
        let (client, _listener, mut peer) = single().await;
        let pending = batch(&client, Pairs::numbered(TWO_WINDOWS), false, NEVER);
        answer_sets(&mut peer, 10, |_| "STORED").await;
        let answered = get(&client, "a");
        client.close();
        let failed = pending.batch().await.failed;
        assert!(matches!(failed.last().unwrap().1.kind, FailureKind::Closed));
        assert!(failed.len() >= TWO_WINDOWS - 10);
        answered.failure().await;
        get(&client, "b").failure().await;
    });
}

#[test]
fn noreply_continues_when_accepted_and_is_drained_when_answered() {
    run(async {
        let (client, _listener, mut peer) = single().await;
        let accepted = set_noreply(&client, "a");
        assert!(matches!(accepted.outcome().await, Outcome::Done));
        assert_eq!(client.noreply_unanswered(), 1);
        let (caller, mut drained) = caller();
        client.drain(caller);
        let closed = Rc::new(Cell::new(false));
        let then = closed.clone();
        client.when_drained(std::time::Duration::from_secs(60), move || then.set(true));
        assert!(!drained.is_completed() && !closed.get());
        answer_sets(&mut peer, 1, |_| "SERVER_ERROR out of memory").await;
        assert!(matches!(drained.outcome().await, Outcome::Done));
        assert!(closed.get());
        assert_eq!((client.noreply_unanswered(), client.noreply_errors()), (0, 1));
    });
}

#[test]
fn with_too_many_unanswered_a_noreply_call_waits_for_its_reply() {
    run(async {
        let (client, _listener, mut peer) = single().await;
        for at in 0..1024 {
            let accepted = set_noreply(&client, &format!("k{at}"));
            assert!(matches!(accepted.outcome().await, Outcome::Done));
        }
        let mut waiting = set_noreply(&client, "last");
        assert!(!waiting.is_completed());
        answer_sets(&mut peer, 1024, |_| "STORED").await;
        assert!(!waiting.is_completed());
        answer_sets(&mut peer, 1, |_| "STORED").await;
        assert!(matches!(waiting.outcome().await, Outcome::Done));
        assert_eq!((client.noreply_unanswered(), client.noreply_errors()), (0, 0));
    });
}

#[test]
fn a_batch_with_noreply_counts_what_the_server_refuses() {
    run(async {
        let (client, _listener, mut peer) = single().await;
        let accepted = batch(&client, Pairs::numbered(3), true, NEVER);
        assert!(matches!(accepted.outcome().await, Outcome::Done));
        assert_eq!(client.noreply_unanswered(), 3);
        answer_sets(&mut peer, 3, |_| "SERVER_ERROR out of memory").await;
        let (caller, drained) = caller();
        client.drain(caller);
        drained.outcome().await;
        assert_eq!(client.noreply_errors(), 3);
        // With more than may be unanswered, it lasts until all is answered.
        let mut answered = batch(&client, Pairs::numbered(1025), true, NEVER);
        answer_sets(&mut peer, 1024, |_| "STORED").await;
        assert!(!answered.is_completed());
        answer_sets(&mut peer, 1, |_| "SERVER_ERROR out of memory").await;
        assert!(matches!(answered.outcome().await, Outcome::Done));
        assert_eq!((client.noreply_unanswered(), client.noreply_errors()), (0, 4));
    });
}

#[test]
fn a_counter_says_when_the_server_lacks_its_command() {
    run(async {
        let (client, listener, mut peer) = single().await;
        let (verb, delta, initial, exptime) = (ArithmeticVerb::Incr, 1, 7, 0);
        let command = Command::Counter { verb, key: key("c"), delta, initial, exptime };
        let count = || submit(&client, Target::Key, Expect::Counter, &Request::Command(command));
        let created = count();
        // Whether the server knows meta commands is asked on a connection of its own.
        let mut isolated = listener.accept().await;
        assert_eq!((isolated.line().await, isolated.line().await), ("mn".into(), "version".into()));
        isolated.stream.write_all(b"MN\r\nVERSION 1.6.45\r\n").await.unwrap();
        assert!(peer.line().await.starts_with("ma c "));
        peer.stream.write_all(b"VA 1\r\n7\r\n").await.unwrap();
        assert!(matches!(created.outcome().await, Outcome::Number(7)));
        let refused = count();
        assert!(peer.line().await.starts_with("ma c "));
        peer.stream.write_all(b"ERROR\r\n").await.unwrap();
        assert!(matches!(refused.outcome().await, Outcome::Unsupported));
    });
}

#[test]
fn other_outcomes_are_owned_data() {
    run(async {
        let (client, _listener, mut peer) = single().await;
        let incr = Command::Arithmetic { verb: ArithmeticVerb::Incr, key: key("n"), delta: 1 };
        let number = submit(&client, Target::Key, Expect::Command, &Request::Command(incr));
        assert_eq!(peer.line().await, "incr n 1");
        peer.stream.write_all(b"5\r\n").await.unwrap();
        assert!(matches!(number.outcome().await, Outcome::Number(5)));
        let probe = with_get("p", |r| submit(&client, Target::Node(0), Expect::Probe, r));
        assert_eq!(peer.line().await, "get p");
        peer.stream.write_all(b"SERVER_ERROR backend down\r\n").await.unwrap();
        assert!(matches!(probe.outcome().await, Outcome::Done));
    });
}

#[test]
fn a_connection_is_the_callers_until_it_is_released() {
    run(async {
        let (client, _listener, mut peer) = single().await;
        let (first, granted) = caller();
        client.check_out(1, NEVER, first);
        assert!(matches!(granted.outcome().await, Outcome::CheckedOut));
        assert!(client.is_checked_out(1));
        let target = Target::Checkout(1);
        let raw = with_set("a", b"1", |r| submit(&client, target, Expect::RawReply, r));
        answer_sets(&mut peer, 1, |_| "NOT_STORED").await;
        assert!(matches!(raw.outcome().await, Outcome::RawReply(text) if text == b"NOT_STORED"));
        let items = with_get("b", |r| submit(&client, target, Expect::RawItems, r));
        answer_get(&mut peer).await;
        let Outcome::RawItems(items) = items.outcome().await else { panic!() };
        assert_eq!((items.items, items.error), (vec![(0, "B".to_owned())], Vec::new()));
        let mut waiting = get(&client, "c");
        tokio::task::yield_now().await;
        assert!(!waiting.is_completed());
        client.release(1);
        assert_eq!(peer.line().await, "get c");
        peer.stream.write_all(b"END\r\n").await.unwrap();
        assert!(matches!(waiting.outcome().await, Outcome::Item(None)));
        assert!(!client.is_checked_out(1));
    });
}

#[test]
fn no_item_is_kept_for_a_caller_that_gave_up() {
    run(async {
        let (client, _listener, mut peer) = single().await;
        let cancelled = get(&client, "a");
        assert_eq!(peer.line().await, "get a");
        cancelled.is_abandoned.set(true);
        peer.stream.write_all(b"VALUE a 0 1\r\nA\r\nEND\r\n").await.unwrap();
        assert!(matches!(cancelled.outcome().await, Outcome::Item(None)));
        // Its reply reaches no other caller.
        let other = get(&client, "b");
        answer_get(&mut peer).await;
        assert!(matches!(other.outcome().await, Outcome::Item(Some(value)) if value == "B"));
    });
}

#[test]
fn closing_in_the_middle_completes_every_caller_once() {
    run(async {
        let (client, _listener, mut peer) = single().await;
        let sent = [get(&client, "a"), get_many(&client, &names(3), false)];
        assert!(peer.line().await.starts_with("get "));
        let noreply = set_noreply(&client, "n");
        // The only connection is granted to the first.
        let (first, granted) = caller();
        client.check_out(8, NEVER, first);
        let (second, waiting) = caller();
        client.check_out(9, NEVER, second);
        let (caller, drained) = caller();
        client.drain(caller);
        client.close();
        for pending in sent {
            let failure = pending.failure().await;
            assert!(matches!(failure.kind, FailureKind::Pool(_)), "{failure}");
        }
        noreply.outcome().await;
        assert!(matches!(granted.outcome().await, Outcome::CheckedOut));
        waiting.failure().await;
        assert!(matches!(drained.outcome().await, Outcome::Done));
        assert_eq!(client.noreply_unanswered(), 0);
    });
}
