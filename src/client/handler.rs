//! Turns the replies to one request into an outcome, or a part of one.
use std::rc::Rc;

use super::batch::Batch;
use super::caller::Caller;
use super::failover::{DeleteHandler, Guarded};
use super::gather::{Gather, Line};
use super::meta::MetaReply;
use super::migration::Step;
use super::noreply::{NoReplies, NoReplyCaller};
use super::outcome::{Failure, FailureKind, Outcome};
use crate::pool::{Error, Waiter};
use crate::protocol::meta::MetaStatus;
use crate::protocol::{ErrorLine, ErrorLineKind, ItemRef, Reply, ReplyHandler, StatLine, Verb};

pub enum Handler<C: Caller> {
    /// A retrieval with one key.
    Item {
        caller: C,
        verb: Verb,
        item: Option<C::Item>,
    },
    /// One line of a call for many keys.
    Line {
        gather: Rc<Gather<C>>,
        line: Line<C::Item>,
    },
    /// One key of a batch.
    Part {
        batch: Rc<Batch<C>>,
        at: usize,
    },
    /// One key of a batch that reads.
    MetaPart {
        batch: Rc<Batch<C>>,
        at: usize,
        item: Option<C::Item>,
    },
    /// A counter that is created if it is missing.
    Counter {
        caller: C,
        number: Option<u64>,
    },
    /// A meta command.
    Meta {
        caller: C,
        verb: Verb,
        item: Option<C::Item>,
    },
    /// A `get` whose answer proves that the node answers.
    Probe {
        caller: C,
    },
    /// Any other command.
    Command {
        caller: C,
        verb: Verb,
    },
    Stats {
        caller: C,
        stats: Vec<(String, String)>,
    },
    /// A connection for the caller alone.
    Checkout {
        caller: C,
    },
    /// A command whose reply is returned as it came.
    RawReply {
        caller: C,
        verb: Verb,
        text: Vec<u8>,
    },
    /// A retrieval whose items are returned as they came. `items` is boxed, because the queues hold
    /// handlers of all kinds, and most are small.
    RawItems {
        caller: C,
        verb: Verb,
        items: Box<RawItems<C::Item>>,
    },
    /// A request with `noreply`.
    NoReply {
        noreplies: Rc<NoReplies<C>>,
        verb: Verb,
        caller: NoReplyCaller<C>,
    },
    /// A request of a migration.
    Step(Box<Step>),
    /// A write whose failure is recorded, for failover.
    Guarded(Box<Guarded<C>>),
    /// Failover deletes an outdated copy.
    Delete(DeleteHandler),
}

/// The reply to a retrieval as it came.
#[derive(Debug)]
pub struct RawItems<I> {
    /// By the indexes of their keys.
    pub items: Vec<(usize, I)>,
    /// The error line in place of `END`.
    pub error: Vec<u8>,
}

impl<I> Default for RawItems<I> {
    fn default() -> Self {
        Self { items: Vec::new(), error: Vec::new() }
    }
}

impl<I> RawItems<I> {
    fn note_error(&mut self, reply: &Reply<'_>) {
        if let Reply::Error(error) = reply {
            self.error = error.line.to_vec();
        }
    }

    pub(super) fn map<J>(self, mut convert: impl FnMut(I) -> J) -> RawItems<J> {
        let items = self.items.into_iter().map(|(index, item)| (index, convert(item))).collect();
        RawItems { items, error: self.error }
    }
}

impl<C: Caller> ReplyHandler for Handler<C> {
    type Value = C::Value;

    #[inline]
    fn item(&mut self, index: usize, item: &ItemRef<'_>, shared: Option<&C::Value>) {
        match self {
            Self::Item { caller, item: place, .. } => *place = caller.item(item, shared),
            Self::Line { gather, line } => gather.item(line, index, item, shared),
            _ => self.rare_item(index, item, shared),
        }
    }

    fn stat(&mut self, stat: &StatLine<'_>) {
        match self {
            Self::Stats { caller, .. } | Self::RawReply { caller, .. } if caller.is_abandoned() => {
            }
            Self::Stats { stats, .. } => {
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                stats.push((text(stat.name), text(stat.value)));
            }
            Self::RawReply { text, .. } => {
                text.extend_from_slice(stat.line);
                text.extend_from_slice(b"\r\n");
            }
            _ => {}
        }
    }

    fn restart(&mut self) {
        match self {
            Self::Item { item, .. } | Self::Meta { item, .. } | Self::MetaPart { item, .. } => {
                *item = None;
            }
            Self::Line { line, .. } => line.restart(),
            Self::Stats { stats, .. } => stats.clear(),
            Self::RawItems { items, .. } => items.items.clear(),
            Self::RawReply { text, .. } => text.clear(),
            Self::Step(step) => step.restart(),
            Self::Guarded(guarded) => guarded.handler.restart(),
            Self::Delete(_)
            | Self::Part { .. }
            | Self::Counter { .. }
            | Self::Probe { .. }
            | Self::Command { .. }
            | Self::Checkout { .. }
            | Self::NoReply { .. } => {}
        }
    }

