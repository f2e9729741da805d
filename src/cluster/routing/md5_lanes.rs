//! MD5 of eight messages of equal length, side by side.
use std::array;

pub const LANES: usize = 8;
pub const BLOCK_LEN: usize = 64;
/// The same word of each message.
pub type Lanes = [u32; LANES];
/// The hash so far of each message.
pub type State = [Lanes; 4];
/// One block of each message.
pub type Block = [Lanes; 16];

pub const START: State =
    [[0x6745_2301; LANES], [0xefcd_ab89; LANES], [0x98ba_dcfe; LANES], [0x1032_5476; LANES]];

#[rustfmt::skip]
pub const CONSTANTS: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee,
    0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be,
    0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa,
    0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed,
    0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c,
    0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05,
    0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039,
    0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1,
    0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];

#[must_use]
pub fn compress(state: State, block: &Block) -> State {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        #[allow(unsafe_code)]
        return unsafe { super::md5_avx2::compress(state, block) };
    }
    compress_portably(state, block)
}

fn compress_portably(state: State, block: &Block) -> State {
    let mut mixed = state;
    round::<7, 12, 17, 22>(&mut mixed, block, 0, |i| i, |b, c, d| d ^ (b & (c ^ d)));
    round::<5, 9, 14, 20>(&mut mixed, block, 1, |i| 5 * i + 1, |b, c, d| c ^ (d & (b ^ c)));
    round::<4, 11, 16, 23>(&mut mixed, block, 2, |i| 3 * i + 5, |b, c, d| b ^ c ^ d);
    round::<6, 10, 15, 21>(&mut mixed, block, 3, |i| 7 * i, |b, c, d| c ^ (b | !d));
    array::from_fn(|word| array::from_fn(|lane| state[word][lane].wrapping_add(mixed[word][lane])))
}

/// Sixteen steps.
#[inline(always)]
#[allow(clippy::inline_always, reason = "the closures have to be known")]
fn round<const S0: u32, const S1: u32, const S2: u32, const S3: u32>(
    [a, b, c, d]: &mut State,
    block: &Block,
    number: usize,
    word: impl Fn(usize) -> usize,
    mix: impl Fn(u32, u32, u32) -> u32 + Copy,
) {
    for i in (0..16).step_by(4) {
        let input = |i: usize| (&block[word(i) % 16], CONSTANTS[16 * number + i]);
        step::<S0>(a, b, c, d, input(i), mix);
        step::<S1>(d, a, b, c, input(i + 1), mix);
        step::<S2>(c, d, a, b, input(i + 2), mix);
        step::<S3>(b, c, d, a, input(i + 3), mix);
    }
}

/// Not inlined, because the compiler uses vector registers only for a short function that ends with
/// a write to memory. Inlined, a block takes 2.5 times as long.
#[inline(never)]
fn step<const SHIFT: u32>(
    a: &mut Lanes,
    b: &Lanes,
    c: &Lanes,
    d: &Lanes,
    (words, constant): (&Lanes, u32),
    mix: impl Fn(u32, u32, u32) -> u32,
) {
    for lane in 0..LANES {
        let sum = mix(b[lane], c[lane], d[lane])
            .wrapping_add(a[lane])
            .wrapping_add(words[lane])
            .wrapping_add(constant);
        a[lane] = sum.rotate_left(SHIFT).wrapping_add(b[lane]);
    }
}

pub fn words_of(block: &[u8; BLOCK_LEN]) -> [u32; 16] {
    let (words, _) = block.as_chunks();
    array::from_fn(|word| u32::from_le_bytes(words[word]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The properties of the rules test the variant of this machine against the crate `md5`.
        #[test]
        fn all_variants_agree(words: [Lanes; 16], state: State) {
            prop_assert_eq!(compress(state, &words), compress_portably(state, &words));
        }
    }
}
