use proptest::prelude::*;

use super::*;

const SNAPPY: Compression = Compression::Snappy;
const DEFLATE: Compression = Compression::Deflate { level: 6 };

fn pack(compression: Compression, pieces: &[&[u8]]) -> Vec<u8> {
    let (mut packer, mut out) = (Packer::new(compression), Vec::new());
    for piece in pieces {
        packer.put(piece, &mut out);
        packer.flush(&mut out);
    }
    out
}

/// Unpacks `input` in pieces of `step` bytes into a buffer of `room` bytes.
fn unpack(compression: Compression, input: &[u8], step: usize, room: usize) -> Result<Vec<u8>, Corrupt> {
    let (mut unpacker, mut out, mut plain) = (Unpacker::new(compression), vec![0; room], Vec::new());
    for mut piece in input.chunks(step) {
        loop {
            let done = unpacker.unpack(piece, &mut out)?;
            plain.extend_from_slice(&out[..done.produced]);
            piece = &piece[done.consumed..];
            if done.produced < room {
                assert!(piece.is_empty(), "either side is used up");
                break;
            }
        }
    }
    Ok(plain)
}

fn chunk(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut chunk = vec![kind];
    chunk.extend_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes()[..3]);
    chunk.extend_from_slice(body);
    chunk
}

const IDENTIFIER: &[u8] = b"\xff\x06\x00\x00sNaPpY";
/// `OK` as a real nsqd sends it.
const OK: &[u8] = b"\x01\x0e\x00\x00\x26\x98\x2b\xcf\x00\x00\x00\x06\x00\x00\x00\x00OK";

#[test]
fn snappys_first_bytes_are_those_of_nsqd() {
    let plain = b"\x00\x00\x00\x06\x00\x00\x00\x00OK";
    assert_eq!(pack(SNAPPY, &[plain]), [IDENTIFIER, OK].concat());
    assert_eq!(pack(SNAPPY, &[plain, plain]), [IDENTIFIER, OK, OK].concat());
    assert_eq!(unpack(SNAPPY, &[IDENTIFIER, OK].concat(), 1, 3).unwrap(), plain);
}

#[test]
fn every_flush_is_readable_at_once_and_an_idle_one_is_nothing() {
    for compression in [SNAPPY, DEFLATE] {
        let (mut packer, mut unpacker) = (Packer::new(compression), Unpacker::new(compression));
        for plain in [&b"a"[..], &[7; 1000], b"", b"z"] {
            let (mut out, mut back) = (Vec::new(), [0; 2000]);
            packer.put(plain, &mut out);
            packer.flush(&mut out);
            let done = unpacker.unpack(&out, &mut back).unwrap();
            assert_eq!((done.consumed, &back[..done.produced]), (out.len(), plain));
            let before = out.len();
            packer.flush(&mut out);
            assert_eq!(out.len(), before, "{compression:?}");
        }
    }
}

#[test]
fn deflate_ends_every_flush_with_a_sync_marker() {
    let packed = pack(DEFLATE, &[b"hello hello hello"]);
    assert_eq!(packed[packed.len() - 4..], [0, 0, 0xff, 0xff]);
    // Empty blocks, which idle flushes of other servers make, are nothing.
    let idle = [&packed[..], b"\x00\x00\x00\xff\xff", b"\x00\x00\x00\xff\xff"].concat();
    assert_eq!(unpack(DEFLATE, &idle, 3, 5).unwrap(), b"hello hello hello");
}

#[test]
fn repeated_identifiers_padding_and_foreign_chunks_are_passed_over() {
    let stream = [
        IDENTIFIER,
        &chunk(0xfe, &[0; 300]),
        IDENTIFIER,
        &chunk(0x80, b"for others"),
        &chunk(0xfd, b""),
        IDENTIFIER,
        OK,
    ]
    .concat();
    for step in [1, 2, 7, stream.len()] {
        assert_eq!(unpack(SNAPPY, &stream, step, 64).unwrap(), &OK[8..]);
    }
}

