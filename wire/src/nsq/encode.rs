//! The commands as a client writes them. Names and sizes are not checked: a test may want them wrong, and
//! a node checks them anyway.

use std::fmt::Display;

/// Appends `IDENTIFY` with a body of JSON, shorter than 2 GiB.
pub fn put_identify(out: &mut Vec<u8>, json: &[u8]) {
    put_line(out, "IDENTIFY");
    put_sized(out, json);
}

/// Appends `AUTH` with its secret, shorter than 2 GiB.
pub fn put_auth(out: &mut Vec<u8>, secret: &[u8]) {
    put_line(out, "AUTH");
    put_sized(out, secret);
}

/// Appends `PUB` with one message's body, shorter than 2 GiB.
pub fn put_publish(out: &mut Vec<u8>, topic: &str, body: &[u8]) {
    put_line(out, format_args!("PUB {topic}"));
    put_sized(out, body);
}

/// Appends `MPUB` with the messages' bodies, together shorter than 2 GiB.
pub fn put_multi_publish<'a>(out: &mut Vec<u8>, topic: &str, bodies: impl Iterator<Item = &'a [u8]> + Clone) {
    let (count, body_len) = bodies.clone().fold((0, 4), |(n, len), body| (n + 1, len + 4 + body.len()));
    put_line(out, format_args!("MPUB {topic}"));
    out.reserve(4 + body_len);
    put_size(out, body_len);
    put_size(out, count);
    bodies.for_each(|body| put_sized(out, body));
}

/// Appends `DPUB` with its delay in milliseconds and one message's body, shorter than 2 GiB.
pub fn put_deferred_publish(out: &mut Vec<u8>, topic: &str, delay_ms: u64, body: &[u8]) {
    put_line(out, format_args!("DPUB {topic} {delay_ms}"));
    put_sized(out, body);
}

/// Appends `SUB`.
pub fn put_subscribe(out: &mut Vec<u8>, topic: &str, channel: &str) {
    put_line(out, format_args!("SUB {topic} {channel}"));
}

/// Appends `RDY`: be ready for `count` messages at once.
pub fn put_ready(out: &mut Vec<u8>, count: u64) {
    put_line(out, format_args!("RDY {count}"));
}

/// Appends `FIN`.
pub fn put_finish(out: &mut Vec<u8>, id: &[u8; 16]) {
    out.extend_from_slice(b"FIN ");
    out.extend_from_slice(id);
    out.push(b'\n');
}

/// Appends `REQ` with its delay in milliseconds.
pub fn put_requeue(out: &mut Vec<u8>, id: &[u8; 16], delay_ms: u64) {
    out.extend_from_slice(b"REQ ");
    out.extend_from_slice(id);
    put_line(out, format_args!(" {delay_ms}"));
}

/// Appends `TOUCH`.
pub fn put_touch(out: &mut Vec<u8>, id: &[u8; 16]) {
    out.extend_from_slice(b"TOUCH ");
    out.extend_from_slice(id);
    out.push(b'\n');
}

/// Appends `CLS`.
pub fn put_close(out: &mut Vec<u8>) {
    put_line(out, "CLS");
}

/// Appends `NOP`, the answer to a heartbeat.
pub fn put_nop(out: &mut Vec<u8>) {
    put_line(out, "NOP");
}

fn put_line(out: &mut Vec<u8>, line: impl Display) {
    // Writing to a Vec cannot fail.
    let _ = std::io::Write::write_fmt(out, format_args!("{line}\n"));
}

fn put_sized(out: &mut Vec<u8>, body: &[u8]) {
    put_size(out, body.len());
    out.extend_from_slice(body);
}

fn put_size(out: &mut Vec<u8>, size: usize) {
    debug_assert!(size <= i32::MAX as usize);
    out.extend_from_slice(&(size as u32).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &[u8; 16] = b"0123456789abcdef";

    fn put(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn golden_commands() {
        assert_eq!(put(|o| put_identify(o, b"{}")), b"IDENTIFY\n\x00\x00\x00\x02{}");
        assert_eq!(put(|o| put_auth(o, b"s")), b"AUTH\n\x00\x00\x00\x01s");
        assert_eq!(put(|o| put_publish(o, "t", b"hi")), b"PUB t\n\x00\x00\x00\x02hi");
        assert_eq!(
            put(|o| put_multi_publish(o, "t", [&b"a"[..], b"bc"].into_iter())),
            b"MPUB t\n\x00\x00\x00\x0f\x00\x00\x00\x02\x00\x00\x00\x01a\x00\x00\x00\x02bc"
        );
        assert_eq!(put(|o| put_deferred_publish(o, "t", 1500, b"x")), b"DPUB t 1500\n\x00\x00\x00\x01x");
        assert_eq!(put(|o| put_subscribe(o, "t", "c")), b"SUB t c\n");
        assert_eq!(put(|o| put_ready(o, 2500)), b"RDY 2500\n");
        assert_eq!(put(|o| put_finish(o, ID)), b"FIN 0123456789abcdef\n");
        assert_eq!(put(|o| put_requeue(o, ID, 0)), b"REQ 0123456789abcdef 0\n");
        assert_eq!(put(|o| put_touch(o, ID)), b"TOUCH 0123456789abcdef\n");
        assert_eq!(put(put_close), b"CLS\n");
        assert_eq!(put(put_nop), b"NOP\n");
    }
}
