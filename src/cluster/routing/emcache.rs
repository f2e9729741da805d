//! The rule `emcache`: rendezvous hashing exactly as in emcache 1.3, defect included, because
//! existing caches were filled by it. See docs/design/routing.md.
use std::cell::OnceCell;
use std::cmp::Reverse;
use std::sync::Arc;

use super::RoutedNode;
use super::murmur3::{BLOCK_LEN, Murmur, mixed, padded, scaled, words};
use crate::pool::Address;

/// The contribution of the ids to the hash is computed when a key first needs it, so a client with
/// few nodes or few keys pays little, and one with a single node nothing.
#[derive(Debug)]
pub struct EmcacheRouter {
    chars: Chars,
    /// Sorted by their rank among nodes with equal scores for a key, lowest first.
    nodes: Vec<RankedNode>,
    /// Indexed by the number of a key's bytes after its whole blocks.
    tables: [OnceCell<Table>; BLOCK_LEN],
}

#[derive(Debug)]
struct RankedNode {
    id: Arc<[u8]>,
    /// The position in the list.
    position: usize,
}

/// What the C compiler of emcache 1.3 took `char` for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chars {
    /// On x86, and on Apple's and Windows' arm64.
    Signed,
    /// On Linux/arm64.
    Unsigned,
}

impl Chars {
    /// The bits of a score above its lowest byte that can be set.
    const fn upper_bits(self) -> u32 {
        match self {
            Self::Signed => 0xffff_ff00,
            Self::Unsigned => 0,
        }
    }
}

/// The bytes that are hashed for a node.
pub fn node_id(address: &Address) -> Arc<[u8]> {
    match address {
        Address::Tcp { host, port } => format!("{host}{port}").into_bytes().into(),
        Address::Unix { path } => path.as_bytes().into(),
    }
}

pub fn router(nodes: &[RoutedNode], chars: Chars) -> EmcacheRouter {
    EmcacheRouter::new(nodes.iter().map(|node| node.id.clone()), chars)
}

impl EmcacheRouter {
    pub fn new(ids: impl IntoIterator<Item = Arc<[u8]>>, chars: Chars) -> Self {
        let numbered = ids.into_iter().enumerate();
        let mut nodes: Vec<_> =
            numbered.map(|(position, id)| RankedNode { id, position }).collect();
        if nodes.len() > 1 {
            nodes.sort_by_cached_key(|node| (id_score(&node.id, chars), Reverse(node.position)));
        }
        Self { chars, nodes, tables: Default::default() }
    }

    /// The highest score of key and node id wins; among equals, the highest score of the node id
    /// alone; among those, the first. Only 640 scores exist, 256 of unsigned chars, so ties are
    /// common.
    pub fn pick(&self, key: &[u8]) -> Option<usize> {
        if self.nodes.len() <= 1 {
            return self.nodes.len().checked_sub(1);
        }
        // Blocks that lie wholly within the key are the same for every node.
        let (start, rest) = Murmur::start(key);
        let table = self.tables[rest.len()].get_or_init(|| Table::new(&self.nodes, rest.len()));
        let best = table.best(start, scaled(padded(rest)), key.len() as u64, self.chars)?;
        self.nodes.get(best).map(|node| node.position)
    }
}

/// The contribution of the ids for keys with the same number of remaining bytes.
///
/// These bytes and the id are hashed in blocks that start at the same place for every key. So
/// everything about the blocks is known in advance, except the key's part of the first one.
#[derive(Debug)]
struct Table {
    batches: Vec<RowBatch>,
}

/// Nodes with the same number of blocks, one row each in the order of their ranks:
///
/// ```text
/// id length << 32 | rank, first block, other blocks
/// ```
///
/// A block has two words, scaled in the first block and mixed in the others. The last block is
/// always partial, and possibly empty.
#[derive(Debug)]
struct RowBatch {
    row_len: usize,
    rows: Vec<u64>,
}

const RANK: u64 = 0xffff_ffff;

impl Table {
    fn new(nodes: &[RankedNode], rest_len: usize) -> Self {
        let mut batches: Vec<RowBatch> = Vec::new();
        let mut bytes = Vec::new();
        for (rank, node) in nodes.iter().enumerate() {
            bytes.clear();
            bytes.resize(rest_len, 0);
            bytes.extend_from_slice(&node.id);
            let (whole, last) = bytes.as_chunks();
            let mut blocks = whole.iter().map(words).chain([padded(last)]);
            let row_len = 1 + 2 * (whole.len() + 1);
            let at = batches.iter().position(|batch| batch.row_len == row_len);
            let at = at.unwrap_or_else(|| {
                batches.push(RowBatch { row_len, rows: Vec::new() });
                batches.len() - 1
            });
            let rows = &mut batches[at].rows;
            rows.push((node.id.len() as u64) << 32 | rank as u64);
            rows.extend(blocks.next().into_iter().flat_map(scaled));
            rows.extend(blocks.map(scaled).flat_map(mixed));
        }
        for batch in &mut batches {
            batch.rows.shrink_to_fit();
        }
        Self { batches }
    }

