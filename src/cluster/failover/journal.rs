//! The keys whose copies at one node may be outdated.
//!
//! A copy is *outdated* if a newer value went elsewhere: it must be deleted before the node may
//! serve it. It is *doubtful* if a write to the node failed, so that the node may have executed it
//! or not. If the node goes down soon after, its doubtful copies become outdated.
use std::collections::{HashMap, VecDeque};

use crate::protocol::Nanos;

/// How long after a failed write the failure of a node may be noticed.
const DOUBTFUL_FOR: Nanos = 60_000_000_000;

/// The spelling of a key on the wire: the same bytes in base64 name another item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    Plain,
    Base64,
}

/// The spellings of one key that are outdated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Spellings {
    plain: bool,
    base64: bool,
}

impl Spellings {
    fn get_mut(&mut self, spelling: Spelling) -> &mut bool {
        match spelling {
            Spelling::Plain => &mut self.plain,
            Spelling::Base64 => &mut self.base64,
        }
    }
}

/// A key as it is sent.
pub type OutdatedKey = (Box<[u8]>, Spelling);

/// Invariant: `outdated.len() <= limit`.
pub struct Journal {
    limit: usize,
    outdated: HashMap<Box<[u8]>, Spellings>,
    /// With the time of the failure, in order.
    doubtful: VecDeque<(Nanos, OutdatedKey)>,
    /// The time until which a doubtful key that was dropped matters.
    dropped_until: Nanos,
    has_overflowed: bool,
}

impl Journal {
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            outdated: HashMap::new(),
            doubtful: VecDeque::new(),
            dropped_until: 0,
            has_overflowed: false,
        }
    }

    /// The number of outdated keys.
    pub fn len(&self) -> usize {
        self.outdated.len()
    }

    pub fn is_empty(&self) -> bool {
        self.outdated.is_empty() && !self.has_overflowed
    }

    pub fn has_overflowed(&self) -> bool {
        self.has_overflowed
    }

    /// Whether the copy of a key may be outdated, in any spelling.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.has_overflowed || (!self.outdated.is_empty() && self.outdated.contains_key(key))
    }

    /// Records an outdated copy. Returns whether this was one too many.
    pub fn outdate(&mut self, key: &[u8], spelling: Spelling) -> bool {
        if self.has_overflowed {
            return false;
        }
        if let Some(known) = self.outdated.get_mut(key) {
            *known.get_mut(spelling) = true;
            return false;
        }
        if self.outdated.len() >= self.limit {
            self.overflow();
            return true;
        }
        let mut spellings = Spellings::default();
        *spellings.get_mut(spelling) = true;
        self.outdated.insert(key.into(), spellings);
        false
    }

    /// All copies of the node are outdated.
    pub fn overflow(&mut self) {
        self.has_overflowed = true;
        self.outdated = HashMap::new();
        self.doubtful = VecDeque::new();
    }

    /// Records that a write failed.
    pub fn doubt(&mut self, key: &[u8], spelling: Spelling, now: Nanos) {
        while self.doubtful.front().is_some_and(|(at, _)| at.saturating_add(DOUBTFUL_FOR) < now) {
            self.doubtful.pop_front();
        }
        if self.doubtful.len() >= self.limit {
            self.dropped_until = now.saturating_add(DOUBTFUL_FOR);
            self.doubtful.pop_front();
        }
        self.doubtful.push_back((now, (key.into(), spelling)));
    }

    /// Records that a flush failed.
    pub fn doubt_all(&mut self, now: Nanos) {
        self.dropped_until = now.saturating_add(DOUBTFUL_FOR);
    }

    /// The node is down: what is doubtful is outdated. Returns whether it was too much.
    pub fn outdate_doubtful(&mut self, now: Nanos) -> bool {
        if now < self.dropped_until && !self.has_overflowed {
            self.overflow();
            return true;
        }
        let doubtful = std::mem::take(&mut self.doubtful);
        let recent = doubtful.into_iter().filter(|(at, _)| at.saturating_add(DOUBTFUL_FOR) >= now);
        // All are recorded: the first that is too much clears the rest.
        recent.fold(false, |overflowed, (_, (key, spelling))| {
            self.outdate(&key, spelling) || overflowed
        })
    }

    /// Some outdated keys.
    pub fn some(&self, count: usize) -> Vec<OutdatedKey> {
        let mut some = Vec::new();
        for (key, spellings) in self.outdated.iter().take(count) {
            if spellings.plain {
                some.push((key.clone(), Spelling::Plain));
            }
            if spellings.base64 {
                some.push((key.clone(), Spelling::Base64));
            }
        }
        some
    }

    /// The node has confirmed that it has no copy.
    pub fn deleted(&mut self, (key, spelling): &OutdatedKey) {
        let Some(spellings) = self.outdated.get_mut(key) else { return };
        *spellings.get_mut(*spelling) = false;
        if *spellings == Spellings::default() {
            self.outdated.remove(key);
        }
        if self.outdated.is_empty() {
            self.outdated = HashMap::new();
        }
    }

    /// The node has confirmed that it has no copies at all.
    pub fn flushed(&mut self) {
        *self = Self::new(self.limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn each_spelling_is_deleted_on_its_own() {
        let mut journal = Journal::new(10);
        assert!(
            !journal.outdate(b"k", Spelling::Plain) && !journal.outdate(b"k", Spelling::Base64)
        );
        assert_eq!((journal.len(), journal.some(10).len()), (1, 2));
        journal.deleted(&(b"k".as_slice().into(), Spelling::Base64));
        assert!(journal.contains(b"k"));
        journal.deleted(&(b"k".as_slice().into(), Spelling::Plain));
        assert!(journal.is_empty() && !journal.contains(b"k"));
    }

    #[test]
    fn one_key_too_many_outdates_all() {
        let mut journal = Journal::new(2);
        assert!(!journal.outdate(b"a", Spelling::Plain) && !journal.outdate(b"b", Spelling::Plain));
        assert!(!journal.outdate(b"a", Spelling::Plain));
        assert!(journal.outdate(b"c", Spelling::Plain) && !journal.outdate(b"d", Spelling::Plain));
        assert!(journal.contains(b"any") && !journal.is_empty());
        journal.flushed();
        assert!(journal.is_empty());
    }

    #[test]
    fn a_recent_failure_is_outdated_once_the_node_is_down() {
        let mut journal = Journal::new(2);
        journal.doubt(b"old", Spelling::Plain, 0);
        journal.doubt(b"new", Spelling::Plain, 61 * SECOND);
        assert!(journal.is_empty());
        assert!(!journal.outdate_doubtful(62 * SECOND));
        assert!(journal.contains(b"new") && !journal.contains(b"old"));
    }

    #[test]
    fn too_many_recent_failures_outdate_all() {
        let mut journal = Journal::new(1);
        journal.doubt(b"a", Spelling::Plain, 0);
        journal.doubt(b"b", Spelling::Plain, SECOND);
        assert!(journal.outdate_doubtful(2 * SECOND) && journal.has_overflowed());
        let mut journal = Journal::new(1);
        journal.doubt(b"a", Spelling::Plain, 0);
        journal.doubt(b"b", Spelling::Plain, SECOND);
        // Later, neither matters.
        assert!(!journal.outdate_doubtful(100 * SECOND) && journal.is_empty());
    }
}
