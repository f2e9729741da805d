//! The rule `memcachio`: rendezvous hashing with the MD5 of the node's repr, a colon, and the key.
use std::array;

use smallvec::SmallVec;

use super::RoutedNode;
use super::md5_lanes::{BLOCK_LEN, Block, LANES, START, State, compress, words_of};

#[derive(Debug)]
pub struct MemcachioRouter {
    node_count: usize,
    /// The nodes by the length of their ids, and so by the place where the key begins.
    groups: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    id_len: usize,
    batches: Vec<Batch>,
}

#[derive(Debug)]
struct Batch {
    /// The hashes of the whole blocks of the ids.
    state: State,
    /// The remaining bytes of the ids.
    rest: Block,
    positions: [usize; LANES],
}

impl MemcachioRouter {
    pub fn new(nodes: &[RoutedNode]) -> Self {
        let mut lens: Vec<_> = nodes.iter().map(|node| node.id.len()).collect();
        lens.sort_unstable();
        lens.dedup();
        let group = |id_len| {
            let nodes = nodes.iter().enumerate();
            let group: Vec<_> = nodes.filter(|(_, node)| node.id.len() == id_len).collect();
            Group { id_len, batches: group.chunks(LANES).map(Batch::new).collect() }
        };
        Self { node_count: nodes.len(), groups: lens.into_iter().map(group).collect() }
    }

    pub fn pick(&self, key: &[u8]) -> Option<usize> {
        if self.node_count <= 1 {
            return self.node_count.checked_sub(1);
        }
        let mut best = (0, 0);
        for group in &self.groups {
            let words = words_after(group.id_len, key);
            let (first, others) = words.split_first()?;
            // The same for all batches.
            let others: SmallVec<[Block; 5]> = others.iter().map(same_in_all_lanes).collect();
            for batch in &group.batches {
                best = batch.best(best, first, &others);
            }
        }
        Some(best.1)
    }
}

impl Batch {
    fn new(nodes: &[(usize, &RoutedNode)]) -> Self {
        // The lanes that are left over repeat the first node.
        let node = |lane: usize| nodes.get(lane).unwrap_or(&nodes[0]);
        let blocks = array::from_fn::<_, LANES, _>(|lane| node(lane).1.id.as_chunks());
        let mut state = START;
        for at in 0..blocks[0].0.len() {
            let words = blocks.map(|(whole, _)| words_of(&whole[at]));
            state = compress(state, &array::from_fn(|word| words.map(|words| words[word])));
        }
        let rest = blocks.map(|(_, rest)| {
            let mut block = [0; BLOCK_LEN];
            block[..rest.len()].copy_from_slice(rest);
            words_of(&block)
        });
        Self {
            state,
            rest: array::from_fn(|word| rest.map(|words| words[word])),
            positions: array::from_fn(|lane| node(lane).0),
        }
    }

    /// The greater of `best` and this batch: the highest MD5 as a big-endian number, and the
    /// position of its node.
    fn best(&self, mut best: (u128, usize), first: &[u32; 16], others: &[Block]) -> (u128, usize) {
        let mut block = self.rest;
        for (lanes, word) in block.iter_mut().zip(first) {
            // The bytes are in different places, so addition joins them.
            *lanes = lanes.map(|lane| lane + word);
        }
        let start = compress(self.state, &block);
        let state = others.iter().fold(start, compress);
        for (lane, position) in self.positions.into_iter().enumerate() {
            // The first word decides nearly always.
            if u128::from(state[0][lane].swap_bytes()) >= best.0 >> 96 {
                let words = state.iter().map(|word| u128::from(word[lane].swap_bytes()));
                best = best.max((words.fold(0, |number, word| number << 32 | word), position));
            }
        }
        best
    }
}

fn same_in_all_lanes(words: &[u32; 16]) -> Block {
    words.map(|word| [word; LANES])
}

/// The blocks that end a message: zeros where the id is, the key, and the padding.
fn words_after(id_len: usize, key: &[u8]) -> SmallVec<[[u32; 16]; 6]> {
    let mut bytes: SmallVec<[u8; 512]> = SmallVec::new();
    bytes.resize(id_len % BLOCK_LEN, 0);
    bytes.extend_from_slice(key);
    bytes.push(0x80);
    let len = (bytes.len() + 8).next_multiple_of(BLOCK_LEN);
    bytes.resize(len - 8, 0);
    bytes.extend_from_slice(&(8 * (id_len + key.len()) as u64).to_le_bytes());
    bytes.as_chunks().0.iter().map(words_of).collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::hash::md5_number;
    use super::*;

    proptest! {
        #[test]
        fn any_pick_is_that_of_the_crate(
            ids in vec(vec(any::<u8>(), 0..=150), 2..40),
            keys in vec(vec(any::<u8>(), 0..=250), 1..20),
        ) {
            let node = |id: &Vec<u8>| RoutedNode { id: id.as_slice().into(), weight: 1 };
            let router = MemcachioRouter::new(&ids.iter().map(node).collect::<Vec<_>>());
            for key in keys {
                let score = |at: &usize| md5_number(&[ids[*at].as_slice(), &key].concat());
                let best = (0..ids.len()).max_by_key(|at| (score(at), *at));
                prop_assert_eq!(router.pick(&key), best);
            }
        }
    }
}
