//! What a client may ask for, and what a node allows it to.

use std::iter::FusedIterator;

/// A command, borrowed from the bytes that it was found in. Its names are valid and its numbers within the
/// [`Rules`] that it was decoded under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// The client says who it is: see [`Identify::parse`](super::Identify::parse).
    Identify {
        /// JSON, not looked at yet.
        body: &'a [u8],
    },
    /// The client says what it may do.
    Auth {
        /// The secret as it was sent, at least one byte.
        secret: &'a [u8],
    },
    /// `PUB`: one message.
    Publish {
        /// Where to.
        topic: &'a str,
        /// At least one byte.
        body: &'a [u8],
    },
    /// `MPUB`: several messages, all or none of them.
    MultiPublish {
        /// Where to.
        topic: &'a str,
        /// At least one message.
        messages: Messages<'a>,
    },
    /// `DPUB`: one message, to be delivered later.
    DeferredPublish {
        /// Where to.
        topic: &'a str,
        /// How much later, in milliseconds, at most `max_defer_timeout_ms`. 0 is now.
        delay_ms: u64,
        /// At least one byte.
        body: &'a [u8],
    },
    /// `SUB`: consume a channel.
    Subscribe {
        /// The channel's topic.
        topic: &'a str,
        /// The channel.
        channel: &'a str,
    },
    /// `RDY`: how many messages the client will hold at once.
    Ready {
        /// A level, not a credit; at most `max_rdy_count`.
        count: u64,
    },
    /// `FIN`: the message is done with.
    Finish {
        /// The message's id, any 16 bytes.
        id: &'a [u8; 16],
    },
    /// `REQ`: put the message back.
    Requeue {
        /// The message's id, any 16 bytes.
        id: &'a [u8; 16],
        /// How long to hold it back, in milliseconds, clamped to `max_req_timeout_ms`. 0 is not at all.
        delay_ms: u64,
    },
    /// `TOUCH`: the client needs more time.
    Touch {
        /// The message's id, any 16 bytes.
        id: &'a [u8; 16],
    },
    /// `CLS`: send no more messages.
    Close,
    /// `NOP`, and what is to be ignored like it, such as a `RDY` after `CLS`: only a sign of life.
    Nop,
}

/// The bodies of an `MPUB`, checked and still in the buffer they came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Messages<'a> {
    count: u32,
    /// `count` times a length and that many bytes.
    sized_bodies: &'a [u8],
}

impl<'a> Messages<'a> {
    /// The caller has checked that `sized_bodies` holds `count` bodies and no more.
    pub(super) fn new(count: u32, sized_bodies: &'a [u8]) -> Self {
        debug_assert_eq!(Self { count, sized_bodies }.iter().count(), count as usize);
        Self { count, sized_bodies }
    }

    /// How many messages there are, at least one.
    #[expect(clippy::len_without_is_empty, reason = "an MPUB of no messages is an error")]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// How many bytes the bodies have together, their lengths not counted.
    pub fn body_bytes(&self) -> usize {
        self.sized_bodies.len() - 4 * self.len()
    }

    /// The bodies in the order they were sent, at least one byte each.
    pub fn iter(&self) -> impl FusedIterator<Item = &'a [u8]> + Clone + use<'a> {
        Bodies { rest: self.sized_bodies }
    }
}

#[derive(Clone)]
struct Bodies<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Bodies<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.rest.split_first_chunk()?;
        let (body, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        self.rest = rest;
        Some(body)
    }
}

impl FusedIterator for Bodies<'_> {}

/// How far a connection has come. It decides which commands are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// TLS is insisted on and not there: nothing but `IDENTIFY` is allowed.
    Insecure,
    /// Not subscribed: a producer, or a consumer that has only connected.
    Init,
    /// `SUB` succeeded.
    Subscribed,
    /// `CLS` was answered: no new messages, but those in flight may be finished.
    Closing,
}

/// What a node allows on a connection at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How far the connection has come.
    pub phase: Phase,
    /// Whether the client has heartbeats on; without them it may not `SUB`.
    pub heartbeats: bool,
    /// The longest body of one message, in bytes.
    pub max_msg_size: usize,
    /// The longest body of `IDENTIFY`, `AUTH` and `MPUB`, in bytes. With the line limit of 16 KiB it bounds
    /// what a decoder can ever ask its caller to buffer.
    pub max_body_size: usize,
    /// The highest count of `RDY`.
    pub max_rdy_count: u64,
    /// The longest delay of `REQ`, in milliseconds. Longer ones are clamped.
    pub max_req_timeout_ms: u64,
    /// The longest delay of `DPUB`, in milliseconds. Longer ones are refused.
    pub max_defer_timeout_ms: u64,
}
