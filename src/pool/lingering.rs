//! Connections of a silent node after the pool has given them up.
//!
//! A server that was stopped executes what it had received when it continues, and the kernel keeps
//! sending what it has accepted. If later requests go elsewhere, such a write would bring an old
//! value back. So the pool closes only its own direction, and reads until the server closes the
//! other one: by then the server has executed everything, or has lost it.
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::context::unless_notified;
use super::io::Io;
use super::queue::QueuedRequest;
use super::shared::{Pool, Shared};
use super::state::State;
use super::waiter::Waiter;
use crate::protocol::{OwnedRequest, RequestInfo, Timing};

/// The requests and streams of a silent node.
pub(super) struct SilentRequests<W> {
    pub failed: Vec<(W, RequestInfo)>,
    /// Requests that other nodes may answer.
    pub stranded: Vec<QueuedRequest<W>>,
    pub streams: Vec<Box<dyn Io>>,
}

impl<W: Waiter> State<W> {
    /// Takes all connections. With `is_stranded`, other nodes take what can be repeated.
    pub fn take_silent(&mut self, is_stranded: bool) -> SilentRequests<W> {
        let (mut failed, mut stranded, mut streams) = (Vec::new(), Vec::new(), Vec::new());
        for mut entry in self.connections.remove_all() {
            self.record_closed(&mut entry);
            let has_unanswered = entry.connection.in_flight() > 0;
            let is_shared = !entry.is_checked_out();
            let (orphans, stream) = entry.connection.into_parts();
            if has_unanswered && is_stranded {
                streams.push(stream);
            }
            for orphan in orphans {
                let timing = Timing { issued_at: orphan.info.issued_at, deadline: orphan.deadline };
                match orphan.retry {
                    Some(request)
                        if is_stranded
                            && is_shared
                            && orphan.missing.is_none()
                            && !(orphan.sent && changes_expiration(&request)) =>
                    {
                        let (mut waiter, retried) = (orphan.handler, orphan.retried);
                        waiter.restart();
                        stranded.push(QueuedRequest { request, waiter, timing, retried });
                    }
                    _ => failed.push((orphan.handler, orphan.info)),
                }
            }
        }
        SilentRequests { failed, stranded, streams }
    }
}

fn changes_expiration(request: &OwnedRequest) -> bool {
    matches!(request, OwnedRequest::Retrieval { verb, .. } if verb.changes_expiration())
}

impl<W: Waiter> Pool<W> {
    /// Whether the node may still execute requests that have failed.
    pub fn is_lingering(&self) -> bool {
        self.0.lingering.get() > 0
    }

    /// Resets the connections that linger, so that the kernel sends nothing more on them.
    pub fn end_lingering(&self) {
        self.0.lingering_over.notify_waiters();
    }
}

impl<W: Waiter> Shared<W> {
    /// Lets connections linger, if other nodes take the requests of this one.
    pub fn linger(self: &Rc<Self>, streams: impl IntoIterator<Item = Box<dyn Io>>) {
        if self.on_stranded.borrow().is_none() {
            return;
        }
        for stream in streams {
            self.lingering.set(self.lingering.get() + 1);
            self.context.spawn(linger(Rc::downgrade(self), stream));
        }
    }
}

async fn linger<W: Waiter>(pool: Weak<Shared<W>>, mut stream: Box<dyn Io>) {
    let Some(strong) = pool.upgrade() else { return };
    let (closing, over) = (strong.closing.clone(), strong.lingering_over.clone());
    drop(strong);
    let executed = unless_notified(&over, read_to_end(&mut stream));
    if unless_notified(&closing, executed).await.flatten().is_none() {
        stream.reset_on_drop();
    }
    if let Some(pool) = pool.upgrade() {
        pool.lingering.set(pool.lingering.get() - 1);
    }
}

/// # Cancel safety
/// May be dropped at any time.
async fn read_to_end(stream: &mut Box<dyn Io>) {
    let mut scratch = vec![0; 16 * 1024];
    let mut is_shut_down = false;
    poll_fn(|cx| {
        let mut stream = Pin::new(&mut *stream);
        if !is_shut_down {
            match stream.as_mut().poll_shutdown(cx) {
                Poll::Ready(Ok(())) => is_shut_down = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => {}
            }
        }
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            match std::task::ready!(stream.as_mut().poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    })
    .await;
}
