//! Messages of one topic that wait for the next commit, already as the wire frames that will be journalled
//! and delivered.

use std::sync::Arc;

use bruit_wire::{MessageId, nsq};
use bytes::{Bytes, BytesMut};

use super::signal::Signal;
use crate::journal::Span;

/// A record takes no further publish once it holds this many bytes: what one damaged byte can cost.
const RECORD_SOFT_MAX: usize = 256 * 1024;

/// The staging buffer.
#[derive(Debug)]
pub(crate) struct Stage {
    node: u16,
    frames: BytesMut,
    parts: Vec<Part>,
    /// The sequence number of the next message.
    next: u64,
    /// The batch that takes what is staged; 0 when nothing is.
    pub(super) batch: u64,
    waiters: Vec<Arc<Signal>>,
    /// Messages published over the topic's life.
    pub(super) message_count: u64,
    /// Bytes of their bodies.
    pub(super) message_bytes: u64,
    /// The topic is deleted: nothing is staged any more.
    pub(super) closed: bool,
}

/// What becomes one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    span: Span,
    /// Milliseconds since the epoch, 0 when not deferred.
    due: u64,
    /// Where its frames end in the buffer, bytes.
    end: usize,
}

/// A staging buffer's content, taken for a commit.
#[derive(Debug)]
pub(crate) struct Staged {
    frames: Bytes,
    parts: Vec<Part>,
    /// Who waits for the commit.
    pub(crate) waiters: Vec<Arc<Signal>>,
}

impl Stage {
    pub(super) fn new(node: u16, next: u64) -> Self {
        Self {
            node,
            frames: BytesMut::new(),
            parts: Vec::new(),
            next,
            batch: 0,
            waiters: Vec::new(),
            message_count: 0,
            message_bytes: 0,
            closed: false,
        }
    }

    /// The sequence number of the next message.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Stages `bodies` as one unit: they go into one record, so that a crash keeps all or none of them.
    pub(super) fn push<'a>(&mut self, timestamp: i64, due: u64, bodies: impl Iterator<Item = &'a [u8]>) {
        let fits = self.parts.last().is_some_and(|part| {
            let start = self.parts.iter().nth_back(1).map_or(0, |part| part.end);
            part.due == due && part.end - start < RECORD_SOFT_MAX
        });
        if !fits {
            let span = Span { first: self.next, count: 0 };
            self.parts.push(Part { span, due, end: self.frames.len() });
        }
        let before = (self.next, self.frames.len());
        for body in bodies {
            let id = MessageId::new(self.node, self.next);
            nsq::put_message(&mut self.frames, timestamp, 1, id, body);
            self.next += 1;
        }
        let count = self.next - before.0;
        self.message_count += count;
        self.message_bytes += (self.frames.len() - before.1) as u64 - count * nsq::MESSAGE_OVERHEAD as u64;
        if let Some(part) = self.parts.last_mut() {
            part.span.count += u32::try_from(count).unwrap_or(u32::MAX);
            part.end = self.frames.len();
        }
    }

    /// Makes room for `count` messages whose bodies have `bytes` in all, so that staging them moves nothing.
    pub(super) fn reserve(&mut self, count: usize, bytes: usize) {
        self.frames.reserve(bytes + count * nsq::MESSAGE_OVERHEAD);
    }

    /// Bytes that are staged.
    pub(super) fn bytes(&self) -> usize {
        self.frames.len()
    }

    /// `signal` is woken once the batch is settled.
    pub(super) fn wait(&mut self, signal: &Arc<Signal>) {
        self.waiters.push(Arc::clone(signal));
    }

    /// Takes everything for a commit.
    pub(super) fn take(&mut self) -> Staged {
        self.batch = 0;
        Staged {
            frames: self.frames.split().freeze(),
            parts: std::mem::take(&mut self.parts),
            waiters: std::mem::take(&mut self.waiters),
        }
    }
}

impl Staged {
    /// Each future record with its frames.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (Span, u64, Bytes)> + '_ {
        let mut start = 0;
        self.parts.iter().filter(|part| part.span.count > 0).map(move |part| {
            let frames = self.frames.slice(start..part.end);
            start = part.end;
            (part.span, part.due, frames)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(body: &[u8]) -> impl Iterator<Item = &[u8]> {
        std::iter::once(body)
    }

    #[test]
    fn publishes_share_a_record_until_it_is_large() {
        let mut stage = Stage::new(7, 100);
        let body = vec![b'x'; 100 * 1024];
        for _ in 0..5 {
            stage.push(1, 0, one(&body));
        }
        let staged = stage.take();
        let spans: Vec<_> =
            staged.parts().map(|(span, _, frames)| (span.first, span.count, frames.len())).collect();
        let frame = body.len() + nsq::MESSAGE_OVERHEAD;
        assert_eq!(spans, [(100, 3, 3 * frame), (103, 2, 2 * frame)]);
        assert_eq!((stage.message_count, stage.message_bytes), (5, 5 * body.len() as u64));
    }

    #[test]
    fn one_unit_is_never_cut() {
        let mut stage = Stage::new(7, 1);
        let bodies = vec![vec![b'x'; 64 * 1024]; 16];
        stage.push(1, 0, bodies.iter().map(Vec::as_slice));
        stage.push(1, 0, one(b"y"));
        let counts: Vec<_> = stage.take().parts().map(|(span, ..)| span.count).collect();
        assert_eq!(counts, [16, 1]);
    }

    #[test]
    fn another_due_time_is_another_record() {
        let mut stage = Stage::new(7, 1);
        for due in [0, 5, 5, 6, 0] {
            stage.push(1, due, one(b"x"));
        }
        let parts: Vec<_> =
            stage.take().parts().map(|(span, due, _)| (span.first, span.count, due)).collect();
        assert_eq!(parts, [(1, 1, 0), (2, 2, 5), (4, 1, 6), (5, 1, 0)]);
    }
}
