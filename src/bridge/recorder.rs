//! Replies on their way from the core's thread to a loop's thread. The core's thread records them
//! without Python. The loop's thread plays them back to the waiter that it kept.
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use super::completion::Outcome;
use super::thread_driver::Outbox;
use super::waiter::PyWaiter;
use crate::cluster::{ClusterError, NodeChange};
use crate::pool::{Error, Waiter, copy_into_block};
use crate::protocol::{ErrorLine, ErrorLineKind, ItemRef, Reply, ReplyHandler, StatLine};

/// Identifies a request in messages between the two threads.
pub type Ticket = usize;

/// One line on the wire of one request.
pub struct Recorder {
    record: Rc<Record>,
    /// The positions of the line's keys among those of the request. `None` means all keys, in
    /// order.
    positions: Option<Vec<usize>>,
    events: Events,
}

/// One request. It is complete when all its lines are, and failed when one of them is, unless it is
/// partial.
pub struct Record {
    ticket: Ticket,
    outbox: Arc<Outbox>,
    abandoned: Option<Arc<AtomicBool>>,
    /// See [`ReplyHandler::is_noreply`].
    noreply: bool,
    accepted: Cell<bool>,
    events: RefCell<Events>,
    missing_lines: Cell<usize>,
    is_partial: Cell<bool>,
    ended: Cell<bool>,
}

/// A message from the core's thread to a loop.
pub enum Message {
    /// A request with `noreply` is on a connection.
    Accepted {
        ticket: Ticket,
    },
    Ended {
        ticket: Ticket,
        events: Events,
        end: End,
    },
    Changed {
        session: u64,
        change: NodeChange,
    },
    Close {
        session: u64,
    },
}

/// One event in most cases.
pub type Events = SmallVec<[Event; 1]>;

pub enum Event {
    Item {
        index: usize,
        value: Bytes,
        flags: u32,
        cas: Option<u64>,
    },
    Stat {
        line: Bytes,
        name_start: usize,
        name_end: usize,
    },
    /// A line of a partial request failed.
    Failed {
        positions: Option<Vec<usize>>,
        end: End,
    },
}

pub enum End {
    Reply(OwnedReply),
    Failed(Error),
    NoNodes(ClusterError),
    /// The client was closed before the request reached the core.
    Closed,
    Dropped,
}

