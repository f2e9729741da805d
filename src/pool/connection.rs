//! One connection: what is written and read, and the pipeline between.
//!
//! It is polled by a task of its own and pushed to by anybody on the same thread. A push may write at
//! once; what the socket does not take then is written by the task. Generic over the stream only
//! through [`Io`], so tests and benches drive it over a `tokio::io::duplex`.
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};

use bytes::{BufMut, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::error::Cause;
use super::read_buffer::ReadBuffer;
use super::transport::Io;
use crate::protocol::{
    Asked, ErrorKind, Expired, Orphan, Outgoing, OwnedRequest, Pipeline, Request, Sink, Tally,
    Term, Tick, Verb,
};

/// Room for one read, at least; a longer frame in progress makes its own room, up to this much at a time.
const MIN_READ: usize = 16 * 1024;
const READ_AHEAD: usize = 1024 * 1024;
/// One poll reads no more than this, and writes no more, so that a fast peer does not keep all others
/// waiting.
const SHARE: usize = 256 * 1024;
/// Enough for the end of one answer and the header of the next: the rest of a long value is read into
/// its place.
const READ_BEFORE_LONG: usize = 2 * 1024;
/// With more the answers come in several pieces, and whoever is not so quick to read the first gets more of
/// them at a time.
const FEW_REQUESTS: usize = 4;
/// Pieces in one write.
const MAX_SLICES: usize = 8;
/// With this much to write a request does not wait for others to go with it.
const WRITE_AT_ONCE: usize = 64 * 1024;
/// Buffers that grew beyond this are given back when they are empty.
const KEEP_CAPACITY: usize = 256 * 1024;

pub struct Connection<S: Sink> {
    stream: Box<dyn Io>,
    pipeline: Pipeline<S>,
    read_buf: ReadBuffer,
    write_buf: Outgoing,
    written: u64,
    read: u64,
    /// When bytes were read last.
    read_at: Tick,
    /// Requests since the last flush, and in the one before.
    batch: usize,
    last_batch: usize,
    /// Whether the last poll stopped reading before the socket had no more.
    has_more: bool,
    /// Whether the stream keeps nothing that was written to it (TLS does).
    is_flushed: bool,
    waker: Waker,
    broken: Option<Cause>,
    reads_at_once: bool,
    /// See [`Io::record_len`].
    record_len: Option<usize>,
    /// Where the commands of the current record end, of all that was ever written.
    record_end: u64,
    output: Output,
}

/// What becomes of bytes that are to be written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    /// They are written at once.
    Flows,
    /// Others are in the way since an earlier poll: callers may have given up what waits.
    Blocked,
    /// The connection was idle for so long that it is read before anything is written.
    HeldBack,
}

