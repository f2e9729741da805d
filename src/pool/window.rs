//! How many requests a connection may have in flight.

/// The limit for requests in flight on one connection. It applies after a stall: memcached's own
/// proxy holds back the replies to all commands that it read at once until it has the last one, so
/// one request that hangs delays the others of its batch. The limit starts at one request and grows
/// by one with every [`Self::REPLIES`] replies. It ends when a stalled connection goes on, because
/// then the server only paused, or the proxy gives up on its backend in time; and some
/// seconds after the last stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    limit: usize,
    /// The number of replies since the limit grew.
    replies: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { limit: usize::MAX, replies: 0 }
    }
}

impl Window {
    pub const NARROW: Self = Self { limit: 1, replies: 0 };
    const REPLIES: u64 = 8;
    const WIDE: usize = 128;

    fn is_limited(self) -> bool {
        self.limit != usize::MAX
    }

    pub fn accepts(self, in_flight: usize) -> bool {
        in_flight < self.limit
    }

    /// Ends the limit if a stalled connection `goes_on`, and else raises it.
    pub fn note_replies(&mut self, goes_on: bool, replies: u64) {
        if goes_on {
            *self = Self::default();
        } else if self.is_limited() {
            self.widen(replies);
        }
    }

    fn widen(&mut self, replies: u64) {
        self.replies += replies;
        while self.replies >= Self::REPLIES && self.is_limited() {
            self.replies -= Self::REPLIES;
            self.limit = if self.limit < Self::WIDE { self.limit + 1 } else { usize::MAX };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_window_widens_with_replies_until_there_is_none() {
        let mut window = Window::default();
        assert!(!window.is_limited() && window.accepts(1_000_000));
        window = Window::NARROW;
        assert!(window.is_limited() && window.accepts(0) && !window.accepts(1));
        window.note_replies(false, Window::REPLIES - 1);
        assert!(!window.accepts(1));
        window.note_replies(false, 1);
        assert!(window.accepts(1) && !window.accepts(2));
        window.note_replies(false, Window::REPLIES * Window::WIDE as u64);
        assert!(!window.is_limited());
    }

    #[test]
    fn a_stalled_connection_that_goes_on_ends_the_limit() {
        let mut window = Window::NARROW;
        window.note_replies(true, 1);
        assert_eq!(window, Window::default());
    }
}
