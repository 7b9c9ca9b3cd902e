//! Ten owners with backlogs of unequal length and one consumer elsewhere: everything is drained, RDY is never
//! exceeded, and no owner waits for long while others are served.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use bruit_wire::{
    MessageId,
    nsq::{self, FrameType, MessageView},
};
use tokio::time::{Instant, sleep, timeout_at};

use super::clients::{Node, Report};
use crate::{
    body::{self, Key},
    check::Finding,
    client::{Client, Wishes, get_json},
    dice::Dice,
};

const TOPIC: &str = "orders";
const CHANNEL: &str = "archive";

const WISHES: Wishes = Wishes { msg_timeout: Duration::from_secs(20), heartbeat: Duration::from_secs(2) };

/// How long one step may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the consumer waits for the next message before it takes the rest for lost.
const NOTHING_FOR: Duration = Duration::from_secs(10);

/// How many messages an owner may get in its turn: all of RDY, up to the first, and a few where RDY is less than
/// the second.
const TURN: (u64, u64) = (256, 4);

/// The consumer's node; all others are owners.
const HERE: usize = 0;

/// What the owners hold, and what came of it.
struct Drain {
    ready: u64,
    owner_of: BTreeMap<Key, usize>,
    /// The owner of each message, in order of arrival.
    came: Vec<usize>,
    taken: BTreeSet<Key>,
    /// Most messages that the consumer had at a time.
    most: usize,
}

/// Runs the owners' publishers, then the consumer, and judges.
pub(super) async fn run(nodes: Vec<Node>, mut dice: Dice, report: Report) {
    let outcome = async {
        let mut drain = fill(&nodes, &mut dice).await?;
        let began = Instant::now();
        take_all(&nodes, &mut drain, &mut dice).await?;
        io::Result::Ok((drain, began.elapsed()))
    };
    match outcome.await {
        Ok((drain, took)) => drain.judge(took, &report),
        Err(error) => report.findings.lock().push(Finding::new("I24", error.to_string())),
    }
}

/// Makes the channel, waits until every owner knows it, and gives each its backlog.
async fn fill(nodes: &[Node], dice: &mut Dice) -> io::Result<Drain> {
    let mut drain = Drain {
        ready: dice.pick(&[1, 5, 200]).copied().unwrap_or(1),
        owner_of: BTreeMap::new(),
        came: Vec::new(),
        taken: BTreeSet::new(),
        most: 0,
    };
    subscribed(nodes).await?;
    for (owner, node) in nodes.iter().enumerate().filter(|(at, _)| *at != HERE) {
        // From a few to hundreds.
        let longest = 4 << dice.below(8);
        let keys: Vec<Key> = (0..dice.between(1, longest)).map(|_| node.recorder.new_key()).collect();
        let bodies: Vec<_> = keys.iter().map(|key| body::write(*key, 60)).collect();
        drain.owner_of.extend(keys.iter().map(|key| (*key, owner)));
        let mut out = Vec::new();
        nsq::put_multi_publish(&mut out, TOPIC, bodies.iter().map(Vec::as_slice));
        let mut client = Client::connect(&node.name, PATIENCE, WISHES).await?;
        client.send(&out).await?;
        match client.answer().await? {
            (FrameType::Response, body) if body == b"OK" => {}
            (_, body) => return Err(io::Error::other(String::from_utf8_lossy(&body).into_owned())),
        }
    }
    until_true("not every owner has the channel", || all_hold(nodes)).await?;
    Ok(drain)
}

