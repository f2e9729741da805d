//! Tells large requests from small ones, so that they do not delay each other.
use std::hash::{DefaultHasher, Hash, Hasher};

use super::submission::Submission;
use crate::protocol::LARGE_VALUE_LEN;

/// After this many large requests in a row, large requests may use the first connection too.
const RECENT_LARGE: u8 = 64;

/// The sizes of recent requests.
#[derive(Default)]
pub(super) struct LargeTraffic {
    keys: LargeKeys,
    /// Above 0 if one of the last [`RECENT_LARGE`] requests was small.
    small_recently: u8,
}

impl LargeTraffic {
    /// Whether a request sends a large value, or probably receives one.
    #[inline]
    pub fn is_large(&self, outgoing: &Submission<'_>) -> bool {
        if outgoing.is_retrieval() {
            return self.keys.has_any() && outgoing.asks_for(|key| self.keys.contains(key));
        }
        outgoing.payload_len() >= LARGE_VALUE_LEN
    }

    /// Remembers a key whose value was large.
    pub fn remember(&mut self, key: &[u8]) {
        self.keys.insert(key);
    }

    #[inline]
    pub fn note_small(&mut self) {
        self.small_recently = RECENT_LARGE;
    }

    #[inline]
    pub fn note_large(&mut self) {
        self.small_recently = self.small_recently.saturating_sub(1);
    }

    /// Whether small requests need the first connection for themselves.
    pub fn has_small(&self) -> bool {
        self.small_recently > 0
    }
}

const BUCKETS: usize = 1024;

/// A hash table without chains. A new key replaces an older one in its bucket, and a collision may
/// confuse two keys. Both only affect the choice of a connection.
#[derive(Default)]
struct LargeKeys(Option<Box<[u64; BUCKETS]>>);

impl LargeKeys {
    fn insert(&mut self, key: &[u8]) {
        let hash = hash(key);
        self.0.get_or_insert_with(|| Box::new([0; BUCKETS]))[bucket(hash)] = hash;
    }

    #[inline]
    fn has_any(&self) -> bool {
        self.0.is_some()
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|table| {
            let hash = hash(key);
            table[bucket(hash)] == hash
        })
    }
}

/// Never 0, which marks an empty bucket.
pub(super) fn hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish() | 1 << 63
}

#[allow(clippy::cast_possible_truncation, reason = "the low bits are what is wanted")]
fn bucket(hash: u64) -> usize {
    hash as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_last_of_each_place() {
        let mut large = LargeKeys::default();
        assert!(!large.contains(b"a"));
        large.insert(b"a");
        assert!(large.contains(b"a") && !large.contains(b"b"));
        for n in 0..100_000u32 {
            large.insert(&n.to_le_bytes());
        }
        assert!(large.contains(&99_999u32.to_le_bytes()) && !large.contains(b"a"));
    }

    #[test]
    fn small_requests_are_forgotten_after_many_large_ones() {
        let mut large = LargeTraffic::default();
        assert!(!large.has_small());
        large.note_small();
        (1..RECENT_LARGE).for_each(|_| large.note_large());
        assert!(large.has_small());
        large.note_large();
        assert!(!large.has_small());
    }
}