pub enum OwnedReply {
    Plain(Reply<'static>),
    Version(Bytes),
    /// A reply that may become an exception, and the node that sent it.
    Negative(Reply<'static>, Box<str>),
    Error(ErrorLineKind, Bytes, Box<str>),
}

impl Record {
    /// `abandoned` is set when the caller has left.
    pub fn new(
        ticket: Ticket,
        outbox: Arc<Outbox>,
        abandoned: Option<Arc<AtomicBool>>,
        noreply: bool,
    ) -> Rc<Self> {
        let (missing_lines, ended) = (Cell::new(1), Cell::new(false));
        Rc::new(Self {
            ticket,
            outbox,
            abandoned,
            noreply,
            accepted: Cell::new(false),
            events: RefCell::default(),
            missing_lines,
            is_partial: Cell::new(false),
            ended,
        })
    }

    pub fn expect_lines(&self, lines: usize) {
        self.missing_lines.set(lines);
    }

    /// From now on a failed line does not end the request.
    pub fn keep_failures(&self) {
        self.is_partial.set(true);
    }

    pub fn line(self: &Rc<Self>, positions: Option<Vec<usize>>) -> Recorder {
        Recorder { record: self.clone(), positions, events: Events::new() }
    }

    pub fn end(&self, end: End) {
        if !self.ended.replace(true) {
            let events = self.events.take();
            self.outbox.push(Message::Ended { ticket: self.ticket, events, end });
        }
    }
}

/// A request always ends with a message, so that its caller is notified.
impl Drop for Record {
    fn drop(&mut self) {
        self.end(End::Dropped);
    }
}

impl ReplyHandler for Recorder {
    type Value = Bytes;

    fn item(&mut self, index: usize, item: &ItemRef<'_>, shared: Option<&Bytes>) {
        // No data is recorded for a caller that has left.
        if self.is_abandoned() {
            return;
        }
        let index = self.positions.as_ref().map_or(index, |positions| positions[index]);
        let ItemRef { value, flags, cas, .. } = *item;
        let value = shared.cloned().unwrap_or_else(|| copy_value(value));
        self.events.push(Event::Item { index, value, flags, cas });
    }

    fn stat(&mut self, stat: &StatLine<'_>) {
        if self.is_abandoned() {
            return;
        }
        let name_start = stat.name.as_ptr() as usize - stat.line.as_ptr() as usize;
        let name_end = name_start + stat.name.len();
        let line = Bytes::copy_from_slice(stat.line);
        self.events.push(Event::Stat { line, name_start, name_end });
    }

    fn restart(&mut self) {
        self.events.clear();
    }

    fn reply(mut self, reply: &Reply<'_>, from: &str) {
        if self.record.is_partial.get() && !matches!(reply, Reply::End) {
            return self.failed(End::Reply(OwnedReply::new(reply, from)));
        }
        let record = &self.record;
        let mut events = record.events.borrow_mut();
        if events.is_empty() {
            std::mem::swap(&mut *events, &mut self.events);
        } else {
            events.append(&mut self.events);
        }
        drop(events);
        record.missing_lines.set(record.missing_lines.get() - 1);
        if record.missing_lines.get() == 0 || !matches!(reply, Reply::End) {
            record.end(End::Reply(OwnedReply::new(reply, from)));
        }
    }

    fn is_abandoned(&self) -> bool {
        self.record.ended.get()
            || self.record.abandoned.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    fn is_noreply(&self) -> bool {
        self.record.noreply
    }

    fn accepted(&mut self) {
        let record = &self.record;
        if record.noreply && !record.accepted.replace(true) {
            record.outbox.push(Message::Accepted { ticket: record.ticket });
        }
    }
}

impl Waiter for Recorder {
    fn fail(self, error: &Error) {
        if self.record.is_partial.get() {
            return self.failed(End::Failed(error.clone()));
        }
        self.record.end(End::Failed(error.clone()));
    }

    fn split(self, missing: &[usize]) -> Vec<Self> {
        let record = self.record.clone();
        let alone = |index: &usize| {
            let at = self.positions.as_ref().map_or(*index, |positions| positions[*index]);
            record.line(Some(vec![at]))
        };
        let waiters = missing.iter().map(alone).collect();
        record.expect_lines(record.missing_lines.get() + missing.len());
        self.reply(&Reply::End, "");
        waiters
    }
}

impl Recorder {
    fn failed(mut self, end: End) {
        let positions = self.positions.take();
        self.events.push(Event::Failed { positions, end });
        self.reply(&Reply::End, "");
    }
}

impl OwnedReply {
    fn new(reply: &Reply<'_>, from: &str) -> Self {
        match *reply {
            Reply::Version(text) => Self::Version(Bytes::copy_from_slice(text)),
            Reply::Error(ErrorLine { kind, line }) => {
                Self::Error(kind, Bytes::copy_from_slice(line), from.into())
            }
            Reply::End => Self::Plain(Reply::End),
            Reply::Stored => Self::Plain(Reply::Stored),
            Reply::Deleted => Self::Plain(Reply::Deleted),
            Reply::Touched => Self::Plain(Reply::Touched),
            Reply::Number(number) => Self::Plain(Reply::Number(number)),
            Reply::NotStored => Self::Negative(Reply::NotStored, from.into()),
            Reply::Exists => Self::Negative(Reply::Exists, from.into()),
            Reply::NotFound => Self::Negative(Reply::NotFound, from.into()),
            // These are not valid replies to `stats`.
            Reply::Ok => Self::Negative(Reply::Ok, from.into()),
            Reply::Reset => Self::Negative(Reply::Reset, from.into()),
        }
    }

    /// The reply, and the node that sent it.
    fn as_reply(&self) -> (Reply<'_>, &str) {
        match self {
            Self::Plain(reply) => (*reply, ""),
            Self::Version(text) => (Reply::Version(text), ""),
            Self::Negative(reply, from) => (*reply, from),
            Self::Error(kind, line, from) => (Reply::Error(ErrorLine { kind: *kind, line }), from),
        }
    }
}

thread_local! {
    /// Memory that short values share on their way.
    static BLOCK: RefCell<BytesMut> = RefCell::default();
}

fn copy_value(value: &[u8]) -> Bytes {
    BLOCK.with_borrow_mut(|block| copy_into_block(value, block))
}

/// Passes the recorded events to `waiter`.
pub fn play_back(events: Events, end: End, mut waiter: PyWaiter) {
    for event in events {
        match event {
            Event::Item { index, value, flags, cas } => {
                waiter.item(index, &ItemRef { key: b"", flags, cas, value: &value }, None);
            }
            Event::Stat { line, name_start, name_end } => {
                let value = line.get(name_end + 1..).unwrap_or_default();
                let name = &line[name_start..name_end];
                waiter.stat(&StatLine { line: &line, name, value });
            }
            Event::Failed { positions, end: End::Reply(reply) } => {
                let (reply, from) = reply.as_reply();
                waiter.keys_failed(positions, Ok((&reply, from)));
            }
            Event::Failed { positions, end: End::Failed(error) } => {
                waiter.keys_failed(positions, Err(error));
            }
            Event::Failed { .. } => {}
        }
    }
    match end {
        End::Reply(reply) => {
            let (reply, from) = reply.as_reply();
            waiter.reply(&reply, from);
        }
        End::Failed(error) => waiter.fail(&error),
        End::NoNodes(error) => {
            let verb = waiter.verb();
            waiter.fail_with(Outcome::NoNodes { error, verb });
        }
        End::Closed => waiter.fail_with(Outcome::Closed),
        End::Dropped => waiter.fail_with(Outcome::Internal),
    }
}
