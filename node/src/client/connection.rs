//! One connection, one task: it reads commands, stages publishes, applies answers, takes messages and writes,
//! as long as any of it makes progress, and sleeps on one waker for all.
//!
//! Reading and writing are polled together: a client that writes FINs while it does not read, against a node
//! that only writes, would otherwise stall both.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use bruit_wire::{
    MessageId,
    nsq::{self, ClientError, Decoder, FrameType, Need},
};
use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    time::{Instant, Sleep},
};

use super::{
    authorize::Authorization,
    deadlines::{Deadlines, Due},
    outbox::Outbox,
    session::{ServerFacts, Session},
    upgrade::Upgrade,
};
use crate::{
    broker::{Broker, Channel, Client, Ticket, Topic, Want, millis},
    env::Conn,
    layers::Layered,
    relay::{Feed, Relays},
};

/// Bytes of the read buffer that all connections of a thread share.
const SCRATCH: usize = 256 * 1024;
/// Reads of one turn; then others get theirs.
const READS_PER_TURN: usize = 4;
/// No messages are taken while so many bytes wait for the socket.
const OUTPUT_MAX: usize = 512 * 1024;
/// The same while clients together leave too much waiting; at least one message is taken when nothing waits.
const OUTPUT_TIGHT: usize = 16 * 1024;
/// No commands are read while so many bytes wait for the socket: the client does not read its answers.
const OUTPUT_STUFFED: usize = 2 * OUTPUT_MAX;
/// No commands are read while so many answers are owed.
const OWED_MAX: usize = 64 * 1024;
/// After a fatal error: how long the client may go on sending, and how much of that is read, so that closing
/// does not reset the connection before it has read the error.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_MAX: usize = 1024 * 1024;

thread_local! {
    static READ: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A consumer's place.
pub(super) struct Subscription {
    pub(super) topic: Arc<Topic>,
    pub(super) channel: Arc<Channel>,
    /// The channel is durable, and SUB answered, once this is settled. No message precedes that answer.
    pub(super) durable: Ticket,
    /// The channel was asked and will wake, or has woken, this connection.
    pub(super) waited: bool,
    /// What other nodes hold of the channel; `None` when nothing is relayed.
    pub(super) feed: Option<Arc<Feed>>,
}

/// Why the task ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Just close.
    Close,
    /// An error frame was sent: let the client read it.
    Linger,
}

/// A connection's state.
pub(super) struct Connection {
    pub(super) broker: Arc<Broker>,
    pub(super) relays: Arc<Relays>,
    pub(super) client: Arc<Client>,
    pub(super) facts: Arc<ServerFacts>,
    pub(super) session: Session,
    pub(super) authorization: Authorization,
    pub(super) conn: Conn,
    pub(super) upgrade: Upgrade,
    /// What lies between this and the socket.
    pub(super) layers: Option<Layered>,
    pub(super) decoder: Decoder,
    pub(super) opened: bool,
    /// The part of a command that came so far, or commands that wait for room.
    pub(super) input: BytesMut,
    /// Of it, what the broker knows of.
    pub(super) input_counted: usize,
    /// Of the output, what the broker knows of.
    output_counted: usize,
    pub(super) need: Option<Need>,
    /// Whole commands may lie in `input`: there was no room for what they ask.
    pub(super) blocked: bool,
    pub(super) outbox: Outbox,
    /// The latest batch whose publishers were answered.
    settled: Ticket,
    pub(super) deadlines: Deadlines,
    pub(super) timer: Pin<Box<Sleep>>,
    pub(super) topic: Option<Arc<Topic>>,
    pub(super) published: u64,
    pub(super) subscription: Option<Subscription>,
    pub(super) finished: Vec<u64>,
    /// Those of other nodes.
    pub(super) finished_elsewhere: Vec<MessageId>,
    pub(super) sampler: u64,
    /// A fatal error was sent; only writing goes on.
    pub(super) ending: bool,
}

