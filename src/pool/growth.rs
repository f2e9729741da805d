//! New connections of a pool: when to dial, and what a new connection changes.
use std::rc::Rc;
use std::time::Duration;

use super::connection::Connection;
use super::dial::{Connected, dial};
use super::health::Change;
use super::metrics::ConnectLatencies;
use super::shared::Shared;
use super::tasks::{drive, purge_unused};
use super::waiter::Waiter;
use crate::protocol::NEVER;

/// The reasons to open another connection, and the tasks that open and purge connections.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "facts that are independent")]
pub(super) struct Growth {
    /// Whether [`dial`] runs.
    is_dialling: bool,
    /// Whether [`purge_unused`] runs.
    is_purging: bool,
    /// A large transfer found only the first connection.
    needs_large_connection: bool,
    /// Requests are held up behind a stalled one, and another connection could take them.
    needs_relief: bool,
    /// The number of lost connections that are not replaced yet.
    unreplaced: u64,
    latencies: ConnectLatencies,
}

impl Growth {
    pub fn is_dialling(&self) -> bool {
        self.is_dialling
    }

    pub fn set_dialling(&mut self, is_dialling: bool) {
        self.is_dialling = is_dialling;
    }

    /// Returns whether no task purges yet.
    fn start_purging(&mut self) -> bool {
        !std::mem::replace(&mut self.is_purging, true)
    }

    pub fn stop_purging(&mut self) {
        self.is_purging = false;
    }

    /// Whether the existing connections should be helped by another one.
    #[inline]
    pub fn needs_another(&self) -> bool {
        self.needs_large_connection || self.needs_relief
    }

    pub fn request_large_connection(&mut self) {
        self.needs_large_connection = true;
    }

    pub fn set_needs_relief(&mut self, needs_relief: bool) {
        self.needs_relief = needs_relief;
    }

    /// Records that connections ended that should be replaced.
    pub fn lost(&mut self, count: usize) {
        self.unreplaced += count as u64;
    }

    /// Records a new connection, which meets the present needs. Returns whether it replaces a lost
    /// one.
    fn connected(&mut self, took: Duration) -> bool {
        (self.needs_large_connection, self.needs_relief) = (false, false);
        self.latencies.record(took);
        let is_reconnect = self.unreplaced > 0;
        self.unreplaced = self.unreplaced.saturating_sub(1);
        is_reconnect
    }

    /// The durations of the last connects.
    pub fn latencies(&self) -> &ConnectLatencies {
        &self.latencies
    }
}

impl<W: Waiter> Shared<W> {
    pub fn dial_if_wanted(self: &Rc<Self>) {
        if self.state.borrow().wants_dial(&self.config, NEVER) {
            self.dial();
        }
    }

    pub fn dial(self: &Rc<Self>) {
        self.state.borrow_mut().growth.set_dialling(true);
        self.context.spawn(dial(Rc::downgrade(self)));
    }

    pub fn connected(self: &Rc<Self>, connected: Connected) {
        let Connected { stream, peer, took, is_verified } = connected;
        let mut state = self.state.borrow_mut();
        if !state.lifecycle.is_open() {
            return;
        }
        // The connection may reach another server.
        if state.connections.iter().all(|entry| entry.peer() != peer) {
            self.line_len.forget();
        }
        let max_merged_keys = self.max_merged_keys(&state);
        let name = self.name.clone();
        let connection = Connection::new(stream, self.dialect(), max_merged_keys, name);
        let now = self.context.now();
        let id = state.connections.add(connection, peer, now, is_verified);
        let is_reconnect = state.growth.connected(took);
        state.counters.connected(is_reconnect);
        let login_recovered = state.health.login_accepted();
        let recovered = is_verified && state.health.verified(now);
        if state.connections.any_silent() {
            self.check_silent(&mut state, None);
        } else {
            self.move_held_up_reads(&mut state);
        }
        self.grant(&mut state);
        self.drain_queue(&mut state);
        let has_surplus = state.connections.len() > self.config.min_connections;
        let purge =
            self.config.purge_unused_after.filter(|_| has_surplus && state.growth.start_purging());
        drop(state);
        self.context.spawn(drive(Rc::downgrade(self), id));
        if let Some(after) = purge {
            self.context.spawn(purge_unused(Rc::downgrade(self), after));
        }
        if login_recovered {
            self.notify_change(Change::LoginRecovered);
        }
        if recovered {
            self.notify_change(Change::Healthy);
        }
        self.start_waiting();
        self.track();
        self.dial_if_wanted();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_connection_meets_all_needs_and_replaces_one_lost_connection() {
        let mut growth = Growth::default();
        growth.request_large_connection();
        growth.set_needs_relief(true);
        growth.lost(2);
        assert!(growth.needs_another());
        assert!(growth.connected(Duration::ZERO) && !growth.needs_another());
        assert!(growth.connected(Duration::ZERO) && !growth.connected(Duration::ZERO));
    }

    #[test]
    fn one_task_purges_at_a_time() {
        let mut growth = Growth::default();
        assert!(growth.start_purging() && !growth.start_purging());
        growth.stop_purging();
        assert!(growth.start_purging());
    }
}
