//! Records which commands a node supports.
//!
//! Every server and proxy supports the classic commands. A proxy closes the connection when it
//! receives an unknown command, and all requests in flight on it fail. So a command that a proxy
//! may not know is sent on a connection of its own ([`super::isolated`]) until the node has
//! answered it once.
use std::time::Duration;

use super::error::Cause;
use super::health::nanos;
use crate::protocol::meta::{Lack, META_SINCE, MetaVerb, Version};
use crate::protocol::{Family, GenericCommand, Nanos, OwnedRequest};

/// How long an unsupported command is not tried again. A proxy may be replaced.
pub(super) const UNSUPPORTED_FOR: Duration = Duration::from_secs(60);
/// How long a command is not tried again if a test had no result.
pub(super) const UNDECIDED_FOR: Duration = Duration::from_secs(5);

/// Whether callers can use classic commands instead.
pub(super) fn has_substitute(request: &OwnedRequest) -> bool {
    match request {
        OwnedRequest::Command(GenericCommand::Counter { .. }) => true,
        other => other.verb().family() == Family::GetAndTouch,
    }
}

/// Whether the support of a family is found out, and remembered if there is none.
pub(super) fn is_optional(family: Family) -> bool {
    matches!(family, Family::GetAndTouch | Family::Meta)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Support {
    Unknown,
    Supported,
    Unsupported {
        until: Nanos,
    },
    /// A test had no result.
    Undecided {
        until: Nanos,
    },
}

pub(super) struct Capabilities {
    support: [Support; Family::COUNT],
    /// The node's version, while meta commands are supported.
    meta_version: Option<Version>,
    /// The number of meta commands that were answered when the version was learnt.
    meta_answers: u64,
    /// Changes when another server may answer from now on.
    server_epoch: u64,
    /// Whether the node speaks the binary protocol. No proxy does, and servers answer unknown
    /// commands.
    is_certain: bool,
}

impl Capabilities {
    pub fn new(is_certain: bool) -> Self {
        let support = [Support::Unknown; Family::COUNT];
        let mut new =
            Self { support, meta_version: None, meta_answers: 0, server_epoch: 0, is_certain };
        new.reset();
        new
    }

    /// Whether a command may be sent on shared connections.
    #[inline]
    pub fn may_share(&self, family: Family) -> bool {
        family == Family::Classic
            || self.is_certain
            || self.support[family as usize] == Support::Supported
    }

    pub fn is_unsupported(&self, family: Family, now: Nanos) -> bool {
        match self.support[family as usize] {
            Support::Unsupported { until } | Support::Undecided { until } => now < until,
            Support::Unknown | Support::Supported => false,
        }
    }

    /// Whether the last test of the family had no result.
    pub fn is_undecided(&self, family: Family) -> bool {
        matches!(self.support[family as usize], Support::Undecided { .. })
    }

    /// The feature that the node lacks for a meta command; `None` is `mn`. The family must be supported.
    pub fn meta_lack(&self, command: Option<(MetaVerb, &str)>) -> Option<Lack> {
        if self.is_certain {
            return Some(Lack::BINARY);
        }
        let version = self.meta_version?;
        match command {
            Some((verb, flags)) => Lack::of(verb, flags, version),
            None => (version < META_SINCE).then_some(Lack::ALL),
        }
    }

    pub fn meta_version(&self) -> Option<Version> {
        self.meta_version
    }

    pub fn server_epoch(&self) -> u64 {
        self.server_epoch
    }

    /// The node knows meta commands. `answers` is the number that it has answered so far.
    pub fn learn_meta(&mut self, version: Version, answers: u64) {
        self.support[Family::Meta as usize] = Support::Supported;
        (self.meta_version, self.meta_answers) = (Some(version), answers);
    }

    pub fn mark_supported(&mut self, family: Family) {
        self.support[family as usize] = Support::Supported;
    }

    pub fn mark_unsupported(&mut self, family: Family, now: Nanos, duration: Duration) {
        self.support[family as usize] =
            Support::Unsupported { until: now.saturating_add(nanos(duration)) };
    }

    pub fn mark_undecided(&mut self, family: Family, now: Nanos) {
        self.support[family as usize] =
            Support::Undecided { until: now.saturating_add(nanos(UNDECIDED_FOR)) };
    }

    /// A connection was closed while a command of this family was unanswered, or the command was
    /// answered by `ERROR`. `answers` is the number of meta commands that were answered so far.
    pub fn doubt(&mut self, family: Family, now: Nanos, answers: u64) {
        let is_meta = family == Family::Meta;
        if is_meta && self.support[family as usize] != Support::Supported {
            // Several connections of a server end together.
        } else if is_meta && answers == self.meta_answers {
            // The node never answered one. A lost reply cannot be requested again, and classic
            // commands work everywhere.
            self.mark_unsupported(family, now, UNSUPPORTED_FOR);
        } else if family != Family::Classic {
            self.support[family as usize] = Support::Unknown;
        }
    }

    /// A connection has ended. Another server may answer from now on, also if a connection is left:
    /// it may be dead without our knowledge.
    pub fn connection_lost(&mut self, cause: &Cause, is_last: bool) {
        if !cause.closed_by_pool() && is_last {
            self.forget_server();
        } else if !cause.closed_by_pool() || matches!(cause, Cause::NoAnswer) {
            self.server_epoch += 1;
        }
    }

    /// The last connection has ended. Another server may answer on the next one.
    pub fn forget_server(&mut self) {
        self.server_epoch += 1;
        self.meta_version = None;
        for (at, support) in self.support.iter_mut().enumerate() {
            let is_trusted = at == Family::Classic as usize || at == Family::Touch as usize;
            if *support == Support::Supported && !is_trusted {
                *support = Support::Unknown;
            }
        }
    }

    /// The node has moved to another address.
    pub fn reset(&mut self) {
        self.server_epoch += 1;
        self.support = [Support::Unknown; Family::COUNT];
        self.meta_version = None;
        self.support[Family::Classic as usize] = Support::Supported;
        // Only old proxies lack `touch`, and it is sent often, so it is trusted until a connection
        // is lost.
        self.support[Family::Touch as usize] = Support::Supported;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Verb;

    #[test]
    fn a_refusal_is_forgotten_after_a_while() {
        let mut known = Capabilities::new(false);
        known.mark_unsupported(Family::GetAndTouch, 100, UNSUPPORTED_FOR);
        assert!(known.is_unsupported(Family::GetAndTouch, 100));
        assert!(!known.is_unsupported(Family::GetAndTouch, 100 + nanos(UNSUPPORTED_FOR)));
        assert!(!known.may_share(Family::GetAndTouch));
    }

    #[test]
    fn another_server_may_answer_after_a_loss() {
        let mut known = Capabilities::new(false);
        let mut changes = |cause: &Cause, is_last| {
            let before = known.server_epoch();
            known.connection_lost(cause, is_last);
            known.server_epoch() != before
        };
        assert!(changes(&Cause::Eof, false) && changes(&Cause::Eof, true));
        assert!(changes(&Cause::NoAnswer, false));
        assert!(!changes(&Cause::StorageRefused, false) && !changes(&Cause::ClosedByHolder, false));
    }

    #[test]
    fn only_touch_is_trusted_unseen() {
        let known = Capabilities::new(false);
        let other = || Verb::all().map(Verb::family).filter(|family| *family != Family::Classic);
        let trusted = other().filter(|family| known.may_share(*family));
        assert_eq!(trusted.collect::<Vec<_>>(), [Family::Touch]);
        assert!(known.may_share(Family::Classic));
        let known = Capabilities::new(true);
        assert!(other().all(|family| known.may_share(family)));
    }

    #[test]
    fn a_new_server_is_learnt_anew() {
        let mut known = Capabilities::new(false);
        known.mark_supported(Family::Stats);
        known.mark_unsupported(Family::GetAndTouch, 0, UNSUPPORTED_FOR);
        known.doubt(Family::Touch, 0, 0);
        known.doubt(Family::Classic, 0, 0);
        known.forget_server();
        assert!(!known.may_share(Family::Stats) && !known.may_share(Family::Touch));
        let epoch = known.server_epoch();
        assert!(known.may_share(Family::Classic));
        assert!(known.is_unsupported(Family::GetAndTouch, 1));
        known.reset();
        assert_ne!(known.server_epoch(), epoch);
        assert!(!known.is_unsupported(Family::GetAndTouch, 1) && known.may_share(Family::Touch));
    }

    #[test]
    fn a_node_that_never_answered_a_meta_command_is_not_trusted() {
        let version = Version::new(1, 6, 18);
        let mut known = Capabilities::new(false);
        known.learn_meta(version, 7);
        known.doubt(Family::Meta, 5, 7);
        assert!(known.is_unsupported(Family::Meta, 6));
        // A server that restarts is asked again.
        known.learn_meta(version, 7);
        known.doubt(Family::Meta, 5, 8);
        known.doubt(Family::Meta, 5, 8);
        assert!(!known.is_unsupported(Family::Meta, 6) && !known.may_share(Family::Meta));
    }

    #[test]
    fn a_test_without_a_result_is_repeated_soon() {
        let mut known = Capabilities::new(false);
        known.mark_undecided(Family::Meta, 0);
        assert!(known.is_undecided(Family::Meta) && known.is_unsupported(Family::Meta, 1));
        assert!(!known.is_unsupported(Family::Meta, nanos(UNDECIDED_FOR)));
    }

    #[test]
    fn the_version_decides_about_flags() {
        let mut known = Capabilities::new(false);
        known.learn_meta(Version::new(1, 6, 12), 0);
        assert_eq!(known.meta_lack(Some((MetaVerb::Delete, "I T30"))), None);
        assert!(known.meta_lack(Some((MetaVerb::Delete, "C5"))).is_some());
        assert_eq!(known.meta_lack(None), None);
        known.forget_server();
        assert_eq!(known.meta_version(), None);
        let binary = Capabilities::new(true);
        assert_eq!(binary.meta_lack(None), Some(Lack::BINARY));
    }
}
