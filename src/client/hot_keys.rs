//! The keys that are requested most often, found with the space-saving algorithm (Metwally, Agrawal,
//! El Abbadi, 2005) in bounded memory.
//!
//! A key without a counter takes over the smallest one. A counter is therefore too high by at most
//! its `error`, and `count - error` is a lower bound. Counters are halved every [`PERIOD`], so old
//! requests are forgotten.
use std::collections::HashMap;

use bytes::Bytes;

use crate::protocol::Nanos;

const PERIOD: Nanos = 10_000_000_000;
/// The requests of a period that are all counted. Of later ones, one in [`INTERVAL`] is.
const COUNTED_ALL: u32 = 4096;
const INTERVAL: u32 = 16;
const MIN_COUNTERS: usize = 256;
const COUNTERS_PER_KEY: usize = 16;

/// A key with the lower bounds of its share and rate.
#[derive(Clone, Debug, PartialEq)]
pub struct HotKey {
    pub key: Bytes,
    /// The part of all requests, 0 to 1.
    pub share: f64,
    /// Requests per second.
    pub rate: f64,
}

struct Counter {
    key: Bytes,
    count: f64,
    error: f64,
}

pub struct HotKeys {
    limit: usize,
    capacity: usize,
    counters: Vec<Counter>,
    positions: HashMap<Bytes, usize>,
    total: f64,
    /// The seconds of earlier periods that the counts still stand for.
    seconds: f64,
    period_start: Nanos,
    /// The requests of this period, up to [`COUNTED_ALL`].
    seen: u32,
    /// How many requests are not counted until the next one is.
    skip: u32,
    random: fastrand::Rng,
}

impl HotKeys {
    /// `limit` is the number of keys that are reported.
    pub fn new(limit: usize, now: Nanos) -> Self {
        let capacity = MIN_COUNTERS.max(COUNTERS_PER_KEY * limit);
        Self {
            limit,
            capacity,
            counters: Vec::with_capacity(capacity),
            positions: HashMap::with_capacity(capacity),
            total: 0.0,
            seconds: 0.0,
            period_start: now,
            seen: 0,
            skip: 0,
            random: fastrand::Rng::new(),
        }
    }

    /// Counts a request, or skips it.
    pub fn note(&mut self, key: &[u8], now: impl FnOnce() -> Nanos) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.advance(now());
        if self.seen < COUNTED_ALL {
            self.seen += 1;
            self.count(key, 1.0);
        } else {
            // Not every 16th request, because programs repeat themselves.
            self.skip = self.random.u32(0..2 * INTERVAL - 1);
            self.count(key, f64::from(INTERVAL));
        }
    }

    fn count(&mut self, key: &[u8], weight: f64) {
        self.total += weight;
        if let Some(&at) = self.positions.get(key) {
            self.counters[at].count += weight;
            return;
        }
        let key = Bytes::copy_from_slice(key);
        let at = if self.counters.len() < self.capacity {
            self.counters.push(Counter { key: key.clone(), count: weight, error: 0.0 });
            self.counters.len() - 1
        } else {
            let at = self.smallest();
            let counter = &mut self.counters[at];
            self.positions.remove(&counter.key);
            let error = counter.count;
            *counter = Counter { key: key.clone(), count: error + weight, error };
            at
        };
        self.positions.insert(key, at);
    }

    fn smallest(&self) -> usize {
        let counts = self.counters.iter().map(|counter| counter.count).enumerate();
        counts.min_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(0, |(at, _)| at)
    }

    /// Halves the counters for each period that has ended.
    fn advance(&mut self, now: Nanos) {
        let periods = now.saturating_sub(self.period_start) / PERIOD;
        if periods == 0 {
            return;
        }
        self.period_start += periods * PERIOD;
        (self.seen, self.skip) = (0, 0);
        // After so many periods nothing is left.
        for _ in 0..periods.min(64) {
            self.seconds = f64::midpoint(self.seconds, seconds(PERIOD));
            self.total /= 2.0;
            for counter in &mut self.counters {
                counter.count /= 2.0;
                counter.error /= 2.0;
            }
        }
    }

    /// The hottest keys, the first one first.
    pub fn hottest(&mut self, now: Nanos) -> Vec<HotKey> {
        self.advance(now);
        let span = self.seconds + seconds(now.saturating_sub(self.period_start));
        let bound = |counter: &Counter| counter.count - counter.error;
        // Less than one request is a key of the past.
        let mut counters: Vec<_> = self.counters.iter().filter(|each| bound(each) >= 1.0).collect();
        counters.sort_by(|a, b| bound(b).total_cmp(&bound(a)));
        let hot_key = |counter: &Counter| HotKey {
            key: counter.key.clone(),
            share: bound(counter) / self.total,
            rate: if span > 0.0 { bound(counter) / span } else { 0.0 },
        };
        counters.into_iter().take(self.limit).map(hot_key).collect()
    }
}