/// Serves one connection to its end.
pub(super) async fn run(
    broker: Arc<Broker>,
    relays: Arc<Relays>,
    client: Arc<Client>,
    facts: Arc<ServerFacts>,
    seed: u64,
    conn: Conn,
) {
    let session = Session::new(Arc::clone(&facts));
    let authorization = Authorization::new(facts.auth.clone());
    client.msg_timeout.store(clamp(session.msg_timeout), Ordering::Relaxed);
    client.locate(&facts.place, "", "", false);
    let deadlines = Deadlines::new(Instant::now(), session.heartbeat.unwrap_or_default(), &facts.limits);
    let timer = Box::pin(tokio::time::sleep_until(deadlines.next().unwrap_or_else(Instant::now)));
    let mut connection = Connection {
        broker,
        relays,
        client,
        facts,
        session,
        authorization,
        conn,
        upgrade: Upgrade::None,
        layers: None,
        decoder: Decoder::new(),
        opened: false,
        input: BytesMut::new(),
        input_counted: 0,
        output_counted: 0,
        need: None,
        blocked: false,
        outbox: Outbox::default(),
        settled: Ticket::default(),
        deadlines,
        timer,
        topic: None,
        published: 0,
        subscription: None,
        finished: Vec::new(),
        finished_elsewhere: Vec::new(),
        sampler: seed.max(1),
        ending: false,
    };
    let end = std::future::poll_fn(|cx| connection.poll(cx)).await;
    connection.leave();
    if end == Ok(End::Linger) {
        connection.linger().await;
    }
}

