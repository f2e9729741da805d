//! One connection: a stream, its buffers, and the pipeline.
//!
//! Its task polls it, and any code on the same thread pushes requests to it. A push may write
//! immediately; the task writes whatever the socket did not accept. The stream is generic through
//! [`Io`], so that tests and benches can use a `tokio::io::duplex`.
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use bytes::{BufMut, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::context::Waiting;
use super::error::Cause;
use super::io::Io;
use super::read_buffer::ReadBuffer;
use crate::protocol::{
    Dialect, ErrorLineKind, ExpiredRequest, Nanos, NodeStats, Orphan, Outgoing, OwnedRequest,
    Pipeline, ReplyHandler, Request, RequestInfo, Timing, Verb,
};

/// The minimum room for one read. A longer frame in progress requests room for itself, up to
/// `READ_AHEAD` at a time.
const MIN_READ: usize = 16 * 1024;
const READ_AHEAD: usize = 1024 * 1024;
/// The limit for the bytes that one poll reads, and for those that it writes, so that a fast peer
/// does not starve other connections.
const MAX_BYTES_PER_POLL: usize = 256 * 1024;
/// Enough for the end of one reply and the header of the next. The rest of a large value is then
/// read directly into its buffer.
const READ_BEFORE_LONG: usize = 2 * 1024;
/// With more requests in flight, replies arrive in several segments; waiting a little before the
/// first read collects more of them per system call.
const FEW_REQUESTS: usize = 4;
/// The number of slices in one write.
const MAX_SLICES: usize = 8;
/// With this many bytes to write, a request does not wait for others to share the write.
const WRITE_AT_ONCE: usize = 64 * 1024;
/// Empty buffers above this capacity are freed.
const KEEP_CAPACITY: usize = 256 * 1024;

pub struct Connection<S: ReplyHandler> {
    stream: Box<dyn Io>,
    pipeline: Pipeline<S>,
    read_buf: ReadBuffer,
    write_buf: Outgoing,
    written: u64,
    read: u64,
    /// The time of the last read.
    read_at: Nanos,
    /// The number of requests since the last flush, and before it.
    batch: usize,
    last_batch: usize,
    /// Whether the last poll stopped before the socket was drained.
    has_more: bool,
    /// Whether the stream buffers none of the written bytes. (TLS does.)
    is_flushed: bool,
    waker: Waker,
    broken: Option<Cause>,
    reads_without_readiness: bool,
    /// See [`Io::record_len`].
    record_len: Option<usize>,
    /// The end of the commands in the current record, counted over all written bytes.
    record_end: u64,
    output: Output,
}

/// The handling of bytes that wait to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    /// They are written immediately.
    Flows,
    /// Other bytes have been blocking them since an earlier poll, so callers may have timed out in
    /// the meantime.
    Blocked,
    /// The connection was idle for so long that it is read before anything is written.
    HeldBack,
}

impl<S: ReplyHandler> Connection<S> {
    /// `node` is the name of the node, for error messages.
    pub fn new(
        stream: Box<dyn Io>,
        dialect: Dialect,
        max_merged_keys: u32,
        node: Arc<str>,
    ) -> Self {
        let (reads_without_readiness, record_len) =
            (stream.reads_without_readiness(), stream.record_len());
        Self {
            stream,
            pipeline: Pipeline::new(dialect, max_merged_keys, node),
            read_buf: ReadBuffer::default(),
            write_buf: Outgoing::default(),
            written: 0,
            read: 0,
            read_at: 0,
            batch: 0,
            last_batch: 0,
            has_more: false,
            is_flushed: true,
            waker: Waker::noop().clone(),
            broken: None,
            reads_without_readiness,
            record_len,
            record_end: 0,
            output: Output::Flows,
        }
    }

    pub fn in_flight(&self) -> usize {
        self.pipeline.in_flight()
    }

    /// See [`Pipeline::moved`].
    pub fn moved(&self) -> usize {
        self.pipeline.moved()
    }

    /// The number of bytes that wait to be written, plus those of a large value that is being read.
    pub fn backlog(&self) -> usize {
        self.write_buf.len() + self.pipeline.missing_len(self.read_buf.len())
    }

