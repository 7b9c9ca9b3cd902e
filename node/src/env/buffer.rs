//! A growable buffer whose bytes start on a block boundary, so that a disk can take them directly.

use bytes::Bytes;

/// Block size, in bytes, that direct IO is aligned to: memory, file offset and length.
pub const ALIGNMENT: usize = 4096;

/// Bytes that start at a multiple of [`ALIGNMENT`] in memory.
///
/// Made without `unsafe`: a block too many is allocated and the aligned part of it used.
#[derive(Debug, Default)]
pub struct AlignedBuf {
    raw: Vec<u8>,
    start: usize,
}

impl AlignedBuf {
    /// An empty buffer that can take `capacity` bytes before it moves.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        let mut raw: Vec<u8> = Vec::with_capacity(capacity + ALIGNMENT);
        let start = raw.as_ptr().align_offset(ALIGNMENT);
        raw.resize(start, 0);
        Self { raw, start }
    }

    /// `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let raw = vec![0; len + ALIGNMENT];
        let start = raw.as_ptr().align_offset(ALIGNMENT);
        let mut buf = Self { raw, start };
        buf.raw.truncate(start + len);
        buf
    }

    /// Number of bytes held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.raw.len() - self.start
    }

    /// Bytes that it can take before it moves.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.raw.capacity() - self.start
    }

    /// True when nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.raw[self.start..]
    }

    /// The bytes, to change in place.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..]
    }

    /// Appends `bytes`; moves to a larger aligned allocation when they do not fit.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.raw.extend_from_slice(bytes);
    }

    /// Cuts to `len` bytes, or extends to it with zeros.
    pub fn resize(&mut self, len: usize) {
        self.reserve(len.saturating_sub(self.len()));
        self.raw.resize(self.start + len, 0);
    }

    /// Moves the last `keep` bytes to the front and forgets the others.
    pub fn keep_last(&mut self, keep: usize) {
        let len = self.len();
        let keep = keep.min(len);
        self.as_mut_slice().copy_within(len - keep.., 0);
        self.raw.truncate(self.start + keep);
    }

    /// The bytes as an immutable shared buffer, without a copy.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from(self.raw).slice(self.start..)
    }

    fn reserve(&mut self, additional: usize) {
        if self.raw.capacity() - self.raw.len() >= additional {
            return;
        }
        let wanted = (self.len() + additional).next_power_of_two();
        let mut larger = Self::with_capacity(wanted);
        larger.raw.extend_from_slice(self.as_slice());
        *self = larger;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aligned(buf: &AlignedBuf) -> bool {
        buf.as_slice().as_ptr().align_offset(ALIGNMENT) == 0
    }

    #[test]
    fn stays_aligned_while_it_grows() {
        let mut buf = AlignedBuf::with_capacity(10);
        let mut expected = Vec::new();
        for i in 0..5000_u32 {
            buf.extend_from_slice(&i.to_le_bytes());
            expected.extend_from_slice(&i.to_le_bytes());
            assert!(aligned(&buf));
        }
        assert_eq!(buf.as_slice(), expected);
    }

    #[test]
    fn keeps_the_last_bytes_only() {
        let mut buf = AlignedBuf::with_capacity(8);
        buf.extend_from_slice(b"abcdefgh");
        buf.keep_last(3);
        assert_eq!(buf.as_slice(), b"fgh");
        buf.resize(5);
        assert_eq!(buf.as_slice(), b"fgh\0\0");
        assert!(aligned(&buf));
    }

    #[test]
    fn zeroed_freezes_to_as_many_bytes() {
        let buf = AlignedBuf::zeroed(9000);
        assert!(aligned(&buf));
        assert_eq!(buf.freeze(), vec![0; 9000]);
    }
}
