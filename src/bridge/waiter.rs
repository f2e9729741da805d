//! Who waits in the core for a future of Python's.
//!
//! Answers arrive while the core is borrowed, and then no code of Python's may run. So a waiter makes only
//! objects that start no garbage collection (`bytes`, `str`, `int`); what is made of them (`Item`, `dict`,
//! exceptions) is made by [`completion`], where the results leave.
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use super::completion::{self, Outcome};
use super::future::OpFuture;
use super::item::RawItem;
use crate::pool::{Error, Waiter};
use crate::protocol::{ErrorKind, ErrorLine, ItemRef, Reply, Sink, Verb};

pub enum PyWaiter {
    /// `get` and its family with one key.
    One {
        future: Py<OpFuture>,
        flags: bool,
        item: Option<RawItem>,
    },
    /// One line of a call with many keys.
    Line {
        gather: Rc<Gather>,
        line: Line,
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
    /// A command whose caller does not wait for the answer; `held`: until it is there, all the same.
    NoReply {
        backlog: Rc<NoReplies>,
        held: Option<Py<OpFuture>>,
    },
}

/// The keys that were asked for in one line, and what came.
pub struct Line {
    pub keys: Vec<Py<PyBytes>>,
    pub items: Vec<(usize, RawItem)>,
}

pub type Stats = Vec<(Py<PyString>, Py<PyString>)>;

/// A call with many keys: complete when all its lines are, failed when one is.
pub struct Gather {
    pub future: Py<OpFuture>,
    pub flags: bool,
    pub verb: Verb,
    pub lines: RefCell<Vec<Line>>,
    pub missing_lines: Cell<usize>,
    pub failed: Cell<bool>,
}

/// What is known of the commands of a client that nobody waits for.
#[derive(Default)]
pub struct NoReplies {
    pub unanswered: Cell<usize>,
    /// Who waits until none is unanswered.
    pub drained: RefCell<Vec<Py<OpFuture>>>,
    pub errors: Cell<u64>,
}

impl Gather {
    fn line_done(&self, py: Python<'_>, line: Line) {
        self.lines.borrow_mut().push(line);
        self.missing_lines.set(self.missing_lines.get() - 1);
        let outcome = if self.missing_lines.get() == 0 && !self.failed.get() {
            Outcome::Items { lines: self.lines.take(), flags: self.flags }
        } else {
            Outcome::Nobody
        };
        completion::complete(self.future.clone_ref(py), outcome);
    }

    fn line_failed(&self, py: Python<'_>, outcome: Outcome) {
        let outcome = if self.failed.replace(true) { Outcome::Nobody } else { outcome };
        completion::complete(self.future.clone_ref(py), outcome);
    }
}

impl NoReplies {
    fn answered(&self, py: Python<'_>, error: bool, held: Option<Py<OpFuture>>) {
        self.unanswered.set(self.unanswered.get() - 1);
        self.errors.set(self.errors.get() + u64::from(error));
        if let Some(future) = held {
            completion::complete(future, Outcome::Value(py.None()));
        }
        if self.unanswered.get() == 0 {
            for future in self.drained.take() {
                completion::complete(future, Outcome::Value(py.None()));
            }
        }
    }
}

impl Sink for PyWaiter {
    fn item(&mut self, index: usize, item: &ItemRef<'_>) {
        Python::attach(|py| match self {
            Self::One { item: place, .. } => *place = Some(RawItem::new(py, item)),
            Self::Line { line, .. } => line.items.push((index, RawItem::new(py, item))),
            _ => {}
        });
    }

    fn stat(&mut self, name: &[u8], value: &[u8]) {
        let Self::Stats { stats, .. } = self else { return };
        Python::attach(|py| {
            let text = |bytes| PyString::new(py, &String::from_utf8_lossy(bytes)).unbind();
            stats.push((text(name), text(value)));
        });
    }

    fn restart(&mut self) {
        match self {
            Self::One { item, .. } => *item = None,
            Self::Line { line, .. } => line.items.clear(),
            Self::Stats { stats, .. } => stats.clear(),
            Self::Command { .. } | Self::NoReply { .. } => {}
        }
    }

    fn reply(self, reply: &Reply<'_>) {
        Python::attach(|py| match self {
            Self::One { future, flags, item } => {
                let outcome = match (reply, item) {
                    (Reply::End, Some(item)) => Outcome::Item { item, flags },
                    (Reply::End, None) => Outcome::Value(py.None()),
                    (other, _) => outcome_of(py, Verb::Get, other),
                };
                completion::complete(future, outcome);
            }
            Self::Line { gather, line } => match reply {
                Reply::End => gather.line_done(py, line),
                other => gather.line_failed(py, outcome_of(py, gather.verb, other)),
            },
            Self::Command { future, verb } => {
                completion::complete(future, outcome_of(py, verb, reply));
            }
            Self::Stats { future, stats } => {
                let outcome = match reply {
                    Reply::End => Outcome::Stats(stats),
                    other => outcome_of(py, Verb::Stats, other),
                };
                completion::complete(future, outcome);
            }
            Self::NoReply { backlog, held } => {
                backlog.answered(py, matches!(reply, Reply::Error(_)), held);
            }
        });
    }

    fn is_abandoned(&self) -> bool {
        let future = match self {
            Self::One { future, .. }
            | Self::Command { future, .. }
            | Self::Stats { future, .. } => future,
            Self::Line { gather, .. } => &gather.future,
            Self::NoReply { .. } => return false,
        };
        Python::attach(|py| !future.bind(py).try_borrow().is_ok_and(|future| future.is_pending()))
    }
}

impl Waiter for PyWaiter {
    fn fail(self, error: &Error) {
        let outcome = Outcome::Failed(error.clone());
        match self {
            Self::One { future, .. }
            | Self::Command { future, .. }
            | Self::Stats { future, .. } => {
                completion::complete(future, outcome);
            }
            Self::Line { gather, .. } => Python::attach(|py| gather.line_failed(py, outcome)),
            Self::NoReply { backlog, held } => {
                Python::attach(|py| backlog.answered(py, true, held));
            }
        }
    }
}

fn outcome_of(py: Python<'_>, verb: Verb, reply: &Reply<'_>) -> Outcome {
    match *reply {
        Reply::Ok if verb != Verb::Stats => Outcome::Value(py.None()),
        Reply::NotStored | Reply::Exists => Outcome::NotStored,
        Reply::NotFound => Outcome::NotFound { verb },
        Reply::Number(number) => match number.into_pyobject(py) {
            Ok(number) => Outcome::Value(number.into_any().unbind()),
            Err(never) => match never {},
        },
        Reply::Version(text) => {
            let text = PyString::new(py, &String::from_utf8_lossy(text));
            Outcome::Value(text.into_any().unbind())
        }
        Reply::Error(ErrorLine { kind, line }) => {
            Outcome::Refused { verb, kind, line: line.escape_ascii().to_string() }
        }
        // `stats reset` and `stats detail on`: 1.3 raises although the server did what it was asked.
        Reply::Reset => Outcome::Refused { verb, kind: ErrorKind::Refused, line: "RESET".into() },
        Reply::Ok => Outcome::Refused { verb, kind: ErrorKind::Refused, line: "OK".into() },
        Reply::End | Reply::Stored | Reply::Deleted | Reply::Touched => Outcome::Value(py.None()),
    }
}
