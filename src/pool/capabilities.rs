//! Records which commands a node supports.
//!
//! Every server and proxy supports the classic commands. A proxy closes the connection when it
//! receives an unknown command, and all requests in flight on it fail. So a command that a proxy
//! may not know is sent on a connection of its own ([`super::isolated`]) until the node has
//! answered it once.
use std::time::Duration;

use super::health::nanos;
use crate::protocol::{Family, Nanos};

/// How long an unsupported command is not tried again. A proxy may be replaced.
pub(super) const UNSUPPORTED_FOR: Duration = Duration::from_secs(60);
/// How long a command is not tried again if a test had no result.
pub(super) const UNDECIDED_FOR: Duration = Duration::from_secs(5);

/// Whether callers can use classic commands instead.
pub(super) fn has_substitute(family: Family) -> bool {
    matches!(family, Family::GetAndTouch | Family::Meta)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Support {
    Unknown,
    Supported,
    Unsupported { until: Nanos },
}

pub(super) struct Capabilities {
    support: [Support; Family::COUNT],
    /// Whether the node speaks the binary protocol. No proxy does, and servers answer unknown
    /// commands.
    is_certain: bool,
}

impl Capabilities {
    pub fn new(is_certain: bool) -> Self {
        let mut new = Self { support: [Support::Unknown; Family::COUNT], is_certain };
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
        matches!(self.support[family as usize], Support::Unsupported { until } if now < until)
    }

    pub fn mark_supported(&mut self, family: Family) {
        self.support[family as usize] = Support::Supported;
    }

    pub fn mark_unsupported(&mut self, family: Family, now: Nanos, duration: Duration) {
        self.support[family as usize] =
            Support::Unsupported { until: now.saturating_add(nanos(duration)) };
    }

    /// A connection was closed while a command of this family was unanswered, or the command was
    /// answered by `ERROR`.
    pub fn doubt(&mut self, family: Family, now: Nanos) {
        if family == Family::Meta {
            // A lost reply cannot be requested again, and the substitute works everywhere.
            self.mark_unsupported(family, now, UNSUPPORTED_FOR);
        } else if family != Family::Classic {
            self.support[family as usize] = Support::Unknown;
        }
    }

    /// The last connection has ended. Another server may answer on the next one.
    pub fn forget_server(&mut self) {
        for (at, support) in self.support.iter_mut().enumerate() {
            let is_trusted = at == Family::Classic as usize || at == Family::Touch as usize;
            if *support == Support::Supported && !is_trusted {
                *support = Support::Unknown;
            }
        }
    }

    /// The node has moved to another address.
    pub fn reset(&mut self) {
        self.support = [Support::Unknown; Family::COUNT];
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
        known.doubt(Family::Touch, 0);
        known.doubt(Family::Classic, 0);
        known.forget_server();
        assert!(!known.may_share(Family::Stats) && !known.may_share(Family::Touch));
        assert!(known.may_share(Family::Classic));
        assert!(known.is_unsupported(Family::GetAndTouch, 1));
        known.reset();
        assert!(!known.is_unsupported(Family::GetAndTouch, 1) && known.may_share(Family::Touch));
    }

    #[test]
    fn a_connection_lost_with_meta_arithmetic_decides_for_the_substitute() {
        let mut known = Capabilities::new(false);
        known.mark_supported(Family::Meta);
        known.doubt(Family::Meta, 5);
        assert!(known.is_unsupported(Family::Meta, 6));
    }
}