#[test]
fn what_is_no_snappy_is_refused_as_soon_as_it_shows() {
    let with = |chunk: Vec<u8>| [IDENTIFIER, &chunk].concat();
    let zeros_of = |len: u32| {
        // A raw stream that claims `len` bytes, behind a checksum.
        let mut body = vec![0; 4];
        let mut len = len;
        while len >= 0x80 {
            body.push(len as u8 | 0x80);
            len >>= 7;
        }
        body.push(len as u8);
        body.extend_from_slice(&[0; 8]);
        body
    };
    for (stream, because) in [
        (OK.to_vec(), "does not begin"),
        (b"  V2".to_vec(), "does not begin"),
        (chunk(0xff, b"sNaPpX"), "bad stream identifier"),
        (b"\xff\xff\xff\xff".to_vec(), "bad stream identifier"),
        (with(chunk(0x02, b"x")), "reserved"),
        (with(chunk(0x7f, b"")), "reserved"),
        (with(b"\x00\xff\xff\xff".to_vec()), "impossible length"),
        (with(b"\x01\x03\x00\x00".to_vec()), "impossible length"),
        (with(chunk(0x01, &[0; 4 + 65_537])), "more than 64 KiB"),
        (with(chunk(0x00, &zeros_of(65_537))), "more than 64 KiB"),
        (with(chunk(0x00, &zeros_of(u32::MAX))), "more than 64 KiB"),
        (with(chunk(0x00, &zeros_of(100))), "cannot be decompressed"),
        (with(chunk(0x01, b"\0\0\0\0OK")), "checksum"),
    ] {
        for step in [1, 5, stream.len()] {
            let error = unpack(SNAPPY, &stream, step, 1 << 17).unwrap_err();
            assert!(error.to_string().contains(because), "{because}: {error}");
        }
    }
}

#[test]
fn a_broken_stream_stays_broken() {
    for compression in [SNAPPY, DEFLATE] {
        let (mut unpacker, mut out) = (Unpacker::new(compression), [0; 64]);
        assert!(unpacker.unpack(&[0x06, 0xff, 0x07, 0xff], &mut out).is_err());
        assert!(unpacker.unpack(IDENTIFIER, &mut out).is_err(), "{compression:?}");
    }
}

#[test]
fn nothing_may_follow_the_end_of_a_deflate_stream() {
    // An empty final block.
    let (mut unpacker, mut out) = (Unpacker::new(DEFLATE), [0; 8]);
    let done = unpacker.unpack(b"\x03\x00", &mut out).unwrap();
    assert_eq!((done.consumed, done.produced), (2, 0));
    assert_eq!(unpacker.unpack(b"", &mut out), Ok(Unpacked::default()));
    assert!(unpacker.unpack(b"\x03", &mut out).is_err());
}

#[test]
fn a_bomb_fills_the_buffer_it_is_given_and_no_more() {
    let zeros = vec![0; 64 << 20];
    let bomb = pack(DEFLATE, &[&zeros]);
    assert!(bomb.len() < 100_000);
    let (mut unpacker, mut out) = (Unpacker::new(DEFLATE), vec![1; 4096]);
    let done = unpacker.unpack(&bomb, &mut out).unwrap();
    assert_eq!(done.produced, out.len());
    assert!(done.consumed < bomb.len(), "the rest waits outside");
    assert_eq!(unpack(DEFLATE, &bomb, 1000, 1 << 20).unwrap().len(), zeros.len());
}

/// Bytes of which some repeat and some do not.
fn any_plain() -> impl Strategy<Value = Vec<u8>> {
    let noise = proptest::collection::vec(any::<u8>(), 0..300);
    let run = (any::<u8>(), 0..100_000usize).prop_map(|(byte, len)| vec![byte; len]);
    proptest::collection::vec(prop_oneof![noise, run], 0..6).prop_map(|parts| parts.concat())
}

fn any_compression() -> impl Strategy<Value = Compression> {
    prop_oneof![Just(SNAPPY), (0..12u32).prop_map(|level| Compression::Deflate { level })]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_split_gives_the_same_bytes(
        compression in any_compression(),
        plains in proptest::collection::vec(any_plain(), 1..4),
        step in 1..5000usize,
        room in 1..100_000usize,
    ) {
        let pieces: Vec<&[u8]> = plains.iter().map(Vec::as_slice).collect();
        let packed = pack(compression, &pieces);
        prop_assert_eq!(unpack(compression, &packed, step, room).unwrap(), plains.concat());
    }

    #[test]
    fn noise_is_the_same_in_any_split_and_never_a_panic(
        snappy in any::<bool>(),
        noise in proptest::collection::vec(any::<u8>(), 1..2000),
        step in 1..50usize,
    ) {
        let (compression, head) = if snappy { (SNAPPY, IDENTIFIER) } else { (DEFLATE, &b""[..]) };
        let stream = [head, &noise].concat();
        let (whole, split) = (unpack(compression, &stream, 4096, 1 << 17), unpack(compression, &stream, step, 1 << 17));
        prop_assert_eq!(whole.is_ok(), split.is_ok());
        if let (Ok(whole), Ok(split)) = (whole, split) {
            prop_assert_eq!(whole, split);
        }
    }
}
