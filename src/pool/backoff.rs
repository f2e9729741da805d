//! Backoff between dials, with full jitter, so that clients that lost a node together do not
//! reconnect together.
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(60);

/// The wait after `failures` failed dials in a row: zero before the first failure, then a random
/// time below a ceiling that doubles from 50 ms to 60 s.
pub fn delay(failures: u32) -> Duration {
    ceiling(failures).mul_f64(fastrand::f64())
}

/// The longest wait between dials to a node that is down: one second at first, then a thirtieth of
/// the outage. So a short outage ends quickly, and a long one costs few dials.
pub fn probe_ceiling(down_for: Duration) -> Duration {
    (down_for / 30).clamp(Duration::from_secs(1), LAST)
}

fn ceiling(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        n => FIRST.saturating_mul(1 << (n - 1).min(16)).min(LAST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_a_minute() {
        assert_eq!(delay(0), Duration::ZERO);
        assert_eq!(ceiling(1), Duration::from_millis(50));
        assert_eq!(ceiling(2), Duration::from_millis(100));
        assert_eq!(ceiling(u32::MAX), LAST);
        assert!((0..1000).all(|_| delay(3) <= Duration::from_millis(200)));
    }

    #[test]
    fn dials_to_a_down_node_become_rarer() {
        let ceilings =
            [0, 30, 60, 300, 1800, 86_400].map(|s| probe_ceiling(Duration::from_secs(s)));
        assert_eq!(ceilings.map(|c| c.as_secs()), [1, 1, 2, 10, 60, 60]);
    }
}
