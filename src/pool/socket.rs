//! A socket that is read as soon as its task is polled, without asking Tokio first whether there is
//! anything to read.
//!
//! Tokio's own streams read only what its driver was told of by `epoll_wait`. A host that has a reason to
//! believe that an answer is there (asyncio just said so) may poll the task instead, and saves that call.
//! Only reading is watched, so that such an answer, once read, leaves no event behind: epoll forgets what is
//! not ready any more. Whether there is room to write is watched while a write waits for it.
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;

use super::transport::Io;

pub struct Socket<T: AsRawFd> {
    inner: AsyncFd<T>,
    /// Its descriptor once more, while a write waits for room.
    room: Option<AsyncFd<OwnedFd>>,
    /// Writes may begin outside of it.
    runtime: Handle,
    /// The last read took all that was there: the next poll of the same task need not try again.
    is_drained: bool,
}

pub fn tcp(stream: TcpStream) -> io::Result<Box<dyn Io>> {
    Ok(Box::new(Socket::new(stream.into_std()?)?))
}

pub fn unix(stream: UnixStream) -> io::Result<Box<dyn Io>> {
    Ok(Box::new(Socket::new(stream.into_std()?)?))
}

/// `owner` must be a type of the standard library that owns its descriptor.
#[allow(unsafe_code)]
fn watch<T: AsRawFd>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: such an owner keeps one descriptor open for as long as it lives, and it is moved into the
    // `AsyncFd`, which gives it out by shared reference only.
    Ok(unsafe { AsyncFd::register_with_interest(owner, interest) }?)
}

impl<T: AsRawFd + AsFd> Socket<T> {
    fn new(socket: T) -> io::Result<Self> {
        let inner = watch(socket, Interest::READABLE)?;
        Ok(Self { inner, room: None, runtime: Handle::current(), is_drained: false })
    }

    /// To be called right after a read that took all there was: what Tokio was told before it says nothing
    /// any more. (That the peer is gone stays true, and the next read tells it.)
    fn forget_readable(&self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.inner.poll_read_ready(cx) {
            Poll::Ready(told) => told.map(|mut told| told.clear_ready()),
            Poll::Pending => Ok(()),
        }
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.room.is_none() {
            // Under another number: an epoll instance watches each only once.
            let other = self.inner.get_ref().as_fd().try_clone_to_owned()?;
            let _entered = self.runtime.enter();
            self.room = Some(watch(other, Interest::WRITABLE)?);
        }
        let Some(room) = &self.room else { return Poll::Ready(Ok(())) };
        ready!(room.poll_write_ready(cx))?.clear_ready();
        Poll::Ready(Ok(()))
    }

    fn poll_with(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&T) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match write(self.inner.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_writable(cx))?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => {
                    self.room = None;
                    return Poll::Ready(done);
                }
            }
        }
    }
}

impl<T: AsRawFd + AsFd + Unpin> AsyncRead for Socket<T>
where
    for<'a> &'a T: Read,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.is_drained) {
            let _told = ready!(self.inner.poll_read_ready(cx))?;
        }
        loop {
            let room = buf.initialize_unfilled();
            let len = room.len();
            match self.inner.get_ref().read(room) {
                Ok(n) => {
                    buf.advance(n);
                    self.is_drained = 0 < n && n < len;
                    if self.is_drained {
                        self.forget_readable(cx)?;
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.forget_readable(cx)?;
                    let _told = ready!(self.inner.poll_read_ready(cx))?;
                }
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
        self.poll_with(cx, |mut socket| socket.write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(cx, |mut socket| socket.write_vectored(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(self.inner.get_ref()).shutdown(Shutdown::Write))
    }
}

impl<T: AsRawFd + AsFd + Unpin> Io for Socket<T>
where
    for<'a> &'a T: Read + Write,
{
    fn reads_at_once(&self) -> bool {
        true
    }
}
