//! Buffers for direct reads, used again once the last slice of what was read is gone: a fresh megabyte for
//! each stretch of a backlog costs more in zeroing and page faults than the read itself.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::super::AlignedBuf;

/// Buffers that are kept for the next read; more are let go.
const KEPT_MAX: usize = 4;
/// A larger buffer is let go, bytes: one stretch of the journal and the blocks that it begins and ends in.
const KEPT_BYTES: usize = 1024 * 1024 + 2 * 4096;

/// The buffers that are free.
#[derive(Debug, Default)]
pub(super) struct ReadPool {
    free: Mutex<Vec<AlignedBuf>>,
}

/// A buffer that goes back to its pool when the last reader of it is gone.
struct Lent {
    buffer: AlignedBuf,
    pool: Arc<ReadPool>,
}

impl ReadPool {
    /// A buffer of at least `len` bytes, whatever is in it.
    pub(super) fn take(&self, len: usize) -> AlignedBuf {
        let mut buffer = self.free.lock().pop().unwrap_or_default();
        if buffer.len() < len {
            buffer.resize(len);
        }
        buffer
    }

    /// The buffer's content, shared; its last slice puts the buffer back.
    pub(super) fn lend(self: &Arc<Self>, buffer: AlignedBuf) -> Bytes {
        Bytes::from_owner(Lent { buffer, pool: Arc::clone(self) })
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_slice()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut free = self.pool.free.lock();
        if free.len() < KEPT_MAX && self.buffer.len() <= KEPT_BYTES {
            free.push(std::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_slice_is_gone() {
        let pool = Arc::new(ReadPool::default());
        let mut buffer = pool.take(8192);
        buffer.as_mut_slice()[0] = 7;
        let whole = pool.lend(buffer);
        let part = whole.slice(..1);
        drop(whole);
        assert_eq!((pool.free.lock().len(), &part[..]), (0, &[7][..]));
        drop(part);
        assert_eq!(pool.free.lock().len(), 1);
        assert_eq!(pool.take(4096).len(), 8192, "the same buffer, not zeroed again");
    }

    #[test]
    fn large_and_surplus_buffers_are_let_go() {
        let pool = Arc::new(ReadPool::default());
        drop(pool.lend(AlignedBuf::zeroed(KEPT_BYTES + 1)));
        assert_eq!(pool.free.lock().len(), 0);
        let lent: Vec<_> = (0..KEPT_MAX + 3).map(|_| pool.lend(AlignedBuf::zeroed(4096))).collect();
        drop(lent);
        assert_eq!(pool.free.lock().len(), KEPT_MAX);
    }
}
