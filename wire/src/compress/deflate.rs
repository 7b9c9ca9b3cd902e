//! Raw deflate with sync flushes, as Go's `compress/flate` writes it.

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};

use super::{Corrupt, Unpacked};

/// Room that is made for compressed bytes at a time.
const STEP: usize = 4096;

#[derive(Debug)]
pub(super) struct Packer {
    compress: Compress,
    /// Bytes were put since the last flush.
    dirty: bool,
}

impl Packer {
    pub(super) fn new(level: u32) -> Self {
        let level = flate2::Compression::new(level.clamp(1, 9));
        Self { compress: Compress::new(level, false), dirty: false }
    }

    pub(super) fn put(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        self.dirty |= !plain.is_empty();
        self.run(plain, out, FlushCompress::None);
    }

    pub(super) fn flush(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.dirty) {
            self.run(&[], out, FlushCompress::Sync);
        }
    }

    fn run(&mut self, mut plain: &[u8], out: &mut Vec<u8>, flush: FlushCompress) {
        loop {
            // A flush needs a little even where there is nothing to say.
            if out.capacity() - out.len() < STEP / 8 {
                out.reserve(STEP);
            }
            let before = self.compress.total_in();
            // Fails only on a stream that was finished, and none is.
            if self.compress.compress_vec(plain, out, flush).is_err() {
                return;
            }
            let taken = (self.compress.total_in() - before) as usize;
            plain = plain.get(taken..).unwrap_or_default();
            // Room that is left over means that nothing waits inside.
            if plain.is_empty() && out.len() < out.capacity() {
                return;
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Unpacker {
    decompress: Decompress,
    /// The peer has ended its stream.
    ended: bool,
    broken: bool,
}

impl Unpacker {
    pub(super) fn new() -> Self {
        Self { decompress: Decompress::new(false), ended: false, broken: false }
    }

    pub(super) fn unpack(&mut self, input: &[u8], out: &mut [u8]) -> Result<Unpacked, Corrupt> {
        if self.broken {
            return Err(Corrupt("deflate: damaged"));
        }
        let mut done = Unpacked::default();
        while !self.ended {
            let (rest, room) = (input.get(done.consumed..), out.get_mut(done.produced..));
            let (rest, room) = (rest.unwrap_or_default(), room.unwrap_or_default());
            if room.is_empty() {
                break;
            }
            let (before_in, before_out) = (self.decompress.total_in(), self.decompress.total_out());
            let status = self.decompress.decompress(rest, room, FlushDecompress::None).map_err(|_| {
                self.broken = true;
                Corrupt("deflate: damaged")
            })?;
            let consumed = (self.decompress.total_in() - before_in) as usize;
            let produced = (self.decompress.total_out() - before_out) as usize;
            done.consumed += consumed;
            done.produced += produced;
            self.ended = status == Status::StreamEnd;
            if consumed + produced == 0 {
                break;
            }
        }
        if self.ended && done.consumed < input.len() {
            self.broken = true;
            return Err(Corrupt("deflate: bytes behind the end of the stream"));
        }
        Ok(done)
    }
}
