//! The known maximum length of a `get` line.
use std::cell::Cell;

use crate::protocol::Nanos;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knowledge {
    Unknown { ask_from: Nanos },
    Asking,
    Len(usize),
}

/// The known line length of the connected server.
pub(super) struct LineLen {
    pub knowledge: Cell<Knowledge>,
    /// Changes whenever another server may answer.
    pub server: Cell<u64>,
}

impl LineLen {
    pub fn new() -> Self {
        Self { knowledge: Cell::new(Knowledge::Unknown { ask_from: 0 }), server: Cell::new(0) }
    }

    /// The next connection may reach another server.
    pub fn forget(&self) {
        self.knowledge.set(Knowledge::Unknown { ask_from: 0 });
        self.server.set(self.server.get() + 1);
    }
}