    /// The rank of the best node. `rest` holds the scaled remaining bytes of the key.
    fn best(&self, start: Murmur, rest: [u64; 2], key_len: u64, chars: Chars) -> Option<usize> {
        let best =
            self.batches.iter().map(|batch| batch.best(start, rest, key_len, chars)).max()?;
        usize::try_from(best & RANK).ok()
    }
}

impl RowBatch {
    /// The greatest `score << 32 | rank`. Rows are independent, so the processor works on several
    /// at once.
    fn best(&self, start: Murmur, rest: [u64; 2], key_len: u64, chars: Chars) -> u64 {
        let mut best = 0;
        for row in self.rows.chunks_exact(self.row_len) {
            let [head, k1, k2, others @ ..] = row else { continue };
            let mut state = start;
            // The bytes of the key and of the id are in different places, so addition joins them,
            // and commutes with the multiplication.
            let mut block = mixed([rest[0].wrapping_add(*k1), rest[1].wrapping_add(*k2)]);
            for next in others.as_chunks().0 {
                state = state.block(block);
                block = *next;
            }
            let score = fold(state.finish(block, key_len + (head >> 32)), chars);
            best = best.max(u64::from(score) << 32 | head & RANK);
        }
        best
    }
}

fn id_score(id: &[u8], chars: Chars) -> u32 {
    fold(Murmur::digest(id), chars)
}

/// The score that 1.3 computes from the first four bytes of the digest: each byte is sign-extended,
/// its low bits are masked away where they should have been shifted, and the four are joined.
///
/// So the lowest byte stays, and the first negative byte of the four sets all bits from its place
/// upward. Unsigned bytes have no sign to extend, so only the lowest byte is left.
fn fold(digest: u64, chars: Chars) -> u32 {
    let bytes = (digest & 0xffff_ffff) as u32;
    let signs = (bytes >> 7) & 0x0101_0101;
    let from_first_up = signs | signs.wrapping_neg();
    from_first_up & chars.upper_bits() | bytes & 0xff
}

/// The plain form of the rule, one node at a time.
#[cfg(test)]
pub mod plain {
    use super::super::murmur3::avalanche;
    use super::Chars;

    pub fn pick(key: &[u8], ids: &[impl AsRef<[u8]>], chars: Chars) -> Option<usize> {
        let scores = |id: &[u8]| (id_score(&[key, id].concat(), chars), id_score(id, chars));
        let mut best: Option<(usize, (u32, u32))> = None;
        for (at, id) in ids.iter().enumerate() {
            let scores = scores(id.as_ref());
            if best.is_none_or(|(_, high)| scores > high) {
                best = Some((at, scores));
            }
        }
        best.map(|(at, _)| at)
    }

    pub fn id_score(bytes: &[u8], chars: Chars) -> u32 {
        fold(murmur(bytes), chars)
    }

    pub fn fold(digest: u64, chars: Chars) -> u32 {
        let [b0, b1, b2, b3, ..] = digest.to_le_bytes();
        let wide = |byte: u8| match chars {
            Chars::Signed => i32::from(byte.cast_signed()).cast_unsigned(),
            Chars::Unsigned => u32::from(byte),
        };
        wide(b0) | wide(b1) & 0xffff_ff00 | wide(b2) & 0xffff_0000 | wide(b3) & 0xff00_0000
    }

    const C1: u64 = 0x87c3_7b91_1142_53d5;
    const C2: u64 = 0x4cf5_ad43_2745_937f;

