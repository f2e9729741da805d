//! One connection over an in-memory duplex.
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::time::Duration;

use _emcache::pool::Connection;
use _emcache::protocol::{Dialect, NodeStats};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::support::{NO_DEADLINE, TestWaiter, run, with_get, with_set};

fn connection(capacity: usize) -> (Connection<TestWaiter>, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(capacity);
    (Connection::new(Box::new(ours), Dialect::default(), 32, "node".into()), theirs)
}

async fn until_closed(connection: &mut Connection<TestWaiter>) -> String {
    let mut stats = NodeStats::default();
    poll_fn(|cx| connection.poll(cx, || 0, &mut stats)).await.to_string()
}

async fn for_a_while(connection: &mut Connection<TestWaiter>) {
    let mut stats = NodeStats::default();
    let closed = poll_fn(|cx| connection.poll(cx, || 0, &mut stats));
    assert!(tokio::time::timeout(Duration::from_millis(20), closed).await.is_err());
}

async fn read(peer: &mut DuplexStream) -> String {
    let mut buf = vec![0; 64 * 1024];
    let n = peer.read(&mut buf).await.unwrap();
    String::from_utf8(buf[..n].to_vec()).unwrap()
}

#[test]
fn a_lone_request_is_written_at_once_and_a_burst_in_one_piece() {
    run(async {
        let (mut connection, mut peer) = connection(1 << 20);
        let (waiter, reply) = TestWaiter::new();
        with_get("a", |request| connection.push(request, waiter, NO_DEADLINE));
        assert!(connection.should_flush());
        connection.flush();
        assert_eq!(read(&mut peer).await, "get a\r\n");
        let mut burst = Vec::new();
        for name in ["b", "c", "d"] {
            let (waiter, reply) = TestWaiter::new();
            with_get(name, |request| connection.push(request, waiter, NO_DEADLINE));
            assert!(!connection.should_flush());
            burst.push(reply);
        }
        connection.flush();
        assert_eq!(read(&mut peer).await, "get b c d\r\n");
        peer.write_all(b"VALUE a 0 1\r\n1\r\nEND\r\nVALUE c 0 1\r\n3\r\nEND\r\n").await.unwrap();
        for_a_while(&mut connection).await;
        assert_eq!(reply.await.unwrap().unwrap(), "0=1 End");
        let mut answers = Vec::new();
        for reply in burst {
            answers.push(reply.await.unwrap().unwrap());
        }
        assert_eq!(answers, [" End", "0=3 End", " End"]);
        // The last flush carried several requests, so the next one waits for others.
        let (waiter, _told) = TestWaiter::new();
        with_get("e", |request| connection.push(request, waiter, NO_DEADLINE));
        assert!(!connection.should_flush());
    });
}

#[test]
fn bytes_that_the_socket_does_not_take_are_written_later() {
    run(async {
        let (mut connection, mut peer) = connection(1024);
        let value = vec![b'v'; 300_000];
        let (waiter, reply) = TestWaiter::new();
        with_set("k", &value, |request| connection.push(request, waiter, NO_DEADLINE));
        connection.flush();
        assert!(connection.backlog() > 290_000);
        let server = tokio::task::spawn_local(async move {
            let mut got = Vec::new();
            while got.len() < 300_000 + "set k 0 0 300000\r\n\r\n".len() {
                let mut buf = [0; 4096];
                let n = peer.read(&mut buf).await.unwrap();
                got.extend_from_slice(&buf[..n]);
            }
            peer.write_all(b"STORED\r\n").await.unwrap();
            got
        });
        assert_eq!(until_closed(&mut connection).await, "the server closed the connection");
        assert_eq!(reply.await.unwrap().unwrap(), " Stored");
        assert!(server.await.unwrap().ends_with(b"vvv\r\n"));
        assert_eq!(connection.backlog(), 0);
    });
}

