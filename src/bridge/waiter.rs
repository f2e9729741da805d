//! Who waits in the core for a future of Python's.
//!
//! Answers arrive while the core is borrowed: a waiter may make objects that Python's garbage
//! collector does not track (`bytes`, `Item`, `int`, `str`) and put them into a dict that it was
//! given, and nothing else; results leave through [`completion`].
use std::cell::Cell;
use std::rc::Rc;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

use super::completion::{self, Outcome};
use super::future::OpFuture;
use super::item::Item;
use crate::pool::{Error, Waiter};
use crate::protocol::{ErrorKind, ErrorLine, ItemRef, Reply, Sink, Verb};

pub enum PyWaiter {
    /// `get` and its family with one key.
    One {
        future: Py<OpFuture>,
        flags: bool,
        item: Option<Py<Item>>,
    },
    /// One line of a call with many keys.
    Line {
        gather: Rc<Gather>,
        keys: Vec<Py<PyBytes>>,
    },
    /// Any other command.
    Command {
        future: Py<OpFuture>,
        verb: Verb,
    },
    Stats {
        future: Py<OpFuture>,
        stats: Py<PyDict>,
    },
    /// A command whose caller does not wait for the answer; `held`: until it is there, all the same.
    NoReply {
        backlog: Rc<NoReplies>,
        held: Option<Py<OpFuture>>,
    },
}

/// A call with many keys: complete when all its lines are, failed when one is.
pub struct Gather {
    pub future: Py<OpFuture>,
    pub items: Py<PyDict>,
    pub flags: bool,
    pub verb: Verb,
    pub missing_lines: Cell<usize>,
    pub failed: Cell<bool>,
}

/// What is known of the commands of a client that nobody waits for.
#[derive(Default)]
pub struct NoReplies {
    pub unanswered: Cell<usize>,
    pub errors: Cell<u64>,
}

impl Gather {
    fn line_done(&self, py: Python<'_>) {
        self.missing_lines.set(self.missing_lines.get() - 1);
        let outcome = if self.missing_lines.get() == 0 && !self.failed.get() {
            Outcome::Value(self.items.clone_ref(py).into_any())
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
    }
}

impl Sink for PyWaiter {
    fn item(&mut self, index: usize, item: &ItemRef<'_>) {
        Python::attach(|py| match self {
            Self::One { flags, item: place, .. } => {
                *place = Item::from_reply(py, item, *flags).ok();
            }
            Self::Line { gather, keys } => {
                if let (Some(key), Ok(item)) =
                    (keys.get(index), Item::from_reply(py, item, gather.flags))
                {
                    // Fails only if memory does; the key is then missing as if it had been a miss.
                    let _ = gather.items.bind(py).set_item(key, item);
                }
            }
            _ => {}
        });
    }

    fn stat(&mut self, name: &[u8], value: &[u8]) {
        let Self::Stats { stats, .. } = self else { return };
        Python::attach(|py| {
            let text = |bytes| PyString::new(py, &String::from_utf8_lossy(bytes));
            let _ = stats.bind(py).set_item(text(name), text(value));
        });
    }

    fn restart(&mut self) {
        Python::attach(|py| match self {
            Self::One { item, .. } => *item = None,
            Self::Line { gather, keys } => {
                let items = gather.items.bind(py);
                for key in keys {
                    if items.contains(&*key).unwrap_or(false) {
                        let _ = items.del_item(&*key);
                    }
                }
            }
            Self::Stats { stats, .. } => stats.bind(py).clear(),
            Self::Command { .. } | Self::NoReply { .. } => {}
        });
    }

    fn reply(self, reply: &Reply<'_>) {
        Python::attach(|py| match self {
            Self::One { future, item, .. } => {
                let outcome = match reply {
                    Reply::End => Outcome::Value(item.map_or_else(|| py.None(), Py::into_any)),
                    other => outcome_of(py, Verb::Get, other),
                };
                completion::complete(future, outcome);
            }
            Self::Line { gather, .. } => match reply {
                Reply::End => gather.line_done(py),
                other => gather.line_failed(py, outcome_of(py, gather.verb, other)),
            },
            Self::Command { future, verb } => {
                completion::complete(future, outcome_of(py, verb, reply));
            }
            Self::Stats { future, stats } => {
                let outcome = match reply {
                    Reply::End => Outcome::Value(stats.into_any()),
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
