//! Confirms that a node is silent: it is probed on fresh connections.
//!
//! The probes request different keys at the same time, because a proxy is not down if one of its
//! backends hangs.
use std::pin::pin;
use std::rc::{Rc, Weak};

use super::context::unless_notified;
use super::dial::{Connected, Connector};
use super::error::Cause;
use super::shared::Shared;
use super::waiter::Waiter;

/// The number of keys that are probed before a node is considered silent.
const PROBES: u32 = 2;

/// The probes of a node that seems silent.
#[derive(Default)]
pub(super) struct Silence {
    /// The number of [`confirm_silence`] tasks that have no result yet.
    pending: u32,
}

impl Silence {
    pub fn is_probed(&self) -> bool {
        self.pending > 0
    }

    pub fn start_probes(&mut self) {
        self.pending = PROBES;
    }

    /// A probe was answered, or bytes arrived elsewhere. The other probes do not matter any more.
    fn disprove(&mut self) {
        self.pending = 0;
    }

    /// Records that a probe failed. Returns whether all of them have.
    fn probe_failed(&mut self) -> bool {
        self.pending -= 1;
        self.pending == 0
    }
}

impl<W: Waiter> Shared<W> {
    /// Probes the node. [`Silence::start_probes`] was called before.
    pub fn confirm_silence(self: &Rc<Self>) {
        for number in 0..PROBES {
            self.context.spawn(confirm_silence(Rc::downgrade(self), number));
        }
    }

    /// Evaluates the probe of a node that seems silent. Returns whether nothing arrived on any
    /// connection.
    fn is_still_silent(self: &Rc<Self>, outcome: Result<Connected, Cause>) -> bool {
        let mut state = self.state();
        let now = self.context.now();
        if let Ok(new) = outcome {
            state.health.received(now);
            if state.connections.has_room(self.config.max_connections)
                && !state.growth.is_dialling()
            {
                drop(state);
                self.connected(new);
            }
            return false;
        }
        state.counters.dial_failed();
        let limit = self.config.timeout.unwrap_or_default();
        state.health.is_healthy()
            && state.health.is_silent(now, limit)
            && !state.connections.is_empty()
    }
}

/// Probes a node that seems silent on a fresh connection. `number` counts these tasks from 0.
async fn confirm_silence<W: Waiter>(pool: Weak<Shared<W>>, number: u32) {
    let Some(strong) = pool.upgrade() else { return };
    let connector = Connector::new(&strong).with_probe_offset(number);
    let (closing, ip) = (strong.closing.clone(), strong.state().location.ip());
    drop(strong);
    let dialling = pin!(connector.dial(&pool, ip, &[]));
    let Some(result) = unless_notified(&closing, dialling).await else { return };
    let Some(pool) = pool.upgrade() else { return };
    if !pool.state().silence.is_probed() {
        // Another probe was answered.
        return;
    }
    if !pool.is_still_silent(result) {
        pool.state().silence.disprove();
        return;
    }
    let mut state = pool.state();
    if state.silence.probe_failed() {
        state.health.probe_failed(PROBES);
        drop(state);
        pool.node_silent();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_probes_must_fail() {
        let mut silence = Silence::default();
        silence.start_probes();
        (1..PROBES).for_each(|_| assert!(!silence.probe_failed()));
        assert!(silence.probe_failed() && !silence.is_probed());
        silence.start_probes();
        silence.disprove();
        assert!(!silence.is_probed());
    }
}
