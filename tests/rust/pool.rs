//! A pool against a scripted server on a real socket.
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use _emcache::pool::PoolConfig;
use tokio::io::AsyncWriteExt;

use crate::support::{Fixture, Listener, TestWaiter, config, run};

#[test]
fn requests_wait_for_the_first_connection_in_order() {
    run(async {
        let listener = Listener::bind().await;
        let fixture = Fixture::new(&listener.address, config());
        let (a, s, b) = (fixture.get("a"), fixture.set("s", b"1"), fixture.get("b"));
        let mut peer = listener.accept().await;
        for line in ["get a", "set s 0 0 1", "1", "get b"] {
            assert_eq!(peer.line().await, line);
        }
        peer.stream.write_all(b"END\r\nSTORED\r\nVALUE b 0 1\r\nB\r\nEND\r\n").await.unwrap();
        assert_eq!(a.await.unwrap().unwrap(), " End");
        assert_eq!(s.await.unwrap().unwrap(), " Stored");
        assert_eq!(b.await.unwrap().unwrap(), "0=B End");
        let metrics = fixture.pool.metrics();
        assert_eq!((metrics.cur_connections, metrics.operations_executed), (1, 3));
        assert_eq!(metrics.operations_waited, 3);
    });
}

#[test]
fn a_read_is_retried_and_a_sent_write_is_not() {
    run(async {
        let listener = Listener::bind().await;
        let fixture = Fixture::new(&listener.address, config());
        let (a, s) = (fixture.get("a"), fixture.set("s", b"1"));
        let mut first = listener.accept().await;
        for line in ["get a", "set s 0 0 1", "1"] {
            assert_eq!(first.line().await, line);
        }
        drop(first);
        let mut second = listener.accept().await;
        assert_eq!(second.line().await, "get a");
        second.stream.write_all(b"VALUE a 0 1\r\nA\r\nEND\r\n").await.unwrap();
        assert_eq!(a.await.unwrap().unwrap(), "0=A End");
        let lost = s.await.unwrap().unwrap_err();
        assert!(lost.contains("lost before the reply (set)"), "{lost}");
        // A read that kills connections is retried once only.
        let b = fixture.get("b");
        assert_eq!(second.line().await, "get b");
        drop(second);
        let mut third = listener.accept().await;
        assert_eq!(third.line().await, "get b");
        drop(third);
        assert!(b.await.unwrap().unwrap_err().contains("lost before the reply (get)"));
    });
}

#[test]
fn a_deadline_ends_queued_and_sent_requests() {
    run(async {
        let listener = Listener::bind().await;
        // With another connection, the second request would be retried there.
        let fixture =
            Fixture::new(&listener.address, PoolConfig { max_connections: 1, ..config() });
        let mut peer = listener.accept().await;
        let first = fixture.get("first");
        assert_eq!(peer.line().await, "get first");
        peer.stream.write_all(b"END\r\n").await.unwrap();
        first.await.unwrap().unwrap();
        let started = Instant::now();
        let late = fixture.get_within("late", Some(Duration::from_millis(100)));
        let other = fixture.get("other");
        assert!(late.await.unwrap().unwrap_err().starts_with("no reply from 127.0.0.1:"));
        assert!(started.elapsed() >= Duration::from_millis(100));
        // The late reply is discarded.
        assert_eq!(peer.line().await, "get late");
        assert_eq!(peer.line().await, "get other");
        peer.stream.write_all(b"VALUE late 0 1\r\nL\r\nEND\r\n").await.unwrap();
        peer.stream.write_all(b"VALUE other 0 1\r\nO\r\nEND\r\n").await.unwrap();
        assert_eq!(other.await.unwrap().unwrap(), "0=O End");
        assert_eq!(*listener.accepted.borrow(), 1);
        assert_eq!(fixture.pool.in_flight(), 0);
    });
}