    /// The number of bytes that wait to be written.
    pub fn unwritten(&self) -> usize {
        self.write_buf.len()
    }

    /// Writes nothing until the connection's task has checked that it is still open.
    pub fn hold_writes(&mut self) {
        self.output = Output::HeldBack;
        self.stream.force_read();
    }

    /// Called before a push: notifies the handler if the connection is known to be alive.
    pub fn accept(&self, handler: &mut S) {
        if self.output != Output::HeldBack {
            handler.accepted();
        }
    }

    /// See [`Pipeline::noreply_unanswered`].
    pub fn noreply_unanswered(&self) -> usize {
        self.pipeline.noreply_unanswered()
    }

    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Whether to poll again although no event will wake the task.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// Whether a poll is worthwhile before the socket is reported as readable.
    pub fn may_be_answered(&self) -> bool {
        self.reads_without_readiness && (1..=FEW_REQUESTS).contains(&self.pipeline.in_flight())
    }

    /// Lets the next poll wait for the next reply, for a few milliseconds.
    pub fn block_next_read(&mut self) {
        self.stream.block_next_read();
    }

    /// Where the next reply arrives. `None` if bytes wait to be written, or the socket is unknown.
    pub fn waiting(&self) -> Option<Waiting> {
        let is_written = self.write_buf.is_empty() && self.is_flushed && self.broken.is_none();
        let fd = self.stream.descriptor().filter(|_| is_written)?;
        Some(Waiting { fd, waker: self.waker.clone() })
    }

