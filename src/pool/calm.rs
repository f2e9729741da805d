//! The short way of a request into a calm pool: the first connection takes it, and nothing else
//! follows from it.
//!
//! It decides what the long way decides (see [`super::state::State::pick`]), which debug builds
//! check, and takes a fraction of the instructions.
use super::config::PoolConfig;
use super::connections::Entry;
use super::health::Health;
use super::shared::MAX_REQUESTS;
use super::state::State;
use super::submission::Submission;
use super::waiter::Waiter;
use crate::protocol::{Family, Timing};

impl<W: Waiter> State<W> {
    /// The connection of a request that meets no other one: the node is healthy, nothing waits, and
    /// neither a write that it must follow nor a stall concerns it. `None` if the long way decides.
    #[inline]
    pub fn calm_connection(
        &mut self,
        config: &PoolConfig,
        outgoing: &Submission<'_>,
        is_noreply: bool,
        timing: Timing,
    ) -> Option<(&mut Entry<W>, &mut Health)> {
        let family = outgoing.verb().family();
        let is_calm = self.lifecycle.is_open()
            && !is_noreply
            && self.queue.is_empty()
            && self.order.is_empty()
            && self.checkouts.is_empty()
            && self.health.is_healthy()
            && !(self.connections.any_silent() || self.growth.needs_another())
            && self.connections.len() >= config.min_connections
            && !self.precautions.is_unmerged()
            && family != Family::Meta // Its flags depend on the node's version.
            && self.capabilities.may_share(family)
            && !self.large.is_large(outgoing);
        let first = self.connections.first()?;
        let takes_it = is_calm
            && first.takes_more(self.precautions.window())
            && !first.is_held_up(timing.deadline)
            && !first.is_stalled(timing.issued_at, &self.health)
            && self.in_flight() < MAX_REQUESTS;
        debug_assert!(
            !takes_it
                || self.pick(config, false, timing) == Some(0)
                    && !self.wants_dial(config, timing.deadline),
            "the short way must agree with the long one"
        );
        if !takes_it {
            return None;
        }
        self.large.note_small();
        Some((self.connections.first_mut()?, &mut self.health))
    }
}
