//! Waiters: the core's side of Python futures.
//!
//! Replies arrive while the core is borrowed, and no Python code may run then. So a waiter creates
//! only objects that start no garbage collection (`bytes`, `str`, `int`). [`completion`] creates
//! the objects that contain them (`Item`, `dict`, exceptions) when it delivers the results.
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyList, PyString};

use super::batch::Batch;
use super::completion::{self, Outcome};
use super::future::OpFuture;
use super::item::RawItem;
use super::value_buf::PyValueBuf;
use crate::pool::{CheckoutId, Error, Waiter};
use crate::protocol::{ErrorLine, ErrorLineKind, ItemRef, Reply, ReplyHandler, StatLine, Verb};

pub enum PyWaiter {
    /// `get` and its family with one key.
    One {
        future: Py<OpFuture>,
        verb: Verb,
        flags: bool,
        item: Option<RawItem>,
    },
    /// One line of a call with many keys.
    Line {
        gather: Rc<Gather>,
        line: Line,
    },
    /// One key of a call that changes many keys.
    Part {
        batch: Rc<Batch>,
        at: usize,
    },
    /// A counter that is created if it is missing.
    Counter {
        future: Py<OpFuture>,
    },
    /// A `get` for which any reply counts, regardless of its content.
    Probe {
        future: Py<OpFuture>,
    },
    /// Any other command.
    Command {
        future: Py<OpFuture>,
        verb: Verb,
    },
    Stats {
        future: Py<OpFuture>,
        stats: Stats,
    },
    /// A connection for exclusive use.
    Checkout {
        future: Py<OpFuture>,
        session: u64,
        checkout: CheckoutId,
    },
    /// Any command on a checked-out connection whose reply is returned as text.
    RawReply {
        future: Py<OpFuture>,
        verb: Verb,
        text: Vec<u8>,
    },
    /// A retrieval on a checked-out connection. Boxed, because queues contain waiters of all kinds
    /// and most are small.
    RawItems {
        future: Py<OpFuture>,
        verb: Verb,
        items: Box<RawItems>,
    },
    /// A command with `noreply`.
    NoReply {
        backlog: Rc<NoReplies>,
        verb: Verb,
        caller: Caller,
    },
}

/// How long the caller of a command with `noreply` waits.
pub enum Caller {
    /// Until the request is on a connection. No known obstacle keeps it from the server then.
    UntilAccepted(Py<OpFuture>),
    /// Like `UntilAccepted`, for one key of many.
    UntilPartAccepted {
        batch: Rc<Batch>,
        at: usize,
    },
    /// Until it is answered, because too many commands are unanswered.
    UntilAnswered(Py<OpFuture>),
    Done,
}

/// The keys of one line, and the items received for them.
pub struct Line {
    /// The positions of the line's keys among those of the call. `None` means all keys, in order.
    pub positions: Option<Vec<usize>>,
    pub items: Vec<(usize, RawItem)>,
}

/// The result of a retrieval on a connection, in the form of emcache 1.3.
#[derive(Default)]
pub struct RawItems {
    pub keys: Vec<Py<PyBytes>>,
    items: Vec<(usize, RawItem)>,
    error: Vec<u8>,
}

impl RawItems {
    pub fn new(keys: Vec<Py<PyBytes>>) -> Self {
        Self { keys, ..Self::default() }
    }

    /// `(keys, values, flags, cas, client_error)`
    pub fn into_tuple(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let keys = PyList::new(py, self.items.iter().map(|(index, _)| &self.keys[*index]))?;
        let values = PyList::new(py, self.items.iter().map(|(_, item)| item.value()))?;
        let flags = PyList::new(py, self.items.iter().map(|(_, item)| item.flags()))?;
        let cas = PyList::new(py, self.items.iter().map(|(_, item)| item.cas()))?;
        let error = PyByteArray::new(py, &self.error);
        Ok((keys, values, flags, cas, error).into_pyobject(py)?.into_any().unbind())
    }
}

pub type Stats = Vec<(Py<PyString>, Py<PyString>)>;

