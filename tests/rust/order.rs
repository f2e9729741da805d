//! Requests that follow unanswered `noreply` writes, against scripted servers.
use std::time::Duration;

use _emcache::pool::PoolConfig;
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::support::{Fixture, Listener, NoReply, Peer, WaitResult, config, run};

static LARGE: [u8; 100_000] = [b'v'; 100_000];

/// A pool with two connections; an old request is waiting on the first.
async fn held_up() -> (Fixture, Listener, Peer, Peer) {
    let listener = Listener::bind().await;
    let fixture = Fixture::new(&listener.address, PoolConfig { min_connections: 2, ..config() });
    let (first, second) = (listener.accept().await, listener.accept().await);
    fixture.connections(2).await;
    (fixture, listener, first, second)
}

async fn lines(peer: &mut Peer, expected: &[&str]) {
    for line in expected {
        assert_eq!(peer.line().await, *line);
    }
}

async fn answer(peer: &mut Peer, text: &str) {
    peer.stream.write_all(text.as_bytes()).await.unwrap();
}

/// Writes until the kernel accepts no more, because the server does not read.
async fn fill(fixture: &Fixture) -> Vec<oneshot::Receiver<WaitResult>> {
    let mut filling = Vec::new();
    let mut written = 1;
    while written != fixture.pool.metrics().bytes_written {
        written = fixture.pool.metrics().bytes_written;
        filling.push(fixture.set("filling", &LARGE));
        sleep(Duration::from_millis(5)).await;
    }
    filling
}

/// Starts a large write on the second connection.
async fn large_write(fixture: &Fixture, second: &mut Peer) -> NoReply {
    let small = fixture.get("small");
    let large = fixture.set_noreply("k", &LARGE);
    lines(second, &["set k 0 0 100000"]).await;
    assert_eq!(second.line().await.len(), LARGE.len());
    drop(small);
    large
}

#[test]
fn a_later_request_follows_an_unanswered_write_to_its_connection() {
    run(async {
        let (fixture, _listener, mut first, mut second) = held_up().await;
        let large = large_write(&fixture, &mut second).await;
        assert!(large.is_accepted());
        let (same, other) = (fixture.get("k"), fixture.get("other"));
        let both = fixture.get_many(&["a", "k"]);
        lines(&mut second, &["get k", "get a k"]).await;
        lines(&mut first, &["get small", "get other"]).await;
        answer(&mut second, "STORED\r\nEND\r\nEND\r\n").await;
        same.await.unwrap().unwrap();
        both.await.unwrap().unwrap();
        assert_eq!(large.ended.await.unwrap().unwrap(), " Stored");
        // An answered write pins nothing.
        let later = fixture.get("k");
        lines(&mut first, &["get k"]).await;
        answer(&mut first, "END\r\nEND\r\nEND\r\n").await;
        other.await.unwrap().unwrap();
        later.await.unwrap().unwrap();
    });
}

#[test]
fn writes_without_replies_stay_on_one_connection() {
    run(async {
        let (fixture, _listener, mut first, mut second) = held_up().await;
        let _large = large_write(&fixture, &mut second).await;
        let _other = fixture.set_noreply("other", b"1");
        lines(&mut second, &["set other 0 0 1", "1"]).await;
        lines(&mut first, &["get small"]).await;
    });
}

#[test]
fn commands_for_all_keys_come_after_writes_and_before_what_follows() {
    run(async {
        let (fixture, listener, mut first, mut second) = held_up().await;
        // From now on the server is known to support it, and it uses the shared connections.
        let learnt = fixture.flush_all();
        let mut own = listener.accept().await;
        lines(&mut own, &["flush_all"]).await;
        answer(&mut own, "OK\r\n").await;
        learnt.await.unwrap().unwrap();
        let _large = large_write(&fixture, &mut second).await;
        let _flushed = fixture.flush_all();
        lines(&mut second, &["flush_all"]).await;
        // An awaited write pins nothing.
        let _unpinned = fixture.get("a");
        lines(&mut first, &["get small", "get a"]).await;
        let _quiet = fixture.flush_all_noreply();
        let _pinned = fixture.get("b");
        let _pinned_too = fixture.set_noreply("c", b"1");
        lines(&mut second, &["flush_all", "get b", "set c 0 0 1", "1"]).await;
    });
}

