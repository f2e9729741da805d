//! A call that stores, deletes or touches many keys, or reads them with meta commands: a request
//! for each, and one outcome.
//!
//! The requests are sent in windows, so that no call overflows the queues. A window is sent once
//! the previous one is answered. Most calls are one window.
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use bytes::Bytes;

use super::caller::Caller;
use super::client::{Client, Shared};
use super::handler::Handler;
use super::meta::MetaReply;
use super::noreply::{MAX_UNANSWERED, NoReplyCaller};
use super::outcome::{Failure, FailureKind, Outcome};
use crate::pool::Submission;
use crate::protocol::meta::{MetaGetMany, MetaStatus, MetaVerb};
use crate::protocol::{
    Command, ItemRef, Key, Nanos, OwnedRequest, Reply, Request, StorageVerb, Verb,
};

/// Well below what may wait for one node.
pub const WINDOW_KEYS: usize = 16 * 1024;
const WINDOW_BYTES: usize = 16 * 1024 * 1024;

/// The operation on each key.
#[derive(Clone, Debug)]
pub enum Action {
    Store { verb: StorageVerb, flags: u32, exptime: i32 },
    Delete,
    Touch { exptime: i32 },
    MetaGet(MetaGetMany),
}

/// The keys of a batch and, if they are stored, their values.
pub trait BatchSource: 'static {
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn key(&self, at: usize) -> Key<'_>;
    fn value(&self, at: usize) -> BatchValue<'_>;
    /// The node of a key, if the caller chooses it.
    fn node(&self, _at: usize) -> Option<usize> {
        None
    }
    /// Whether the key is in base64.
    fn is_base64(&self, _at: usize) -> bool {
        false
    }
}

pub enum BatchValue<'a> {
    /// Copied to the output.
    Copied(&'a [u8]),
    /// Sent from where it is.
    Shared(&'a Bytes),
}

impl<S: BatchSource + ?Sized> BatchSource for Arc<S> {
    fn len(&self) -> usize {
        (**self).len()
    }

    fn key(&self, at: usize) -> Key<'_> {
        (**self).key(at)
    }

    fn value(&self, at: usize) -> BatchValue<'_> {
        (**self).value(at)
    }

    fn node(&self, at: usize) -> Option<usize> {
        (**self).node(at)
    }

    fn is_base64(&self, at: usize) -> bool {
        (**self).is_base64(at)
    }
}

/// The result for each key, by its position in the call. All others are done.
#[derive(Debug)]
pub struct BatchResult<I> {
    /// Keys that did not meet the command's condition, in order.
    pub missed: Vec<usize>,
    /// In order.
    pub failed: Vec<(usize, Failure)>,
    /// The replies of reads, without misses, in no order.
    pub replies: Vec<(usize, MetaReply<I>)>,
}

impl<I> Default for BatchResult<I> {
    fn default() -> Self {
        Self { missed: Vec::new(), failed: Vec::new(), replies: Vec::new() }
    }
}

impl<I> BatchResult<I> {
    pub(super) fn map<J>(self, mut convert: impl FnMut(I) -> J) -> BatchResult<J> {
        let Self { missed, failed, replies } = self;
        let replies = replies.into_iter().map(|(at, reply)| (at, reply.map(&mut convert)));
        BatchResult { missed, failed, replies: replies.collect() }
    }

    pub fn is_done(&self, at: usize) -> bool {
        self.missed.binary_search(&at).is_err()
            && self.failed.binary_search_by_key(&at, |(failed, _)| *failed).is_err()
    }
}

/// Invariant: `missing` requests before `sent` are unanswered.
pub struct Batch<C: Caller> {
    client: Weak<Shared<C>>,
    /// `None`: completed.
    caller: RefCell<Option<C>>,
    action: Action,
    source: C::Source,
    /// For all windows.
    deadline: Nanos,
    is_noreply: bool,
    /// Whether the call lasts until all is answered; otherwise, until all is on a connection.
    is_answered: bool,
    sent: Cell<usize>,
    missing: Cell<usize>,
    result: RefCell<BatchResult<C::Item>>,
}

impl Action {
    pub fn verb(&self) -> Verb {
        match self {
            Self::Store { verb, .. } => verb.verb(),
            Self::Delete => Verb::Delete,
            Self::Touch { .. } => Verb::Touch,
            Self::MetaGet(_) => Verb::MetaGet,
        }
    }
}

impl<C: Caller> Client<C> {
    /// A request for each key.
    pub fn batch(
        &self,
        action: Action,
        source: C::Source,
        noreply: bool,
        deadline: Nanos,
        caller: C,
    ) {
        let unanswered = self.noreplies().unanswered() + source.len();
        let is_one_window = window_end(&action, &source, 0) == source.len();
        let batch = Rc::new(Batch {
            client: self.downgrade(),
            caller: RefCell::new(Some(caller)),
            action,
            source,
            deadline,
            is_noreply: noreply,
            is_answered: !noreply || unanswered > MAX_UNANSWERED || !is_one_window,
            sent: Cell::new(0),
            missing: Cell::new(0),
            result: RefCell::default(),
        });
        if batch.source.is_empty() {
            batch.complete();
        } else {
            batch.send_window(self);
        }
    }
}

/// Where a window ends that starts with the key at `start`.
fn window_end(action: &Action, source: &impl BatchSource, start: usize) -> usize {
    let last = source.len().min(start + WINDOW_KEYS);
    if !matches!(action, Action::Store { .. }) {
        return last;
    }
    let (mut end, mut bytes) = (start, 0);
    while end < last && bytes < WINDOW_BYTES {
        bytes += match source.value(end) {
            BatchValue::Copied(value) => value.len(),
            BatchValue::Shared(value) => value.len(),
        };
        end += 1;
    }
    end
}

