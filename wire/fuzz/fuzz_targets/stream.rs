//! What holds of every compression: any bytes are read alike in any pieces and never written past the room that is
//! given, and what was put comes back.

use bruit_wire::compress::{Compression, Corrupt, Packer, Unpacker};

/// Plain bytes after which a bomb is believed.
const PLAIN_MAX: usize = 4 << 20;

/// Reads `noise` behind each of `heads`, whole and in pieces of about `step` bytes into `room` bytes, and packs and
/// unpacks it.
pub fn check(compression: Compression, heads: &[&[u8]], (noise, step, room): (&[u8], u16, u16)) {
    let (step, room) = (usize::from(step) + 1, usize::from(room) + 1);
    let unpack = |stream: &[u8], step, room| unpack(compression, stream, step, room);
    for head in heads {
        let stream = [head, noise].concat();
        let (whole, pieces) = (unpack(&stream, stream.len() + 1, 1 << 17), unpack(&stream, step, room));
        if [&whole, &pieces].iter().any(|plain| plain.as_ref().is_ok_and(|plain| plain.len() >= PLAIN_MAX)) {
            // A bomb is left where it is, and not at the same byte.
            continue;
        }
        assert_eq!(whole.is_ok(), pieces.is_ok());
        if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
            assert_eq!(whole, pieces);
        }
    }
    let (mut packer, mut packed) = (Packer::new(compression), Vec::new());
    for piece in noise.chunks(step) {
        packer.put(piece, &mut packed);
        packer.flush(&mut packed);
    }
    assert_eq!(unpack(&packed, room, step).as_deref(), Ok(noise));
}

/// Unpacks in pieces of `step` bytes, into a room of `room` bytes.
fn unpack(compression: Compression, stream: &[u8], step: usize, room: usize) -> Result<Vec<u8>, Corrupt> {
    let (mut unpacker, mut room, mut plain) = (Unpacker::new(compression), vec![0; room], Vec::new());
    for mut piece in stream.chunks(step) {
        while plain.len() < PLAIN_MAX {
            let done = unpacker.unpack(piece, &mut room)?;
            plain.extend_from_slice(&room[..done.produced]);
            piece = &piece[done.consumed..];
            if done.produced < room.len() {
                assert!(piece.is_empty());
                break;
            }
        }
    }
    Ok(plain)
}