impl Connection {
    /// Everything that can be done now. An error is the socket's: the connection is gone.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<End, ()>> {
        self.client.signal.register(cx);
        if self.client.is_closing() {
            return Poll::Ready(Ok(End::Close));
        }
        let mut reads = 0;
        loop {
            let mut progressed = self.hear(cx);
            if !self.ending {
                let Ok(read) = self.read(cx) else { return Poll::Ready(Err(())) };
                progressed |= read;
                reads += usize::from(read);
            }
            progressed |= self.settle();
            progressed |= !self.ending && self.deliver();
            let Ok(wrote) = self.write(cx) else { return Poll::Ready(Err(())) };
            progressed |= wrote;
            progressed |= self.upgrade.is_some() && self.advance_upgrade();
            if !progressed {
                break;
            }
            if reads >= READS_PER_TURN {
                // Others get their turn; this connection goes on behind them.
                cx.waker().wake_by_ref();
                break;
            }
        }
        self.count_published();
        self.count_output();
        if self.ending && !self.outbox.waits() && self.outbox.owed() == 0 {
            return Poll::Ready(Ok(End::Linger));
        }
        self.check_time(cx)
    }

    /// Reads once, and takes the commands that came. Returns whether anything has happened.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, ()> {
        if self.is_stuffed() || self.upgrade.holds_reading() {
            return Ok(false);
        }
        if std::mem::take(&mut self.blocked) {
            self.take_input();
            if self.blocked || self.ending {
                // The node makes the client wait, not the other way round.
                self.deadlines.command(Instant::now());
                self.count_input();
                return Ok(self.ending);
            }
        }
        // All connections of a thread share the buffer that is read into, so that an idle one holds none.
        READ.with_borrow_mut(|scratch| {
            scratch.resize(SCRATCH, 0);
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut self.conn.reader).poll_read(cx, &mut buffer) {
                Poll::Pending => {
                    // Commands that waited for room have been taken since.
                    if self.input_counted != self.input.len() {
                        self.count_input();
                    }
                    return Ok(self.ending);
                }
                Poll::Ready(Err(_)) => return self.broken(),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return self.hung_up(),
                Poll::Ready(Ok(())) => {}
            }
            if self.upgrade.is_some() {
                // What can be read shows that the handshake has ended.
                self.advance_upgrade();
            }
            if self.input.is_empty() {
                let taken = self.take_commands(buffer.filled());
                self.input.extend_from_slice(&buffer.filled()[taken..]);
            } else {
                self.input.extend_from_slice(buffer.filled());
                self.take_input();
            }
            self.count_input();
            Ok(true)
        })
    }

    /// Keeps what all connections hold of unfinished commands within bounds.
    fn count_input(&mut self) {
        let now = self.input.len();
        let before = std::mem::replace(&mut self.input_counted, now);
        self.deadlines.begun(Instant::now(), now > 0 && !self.blocked);
        if before != now && self.broker.holds_unfinished(before, now) {
            let text = "too many unfinished commands on this node, try again later".into();
            self.fail(&ClientError { code: "E_INVALID", text, fatal: true });
        }
    }

    /// Tells the broker how much of what all clients leave waiting is this one's.
    fn count_output(&mut self) {
        let now = self.output();
        let before = std::mem::replace(&mut self.output_counted, now);
        if before != now {
            self.broker.holds_output(before, now);
        }
    }

    /// Bytes that wait for the client to read.
    fn output(&self) -> usize {
        self.outbox.bytes() + self.layers.as_ref().map_or(0, Layered::waiting)
    }

    pub(super) fn is_stuffed(&self) -> bool {
        self.output() >= OUTPUT_STUFFED || self.outbox.owed() >= OWED_MAX
    }

    /// Takes the commands that lie in [`Self::input`].
    fn take_input(&mut self) {
        let mut input = std::mem::take(&mut self.input);
        let taken = self.take_commands(&input);
        input.advance(taken);
        if !input.is_empty() {
            self.input = input;
        }
    }

    /// The client has closed its side. It may still read what it is owed.
    fn hung_up(&mut self) -> Result<bool, ()> {
        let interrupted = self.need.and_then(|need| need.interrupted()).filter(|_| !self.input.is_empty());
        if interrupted.is_none() && (self.outbox.owed() == 0 || self.subscription.is_some()) {
            return Err(());
        }
        if let Some(error) = interrupted {
            self.fail(&error);
        }
        self.ending = true;
        Ok(true)
    }

    /// Tells the client of an error. A fatal one ends the connection once it is written.
    pub(super) fn fail(&mut self, error: &ClientError) {
        if !error.is_silent() {
            self.reply(FrameType::Error, error.to_string().as_bytes());
        }
        self.ending |= error.fatal;
    }

    pub(super) fn reply(&mut self, kind: FrameType, body: &[u8]) {
        let mut frame = Vec::new();
        nsq::put_frame(&mut frame, kind, body);
        self.outbox.reply(frame.into());
    }

    /// Answers publishes that are durable now.
    fn settle(&mut self) -> bool {
        let commits = self.broker.commits();
        self.settled = commits.settled();
        match self.outbox.settle(self.settled, |ticket| commits.outcome(ticket)) {
            Ok(progressed) => progressed,
            Err(error) => {
                self.outbox.forget_owed();
                self.fail(&error);
                true
            }
        }
    }

    /// Takes messages while the client is ready for them: what has come from other nodes, then what the node
    /// itself holds.
    fn deliver(&mut self) -> bool {
        let (settled, output) = (self.settled, self.output());
        let subscribed = self.subscription.as_mut().filter(|subscription| subscription.durable <= settled);
        let Some(subscription) = subscribed else { return false };
        let room = if self.broker.is_output_tight() { OUTPUT_TIGHT } else { OUTPUT_MAX };
        let rate = self.session.sample_rate;
        let sampler = &mut self.sampler;
        // Off by one as in nsqd: rate r passes r + 1 of a hundred (NSQ reference, section 2.13).
        let mut sample = || next_random(sampler) % 100 <= u64::from(rate);
        let mut want = Want {
            client: self.client.id,
            messages: self.session.ready.saturating_sub(self.client.in_flight.load(Ordering::Relaxed)),
            bytes: room.saturating_sub(output),
            timeout: clamp(self.session.msg_timeout),
            sample: if rate > 0 { Some(&mut sample) } else { None },
        };
        let before = self.outbox.frames.len();
        let mut relayed = 0;
        let feed = subscription.feed.as_ref().filter(|feed| feed.is_linked());
        if let Some(feed) = feed {
            let now = self.broker.clock().now();
            let handed = feed.hand_over(now, &self.client, &mut want, &mut self.outbox.frames);
            relayed = handed.messages;
            want.messages = want.messages.min(handed.own);
        }
        let woken = subscription.waited && !self.client.is_waiting();
        let mut taken = 0;
        if want.messages == 0 || want.bytes == 0 {
            let gives_way = self.client.set_able(false) && subscription.channel.is_ranked();
            if woken || gives_way {
                // The wake-up, or the messages, were meant for somebody who can take something.
                subscription.waited = self.client.is_waiting();
                subscription.channel.wake();
            }
        } else {
            self.client.set_able(true);
            if !subscription.waited || woken {
                taken = subscription.channel.take(&self.client, want, &mut self.outbox.frames);
                subscription.waited = self.client.is_waiting();
            }
        }
        self.outbox.count_from(before);
        if let Some(feed) = feed {
            feed.balance(!(subscription.waited && self.client.has_nothing()), taken);
        }
        relayed + taken > 0
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, ()> {
        if !self.outbox.waits() {
            return Ok(false);
        }
        let wrote = match self.outbox.poll_write(cx, &mut *self.conn.writer) {
            Poll::Ready(Ok(wrote)) => wrote,
            Poll::Ready(Err(_)) => return Err(()),
            Poll::Pending => false,
        };
        let waits = self.outbox.waits();
        if waits || wrote {
            self.deadlines.output(Instant::now(), waits, wrote);
        }
        Ok(wrote)
    }

    /// Sends heartbeats and gives up clients that are silent or stuck.
    fn check_time(&mut self, cx: &mut Context<'_>) -> Poll<Result<End, ()>> {
        while let Some(next) = self.deadlines.next() {
            if self.timer.deadline() != next && (next < self.timer.deadline() || self.timer.is_elapsed()) {
                self.timer.as_mut().reset(next);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            match self.deadlines.due(Instant::now()) {
                None => self.timer.as_mut().reset(next),
                Some(Due::Heartbeat) => {
                    if let Some(error) = self.revoked() {
                        return self.give_up(&error, cx);
                    }
                    self.outbox.send(Bytes::from_static(&nsq::HEARTBEAT_FRAME));
                    if self.write(cx).is_err() {
                        return Poll::Ready(Err(()));
                    }
                }
                Some(Due::Stuck) => return Poll::Ready(Ok(End::Close)),
                Some(Due::Silent) => {
                    let error = self.need.and_then(|need| need.interrupted()).filter(|_| self.opened);
                    let Some(error) = error else { return Poll::Ready(Ok(End::Close)) };
                    return self.give_up(&error, cx);
                }
            }
        }
        Poll::Pending
    }

    /// Says why, as far as the socket takes it now, and ends.
    fn give_up(&mut self, error: &ClientError, cx: &mut Context<'_>) -> Poll<Result<End, ()>> {
        self.fail(error);
        Poll::Ready(self.write(cx).map(|_| End::Linger))
    }

    /// Takes the connection off its channel: what it had in flight is delivered again at once.
    fn leave(&mut self) {
        self.apply_finished();
        self.count_published();
        self.input = BytesMut::new();
        self.count_input();
        let counted = std::mem::take(&mut self.output_counted);
        self.broker.holds_output(counted, 0);
        if let Some(Subscription { topic, channel, feed, .. }) = self.subscription.take() {
            if let Some(feed) = feed {
                self.relays.leave(&feed, &self.client);
            }
            if topic.leave(&channel, &self.client) {
                self.broker.delete_topic(topic.name().as_str());
            }
        }
        self.broker.disconnect(&self.client);
    }

    /// Closes the sending side and reads what the client still sends, for a moment.
    async fn linger(mut self) {
        let drain = async {
            // Errors mean that the client is gone: then there is nothing to wait for.
            if self.conn.writer.shutdown().await.is_err() {
                return;
            }
            let mut sink = [0; 4096];
            let mut left = LINGER_MAX;
            while left > 0 {
                match self.conn.reader.read(&mut sink).await {
                    Ok(0) | Err(_) => return,
                    Ok(read) => left = left.saturating_sub(read),
                }
            }
        };
        // Running out of time is as good an end as any.
        drop(tokio::time::timeout(LINGER, drain).await);
    }
}

pub(super) fn clamp(duration: Duration) -> u32 {
    u32::try_from(millis(duration)).unwrap_or(u32::MAX)
}

/// A step of xorshift: sampling needs spread, not secrecy.
const fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("client", &self.client).finish_non_exhaustive()
    }
}

/// Errors of accepting that mean that the node is out of something, for the listener.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}
