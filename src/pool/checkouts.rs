//! The checkouts of a pool: those that wait for a connection, and those that lost theirs.
use std::collections::VecDeque;

use super::error::Cause;
use super::waiter::{CheckoutId, Waiter};
use crate::protocol::{NEVER, Nanos};

/// Waiting checkouts are served first come, first served.
pub(super) struct Checkouts<W> {
    waiting: VecDeque<(CheckoutId, W, Nanos)>,
    /// Checked-out connections that ended before their holders noticed.
    lost: Vec<(CheckoutId, Cause)>,
    /// The length at which abandoned checkouts are removed.
    sweep_at: usize,
}

const MIN_SWEEP: usize = 64;

impl<W: Waiter> Checkouts<W> {
    pub fn new() -> Self {
        Self { waiting: VecDeque::new(), lost: Vec::new(), sweep_at: MIN_SWEEP }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn push(&mut self, checkout: CheckoutId, waiter: W, deadline: Nanos) {
        self.waiting.push_back((checkout, waiter, deadline));
        if self.waiting.len() >= self.sweep_at {
            for (checkout, waiter, deadline) in std::mem::take(&mut self.waiting) {
                if waiter.is_abandoned() {
                    waiter.dismiss();
                } else {
                    self.waiting.push_back((checkout, waiter, deadline));
                }
            }
            self.sweep_at = MIN_SWEEP.max(2 * self.waiting.len());
        }
    }

    /// The number of checkouts whose callers still wait.
    pub fn wanted(&self) -> usize {
        self.waiting.iter().filter(|(_, waiter, _)| !waiter.is_abandoned()).count()
    }

    /// Removes abandoned checkouts from the front.
    pub fn skip_abandoned(&mut self) {
        while self.waiting.front().is_some_and(|(_, waiter, _)| waiter.is_abandoned()) {
            if let Some((_, waiter, _)) = self.waiting.pop_front() {
                waiter.dismiss();
            }
        }
    }

    pub fn pop(&mut self) -> Option<(CheckoutId, W)> {
        self.waiting.pop_front().map(|(checkout, waiter, _)| (checkout, waiter))
    }

    /// See [`super::queue::Queue::expire`].
    pub fn expire(&mut self, now: Nanos, mut expired: impl FnMut(W)) -> Nanos {
        if self.waiting.iter().any(|(_, _, deadline)| *deadline <= now) {
            for (checkout, waiter, deadline) in std::mem::take(&mut self.waiting) {
                if deadline <= now {
                    expired(waiter);
                } else {
                    self.waiting.push_back((checkout, waiter, deadline));
                }
            }
        }
        self.waiting.iter().map(|(_, _, deadline)| *deadline).min().unwrap_or(NEVER)
    }

    /// Records why a checked-out connection ended.
    pub fn record_loss(&mut self, checkout: CheckoutId, cause: Cause) {
        self.lost.push((checkout, cause));
    }

    /// Why the checked-out connection ended, if that is known.
    pub fn loss(&self, checkout: CheckoutId) -> Option<&Cause> {
        self.lost.iter().find(|(lost, _)| *lost == checkout).map(|(_, cause)| cause)
    }

    /// The holder has released the checkout.
    pub fn forget_loss(&mut self, checkout: CheckoutId) {
        self.lost.retain(|(lost, _)| *lost != checkout);
    }

    pub fn drain(&mut self) -> impl Iterator<Item = W> {
        self.waiting.drain(..).map(|(_, waiter, _)| waiter)
    }
}
