//! The keys of the retrievals in flight, in wire order, in one reused buffer.
//!
//! Positions count bytes since the start, so they stay valid when the front is released: `released
//! <= any position in use <= end()`.

#[derive(Debug, Default)]
pub(super) struct KeyFifo {
    bytes: Vec<u8>,
    /// The number of bytes before `bytes[0]` that were released.
    released: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub key: &'a [u8],
    /// The key is not on the wire: it occurs earlier in the same line, and one reply serves both
    /// requests.
    pub alias: bool,
    /// The position of the next entry.
    pub next: u64,
}

/// The front is released in large pieces only, because each release moves the rest.
const RELEASE_AT: usize = 64 * 1024;

impl KeyFifo {
    pub fn push(&mut self, key: &[u8], alias: bool) {
        // A key has at most 250 bytes.
        let len = u8::try_from(key.len()).unwrap_or(u8::MAX);
        self.bytes.extend_from_slice(&[len, u8::from(alias)]);
        self.bytes.extend_from_slice(key);
    }

    pub fn end(&self) -> u64 {
        self.released + self.bytes.len() as u64
    }

    /// The entry at `position`, which must be below `end()`.
    #[allow(clippy::cast_possible_truncation, reason = "bounded by bytes.len()")]
    pub fn at(&self, position: u64) -> Entry<'_> {
        let at = (position - self.released) as usize;
        let len = usize::from(self.bytes[at]);
        let key = &self.bytes[at + 2..at + 2 + len];
        Entry { key, alias: self.bytes[at + 1] != 0, next: position + 2 + len as u64 }
    }

    #[allow(clippy::cast_possible_truncation, reason = "bounded by bytes.len()")]
    pub fn release_to(&mut self, position: u64) {
        let front = (position - self.released) as usize;
        if front == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(RELEASE_AT);
        } else if front >= RELEASE_AT {
            self.bytes.drain(..front);
        } else {
            return;
        }
        self.released = position;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_a_release() {
        let mut keys = KeyFifo::default();
        let mut positions = Vec::new();
        for i in 0..20_000 {
            positions.push(keys.end());
            keys.push(format!("key-{i}").as_bytes(), i % 2 == 0);
        }
        keys.release_to(positions[15_000]);
        assert!(keys.bytes.len() < 100_000);
        let entry = keys.at(positions[19_000]);
        assert_eq!(entry, Entry { key: b"key-19000", alias: true, next: positions[19_001] });
        keys.release_to(keys.end());
        let start = keys.end();
        keys.push(b"again", false);
        assert_eq!(keys.at(start).key, b"again");
    }
}