/// A call with many keys. It is complete when all its lines are, and failed when one of them is,
/// unless it is partial.
pub struct Gather {
    pub future: Py<OpFuture>,
    pub flags: bool,
    pub verb: Verb,
    /// In the form that the result will hold.
    pub keys: Vec<Py<PyBytes>>,
    pub lines: RefCell<Vec<Line>>,
    pub missing_lines: Cell<usize>,
    pub failed: Cell<bool>,
    /// Whether received items are returned in any case, with the errors of the other keys.
    pub is_partial: bool,
    /// Failures and the positions of their keys. `None` means all keys of the call.
    pub failures: RefCell<Vec<(Option<Vec<usize>>, Outcome)>>,
}

/// The state of a client's `noreply` commands.
#[derive(Default)]
pub struct NoReplies {
    pub unanswered: Cell<usize>,
    /// Futures that complete when all commands are answered.
    pub drain_futures: RefCell<Vec<Py<OpFuture>>>,
    /// The session to close at that point.
    pub close_when_drained: Cell<Option<u64>>,
    pub errors: Cell<u64>,
}

impl Gather {
    fn line_done(self: Rc<Self>, py: Python<'_>, line: Line) {
        self.lines.borrow_mut().push(line);
        self.missing_lines.set(self.missing_lines.get() - 1);
        let future = self.future.clone_ref(py);
        let outcome = if self.missing_lines.get() == 0 && !self.failed.get() {
            Outcome::Items(self)
        } else {
            Outcome::Discarded
        };
        completion::complete(future, outcome);
    }

    /// May start a garbage collection, so it must not be called while the core is borrowed.
    pub fn into_items(self: Rc<Self>, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let dict = self.items(py)?;
        if !self.is_partial {
            return Ok(dict.into_any().unbind());
        }
        let errors = self.errors(py, &dict)?;
        Ok((dict, errors).into_pyobject(py)?.into_any().unbind())
    }

    fn items<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for Line { positions, items } in self.lines.take() {
            for (index, item) in items {
                let at = positions.as_ref().map_or(index, |positions| positions[index]);
                dict.set_item(&self.keys[at], item.into_item(py, self.flags)?)?;
            }
        }
        Ok(dict)
    }

    /// The errors of all keys that failed and have no item.
    fn errors<'py>(
        &self,
        py: Python<'py>,
        items: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let errors = PyDict::new(py);
        for (positions, failure) in self.failures.take() {
            let keys: Vec<_> = match &positions {
                Some(positions) => positions.iter().map(|at| &self.keys[*at]).collect(),
                None => self.keys.iter().collect(),
            };
            for key in keys {
                if !items.contains(key)? {
                    errors.set_item(key, failure.to_error(py))?;
                }
            }
        }
        Ok(errors)
    }

    fn line_failed(self: Rc<Self>, py: Python<'_>, line: Line, outcome: Outcome) {
        if self.is_partial {
            self.failures.borrow_mut().push((line.positions.clone(), outcome));
            return self.line_done(py, line);
        }
        let outcome = if self.failed.replace(true) { Outcome::Discarded } else { outcome };
        completion::complete(self.future.clone_ref(py), outcome);
    }
}

impl NoReplies {
    fn ended(&self, py: Python<'_>, error: bool) {
        self.unanswered.set(self.unanswered.get() - 1);
        self.errors.set(self.errors.get() + u64::from(error));
        if self.unanswered.get() == 0 {
            for future in self.drain_futures.take() {
                completion::complete(future, Outcome::Value(py.None()));
            }
            if let Some(session) = self.close_when_drained.take() {
                completion::close(session);
            }
        }
    }
}

impl ReplyHandler for PyWaiter {
    type Value = PyValueBuf;

