//! The task at the owner's end of a link: to the channel it is one more consumer, which has credit instead of
//! RDY.

use std::{future::poll_fn, io, pin::pin, sync::Arc, task::Poll, time::Duration};

use bruit_gossip::NodeId;
use bruit_wire::{
    ChannelName,
    relay::{Ask, FINISH_MAX, GiveBack, OPEN_MAX, Open, Tell},
};
use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use quinn::{RecvStream, SendStream};
use tokio::{select, time::timeout};

use super::{Relays, Standing, link::read};
use crate::{
    broker::{Channel, Client, Output, SubscribeError, Topic, Want, millis},
    mesh::PeerStream,
};

/// Bytes of messages that are taken from the channel at once.
const BATCH: usize = 256 * 1024;
/// The node with the consumer ends a delivery that takes too long; only if it does not, the owner does, so much
/// later, ms.
const GRACE: u32 = 2_000;

/// How long the last words of a peer that has gone may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the consumers at the other end can take.
#[derive(Debug, Default)]
struct Account {
    limit: u64,
    sent: u64,
    serial: u32,
    timeout: u32,
    /// A lower limit has to be confirmed.
    owes: bool,
    /// What was last said to be waiting, and whether others take it.
    told: u64,
    told_served: bool,
    /// The channel was asked, and will wake this task, or has.
    waited: bool,
}

/// A guest on a channel of this node.
struct Guest<'a> {
    relays: &'a Relays,
    topic: Arc<Topic>,
    channel: Arc<Channel>,
    client: Arc<Client>,
    account: Mutex<Account>,
}

/// Serves a link that another node has opened, to its end.
///
/// # Errors
/// The link broke, or the peer sent what cannot be.
pub(super) async fn serve(relays: &Relays, from: NodeId, mut stream: PeerStream) -> io::Result<()> {
    let open = Open::parse(&stream.recv(OPEN_MAX).await?).map_err(io::Error::other)?;
    let (mut send, recv, connection) = stream.into_halves();
    let _watch = relays.pulses.watch(&connection);
    let Some(guest) = Guest::admit(relays, from, &open) else {
        send.write_all(&bytes_of(Tell::Absent)).await?;
        // Dropping the stream ends it; what was written is still sent.
        return Ok(());
    };
    let standing = Standing { node: from, generation: open.generation, client: Arc::clone(&guest.client) };
    relays.guests.lock().insert(guest.client.id, standing);
    let opened = bytes_of(Tell::Opened { tag: relays.tag });
    let outcome = async {
        send.write_all(&opened).await?;
        let mut hearing = pin!(guest.hear(recv));
        let spoken = select! {
            biased;
            outcome = &mut hearing => return outcome,
            outcome = guest.speak(from, &mut send) => outcome,
        };
        // The peer wants no more messages. What it has said of those that it had may still be on its way.
        match spoken {
            Err(_) => timeout(FAREWELL, hearing).await.unwrap_or(Ok(())),
            Ok(()) => Ok(()),
        }
    };
    let outcome = outcome.await;
    relays.guests.lock().remove(&guest.client.id);
    guest.leave();
    outcome
}

fn bytes_of(tell: Tell) -> Vec<u8> {
    let mut bytes = Vec::new();
    tell.put(&mut bytes);
    bytes
}

impl<'a> Guest<'a> {
    /// Makes the peer a consumer of a channel. No topic is made for it, nor a channel that lasts: gossip makes
    /// those, and one that was deleted would come back. `None` if there is no such channel, or it is full.
    fn admit(relays: &'a Relays, from: NodeId, open: &Open) -> Option<Self> {
        let topic = relays.broker.topic(&open.topic)?;
        let name = ChannelName::new(&open.channel).ok()?;
        let channel = match topic.channel(name.as_str()) {
            Some(channel) => channel,
            None if name.is_ephemeral() => topic.channel_or_create(&name).ok()?,
            None => return None,
        };
        if relays.guests.lock().len() >= super::GUESTS_MAX {
            return None;
        }
        let view = relays.mesh.view();
        let address =
            view.member(from).map_or_else(|| from.to_string(), |member| member.peer.mesh().to_string());
        let client = relays.broker.connect(address, open.host.clone(), relays.wall_now());
        client.relays_for(&open.host, &open.region, &open.zone);
        client.locate(&relays.place, &open.region, &open.zone, true);
        client.state.store(3, std::sync::atomic::Ordering::Relaxed);
        match channel.subscribe(&client) {
            Ok(()) => Some(Self { relays, topic, channel, client, account: Mutex::default() }),
            Err(SubscribeError::Deleted | SubscribeError::TooManyConsumers) => {
                relays.broker.disconnect(&client);
                None
            }
        }
    }

    fn leave(&self) {
        if self.topic.leave(&self.channel, &self.client) {
            self.relays.broker.delete_topic(self.topic.name().as_str());
        }
        self.relays.broker.disconnect(&self.client);
    }

    /// Takes what the peer says.
    async fn hear(&self, mut recv: RecvStream) -> io::Result<()> {
        let mut input = BytesMut::new();
        let mut finished = Vec::new();
        loop {
            read(&mut recv, &mut input).await?;
            while let Some((ask, len)) = Ask::decode(&input).map_err(io::Error::other)? {
                input.advance(len);
                match ask {
                    Ask::Finish { first, count } => {
                        finished.extend(first..first + u64::from(count));
                        if finished.len() >= FINISH_MAX as usize {
                            self.finish(&mut finished);
                        }
                    }
                    other => self.apply(other),
                }
            }
            self.finish(&mut finished);
            self.client.signal.wake();
        }
    }

