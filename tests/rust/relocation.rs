//! A node that is replaced under its name, and one that is removed.
use std::time::Duration;

use _emcache::pool::PoolConfig;
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use crate::support::{Fixture, Listener, Peer, config, run};

const OLD: &str = "127.0.0.1";
const NEW: &str = "127.0.0.2";

/// Two addresses of one node, whose name leads to the first, and a pool with one open connection.
async fn moving(max_connections: usize) -> (Fixture, Listener, Peer, Listener) {
    let old = Listener::bind().await;
    let new = Listener::bind_at(NEW, old.port()).await;
    let fixture = Fixture::new(&old.address, PoolConfig { max_connections, ..config() });
    fixture.pool.set_ip(Some(OLD));
    let peer = old.accept().await;
    fixture.connections(1).await;
    (fixture, old, peer, new)
}

async fn answer(peer: &mut Peer, request: &str) {
    assert_eq!(peer.line().await, request);
    peer.stream.write_all(b"END\r\n").await.unwrap();
}

#[test]
fn the_former_address_serves_until_the_new_one_has_answered() {
    run(async {
        let (fixture, _old, mut before, new) = moving(1).await;
        fixture.pool.set_ip(Some(NEW));
        let mut after = new.accept().await;
        assert_eq!(after.line().await, "get emcache:probe");
        let reply = fixture.get("a");
        answer(&mut before, "get a").await;
        reply.await.unwrap().unwrap();
        // A request in flight on the former address is answered there.
        let last = fixture.get("b");
        assert_eq!(before.line().await, "get b");
        after.stream.write_all(b"END\r\n").await.unwrap();
        fixture.connections(2).await;
        let first = fixture.get("c");
        answer(&mut after, "get c").await;
        first.await.unwrap().unwrap();
        before.stream.write_all(b"VALUE b 0 1\r\nB\r\nEND\r\n").await.unwrap();
        assert_eq!(last.await.unwrap().unwrap(), "0=B End");
        assert_eq!(before.rest().await, 0);
        fixture.connections(1).await;
        assert_eq!(*new.accepted.borrow(), 1);
    });
}

#[test]
fn requests_that_the_former_address_does_not_answer_fail() {
    run(async {
        let (fixture, _old, mut before, new) = moving(2).await;
        let (read, write) = (fixture.get("r"), fixture.set("w", b"1"));
        assert_eq!(before.line().await, "get r");
        fixture.pool.set_ip(Some(NEW));
        let mut after = new.accept().await;
        answer(&mut after, "get emcache:probe").await;
        answer(&mut after, "get r").await;
        read.await.unwrap().unwrap();
        let error = write.await.unwrap().unwrap_err();
        assert!(error.contains("the node moved"), "{error}");
        assert!(fixture.pool.is_healthy());
    });
}

#[test]
fn an_address_that_is_not_up_yet_is_retried() {
    run(async {
        let (fixture, old, mut before, new) = moving(1).await;
        fixture.pool.set_ip(Some("127.0.0.9"));
        while fixture.pool.metrics().connections_created_with_error < 3 {
            let reply = fixture.get("a");
            answer(&mut before, "get a").await;
            reply.await.unwrap().unwrap();
        }
        // The name leads to the former address, which is not used.
        assert_eq!((*old.accepted.borrow(), fixture.pool.metrics().cur_connections), (1, 1));
        // The node moves again, and the first connection there is closed without a reply.
        fixture.pool.set_ip(Some(NEW));
        drop(new.accept().await);
        answer(&mut new.accept().await, "get emcache:probe").await;
        assert_eq!(before.rest().await, 0);
        assert!(fixture.pool.is_healthy());
    });
}

#[test]
fn a_connection_to_a_former_address_is_used_and_replaced() {
    run(async {
        let (fixture, old, before, new) = moving(1).await;
        fixture.pool.set_ip(Some("127.0.0.9"));
        drop(before);
        let reply = fixture.get("a");
        let mut again = old.accept().await;
        answer(&mut again, "get a").await;
        reply.await.unwrap().unwrap();
        fixture.pool.set_ip(Some(NEW));
        answer(&mut new.accept().await, "get emcache:probe").await;
        assert_eq!(again.rest().await, 0);
    });
}

