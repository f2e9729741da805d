//! [`super::md5_lanes::compress`] with AVX2: the eight lanes are one register.
use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_and_si256, _mm256_extract_epi32, _mm256_or_si256,
    _mm256_set1_epi32, _mm256_setr_epi32, _mm256_slli_epi32, _mm256_srli_epi32, _mm256_xor_si256,
};

use super::md5_lanes::{Block, CONSTANTS, Lanes, State};

/// Sixteen steps. A macro, because shifts are constants.
macro_rules! round {
    ($state:ident, $block:ident, $number:literal, $factor:literal, $offset:literal, $mix:ident,
     [$($left:literal $right:literal),+]) => {
        for first in (0..16).step_by(4) {
            let mut at: usize = first;
            $({
                let [a, b, c, d] = $state;
                let words = &$block[($factor * at + $offset) % 16];
                let constant = _mm256_set1_epi32(CONSTANTS[16 * $number + at].cast_signed());
                let input = _mm256_add_epi32(_mm256_add_epi32(a, load(words)), constant);
                let sum = _mm256_add_epi32(input, $mix(b, c, d));
                let (left, right) =
                    (_mm256_slli_epi32::<$left>(sum), _mm256_srli_epi32::<$right>(sum));
                $state = [d, _mm256_add_epi32(_mm256_or_si256(left, right), b), b, c];
                at += 1;
            })+
            debug_assert_eq!(at, first + 4);
        }
    };
}

#[target_feature(enable = "avx2")]
pub fn compress(state: State, block: &Block) -> State {
    let start = [load(&state[0]), load(&state[1]), load(&state[2]), load(&state[3])];
    let mut mixed = start;
    round!(mixed, block, 0, 1, 0, mix_0, [7 25, 12 20, 17 15, 22 10]);
    round!(mixed, block, 1, 5, 1, mix_1, [5 27, 9 23, 14 18, 20 12]);
    round!(mixed, block, 2, 3, 5, mix_2, [4 28, 11 21, 16 16, 23 9]);
    round!(mixed, block, 3, 7, 0, mix_3, [6 26, 10 22, 15 17, 21 11]);
    [
        store(_mm256_add_epi32(start[0], mixed[0])),
        store(_mm256_add_epi32(start[1], mixed[1])),
        store(_mm256_add_epi32(start[2], mixed[2])),
        store(_mm256_add_epi32(start[3], mixed[3])),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn mix_0(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    _mm256_xor_si256(d, _mm256_and_si256(b, _mm256_xor_si256(c, d)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn mix_1(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    mix_0(d, b, c)
}

#[inline]
#[target_feature(enable = "avx2")]
fn mix_2(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    _mm256_xor_si256(b, _mm256_xor_si256(c, d))
}

#[inline]
#[target_feature(enable = "avx2")]
fn mix_3(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    let not_d = _mm256_xor_si256(d, _mm256_set1_epi32(-1));
    _mm256_xor_si256(c, _mm256_or_si256(b, not_d))
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(lanes: &Lanes) -> __m256i {
    _mm256_setr_epi32(
        lanes[0].cast_signed(),
        lanes[1].cast_signed(),
        lanes[2].cast_signed(),
        lanes[3].cast_signed(),
        lanes[4].cast_signed(),
        lanes[5].cast_signed(),
        lanes[6].cast_signed(),
        lanes[7].cast_signed(),
    )
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(lanes: __m256i) -> Lanes {
    [
        _mm256_extract_epi32::<0>(lanes).cast_unsigned(),
        _mm256_extract_epi32::<1>(lanes).cast_unsigned(),
        _mm256_extract_epi32::<2>(lanes).cast_unsigned(),
        _mm256_extract_epi32::<3>(lanes).cast_unsigned(),
        _mm256_extract_epi32::<4>(lanes).cast_unsigned(),
        _mm256_extract_epi32::<5>(lanes).cast_unsigned(),
        _mm256_extract_epi32::<6>(lanes).cast_unsigned(),
        _mm256_extract_epi32::<7>(lanes).cast_unsigned(),
    ]
}
