//! The precautions of a pool after a stall, or after an error in the reply to several keys.
use super::window::Window;
use crate::protocol::Nanos;

/// Invariant: while the window is limited, keys do not share lines.
#[derive(Default)]
pub(super) struct Precautions {
    /// The limit for requests in flight on one connection.
    window: Window,
    /// Until then each key has a line of its own; `None` if keys share lines.
    unmerged_until: Option<Nanos>,
}

impl Precautions {
    #[inline]
    pub fn window(&self) -> Window {
        self.window
    }

    /// Whether each key has a line of its own, so that one key cannot harm another.
    #[inline]
    pub fn is_unmerged(&self) -> bool {
        self.unmerged_until.is_some()
    }

    /// Gives each key a line of its own until this time at least. Returns whether keys shared lines
    /// before.
    pub fn stop_merging(&mut self, until: Nanos) -> bool {
        let before = self.unmerged_until;
        self.unmerged_until = Some(before.map_or(until, |before| before.max(until)));
        before.is_none()
    }

    /// Like [`Self::stop_merging`], and narrows the window.
    pub fn narrow(&mut self, until: Nanos) -> bool {
        self.window = Window::NARROW;
        self.stop_merging(until)
    }

    /// See [`Window::note_replies`].
    #[inline]
    pub fn note_replies(&mut self, goes_on: bool, replies: u64) {
        self.window.note_replies(goes_on, replies);
    }

    /// Ends all precautions if their time is over, or returns the time that remains.
    pub fn end(&mut self, now: Nanos) -> Option<Nanos> {
        let remaining = self.unmerged_until.unwrap_or_default().saturating_sub(now);
        if remaining > 0 {
            return Some(remaining);
        }
        *self = Self::default();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precautions_last_until_the_latest_time() {
        let mut precautions = Precautions::default();
        assert!(!precautions.is_unmerged() && precautions.end(0).is_none());
        assert!(precautions.stop_merging(30));
        assert!(precautions.is_unmerged() && precautions.window().accepts(1));
        assert!(!precautions.narrow(5) && !precautions.window().accepts(1));
        assert_eq!(precautions.end(10), Some(20));
        assert!(precautions.is_unmerged() && !precautions.window().accepts(1));
        assert_eq!(precautions.end(30), None);
        assert!(!precautions.is_unmerged() && precautions.window().accepts(1));
    }
}