impl<S: Sink> Connection<S> {
    /// `node`: its name, for error texts.
    pub fn new(stream: Box<dyn Io>, max_merged_keys: u32, node: Arc<str>) -> Self {
        let (reads_at_once, record_len) = (stream.reads_at_once(), stream.record_len());
        Self {
            stream,
            pipeline: Pipeline::new(max_merged_keys, node),
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
            reads_at_once,
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

    /// Bytes that wait to be written, and those of a long value that is being read.
    pub fn backlog(&self) -> usize {
        self.write_buf.len() + self.pipeline.missing(self.read_buf.len())
    }

    /// Bytes that wait to be written.
    pub fn unwritten(&self) -> usize {
        self.write_buf.len()
    }

    /// Writes nothing before its task has looked whether it is still open.
    pub fn hold_back(&mut self) {
        self.output = Output::HeldBack;
        self.stream.look_again();
    }

    /// Before a push: tells the sink that the connection is alive, if that is known.
    pub fn accept(&self, sink: &mut S) {
        if self.output != Output::HeldBack {
            sink.accepted();
        }
    }

    /// See [`Pipeline::noreply_unanswered`].
    pub fn noreply_unanswered(&self) -> usize {
        self.pipeline.noreply_unanswered()
    }

    pub fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Whether to poll again although nothing else will wake the task.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// Whether its task is worth a poll before anybody says that there is something to read.
    pub fn may_be_answered(&self) -> bool {
        self.reads_at_once && (1..=FEW_REQUESTS).contains(&self.pipeline.in_flight())
    }

    /// The task of the connection.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    pub fn has_unflushed(&self) -> bool {
        self.batch > 0
    }

    /// How many answers came that were no errors, those that nobody waited for included.
    pub fn answered(&self) -> u64 {
        self.pipeline.answered()
    }

    /// See [`Pipeline::answered_late`].
    pub fn answered_late(&self) -> u64 {
        self.pipeline.answered_late()
    }

    /// How many error lines came as answers in time.
    pub fn refused(&self) -> u64 {
        self.pipeline.refused()
    }

    /// Bytes that were read, ever.
    pub fn bytes_read(&self) -> u64 {
        self.read
    }

    /// Bytes that were written, ever.
    pub fn bytes_written(&self) -> u64 {
        self.written
    }

    /// When bytes were read last.
    pub fn read_at(&self) -> Tick {
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

    /// See [`Pipeline::front_deadline`].
    pub fn front_deadline(&self) -> Tick {
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
    pub fn line_error(&self) -> Option<&(ErrorKind, Bytes)> {
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
    pub fn overdue_since(&self) -> Option<Tick> {
        self.pipeline.overdue_since()
    }

    /// Ends the connection: its task hands its requests back.
    pub fn give_up(&mut self, cause: Cause) {
        self.broken.get_or_insert(cause);
        self.waker.wake_by_ref();
    }

    pub fn push(&mut self, request: &Request<'_>, sink: S, term: impl Into<Term>) {
        self.pipeline.push(request, sink, term, &mut self.write_buf);
        self.batch += 1;
    }

    /// As [`Self::push`], for a request that had to wait for a connection.
    pub fn push_owned(
        &mut self,
        request: &OwnedRequest,
        sink: S,
        term: impl Into<Term>,
        retried: bool,
    ) {
        self.pipeline.push_owned(request, sink, term, retried, &mut self.write_buf);
        self.batch += 1;
    }

    /// Whether the last request need not wait for others: it is alone on an idle connection, and
    /// recent requests came alone too; or there is enough to write already.
    pub fn should_flush(&self) -> bool {
        (self.in_flight() == 1 && self.last_batch <= 1) || self.write_buf.len() >= WRITE_AT_ONCE
    }

    /// Writes as much as the socket takes; the task writes the rest.
    pub fn flush(&mut self) {
        self.last_batch = std::mem::take(&mut self.batch);
        if self.output != Output::Flows {
            // Its task writes, after a look at what of it is still wanted.
            return;
        }
        let waker = self.waker.clone();
        if self.poll_write(&mut TaskContext::from_waker(&waker)).is_ready() {
            // A waker that no task is behind yet is no loss: the task starts with a poll.
            waker.wake();
        } else if self.has_more {
            waker.wake();
        }
    }

    /// Reads, answers and writes until the socket has no more, or for a share of time
    /// ([`Self::has_more`]); ready when the connection is over. What is answered is counted in `tally`, by
    /// a `clock` that is asked when something was read, and else not.
    pub fn poll(
        &mut self,
        cx: &mut TaskContext<'_>,
        clock: impl Fn() -> Tick + Copy,
        tally: &mut Tally,
    ) -> Poll<Cause> {
        if !self.waker.will_wake(cx.waker()) {
            self.waker = cx.waker().clone();
        }
        if let Poll::Ready(reason) = self.poll_read(cx, clock, tally) {
            return Poll::Ready(reason);
        }
        if self.output == Output::HeldBack {
            self.pipeline.accept_all();
        }
        if self.output != Output::Flows {
            let (out, mark, now) = (&mut self.write_buf, &mut self.record_end, clock());
            self.pipeline.prune(out, self.written, SHARE, mark, now, tally);
        }
        if self.has_unflushed() {
            self.last_batch = std::mem::take(&mut self.batch);
        }
        self.poll_write(cx)
    }

    fn poll_read(
        &mut self,
        cx: &mut TaskContext<'_>,
        clock: impl Fn() -> Tick,
        tally: &mut Tally,
    ) -> Poll<Cause> {
        let before = self.read;
        loop {
            self.has_more = self.read - before >= SHARE as u64;
            if self.has_more {
                return Poll::Pending;
            }
            let read = match std::task::ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(self.broken.take().unwrap_or(Cause::Eof)),
                Ok(read) => read,
                Err(error) => return Poll::Ready(Cause::of_io(error)),
            };
            self.read += read as u64;
            self.read_at = clock();
            let filled = self.read_buf.filled();
            match self.pipeline.feed(filled, self.written, self.read_at, tally) {
                Ok(used) => self.read_buf.consume(used),
                Err(error) => return Poll::Ready(Cause::of(error)),
            }
            if let Some(why) = self.pipeline.must_close() {
                return Poll::Ready(why.into());
            }
        }
    }

    /// Reads into the place of the long value that is being read, or else into the buffer.
    fn poll_fill(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        if let Some(rest) = self.pipeline.rest_of_value() {
            return poll_read_buf(stream, cx, &mut rest.limit(SHARE));
        }
        let missing = self.pipeline.missing(self.read_buf.len());
        let room = self.read_buf.room(missing.clamp(MIN_READ, READ_AHEAD));
        let is_before_long = missing == 0 && self.pipeline.expects_long();
        let most = if is_before_long { READ_BEFORE_LONG } else { SHARE };
        let len = room.len().min(most);
        let mut room = ReadBuf::new(&mut room[..len]);
        std::task::ready!(stream.poll_read(cx, &mut room))?;
        let read = room.filled().len();
        self.read_buf.add(read);
        Poll::Ready(Ok(read))
    }

    /// Ready only when the connection is over.
    fn poll_write(&mut self, cx: &mut TaskContext<'_>) -> Poll<Cause> {
        let polled = self.poll_write_out(cx);
        let is_blocked = !self.write_buf.is_empty();
        self.output = if is_blocked { Output::Blocked } else { Output::Flows };
        polled
    }

    fn poll_write_out(&mut self, cx: &mut TaskContext<'_>) -> Poll<Cause> {
        self.pipeline.close_line(&mut self.write_buf);
        let share = self.written + SHARE as u64;
        while self.broken.is_none() && !self.write_buf.is_empty() {
            if self.written >= share {
                self.has_more = true;
                break;
            }
            let limit = match self.record_len {
                None => SHARE,
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
                // What the server said before it went away is still read: end with the read side.
                Err(error) => self.broken = Some(Cause::of_io(error)),
            }
            self.is_flushed = false;
        }
        if !self.is_flushed && self.broken.is_none() {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.is_flushed = true,
                Poll::Ready(Err(error)) => self.broken = Some(Cause::of_io(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.write_buf.shrink_to(KEEP_CAPACITY);
        match &self.broken {
            Some(cause) => Poll::Ready(cause.clone()),
            None => Poll::Pending,
        }
    }

    /// The length of the next record: whole commands, or a part of one that does not fit into a record.
    fn next_record(&mut self, most: usize) -> usize {
        if self.written >= self.record_end {
            self.record_end = self.pipeline.commands_end(self.written, most as u64);
        }
        usize::try_from(self.record_end - self.written).map_or(most, |left| left.min(most))
    }

    /// See [`Pipeline::expire`].
    pub fn expire(&mut self, now: Tick, expired: impl FnMut(Expired<S>)) -> Tick {
        self.pipeline.expire(now, self.written, expired)
    }

    /// Ends the connection: its task finishes, its requests are handed back.
    pub fn dismantle(mut self) -> Vec<Orphan<S>> {
        let orphans = self.pipeline.drain(&self.write_buf, self.written);
        self.waker.wake();
        orphans
    }

    /// As [`Self::dismantle`], for a connection whose state cannot be trusted: who waits, and no more.
    pub fn into_sinks(self) -> impl Iterator<Item = (S, Asked)> {
        self.waker.wake_by_ref();
        self.pipeline.into_sinks()
    }
}