#[test]
fn a_waiting_dial_goes_to_the_new_address_at_once() {
    run(async {
        let old = Listener::bind().await;
        let new = Listener::bind_at(NEW, old.port()).await;
        let fixture = Fixture::new(&old.address, config());
        fixture.pool.set_ip(Some("127.0.0.9"));
        // The known address refuses, the name accepts; then both are gone, and the backoff grows.
        drop(old.accept().await);
        drop(old);
        while fixture.pool.metrics().connections_created_with_error < 5 {
            sleep(Duration::from_millis(1)).await;
        }
        let failed = fixture.pool.metrics().connections_created_with_error;
        fixture.pool.set_ip(Some(NEW));
        answer(&mut new.accept().await, "get emcache:probe").await;
        assert_eq!(fixture.pool.metrics().connections_created_with_error, failed);
        while !fixture.pool.is_healthy() {
            sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_node_that_moves_back_keeps_its_connection() {
    run(async {
        let (fixture, old, mut before, new) = moving(1).await;
        fixture.pool.set_ip(Some(NEW));
        let unanswered = new.accept().await;
        fixture.pool.set_ip(None);
        fixture.pool.set_ip(Some(OLD));
        drop(unanswered);
        let reply = fixture.get("a");
        answer(&mut before, "get a").await;
        reply.await.unwrap().unwrap();
        sleep(Duration::from_millis(100)).await;
        assert_eq!((*old.accepted.borrow(), *new.accepted.borrow()), (1, 1));
        // Discovery reports nothing while the node is replaced, and then the new address.
        fixture.pool.set_ip(None);
        fixture.pool.set_ip(Some(NEW));
        answer(&mut new.accept().await, "get emcache:probe").await;
        assert_eq!(before.rest().await, 0);
    });
}

#[test]
fn many_moves_open_one_extra_connection_at_most() {
    run(async {
        let (fixture, _old, mut before, new) = moving(2).await;
        let third = Listener::bind_at("127.0.0.3", new.port()).await;
        let _stuck = fixture.set("a", b"1");
        assert_eq!(before.line().await, "set a 0 0 1");
        for _ in 0..3 {
            for place in [&new, &third] {
                fixture.pool.set_ip(Some(&place.host()));
                let mut peer = place.accept().await;
                assert_eq!(peer.line().await, "get emcache:probe");
                assert!(fixture.pool.metrics().cur_connections <= 2);
                let created = fixture.pool.metrics().connections_created;
                peer.stream.write_all(b"END\r\n").await.unwrap();
                while fixture.pool.metrics().connections_created == created {
                    tokio::task::yield_now().await;
                }
                assert!(fixture.pool.metrics().cur_connections <= 3);
                let reply = fixture.get("b");
                answer(&mut peer, "get b").await;
                reply.await.unwrap().unwrap();
                tokio::task::spawn_local(async move { peer.rest().await });
            }
        }
    });
}

#[test]
fn a_closed_pool_does_not_track_the_address() {
    run(async {
        let (fixture, _old, before, new) = moving(1).await;
        fixture.pool.set_ip(Some(NEW));
        let mut after = new.accept().await;
        assert_eq!(after.line().await, "get emcache:probe");
        fixture.pool.close();
        assert_eq!(after.rest().await, 0);
        fixture.pool.set_ip(Some("127.0.0.3"));
        drop(before);
        sleep(Duration::from_millis(50)).await;
        assert_eq!(fixture.pool.metrics().cur_connections, 0);
    });
}

#[test]
fn a_removed_node_fails_its_unanswered_requests() {
    run(async {
        let (fixture, _old, mut peer, _new) = moving(1).await;
        let reply = fixture.get("a");
        assert_eq!(peer.line().await, "get a");
        fixture.pool.drain_and_close(|| ());
        let error = reply.await.unwrap().unwrap_err();
        assert!(error.contains("left the cluster and did not reply within 1.0 s"), "{error}");
    });
}