    pub fn murmur(bytes: &[u8]) -> u64 {
        let word = |at: usize| {
            (at..bytes.len().min(at + 8)).rev().fold(0, |word, at| word << 8 | u64::from(bytes[at]))
        };
        let mix_k1 = |k: u64| k.wrapping_mul(C1).rotate_left(31).wrapping_mul(C2);
        let mix_k2 = |k: u64| k.wrapping_mul(C2).rotate_left(33).wrapping_mul(C1);
        let (mut h1, mut h2) = (0_u64, 0_u64);
        let tail = bytes.len() - bytes.len() % 16;
        for at in (0..tail).step_by(16) {
            h1 ^= mix_k1(word(at));
            h1 = h1.rotate_left(27).wrapping_add(h2).wrapping_mul(5).wrapping_add(0x52dc_e729);
            h2 ^= mix_k2(word(at + 8));
            h2 = h2.rotate_left(31).wrapping_add(h1).wrapping_mul(5).wrapping_add(0x3849_5ab5);
        }
        if bytes.len() > tail + 8 {
            h2 ^= mix_k2(word(tail + 8));
        }
        if bytes.len() > tail {
            h1 ^= mix_k1(word(tail));
        }
        h1 ^= bytes.len() as u64;
        h2 ^= bytes.len() as u64;
        h1 = h1.wrapping_add(h2);
        h2 = h2.wrapping_add(h1);
        avalanche(h1).wrapping_add(avalanche(h2))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const BOTH: [Chars; 2] = [Chars::Signed, Chars::Unsigned];

    fn router(ids: &[impl AsRef<[u8]>]) -> EmcacheRouter {
        router_of(ids, Chars::Signed)
    }

    fn router_of(ids: &[impl AsRef<[u8]>], chars: Chars) -> EmcacheRouter {
        EmcacheRouter::new(ids.iter().map(|id| id.as_ref().into()), chars)
    }

    #[test]
    fn known_scores() {
        for score in [id_score, plain::id_score] {
            assert_eq!(score(b"", Chars::Signed), 0);
            assert_eq!(score(b"foo", Chars::Signed), 0xffff_0061);
            assert_eq!(score(b"foo", Chars::Unsigned), 0x61);
        }
    }

    #[test]
    fn the_digest_is_murmur() {
        // MurmurHash3_x64_128("hello, world", 0), first half: a published vector of the algorithm.
        assert_eq!(plain::murmur(b"hello, world"), 0x342f_ac62_3a5e_bc8e);
    }

    /// Selections recorded from emcache 1.3.3 on x86-64, and how many differ on arm64: of other
    /// keys, its own wheel there placed 7.2 % differently with two nodes, 5.0 % with three, 0.9 %
    /// with five and 0.2 % with sixteen.
    #[test]
    fn the_recorded_selections() {
        let mut ids: Vec<&str> = Vec::new();
        let mut nodes = router(&ids);
        let mut checked = 0;
        let mut moved: BTreeMap<usize, (u32, u32)> = BTreeMap::new();
        for line in include_str!("../../../tests/compat/routing_vectors.txt").lines().skip(1) {
            let (key, chosen) = line.split_once(' ').unwrap();
            if key == "nodes" {
                ids = chosen.split(',').collect();
                nodes = router(&ids);
                continue;
            }
            let key: Vec<u8> = (0..key.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&key[at..at + 2], 16).unwrap())
                .collect();
            let chosen = Some(chosen.parse().unwrap());
            assert_eq!(nodes.pick(&key), chosen, "{line}");
            assert_eq!(plain::pick(&key, &ids, Chars::Signed), chosen, "{line}");
            let (others, all) = moved.entry(ids.len()).or_default();
            *others += u32::from(router_of(&ids, Chars::Unsigned).pick(&key) != chosen);
            *all += 1;
            checked += 1;
        }
        assert!(checked >= 2000, "{checked}");
        let share = |count| f64::from(moved[&count].0) / f64::from(moved[&count].1);
        for (count, range) in [(2, 0.05..0.13), (3, 0.02..0.08), (5, 0.0..0.03), (16, 0.0..0.02)] {
            assert!(range.contains(&share(count)), "{count} nodes: {:?}", moved[&count]);
        }
    }

    #[test]
    fn no_node_and_one_node() {
        assert_eq!(router(&[""; 0]).pick(b"k"), None);
        assert_eq!(router(&["a"]).pick(b"k"), Some(0));
    }

    #[test]
    fn equal_ids_go_to_the_first() {
        let twins = router(&["cache-11211", "cache-11211"]);
        assert!((0..100).all(|i| twins.pick(format!("k{i}").as_bytes()) == Some(0)));
    }

    /// Every length of key and id around the block boundaries.
    #[test]
    fn each_length_is_as_plain() {
        for id_len in 0..=50 {
            let ids: Vec<_> = (0..8).map(|i| vec![b'a' + i; id_len + usize::from(i) % 3]).collect();
            let nodes = router(&ids);
            for key_len in 0..=50 {
                let key = vec![0xff; key_len];
                let expected = plain::pick(&key, &ids, Chars::Signed);
                assert_eq!(nodes.pick(&key), expected, "{key_len} {id_len}");
            }
        }
    }

    fn an_id() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => "10\\.0\\.[0-9]{1,3}\\.[0-9]{1,3}11211".prop_map(String::into_bytes),
            4 => vec(any::<u8>(), 0..=60),
            1 => vec(any::<u8>(), 61..=4000),
        ]
    }

    proptest! {
        #[test]
        fn any_pick_is_as_plain(
            ids in vec(an_id(), 2..=64), keys in vec(vec(any::<u8>(), 0..=250), 1..40)
        ) {
            for chars in BOTH {
                let nodes = router_of(&ids, chars);
                for key in &keys {
                    prop_assert_eq!(nodes.pick(key), plain::pick(key, &ids, chars));
                }
            }
        }

        #[test]
        fn any_score_is_as_plain(digest in any::<u64>(), id in an_id()) {
            for chars in BOTH {
                prop_assert_eq!(fold(digest, chars), plain::fold(digest, chars));
                prop_assert_eq!(id_score(&id, chars), plain::id_score(&id, chars));
            }
        }
    }
}