#[test]
fn what_nobody_wants_any_more_is_taken_out_before_it_is_written() {
    run(async {
        let (mut connection, mut peer) = connection(1024);
        let push = |connection: &mut Connection<TestWaiter>, name: &str, value: &[u8], deadline| {
            let (waiter, reply) = TestWaiter::new();
            with_set(name, value, |request| connection.push(request, waiter, deadline));
            reply
        };
        let long = vec![b'v'; 300_000];
        let _long = push(&mut connection, "long", &long, NO_DEADLINE);
        connection.flush();
        let early = push(&mut connection, "early", b"1", 10);
        let (_late, _later) =
            (push(&mut connection, "late", b"1", 20), push(&mut connection, "later", &long, 30));
        drop(push(&mut connection, "cancelled", b"1", NO_DEADLINE));
        let (waiter, _quiet) = TestWaiter::noreply();
        with_set("quiet", b"1", |request| connection.push(request, waiter, 10));
        let wanted = push(&mut connection, "wanted", b"1", NO_DEADLINE);
        // Two deadlines pass before anything else is written, the third when it would be.
        let mut expired = 0;
        connection.expire(10, |_| expired += 1);
        assert_eq!(expired, 2);
        let mut reading = tokio::task::spawn_local(async move {
            let mut got = Vec::with_capacity(1 << 20);
            while !got.ends_with(b"set wanted 0 0 1\r\n1\r\n") {
                peer.read_buf(&mut got).await.unwrap();
            }
            (got, peer)
        });
        let mut stats = NodeStats::default();
        let (got, _peer) = poll_fn(|cx| {
            assert!(connection.poll(cx, || 25, &mut stats).is_pending());
            if connection.has_more() {
                cx.waker().wake_by_ref();
            }
            Pin::new(&mut reading).poll(cx)
        })
        .await
        .unwrap();
        let text = String::from_utf8(got).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("set ")).collect();
        let sent = ["set long 0 0 300000", "set later 0 0 300000", "set quiet 0 0 1"];
        assert_eq!(lines[..3], sent);
        assert_eq!(lines[3..], ["set wanted 0 0 1"]);
        assert_eq!(connection.in_flight(), 4);
        let mut reply = Vec::new();
        connection.expire(25, |late| reply.push(late.sent));
        assert_eq!(reply, [false]);
        drop((early, wanted));
    });
}

#[test]
fn a_long_value_in_small_pieces() {
    run(async {
        let (mut connection, mut peer) = connection(777);
        let (waiter, reply) = TestWaiter::new();
        with_get("k", |request| connection.push(request, waiter, NO_DEADLINE));
        connection.flush();
        tokio::task::spawn_local(async move {
            let value = "END\r\n".repeat(60_000);
            let answer = format!("VALUE k 0 {}\r\n{value}\r\nEND\r\n", value.len());
            peer.write_all(answer.as_bytes()).await.unwrap();
        });
        until_closed(&mut connection).await;
        let answer = reply.await.unwrap().unwrap();
        assert_eq!(answer, format!("0={} End", "END\r\n".repeat(60_000)));
    });
}

#[test]
fn garbage_ends_the_connection() {
    run(async {
        for (wire, reason) in [
            (b"what\r\n".as_slice(), "unexpected reply: 4 unknown bytes"),
            (b"VALUE k 0 99999999999999999999\r\n", "unexpected reply: VALUE …"),
            (b"VALUE k 0 4294967296\r\n", "a value of 4294967296 bytes exceeds the limit"),
            (b"END\r\nEND\r\n", "unsolicited reply: END …"),
        ] {
            let (mut connection, mut peer) = connection(1 << 20);
            let (waiter, _told) = TestWaiter::new();
            with_get("k", |request| connection.push(request, waiter, NO_DEADLINE));
            connection.flush();
            peer.write_all(wire).await.unwrap();
            assert_eq!(until_closed(&mut connection).await, reason);
        }
    });
}
