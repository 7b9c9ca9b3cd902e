//! Connections that publish: as fast as acknowledgements come, or at the times of a schedule.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use clap::Args;
use parking_lot::Mutex;

use super::{
    body::{Stamp, blank},
    clock,
    dialect::{Dialect, Protocol, Template},
    latency::Latencies,
    pace::Schedule,
    socket::{Received, Sender, Socket},
};

/// A connection that waits this long for an acknowledgement has a server that hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A paced connection wakes no more often than this; what is due by then goes out together. Waking costs some
/// 10 µs of CPU, so that 20,000 times a second would leave little of a core to the server.
const WAKE_INTERVAL_MIN: Duration = Duration::from_micros(100);

/// What is published, and how.
#[derive(Debug, Clone, Args)]
pub(super) struct PublishArgs {
    /// Bytes of a message's body (32 or more)
    #[arg(long, default_value_t = 200, value_name = "BYTES")]
    pub(super) size: usize,
    /// Connections that publish, each on a thread of its own
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) connections: u32,
    /// Messages in a command: 1 publishes by PUB, more by MPUB
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) batch: u32,
    /// Commands that each connection sends before it waits for an answer
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) pipeline: u32,
    /// Sends each command by a system call of its own, as most client libraries do, instead of as many at once
    /// as the pipeline has room for
    #[arg(long)]
    pub(super) write_each: bool,
    /// Publishes inside of TLS (NSQ's protocol without --rate only); takes any certificate
    #[arg(long)]
    pub(super) tls: bool,
}

/// How long a connection goes on.
#[derive(Debug, Clone, Copy)]
pub(super) enum Volume {
    /// Until it has sent this many commands.
    Commands(u64),
    /// Until then.
    Until(Instant),
}

/// One connection that publishes.
pub(super) struct Publisher {
    socket: Socket,
    dialect: Box<dyn Dialect>,
    template: Template,
    pipeline: u64,
    send_at_once: u64,
    /// The identity of the next message.
    next: Stamp,
}

/// What a connection has published.
#[derive(Debug, Clone)]
pub(super) struct Published {
    /// Messages that were acknowledged, which is all that were sent.
    pub(super) messages: u64,
    /// From each command to its acknowledgement; in a paced run from its due time.
    pub(super) latencies: Latencies,
    /// From due time to sending: what the generator itself adds to a paced run's latencies.
    pub(super) lateness: Latencies,
    /// When the last acknowledgement came.
    pub(super) last: Instant,
}

impl PublishArgs {
    /// Opens the connections.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub(super) fn open(
        &self,
        address: &str,
        protocol: Protocol,
        topic: &str,
        run: u32,
    ) -> Result<Vec<Publisher>> {
        ensure!(!self.tls || protocol == Protocol::Nsq, "--tls is for --protocol nsq only");
        (0..self.connections)
            .map(|publisher| {
                let mut socket = Socket::connect(address)?;
                let mut dialect = protocol.dialect(topic, self.tls);
                dialect.open(&mut socket)?;
                let command = dialect.command(&blank(self.size), self.batch as usize)?;
                let template = Template::new(command, self.pipeline as usize)?;
                let send_at_once = if self.write_each { 1 } else { template.slots() as u64 };
                let next = Stamp { run, publisher, sequence: 0, intended_ns: 0 };
                Ok(Publisher {
                    socket,
                    dialect,
                    template,
                    pipeline: self.pipeline.into(),
                    send_at_once,
                    next,
                })
            })
            .collect()
    }

    /// How many commands each connection sends so that together they publish at least `messages`.
    pub(super) fn shares(&self, messages: u64) -> Vec<u64> {
        let commands = messages.div_ceil(self.batch.into());
        let connections = u64::from(self.connections);
        (0..connections).map(|i| commands / connections + u64::from(i < commands % connections)).collect()
    }
}

impl Publisher {
    /// Publishes with the pipeline kept full.
    ///
    /// # Errors
    /// The server refuses a message, hangs, or closes the connection.
    pub(super) fn publish(mut self, volume: Volume) -> Result<Published> {
        let mut published = Published::new();
        let mut in_flight: VecDeque<(Instant, u64)> = VecDeque::new();
        let (mut sent, mut unanswered) = (0, 0);
        loop {
            let wanted = match volume {
                Volume::Commands(count) => count - sent,
                Volume::Until(end) if clock::now() < end => u64::MAX,
                Volume::Until(_) => 0,
            };
            let mut room = wanted.min(self.pipeline - unanswered);
            while room > 0 {
                let count = room.min(self.send_at_once);
                in_flight.push_back((clock::now(), count));
                self.stamp(count, |_| 0);
                self.socket.send(self.template.commands(count as usize))?;
                (sent, unanswered, room) = (sent + count, unanswered + count, room - count);
            }
            if unanswered == 0 {
                published.messages = sent * self.template.batch();
                return Ok(published);
            }
            let acknowledged = self.receive()?;
            published.last = clock::now();
            ensure!(acknowledged <= unanswered, "the server acknowledged more than was sent");
            unanswered -= acknowledged;
            settle(&mut in_flight, acknowledged, published.last, &mut published.latencies);
        }
    }

