//! The rule `pymemcache`: rendezvous hashing with `MurmurHash3` x86 32 of the text `host:port-key`.
//!
//! The text is hashed as the lowest byte of each of its code points.
use std::array;

use smallvec::SmallVec;

use super::RoutedNode;

/// Nodes that are hashed side by side.
const LANES: usize = 8;
const C1: u32 = 0xcc9e_2d51;
const C2: u32 = 0x1b87_3593;

#[derive(Debug)]
pub struct PymemcacheRouter {
    /// The nodes by the length of their last, partial block, which is where the key begins.
    groups: [Vec<Batch>; 4],
    /// The positions of the nodes, by their rank among nodes with equal scores.
    positions: Vec<usize>,
    /// Whether keys are `bytes` in Python, whose text is `b'key'`.
    is_bytes: bool,
}

/// Some nodes with equally long last blocks.
#[derive(Debug)]
struct Batch {
    /// The hash of the whole blocks.
    hashes: [u32; LANES],
    /// The bytes of the last block.
    rests: [u32; LANES],
    lens: [u32; LANES],
    ranks: [u32; LANES],
}

impl PymemcacheRouter {
    pub fn new(nodes: &[RoutedNode], is_bytes: bool) -> Self {
        let mut ranked: Vec<_> = nodes.iter().enumerate().collect();
        // If scores are equal, pymemcache takes the greater name.
        ranked.sort_by(|(at, a), (bt, b)| a.id.cmp(&b.id).then(bt.cmp(at)));
        let mut by_rest: [Vec<(u32, &[u8])>; 4] = Default::default();
        for (rank, (_, node)) in (0..).zip(&ranked) {
            by_rest[node.id.len() % 4].push((rank, &node.id));
        }
        let groups = by_rest.map(|nodes| nodes.chunks(LANES).map(Batch::new).collect());
        Self { groups, positions: ranked.iter().map(|(at, _)| *at).collect(), is_bytes }
    }

    pub fn pick(&self, key: &[u8]) -> Option<usize> {
        if self.positions.len() <= 1 {
            return self.positions.first().copied();
        }
        let key = if self.is_bytes { bytes_repr(key) } else { code_points(key) };
        let groups = self.groups.iter().enumerate().filter(|(_, batches)| !batches.is_empty());
        let best = groups.filter_map(|(rest_len, batches)| {
            let text = Text::new(rest_len, &key);
            batches.iter().map(|batch| batch.best(&text)).max()
        });
        let rank = best.max()? & u64::from(u32::MAX);
        self.positions.get(usize::try_from(rank).ok()?).copied()
    }
}

/// A key as it is hashed.
type Bytes = SmallVec<[u8; 256]>;

fn code_points(key: &[u8]) -> Bytes {
    if key.is_ascii() {
        return key.into();
    }
    #[allow(clippy::cast_possible_truncation, reason = "the lowest byte is what is hashed")]
    String::from_utf8_lossy(key).chars().map(|char| u32::from(char) as u8).collect()
}

/// The text of a `bytes` object in Python.
fn bytes_repr(key: &[u8]) -> Bytes {
    let quote = if key.contains(&b'\'') && !key.contains(&b'"') { b'"' } else { b'\'' };
    let mut text = Bytes::from_slice(&[b'b', quote]);
    for &byte in key {
        match byte {
            b'\\' => text.extend_from_slice(b"\\\\"),
            _ if byte == quote => text.extend([b'\\', byte]),
            // A key has no control bytes.
            0x80.. => text.extend(format!("\\x{byte:02x}").into_bytes()),
            _ => text.push(byte),
        }
    }
    text.push(quote);
    text
}

/// A key in words, as it lies after the last block of a node.
#[derive(Debug)]
struct Text {
    /// The key's bytes in the word that it shares with the node.
    first: u32,
    /// Whether that word is whole, and other words follow.
    is_long: bool,
    /// The whole words after it, mixed.
    words: SmallVec<[u32; 64]>,
    /// The remaining bytes, mixed.
    rest: u32,
    len: u32,
}

impl Text {
    fn new(rest_len: usize, key: &[u8]) -> Self {
        let (first, key_rest) = key.split_at(key.len().min(4 - rest_len));
        let (words, rest) = key_rest.as_chunks();
        Self {
            first: word(first) << (8 * rest_len),
            is_long: rest_len + first.len() == 4,
            words: words.iter().map(|bytes| mixed(u32::from_le_bytes(*bytes))).collect(),
            rest: mixed(word(rest)),
            #[allow(clippy::cast_possible_truncation, reason = "a key has at most 250 bytes")]
            len: key.len() as u32,
        }
    }
}

