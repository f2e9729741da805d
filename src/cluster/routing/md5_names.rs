//! MD5s of many names, eight at a time: a large ring needs 100,000 of them.
use super::hash::md5_words;
use super::ketama::numbered;
use super::md5_lanes::{BLOCK_LEN, Block, LANES, START, compress, words_of};

/// The longest name that fits into one block.
const MAX_LEN: usize = BLOCK_LEN - 9;

/// The names of one length that wait until there are eight.
#[derive(Clone, Default)]
struct Waiting {
    block: Block,
    tags: [u32; LANES],
    count: usize,
}

/// Hashes names of the form `id-number` in any order, and reports each MD5 with its tag, as
/// little-endian words.
pub fn hash_numbered(
    names: impl Iterator<Item = (u32, impl AsRef<[u8]>, u32)>,
    mut report: impl FnMut(u32, [u32; 4]),
) {
    let mut by_len = vec![Waiting::default(); MAX_LEN + 1];
    for (tag, id, number) in names {
        let (id, mut digits) = (id.as_ref(), itoa::Buffer::new());
        let digits = digits.format(number).as_bytes();
        let len = id.len() + 1 + digits.len();
        let Some(waiting) = by_len.get_mut(len) else {
            report(tag, md5_words(&numbered(id, number)));
            continue;
        };
        let mut block = [0; BLOCK_LEN];
        block[..id.len()].copy_from_slice(id);
        block[id.len()] = b'-';
        block[id.len() + 1..len].copy_from_slice(digits);
        block[len] = 0x80;
        block[MAX_LEN + 1..].copy_from_slice(&(8 * len as u64).to_le_bytes());
        waiting.add(tag, &block, &mut report);
    }
    for waiting in &mut by_len {
        waiting.hash(&mut report);
    }
}

impl Waiting {
    fn add(&mut self, tag: u32, block: &[u8; BLOCK_LEN], report: &mut impl FnMut(u32, [u32; 4])) {
        for (lanes, word) in self.block.iter_mut().zip(words_of(block)) {
            lanes[self.count] = word;
        }
        self.tags[self.count] = tag;
        self.count += 1;
        if self.count == LANES {
            self.hash(report);
        }
    }

    fn hash(&mut self, report: &mut impl FnMut(u32, [u32; 4])) {
        if self.count == 0 {
            return;
        }
        let state = compress(START, &self.block);
        for lane in 0..self.count {
            report(self.tags[lane], state.map(|word| word[lane]));
        }
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_name_is_hashed_once(
            names in vec((vec(any::<u8>(), 0..=150), 0..2000_u32), 0..60),
        ) {
            let tagged = names.iter().zip(0..).map(|((id, number), tag)| (tag, id, *number));
            let mut found = vec![None; names.len()];
            hash_numbered(tagged, |tag, words| {
                assert!(found[tag as usize].replace(words).is_none());
            });
            for ((id, number), words) in names.iter().zip(found) {
                prop_assert_eq!(words, Some(md5_words(&numbered(id, *number))));
            }
        }
    }
}
