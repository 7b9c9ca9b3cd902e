//! What compression costs around the compressor itself: the same bytes, cut into the same flushes, by the bare
//! compressor and by the stream that a connection has. Compare the rows by pairs: the goal is at most 1.2.

use bruit_wire::{
    MessageId,
    compress::{Compression, Packer, Unpacker},
    nsq::put_message,
};
use bytes::BytesMut;
use divan::{Bencher, black_box, counter::BytesCount};
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress};

/// Plain bytes of a flush: a few messages, a busy connection, a full one.
const FLUSHES: [usize; 3] = [1 << 10, 16 << 10, 256 << 10];
/// Plain bytes in all.
const TOTAL: usize = 1 << 20;
const DEFLATE: Compression = Compression::Deflate { level: 6 };
/// Most plain bytes of a chunk of snappy.
const CHUNK: usize = 64 << 10;

fn main() {
    divan::main();
}

/// Frames of messages that look like what people send.
fn plain() -> Vec<u8> {
    let mut out = BytesMut::new();
    for sequence in 0.. {
        let number = sequence * 7_919 % 10_007;
        let body = format!(
            r#"{{"id":{sequence},"user":"user-{number}","action":"view","path":"/items/{}","took_ms":{}}}"#,
            number * 31 % 997,
            number % 113
        );
        put_message(&mut out, 1_700_000_000_000_000_000, 1, MessageId::new(1, sequence), body.as_bytes());
        if out.len() >= TOTAL {
            break;
        }
    }
    out[..TOTAL].to_vec()
}

fn pack(bencher: Bencher<'_, '_>, compression: Compression, flush: usize) {
    let (plain, mut out) = (plain(), Vec::with_capacity(2 * TOTAL));
    let mut packer = Packer::new(compression);
    bencher.counter(BytesCount::new(TOTAL)).bench_local(|| {
        out.clear();
        for piece in black_box(&plain).chunks(flush) {
            // As the frames of messages come.
            piece.chunks(4096).for_each(|slice| packer.put(slice, &mut out));
            packer.flush(&mut out);
        }
        out.len()
    });
}

fn unpack(bencher: Bencher<'_, '_>, compression: Compression, flush: usize) {
    let mut packed = Vec::new();
    let mut packer = Packer::new(compression);
    for piece in plain().chunks(flush) {
        packer.put(piece, &mut packed);
        packer.flush(&mut packed);
    }
    let mut room = vec![0; 256 << 10];
    bencher.counter(BytesCount::new(TOTAL)).bench_local(|| {
        let (mut unpacker, mut produced) = (Unpacker::new(compression), 0);
        // As a socket gives it.
        for mut piece in black_box(&packed).chunks(32 << 10) {
            loop {
                let Ok(done) = unpacker.unpack(piece, &mut room) else { return 0 };
                produced += done.produced;
                piece = &piece[done.consumed..];
                if done.produced < room.len() {
                    break;
                }
            }
        }
        assert_eq!(produced, TOTAL);
        produced
    });
}

#[divan::bench(args = FLUSHES)]
fn pack_snappy_as_a_stream(bencher: Bencher<'_, '_>, flush: usize) {
    pack(bencher, Compression::Snappy, flush);
}

/// The raw codec and the checksum that the format wants.
#[divan::bench(args = FLUSHES)]
fn pack_snappy_bare(bencher: Bencher<'_, '_>, flush: usize) {
    let (plain, mut room) = (plain(), vec![0; snap::raw::max_compress_len(CHUNK)]);
    let mut encoder = snap::raw::Encoder::new();
    bencher.counter(BytesCount::new(TOTAL)).bench_local(|| {
        let mut packed = 0;
        for piece in black_box(&plain).chunks(flush).flat_map(|piece| piece.chunks(CHUNK)) {
            black_box(crc32c::crc32c(piece));
            packed += encoder.compress(piece, &mut room).unwrap_or_default();
        }
        packed
    });
}

#[divan::bench(args = FLUSHES)]
fn unpack_snappy_as_a_stream(bencher: Bencher<'_, '_>, flush: usize) {
    unpack(bencher, Compression::Snappy, flush);
}

#[divan::bench(args = FLUSHES)]
fn unpack_snappy_bare(bencher: Bencher<'_, '_>, flush: usize) {
    let (plain, mut encoder) = (plain(), snap::raw::Encoder::new());
    let pieces = plain.chunks(flush).flat_map(|piece| piece.chunks(CHUNK));
    let packed: Vec<Vec<u8>> = pieces.filter_map(|piece| encoder.compress_vec(piece).ok()).collect();
    let mut room = vec![0; CHUNK];
    bencher.counter(BytesCount::new(TOTAL)).bench_local(|| {
        let (mut decoder, mut produced) = (snap::raw::Decoder::new(), 0);
        for piece in black_box(&packed) {
            let read = decoder.decompress(piece, &mut room).unwrap_or_default();
            black_box(crc32c::crc32c(&room[..read]));
            produced += read;
        }
        assert_eq!(produced, TOTAL);
        produced
    });
}

#[divan::bench(args = FLUSHES)]
fn pack_deflate_as_a_stream(bencher: Bencher<'_, '_>, flush: usize) {
    pack(bencher, DEFLATE, flush);
}

#[divan::bench(args = FLUSHES)]
fn pack_deflate_bare(bencher: Bencher<'_, '_>, flush: usize) {
    let (plain, mut out) = (plain(), Vec::with_capacity(2 * TOTAL));
    let mut compress = Compress::new(flate2::Compression::new(6), false);
    bencher.counter(BytesCount::new(TOTAL)).bench_local(|| {
        out.clear();
        for piece in black_box(&plain).chunks(flush) {
            let packed = compress.compress_vec(piece, &mut out, FlushCompress::Sync);
            assert!(packed.is_ok());
        }
        out.len()
    });
}

#[divan::bench(args = FLUSHES)]
fn unpack_deflate_as_a_stream(bencher: Bencher<'_, '_>, flush: usize) {
    unpack(bencher, DEFLATE, flush);
}

#[divan::bench(args = FLUSHES)]
fn unpack_deflate_bare(bencher: Bencher<'_, '_>, flush: usize) {
    let (plain, mut packed) = (plain(), Vec::with_capacity(2 * TOTAL));
    let mut compress = Compress::new(flate2::Compression::new(6), false);
    for piece in plain.chunks(flush) {
        let done = compress.compress_vec(piece, &mut packed, FlushCompress::Sync);
        assert!(done.is_ok());
    }
    let mut room = vec![0; TOTAL + 1];
    bencher.counter(BytesCount::new(TOTAL)).bench_local(|| {
        let mut decompress = Decompress::new(false);
        let done = decompress.decompress(black_box(&packed), &mut room, FlushDecompress::None);
        assert!(done.is_ok() && decompress.total_out() == TOTAL as u64);
        decompress.total_out()
    });
}
