//! Snappy's framing format, version of 2013-10-25: chunks of up to 64 KiB of plain bytes, each with a type, a
//! length and a CRC-32C.
//!
//! Home-made around the `snap` crate's raw codec, for its own framing can neither be fed piece by piece nor
//! flushed without a writer behind it.

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::{Corrupt, Unpacked};

/// Most plain bytes of a chunk.
const PLAIN_MAX: usize = 64 * 1024;
/// Type and length of a chunk, and the checksum behind them.
const HEADER: usize = 4;
const CHECKSUM: usize = 4;
/// Longest body of a chunk that holds data: the checksum, and what [`PLAIN_MAX`] bytes may grow to.
const BODY_MAX: usize = CHECKSUM + 76_490;

const COMPRESSED: u8 = 0x00;
const UNCOMPRESSED: u8 = 0x01;
const IDENTIFIER: u8 = 0xff;
/// Chunks of these types are for others to understand. Those below must not be skipped.
const SKIPPABLE: std::ops::RangeInclusive<u8> = 0x80..=0xfe;
const IDENTIFIER_BODY: &[u8] = b"sNaPpY";
/// The chunk that begins a stream.
const IDENTIFIER_CHUNK: [u8; 10] = *b"\xff\x06\x00\x00sNaPpY";

pub(super) struct Packer {
    encoder: Encoder,
    begun: bool,
    /// Put and not yet in a chunk; less than [`PLAIN_MAX`].
    plain: Vec<u8>,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packer").field("plain", &self.plain.len()).finish_non_exhaustive()
    }
}

impl Packer {
    pub(super) fn new() -> Self {
        Self { encoder: Encoder::new(), begun: false, plain: Vec::new() }
    }

    pub(super) fn put(&mut self, mut plain: &[u8], out: &mut Vec<u8>) {
        while self.plain.len() + plain.len() >= PLAIN_MAX {
            let (now, later) = plain.split_at(PLAIN_MAX - self.plain.len());
            if self.plain.is_empty() {
                self.chunk(now, out);
            } else {
                self.plain.extend_from_slice(now);
                self.flush(out);
            }
            plain = later;
        }
        self.plain.extend_from_slice(plain);
    }

    pub(super) fn flush(&mut self, out: &mut Vec<u8>) {
        let mut plain = std::mem::take(&mut self.plain);
        if !plain.is_empty() {
            self.chunk(&plain, out);
            plain.clear();
        }
        self.plain = plain;
    }

    fn chunk(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        if !self.begun {
            self.begun = true;
            out.extend_from_slice(&IDENTIFIER_CHUNK);
        }
        let start = out.len();
        let body = start + HEADER + CHECKSUM;
        out.resize(body + max_compress_len(plain.len()), 0);
        let packed = out.get_mut(body..).and_then(|room| self.encoder.compress(plain, room).ok());
        // As Go's library: what saves less than an eighth is not worth the peer's time.
        let kind = match packed.filter(|packed| *packed < plain.len() - plain.len() / 8) {
            Some(packed) => {
                out.truncate(body + packed);
                COMPRESSED
            }
            None => {
                out.truncate(body);
                out.extend_from_slice(plain);
                UNCOMPRESSED
            }
        };
        let len = (out.len() - start - HEADER) as u32;
        let [low, middle, high, _] = len.to_le_bytes();
        let header = [[kind, low, middle, high], checksum(plain).to_le_bytes()];
        if let Some(room) = out.get_mut(start..body) {
            room.copy_from_slice(header.as_flattened());
        }
    }
}

#[derive(Default)]
pub(super) struct Unpacker {
    decoder: Decoder,
    /// The stream has begun with its identifier.
    begun: bool,
    broken: Option<Corrupt>,
    /// The part of a chunk that came so far; at most [`HEADER`] + [`BODY_MAX`].
    chunk: Vec<u8>,
    /// Bytes of the chunk under way that nobody needs.
    skip: usize,
    /// Plain bytes of a chunk that found no room, from `given` on; at most [`PLAIN_MAX`].
    plain: Vec<u8>,
    given: usize,
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").field("chunk", &self.chunk.len()).finish_non_exhaustive()
    }
}

