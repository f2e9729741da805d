//! New connections of a pool: when to dial, and what a new connection changes.
use std::rc::Rc;

use super::connection::Connection;
use super::dial::{Connected, dial};
use super::health::Change;
use super::shared::Shared;
use super::state::Entry;
use super::tasks::{drive, purge_unused};
use super::waiter::Waiter;
use crate::protocol::NEVER;

impl<W: Waiter> Shared<W> {
    pub fn dial_if_wanted(self: &Rc<Self>) {
        if self.state.borrow().wants_dial(&self.config, NEVER) {
            self.dial();
        }
    }

    pub fn dial(self: &Rc<Self>) {
        self.state.borrow_mut().dialling = true;
        self.context.spawn(dial(Rc::downgrade(self)));
    }

    pub fn connected(self: &Rc<Self>, connected: Connected) {
        let Connected { stream, peer, took, is_verified } = connected;
        let mut state = self.state.borrow_mut();
        if !state.lifecycle.is_open() {
            return;
        }
        // The connection may reach another server.
        if state.connections.iter().all(|entry| entry.peer != peer) {
            self.line_len.forget();
        }
        let id = state.next_id;
        state.next_id += 1;
        let max_merged_keys = self.max_merged_keys(&state);
        let name = self.name.clone();
        let connection = Connection::new(stream, self.dialect(), max_merged_keys, name);
        let now = self.context.now();
        let entry = Entry::new(id, connection, peer, now, is_verified);
        state.connections.push(entry);
        state.needs_large_connection = false;
        state.needs_relief = false;
        let is_reconnect = state.unreplaced > 0;
        state.counters.connected(is_reconnect);
        state.unreplaced = state.unreplaced.saturating_sub(1);
        state.latencies.record(took);
        let login_recovered = state.health.login_accepted();
        let recovered = is_verified && state.health.verified(now);
        if state.any_silent {
            self.check_silent(&mut state, None);
        } else {
            self.move_held_up_reads(&mut state);
        }
        self.grant(&mut state);
        self.drain_queue(&mut state);
        let purge = self
            .config
            .purge_unused_after
            .filter(|_| state.connections.len() > self.config.min_connections && !state.purging);
        state.purging |= purge.is_some();
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
