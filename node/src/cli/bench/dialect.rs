//! The publishing side of the protocols that the load generator speaks, so that one client measures all.

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::{body::HEADER_LEN, nats::Nats, nsq::Nsq, redis::Redis, socket::Socket};

/// A protocol to publish by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Protocol {
    /// PUB and MPUB, to bruit or nsqd.
    Nsq,
    /// XADD to a stream of a Redis server.
    Redis,
    /// Publishing with acknowledgement to a JetStream stream of a NATS server.
    Nats,
}

/// How messages are put into commands, and acknowledgements recognised.
pub(super) trait Dialect: Send {
    /// Says hello, and creates what must exist before the first message.
    ///
    /// # Errors
    /// The server is of another kind, or refuses.
    fn open(&mut self, socket: &mut Socket) -> Result<()>;

    /// A command with `batch` copies of `body`.
    ///
    /// # Errors
    /// The protocol has no such command.
    fn command(&self, body: &[u8], batch: usize) -> Result<Command>;

    /// Recognises whole replies at the front of `input`. What has to be sent in return at once (the answer to
    /// a heartbeat) is appended to `owed`.
    ///
    /// # Errors
    /// The server refused a command, acknowledged out of order, or sent what no reply looks like.
    fn replies(&mut self, input: &[u8], owed: &mut Vec<u8>) -> Result<Replies>;

    /// How many messages the server holds, where the protocol can tell.
    ///
    /// # Errors
    /// As [`Dialect::replies`].
    fn held(&mut self, socket: &mut Socket) -> Result<Option<u64>>;
}

/// A command and where the bodies are in it.
#[derive(Debug, Clone)]
pub(super) struct Command {
    /// All of its bytes.
    pub(super) bytes: Vec<u8>,
    /// Offsets of the bodies.
    pub(super) bodies: Vec<usize>,
    /// Length of each body.
    pub(super) size: usize,
}

/// What was found at the front of the bytes from the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Replies {
    /// Bytes that were understood.
    pub(super) consumed: usize,
    /// Commands that are acknowledged by them.
    pub(super) acknowledged: u64,
}

impl Protocol {
    /// The protocol, for one connection that publishes to `topic`; NSQ's goes inside of TLS if `tls` is set.
    pub(super) fn dialect(self, topic: &str, tls: bool) -> Box<dyn Dialect> {
        match self {
            Self::Nsq => Box::new(Nsq::new(topic, tls)),
            Self::Redis => Box::new(Redis::new(topic)),
            Self::Nats => Box::new(Nats::new(topic)),
        }
    }
}

/// Commands that are written once and then only restamped, so that sending costs the client little more than
/// the system call.
#[derive(Debug)]
pub(super) struct Template {
    bytes: Vec<u8>,
    command: Command,
    slots: usize,
}

impl Template {
    /// Memory for prepared commands, bytes; a longer run of commands is sent in parts.
    const SIZE_MAX: usize = 4 * 1024 * 1024;

    /// Prepares up to `window` commands like `command`.
    ///
    /// # Errors
    /// A body is too small for the header that it has to carry.
    pub(super) fn new(command: Command, window: usize) -> Result<Self> {
        ensure!(command.size >= HEADER_LEN, "--size must be at least {HEADER_LEN}");
        let slots = window.clamp(1, (Self::SIZE_MAX / command.bytes.len()).max(1));
        Ok(Self { bytes: command.bytes.repeat(slots), command, slots })
    }

    /// How many commands can be prepared at once; at least 1.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// Messages in each command.
    pub(super) fn batch(&self) -> u64 {
        self.command.bodies.len() as u64
    }

    /// The bodies of the command in `slot`, one after the other.
    pub(super) fn bodies(&mut self, slot: usize) -> impl Iterator<Item = &mut [u8]> {
        let (len, size) = (self.command.bytes.len(), self.command.size);
        let mut rest = &mut self.bytes[slot * len..(slot + 1) * len];
        let mut passed = 0;
        self.command.bodies.iter().map(move |at| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(at - passed + size);
            let body = &mut head[at - passed..];
            passed = at + size;
            rest = tail;
            body
        })
    }

    /// The bytes of the first `count` commands.
    pub(super) fn commands(&self, count: usize) -> &[u8] {
        &self.bytes[..count * self.command.bytes.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::{super::body::*, *};

    fn stamp(sequence: u64) -> Stamp {
        Stamp { run: 1, publisher: 2, sequence, intended_ns: 3 }
    }

    #[test]
    fn every_body_of_every_prepared_command_can_be_stamped() {
        for (protocol, batch) in
            [(Protocol::Nsq, 1), (Protocol::Nsq, 3), (Protocol::Redis, 1), (Protocol::Nats, 1)]
        {
            let command = protocol.dialect("topic", false).command(&blank(50), batch).unwrap();
            let unstamped = command.bytes.clone();
            let mut template = Template::new(command, 2).unwrap();
            for slot in 0..2 {
                for (i, body) in template.bodies(slot).enumerate() {
                    stamp((slot * batch + i) as u64).put(body);
                }
            }
            let bytes = template.commands(2).to_vec();
            assert_eq!(bytes.len(), 2 * unstamped.len());
            let found = (0..bytes.len()).filter_map(|at| BodyReader::default().read(bytes.get(at..at + 50)?));
            let sequences: Vec<u64> = found.map(|stamp| stamp.sequence).collect();
            assert_eq!(sequences, (0..2 * batch as u64).collect::<Vec<_>>(), "{protocol:?} x{batch}");
        }
    }

    #[test]
    fn a_large_command_is_prepared_once_only() {
        let command = Command { bytes: blank(5_000_000), bodies: vec![0], size: 5_000_000 };
        assert_eq!(Template::new(command, 100).unwrap().slots(), 1);
        let tiny = Command { bytes: vec![0; 31], bodies: vec![0], size: 31 };
        assert!(Template::new(tiny, 1).is_err());
    }
}