impl Unpacker {
    pub(super) fn unpack(&mut self, input: &[u8], out: &mut [u8]) -> Result<Unpacked, Corrupt> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        self.advance(input, out).inspect_err(|corrupt| self.broken = Some(*corrupt))
    }

    fn advance(&mut self, input: &[u8], out: &mut [u8]) -> Result<Unpacked, Corrupt> {
        let mut done = Unpacked::default();
        loop {
            done.produced += self.give(out.get_mut(done.produced..).unwrap_or_default());
            let rest = input.get(done.consumed..).unwrap_or_default();
            if rest.is_empty() || self.given < self.plain.len() || done.produced == out.len() {
                return Ok(done);
            }
            if self.skip > 0 {
                let now = self.skip.min(rest.len());
                self.skip -= now;
                done.consumed += now;
            } else {
                let room = out.get_mut(done.produced..).unwrap_or_default();
                let (consumed, produced) = self.take(rest, room)?;
                done.consumed += consumed;
                done.produced += produced;
            }
        }
    }

    /// Hands out what waits.
    fn give(&mut self, out: &mut [u8]) -> usize {
        let waiting = self.plain.get(self.given..).unwrap_or_default();
        let now = waiting.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..now), waiting.get(..now)) {
            to.copy_from_slice(from);
        }
        self.given += now;
        if self.given == self.plain.len() {
            self.plain.clear();
            self.given = 0;
        }
        now
    }

    /// Takes a step with input that is not empty: a chunk that is there as a whole is read where it lies, others
    /// are collected first.
    fn take(&mut self, input: &[u8], out: &mut [u8]) -> Result<(usize, usize), Corrupt> {
        if self.chunk.is_empty()
            && let Some((header, body)) = input.split_first_chunk::<HEADER>()
        {
            let (kind, len) = self.open(*header)?;
            if SKIPPABLE.contains(&kind) {
                self.skip = len;
                return Ok((HEADER, 0));
            }
            if let Some(body) = body.get(..len) {
                return Ok((HEADER + len, self.read(kind, body, out)?));
            }
        }
        // The header first: it says how much more is worth waiting for.
        let Some(header) = self.chunk.first_chunk::<HEADER>().copied() else {
            let now = (HEADER - self.chunk.len()).min(input.len());
            self.chunk.extend_from_slice(input.get(..now).unwrap_or_default());
            if let Some(header) = self.chunk.first_chunk::<HEADER>().copied() {
                let (kind, len) = self.open(header)?;
                if SKIPPABLE.contains(&kind) {
                    self.chunk.clear();
                    self.skip = len;
                }
            }
            return Ok((now, 0));
        };
        let (kind, len) = self.open(header)?;
        let now = (HEADER + len - self.chunk.len()).min(input.len());
        self.chunk.extend_from_slice(input.get(..now).unwrap_or_default());
        let mut produced = 0;
        if self.chunk.len() == HEADER + len {
            let chunk = std::mem::take(&mut self.chunk);
            produced = self.read(kind, chunk.get(HEADER..).unwrap_or_default(), out)?;
            self.chunk = chunk;
            self.chunk.clear();
        }
        Ok((now, produced))
    }

    /// The type and the length of a chunk that may come now.
    fn open(&self, [kind, low, middle, high]: [u8; HEADER]) -> Result<(u8, usize), Corrupt> {
        let len = u32::from_le_bytes([low, middle, high, 0]) as usize;
        match kind {
            IDENTIFIER if len != IDENTIFIER_BODY.len() => Err(Corrupt("snappy: a bad stream identifier")),
            IDENTIFIER => Ok((kind, len)),
            _ if !self.begun => Err(Corrupt("snappy: the stream does not begin with its identifier")),
            COMPRESSED | UNCOMPRESSED if (CHECKSUM..=BODY_MAX).contains(&len) => Ok((kind, len)),
            COMPRESSED | UNCOMPRESSED => Err(Corrupt("snappy: a chunk of an impossible length")),
            _ if SKIPPABLE.contains(&kind) => Ok((kind, len)),
            _ => Err(Corrupt("snappy: a chunk of a reserved type")),
        }
    }

    /// Reads a whole chunk, to `out` if that has room for all of it.
    fn read(&mut self, kind: u8, body: &[u8], out: &mut [u8]) -> Result<usize, Corrupt> {
        if kind == IDENTIFIER {
            if body != IDENTIFIER_BODY {
                return Err(Corrupt("snappy: a bad stream identifier"));
            }
            self.begun = true;
            return Ok(0);
        }
        let Some((expected, data)) = body.split_first_chunk::<CHECKSUM>() else {
            return Err(Corrupt("snappy: a chunk of an impossible length"));
        };
        let bad = |_| Corrupt("snappy: a chunk that cannot be decompressed");
        let len = if kind == COMPRESSED { decompress_len(data).map_err(bad)? } else { data.len() };
        if len > PLAIN_MAX {
            return Err(Corrupt("snappy: a chunk of more than 64 KiB"));
        }
        let direct = len <= out.len();
        let room = if direct {
            out.get_mut(..len).unwrap_or_default()
        } else {
            self.plain.resize(len, 0);
            &mut self.plain[..]
        };
        if kind == COMPRESSED {
            self.decoder.decompress(data, room).map_err(bad)?;
        } else {
            room.copy_from_slice(data);
        }
        if checksum(room).to_le_bytes() != *expected {
            return Err(Corrupt("snappy: a checksum that does not fit"));
        }
        Ok(if direct { len } else { 0 })
    }
}

/// CRC-32C, masked as the format wants it, since it may be computed over bytes that hold one.
fn checksum(plain: &[u8]) -> u32 {
    crc32c::crc32c(plain).rotate_right(15).wrapping_add(0xa282_ead8)
}
