//! The hashes of keys that other clients use.
use md5::{Digest, Md5};

/// A hash of a key to 32 bits, named after what it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyHash {
    /// The whole CRC-32 (IEEE).
    Crc32,
    /// Bits 16 to 30 of the CRC-32.
    Crc32High,
    /// As [`Self::Crc32High`], and 1 in place of 0.
    Crc32HighNonZero,
    Fnv(Fnv, Units),
    /// Bits 16 to 30 of FNV-1a over signed bytes.
    Fnv1aHigh,
    /// The first four bytes of the MD5, little-endian.
    Md5,
    /// `MurmurHash2`, with a seed that depends on the length.
    Murmur2,
    /// Jenkins' one-at-a-time over signed bytes.
    OneAtATime,
    /// Java's `String.hashCode`.
    Java,
}

/// A variant of FNV. The rules use only the lower half of the 64-bit hashes, which depends on no
/// other bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fnv {
    One32,
    One64,
    OneA32,
    OneA64,
}

/// The units that are hashed, one at each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Units {
    /// Bytes as C's `char` on x86: those from 0x80 on are negative.
    Signed,
    Unsigned,
    /// The UTF-16 units of the text.
    Utf16,
}

impl KeyHash {
    pub fn hash(self, key: &[u8]) -> u32 {
        match self {
            Self::Crc32 => crc32fast::hash(key),
            Self::Crc32High => high_bits(crc32fast::hash(key)),
            Self::Crc32HighNonZero => high_bits(crc32fast::hash(key)).max(1),
            Self::Fnv(variant, units) => variant.hash(key, units),
            Self::Fnv1aHigh => high_bits(Fnv::OneA32.hash(key, Units::Signed)),
            Self::Md5 => md5_words(key)[0],
            Self::Murmur2 => murmur2(key),
            Self::OneAtATime => one_at_a_time(key),
            Self::Java => {
                utf16(key).fold(0, |hash: u32, unit| hash.wrapping_mul(31).wrapping_add(unit))
            }
        }
    }
}

fn high_bits(hash: u32) -> u32 {
    (hash >> 16) & 0x7fff
}

impl Fnv {
    fn hash(self, key: &[u8], units: Units) -> u32 {
        match units {
            Units::Signed => self.fold(key.iter().map(|byte| signed(*byte))),
            Units::Unsigned => self.fold(key.iter().map(|byte| u32::from(*byte))),
            Units::Utf16 => self.fold(utf16(key)),
        }
    }

    fn fold(self, units: impl Iterator<Item = u32>) -> u32 {
        const BASIS: u32 = 0x811c_9dc5;
        const PRIME: u32 = 0x0100_0193;
        /// The lower halves of the constants of the 64-bit hash.
        const BASIS_64: u32 = 0x8422_2325;
        const PRIME_64: u32 = 0x0000_01b3;
        let times_then_xor = |prime: u32| move |h: u32, unit: u32| h.wrapping_mul(prime) ^ unit;
        let xor_then_times = |prime: u32| move |h: u32, unit: u32| (h ^ unit).wrapping_mul(prime);
        match self {
            Self::One32 => units.fold(BASIS, times_then_xor(PRIME)),
            Self::One64 => units.fold(BASIS_64, times_then_xor(PRIME_64)),
            Self::OneA32 => units.fold(BASIS, xor_then_times(PRIME)),
            Self::OneA64 => units.fold(BASIS_64, xor_then_times(PRIME_64)),
        }
    }
}

/// A byte as C's `char` on x86, widened to 32 bits.
fn signed(byte: u8) -> u32 {
    i32::from(byte.cast_signed()).cast_unsigned()
}

/// Keys that are not UTF-8 cannot be a Java string. They are hashed with replacement characters.
fn utf16(key: &[u8]) -> impl Iterator<Item = u32> {
    let text = String::from_utf8_lossy(key);
    text.encode_utf16().map(u32::from).collect::<Vec<_>>().into_iter()
}

/// The MD5 as little-endian words.
pub fn md5_words(bytes: &[u8]) -> [u32; 4] {
    let digest: [u8; 16] = Md5::digest(bytes).into();
    let (words, _) = digest.as_chunks();
    std::array::from_fn(|at| u32::from_le_bytes(words[at]))
}

/// The MD5 as a big-endian number.
pub fn md5_number(bytes: &[u8]) -> u128 {
    u128::from_be_bytes(Md5::digest(bytes).into())
}

pub fn one_at_a_time(bytes: &[u8]) -> u32 {
    let hash = bytes.iter().fold(0_u32, |hash, byte| {
        let hash = hash.wrapping_add(signed(*byte));
        let hash = hash.wrapping_add(hash << 10);
        hash ^ (hash >> 6)
    });
    let hash = hash.wrapping_add(hash << 3);
    let hash = hash ^ (hash >> 11);
    hash.wrapping_add(hash << 15)
}

fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    #[allow(clippy::cast_possible_truncation, reason = "a key has at most 250 bytes")]
    let len = bytes.len() as u32;
    let (blocks, rest) = bytes.as_chunks();
    let mut hash = blocks.iter().fold(0xdead_beef_u32.wrapping_mul(len) ^ len, |hash, block| {
        let k = u32::from_le_bytes(*block).wrapping_mul(M);
        hash.wrapping_mul(M) ^ (k ^ (k >> 24)).wrapping_mul(M)
    });
    if !rest.is_empty() {
        let rest = rest.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        hash = (hash ^ rest).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}
