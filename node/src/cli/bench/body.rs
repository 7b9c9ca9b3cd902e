//! What each message carries, so that a consumer can tell whether it arrived, once, and whole.
//!
//! A body is 32 bytes of header (check, run, publisher, sequence, intended send time; big-endian) and a
//! fixed filler up to the wanted size.

/// Bytes of a body before the filler, and so the smallest body.
pub(super) const HEADER_LEN: usize = 32;

/// The identity of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Which run of the load generator sent it.
    pub(super) run: u32,
    /// Which of its connections.
    pub(super) publisher: u32,
    /// The how manieth message of this publisher, from 0.
    pub(super) sequence: u64,
    /// When it was to be sent, in nanoseconds since the run began; 0 in an unpaced run.
    pub(super) intended_ns: u64,
}

impl Stamp {
    /// Writes the header into the front of `body`, which must be [`HEADER_LEN`] bytes or more.
    pub(super) fn put(&self, body: &mut [u8]) {
        let check = self.check(body.len());
        body[..8].copy_from_slice(&check.to_be_bytes());
        body[8..12].copy_from_slice(&self.run.to_be_bytes());
        body[12..16].copy_from_slice(&self.publisher.to_be_bytes());
        body[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        body[24..32].copy_from_slice(&self.intended_ns.to_be_bytes());
    }

    /// The check covers the length too, so that a body that was cut at the end does not pass.
    fn check(&self, len: usize) -> u64 {
        let origin = u64::from(self.run) << 32 | u64::from(self.publisher);
        let mut hash = 0x6272_7569_745f_7631_u64;
        for word in [origin, self.sequence, self.intended_ns, len as u64] {
            hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^= hash >> 32;
        }
        hash
    }
}

/// Reads bodies back; remembers the filler so that checking it is one comparison.
#[derive(Debug, Default)]
pub(super) struct BodyReader {
    filler: Vec<u8>,
}

impl BodyReader {
    /// The stamp of `body`, or `None` when any byte of it is not as it was sent.
    pub(super) fn read(&mut self, body: &[u8]) -> Option<Stamp> {
        let (header, rest) = body.split_at_checked(HEADER_LEN)?;
        let word = |at: usize| Some(u64::from_be_bytes(header.get(at..at + 8)?.try_into().ok()?));
        let origin = word(8)?;
        let stamp = Stamp {
            run: (origin >> 32) as u32,
            publisher: origin as u32,
            sequence: word(16)?,
            intended_ns: word(24)?,
        };
        if self.filler.len() < rest.len() {
            self.filler = filler(rest.len());
        }
        (word(0)? == stamp.check(body.len()) && rest == &self.filler[..rest.len()]).then_some(stamp)
    }
}

/// An unstamped body of `size` bytes.
pub(super) fn blank(size: usize) -> Vec<u8> {
    let mut body = vec![0; HEADER_LEN.min(size)];
    body.extend(filler(size.saturating_sub(HEADER_LEN)));
    body
}

fn filler(len: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 7, publisher: 2, sequence: 1 << 40, intended_ns: 99 };

    #[test]
    fn a_body_reads_back_as_it_was_stamped() {
        for size in [HEADER_LEN, 33, 200, 5000] {
            let mut body = blank(size);
            STAMP.put(&mut body);
            assert_eq!(body.len(), size);
            assert_eq!(BodyReader::default().read(&body), Some(STAMP));
        }
    }

    #[test]
    fn a_change_of_any_byte_or_of_the_length_is_noticed() {
        let mut body = blank(100);
        STAMP.put(&mut body);
        let mut reader = BodyReader::default();
        for at in 0..body.len() {
            let mut damaged = body.clone();
            damaged[at] ^= 1;
            assert_eq!(reader.read(&damaged), None, "byte {at}");
            assert_eq!(reader.read(&body[..at]), None, "cut to {at}");
        }
        body.push(b'a');
        assert_eq!(reader.read(&body), None);
    }
}