async fn subscribed(nodes: &[Node]) -> io::Result<Client> {
    let deadline = Instant::now() + NOTHING_FOR;
    loop {
        let client = async {
            let mut client = Client::connect(&nodes[HERE].name, PATIENCE, WISHES).await?;
            client.subscribe(TOPIC, CHANNEL).await?;
            io::Result::Ok(client)
        };
        match client.await {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Asks until the answer is yes. Errors count as no.
async fn until_true<F: Future<Output = io::Result<bool>>>(
    otherwise: &str,
    what: impl Fn() -> F,
) -> io::Result<()> {
    let deadline = Instant::now() + NOTHING_FOR;
    while !what().await.unwrap_or(false) {
        if Instant::now() > deadline {
            return Err(io::Error::other(otherwise.to_owned()));
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Whether the consumer's node has a link to every owner.
async fn has_all_links(nodes: &[Node]) -> io::Result<bool> {
    let stats = get_json(&nodes[HERE].name, "/stats?format=json&include_clients=false", PATIENCE).await?;
    let links = stats["topics"][0]["channels"][0]["relays"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(links.iter().filter(|link| link["state"] == "open").count() + 1 == nodes.len())
}

async fn all_hold(nodes: &[Node]) -> io::Result<bool> {
    for node in nodes {
        let stats = get_json(&node.name, "/stats?format=json&include_clients=false", PATIENCE).await?;
        if !stats.to_string().contains(&format!("\"{CHANNEL}\"")) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes messages, each for a moment, until all have come.
async fn take_all(nodes: &[Node], drain: &mut Drain, dice: &mut Dice) -> io::Result<()> {
    let mut client = subscribed(nodes).await?;
    // An owner that the consumer's node has not heard of yet cannot be served, which is nothing about fairness.
    until_true("not every owner has a link", || has_all_links(nodes)).await?;
    let mut out = Vec::new();
    nsq::put_ready(&mut out, drain.ready);
    client.send(&out).await?;
    let mut held = BTreeSet::new();
    // All at once, or one by one after a while.
    let batch = if dice.chance(500) { drain.ready.div_ceil(2) } else { 1 };
    let mut last_came = Instant::now();
    while drain.taken.len() < drain.owner_of.len() {
        // Not for a frame: there are heartbeats too.
        let next = timeout_at(last_came + NOTHING_FOR, client.frame()).await;
        let Ok(frame) = next else {
            let (taken, all) = (drain.taken.len(), drain.owner_of.len());
            return Err(io::Error::other(format!("after {taken} of {all} messages nothing came any more")));
        };
        let (kind, payload) = frame?;
        let mut out = Vec::new();
        if kind == FrameType::Message {
            let message = MessageView::parse_payload(&payload).ok_or(io::ErrorKind::InvalidData)?;
            let id = MessageId::from_hex(message.id).ok_or(io::ErrorKind::InvalidData)?;
            let key = body::read(message.body).ok_or(io::ErrorKind::InvalidData)?;
            drain.came.extend(drain.owner_of.get(&key));
            drain.taken.insert(key);
            last_came = Instant::now();
            held.insert(id);
            drain.most = drain.most.max(held.len());
        } else {
            nsq::put_nop(&mut out);
        }
        let rest = drain.owner_of.len() - drain.taken.len();
        if held.len() as u64 >= batch.min(drain.ready) || rest == 0 || (rest as u64) < batch {
            held.iter().for_each(|id: &MessageId| nsq::put_finish(&mut out, &id.to_hex()));
            held.clear();
        }
        client.send(&out).await?;
    }
    Ok(())
}

impl Drain {
    fn judge(&self, took: Duration, report: &Report) {
        let mut findings = report.findings.lock();
        if self.most as u64 > self.ready {
            let text = format!("the consumer had {} messages with RDY {}", self.most, self.ready);
            findings.push(Finding::new("I10", text));
        }
        if self.came.len() > self.taken.len() {
            let text = format!("{} messages came twice", self.came.len() - self.taken.len());
            findings.push(Finding::new("I8", text));
        }
        let (longest, allowed) = self.longest_wait();
        if longest > allowed {
            let text = format!(
                "with RDY {} an owner waited for {longest} messages of others, more than {allowed}",
                self.ready
            );
            findings.push(Finding::new("I24", text));
        }
        let sizes: BTreeMap<usize, usize> =
            self.owner_of.values().fold(BTreeMap::new(), |mut sizes, owner| {
                *sizes.entry(*owner).or_default() += 1;
                sizes
            });
        report.notes.lock().push(format!(
            "RDY {}: {} messages of {:?} in {} ms; longest wait of an owner {longest} of {allowed}",
            self.ready,
            self.came.len(),
            sizes.values().collect::<Vec<_>>(),
            took.as_millis(),
        ));
    }

    /// The longest that an owner with messages left was passed over, in messages of others, and the longest
    /// that it may be.
    fn longest_wait(&self) -> (usize, usize) {
        let owners: BTreeSet<usize> = self.owner_of.values().copied().collect();
        let mut longest = 0;
        for owner in &owners {
            let mut last = None;
            for (at, _) in self.came.iter().enumerate().filter(|(_, of)| *of == owner) {
                longest = longest.max(at - last.map_or(0, |last: usize| last + 1));
                last = Some(at);
            }
        }
        let turn = self.ready.clamp(TURN.1, TURN.0) as usize;
        // Every other owner has its turn before one has its next.
        (longest, owners.len() * turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(came: &[usize], most: usize) -> Vec<&'static str> {
        let owner_of: BTreeMap<Key, usize> = (0..).zip(came.iter().copied()).collect();
        let taken = owner_of.keys().copied().collect();
        let drain = Drain { ready: 1, owner_of, came: came.to_vec(), taken, most };
        let report = Report::default();
        drain.judge(Duration::ZERO, &report);
        let findings = report.findings.lock();
        findings.iter().map(|finding| finding.invariant).collect()
    }

    #[test]
    fn owners_in_turn_are_fair_and_one_that_waits_for_the_rest_is_not() {
        assert_eq!(found(&[1, 2, 1, 2, 1, 2, 2, 2, 2, 2], 1), [""; 0]);
        assert_eq!(found(&[1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1], 1), ["I24"]);
        assert_eq!(found(&[2, 2, 2, 2, 2, 2, 2, 2, 2, 1], 1), ["I24"]);
    }

    #[test]
    fn more_than_ready_is_found() {
        assert_eq!(found(&[1, 2], 2), ["I10"]);
    }
}
