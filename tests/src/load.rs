//! Publishers that remember what was acknowledged, and the drain that looks for it.

#![expect(clippy::disallowed_types, reason = "the load comes from outside of the node: its sockets are real")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::{Client, Message, command, multi_publish};

/// What became of one publisher's work. Keys of messages are unique over the whole test.
#[derive(Debug, Default)]
pub struct Journal {
    /// Keys of messages whose PUB or MPUB was answered OK.
    pub acknowledged: BTreeSet<String>,
    /// Keys that were sent; those without an acknowledgement may or may not arrive.
    pub sent: BTreeSet<String>,
    /// The batches, each all of its keys: every one of them arrives whole or not at all.
    pub batches: Vec<Vec<String>>,
}

impl Journal {
    /// Adds what another publisher did.
    pub fn merge(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.sent.extend(other.sent);
        self.batches.extend(other.batches);
    }
}

/// Publishes to `topic` until `stop` is set or the connection breaks: single messages and batches by turns,
/// each waiting for its acknowledgement. Every body is `key:filler`.
#[must_use]
pub fn publish_until(address: SocketAddr, topic: &str, name: &str, stop: &AtomicBool) -> Journal {
    let mut journal = Journal::default();
    let Ok(mut stream) = TcpStream::connect(address) else { return journal };
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket option");
    if stream.write_all(b"  V2").is_err() {
        return journal;
    }
    let mut round = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let batch = if round.is_multiple_of(3) { 1 } else { 1 + round % 7 };
        let keys: Vec<String> = (0..batch).map(|i| format!("{name}-{round}-{i}")).collect();
        let bodies: Vec<String> = keys.iter().map(|key| body(key)).collect();
        let bytes = match bodies.as_slice() {
            [single] => command(&format!("PUB {topic}"), single.as_bytes()),
            several => multi_publish(topic, several),
        };
        journal.sent.extend(keys.iter().cloned());
        journal.batches.push(keys.clone());
        if stream.write_all(&bytes).is_err() || !read_ok(&mut stream) {
            break;
        }
        journal.acknowledged.extend(keys);
        round += 1;
    }
    journal
}

/// The body that belongs to a key: its length differs from key to key, and every byte can be checked.
#[must_use]
pub fn body(key: &str) -> String {
    let filler = 20 + key.bytes().map(usize::from).sum::<usize>() % 300;
    format!("{key}:{}", "abcdefghij".repeat(filler / 10))
}

/// Checks that a delivered body is one that was published, byte for byte; returns its key.
///
/// # Panics
/// When it is not.
#[must_use]
pub fn key_of(message: &Message) -> String {
    let text = message.text();
    let key = text.split(':').next().unwrap_or_default().to_owned();
    assert_eq!(text, body(&key), "a body was changed on its way");
    key
}

/// Takes and finishes everything that `client` (subscribed, RDY given) is sent until nothing comes for `idle`.
/// Returns how often each key came.
pub fn drain(client: &mut Client, idle: Duration) -> BTreeMap<String, usize> {
    let mut seen = BTreeMap::new();
    while let Some(message) = client.message_within(idle) {
        client.finish(&message.id);
        *seen.entry(key_of(&message)).or_default() += 1;
    }
    seen
}

/// Checks what came out against what went in: nothing acknowledged is missing, nothing was invented, and every
/// batch came whole or not at all.
///
/// # Panics
/// When that does not hold.
pub fn check(journal: &Journal, delivered: &BTreeMap<String, usize>) {
    let lost: Vec<&String> =
        journal.acknowledged.iter().filter(|key| !delivered.contains_key(*key)).collect();
    assert!(lost.is_empty(), "{} acknowledged messages are lost, such as {:?}", lost.len(), lost.first());
    let invented: Vec<&String> = delivered.keys().filter(|key| !journal.sent.contains(*key)).collect();
    assert!(invented.is_empty(), "{} messages that nobody published: {:?}", invented.len(), invented.first());
    for batch in &journal.batches {
        let arrived = batch.iter().filter(|key| delivered.contains_key(*key)).count();
        assert!(
            arrived == 0 || arrived == batch.len(),
            "{arrived} of the {} of a batch: {batch:?}",
            batch.len()
        );
    }
}

/// Reads one frame and says whether it is `OK`.
fn read_ok(stream: &mut TcpStream) -> bool {
    let mut head = [0; 8];
    if stream.read_exact(&mut head).is_err() {
        return false;
    }
    let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let mut body = vec![0; size.saturating_sub(4)];
    if stream.read_exact(&mut body).is_err() {
        return false;
    }
    if body == b"_heartbeat_" {
        return stream.write_all(b"NOP\n").is_ok() && read_ok(stream);
    }
    body == b"OK"
}
