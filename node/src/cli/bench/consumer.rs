//! Connections that subscribe, finish what they receive, and keep count of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use bruit_wire::{
    MessageId,
    nsq::{
        FrameDecoder, FrameType, MESSAGE_OVERHEAD, MessageView, put_close, put_finish, put_nop, put_ready,
    },
};

use super::{
    body::Stamp,
    clock, nsq,
    socket::{Received, Socket},
    tally::Tally,
};

/// How long a consumer waits for the server to let it go.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the consumers of one channel wait for together.
#[derive(Debug)]
pub(super) struct Arrivals {
    expected: u64,
    idle_timeout: Duration,
    arrived: AtomicU64,
    stopped: AtomicBool,
}

impl Arrivals {
    /// Of a channel to which `expected` messages will come, or silence for `idle_timeout`.
    pub(super) fn new(expected: u64, idle_timeout: Duration) -> Arc<Self> {
        let (arrived, stopped) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { expected, idle_timeout, arrived, stopped })
    }

    /// Makes every consumer of the channel stop soon.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn are_over(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.arrived.load(Ordering::Relaxed) >= self.expected
    }
}

/// One connection that consumes.
pub(super) struct Consumer {
    socket: Socket,
    arrivals: Arc<Arrivals>,
    decoder: FrameDecoder,
    tally: Tally,
    rdy: u64,
    /// Commands for the server that the next write takes along.
    out: Vec<u8>,
    closing: bool,
}

/// What a consumer received.
#[derive(Debug)]
pub(super) struct Consumed {
    /// Its messages.
    pub(super) tally: Tally,
    /// When the last one that counts came, if one did.
    pub(super) last: Option<Instant>,
}

