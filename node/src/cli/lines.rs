//! The lines of a file or of standard input, many at a time and numbered as an editor numbers them.

use std::{
    io::{self, Read},
    ops::Range,
};

use tokio::sync::mpsc;

/// Room for one read, bytes.
const READ_SIZE: usize = 256 << 10;
/// Longest line, bytes: no node takes a larger message.
const LINE_MAX: usize = 32 << 20;

/// Lines that were ready together. Empty ones are left out, as no message is empty.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    lines: Vec<Line>,
    taken: usize,
}

#[derive(Debug, Clone)]
struct Line {
    number: u64,
    range: Range<usize>,
}

impl Chunk {
    /// The next lines: at most `count`, and no more than `size` bytes unless the first is larger.
    pub(super) fn peek(&self, count: usize, size: usize) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        let rest = &self.lines[self.taken..];
        let mut total = 0;
        let fitting = rest.iter().take(count).take_while(|line| {
            total += line.range.len();
            total <= size
        });
        let fitting = fitting.count().max(1).min(count).min(rest.len());
        rest[..fitting].iter().map(|line| &self.bytes[line.range.clone()])
    }

    /// Removes the next `count` lines and tells the number of the last one, from 1.
    pub(super) fn remove(&mut self, count: usize) -> u64 {
        self.taken += count;
        self.lines[self.taken - 1].number
    }

    /// True when all lines are removed.
    pub(super) fn is_empty(&self) -> bool {
        self.taken == self.lines.len()
    }
}

/// Reads `source` to its end and sends its lines, without the first `skip`. A last line without a newline
/// counts. Blocks: give it a thread of its own. Ends early when nobody receives any more.
pub(super) fn read(mut source: impl Read, skip: u64, chunks: &mpsc::Sender<io::Result<Chunk>>) {
    let mut splitter = Splitter { skip, number: 0, carry: Vec::new() };
    loop {
        let outcome = splitter.next(&mut source).transpose();
        let Some(outcome) = outcome else { return };
        let is_over = outcome.is_err();
        if chunks.blocking_send(outcome).is_err() || is_over {
            return;
        }
    }
}

struct Splitter {
    skip: u64,
    /// Lines seen, skipped and empty ones included.
    number: u64,
    /// The beginning of a line whose end is still to come.
    carry: Vec<u8>,
}

impl Splitter {
    fn next(&mut self, source: &mut impl Read) -> io::Result<Option<Chunk>> {
        loop {
            let mut bytes = std::mem::take(&mut self.carry);
            let known = bytes.len();
            bytes.resize(known + READ_SIZE, 0);
            let read = match source.read(&mut bytes[known..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(error),
                Ok(0) if known == 0 => return Ok(None),
                Ok(0) => {
                    bytes.truncate(known);
                    return Ok(Some(self.chunk_of(bytes)).filter(|chunk| !chunk.is_empty()));
                }
                Ok(read) => read,
            };
            bytes.truncate(known + read);
            let Some(last) = memchr::memrchr(b'\n', &bytes[known..]) else {
                self.carry = bytes;
                if self.carry.len() > LINE_MAX {
                    let line = self.number + 1;
                    return Err(io::Error::other(format!("line {line} is longer than {LINE_MAX} bytes")));
                }
                continue;
            };
            self.carry = bytes.split_off(known + last + 1);
            let chunk = self.chunk_of(bytes);
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }

    fn chunk_of(&mut self, bytes: Vec<u8>) -> Chunk {
        let mut lines = Vec::new();
        let mut start = 0;
        while start < bytes.len() {
            let end = memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |at| start + at);
            self.number += 1;
            if end > start && self.number > self.skip {
                lines.push(Line { number: self.number, range: start..end });
            }
            start = end + 1;
        }
        Chunk { bytes, lines, taken: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time, so that lines are torn everywhere.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let few = self.1.min(buf.len());
            Read::read(&mut self.0, &mut buf[..few])
        }
    }

    fn lines(content: &[u8], step: usize, skip: u64) -> Vec<(u64, String)> {
        let (sender, mut receiver) = mpsc::channel(1000);
        read(Dribble(content, step), skip, &sender);
        drop(sender);
        let mut lines = Vec::new();
        while let Some(chunk) = receiver.blocking_recv() {
            let mut chunk = chunk.unwrap();
            assert!(!chunk.is_empty());
            while !chunk.is_empty() {
                let line = String::from_utf8(chunk.peek(1, 0).next().unwrap().to_vec()).unwrap();
                lines.push((chunk.remove(1), line));
            }
        }
        lines
    }

    #[test]
    fn lines_are_numbered_wherever_they_are_torn_and_empty_ones_count_but_are_left_out() {
        let expected: Vec<(u64, String)> =
            [(1, "one"), (3, "three\r"), (6, "last")].map(|(number, line)| (number, line.to_owned())).into();
        for step in 1..30 {
            assert_eq!(lines(b"one\n\nthree\r\n\n\nlast", step, 0), expected, "{step}");
            assert_eq!(lines(b"one\n\nthree\r\n\n\nlast\n", step, 0), expected, "{step}");
            assert_eq!(lines(b"one\n\nthree\r\n\n\nlast", step, 2), expected[1..], "{step}");
            assert_eq!(lines(b"one\n\nthree\r\n\n\nlast", step, 6), [], "{step}");
        }
        assert_eq!(lines(b"", 1, 0), []);
        assert_eq!(lines(b"\n\n\n", 1, 0), []);
    }

    #[test]
    fn a_batch_has_as_many_lines_as_fit_and_one_that_is_too_large_goes_alone() {
        let mut splitter = Splitter { skip: 0, number: 0, carry: Vec::new() };
        let mut chunk = splitter.chunk_of(b"aaaa\nbb\ncc\nd\n".to_vec());
        assert_eq!(chunk.peek(10, 3).len(), 1);
        assert_eq!(chunk.peek(10, 6).len(), 2);
        assert_eq!(chunk.peek(3, 100).len(), 3);
        assert_eq!(chunk.peek(0, 100).len(), 0);
        assert_eq!(chunk.remove(2), 2);
        assert_eq!(chunk.peek(10, 100).collect::<Vec<_>>(), [b"cc".as_slice(), b"d"]);
        assert_eq!(chunk.remove(2), 4);
        assert!(chunk.is_empty());
    }

    #[test]
    fn a_line_that_no_node_takes_is_an_error() {
        let (sender, mut receiver) = mpsc::channel(10);
        read(Read::chain(&b"ok\n"[..], io::repeat(b'x')), 0, &sender);
        assert!(receiver.blocking_recv().unwrap().is_ok());
        let error = receiver.blocking_recv().unwrap().unwrap_err();
        assert!(error.to_string().starts_with("line 2 is longer than"), "{error}");
    }
}