    /// Publishes `commands` at the times of `schedule`, counted from `start`, however slow the server is.
    /// Acknowledgements are looked for every `answer_pause` only, which saves CPU where nobody times them.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub(super) fn publish_paced(
        self,
        schedule: Schedule,
        commands: u64,
        start: Instant,
        answer_pause: Duration,
    ) -> Result<Published> {
        let Self { mut socket, mut dialect, mut template, mut next, .. } = self;
        let sender = Mutex::new(socket.sender()?);
        let (sent, failed) = (AtomicU64::new(0), AtomicBool::new(false));
        let (mut published, lateness) = std::thread::scope(|scope| {
            let pacing = scope.spawn(|| {
                let paced = Paced { schedule, commands, start, sent: &sent, failed: &failed };
                paced.send(&mut template, &mut next, &sender)
            });
            let acknowledgements = Acknowledgements { schedule, commands, start, sent: &sent, answer_pause };
            let published = acknowledgements.receive(&mut socket, dialect.as_mut(), &sender);
            failed.store(published.is_err(), Ordering::Relaxed);
            let lateness = pacing.join().unwrap_or_else(|_| bail!("the pacing thread panicked"));
            Ok::<_, anyhow::Error>((published?, lateness?))
        })?;
        published.lateness = lateness;
        published.messages = commands * template.batch();
        Ok(published)
    }

    /// How many messages the server holds, where the protocol can tell.
    ///
    /// # Errors
    /// The server refuses, or closes the connection.
    pub(super) fn held(&mut self) -> Result<Option<u64>> {
        self.dialect.held(&mut self.socket)
    }

    fn stamp(&mut self, commands: u64, intended_ns: impl Fn(u64) -> u64) {
        stamp(&mut self.template, &mut self.next, commands, intended_ns);
    }

    /// Waits for acknowledgements and returns how many came.
    fn receive(&mut self) -> Result<u64> {
        let since = clock::now();
        loop {
            match self.socket.receive()? {
                Received::Closed => bail!("the server closed the connection before it had acknowledged all"),
                Received::Nothing => ensure!(
                    clock::now() - since < ANSWER_TIMEOUT,
                    "no answer for {} s with commands in flight",
                    ANSWER_TIMEOUT.as_secs()
                ),
                Received::Bytes => {
                    let mut owed = Vec::new();
                    let replies = self.dialect.replies(self.socket.unread(), &mut owed)?;
                    self.socket.consume(replies.consumed);
                    if !owed.is_empty() {
                        self.socket.send(&owed)?;
                    }
                    if replies.acknowledged > 0 {
                        return Ok(replies.acknowledged);
                    }
                }
            }
        }
    }
}

impl Published {
    fn new() -> Self {
        Self { messages: 0, latencies: Latencies::new(), lateness: Latencies::new(), last: clock::now() }
    }

    /// What several connections have published together.
    pub(super) fn total(all: Vec<Self>) -> Self {
        let mut total = Self::new();
        total.last = all.iter().map(|published| published.last).max().unwrap_or(total.last);
        for published in all {
            total.messages += published.messages;
            total.latencies.merge(&published.latencies);
            total.lateness.merge(&published.lateness);
        }
        total
    }
}

/// The sending half of a paced connection.
struct Paced<'a> {
    schedule: Schedule,
    commands: u64,
    start: Instant,
    sent: &'a AtomicU64,
    failed: &'a AtomicBool,
}

