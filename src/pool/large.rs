//! Remembers keys with large values, so that requests for them do not delay small ones.
use std::hash::{DefaultHasher, Hash, Hasher};

const BUCKETS: usize = 1024;

/// A hash table without chains. A new key replaces an older one in its bucket, and a collision may
/// confuse two keys. Both only affect the choice of a connection.
#[derive(Default)]
pub(super) struct LargeKeys(Option<Box<[u64; BUCKETS]>>);

impl LargeKeys {
    pub fn insert(&mut self, key: &[u8]) {
        let hash = hash(key);
        self.0.get_or_insert_with(|| Box::new([0; BUCKETS]))[bucket(hash)] = hash;
    }

    pub fn contains(&self, key: &[u8]) -> bool {
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
}