#[test]
fn a_dead_node_turns_unhealthy_and_calls_fail_at_once() {
    run(async {
        let listener = Listener::bind().await;
        let address = listener.address.clone();
        drop(listener);
        let fixture = Fixture::new(&address, config());
        let (tell, mut reply) = tokio::sync::mpsc::unbounded_channel();
        fixture.pool.on_change(move |change| {
            if let Some(healthy) = change.health() {
                tell.send(healthy).unwrap();
            }
        });
        let waiting = fixture.get("a");
        assert_eq!(reply.recv().await, Some(false));
        let error = waiting.await.unwrap().unwrap_err();
        assert!(error.contains("is down") && error.contains("refused"), "{error}");
        let mut at_once = fixture.get("b");
        assert!(at_once.try_recv().unwrap().unwrap_err().contains("is down"));
        assert!(fixture.pool.metrics().connections_created_with_error >= 3);
    });
}

#[test]
fn closing_ends_all_requests() {
    run(async {
        let listener = Listener::bind().await;
        let fixture = Fixture::new(&listener.address, config());
        let mut peer = listener.accept().await;
        let sent = fixture.get("a");
        assert_eq!(peer.line().await, "get a");
        fixture.pool.close();
        assert!(sent.await.unwrap().unwrap_err().contains("closed"));
        assert_eq!(peer.rest().await, 0);
        assert!(fixture.get("b").await.unwrap().unwrap_err().contains("closed"));
    });
}

#[test]
fn garbage_fails_all_at_once_and_the_next_call_works() {
    run(async {
        let listener = Listener::bind().await;
        let fixture = Fixture::new(&listener.address, config());
        let mut peer = listener.accept().await;
        let (a, s, b) = (fixture.get("a"), fixture.set("s", b"1"), fixture.get("b"));
        for line in ["get a", "set s 0 0 1", "1", "get b"] {
            assert_eq!(peer.line().await, line);
        }
        peer.stream.write_all(b"\x80\x01\x00\r\n").await.unwrap();
        for reply in [a, s, b] {
            let error = reply.await.unwrap().unwrap_err();
            assert!(error.contains("invalid reply from"), "{error}");
        }
        let next = fixture.get("c");
        let mut second = listener.accept().await;
        assert_eq!(second.line().await, "get c");
        second.stream.write_all(b"END\r\n").await.unwrap();
        assert_eq!(next.await.unwrap().unwrap(), " End");
    });
}

#[test]
fn unused_connections_are_purged_down_to_the_minimum() {
    run(async {
        let listener = Listener::bind().await;
        let after = Some(Duration::from_millis(50));
        let config = PoolConfig { min_connections: 0, purge_unused_after: after, ..config() };
        let fixture = Fixture::new(&listener.address, config);
        let reply = fixture.get("a");
        let mut peer = listener.accept().await;
        assert_eq!(peer.line().await, "get a");
        peer.stream.write_all(b"END\r\n").await.unwrap();
        reply.await.unwrap().unwrap();
        assert_eq!(peer.rest().await, 0);
        assert_eq!(fixture.pool.metrics().connections_purged, 1);
        assert_eq!(fixture.pool.metrics().cur_connections, 0);
    });
}

#[test]
fn a_long_transfer_brings_a_second_connection() {
    run(async {
        let listener = Listener::bind().await;
        let fixture = Fixture::new(&listener.address, config());
        let first = listener.accept().await;
        // The peer does not read it, so it stays in the way.
        let _large = fixture.set("large", &vec![b'x'; 32 << 20]);
        let small = fixture.get("small");
        let mut second = listener.accept().await;
        assert_eq!(second.line().await, "get small");
        second.stream.write_all(b"END\r\n").await.unwrap();
        assert_eq!(small.await.unwrap().unwrap(), " End");
        drop(first);
    });
}

