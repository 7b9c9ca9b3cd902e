//! A small broker for tests, which can break its promises: what a load generator is for is to notice.
#![expect(clippy::disallowed_types, reason = "tests of client code talk over real sockets")]

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::Arc,
};

use bruit_wire::{
    MessageId,
    nsq::{
        CLOSE_WAIT_FRAME, Command, Decoded, Decoder, FrameType, HEARTBEAT_FRAME, OK_FRAME, Phase, Rules,
        put_frame, put_message,
    },
};
use bytes::BytesMut;
use parking_lot::Mutex;

/// How the broker treats every tenth message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    Lose,
    Repeat,
    Damage,
    SameId,
}

/// A broker with one topic; each connection that subscribes is a channel of its own.
pub(super) struct FakeBroker {
    /// Where it listens.
    pub(super) address: String,
}

#[derive(Debug)]
struct Shared {
    fault: Fault,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    published: u64,
    backlog: BytesMut,
    subscribers: Vec<TcpStream>,
}

impl FakeBroker {
    /// Starts one that lives as long as the test process.
    pub(super) fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared { fault, state: Mutex::default() });
        let accept = move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                // A client that has hung up is no failure.
                let serve = move || drop(shared.serve(&mut stream.unwrap()));
                std::thread::Builder::new().spawn(serve).unwrap();
            }
        };
        std::thread::Builder::new().spawn(accept).unwrap();
        Self { address }
    }
}

impl Shared {
    fn serve(&self, stream: &mut TcpStream) -> io::Result<()> {
        stream.read_exact(&mut [0; 4])?;
        let mut decoder = Decoder::new();
        let mut rules = Rules {
            phase: Phase::Init,
            heartbeats: true,
            max_msg_size: 1 << 20,
            max_body_size: 1 << 20,
            max_rdy_count: 2500,
            max_req_timeout_ms: 1,
            max_defer_timeout_ms: 1,
        };
        let (mut input, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            let read = stream.read(&mut chunk)?;
            if read == 0 {
                // Closing alone would not hang up: the list of subscribers has a handle too.
                return stream.shutdown(Shutdown::Both);
            }
            input.extend_from_slice(&chunk[..read]);
            let mut at = 0;
            while let Decoded::Command { command, consumed } = decoder.decode(&input[at..], &rules).unwrap() {
                rules.phase = self.answer(command, stream, rules.phase)?;
                at += consumed;
            }
            input.drain(..at);
        }
    }

    fn answer(&self, command: Command<'_>, stream: &mut TcpStream, phase: Phase) -> io::Result<Phase> {
        let mut state = self.state.lock();
        let mut out = Vec::new();
        let mut next = phase;
        match command {
            Command::Identify { .. } => {
                put_frame(&mut out, FrameType::Response, br#"{"max_rdy_count":2500}"#);
                // Heartbeats come when they come.
                out.extend_from_slice(&HEARTBEAT_FRAME);
            }
            Command::Publish { body, .. } => {
                state.publish([body].into_iter(), self.fault);
                out.extend_from_slice(&OK_FRAME);
            }
            Command::MultiPublish { messages, .. } => {
                state.publish(messages.iter(), self.fault);
                out.extend_from_slice(&OK_FRAME);
            }
            Command::Subscribe { .. } => {
                out.extend_from_slice(&OK_FRAME);
                state.subscribers.push(stream.try_clone()?);
                next = Phase::Subscribed;
            }
            Command::Ready { .. } => out.extend_from_slice(&state.backlog.split()),
            Command::Close => {
                out.extend_from_slice(&CLOSE_WAIT_FRAME);
                next = Phase::Closing;
            }
            _ => {}
        }
        stream.write_all(&out)?;
        Ok(next)
    }
}

impl State {
    fn publish<'a>(&mut self, bodies: impl Iterator<Item = &'a [u8]>, fault: Fault) {
        let mut frames = BytesMut::new();
        for body in bodies {
            self.published += 1;
            let fault = if self.published.is_multiple_of(10) { fault } else { Fault::None };
            let mut body = body.to_vec();
            if fault == Fault::Damage {
                body[40] ^= 1;
            }
            let id = MessageId::new(1, self.published - u64::from(fault == Fault::SameId));
            for _ in 0..[1, 0, 2][usize::from(fault == Fault::Lose) + 2 * usize::from(fault == Fault::Repeat)]
            {
                put_message(&mut frames, 0, 1, id, &body);
            }
        }
        if self.subscribers.is_empty() {
            self.backlog.unsplit(frames);
        } else {
            // A subscriber that has left misses nothing.
            self.subscribers.iter_mut().for_each(|subscriber| drop(subscriber.write_all(&frames)));
        }
    }
}