impl Paced<'_> {
    fn send(&self, template: &mut Template, next: &mut Stamp, sender: &Mutex<Sender>) -> Result<Latencies> {
        clock::sharpen_sleep();
        // With less than this between commands, spinning would take a whole core from the server.
        let exact = self.schedule.interval() >= Duration::from_micros(500);
        let mut lateness = Latencies::new();
        let mut index = 0;
        let mut earliest = self.start;
        while index < self.commands && !self.failed.load(Ordering::Relaxed) {
            clock::sleep_until(earliest.max(self.start + self.schedule.due_at(index)), exact);
            let now = clock::now();
            earliest = now + WAKE_INTERVAL_MIN;
            let elapsed = now.saturating_duration_since(self.start);
            let due = self.schedule.due_by(elapsed).min(self.commands).max(index + 1);
            let count = (due - index).min(template.slots() as u64);
            let due_at = |i: u64| self.schedule.due_at(index + i);
            stamp(template, next, count, |i| due_at(i).as_nanos() as u64);
            (0..count).for_each(|i| lateness.record(elapsed.saturating_sub(due_at(i)), 1));
            // Announced before it is sent: the acknowledgement must not overtake the count.
            self.sent.store(index + count, Ordering::Release);
            sender.lock().send(template.commands(count as usize))?;
            index += count;
        }
        Ok(lateness)
    }
}

/// The receiving half of a paced connection.
struct Acknowledgements<'a> {
    schedule: Schedule,
    commands: u64,
    start: Instant,
    sent: &'a AtomicU64,
    answer_pause: Duration,
}

impl Acknowledgements<'_> {
    fn receive(
        &self,
        socket: &mut Socket,
        dialect: &mut dyn Dialect,
        sender: &Mutex<Sender>,
    ) -> Result<Published> {
        let mut published = Published::new();
        let mut acknowledged = 0;
        let mut owed = Vec::new();
        while acknowledged < self.commands {
            match socket.receive()? {
                Received::Closed => bail!("the server closed the connection before it had acknowledged all"),
                Received::Nothing => {
                    let waits = self.sent.load(Ordering::Acquire) > acknowledged;
                    let silent = clock::now().saturating_duration_since(published.last) > ANSWER_TIMEOUT;
                    ensure!(!(waits && silent), "no answer for {} s", ANSWER_TIMEOUT.as_secs());
                }
                Received::Bytes => {
                    let replies = dialect.replies(socket.unread(), &mut owed)?;
                    socket.consume(replies.consumed);
                    if !owed.is_empty() {
                        sender.lock().send(&owed)?;
                        owed.clear();
                    }
                    published.last = clock::now();
                    let elapsed = published.last.saturating_duration_since(self.start);
                    let until = acknowledged + replies.acknowledged;
                    ensure!(
                        until <= self.sent.load(Ordering::Acquire),
                        "the server acknowledged more than was sent"
                    );
                    for index in acknowledged..until {
                        published.latencies.record(elapsed.saturating_sub(self.schedule.due_at(index)), 1);
                    }
                    acknowledged = until;
                    clock::sleep_until(published.last + self.answer_pause, false);
                }
            }
        }
        Ok(published)
    }
}

/// Stamps the first `commands` prepared commands; `intended_ns` tells the due time of each.
fn stamp(template: &mut Template, next: &mut Stamp, commands: u64, intended_ns: impl Fn(u64) -> u64) {
    for slot in 0..commands {
        next.intended_ns = intended_ns(slot);
        for body in template.bodies(slot as usize) {
            next.put(body);
            next.sequence += 1;
        }
    }
}

/// Enters the latencies of the `acknowledged` oldest commands.
fn settle(
    in_flight: &mut VecDeque<(Instant, u64)>,
    mut acknowledged: u64,
    at: Instant,
    latencies: &mut Latencies,
) {
    while let Some((sent_at, count)) = in_flight.front_mut() {
        let settled = acknowledged.min(*count);
        if settled == 0 {
            return;
        }
        latencies.record(at.saturating_duration_since(*sent_at), settled);
        acknowledged -= settled;
        *count -= settled;
        if *count == 0 {
            in_flight.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_whole_commands_and_add_up() {
        let args =
            PublishArgs { size: 200, connections: 3, batch: 100, pipeline: 1, write_each: false, tls: false };
        assert_eq!(args.shares(1000), [4, 3, 3]);
        assert_eq!(args.shares(1001), [4, 4, 3]);
        assert_eq!(args.shares(0), [0, 0, 0]);
    }

    #[test]
    fn an_acknowledgement_settles_the_oldest_commands_first() {
        let (early, late) = (clock::now(), clock::now() + Duration::from_millis(1));
        let mut in_flight = VecDeque::from([(early, 3), (late, 2)]);
        let mut latencies = Latencies::new();
        settle(&mut in_flight, 4, late + Duration::from_millis(1), &mut latencies);
        assert_eq!(in_flight, [(late, 1)]);
        let summary = latencies.summary().unwrap();
        assert_eq!(summary.count, 4);
        assert!(summary.max_us >= 1990.0 && summary.p50_us >= 1990.0, "{summary:?}");
    }
}
