//! Compression of the whole stream between a client and a node, once IDENTIFY has agreed on it.
//!
//! NSQ knows two kinds: snappy in its framing format, and raw deflate. Both are used here as streams: bytes
//! are [put](Packer::put) in any pieces and become readable for the peer with a [flush](Packer::flush); what
//! the peer sent is [unpacked](Unpacker::unpack) into a buffer of the caller's, never beyond it, so that a few
//! bytes that stand for gigabytes cost no more memory than others.

mod deflate;
mod snappy;

/// Which compression a stream has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// The framing format of snappy, with its checksums.
    Snappy,
    /// Raw deflate, without zlib's header.
    Deflate {
        /// How hard to try, 1 to 9. Other numbers are taken as the nearest of these.
        level: u32,
    },
}

/// The peer's bytes are not what they should be. The stream cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Corrupt(pub(crate) &'static str);

/// What a call to [`Unpacker::unpack`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes taken from the front of the input. The rest is to be given again.
    pub consumed: usize,
    /// Bytes written to the front of the output. When that is all of it, more may be waiting inside.
    pub produced: usize,
}

/// The sending side of a compressed stream.
#[derive(Debug)]
pub struct Packer(PackerKind);

#[derive(Debug)]
enum PackerKind {
    Snappy(Box<snappy::Packer>),
    Deflate(deflate::Packer),
}

impl Packer {
    /// A stream that begins now. It holds up to 100 KiB for snappy, and some 300 KiB for deflate.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self(match compression {
            Compression::Snappy => PackerKind::Snappy(Box::new(snappy::Packer::new())),
            Compression::Deflate { level } => PackerKind::Deflate(deflate::Packer::new(level)),
        })
    }

    /// Compresses `plain`. Some of what comes of it may be kept until more comes, or until a flush.
    pub fn put(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        match &mut self.0 {
            PackerKind::Snappy(packer) => packer.put(plain, out),
            PackerKind::Deflate(packer) => packer.put(plain, out),
        }
    }

    /// Writes out everything that was put, so that the peer can read it. Without anything new it writes nothing.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        match &mut self.0 {
            PackerKind::Snappy(packer) => packer.flush(out),
            PackerKind::Deflate(packer) => packer.flush(out),
        }
    }
}

/// The receiving side of a compressed stream.
#[derive(Debug)]
pub struct Unpacker(UnpackerKind);

#[derive(Debug)]
enum UnpackerKind {
    Snappy(Box<snappy::Unpacker>),
    Deflate(deflate::Unpacker),
}

impl Unpacker {
    /// A stream that begins now. It never holds more than 150 KiB, whatever comes.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        Self(match compression {
            Compression::Snappy => UnpackerKind::Snappy(Box::default()),
            Compression::Deflate { .. } => UnpackerKind::Deflate(deflate::Unpacker::new()),
        })
    }

    /// Decompresses the front of `input` to the front of `out`, until one of them is used up. With an `out` that
    /// is not empty, either all input is taken or all output is filled.
    ///
    /// # Errors
    /// The input is not of such a stream, or damaged. What was written to `out` before is not counted, and every
    /// later call fails as well.
    pub fn unpack(&mut self, input: &[u8], out: &mut [u8]) -> Result<Unpacked, Corrupt> {
        match &mut self.0 {
            UnpackerKind::Snappy(unpacker) => unpacker.unpack(input, out),
            UnpackerKind::Deflate(unpacker) => unpacker.unpack(input, out),
        }
    }
}

#[cfg(test)]
mod tests;
