//! Snappy as a stream: any bytes behind the stream identifier, and any without.
#![no_main]

mod stream;

use bruit_wire::compress::Compression;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], u16, u16)| {
    stream::check(Compression::Snappy, &[b"", b"\xff\x06\x00\x00sNaPpY"], input);
});
