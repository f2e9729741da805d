//! A socket that can be read without asking Tokio first whether it is readable.
//!
//! Tokio's own streams read only after its driver got an event from `epoll_wait`. A host that has
//! reason to expect a reply (asyncio just reported an event) may poll the task directly and saves
//! that call. Only readability is watched permanently, so a reply that was read this way leaves no
//! event behind: epoll drops events that are no longer ready. Writability is watched only while a
//! write is blocked.
use std::io::{self, IoSlice, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;

use super::io::Io;

pub struct Socket<T: AsRawFd> {
    /// `None` after watching the socket has failed.
    inner: Option<AsyncFd<T>>,
    /// Whether a write is blocked, so that writability is watched too.
    wants_room: bool,
    /// Whether the last read drained the socket, so that the next poll need not read again.
    is_drained: bool,
    /// Writes may start outside of the runtime.
    runtime: Handle,
}

pub fn tcp(stream: TcpStream) -> io::Result<Box<dyn Io>> {
    Ok(Box::new(Socket::new(stream.into_std()?)?))
}

pub async fn unix(path: &str) -> io::Result<Box<dyn Io>> {
    let stream = UnixStream::connect(path).await?;
    Ok(Box::new(Socket::new(stream.into_std()?)?))
}

/// `owner` must be a standard library type that owns its descriptor.
#[allow(unsafe_code)]
fn watch<T: AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: such an owner keeps one descriptor open for as long as it lives, and it is moved into
    // the `AsyncFd`, which only gives out shared references to it.
    Ok(unsafe { AsyncFd::register_with_interest(owner, interest) }?)
}

/// Receives into uninitialized memory, so that the buffer is not cleared first.
#[allow(unsafe_code)]
fn receive(socket: &impl AsFd, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
    // SAFETY: `recv` only writes to the memory.
    let received = SockRef::from(socket).recv(unsafe { buf.unfilled_mut() })?;
    // SAFETY: the system has initialized `received` bytes from the start of the unfilled part.
    unsafe { buf.assume_init(received) };
    buf.advance(received);
    Ok(received)
}

fn not_connected() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl<T: AsRawFd> Socket<T> {
    fn new(socket: T) -> io::Result<Self> {
        let inner = Some(watch(socket, Interest::READABLE)?);
        Ok(Self { inner, wants_room: false, is_drained: false, runtime: Handle::current() })
    }

    /// Watches the socket again, with or without writability. Current readiness is reported again.
    fn watch_room(&mut self, cx: &mut Context<'_>, wants_room: bool) -> io::Result<()> {
        let _entered = self.runtime.enter();
        let socket = self.inner.take().ok_or_else(not_connected)?.into_inner();
        let also = if wants_room { Interest::WRITABLE } else { Interest::READABLE };
        let inner = watch(socket, Interest::READABLE | also)?;
        // A task that waits to read was registered with the old watch.
        if inner.poll_read_ready(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        self.inner = Some(inner);
        (self.wants_room, self.is_drained) = (wants_room, false);
        Ok(())
    }

    fn poll_with(
        &mut self,
        cx: &mut Context<'_>,
        len: usize,
        write: impl Fn(&T) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let inner = self.inner.as_ref().ok_or_else(not_connected)?;
            let mut ready_guard = match self.wants_room.then(|| inner.poll_write_ready(cx)) {
                Some(ready_guard) => Some(ready!(ready_guard)?),
                None => None,
            };
            match write(inner.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match &mut ready_guard {
                    Some(ready_guard) => ready_guard.clear_ready(),
                    None => self.watch_room(cx, true)?,
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(written) if written < len => {
                    // The rest waits for the next event.
                    if let Some(ready_guard) = &mut ready_guard {
                        ready_guard.clear_ready();
                    }
                    return Poll::Ready(Ok(written));
                }
                done => {
                    if self.wants_room && done.is_ok() {
                        self.watch_room(cx, false)?;
                    }
                    return Poll::Ready(done);
                }
            }
        }
    }
}

impl<T: AsRawFd + AsFd + Unpin> AsyncRead for Socket<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let inner = this.inner.as_ref().ok_or_else(not_connected)?;
            // Taken before the read, so that readiness that arrives after the read is not cleared
            // with it.
            let mut ready_guard = match inner.poll_read_ready(cx) {
                Poll::Ready(ready_guard) => Some(ready_guard?),
                Poll::Pending => None,
            };
            if std::mem::take(&mut this.is_drained) && ready_guard.is_none() {
                return Poll::Pending;
            }
            let len = buf.remaining();
            match receive(inner.get_ref(), buf) {
                Ok(n) => {
                    this.is_drained = 0 < n && n < len;
                    if this.is_drained
                        && let Some(ready_guard) = &mut ready_guard
                    {
                        ready_guard.clear_ready();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match &mut ready_guard {
                    Some(ready_guard) => {
                        ready_guard.clear_ready();
                        this.is_drained = true;
                    }
                    None => return Poll::Pending,
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl<T: AsRawFd + AsFd + Unpin> AsyncWrite for Socket<T>
where
    for<'a> &'a T: Write,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(cx, bytes.len(), |mut socket| socket.write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        self.poll_with(cx, len, |mut socket| socket.write_vectored(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = self.inner.as_ref().ok_or_else(not_connected)?;
        Poll::Ready(SockRef::from(inner.get_ref()).shutdown(Shutdown::Write))
    }
}

impl<T: AsRawFd + AsFd + Unpin> Io for Socket<T>
where
    for<'a> &'a T: Write,
{
    fn reads_without_readiness(&self) -> bool {
        true
    }

    fn descriptor(&self) -> Option<i32> {
        self.inner.as_ref().map(|inner| inner.get_ref().as_raw_fd())
    }

    fn force_read(&mut self) {
        self.is_drained = false;
    }

    fn reset_on_drop(&mut self) {
        if let Some(inner) = &self.inner {
            // A unix socket has nothing to reset.
            let _ = SockRef::from(inner.get_ref()).set_linger(Some(Duration::ZERO));
        }
    }
}
