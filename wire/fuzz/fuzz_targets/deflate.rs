//! Deflate as a stream: any bytes.
#![no_main]

mod stream;

use bruit_wire::compress::Compression;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], u16, u16)| {
    stream::check(Compression::Deflate { level: 6 }, &[b""], input);
});