impl<C: Caller> Batch<C> {
    pub fn verb(&self) -> Verb {
        self.action.verb()
    }

    pub fn is_abandoned(&self) -> bool {
        self.caller.borrow().as_ref().is_none_or(Caller::is_abandoned)
    }

    fn send_window(self: &Rc<Self>, client: &Client<C>) {
        let start = self.sent.get();
        let end = window_end(&self.action, &self.source, start);
        self.sent.set(end);
        self.missing.set(end - start);
        if !self.is_answered {
            client.noreplies().begin(end - start);
        }
        for at in start..end {
            let handler = if matches!(self.action, Action::MetaGet(_)) {
                Handler::MetaPart { batch: self.clone(), at, item: None }
            } else if self.is_answered {
                Handler::Part { batch: self.clone(), at }
            } else {
                let caller = NoReplyCaller::UntilPartAccepted { batch: self.clone(), at };
                let noreplies = client.noreplies().clone();
                Handler::NoReply { noreplies, verb: self.verb(), caller }
            };
            self.with_request(at, |key, submission| {
                let node = self.source.node(at);
                client.submit_to_key(key, node, submission, handler, self.deadline);
            });
        }
    }

    fn with_request(&self, at: usize, send: impl FnOnce(Key<'_>, Submission<'_>)) {
        let key = self.source.key(at);
        let command = match &self.action {
            &Action::Store { verb, flags, exptime } => match self.source.value(at) {
                BatchValue::Copied(value) => Command::Storage { verb, key, flags, exptime, value },
                BatchValue::Shared(value) => {
                    let value = value.clone();
                    let mut request = OwnedRequest::storage(verb, key, flags, exptime, value);
                    return send(key, Submission::Owned(&mut request));
                }
            },
            Action::Delete => Command::Delete { key },
            &Action::Touch { exptime } => Command::Touch { key, exptime },
            Action::MetaGet(options) => {
                let flags = options.flags(self.source.is_base64(at));
                Command::Meta { verb: MetaVerb::Get, key, flags, value: b"" }
            }
        };
        send(key, Submission::Borrowed(&Request::Command(command)));
    }

    pub fn item(&self, item: &ItemRef<'_>, shared: Option<&C::Value>) -> Option<C::Item> {
        self.caller.borrow().as_ref()?.item(item, shared)
    }

    /// The outcome of the reply to a read.
    pub fn meta_outcome(
        &self,
        reply: &Reply<'_>,
        item: Option<C::Item>,
        from: &str,
    ) -> Outcome<C::Item> {
        let Reply::Meta { status, flags } = *reply else {
            return Outcome::from_reply(self.verb(), reply, from);
        };
        match (status, &self.action) {
            (MetaStatus::Miss, _) => Outcome::Done,
            (MetaStatus::Done, Action::MetaGet(options)) if options.needs_value() => {
                Outcome::unexpected(Verb::MetaGet, "HD", from)
            }
            _ => Outcome::Meta(Box::new(MetaReply { status, flags: flags.into(), item })),
        }
    }

    pub fn part_ended(self: Rc<Self>, at: usize, outcome: Outcome<C::Item>) {
        let mut result = self.result.borrow_mut();
        match outcome {
            Outcome::Failed(failure) if failure.is_miss() => result.missed.push(at),
            Outcome::Failed(failure) => result.failed.push((at, *failure)),
            Outcome::Meta(reply) => result.replies.push((at, *reply)),
            _ => {}
        }
        drop(result);
        self.missing.set(self.missing.get() - 1);
        if self.missing.get() > 0 {
            return;
        }
        if self.is_sent() {
            return self.complete();
        }
        // The pool that called is borrowed: the next window is sent by a task.
        match self.open_client() {
            Some(client) => client.context().clone().spawn(async move { self.send_next() }),
            None => self.fail_rest(&FailureKind::Closed),
        }
    }

    fn is_sent(&self) -> bool {
        self.sent.get() == self.source.len()
    }

    fn open_client(&self) -> Option<Client<C>> {
        Client::upgrade(&self.client).filter(|client| !client.is_closed())
    }

    fn send_next(self: Rc<Self>) {
        let Some(client) = self.open_client() else {
            return self.fail_rest(&FailureKind::Closed);
        };
        if self.is_abandoned() {
            return self.complete();
        }
        match client.timeout() {
            Some(limit) if self.deadline <= client.context().now() => {
                self.fail_rest(&FailureKind::NotSent { limit });
            }
            _ => self.send_window(&client),
        }
    }

    /// Drops the requests that are not sent yet.
    fn fail_rest(&self, why: &FailureKind) {
        let rest = self.sent.replace(self.source.len())..self.source.len();
        let failure = |at| (at, Failure::new(Some(self.verb()), why.clone()));
        self.result.borrow_mut().failed.extend(rest.map(failure));
        self.complete();
    }

    fn complete(&self) {
        let Some(caller) = self.caller.take() else { return };
        let mut result = self.result.take();
        result.missed.sort_unstable();
        result.failed.sort_unstable_by_key(|(at, _)| *at);
        if !self.is_noreply {
            return caller.complete(Outcome::Batch(Box::new(result)));
        }
        if self.is_answered
            && let Some(client) = Client::upgrade(&self.client)
        {
            client.noreplies().count_errors(result.failed.len());
        }
        // Replies with an error are counted, as if the caller had not waited.
        let is_reply = |failure: &Failure| failure.status().is_some();
        let unsent = result.failed.into_iter().map(|(_, f)| f).find(|failure| !is_reply(failure));
        match unsent {
            Some(failure) => caller.complete(Outcome::Failed(Box::new(failure))),
            None if self.is_answered => caller.complete(Outcome::Done),
            None => caller.accept(),
        }
    }
}
