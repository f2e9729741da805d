//! Replaces `turn` where asyncio cannot watch descriptors: no loop drives the core, so all of them
//! use the thread.
use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::Waker;

use crate::pool::LocalFuture;

/// Never created.
pub enum TurnRuntime {}

pub type Inbox = Rc<RefCell<Vec<LocalFuture>>>;
pub type Postponed = Rc<RefCell<Vec<Waker>>>;

impl TurnRuntime {
    pub fn new(_: Inbox, _: Postponed) -> io::Result<Self> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "asyncio cannot watch descriptors on this system",
        ))
    }

    pub fn fd(&self) -> i32 {
        match *self {}
    }

    pub fn wants_turn(&self) -> bool {
        match *self {}
    }

    pub fn turn(&self) {
        match *self {}
    }

    pub fn run_woken(&self) {
        match *self {}
    }

    pub fn shut_down(&self) {
        match *self {}
    }
}
