//! Bytes that were read and not decoded yet.

/// Invariant: `start <= end <= data.len()`; the bytes after `end` are free.
#[derive(Debug, Default)]
pub(super) struct ReadBuffer {
    data: Vec<u8>,
    start: usize,
    end: usize,
    /// Whether a read has filled it.
    was_full: bool,
}

/// Of a connection with small replies. A client may have thousands of connections.
const SMALL_CAPACITY: usize = 16 * 1024;
/// Of a connection that has filled the small one, so that one read takes more.
const MIN_CAPACITY: usize = 64 * 1024;
/// Empty buffers above this capacity are freed.
const KEEP_CAPACITY: usize = 256 * 1024;

impl ReadBuffer {
    pub fn filled(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Removes the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.data.capacity() > KEEP_CAPACITY {
                self.data = Vec::new();
            }
        }
    }

    /// Free space for at least `wanted` bytes.
    pub fn room(&mut self, wanted: usize) -> &mut [u8] {
        let is_too_small = self.was_full && self.data.len() < MIN_CAPACITY;
        if self.data.len() - self.end < wanted || is_too_small {
            let len = self.len();
            if self.data.len() - len >= wanted && !is_too_small {
                self.data.copy_within(self.start..self.end, 0);
            } else {
                // The buffer doubles, because otherwise a large value would be moved once for each
                // part of it.
                let least = if self.was_full { MIN_CAPACITY } else { SMALL_CAPACITY };
                let capacity = least.max(len + wanted).max(2 * self.data.len());
                let mut data = vec![0; capacity];
                data[..len].copy_from_slice(self.filled());
                self.data = data;
            }
            (self.start, self.end) = (0, len);
        }
        &mut self.data[self.end..]
    }

    /// Marks `count` bytes of the free space as filled.
    pub fn add(&mut self, count: usize) {
        self.end += count;
        debug_assert!(self.end <= self.data.len());
        self.was_full |= self.end == self.data.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unconsumed_bytes_are_kept() {
        let mut buffer = ReadBuffer::default();
        let (mut written, mut read) = (0, 0);
        for step in 0..10_000usize {
            let room = buffer.room(1 + step % 700);
            let count = room.len().min(step * 7 % 900);
            for place in &mut room[..count] {
                *place = u8::try_from(written % 251).unwrap();
                written += 1;
            }
            buffer.add(count);
            let consumed = buffer.len().min(step * 11 % 900);
            for byte in &buffer.filled()[..consumed] {
                assert_eq!(usize::from(*byte), read % 251);
                read += 1;
            }
            buffer.consume(consumed);
        }
        assert_eq!(buffer.len(), written - read);
    }

    #[test]
    fn a_long_value_is_moved_a_few_times() {
        let (mut buffer, mut moves, mut at) = (ReadBuffer::default(), 0, std::ptr::null());
        while buffer.len() < 64 * 1024 * 1024 {
            let read = buffer.room(1024 * 1024).len().min(256 * 1024);
            buffer.add(read);
            moves += u32::from(buffer.data.as_ptr() != at);
            at = buffer.data.as_ptr();
        }
        assert!(moves <= 10, "{moves}");
    }

    #[test]
    fn gives_a_large_buffer_back() {
        let mut buffer = ReadBuffer::default();
        buffer.room(1024 * 1024);
        buffer.add(1);
        buffer.consume(1);
        assert_eq!(buffer.data.capacity(), 0);
        assert_eq!(buffer.room(1).len(), SMALL_CAPACITY);
    }

    #[test]
    fn a_buffer_that_was_full_grows() {
        let mut buffer = ReadBuffer::default();
        buffer.room(SMALL_CAPACITY)[0] = 7;
        buffer.add(SMALL_CAPACITY - 1);
        buffer.consume(SMALL_CAPACITY - 1);
        assert_eq!(buffer.room(SMALL_CAPACITY).len(), SMALL_CAPACITY);
        buffer.room(1)[SMALL_CAPACITY - 1] = 7;
        buffer.add(SMALL_CAPACITY);
        buffer.consume(SMALL_CAPACITY - 1);
        assert_eq!(buffer.room(1).len(), MIN_CAPACITY - 1);
        assert_eq!(buffer.filled(), [7]);
    }
}
