//! What goes to a client's socket: acknowledgements in the order of the commands, and messages.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bruit_wire::nsq::{self, ClientError};
use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

use crate::broker::{Output, Refused, Ticket};

/// Slices of one vectored write.
const SLICES: usize = 64;
/// `OK` frames that lie ready in one piece.
const OKS: usize = 512;
static OK_FRAMES: [u8; OKS * 10] = ok_frames();

const fn ok_frames() -> [u8; OKS * 10] {
    let mut frames = [0; OKS * 10];
    let mut at = 0;
    while at < frames.len() {
        frames[at] = nsq::OK_FRAME[at % 10];
        at += 1;
    }
    frames
}

/// What the client is told when its command could not be made durable.
pub(super) fn refused(command: &str, why: &Refused) -> ClientError {
    if command == "SUB" {
        return ClientError { code: "E_SUB_FAILED", text: format!("SUB failed {why}").into(), fatal: true };
    }
    ClientError::publish_failed(command, &why.to_string())
}

/// An answer that is owed, in the order of the commands.
#[derive(Debug)]
enum Owed {
    /// `OK` for so many commands of one kind, once their batch is durable.
    Acknowledgement { ticket: Ticket, count: usize, command: &'static str },
    /// A frame that is ready.
    Frame(Bytes),
}

/// The output of a connection.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    owed: VecDeque<Owed>,
    owed_count: usize,
    /// Frames on their way to the socket.
    pub(super) frames: Output,
    bytes: usize,
    unflushed: bool,
}

impl Outbox {
    /// Owes `count` times `OK` once `ticket` is settled.
    pub(super) fn acknowledge(&mut self, ticket: Ticket, count: usize, command: &'static str) {
        self.owed_count += count;
        match self.owed.back_mut() {
            Some(Owed::Acknowledgement { ticket: last, count: so_far, command: before })
                if *last == ticket && *before == command =>
            {
                *so_far += count;
            }
            _ => self.owed.push_back(Owed::Acknowledgement { ticket, count, command }),
        }
    }

    /// Sends a frame, behind the acknowledgements that are owed before it.
    pub(super) fn reply(&mut self, frame: Bytes) {
        if self.owed.is_empty() {
            self.send(frame);
        } else {
            self.owed_count += 1;
            self.owed.push_back(Owed::Frame(frame));
        }
    }

    /// Sends a frame at once.
    pub(super) fn send(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// Answers that are owed.
    pub(super) const fn owed(&self) -> usize {
        self.owed_count
    }

    /// Bytes on their way to the socket.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether something still has to be written or flushed.
    pub(super) const fn waits(&self) -> bool {
        self.bytes > 0 || self.unflushed
    }

    /// Something was written past this that has to be flushed.
    pub(super) const fn flush(&mut self) {
        self.unflushed = true;
    }

    /// Counts frames that were put into [`Self::frames`] by others, from index `from` on.
    pub(super) fn count_from(&mut self, from: usize) {
        self.bytes += self.frames.range(from..).map(Bytes::len).sum::<usize>();
    }

    /// Answers what was settled up to `settled`.
    ///
    /// # Errors
    /// What the client is told of a publish that failed; nothing is answered behind it.
    pub(super) fn settle(
        &mut self,
        settled: Ticket,
        outcome: impl Fn(Ticket) -> Result<(), Refused>,
    ) -> Result<bool, ClientError> {
        let mut progressed = false;
        while let Some(front) = self.owed.front() {
            match front {
                Owed::Acknowledgement { ticket, .. } if *ticket > settled => break,
                Owed::Acknowledgement { ticket, count, command } => {
                    outcome(*ticket).map_err(|why| refused(command, &why))?;
                    let count = *count;
                    self.owed_count -= count;
                    self.owed.pop_front();
                    self.send_oks(count);
                }
                Owed::Frame(frame) => {
                    let frame = frame.clone();
                    self.owed_count -= 1;
                    self.owed.pop_front();
                    self.send(frame);
                }
            }
            progressed = true;
        }
        Ok(progressed)
    }

    fn send_oks(&mut self, mut count: usize) {
        while count > 0 {
            let now = count.min(OKS);
            self.send(Bytes::from_static(&OK_FRAMES[..now * nsq::OK_FRAME.len()]));
            count -= now;
        }
    }

    /// Forgets what is owed: the connection ends.
    pub(super) fn forget_owed(&mut self) {
        self.owed.clear();
        self.owed_count = 0;
    }

    /// Writes as much as the socket takes. `true` if anything was written; pending if nothing could be.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut (dyn AsyncWrite + Send + Sync + Unpin),
    ) -> Poll<io::Result<bool>> {
        let mut progressed = false;
        while !self.frames.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.frames.len().min(SLICES);
            for (slice, frame) in slices.iter_mut().zip(&self.frames) {
                *slice = IoSlice::new(frame);
            }
            match Pin::new(&mut *writer).poll_write_vectored(cx, &slices[..count]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    self.wrote(written);
                    progressed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if progressed => return Poll::Ready(Ok(true)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.unflushed {
            match Pin::new(writer).poll_flush(cx) {
                Poll::Ready(flushed) => flushed?,
                Poll::Pending if progressed => return Poll::Ready(Ok(true)),
                Poll::Pending => return Poll::Pending,
            }
            self.unflushed = false;
        }
        Poll::Ready(Ok(progressed))
    }

    fn wrote(&mut self, mut written: usize) {
        self.bytes -= written;
        self.unflushed = true;
        while let Some(front) = self.frames.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.frames.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody outside sees these: a node that stops closes its connections before it could answer them.
    #[test]
    fn a_node_that_stops_refuses_in_the_words_of_nsqd() {
        for (command, expected) in [
            ("PUB", "E_PUB_FAILED PUB failed exiting"),
            ("MPUB", "E_MPUB_FAILED MPUB failed exiting"),
            ("DPUB", "E_DPUB_FAILED DPUB failed exiting"),
            ("SUB", "E_SUB_FAILED SUB failed exiting"),
        ] {
            let error = refused(command, &Refused::Exiting);
            assert_eq!((error.to_string().as_str(), error.fatal), (expected, true));
        }
    }
}