impl Batch {
    fn new(nodes: &[(u32, &[u8])]) -> Self {
        // The lanes that are left over repeat the first node.
        let node = |at: usize| nodes.get(at).unwrap_or(&nodes[0]);
        let split = |at: usize| node(at).1.as_chunks();
        let hash = |at| {
            let (words, _) = split(at);
            words.iter().fold(0, |hash, bytes| step(hash, mixed(u32::from_le_bytes(*bytes))))
        };
        Self {
            hashes: array::from_fn(hash),
            rests: array::from_fn(|at| word(split(at).1)),
            #[allow(clippy::cast_possible_truncation, reason = "a name of a node")]
            lens: array::from_fn(|at| node(at).1.len() as u32),
            ranks: array::from_fn(|at| node(at).0),
        }
    }

    /// The greatest `score << 32 | rank`.
    fn best(&self, text: &Text) -> u64 {
        let mut hashes = self.hashes;
        for (hash, rest) in hashes.iter_mut().zip(self.rests) {
            // Their bytes are in different places, so addition joins them.
            let word = mixed(rest + text.first);
            *hash = if text.is_long { step(*hash, word) } else { *hash ^ word };
        }
        for word in &text.words {
            hashes = hashes.map(|hash| step(hash, *word));
        }
        for (hash, len) in hashes.iter_mut().zip(self.lens) {
            *hash = avalanche(*hash ^ text.rest ^ (len + text.len));
        }
        let packed = hashes.iter().zip(self.ranks);
        packed.map(|(hash, rank)| u64::from(*hash) << 32 | u64::from(rank)).fold(0, u64::max)
    }
}

/// At most four bytes.
fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn mixed(word: u32) -> u32 {
    word.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2)
}

fn step(hash: u32, word: u32) -> u32 {
    (hash ^ word).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

fn avalanche(mut hash: u32) -> u32 {
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn node(id: &str) -> RoutedNode {
        RoutedNode { id: id.as_bytes().into(), weight: 1 }
    }

    /// One node and one byte at a time.
    fn plain_score(bytes: &[u8]) -> u32 {
        let (words, rest) = bytes.as_chunks();
        let words = words.iter().map(|bytes| u32::from_le_bytes(*bytes));
        let hash = words.fold(0, |hash, word| step(hash, mixed(word)));
        avalanche(hash ^ mixed(word(rest)) ^ u32::try_from(bytes.len()).unwrap())
    }

    fn plain_pick(ids: &[String], key: &[u8]) -> Option<usize> {
        let key = code_points(key);
        let score = |id: &String| (plain_score(&[id.as_bytes(), &key].concat()), id.clone());
        (0..ids.len()).rev().max_by_key(|at| score(&ids[*at]))
    }

    #[test]
    fn the_score_is_murmur() {
        // Published vectors of MurmurHash3_x86_32 with seed 0.
        assert_eq!(plain_score(b""), 0);
        assert_eq!(plain_score(b"test"), 0xba6b_d213);
        assert_eq!(plain_score(b"Hello, world!"), 0xc036_3e43);
    }

    #[test]
    fn the_text_of_bytes() {
        let keys: [(&[u8], &[u8]); 4] = [
            (b"a-1", b"b'a-1'"),
            (b"it's", b"b\"it's\""),
            (b"'\"", b"b'\\'\"'"),
            (b"\\\xc3\xa9", b"b'\\\\\\xc3\\xa9'"),
        ];
        for (key, text) in keys {
            assert_eq!(&*bytes_repr(key), text);
        }
    }

    proptest! {
        #[test]
        fn any_pick_is_as_plain(
            ids in vec("[a-z0-9.]{1,30}:[0-9]{1,5}-", 2..40),
            keys in vec(prop_oneof!["[a-z:]{1,40}", "[aé€😀]{1,20}"], 1..20),
        ) {
            let nodes: Vec<_> = ids.iter().map(|id| node(id)).collect();
            let router = PymemcacheRouter::new(&nodes, false);
            for key in keys {
                let picked = router.pick(key.as_bytes());
                prop_assert_eq!(picked, plain_pick(&ids, key.as_bytes()), "{}", key);
            }
        }
    }
}
