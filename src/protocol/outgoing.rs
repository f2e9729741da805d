//! Bytes that wait to be written to a socket. Small pieces are copied together; large ones are
//! shared with their owner.
use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

const JOINED_BELOW: usize = 4 * 1024;

/// Invariant: `shared_len == sum(chunk.len())`; the chunks go before the tail.
#[derive(Debug, Default)]
pub struct Outgoing {
    chunks: VecDeque<Bytes>,
    shared_len: usize,
    tail: BytesMut,
}

impl Outgoing {
    /// The buffer to append to.
    #[inline]
    pub fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Appends bytes without a copy.
    pub fn push_shared(&mut self, bytes: Bytes) {
        for chunk in [self.tail.split().freeze(), bytes] {
            if !chunk.is_empty() {
                self.shared_len += chunk.len();
                self.chunks.push_back(chunk);
            }
        }
    }

    pub fn clear(&mut self) {
        self.advance(self.len());
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.shared_len + self.tail.len()
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `slices` with the first bytes, at most `limit`, and returns how many slices it filled.
    pub fn fill<'a>(&'a self, slices: &mut [&'a [u8]], mut limit: usize) -> usize {
        let mut filled = 0;
        let all = self.chunks.iter().map(|chunk| &chunk[..]).chain([&self.tail[..]]);
        for (slice, bytes) in slices.iter_mut().zip(all.filter(|bytes| !bytes.is_empty())) {
            let taken = bytes.len().min(limit);
            if taken == 0 {
                break;
            }
            *slice = &bytes[..taken];
            limit -= taken;
            filled += 1;
        }
        filled
    }

    /// Removes the first `count` bytes, which must exist.
    pub fn advance(&mut self, mut count: usize) {
        while let Some(chunk) = self.chunks.front_mut() {
            let taken = count.min(chunk.len());
            chunk.advance(taken);
            self.shared_len -= taken;
            count -= taken;
            if !chunk.is_empty() {
                return;
            }
            self.chunks.pop_front();
        }
        self.tail.advance(count);
    }

    /// Removes ranges of bytes. The ranges are sorted and do not overlap.
    pub fn cut(&mut self, ranges: &[(usize, usize)]) {
        let Some(&(_, last)) = ranges.last() else { return };
        if last > self.shared_len {
            // The bytes behind the last range are not moved.
            let front = self.tail.split_to(last - self.shared_len).freeze();
            self.shared_len += front.len();
            self.chunks.push_back(front);
        }
        let mut kept = Pieces::default();
        let (mut next, mut at) = (0, 0);
        while at < last {
            let Some(chunk) = self.chunks.pop_front() else { break };
            let end = at + chunk.len();
            let mut from = at;
            while let Some(&(start, stop)) = ranges.get(next)
                && start < end
            {
                if start > from {
                    kept.push(chunk.slice(from - at..start - at));
                }
                from = stop.min(end);
                if stop > end {
                    break;
                }
                next += 1;
            }
            if from < end {
                kept.push(chunk.slice(from - at..));
            }
            at = end;
        }
        kept.join();
        kept.chunks.append(&mut self.chunks);
        self.chunks = kept.chunks;
        self.shared_len -= ranges.iter().map(|(start, stop)| stop - start).sum::<usize>();
    }

    /// A copy of the bytes from `start` to `end`; `None` if the buffer does not contain all of
    /// them.
    pub fn copy(&self, start: usize, end: usize) -> Option<Bytes> {
        if start > end || end > self.len() {
            return None;
        }
        let mut copy = BytesMut::with_capacity(end - start);
        let mut at = 0;
        for bytes in self.chunks.iter().map(|chunk| &chunk[..]).chain([&self.tail[..]]) {
            let (from, to) = (start.clamp(at, at + bytes.len()), end.clamp(at, at + bytes.len()));
            copy.extend_from_slice(&bytes[from - at..to - at]);
            at += bytes.len();
        }
        Some(copy.freeze())
    }

    /// Frees memory that is not likely to be needed again.
    pub fn shrink_to(&mut self, capacity: usize) {
        if self.is_empty() && self.tail.capacity() > capacity {
            self.tail = BytesMut::new();
        }
    }
}

/// The remaining parts of cut chunks. Short parts are joined, because a write takes only a few
/// slices.
#[derive(Default)]
struct Pieces {
    chunks: VecDeque<Bytes>,
    short: BytesMut,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        if piece.len() < JOINED_BELOW {
            self.short.extend_from_slice(&piece);
        } else {
            self.join();
            self.chunks.push_back(piece);
        }
    }

    fn join(&mut self) {
        if !self.short.is_empty() {
            self.chunks.push_back(self.short.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(out: &mut Outgoing, at_once: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !out.is_empty() {
            let mut slices = [&[][..]; 3];
            let filled = out.fill(&mut slices, at_once);
            let taken = slices[..filled].concat();
            assert!(!taken.is_empty() && taken.len() <= at_once);
            out.advance(taken.len());
            all.extend(taken);
        }
        all
    }

    #[test]
    fn keeps_the_order_whatever_is_taken_at_once() {
        for at_once in 1..30 {
            let mut out = Outgoing::default();
            let mut expected = Vec::new();
            for n in 0..5u8 {
                out.tail().extend_from_slice(&[n; 3]);
                out.push_shared(Bytes::from(vec![100 + n; usize::from(n)]));
                expected.extend([vec![n; 3], vec![100 + n; usize::from(n)]].concat());
            }
            out.tail().extend_from_slice(b"end");
            expected.extend(b"end");
            assert_eq!(out.len(), expected.len());
            for start in 0..=expected.len() {
                for end in start..=expected.len() {
                    assert_eq!(out.copy(start, end).unwrap(), expected[start..end]);
                }
            }
            assert_eq!(out.copy(0, expected.len() + 1), None);
            assert_eq!(written(&mut out, at_once), expected);
        }
    }

    #[test]
    fn cut_leaves_the_rest_in_order() {
        let pieces = || {
            let mut out = Outgoing::default();
            for n in 0..4u8 {
                out.tail().extend_from_slice(&[n; 3]);
                out.push_shared(Bytes::from(vec![100 + n; 4]));
            }
            out.tail().extend_from_slice(b"the end");
            out
        };
        let all = written(&mut pieces(), 1000);
        for start in 0..all.len() {
            for stop in start + 1..=all.len() {
                for second in (stop..all.len()).step_by(3) {
                    let mut out = pieces();
                    out.cut(&[(start, stop), (second, second + 1)]);
                    let mut expected = all.clone();
                    expected.remove(second);
                    expected.drain(start..stop);
                    assert_eq!(out.len(), expected.len());
                    out.tail().extend_from_slice(b"more");
                    expected.extend(b"more");
                    assert_eq!(written(&mut out, 5), expected);
                }
            }
        }
    }

    #[test]
    fn cut_does_not_copy_long_pieces() {
        let mut out = Outgoing::default();
        let value = Bytes::from(vec![b'v'; 3 * JOINED_BELOW]);
        out.tail().extend_from_slice(b"head");
        out.push_shared(value.clone());
        out.cut(&[(0, 4), (4 + JOINED_BELOW, 5 + JOINED_BELOW)]);
        let mut slices = [&[][..]; 3];
        assert_eq!(out.fill(&mut slices, usize::MAX), 2);
        assert_eq!(slices[0].as_ptr(), value.as_ptr());
        assert_eq!(slices[1].len(), 2 * JOINED_BELOW - 1);
    }
}
