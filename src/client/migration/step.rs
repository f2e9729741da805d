//! A request of a migration: its reply as owned data, for the task that asked for it.
use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::super::outcome::FailureKind;
use crate::protocol::meta::MetaStatus;
use crate::protocol::{ErrorLine, ErrorLineKind, ItemRef, Reply};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedItem {
    pub flags: u32,
    pub cas: Option<u64>,
    pub value: Bytes,
}

impl OwnedItem {
    pub fn as_ref<'a>(&'a self, key: &'a [u8]) -> ItemRef<'a> {
        ItemRef { key, flags: self.flags, cas: self.cas, value: &self.value }
    }
}

/// A [`Reply`] that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnedReply {
    End,
    Stored,
    NotStored,
    Exists,
    NotFound,
    Deleted,
    Touched,
    Ok,
    Reset,
    Number(u64),
    Version(Box<[u8]>),
    Meta { status: MetaStatus, flags: Box<[u8]> },
    Error { kind: ErrorLineKind, line: Box<[u8]> },
}

impl From<&Reply<'_>> for OwnedReply {
    fn from(reply: &Reply<'_>) -> Self {
        match *reply {
            Reply::End => Self::End,
            Reply::Stored => Self::Stored,
            Reply::NotStored => Self::NotStored,
            Reply::Exists => Self::Exists,
            Reply::NotFound => Self::NotFound,
            Reply::Deleted => Self::Deleted,
            Reply::Touched => Self::Touched,
            Reply::Ok => Self::Ok,
            Reply::Reset => Self::Reset,
            Reply::Number(number) => Self::Number(number),
            Reply::Version(text) => Self::Version(text.into()),
            Reply::Meta { status, flags } => Self::Meta { status, flags: flags.into() },
            Reply::Error(ErrorLine { kind, line }) => Self::Error { kind, line: line.into() },
        }
    }
}

impl OwnedReply {
    pub fn as_reply(&self) -> Reply<'_> {
        match self {
            Self::End => Reply::End,
            Self::Stored => Reply::Stored,
            Self::NotStored => Reply::NotStored,
            Self::Exists => Reply::Exists,
            Self::NotFound => Reply::NotFound,
            Self::Deleted => Reply::Deleted,
            Self::Touched => Reply::Touched,
            Self::Ok => Reply::Ok,
            Self::Reset => Reply::Reset,
            Self::Number(number) => Reply::Number(*number),
            Self::Version(text) => Reply::Version(text),
            Self::Meta { status, flags } => Reply::Meta { status: *status, flags },
            Self::Error { kind, line } => Reply::Error(ErrorLine { kind: *kind, line }),
        }
    }
}

/// How a request, or a part of one, ended.
#[derive(Clone, Debug)]
pub enum End {
    Replied { reply: OwnedReply, from: Box<str> },
    Failed(FailureKind),
}

/// Everything that came of one request.
#[derive(Debug)]
pub struct Answer {
    /// By the indexes of their keys.
    pub items: Vec<(usize, OwnedItem)>,
    /// Of each part, with the indexes of its keys; `None` stands for all keys. A request is split
    /// into parts only if a proxy refuses some of its keys.
    pub ends: Vec<(Option<usize>, End)>,
}

impl Answer {
    /// Of a request for one key.
    pub fn into_end(mut self) -> (Option<OwnedItem>, End) {
        let end = self.ends.pop().map_or(End::Failed(FailureKind::Internal), |(_, end)| end);
        (self.items.pop().map(|(_, item)| item), end)
    }
}

/// The recipient of the reply to one request, or to a part of it. If it is dropped, the request has
/// failed.
pub struct Step {
    shared: Rc<Shared>,
    /// The index of the only key of a part.
    index: Option<usize>,
    items: Vec<(usize, OwnedItem)>,
    has_ended: bool,
}

/// A request on its way.
pub struct Asked(Rc<Shared>);

struct Shared {
    missing: Cell<usize>,
    answer: RefCell<Answer>,
    waker: Cell<Option<Waker>>,
}

impl Step {
    pub fn new() -> (Self, Asked) {
        let shared = Rc::new(Shared {
            missing: Cell::new(1),
            answer: RefCell::new(Answer { items: Vec::new(), ends: Vec::new() }),
            waker: Cell::new(None),
        });
        (Self::part(&shared, None), Asked(shared))
    }

    fn part(shared: &Rc<Shared>, index: Option<usize>) -> Self {
        Self { shared: shared.clone(), index, items: Vec::new(), has_ended: false }
    }

    pub fn item(&mut self, index: usize, item: &ItemRef<'_>) {
        let value = Bytes::copy_from_slice(item.value);
        let owned = OwnedItem { flags: item.flags, cas: item.cas, value };
        self.items.push((self.index.unwrap_or(index), owned));
    }

    pub fn restart(&mut self) {
        self.items.clear();
    }

    pub fn reply(mut self, reply: &Reply<'_>, from: &str) {
        self.end(End::Replied { reply: reply.into(), from: from.into() });
    }

    pub fn fail_with(mut self, kind: FailureKind) {
        self.end(End::Failed(kind));
    }

    /// A step for each of the keys that have no answer yet.
    pub fn split(mut self, missing: &[usize]) -> Vec<Self> {
        let shared = self.shared.clone();
        shared.answer.borrow_mut().items.append(&mut self.items);
        self.has_ended = true;
        shared.missing.set(shared.missing.get() + missing.len());
        let index = |at: &usize| Some(self.index.unwrap_or(*at));
        let parts = missing.iter().map(|at| Self::part(&shared, index(at))).collect();
        shared.part_ended();
        parts
    }

    fn end(&mut self, end: End) {
        self.has_ended = true;
        let mut answer = self.shared.answer.borrow_mut();
        answer.items.append(&mut self.items);
        answer.ends.push((self.index, end));
        drop(answer);
        self.shared.part_ended();
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.has_ended {
            self.end(End::Failed(FailureKind::Internal));
        }
    }
}

impl Shared {
    fn part_ended(&self) {
        self.missing.set(self.missing.get() - 1);
        if self.missing.get() == 0
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }
}

/// # Cancel safety
/// The request is executed all the same.
impl Future for Asked {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        if self.0.missing.get() > 0 {
            self.0.waker.set(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        let empty = Answer { items: Vec::new(), ends: Vec::new() };
        Poll::Ready(self.0.answer.replace(empty))
    }
}

impl Asked {
    /// The end of a request for one key.
    pub async fn end(self) -> (Option<OwnedItem>, End) {
        self.await.into_end()
    }
}
