//! How many requests a connection may have in flight.

/// The limit for requests in flight on one connection. It applies after a stall only: one request
/// at a time, and one more for each [`Self::ANSWERS`] replies. So no request shares a connection
/// with one that hangs if many hang, and a server that only paused soon receives full load again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    limit: usize,
    /// The number of replies since the last step.
    answers: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { limit: usize::MAX, answers: 0 }
    }
}

impl Window {
    pub const NARROW: Self = Self { limit: 1, answers: 0 };
    const ANSWERS: u64 = 32;
    const WIDE: usize = 128;

    pub fn is_limited(self) -> bool {
        self.limit != usize::MAX
    }

    pub fn takes(self, in_flight: usize) -> bool {
        in_flight < self.limit
    }

    /// Counts replies. Returns whether the limit is gone.
    pub fn widen(&mut self, answers: u64) -> bool {
        self.answers += answers;
        while self.answers >= Self::ANSWERS && self.is_limited() {
            self.answers -= Self::ANSWERS;
            self.limit = if self.limit < Self::WIDE { self.limit + 1 } else { usize::MAX };
        }
        !self.is_limited()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_window_widens_with_answers_until_there_is_none() {
        let mut window = Window::default();
        assert!(!window.is_limited() && window.takes(1_000_000));
        window = Window::NARROW;
        assert!(window.is_limited() && window.takes(0) && !window.takes(1));
        assert!(!window.widen(Window::ANSWERS - 1) && !window.takes(1));
        assert!(!window.widen(1) && window.takes(1) && !window.takes(2));
        let mut answers = Window::ANSWERS;
        while !window.widen(1) {
            answers += 1;
            assert!(answers <= Window::ANSWERS * (Window::WIDE as u64 + 1));
        }
        assert!(window.takes(1_000_000));
    }
}
