//! A request of a migration: its reply as owned data, for the task that asked for it.
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::super::outcome::FailureKind;
use crate::pool::Error;
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

/// The recipient of the reply to one request, or to a part of it.
pub struct Step {
    shared: Rc<Shared>,
    /// The index of the only key of a part.
    index: Option<usize>,
    items: Vec<(usize, OwnedItem)>,
}

struct Shared {
    sender: Cell<Option<oneshot::Sender<Answer>>>,
    missing: Cell<usize>,
    answer: RefCell<Answer>,
}

impl Step {
    pub fn new() -> (Box<Self>, oneshot::Receiver<Answer>) {
        let (sender, receiver) = oneshot::channel();
        let shared = Shared {
            sender: Cell::new(Some(sender)),
            missing: Cell::new(1),
            answer: RefCell::new(Answer { items: Vec::new(), ends: Vec::new() }),
        };
        (Box::new(Self { shared: Rc::new(shared), index: None, items: Vec::new() }), receiver)
    }

    pub fn item(&mut self, index: usize, item: &ItemRef<'_>) {
        let value = Bytes::copy_from_slice(item.value);
        let owned = OwnedItem { flags: item.flags, cas: item.cas, value };
        self.items.push((self.index.unwrap_or(index), owned));
    }

    pub fn restart(&mut self) {
        self.items.clear();
    }

    pub fn reply(self, reply: &Reply<'_>, from: &str) {
        self.end(End::Replied { reply: reply.into(), from: from.into() });
    }

    pub fn fail(self, error: &Error) {
        self.end(End::Failed(FailureKind::Pool(error.clone())));
    }

    pub fn fail_with(self, kind: FailureKind) {
        self.end(End::Failed(kind));
    }

    /// A step for each of the keys that have no answer yet.
    pub fn split(self, missing: &[usize]) -> Vec<Self> {
        let Self { shared, index, items } = self;
        shared.answer.borrow_mut().items.extend(items);
        shared.missing.set(shared.missing.get() - 1 + missing.len());
        let part = |at: &usize| {
            let index = Some(index.unwrap_or(*at));
            Self { shared: shared.clone(), index, items: Vec::new() }
        };
        let parts = missing.iter().map(part).collect();
        shared.complete_if_ended();
        parts
    }

    fn end(self, end: End) {
        let Self { shared, index, items } = self;
        let mut answer = shared.answer.borrow_mut();
        answer.items.extend(items);
        answer.ends.push((index, end));
        drop(answer);
        shared.missing.set(shared.missing.get() - 1);
        shared.complete_if_ended();
    }
}

impl Shared {
    fn complete_if_ended(&self) {
        if self.missing.get() == 0
            && let Some(sender) = self.sender.take()
        {
            let empty = Answer { items: Vec::new(), ends: Vec::new() };
            let _ = sender.send(self.answer.replace(empty));
        }
    }
}
