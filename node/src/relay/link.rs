//! The task at this end of a link to an owner: what the feed has to say goes there, what comes goes to the
//! feed.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use bruit_gossip::Peer;
use bruit_wire::relay::{Open, Tell};
use bytes::{Buf, BytesMut};
use quinn::{RecvStream, SendStream};
use tokio::{
    select,
    time::{sleep_until, timeout},
};

use super::{Relays, feed::Feed, pulse::Watch};
use crate::broker::Signal;

/// How long the owner may take to say whether it has the channel.
const STEP: Duration = Duration::from_secs(5);
/// Bytes that are read at once.
const READ: usize = 64 * 1024;

/// How a link ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Nobody here wants it any more.
    Unwanted,
    /// The owner does not have the channel.
    Absent,
    /// It could not be opened, or was lost.
    Lost(io::Error),
}

/// Ends a link.
#[derive(Debug, Default)]
pub(super) struct Stop {
    asked: AtomicBool,
    /// Wakes the link's task, for this and for what the feed has to say.
    signal: Arc<Signal>,
}

impl Stop {
    /// Nobody wants the link any more. What is still to be said is said.
    pub(super) fn stop(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.signal.wake();
    }

    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    async fn asked(&self) {
        poll_fn(|cx| {
            self.signal.register(cx);
            if self.is_asked() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Opens a link and keeps it until it is lost, or nobody wants it. `stood` is called once it stands.
pub(super) async fn run(
    relays: &Relays,
    feed: &Feed,
    owner: &Peer,
    stop: &Stop,
    stood: impl FnOnce(),
) -> Ended {
    // An owner that was started anew does not wait until its earlier life does not answer.
    let opened = select! {
        biased;
        () = stop.asked() => return Ended::Unwanted,
        opened = open(relays, feed, owner) => opened,
    };
    let (mut send, recv, tag, input, _watch) = match opened {
        Ok(Some(opened)) => opened,
        Ok(None) => return Ended::Absent,
        Err(error) => return Ended::Lost(error),
    };
    feed.open(owner.id, tag, Arc::clone(&stop.signal));
    stood();
    let outcome = select! {
        biased;
        outcome = hear(relays, feed, owner, recv, input) => outcome,
        outcome = speak(relays, feed, owner, &mut send, stop) => outcome,
    };
    feed.close(owner.id);
    match outcome {
        Ok(()) => Ended::Unwanted,
        Err(error) => Ended::Lost(error),
    }
}

type Opened<'r> = (SendStream, RecvStream, u16, BytesMut, Watch<'r>);

async fn open<'r>(relays: &'r Relays, feed: &Feed, owner: &Peer) -> io::Result<Option<Opened<'r>>> {
    let mut stream = relays.mesh.open_relay(owner).await?;
    let open = Open {
        generation: relays.generation(),
        topic: feed.topic.as_str().to_owned(),
        channel: feed.channel.as_str().to_owned(),
        host: relays.host.clone(),
        region: relays.place.region.clone(),
        zone: relays.place.zone.clone(),
    };
    stream.send(&open.to_bytes()).await?;
    let (send, mut recv, connection) = stream.into_halves();
    let watch = relays.pulses.watch(&connection);
    let mut input = BytesMut::new();
    let answer = async {
        loop {
            if let Some((tell, len)) = Tell::decode(&input).map_err(io::Error::other)? {
                input.advance(len);
                return Ok(tell);
            }
            read(&mut recv, &mut input).await?;
        }
    };
    let answer: io::Result<Tell> = timeout(STEP, answer).await.map_err(|_| io::ErrorKind::TimedOut)?;
    match answer? {
        Tell::Opened { tag } => Ok(Some((send, recv, tag, input, watch))),
        Tell::Absent => Ok(None),
        _ => Err(io::Error::other("the owner does not answer what it was asked")),
    }
}

/// Takes what the owner sends.
async fn hear(
    relays: &Relays,
    feed: &Feed,
    owner: &Peer,
    mut recv: RecvStream,
    mut input: BytesMut,
) -> io::Result<()> {
    loop {
        while let Some((tell, head)) = Tell::decode(&input).map_err(io::Error::other)? {
            let Tell::Messages { count, len } = tell else {
                input.advance(head);
                feed.told(owner.id, tell).map_err(io::Error::other)?;
                continue;
            };
            if input.len() < head + len as usize {
                break;
            }
            input.advance(head);
            let frames = input.split_to(len as usize).freeze();
            feed.arrive(owner.id, frames, count).map_err(io::Error::other)?;
            relays.count_in(owner.id, u64::from(count));
        }
        read(&mut recv, &mut input).await?;
    }
}

/// Reads once. Memory grows with what comes, not with what was announced.
pub(super) async fn read(recv: &mut RecvStream, input: &mut BytesMut) -> io::Result<()> {
    let chunk = recv.read_chunk(READ, true).await.map_err(io::Error::other)?;
    let chunk = chunk.ok_or(io::ErrorKind::UnexpectedEof)?;
    if input.capacity() - input.len() < chunk.bytes.len() {
        input.reserve(READ.max(chunk.bytes.len()));
    }
    input.extend_from_slice(&chunk.bytes);
    Ok(())
}

/// Says what the feed has to say, and looks at time-outs, until it is stopped and has said everything.
async fn speak(
    relays: &Relays,
    feed: &Feed,
    owner: &Peer,
    send: &mut SendStream,
    stop: &Stop,
) -> io::Result<()> {
    let clock = relays.broker.clock();
    loop {
        let (asks, next) = feed.take_asks(clock.now(), owner.id);
        if let Some(asks) = asks {
            send.write_all(&asks).await?;
            continue;
        }
        if stop.is_asked() {
            return Ok(());
        }
        let mut due = pin!(sleep_until(clock.instant(next.unwrap_or_default())));
        poll_fn(|cx| {
            stop.signal.register(cx);
            let (has_asks, now_next) = feed.pending(owner.id);
            let is_due = next.is_some() && due.as_mut().poll(cx).is_ready();
            let is_earlier = now_next < next.unwrap_or(u64::MAX);
            let wakes = has_asks || is_due || is_earlier || stop.is_asked();
            if wakes { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