#[allow(clippy::cast_precision_loss, reason = "an estimate")]
fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn name(key: &HotKey) -> &[u8] {
        &key.key
    }

    fn is_near(value: f64, expected: f64, tolerance: f64) {
        assert!((value - expected).abs() <= tolerance * expected, "{value} is not near {expected}");
    }

    #[test]
    fn few_requests_are_counted_exactly() {
        let mut hot = HotKeys::new(2, 0);
        for key in [b"a", b"b", b"a", b"c", b"a", b"b"] {
            hot.note(key, || SECOND);
        }
        let found = hot.hottest(2 * SECOND);
        assert_eq!(found.iter().map(name).collect::<Vec<_>>(), [b"a", b"b"]);
        is_near(found[0].share, 0.5, 1e-9);
        is_near(found[0].rate, 1.5, 1e-9);
        is_near(found[1].rate, 1.0, 1e-9);
    }

    /// 300,000 keys, of which three get 10 %, 5 % and 2 % of a million requests in 20 seconds.
    #[test]
    fn hot_keys_among_many_are_found_in_bounded_memory() {
        let mut hot = HotKeys::new(3, 0);
        let mut random = fastrand::Rng::with_seed(7);
        for number in 0..1_000_000_u64 {
            let key = match random.u32(0..100) {
                0..10 => "hot:10".to_owned(),
                10..15 => "hot:5".to_owned(),
                15..17 => "hot:2".to_owned(),
                _ => format!("cold:{}", random.u32(0..300_000)),
            };
            hot.note(key.as_bytes(), || number * 20_000);
        }
        let found = hot.hottest(20 * SECOND);
        assert_eq!(
            found.iter().map(name).collect::<Vec<_>>(),
            [&b"hot:10"[..], b"hot:5", b"hot:2"]
        );
        is_near(found[0].share, 0.10, 0.1);
        is_near(found[1].share, 0.05, 0.15);
        is_near(found[2].share, 0.02, 0.3);
        is_near(found[0].rate, 5_000.0, 0.1);
        assert_eq!((hot.counters.len(), hot.positions.len()), (256, 256));
        assert!(hot.positions.iter().all(|(key, &at)| hot.counters[at].key == key));
    }

    #[test]
    fn keys_of_the_past_are_forgotten() {
        let mut hot = HotKeys::new(3, 0);
        for _ in 0..1000 {
            hot.note(b"old", || SECOND);
        }
        for number in 0..100 {
            hot.note(b"new", || 41 * SECOND + number);
        }
        let found = hot.hottest(42 * SECOND);
        assert_eq!(found.iter().map(name).collect::<Vec<_>>(), [b"new", b"old"]);
        assert_eq!(hot.hottest(4000 * SECOND), []);
        hot.note(b"late", || 4000 * SECOND);
        assert_eq!(hot.hottest(4000 * SECOND).len(), 1);
    }

    #[test]
    fn rates_are_those_of_the_last_periods() {
        let mut hot = HotKeys::new(1, 0);
        // 50 a second for a minute.
        for number in 0..3000 {
            hot.note(b"key", || number * SECOND / 50);
        }
        is_near(hot.hottest(60 * SECOND)[0].rate, 50.0, 0.02);
        is_near(hot.hottest(60 * SECOND)[0].share, 1.0, 1e-9);
    }
}
