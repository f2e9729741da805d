//! `MurmurHash3` x64 128, in steps.
use std::array;

/// `MurmurHash3` x64 128 with seed 0. Only the first half is needed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Murmur {
    h1: u64,
    h2: u64,
}

pub const BLOCK_LEN: usize = 16;
const C1: u64 = 0x87c3_7b91_1142_53d5;
const C2: u64 = 0x4cf5_ad43_2745_937f;

impl Murmur {
    /// The first half of the digest.
    pub fn digest(bytes: &[u8]) -> u64 {
        let (start, rest) = Self::start(bytes);
        start.finish(mixed(scaled(padded(rest))), bytes.len() as u64)
    }

    /// The state after the whole blocks, and the remaining bytes.
    pub fn start(bytes: &[u8]) -> (Self, &[u8]) {
        let (blocks, rest) = bytes.as_chunks();
        let mixed = blocks.iter().map(words).map(scaled).map(mixed);
        (mixed.fold(Self::default(), Self::block), rest)
    }

    pub fn block(mut self, [k1, k2]: [u64; 2]) -> Self {
        self.h1 = (self.h1 ^ k1).rotate_left(27).wrapping_add(self.h2);
        self.h1 = self.h1.wrapping_mul(5).wrapping_add(0x52dc_e729);
        self.h2 = (self.h2 ^ k2).rotate_left(31).wrapping_add(self.h1);
        self.h2 = self.h2.wrapping_mul(5).wrapping_add(0x3849_5ab5);
        self
    }

    /// The first half of the digest of `len` bytes. The zeros that pad the last block stay zeros
    /// when mixed, and change nothing.
    pub fn finish(self, [k1, k2]: [u64; 2], len: u64) -> u64 {
        let h2 = self.h2 ^ k2 ^ len;
        let h1 = (self.h1 ^ k1 ^ len).wrapping_add(h2);
        avalanche(h1).wrapping_add(avalanche(h1.wrapping_add(h2)))
    }
}

pub fn padded(rest: &[u8]) -> [u64; 2] {
    let mut block = [0; BLOCK_LEN];
    block[..rest.len()].copy_from_slice(rest);
    words(&block)
}

pub fn words(block: &[u8; BLOCK_LEN]) -> [u64; 2] {
    [0, 8].map(|from| u64::from_le_bytes(array::from_fn(|at| block[from + at])))
}

/// The first step of mixing.
pub fn scaled([k1, k2]: [u64; 2]) -> [u64; 2] {
    [k1.wrapping_mul(C1), k2.wrapping_mul(C2)]
}

/// The remaining steps of mixing.
pub fn mixed([k1, k2]: [u64; 2]) -> [u64; 2] {
    [k1.rotate_left(31).wrapping_mul(C2), k2.rotate_left(33).wrapping_mul(C1)]
}

pub fn avalanche(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}