    fn reply(self, reply: &Reply<'_>, from: &str) {
        match self {
            Self::Item { caller, verb, item } => caller.complete(match reply {
                Reply::End => Outcome::Item(item),
                other => Outcome::from_reply(verb, other, from),
            }),
            Self::Line { gather, line } => {
                match Outcome::<C::Item>::from_reply(gather.verb(), reply, from) {
                    Outcome::Failed(failure) => gather.line_failed(line, *failure),
                    _ => gather.line_done(line),
                }
            }
            Self::Part { batch, at } => {
                let outcome = Outcome::from_reply(batch.verb(), reply, from);
                batch.part_ended(at, outcome);
            }
            Self::Command { caller, verb } => {
                caller.complete(Outcome::from_reply(verb, reply, from));
            }
            rare => rare.rare_reply(reply, from),
        }
    }

    fn is_abandoned(&self) -> bool {
        match self {
            Self::Item { caller, .. }
            | Self::Counter { caller, .. }
            | Self::Meta { caller, .. }
            | Self::Probe { caller }
            | Self::Command { caller, .. }
            | Self::Stats { caller, .. }
            | Self::Checkout { caller }
            | Self::RawReply { caller, .. }
            | Self::RawItems { caller, .. } => caller.is_abandoned(),
            Self::Line { gather, .. } => gather.is_abandoned(),
            Self::Part { batch, .. } | Self::MetaPart { batch, .. } => batch.is_abandoned(),
            Self::NoReply { caller, .. } => caller.is_abandoned(),
            Self::Guarded(guarded) => guarded.handler.is_abandoned(),
            Self::Step(_) | Self::Delete(_) => false,
        }
    }

    fn is_noreply(&self) -> bool {
        match self {
            Self::NoReply { .. } => true,
            Self::Guarded(guarded) => guarded.handler.is_noreply(),
            _ => false,
        }
    }

    fn accepted(&mut self) {
        match self {
            Self::NoReply { caller, .. } => caller.accepted(),
            Self::Guarded(guarded) => guarded.handler.accepted(),
            _ => {}
        }
    }
}

impl<C: Caller> Waiter for Handler<C> {
    fn fail(self, error: &Error) {
        self.fail_with(FailureKind::Pool(error.clone()));
    }

    fn dismiss(self) {
        if let Self::Guarded(guarded) = &self {
            guarded.record_failure();
        }
        self.reply(&Reply::End, "");
    }

    fn is_bound(&self) -> bool {
        matches!(self, Self::Delete(_))
    }

    fn split(self, missing: &[usize]) -> Vec<Self> {
        let (gather, line) = match self {
            Self::Line { gather, line } => (gather, line),
            Self::Step(step) => {
                let parts = step.split(missing).into_iter();
                return parts.map(|part| Self::Step(Box::new(part))).collect();
            }
            other => return vec![other],
        };
        let lines = gather.split_line(line, missing);
        lines.into_iter().map(|line| Self::Line { gather: gather.clone(), line }).collect()
    }
}

impl<C: Caller> Handler<C> {
    #[inline(never)]
    fn rare_item(&mut self, index: usize, item: &ItemRef<'_>, shared: Option<&C::Value>) {
        match self {
            Self::Meta { caller, item: place, .. } => *place = caller.item(item, shared),
            Self::MetaPart { batch, item: place, .. } => *place = batch.item(item, shared),
            Self::Counter { number, .. } => {
                *number = std::str::from_utf8(item.value).ok().and_then(|text| text.parse().ok());
            }
            Self::Guarded(guarded) => guarded.handler.item(index, item, shared),
            Self::RawItems { caller, items, .. } => {
                items.items.extend(caller.item(item, shared).map(|item| (index, item)));
            }
            Self::Step(step) => step.item(index, item),
            // The only other command with an item is `config get cluster`.
            Self::RawReply { text, .. } => text.extend_from_slice(item.value),
            _ => {}
        }
    }