impl Consumer {
    /// Connects and subscribes; nothing is delivered yet. Of messages only those of `run` count.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub(super) fn open(
        address: &str,
        (topic, channel): (&str, &str),
        rdy: u64,
        run: Option<u32>,
        arrivals: &Arc<Arrivals>,
    ) -> Result<Self> {
        let mut socket = Socket::connect(address)?;
        nsq::subscribe(&mut socket, topic, channel, rdy)?;
        Ok(Self {
            socket,
            arrivals: Arc::clone(arrivals),
            decoder: FrameDecoder::new(nsq::FRAME_SIZE_MAX),
            tally: Tally::new(run, if arrivals.expected == u64::MAX { 0 } else { arrivals.expected }),
            rdy,
            out: Vec::new(),
            closing: false,
        })
    }

    /// Receives and finishes until all of the channel's messages have come or none comes any more, and leaves
    /// once the server has every FIN. `seen` is told of each new message and when it came.
    ///
    /// # Errors
    /// The server sends an error or closes the connection.
    pub(super) fn drain(mut self, seen: impl FnMut(&Stamp, Instant)) -> Result<Consumed> {
        let drained = self.receive_all(seen);
        if drained.is_err() {
            self.arrivals.stop();
        }
        Ok(Consumed { last: drained?, tally: self.tally })
    }

    fn receive_all(&mut self, mut seen: impl FnMut(&Stamp, Instant)) -> Result<Option<Instant>> {
        put_ready(&mut self.out, self.rdy);
        let mut last = None;
        let mut busy_at = clock::now();
        let mut known = 0;
        while !self.arrivals.are_over() {
            self.flush()?;
            match self.socket.receive()? {
                Received::Closed => bail!("the server closed the connection of a consumer"),
                Received::Bytes => {
                    let at = clock::now();
                    let new = self.take(at, &mut seen)?;
                    if new > 0 {
                        self.arrivals.arrived.fetch_add(new, Ordering::Relaxed);
                        last = Some(at);
                    }
                }
                Received::Nothing => {
                    let arrived = self.arrivals.arrived.load(Ordering::Relaxed);
                    if arrived != known {
                        (known, busy_at) = (arrived, clock::now());
                    } else if clock::now() - busy_at > self.arrivals.idle_timeout {
                        self.arrivals.stop();
                    }
                }
            }
        }
        self.leave(&mut seen).context("the server did not close an idle consumer in order")?;
        Ok(last)
    }

    /// Takes every whole frame out of the inbox and returns how many new messages were among them. Their
    /// FINs are left in `out`, to be written at once.
    fn take(&mut self, at: Instant, seen: &mut impl FnMut(&Stamp, Instant)) -> Result<u64> {
        let input = self.socket.unread();
        let (mut consumed, mut new) = (0, 0);
        while let Some((frame, len)) = self.decoder.decode(&input[consumed..])? {
            consumed += len;
            match frame.kind {
                FrameType::Message => {
                    let message = MessageView::parse_payload(frame.body)
                        .with_context(|| format!("a message frame of less than {MESSAGE_OVERHEAD} bytes"))?;
                    if let Some(stamp) =
                        self.tally.record(id_number(message.id), message.attempts, message.body)
                    {
                        new += 1;
                        seen(&stamp, at);
                    }
                    put_finish(&mut self.out, message.id);
                }
                FrameType::Response if frame.body == b"_heartbeat_" => put_nop(&mut self.out),
                FrameType::Response if frame.body == b"CLOSE_WAIT" => self.closing = true,
                FrameType::Response | FrameType::Error => {
                    bail!("the server answered {:?} to a consumer", String::from_utf8_lossy(frame.body))
                }
            }
        }
        self.socket.consume(consumed);
        Ok(new)
    }

    fn flush(&mut self) -> Result<()> {
        if !self.out.is_empty() {
            self.socket.send(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }

    /// Asks the server for no more, finishes what it had sent by then, and waits until it has hung up, so
    /// that every FIN has reached it and its work for them is counted.
    fn leave(&mut self, seen: &mut impl FnMut(&Stamp, Instant)) -> Result<()> {
        put_close(&mut self.out);
        self.flush()?;
        let deadline = clock::now() + CLOSE_TIMEOUT;
        while !self.closing {
            match self.socket.receive()? {
                Received::Closed => bail!("the server closed the connection before CLOSE_WAIT"),
                Received::Bytes => self.take(clock::now(), seen).map(drop)?,
                Received::Nothing if clock::now() > deadline => bail!("no CLOSE_WAIT came"),
                Received::Nothing => {}
            }
            self.flush()?;
        }
        self.socket.finish_sending()?;
        while clock::now() < deadline && self.socket.receive()? != Received::Closed {}
        Ok(())
    }
}

/// Number of a message id. Servers that do not write them in hexadecimal get a number that is as good as
/// unique.
fn id_number(id: &[u8; 16]) -> u64 {
    MessageId::from_hex(id).map_or_else(
        || {
            let (high, low) = id.split_at(8);
            let word = |bytes: &[u8]| bytes.iter().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
            word(high).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word(low)
        },
        |id| u64::from(id.node()) << 48 | id.sequence(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_either_kind_have_numbers() {
        assert_eq!(id_number(&MessageId::new(3, 77).to_hex()), 3 << 48 | 77);
        assert_ne!(id_number(b"ZZZZZZZZZZZZZZZ1"), id_number(b"ZZZZZZZZZZZZZZZ2"));
        assert_ne!(id_number(b"1ZZZZZZZZZZZZZZZ"), id_number(b"2ZZZZZZZZZZZZZZZ"));
    }

    #[test]
    fn arrivals_are_over_when_all_came_or_when_told() {
        let arrivals = Arrivals::new(2, Duration::from_secs(1));
        arrivals.arrived.store(1, Ordering::Relaxed);
        assert!(!arrivals.are_over());
        arrivals.arrived.store(2, Ordering::Relaxed);
        assert!(arrivals.are_over());
        let stopped = Arrivals::new(2, Duration::from_secs(1));
        stopped.stop();
        assert!(stopped.are_over());
    }
}
