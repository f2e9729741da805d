//! The fast path of a request: the pool is calm, so the first connection takes the request, and no
//! further connection is needed.
//!
//! The result is that of [`super::state::State::pick`], with fewer instructions. Debug builds
//! compare the two.
use super::config::PoolConfig;
use super::connections::Entry;
use super::health::Health;
use super::shared::MAX_REQUESTS;
use super::state::State;
use super::submission::Submission;
use super::waiter::Waiter;
use crate::protocol::{Family, Timing};

impl<W: Waiter> State<W> {
    /// The connection for a request, if the node is healthy, no request waits, no connection is
    /// stalled, and the request need not follow an unanswered `noreply` write. Otherwise `None`.
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
            && first.is_free()
            && !first.is_silent()
            // So its backlog allows for more; and while keys share lines, no window is limited.
            && !first.is_held_up(timing.deadline)
            && !first.is_stalled(timing.issued_at, &self.health)
            && self.in_flight() < MAX_REQUESTS;
        debug_assert!(
            !takes_it
                || self.pick(config, false, timing) == Some(0)
                    && !self.wants_dial(config, timing.deadline),
            "the fast path must agree with the other one"
        );
        if !takes_it {
            return None;
        }
        self.large.note_small();
        Some((self.connections.first_mut()?, &mut self.health))
    }
}