    /// Wakes the connection's task.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    pub fn has_unflushed(&self) -> bool {
        self.batch > 0
    }

    /// The number of replies that were not error lines, including those whose callers no longer
    /// waited.
    pub fn answered(&self) -> u64 {
        self.pipeline.answered()
    }

    /// See [`Pipeline::answered_late`].
    pub fn answered_late(&self) -> u64 {
        self.pipeline.answered_late()
    }

    /// The number of error lines that arrived in time.
    pub fn refused(&self) -> u64 {
        self.pipeline.refused()
    }

    /// The total number of bytes read.
    pub fn bytes_read(&self) -> u64 {
        self.read
    }

    /// The total number of bytes written.
    pub fn bytes_written(&self) -> u64 {
        self.written
    }

    /// The time of the last read.
    pub fn read_at(&self) -> Nanos {
        self.read_at
    }

    /// See [`Pipeline::shared_keys`].
    pub fn shared_keys(&self) -> u64 {
        self.pipeline.shared_keys()
    }

    /// See [`Pipeline::abandoned`].
    pub fn abandoned(&self) -> usize {
        self.pipeline.abandoned()
    }

    /// See [`Pipeline::take_unknown`].
    pub fn take_unknown(&mut self) -> Option<Verb> {
        self.pipeline.take_unknown()
    }

    /// See [`Pipeline::unanswered`].
    pub fn unanswered(&self) -> impl Iterator<Item = Verb> {
        self.pipeline.unanswered(self.written)
    }

    /// See [`Pipeline::is_front_abandoned`].
    pub fn is_front_abandoned(&self) -> bool {
        self.pipeline.is_front_abandoned()
    }

    /// See [`Pipeline::front_deadline`].
    pub fn front_deadline(&self) -> Nanos {
        self.pipeline.front_deadline()
    }

    /// See [`Pipeline::has_waiters`].
    pub fn has_waiters(&self) -> bool {
        self.pipeline.has_waiters()
    }

    /// See [`Pipeline::is_held_up`].
    pub fn is_held_up(&self) -> bool {
        self.pipeline.is_held_up()
    }

    /// See [`Pipeline::take_held_up`].
    pub fn take_held_up(&mut self, must_stay: impl Fn(&[u8]) -> bool) -> Vec<Orphan<S>> {
        self.pipeline.take_held_up(self.written, must_stay)
    }

    /// See [`Pipeline::line_error`].
    pub fn line_error(&self) -> Option<&(ErrorLineKind, Bytes)> {
        self.pipeline.line_error()
    }

    /// See [`Pipeline::set_max_merged_keys`].
    pub fn set_max_merged_keys(&mut self, max_merged_keys: u32) {
        self.pipeline.set_max_merged_keys(max_merged_keys);
    }

    /// See [`Pipeline::take_large_keys`].
    pub fn take_large_keys(&mut self) -> Vec<Bytes> {
        self.pipeline.take_large_keys()
    }

    /// See [`Pipeline::overdue_since`].
    pub fn overdue_since(&self) -> Option<Nanos> {
        self.pipeline.overdue_since()
    }

    /// Ends the connection. Its task then returns the requests to the pool.
    pub fn abort(&mut self, cause: Cause) {
        self.broken.get_or_insert(cause);
        self.waker.wake_by_ref();
    }

    pub fn push(&mut self, request: &Request<'_>, handler: S, timing: impl Into<Timing>) {
        self.pipeline.push(request, handler, timing, &mut self.write_buf);
        self.batch += 1;
    }

    /// Like [`Self::push`], for a request that waited for a connection.
    pub fn push_owned(
        &mut self,
        request: &OwnedRequest,
        handler: S,
        timing: impl Into<Timing>,
        retried: bool,
    ) {
        self.pipeline.push_owned(request, handler, timing, retried, &mut self.write_buf);
        self.batch += 1;
    }

    /// Whether to flush now instead of waiting for more requests: the last request is alone on an
    /// idle connection and recent requests came alone too, or there is enough to write.
    pub fn should_flush(&self) -> bool {
        (self.in_flight() == 1 && self.last_batch <= 1) || self.write_buf.len() >= WRITE_AT_ONCE
    }

    /// Writes as much as the socket accepts; the task writes the rest.
    pub fn flush(&mut self) {
        self.last_batch = std::mem::take(&mut self.batch);
        if self.output != Output::Flows {
            // The task writes, after it has removed commands that are not wanted any more.
            return;
        }
        let waker = self.waker.clone();
        if self.poll_write(&mut TaskContext::from_waker(&waker)).is_ready() {
            // Waking a waker without a task is harmless, because a task starts with a poll.
            waker.wake();
        } else if self.has_more {
            waker.wake();
        }
    }

    /// Reads, answers and writes until the socket is drained or the limit for one poll is reached
    /// ([`Self::has_more`]). Ready when the connection has ended. Replies are counted in `stats`.
    /// `clock` is called only after bytes were read.
    pub fn poll(
        &mut self,
        cx: &mut TaskContext<'_>,
        clock: impl Fn() -> Nanos + Copy,
        stats: &mut NodeStats,
    ) -> Poll<Cause> {
        if !self.waker.will_wake(cx.waker()) {
            self.waker = cx.waker().clone();
        }
        if let Poll::Ready(reason) = self.poll_read(cx, clock, stats) {
            return Poll::Ready(reason);
        }
        if self.output == Output::HeldBack {
            self.pipeline.accept_all();
        }
        if self.output != Output::Flows {
            let (out, mark, now) = (&mut self.write_buf, &mut self.record_end, clock());
            self.pipeline.prune(out, self.written, MAX_BYTES_PER_POLL, mark, now, stats);
        }
        if self.has_unflushed() {
            self.last_batch = std::mem::take(&mut self.batch);
        }
        self.poll_write(cx)
    }

    fn poll_read(
        &mut self,
        cx: &mut TaskContext<'_>,
        clock: impl Fn() -> Nanos,
        stats: &mut NodeStats,
    ) -> Poll<Cause> {
        let before = self.read;
        loop {
            self.has_more = self.read - before >= MAX_BYTES_PER_POLL as u64;
            if self.has_more {
                return Poll::Pending;
            }
            let read = match std::task::ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(self.broken.take().unwrap_or(Cause::Eof)),
                Ok(read) => read,
                Err(error) => return Poll::Ready(Cause::from_io(error)),
            };
            self.read += read as u64;
            self.read_at = clock();
            let filled = self.read_buf.filled();
            match self.pipeline.feed(filled, self.written, self.read_at, stats) {
                Ok(used) => self.read_buf.consume(used),
                Err(error) => return Poll::Ready(Cause::from_protocol(error)),
            }
            if let Some(why) = self.pipeline.must_close() {
                return Poll::Ready(why.into());
            }
        }
    }

    /// Reads into the buffer of the large value in progress, or else into the read buffer.
    fn poll_fill(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        if let Some(rest) = self.pipeline.rest_of_value() {
            return poll_read_buf(stream, cx, &mut rest.limit(MAX_BYTES_PER_POLL));
        }
        let missing = self.pipeline.missing_len(self.read_buf.len());
        let room = self.read_buf.room(missing.clamp(MIN_READ, READ_AHEAD));
        let is_before_long = missing == 0 && self.pipeline.expects_large_value();
        let most = if is_before_long { READ_BEFORE_LONG } else { MAX_BYTES_PER_POLL };
        let len = room.len().min(most);
        let mut room = ReadBuf::new(&mut room[..len]);
        std::task::ready!(stream.poll_read(cx, &mut room))?;
        let read = room.filled().len();
        self.read_buf.add(read);
        Poll::Ready(Ok(read))
    }

    /// Ready only when the connection has ended.
    fn poll_write(&mut self, cx: &mut TaskContext<'_>) -> Poll<Cause> {
        let polled = self.poll_write_out(cx);
        let is_blocked = !self.write_buf.is_empty();
        self.output = if is_blocked { Output::Blocked } else { Output::Flows };
        polled
    }

    fn poll_write_out(&mut self, cx: &mut TaskContext<'_>) -> Poll<Cause> {
        self.pipeline.close_line(&mut self.write_buf);
        let share = self.written + MAX_BYTES_PER_POLL as u64;
        while self.broken.is_none() && !self.write_buf.is_empty() {
            if self.written >= share {
                self.has_more = true;
                break;
            }
            let limit = match self.record_len {
                None => MAX_BYTES_PER_POLL,
                Some(most) => self.next_record(most),
            };
            let mut pieces = [&[][..]; MAX_SLICES];
            let filled = self.write_buf.fill(&mut pieces, limit);
            let stream = Pin::new(&mut self.stream);
            let polled = match pieces[..filled] {
                [piece] => stream.poll_write(cx, piece),
                _ => stream.poll_write_vectored(cx, &pieces.map(IoSlice::new)[..filled]),
            };
            match std::task::ready!(polled) {
                Ok(0) => self.broken = Some(Cause::Io(Arc::new(io::ErrorKind::WriteZero.into()))),
                Ok(n) => {
                    self.write_buf.advance(n);
                    self.written += n as u64;
                }
                // Replies that the server sent before it closed are still read, so the read side
                // ends the connection.
                Err(error) => self.broken = Some(Cause::from_io(error)),
            }
            self.is_flushed = false;
        }
        if !self.is_flushed && self.broken.is_none() {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.is_flushed = true,
                Poll::Ready(Err(error)) => self.broken = Some(Cause::from_io(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.write_buf.shrink_to(KEEP_CAPACITY);
        match &self.broken {
            Some(cause) => Poll::Ready(cause.clone()),
            None => Poll::Pending,
        }
    }

    /// The length of the next record: whole commands, or a part of one that does not fit into a
    /// record.
    fn next_record(&mut self, most: usize) -> usize {
        if self.written >= self.record_end {
            self.record_end = self.pipeline.commands_end(self.written, most as u64);
        }
        usize::try_from(self.record_end - self.written).map_or(most, |left| left.min(most))
    }

    /// See [`Pipeline::expire`].
    pub fn expire(&mut self, now: Nanos, expired: impl FnMut(ExpiredRequest<S>)) -> Nanos {
        self.pipeline.expire(now, self.written, expired)
    }

    /// Ends the connection and its task, and returns its requests.
    pub fn into_orphans(self) -> Vec<Orphan<S>> {
        self.into_parts().0
    }

    /// Like [`Self::into_orphans`], and returns the stream, which is still open.
    pub fn into_parts(mut self) -> (Vec<Orphan<S>>, Box<dyn Io>) {
        let orphans = self.pipeline.drain(&self.write_buf, self.written);
        self.waker.wake();
        (orphans, self.stream)
    }

    /// Like [`Self::into_orphans`], for a connection whose state is not reliable: returns only the
    /// handlers.
    pub fn into_handlers(self) -> impl Iterator<Item = (S, RequestInfo)> {
        self.waker.wake_by_ref();
        self.pipeline.into_handlers()
    }
}
