//! A socket that can be read without asking Tokio first whether it is readable.
//!
//! Tokio's own streams read only after its driver got an event from `epoll_wait`. A host that has
//! reason to expect a reply (asyncio just reported an event) may poll the task directly and saves
//! that call. Only readability is watched permanently, so a reply that was read this way leaves no
//! event behind: epoll drops events that are no longer ready. Writability is watched only while a
//! write is blocked.
use std::io::{self, IoSlice};
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
    mode: Mode,
}

/// Whether the next read may wait for bytes. Other reads and all writes pass a flag by which they
/// never wait, so the mode of the descriptor does not matter to them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The descriptor does not wait.
    Nonblocking,
    /// The descriptor waits, for at most [`MAX_BLOCKED`].
    Blocking,
    /// And so does the next read.
    ReadBlocks,
}

/// The longest time that a read waits. Other sockets and timers wait with it.
const MAX_BLOCKED: Duration = Duration::from_millis(5);
/// A broken pipe is an error, and not a signal.
#[cfg(target_os = "linux")]
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
#[cfg(not(target_os = "linux"))]
const SEND_FLAGS: i32 = libc::MSG_DONTWAIT;

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
fn receive(socket: &impl AsFd, buf: &mut ReadBuf<'_>, flags: i32) -> io::Result<usize> {
    // SAFETY: `recv` only writes to the memory.
    let memory = unsafe { buf.unfilled_mut() };
    let received = SockRef::from(socket).recv_with_flags(memory, flags)?;
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
        let (runtime, mode) = (Handle::current(), Mode::Nonblocking);
        Ok(Self { inner, wants_room: false, is_drained: false, runtime, mode })
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
            let flags = if this.mode == Mode::ReadBlocks { 0 } else { libc::MSG_DONTWAIT };
            if flags == 0 {
                this.mode = Mode::Blocking;
            }
            match receive(inner.get_ref(), buf, flags) {
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

impl<T: AsRawFd + AsFd + Unpin> AsyncWrite for Socket<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_with(cx, bytes.len(), |socket| {
            SockRef::from(socket).send_with_flags(bytes, SEND_FLAGS)
        })
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        self.poll_with(cx, len, |socket| {
            SockRef::from(socket).send_vectored_with_flags(pieces, SEND_FLAGS)
        })
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

impl<T: AsRawFd + AsFd + Unpin> Io for Socket<T> {
    fn reads_without_readiness(&self) -> bool {
        true
    }

    fn descriptor(&self) -> Option<i32> {
        self.inner.as_ref().map(|inner| inner.get_ref().as_raw_fd())
    }

    fn block_next_read(&mut self) {
        let Some(inner) = &self.inner else { return };
        if self.mode == Mode::Nonblocking {
            let socket = SockRef::from(inner.get_ref());
            if socket.set_read_timeout(Some(MAX_BLOCKED)).is_err() {
                return;
            }
            if socket.set_nonblocking(false).is_err() {
                return;
            }
        }
        (self.mode, self.is_drained) = (Mode::ReadBlocks, false);
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
