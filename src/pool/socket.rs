//! A socket that is read as soon as its task is polled, without asking Tokio first whether there is
//! anything to read.
//!
//! Tokio's own streams read only what its driver was told of by `epoll_wait`. A host that has a reason to
//! believe that an answer is there (asyncio just said so) may poll the task instead, and saves that call.
//! Only reading is watched, so that such an answer, once read, leaves no event behind: epoll forgets what is
//! not ready any more. Whether there is room to write is watched while a write waits for it, and
//! only then.
use std::io::{self, IoSlice, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;

use super::transport::Io;

pub struct Socket<T: AsRawFd> {
    /// `None` after it could not be watched any more.
    inner: Option<AsyncFd<T>>,
    /// Whether a write waits for room, and that is watched too.
    wants_room: bool,
    /// The last read took all that was there: the next poll of the same task need not try again.
    is_drained: bool,
    /// Writes may begin outside of it.
    runtime: Handle,
}

pub fn tcp(stream: TcpStream) -> io::Result<Box<dyn Io>> {
    Ok(Box::new(Socket::new(stream.into_std()?)?))
}

pub async fn unix(path: &str) -> io::Result<Box<dyn Io>> {
    let stream = UnixStream::connect(path).await?;
    Ok(Box::new(Socket::new(stream.into_std()?)?))
}

/// `owner` must be a type of the standard library that owns its descriptor.
#[allow(unsafe_code)]
fn watch<T: AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: such an owner keeps one descriptor open for as long as it lives, and it is moved into the
    // `AsyncFd`, which gives it out by shared reference only.
    Ok(unsafe { AsyncFd::register_with_interest(owner, interest) }?)
}

/// Memory that nobody has written yet is not written before the system does it.
#[allow(unsafe_code)]
fn receive(socket: &impl AsFd, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
    // SAFETY: `recv` only writes there.
    let received = SockRef::from(socket).recv(unsafe { buf.unfilled_mut() })?;
    // SAFETY: the system has written so many bytes from the start of what was unfilled.
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

    /// Watches anew, for more or for less: what is ready at this moment is told again.
    fn watch_room(&mut self, cx: &mut Context<'_>, wants_room: bool) -> io::Result<()> {
        let _entered = self.runtime.enter();
        let socket = self.inner.take().ok_or_else(not_connected)?.into_inner();
        let also = if wants_room { Interest::WRITABLE } else { Interest::READABLE };
        let inner = watch(socket, Interest::READABLE | also)?;
        // Who waits to read waited on what is not watched any more.
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
                    // What the socket has no room for now waits for what is told next.
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
            // Taken before the read: what comes after it is never forgotten with it.
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

    fn force_read(&mut self) {
        self.is_drained = false;
    }
}