    /// What is refused was given to somebody else meanwhile: it took too long.
    fn finish(&self, finished: &mut Vec<u64>) {
        self.channel.finish(&self.client, finished, |_, _| {});
        finished.clear();
    }

    /// Answers for messages that the peer no longer has are no errors: they took too long.
    fn apply(&self, ask: Ask) {
        let client = &self.client;
        match ask {
            Ask::Credit { serial, limit, timeout } => {
                let mut account = self.account.lock();
                account.owes |= limit < account.limit;
                account.limit = limit.max(account.sent);
                account.serial = serial;
                account.timeout = timeout;
            }
            Ask::Requeue { sequence, delay } => {
                let delay = delay.min(millis(self.relays.limits.max_req_timeout));
                if self.channel.requeue(client, sequence, delay).is_err() {
                    // As many are deferred as may be: then it comes at once.
                    let _ = self.channel.give_back(client, sequence, GiveBack::Lost);
                }
            }
            Ask::Touch { sequence, timeout } => {
                let max = u32::try_from(millis(self.relays.limits.max_msg_timeout)).unwrap_or(u32::MAX);
                let (timeout, max) = (timeout.saturating_add(GRACE), max.saturating_add(GRACE));
                let _ = self.channel.touch(client, sequence, timeout, max);
            }
            Ask::GiveBack { sequence, how } => {
                let _ = self.channel.give_back(client, sequence, how);
            }
            Ask::Finish { .. } => {}
        }
    }

    /// Sends messages while there is credit, and says how many wait when there is none.
    async fn speak(&self, from: NodeId, send: &mut SendStream) -> io::Result<()> {
        let mut frames = Output::new();
        loop {
            let next = poll_fn(|cx| {
                self.client.signal.register(cx);
                if self.client.is_closing() {
                    return Poll::Ready(None);
                }
                let (count, state) = self.step(&mut frames);
                if count > 0 || state.is_some() { Poll::Ready(Some((count, state))) } else { Poll::Pending }
            });
            let Some((count, state)) = next.await else { return Ok(()) };
            let mut chunks: Vec<Bytes> = Vec::with_capacity(frames.len() + 2);
            if count > 0 {
                let len = frames.iter().map(Bytes::len).sum::<usize>();
                let (count, len) = (u32::try_from(count), u32::try_from(len));
                let (Ok(count), Ok(len)) = (count, len) else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                chunks.push(bytes_of(Tell::Messages { count, len }).into());
                chunks.extend(frames.drain(..));
                self.relays.count_out(from, u64::from(count));
            }
            chunks.extend(state.map(|state| bytes_of(state).into()));
            send.write_all_chunks(&mut chunks).await?;
        }
    }

    /// Takes messages for which there is credit; returns how many, and how this end stands if the peer has to
    /// know.
    fn step(&self, frames: &mut Output) -> (u64, Option<Tell>) {
        let client = &self.client;
        let mut account = self.account.lock();
        let account = &mut *account;
        let mut credit = account.limit - account.sent;
        let mut taken = 0;
        let woken = std::mem::replace(&mut account.waited, client.is_waiting()) && !account.waited;
        if credit > 0 {
            // Also while it still waits from when it had credit before: it is preferred again.
            client.set_able(true);
        }
        if credit > 0 && !account.waited {
            let timeout = account.timeout.saturating_add(GRACE);
            let want = Want { client: client.id, messages: credit, bytes: BATCH, timeout, sample: None };
            taken = self.channel.take(client, want, frames);
            account.sent += taken;
            // The peer counts down likewise: else a backlog that is as long as it was would not be told anew
            // when the peer has it for gone.
            account.told = account.told.saturating_sub(taken);
            account.waited = client.is_waiting();
            credit -= taken;
        } else if woken {
            // It was meant for somebody who can take something.
            self.channel.wake();
        }
        // With credit left, either nothing waits, or the next batch takes it.
        let mut waiting = if credit == 0 || account.waited { 0 } else { account.told };
        let mut served = account.told_served;
        if credit == 0 {
            if client.set_able(false) && self.channel.is_ranked() {
                self.channel.wake();
            }
            if !client.is_watching() {
                (waiting, served) = self.channel.await_more(client);
            } else {
                waiting = account.told;
            }
        }
        let in_flight = client.in_flight.load(std::sync::atomic::Ordering::Relaxed);
        client.ready.store(in_flight + credit, std::sync::atomic::Ordering::Relaxed);
        // What has come to be far more or less is worth a word, and whether there is anything at all.
        let differs =
            (waiting == 0) != (account.told == 0) || waiting / 2 > account.told || waiting < account.told / 2;
        let differs = differs || (waiting > 0 && served != account.told_served);
        let tells = std::mem::take(&mut account.owes) || differs;
        let state = tells.then(|| {
            (account.told, account.told_served) = (waiting, served);
            Tell::State { serial: account.serial, limit: account.limit, waiting, served }
        });
        (taken, state)
    }
}