#[test]
fn unsent_writes_go_to_the_next_connection_in_order() {
    run(async {
        let listener = Listener::bind().await;
        let fixture =
            Fixture::new(&listener.address, PoolConfig { max_connections: 1, ..config() });
        let first = listener.accept().await;
        fixture.connections(1).await;
        let mut filling = fill(&fixture).await;
        let quiet = [fixture.set_noreply("k", b"1"), fixture.set_noreply("k", b"2")];
        let (awaited, last, read) =
            (fixture.set("k", b"3"), fixture.set_noreply("k", b"4"), fixture.get("k"));
        assert!(quiet.iter().chain([&last]).all(NoReply::is_accepted));
        drop(first);
        let mut second = listener.accept().await;
        let mut reply = Vec::new();
        while reply.last().is_none_or(|line| line != "get k") {
            reply.push(second.line().await);
        }
        // Some of the filling writes were not sent either.
        let first_k = reply.iter().position(|line| line.starts_with("set k")).unwrap();
        answer(&mut second, &"STORED\r\n".repeat(first_k / 2 + 4)).await;
        answer(&mut second, "END\r\n").await;
        let set = "set k 0 0 1";
        assert_eq!(reply[first_k..], [set, "1", set, "2", set, "3", set, "4", "get k"]);
        awaited.await.unwrap().unwrap();
        read.await.unwrap().unwrap();
        assert!(filling.remove(0).await.unwrap().unwrap_err().contains("lost"));
        assert_eq!(fixture.pool.in_flight(), 0);
    });
}

#[test]
fn a_write_that_waits_for_a_connection_is_not_accepted_yet() {
    run(async {
        let listener = Listener::bind().await;
        let fixture = Fixture::new(&listener.address, config());
        let write = fixture.set_noreply("k", b"1");
        assert!(!write.is_accepted());
        let mut peer = listener.accept().await;
        lines(&mut peer, &["set k 0 0 1", "1"]).await;
        assert!(write.is_accepted());
        // The connection was refused, so nothing was sent.
        let refused = Listener::bind().await.address;
        let fixture = Fixture::new(&refused, config());
        let write = fixture.set_noreply("k", b"1");
        let error = write.ended.await.unwrap().unwrap_err();
        assert!(error.contains("refused"), "{error}");
    });
}

#[test]
fn a_connection_that_leaves_is_waited_for() {
    run(async {
        let old = Listener::bind().await;
        let new = Listener::bind_at("127.0.0.2", old.port()).await;
        let fixture = Fixture::new(&old.address, PoolConfig { max_connections: 2, ..config() });
        fixture.pool.set_ip(Some("127.0.0.1"));
        let mut before = old.accept().await;
        fixture.connections(1).await;
        let _write = fixture.set_noreply("k", b"1");
        lines(&mut before, &["set k 0 0 1", "1"]).await;
        fixture.pool.set_ip(Some("127.0.0.2"));
        let mut after = new.accept().await;
        lines(&mut after, &["get emcache:probe"]).await;
        answer(&mut after, "END\r\n").await;
        fixture.connections(2).await;
        let (waits, passes) = (fixture.set("k", b"2"), fixture.set("other", b"3"));
        let both = fixture.get_many(&["other", "k"]);
        lines(&mut after, &["set other 0 0 1", "3"]).await;
        assert_eq!(fixture.pool.metrics().requests_queued, 2);
        sleep(Duration::from_millis(50)).await;
        answer(&mut before, "STORED\r\n").await;
        lines(&mut after, &["set k 0 0 1", "2", "get other k"]).await;
        answer(&mut after, "STORED\r\nSTORED\r\nEND\r\n").await;
        for reply in [waits, passes, both] {
            reply.await.unwrap().unwrap();
        }
    });
}

#[test]
fn a_checkout_gets_the_connection_with_unanswered_writes() {
    run(async {
        let (fixture, _listener, mut first, mut second) = held_up().await;
        fixture.check_out(1).await.unwrap().unwrap();
        let _write = fixture.set_noreply_checked_out(1, "k", b"1");
        lines(&mut first, &["set k 0 0 1", "1"]).await;
        fixture.pool.release(1);
        fixture.check_out(2).await.unwrap().unwrap();
        let _read = fixture.get_checked_out(2, "k");
        lines(&mut first, &["get k"]).await;
        // The connection is in use, and the caller of the third checkout may be the writer.
        let mut third = fixture.check_out(3);
        sleep(Duration::from_millis(20)).await;
        assert!(third.try_recv().is_err());
        answer(&mut first, "STORED\r\n").await;
        third.await.unwrap().unwrap();
        let _read = fixture.get_checked_out(3, "k");
        lines(&mut second, &["get k"]).await;
    });
}
