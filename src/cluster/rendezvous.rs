//! Which node a key belongs to: the rule of emcache 1.3 bit for bit, its defect included, because the
//! keys that are in people's caches were put there by it. See docs/design/routing.md.

/// A node as the rule sees it.
#[derive(Clone, Debug)]
pub struct RingNode {
    id: Vec<u8>,
    score: u32,
}

impl RingNode {
    /// A TCP node's id is its host and port with nothing between, a unix node's its path.
    pub fn new(id: impl Into<Vec<u8>>) -> Self {
        let id = id.into();
        let score = score_of(&[], &id);
        Self { id, score }
    }
}

/// The index of the node for `key`; `None` if there are no nodes.
///
/// Highest score of key and node id; among equals the highest score of the node id alone; among those
/// the first. The 640 scores that exist make ties a matter of routine.
pub fn pick<'n>(key: &[u8], nodes: impl ExactSizeIterator<Item = &'n RingNode>) -> Option<usize> {
    if nodes.len() <= 1 {
        return nodes.len().checked_sub(1);
    }
    // The blocks that lie wholly within the key are the same for every node.
    let (whole, rest) = key.split_at(key.len() - key.len() % 16);
    let start = Murmur::default().blocks(whole);
    let mut tail = Vec::with_capacity(128);
    tail.extend_from_slice(rest);
    let mut best: Option<(usize, u32, u32)> = None;
    for (index, node) in nodes.enumerate() {
        tail.truncate(rest.len());
        tail.extend_from_slice(&node.id);
        let score = fold(start.finish(&tail, whole.len()));
        if best.is_none_or(|(_, high, node_high)| (score, node.score) > (high, node_high)) {
            best = Some((index, score, node.score));
        }
    }
    best.map(|(index, _, _)| index)
}

fn score_of(key: &[u8], id: &[u8]) -> u32 {
    fold(Murmur::default().finish(&[key, id].concat(), 0))
}

/// What 1.3 makes of the digest's first four bytes: each is widened with its sign, its own low bits
/// are masked away where they should have been shifted up, and the four are joined.
fn fold(digest: u64) -> u32 {
    let signed = |byte: u64| i32::from(((byte & 0xff) as u8).cast_signed()).cast_unsigned();
    signed(digest)
        | signed(digest >> 8) & 0xffff_ff00
        | signed(digest >> 16) & 0xffff_0000
        | signed(digest >> 24) & 0xff00_0000
}

/// `MurmurHash3` x64 128 with seed 0, of which only the first half is wanted.
#[derive(Clone, Copy, Debug, Default)]
struct Murmur {
    h1: u64,
    h2: u64,
}

const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

impl Murmur {
    fn blocks(mut self, bytes: &[u8]) -> Self {
        for block in bytes.chunks_exact(16) {
            let (k1, k2) = (word(&block[..8]), word(&block[8..]));
            self.h1 ^= mix_k1(k1);
            self.h1 = self.h1.rotate_left(27).wrapping_add(self.h2);
            self.h1 = self.h1.wrapping_mul(5).wrapping_add(0x52dc_e729);
            self.h2 ^= mix_k2(k2);
            self.h2 = self.h2.rotate_left(31).wrapping_add(self.h1);
            self.h2 = self.h2.wrapping_mul(5).wrapping_add(0x3849_5ab5);
        }
        self
    }

    /// The first half of the digest after these last bytes; `before` more went into `self`.
    fn finish(self, bytes: &[u8], before: usize) -> u64 {
        let (whole, tail) = bytes.split_at(bytes.len() - bytes.len() % 16);
        let Self { mut h1, mut h2 } = self.blocks(whole);
        if tail.len() > 8 {
            h2 ^= mix_k2(word(&tail[8..]));
        }
        if !tail.is_empty() {
            h1 ^= mix_k1(word(&tail[..tail.len().min(8)]));
        }
        let len = (before + bytes.len()) as u64;
        h1 ^= len;
        h2 ^= len;
        h1 = h1.wrapping_add(h2);
        h2 = h2.wrapping_add(h1);
        avalanche(h1).wrapping_add(avalanche(h2))
    }
}

fn word(bytes: &[u8]) -> u64 {
    let mut padded = [0; 8];
    padded[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(padded)
}

fn mix_k1(k: u64) -> u64 {
    k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2)
}

fn mix_k2(k: u64) -> u64 {
    k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1)
}

fn avalanche(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scores_that_are_known() {
        assert_eq!(score_of(b"", b""), 0);
        assert_eq!(score_of(b"foo", b""), 0xffff_0061);
        assert_eq!(score_of(b"fo", b"o"), 0xffff_0061);
    }

    #[test]
    fn the_digest_is_murmur() {
        // MurmurHash3_x64_128("hello, world", 0), first half: a published vector of the algorithm.
        assert_eq!(Murmur::default().finish(b"hello, world", 0), 0x342f_ac62_3a5e_bc8e);
    }

    /// Selections that were recorded from emcache 1.3.3.
    #[test]
    fn the_recorded_selections() {
        let mut nodes: Vec<RingNode> = Vec::new();
        let mut checked = 0;
        for line in include_str!("../../tests/compat/routing_vectors.txt").lines().skip(1) {
            let (key, chosen) = line.split_once(' ').unwrap();
            if key == "nodes" {
                nodes = chosen.split(',').map(RingNode::new).collect();
                continue;
            }
            let key: Vec<u8> = (0..key.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&key[at..at + 2], 16).unwrap())
                .collect();
            assert_eq!(pick(&key, nodes.iter()), Some(chosen.parse().unwrap()), "{line}");
            checked += 1;
        }
        assert!(checked >= 2000, "{checked}");
    }

    #[test]
    fn no_node_and_one_node() {
        assert_eq!(pick(b"k", [].iter()), None);
        assert_eq!(pick(b"k", [RingNode::new("a")].iter()), Some(0));
    }

    #[test]
    fn equal_ids_go_to_the_first() {
        let twins = [RingNode::new("cache-11211"), RingNode::new("cache-11211")];
        assert!((0..100).all(|i| pick(format!("k{i}").as_bytes(), twins.iter()) == Some(0)));
    }
}
