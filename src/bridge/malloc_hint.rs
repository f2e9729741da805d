//! Has glibc keep the memory of long values for the next ones.
//!
//! A value of more than some kilobytes gets memory from the top of the heap, or mapped for it alone, and when it is
//! freed glibc gives that back to the system: each page is then made and cleared anew for the next value, which
//! costs more than to receive it. How much glibc keeps (`M_TRIM_THRESHOLD`) follows by itself from the largest
//! block that was ever mapped and freed; so one is, when a program turns out to move long values. No page
//! of it is touched. Where `MALLOC_TRIM_THRESHOLD_` or `mallopt` decides, glibc leaves it at that; other allocators
//! do not care.
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

/// Shorter ones are no trouble.
const LONG: usize = 8 * 1024;
/// Who moves so many will move more.
const MANY: u32 = 64;
/// glibc keeps twice as much.
const BLOCK: usize = 16 * 1024 * 1024;

static SEEN: AtomicU32 = AtomicU32::new(0);

/// A value of this length is made.
#[inline]
pub fn note_value_len(len: usize) {
    if len >= LONG && SEEN.load(Ordering::Relaxed) < MANY {
        count();
    }
}

#[cold]
fn count() {
    if SEEN.fetch_add(1, Ordering::Relaxed) + 1 == MANY {
        let mut block: Vec<u8> = Vec::new();
        // Where it cannot be had, nothing is lost.
        let _ = black_box(&mut block).try_reserve_exact(BLOCK);
    }
}