    #[inline(never)]
    fn rare_reply(self, reply: &Reply<'_>, from: &str) {
        match self {
            Self::MetaPart { batch, at, item } => {
                let outcome = batch.meta_outcome(reply, item, from);
                batch.part_ended(at, outcome);
            }
            Self::Counter { caller, number } => caller.complete(counted(reply, number, from)),
            Self::Meta { caller, verb, item } => caller.complete(match *reply {
                Reply::Meta { status, flags } => {
                    Outcome::Meta(Box::new(MetaReply { status, flags: flags.into(), item }))
                }
                ref other => Outcome::from_reply(verb, other, from),
            }),
            Self::Probe { caller } => caller.complete(probed(reply, from)),
            Self::Stats { caller, stats } => caller.complete(match reply {
                Reply::End => Outcome::Stats(stats),
                other => Outcome::from_reply(Verb::Stats, other, from),
            }),
            Self::Checkout { caller } => caller.complete(match reply {
                Reply::Ok => Outcome::CheckedOut,
                // The caller has given up.
                _ => Outcome::Done,
            }),
            Self::RawReply { caller, verb, mut text } => {
                if verb != Verb::ConfigGetCluster || text.is_empty() {
                    append_reply(reply, &mut text);
                }
                caller.complete(Outcome::RawReply(text));
            }
            Self::RawItems { caller, mut items, .. } => {
                items.note_error(reply);
                caller.complete(Outcome::RawItems(items));
            }
            Self::NoReply { noreplies, caller, .. } => {
                noreplies.end(matches!(reply, Reply::Error(_)));
                caller.complete(Outcome::Done);
            }
            Self::Step(step) => step.reply(reply, from),
            Self::Guarded(guarded) => guarded.reply(reply, from),
            Self::Delete(handler) => handler.reply(reply),
            Self::Item { .. } | Self::Line { .. } | Self::Part { .. } | Self::Command { .. } => {}
        }
    }

    #[cold]
    pub fn fail_with(self, kind: FailureKind) {
        match self {
            Self::Item { caller, verb, .. }
            | Self::Meta { caller, verb, .. }
            | Self::Command { caller, verb }
            | Self::RawReply { caller, verb, .. }
            | Self::RawItems { caller, verb, .. } => {
                caller.complete(Outcome::failed(Some(verb), kind));
            }
            Self::Counter { caller, .. } => {
                caller.complete(Outcome::failed(Some(Verb::MetaArithmetic), kind));
            }
            Self::Probe { caller } => caller.complete(Outcome::failed(Some(Verb::Get), kind)),
            Self::Stats { caller, .. } => {
                caller.complete(Outcome::failed(Some(Verb::Stats), kind));
            }
            Self::Checkout { caller } => caller.complete(Outcome::failed(None, kind)),
            Self::Line { gather, line } => {
                let failure = Failure::new(Some(gather.verb()), kind);
                gather.line_failed(line, failure);
            }
            Self::Part { batch, at } | Self::MetaPart { batch, at, .. } => {
                let outcome = Outcome::failed(Some(batch.verb()), kind);
                batch.part_ended(at, outcome);
            }
            Self::NoReply { noreplies, verb, caller } => {
                noreplies.end(true);
                caller.complete(Outcome::failed(Some(verb), kind));
            }
            Self::Step(step) => step.fail_with(kind),
            Self::Guarded(guarded) => {
                guarded.record_failure();
                guarded.handler.fail_with(kind);
            }
            Self::Delete(handler) => handler.fail(),
        }
    }
}

fn counted<I>(reply: &Reply<'_>, number: Option<u64>, from: &str) -> Outcome<I> {
    match (reply, number) {
        (Reply::Meta { .. }, Some(number)) => Outcome::Number(number),
        // It was asked for the number.
        (Reply::Meta { status: MetaStatus::Done, .. }, None) => {
            Outcome::unexpected(Verb::MetaArithmetic, "HD", from)
        }
        (Reply::Error(ErrorLine { kind: ErrorLineKind::Unknown, .. }), _) => Outcome::Unsupported,
        (other, _) => Outcome::from_reply(Verb::MetaArithmetic, other, from),
    }
}

/// Any answer counts, because the server of this key may be down behind a proxy that is up. Only a
/// missing login is reported as a failure.
fn probed<I>(reply: &Reply<'_>, from: &str) -> Outcome<I> {
    match Outcome::<I>::from_reply(Verb::Get, reply, from) {
        Outcome::Failed(failure) if failure.is_unauthenticated() => Outcome::Failed(failure),
        _ => Outcome::Done,
    }
}

/// Appends the reply as the server wrote it, without CRLF.
fn append_reply(reply: &Reply<'_>, text: &mut Vec<u8>) {
    match reply {
        Reply::End => text.extend_from_slice(b"END"),
        Reply::Stored => text.extend_from_slice(b"STORED"),
        Reply::NotStored => text.extend_from_slice(b"NOT_STORED"),
        Reply::Exists => text.extend_from_slice(b"EXISTS"),
        Reply::NotFound => text.extend_from_slice(b"NOT_FOUND"),
        Reply::Deleted => text.extend_from_slice(b"DELETED"),
        Reply::Touched => text.extend_from_slice(b"TOUCHED"),
        Reply::Ok => text.extend_from_slice(b"OK"),
        Reply::Reset => text.extend_from_slice(b"RESET"),
        Reply::Number(number) => text.extend_from_slice(number.to_string().as_bytes()),
        Reply::Version(version) => {
            text.extend_from_slice(b"VERSION ");
            text.extend_from_slice(version);
        }
        Reply::Meta { flags, .. } => text.extend_from_slice(flags),
        Reply::Error(error) => text.extend_from_slice(error.line),
    }
}