    fn item(&mut self, index: usize, item: &ItemRef<'_>, shared: Option<&PyValueBuf>) {
        // No objects are created for a caller that has left.
        Python::attach(|py| match self {
            Self::One { future, .. } | Self::RawItems { future, .. } if is_over(py, future) => {}
            Self::Line { gather, .. } if is_over(py, &gather.future) => {}
            Self::One { item: place, .. } => *place = Some(RawItem::new(py, item, shared)),
            Self::Line { line, .. } => line.items.push((index, RawItem::new(py, item, shared))),
            Self::RawItems { items, .. } => {
                items.items.push((index, RawItem::new(py, item, shared)));
            }
            // `config get cluster` is the only other command that returns an item.
            Self::RawReply { text, .. } => text.extend_from_slice(item.value),
            _ => {}
        });
    }

    fn stat(&mut self, stat: &StatLine<'_>) {
        match self {
            Self::Stats { future, .. } | Self::RawReply { future, .. }
                if Python::attach(|py| is_over(py, future)) => {}
            Self::Stats { stats, .. } => Python::attach(|py| {
                let text = |bytes| PyString::new(py, &String::from_utf8_lossy(bytes)).unbind();
                stats.push((text(stat.name), text(stat.value)));
            }),
            Self::RawReply { text, .. } => {
                text.extend_from_slice(stat.line);
                text.extend_from_slice(b"\r\n");
            }
            _ => {}
        }
    }

    fn restart(&mut self) {
        match self {
            Self::One { item, .. } => *item = None,
            Self::Line { line, .. } => line.items.clear(),
            Self::Stats { stats, .. } => stats.clear(),
            Self::RawItems { items, .. } => items.items.clear(),
            Self::RawReply { text, .. } => text.clear(),
            Self::Command { .. }
            | Self::Counter { .. }
            | Self::Probe { .. }
            | Self::Part { .. }
            | Self::NoReply { .. }
            | Self::Checkout { .. } => {}
        }
    }

    fn reply(self, reply: &Reply<'_>, from: &str) {
        Python::attach(|py| match self {
            Self::One { future, verb, flags, item } => {
                let outcome = match (reply, item) {
                    (Reply::End, Some(item)) => Outcome::Item { item, flags },
                    (Reply::End, None) => Outcome::Value(py.None()),
                    (other, _) => outcome_from_reply(py, verb, other, from),
                };
                completion::complete(future, outcome);
            }
            Self::Line { gather, line } => match reply {
                Reply::End => gather.line_done(py, line),
                other => {
                    let outcome = outcome_from_reply(py, gather.verb, other, from);
                    gather.line_failed(py, line, outcome);
                }
            },
            Self::Part { batch, at } => {
                let outcome = outcome_from_reply(py, batch.action.verb(), reply, from);
                batch.answered(py, at, outcome);
            }
            Self::Counter { future } => {
                let outcome = outcome_from_reply(py, Verb::MetaArithmetic, reply, from);
                completion::complete(future, outcome);
            }
            Self::Probe { future } => completion::complete(future, probe_outcome(py, reply, from)),
            Self::Command { future, verb } => {
                completion::complete(future, outcome_from_reply(py, verb, reply, from));
            }
            Self::Stats { future, stats } => {
                let outcome = match reply {
                    Reply::End => Outcome::Stats(stats),
                    other => outcome_from_reply(py, Verb::Stats, other, from),
                };
                completion::complete(future, outcome);
            }
            Self::Checkout { future, session, checkout } => {
                let outcome = match reply {
                    Reply::Ok => Outcome::CheckedOut { session, checkout },
                    _ => Outcome::Discarded,
                };
                completion::complete(future, outcome);
            }
            Self::RawReply { future, verb, mut text } => {
                if verb != Verb::ConfigGetCluster || text.is_empty() {
                    append_reply(reply, &mut text);
                }
                let text = PyByteArray::new(py, &text).into_any().unbind();
                completion::complete(future, Outcome::Value(text));
            }
            Self::RawItems { future, mut items, .. } => {
                if let Reply::Error(error) = reply {
                    items.error = error.line.to_vec();
                }
                completion::complete(future, Outcome::Raw(items));
            }
            Self::NoReply { backlog, caller, .. } => {
                backlog.ended(py, matches!(reply, Reply::Error(_)));
                caller.complete(py, Outcome::Value(py.None()));
            }
        });
    }

