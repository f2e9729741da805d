//! The core, driven by an event loop that watches its descriptor: no thread, no lock.
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::task::Waker;

use tokio::time::Instant;

use super::turn::{Inbox, Postponed, TurnRuntime};
use crate::pool::{Context, Host, LocalFuture};

pub struct LoopCore {
    pub context: Rc<Context>,
    runtime: TurnRuntime,
    wants_flush: Rc<Cell<bool>>,
    /// Turns in a row that did not poll Tokio's drivers.
    short_cuts: Cell<u32>,
}

/// How many turns in a row may leave out Tokio's drivers.
const SHORT_CUTS: u32 = 8;

/// The services that the core requests from the loop.
struct LoopHost {
    inbox: Inbox,
    postponed: Postponed,
    wants_flush: Rc<Cell<bool>>,
}

impl Host for LoopHost {
    fn spawn(&self, task: LocalFuture) {
        self.inbox.borrow_mut().push(task);
    }

    fn wants_flush(&self) {
        self.wants_flush.set(true);
    }

    fn wake_later(&self, waker: &Waker) {
        self.postponed.borrow_mut().push(waker.clone());
    }
}

impl LoopCore {
    pub fn new() -> io::Result<Self> {
        let (inbox, postponed) = (Inbox::default(), Postponed::default());
        let wants_flush: Rc<Cell<bool>> = Rc::default();
        let host = LoopHost {
            inbox: inbox.clone(),
            postponed: postponed.clone(),
            wants_flush: wants_flush.clone(),
        };
        Ok(Self {
            runtime: TurnRuntime::new(inbox, postponed)?,
            context: Context::new(|_| Box::new(host)),
            wants_flush,
            short_cuts: Cell::new(0),
        })
    }

    /// The descriptor to watch for reading.
    pub fn fd(&self) -> i32 {
        self.runtime.fd()
    }

    /// Whether a turn is wanted although the descriptor may not be readable.
    pub fn wants_turn(&self) -> bool {
        self.runtime.wants_turn()
    }

    /// Whether bytes have been collected that [`Context::flush`] writes. Resets it.
    pub fn take_wants_flush(&self) -> bool {
        self.wants_flush.take()
    }

    /// A turn is called because a time has come.
    pub fn timer_fired(&self) {
        self.short_cuts.set(SHORT_CUTS);
    }

    /// The descriptor is readable. Most often that is the reply to the only request in flight, so
    /// it is read without asking epoll first. This is not done every time, or other ready sockets
    /// would wait forever.
    ///
    /// `is_answered`: whether an outcome has arrived.
    pub fn turn(&self, is_answered: impl Fn() -> bool) {
        let short_cuts = self.short_cuts.get();
        if short_cuts < SHORT_CUTS && !self.runtime.wants_turn() && self.context.wake_waiting() {
            self.short_cuts.set(short_cuts + 1);
            self.runtime.run_woken();
            if is_answered() {
                return;
            }
        }
        self.short_cuts.set(0);
        self.runtime.turn();
    }

    /// When a turn is due although nothing else calls for it.
    pub fn next_wakeup(&self) -> Option<Instant> {
        self.context.next_wakeup()
    }

    pub fn shut_down(&self) {
        self.runtime.shut_down();
    }
}
