//! A client's TLS and compression, by other libraries, or other parts of them, than the node uses.

use std::{
    io::{Read, Write},
    sync::Arc,
};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};

/// What snappy's framing format begins with.
pub const SNAPPY_IDENTIFIER: &[u8] = b"\xff\x06\x00\x00sNaPpY";

/// A compression that IDENTIFY can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// None.
    None,
    /// Snappy, with an identifier before everything that is sent at once, as pynsq has it.
    Snappy,
    /// Raw deflate.
    Deflate,
}

/// What lies between a client's bytes and its socket. Nothing, at first.
#[derive(Default)]
pub(crate) struct Layers {
    tls: Option<ClientConnection>,
    packing: Option<Codec>,
}

enum Codec {
    Snappy { waiting: Vec<u8> },
    Deflate { compress: Box<Compress>, decompress: Box<Decompress> },
}

impl std::fmt::Debug for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layers").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

impl Layers {
    /// Begins a handshake.
    pub(crate) fn encrypt(&mut self, config: Arc<ClientConfig>) {
        let name = ServerName::try_from("127.0.0.1").expect("an address is a name");
        self.tls = Some(ClientConnection::new(config, name).expect("the configuration is sound"));
    }

    pub(crate) fn pack(&mut self, packing: Packing) {
        self.packing = match packing {
            Packing::None => None,
            Packing::Snappy => Some(Codec::Snappy { waiting: Vec::new() }),
            Packing::Deflate => Some(Codec::Deflate {
                compress: Box::new(Compress::new(Compression::fast(), false)),
                decompress: Box::new(Decompress::new(false)),
            }),
        };
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// The certificate that the node has shown.
    pub(crate) fn certificate(&self) -> Option<Vec<u8>> {
        Some(self.tls.as_ref()?.peer_certificates()?.first()?.to_vec())
    }

    /// Plain bytes as they go to the socket.
    pub(crate) fn wrap(&mut self, plain: &[u8]) -> Vec<u8> {
        let packed = match &mut self.packing {
            None => plain.to_vec(),
            Some(Codec::Snappy { .. }) => {
                let mut encoder = snap::write::FrameEncoder::new(Vec::new());
                encoder.write_all(plain).expect("memory takes all");
                encoder.into_inner().expect("memory takes all")
            }
            Some(Codec::Deflate { compress, .. }) => {
                let mut out = Vec::with_capacity(plain.len() + 1024);
                compress.compress_vec(plain, &mut out, FlushCompress::Sync).expect("a stream that goes on");
                out
            }
        };
        self.seal(&packed)
    }

    /// What TLS makes of bytes that are packed already, or of none.
    pub(crate) fn seal(&mut self, packed: &[u8]) -> Vec<u8> {
        let Some(tls) = &mut self.tls else { return packed.to_vec() };
        let mut out = Vec::new();
        let mut rest = packed;
        loop {
            let taken = tls.writer().write(rest).expect("a connection that goes on");
            rest = &rest[taken..];
            while tls.wants_write() {
                tls.write_tls(&mut out).expect("memory takes all");
            }
            if rest.is_empty() {
                return out;
            }
        }
    }

    /// Plain bytes out of those of the socket.
    pub(crate) fn unwrap(&mut self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let packed = match &mut self.tls {
            None => bytes.to_vec(),
            Some(tls) => {
                let (mut rest, mut packed) = (bytes, Vec::new());
                while !rest.is_empty() {
                    if tls.read_tls(&mut rest).map_err(|error| error.to_string())? == 0 {
                        break;
                    }
                    tls.process_new_packets().map_err(|error| error.to_string())?;
                    // Nothing more to be read is told as an error.
                    let _ = tls.reader().read_to_end(&mut packed);
                }
                packed
            }
        };
        Ok(self.unpack(&packed))
    }

    /// Undoes the compression alone.
    pub(crate) fn unpack(&mut self, packed: &[u8]) -> Vec<u8> {
        match &mut self.packing {
            None => packed.to_vec(),
            Some(Codec::Snappy { waiting }) => {
                waiting.extend_from_slice(packed);
                let mut plain = Vec::new();
                while let Some(chunk) = take_chunk(waiting) {
                    let stream = [SNAPPY_IDENTIFIER, &chunk].concat();
                    let mut decoder = snap::read::FrameDecoder::new(&stream[..]);
                    decoder.read_to_end(&mut plain).expect("the node sends sound chunks");
                }
                plain
            }
            Some(Codec::Deflate { decompress, .. }) => {
                let (mut rest, mut plain) = (packed, Vec::new());
                loop {
                    plain.reserve(64 << 10);
                    let (before, length) = (decompress.total_in(), plain.len());
                    let undone = decompress.decompress_vec(rest, &mut plain, FlushDecompress::None);
                    undone.expect("the node sends sound blocks");
                    let taken = usize::try_from(decompress.total_in() - before).expect("it was in memory");
                    rest = &rest[taken..];
                    if taken == 0 && plain.len() == length {
                        return plain;
                    }
                }
            }
        }
    }
}

fn take_chunk(waiting: &mut Vec<u8>) -> Option<Vec<u8>> {
    let [_, low, middle, high] = *waiting.first_chunk()?;
    let end = 4 + u32::from_le_bytes([low, middle, high, 0]) as usize;
    (waiting.len() >= end).then(|| waiting.drain(..end).collect())
}