    fn is_abandoned(&self) -> bool {
        self.future().is_some_and(|future| Python::attach(|py| is_over(py, future)))
    }

    fn is_noreply(&self) -> bool {
        matches!(self, Self::NoReply { .. })
    }

    fn accepted(&mut self) {
        if let Self::NoReply { caller, .. } = self {
            caller.accepted();
        }
    }
}

impl Caller {
    fn accepted(&mut self) {
        match std::mem::replace(self, Self::Done) {
            Self::UntilAccepted(future) => Python::attach(|py| complete_with_none(py, future)),
            Self::UntilPartAccepted { batch, at } => Python::attach(|py| {
                batch.answered(py, at, Outcome::Value(py.None()));
            }),
            other => *self = other,
        }
    }

    fn complete(self, py: Python<'_>, outcome: Outcome) {
        match self {
            Self::UntilAccepted(future) | Self::UntilAnswered(future) => {
                completion::complete(future, outcome);
            }
            Self::UntilPartAccepted { batch, at } => batch.answered(py, at, outcome),
            Self::Done => {}
        }
    }
}

/// Ends a call with `None`, at once if its task does not wait yet.
pub fn complete_with_none(py: Python<'_>, future: Py<OpFuture>) {
    if !OpFuture::resolve_unawaited(future.bind(py)) {
        completion::complete(future, Outcome::Value(py.None()));
    }
}

fn is_over(py: Python<'_>, future: &Py<OpFuture>) -> bool {
    !future.bind(py).try_borrow().is_ok_and(|future| future.is_pending())
}

impl Waiter for PyWaiter {
    fn fail(self, error: &Error) {
        let verb = self.verb();
        self.fail_with(Outcome::Failed { error: error.clone(), verb });
    }

    fn split(self, missing: &[usize]) -> Vec<Self> {
        let Self::Line { gather, line } = self else { return vec![self] };
        let alone = |index: &usize| {
            let at = line.positions.as_ref().map_or(*index, |positions| positions[*index]);
            let line = Line { positions: Some(vec![at]), items: Vec::new() };
            Self::Line { gather: gather.clone(), line }
        };
        let waiters = missing.iter().map(alone).collect();
        gather.missing_lines.set(gather.missing_lines.get() + missing.len());
        Python::attach(|py| gather.line_done(py, line));
        waiters
    }
}

impl PyWaiter {
    pub fn fail_with(self, outcome: Outcome) {
        match self {
            Self::One { future, .. }
            | Self::Counter { future }
            | Self::Probe { future }
            | Self::Command { future, .. }
            | Self::Stats { future, .. }
            | Self::Checkout { future, .. }
            | Self::RawReply { future, .. }
            | Self::RawItems { future, .. } => completion::complete(future, outcome),
            Self::Line { gather, line } => {
                Python::attach(|py| gather.line_failed(py, line, outcome));
            }
            Self::Part { batch, at } => Python::attach(|py| batch.answered(py, at, outcome)),
            Self::NoReply { backlog, caller, .. } => Python::attach(|py| {
                backlog.ended(py, true);
                caller.complete(py, outcome);
            }),
        }
    }

