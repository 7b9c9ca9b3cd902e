//! Benchmarks of bruit. There is no library here.
//!
//! - `cargo bench -p bruit-benches` times single parts of the hot path.
//! - `benches/compare` measures whole servers, other ones beside ours, with `bruit bench` as the client.