#[test]
fn too_much_is_refused_at_once() {
    run(async {
        let listener = Listener::bind().await;
        let fixture = Fixture::new(&listener.address, config());
        let _peer = listener.accept().await;
        let waiting: Vec<_> = (0..65_536).map(|i| fixture.get(&format!("k{i}"))).collect();
        let mut refused = fixture.get("one-more");
        let error = refused.try_recv().unwrap().unwrap_err();
        assert!(error.contains("more than 65536 requests"), "{error}");
        drop(waiting);
    });
}

#[test]
fn a_server_that_only_greets_is_not_dialled_in_a_storm() {
    run(async {
        let listener = Listener::bind().await;
        let fixture = Fixture::new(&listener.address, config());
        let accepted = listener.accepted.clone();
        let server = tokio::task::spawn_local(async move {
            loop {
                let mut peer = listener.accept().await;
                let _ = peer.stream.write_all(b"ERROR Too many open connections\r\n").await;
            }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!((1..30).contains(&*accepted.borrow()), "{} dials", accepted.borrow());
        server.abort();
        drop(fixture);
    });
}

#[test]
fn a_connection_that_stops_answering_is_given_up() {
    run(async {
        let listener = Listener::bind().await;
        let limit = Some(Duration::from_millis(50));
        let fixture = Fixture::new(&listener.address, PoolConfig { timeout: limit, ..config() });
        let mut silent = listener.accept().await;
        let first = fixture.get_within("a", limit);
        assert!(first.await.unwrap().unwrap_err().contains("no reply"));
        assert_eq!(silent.line().await, "get a");
        let mut second = listener.accept().await;
        let next = fixture.get("b");
        assert_eq!(second.line().await, "get b");
        second.stream.write_all(b"END\r\n").await.unwrap();
        assert_eq!(next.await.unwrap().unwrap(), " End");
    });
}

#[test]
fn checkouts_are_exclusive_and_first_come_first_served() {
    run(async {
        let listener = Listener::bind().await;
        let fixture =
            Fixture::new(&listener.address, PoolConfig { max_connections: 1, ..config() });
        let mut peer = listener.accept().await;
        assert_eq!(fixture.check_out(1).await.unwrap().unwrap(), " Ok");
        let (mut second, gone, mut third) =
            (fixture.check_out(2), fixture.check_out(7), fixture.check_out(3));
        drop(gone);
        let shared = fixture.get("shared");
        let mine = fixture.get_checked_out(1, "mine");
        assert_eq!(peer.line().await, "get mine");
        peer.stream.write_all(b"END\r\n").await.unwrap();
        assert_eq!(mine.await.unwrap().unwrap(), " End");
        assert!(second.try_recv().is_err());
        fixture.pool.release(1);
        assert_eq!(second.await.unwrap().unwrap(), " Ok");
        assert!(third.try_recv().is_err());
        fixture.pool.release(2);
        assert_eq!(third.await.unwrap().unwrap(), " Ok");
        assert_eq!(fixture.pool.metrics().connections_checked_out, 1);
        fixture.pool.release(3);
        assert_eq!(peer.line().await, "get shared");
        peer.stream.write_all(b"END\r\n").await.unwrap();
        shared.await.unwrap().unwrap();
        assert_eq!(*listener.accepted.borrow(), 1);
    });
}

#[test]
fn a_checked_out_connection_that_ends_is_not_replaced() {
    run(async {
        let listener = Listener::bind().await;
        let fixture = Fixture::new(&listener.address, config());
        let mut peer = listener.accept().await;
        fixture.check_out(1).await.unwrap().unwrap();
        let reply = fixture.get_checked_out(1, "a");
        assert_eq!(peer.line().await, "get a");
        drop(peer);
        assert!(reply.await.unwrap().unwrap_err().contains("lost before the reply (get)"));
        let error = fixture.get_checked_out(1, "b").await.unwrap().unwrap_err();
        assert!(error.contains("checked-out connection") && error.contains("closed"), "{error}");
        assert!(!fixture.pool.is_checked_out(1));
        fixture.pool.release(1);
        let _other = listener.accept().await;
        assert_eq!(fixture.check_out(2).await.unwrap().unwrap(), " Ok");
    });
}

#[test]
fn a_silent_node_turns_unhealthy_and_a_probe_brings_it_back() {
    run(async {
        let listener = Listener::bind().await;
        let limit = Some(Duration::from_millis(300));
        let config = PoolConfig { timeout: limit, max_connections: 1, ..config() };
        let fixture = Fixture::new(&listener.address, config);
        let (tell, mut reply) = tokio::sync::mpsc::unbounded_channel();
        fixture.pool.on_change(move |change| {
            if let Some(healthy) = change.health() {
                tell.send(healthy).unwrap();
            }
        });
        // Accepts connections silently until `answers` is set.
        let (answers, lines) = (Rc::new(Cell::new(false)), Rc::new(RefCell::new(Vec::new())));
        let (is_well, heard) = (answers.clone(), lines.clone());
        let server = tokio::task::spawn_local(async move {
            let mut peers = Vec::new();
            loop {
                let mut peer = listener.accept().await;
                if is_well.get() {
                    let line = peer.line().await;
                    heard.borrow_mut().push(line);
                    peer.stream.write_all(b"END\r\n").await.unwrap();
                }
                peers.push(peer);
            }
        });
        let started = Instant::now();
        while fixture.pool.metrics().requests_timed_out < 3 {
            let error = fixture.get_within("a", limit).await.unwrap().unwrap_err();
            assert!(error.contains("no reply"), "{error}");
        }
        while reply.try_recv().is_err() {
            let _ = fixture.get_within("a", limit).await;
        }
        assert!(started.elapsed() >= Duration::from_secs(2));
        let mut at_once = fixture.get("b");
        let error = at_once.try_recv().unwrap().unwrap_err();
        assert!(error.contains("is down: the server stopped answering"), "{error}");
        // An accepted connection does not prove that the server works; a reply does.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(reply.try_recv().is_err());
        answers.set(true);
        assert_eq!(reply.recv().await, Some(true));
        assert!(lines.borrow()[0].starts_with("get emcache:probe"), "{lines:?}");
        server.abort();
    });
}

#[test]
fn a_server_that_closes_every_connection_turns_unhealthy() {
    run(async {
        let listener = Listener::bind().await;
        let fixture = Fixture::new(&listener.address, config());
        let (tell, mut reply) = tokio::sync::mpsc::unbounded_channel();
        fixture.pool.on_change(move |change| {
            if let Some(healthy) = change.health() {
                tell.send(healthy).unwrap();
            }
        });
        let server = tokio::task::spawn_local(async move {
            loop {
                drop(listener.accept().await);
            }
        });
        assert_eq!(reply.recv().await, Some(false));
        assert!(fixture.get("a").await.unwrap().unwrap_err().contains("is down"));
        server.abort();
    });
}

#[test]
fn requests_behind_an_old_one_bring_a_second_connection() {
    run(async {
        let listener = Listener::bind().await;
        let limit = Some(Duration::from_secs(30));
        let fixture = Fixture::new(&listener.address, PoolConfig { timeout: limit, ..config() });
        let mut first = listener.accept().await;
        let _old = fixture.get_within("old", limit);
        assert_eq!(first.line().await, "get old");
        tokio::time::sleep(Duration::from_millis(150)).await;
        // It waits for another connection, and so do the requests after it.
        let others = [fixture.get_within("held-up", limit), fixture.get_within("fast", limit)];
        let mut second = listener.accept().await;
        assert_eq!(second.line().await, "get held-up fast");
        second.stream.write_all(b"END\r\n").await.unwrap();
        for reply in others {
            reply.await.unwrap().unwrap();
        }
    });
}

#[test]
fn keys_with_large_values_use_another_connection() {
    run(async {
        let listener = Listener::bind().await;
        let fixture = Fixture::new(&listener.address, config());
        let mut first = listener.accept().await;
        let large = fixture.get("large");
        assert_eq!(first.line().await, "get large");
        let value = format!("VALUE large 0 65536\r\n{}\r\nEND\r\n", "x".repeat(65536));
        first.stream.write_all(value.as_bytes()).await.unwrap();
        large.await.unwrap().unwrap();
        // The second request makes the pool open a connection, the third uses it.
        let again = fixture.get("large");
        assert_eq!(first.line().await, "get large");
        let mut second = listener.accept().await;
        fixture.connections(2).await;
        let (elsewhere, small) = (fixture.get("large"), fixture.get("small"));
        assert_eq!(second.line().await, "get large");
        assert_eq!(first.line().await, "get small");
        first.stream.write_all(b"END\r\nEND\r\n").await.unwrap();
        second.stream.write_all(b"END\r\n").await.unwrap();
        for reply in [again, elsewhere, small] {
            reply.await.unwrap().unwrap();
        }
    });
}

#[test]
fn a_panic_in_a_task_ends_its_connection_only() {
    run(async {
        let listener = Listener::bind().await;
        let fixture = Fixture::new(&listener.address, config());
        let mut first = listener.accept().await;
        let (bomb, other) = (fixture.get(TestWaiter::PANIC), fixture.get("other"));
        assert_eq!(first.line().await, "get panic other");
        first.stream.write_all(b"VALUE panic 0 1\r\nP\r\nEND\r\n").await.unwrap();
        for reply in [bomb, other] {
            let error = reply.await.unwrap().unwrap_err();
            assert!(error.contains("internal error"), "{error}");
        }
        let mut second = listener.accept().await;
        let next = fixture.get("next");
        assert_eq!(second.line().await, "get next");
        second.stream.write_all(b"END\r\n").await.unwrap();
        next.await.unwrap().unwrap();
    });
}

#[test]
fn a_connection_to_a_full_server_is_probed_before_use() {
    run(async {
        let listener = Listener::bind().await;
        let fixture = Fixture::new(&listener.address, config());
        let waiting = fixture.get("a");
        let full = b"ERROR Too many open connections\r\n";
        let mut refused = listener.accept().await;
        refused.stream.write_all(full).await.unwrap();
        drop(refused);
        for _ in 0..2 {
            let mut probed = listener.accept().await;
            assert_eq!(probed.line().await, "get emcache:probe");
            probed.stream.write_all(full).await.unwrap();
        }
        let error = waiting.await.unwrap().unwrap_err();
        assert!(error.contains("is down: too many open connections"), "{error}");
    });
}

#[test]
fn unanswered_requests_do_not_block_the_next_holder_for_ever() {
    run(async {
        let listener = Listener::bind().await;
        let fixture =
            Fixture::new(&listener.address, PoolConfig { max_connections: 1, ..config() });
        let mut stuck = listener.accept().await;
        // Answered after the first release but not after the second: one task watches both.
        for checkout in [1, 2] {
            fixture.check_out(checkout).await.unwrap().unwrap();
            let left = fixture.get_checked_out(checkout, "left");
            assert_eq!(stuck.line().await, "get left");
            drop(left);
            fixture.pool.release(checkout);
            if checkout == 1 {
                stuck.stream.write_all(b"END\r\n").await.unwrap();
            }
        }
        assert_eq!(fixture.check_out(3).await.unwrap().unwrap(), " Ok");
        let behind = fixture.get_checked_out(3, "behind");
        fixture.pool.release(3);
        // No byte of it was answered, so it is retried.
        let mut fresh = listener.accept().await;
        assert_eq!(fresh.line().await, "get behind");
        fresh.stream.write_all(b"END\r\n").await.unwrap();
        assert_eq!(behind.await.unwrap().unwrap(), " End");
        assert_eq!(fixture.check_out(4).await.unwrap().unwrap(), " Ok");
    });
}