    /// Records that some keys of a partial call failed, with the server's reply or the error.
    pub fn keys_failed(
        &self,
        positions: Option<Vec<usize>>,
        failure: Result<(&Reply<'_>, &str), Error>,
    ) {
        let Self::Line { gather, .. } = self else { return };
        let verb = gather.verb;
        let outcome = match failure {
            Ok((reply, from)) => Python::attach(|py| outcome_from_reply(py, verb, reply, from)),
            Err(error) => Outcome::Failed { error, verb: Some(verb) },
        };
        gather.failures.borrow_mut().push((positions, outcome));
    }

    /// Returns a flag that is set when the caller leaves, or `None` if the request does not depend
    /// on it.
    pub fn watch_abandoned(&self) -> Option<Arc<AtomicBool>> {
        let future = self.future()?;
        Python::attach(|py| Some(future.bind(py).try_borrow_mut().ok()?.watch_abandoned()))
    }

    /// `None` if the caller waits for a connection and not for a command.
    pub fn verb(&self) -> Option<Verb> {
        match self {
            Self::One { verb, .. }
            | Self::Command { verb, .. }
            | Self::RawReply { verb, .. }
            | Self::RawItems { verb, .. }
            | Self::NoReply { verb, .. } => Some(*verb),
            Self::Line { gather, .. } => Some(gather.verb),
            Self::Part { batch, .. } => Some(batch.action.verb()),
            Self::Counter { .. } => Some(Verb::MetaArithmetic),
            Self::Probe { .. } => Some(Verb::Get),
            Self::Stats { .. } => Some(Verb::Stats),
            Self::Checkout { .. } => None,
        }
    }

    fn future(&self) -> Option<&Py<OpFuture>> {
        match self {
            Self::One { future, .. }
            | Self::Counter { future }
            | Self::Probe { future }
            | Self::Command { future, .. }
            | Self::Stats { future, .. }
            | Self::Checkout { future, .. }
            | Self::RawReply { future, .. }
            | Self::RawItems { future, .. } => Some(future),
            Self::Line { gather, .. } => Some(&gather.future),
            Self::Part { batch, .. } => Some(&batch.future),
            Self::NoReply { caller, .. } => match caller {
                Caller::UntilAccepted(future) | Caller::UntilAnswered(future) => Some(future),
                Caller::UntilPartAccepted { batch, .. } => Some(&batch.future),
                Caller::Done => None,
            },
        }
    }
}

/// Returned in place of a number if the server does not know the command.
const NO_META: i32 = -1;

fn no_meta(py: Python<'_>) -> Py<PyAny> {
    match NO_META.into_pyobject(py) {
        Ok(number) => number.into_any().unbind(),
        Err(never) => match never {},
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
        Reply::Error(error) => text.extend_from_slice(error.line),
    }
}

/// Any reply proves that the node answers, since a proxy that cannot reach the server of one key
/// may reach others. Only a refused login is reported.
fn probe_outcome(py: Python<'_>, reply: &Reply<'_>, from: &str) -> Outcome {
    match reply {
        Reply::Error(ErrorLine { line, .. }) if line.ends_with(b"unauthenticated") => {
            outcome_from_reply(py, Verb::Get, reply, from)
        }
        _ => Outcome::Value(py.None()),
    }
}

fn outcome_from_reply(py: Python<'_>, verb: Verb, reply: &Reply<'_>, from: &str) -> Outcome {
    let refused = |kind, line| Outcome::Refused { verb, kind, line, node: from.to_owned() };
    match *reply {
        Reply::Ok if verb != Verb::Stats => Outcome::Value(py.None()),
        Reply::NotStored | Reply::Exists => Outcome::NotStored { verb, node: from.to_owned() },
        Reply::NotFound => Outcome::NotFound { verb, node: from.to_owned() },
        Reply::Number(number) => match number.into_pyobject(py) {
            Ok(number) => Outcome::Value(number.into_any().unbind()),
            Err(never) => match never {},
        },
        Reply::Version(text) => {
            let text = PyString::new(py, &String::from_utf8_lossy(text));
            Outcome::Value(text.into_any().unbind())
        }
        Reply::Error(ErrorLine { kind: ErrorLineKind::Unknown, .. })
            if verb == Verb::MetaArithmetic =>
        {
            Outcome::Value(no_meta(py))
        }
        Reply::Error(ErrorLine { kind, line }) => refused(kind, line.escape_ascii().to_string()),
        // `stats reset` and `stats detail on`: 1.3 raises although the server executed them.
        Reply::Reset => refused(ErrorLineKind::Refused, "RESET".into()),
        Reply::Ok => refused(ErrorLineKind::Refused, "OK".into()),
        Reply::End | Reply::Stored | Reply::Deleted | Reply::Touched => Outcome::Value(py.None()),
    }
}
