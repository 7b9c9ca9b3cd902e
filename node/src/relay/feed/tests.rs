//! A feed against owners that are a model: a backlog, a limit, and what is on its way.

use std::time::SystemTime;

use bruit_wire::{nsq, relay::Ask};
use bytes::BytesMut;
use proptest::prelude::*;

use super::*;

/// An owner as it should be: sends what credit allows, tells the truth.
#[derive(Debug, Default)]
struct Model {
    limit: u64,
    sent: u64,
    serial: u32,
    backlog: u64,
    finished: u64,
    /// What is on its way from here, oldest first.
    talk: Vec<Talk>,
}

#[derive(Debug)]
enum Talk {
    Messages(Vec<u64>),
    State(Tell),
}

fn id(number: u64) -> NodeId {
    NodeId::new(number)
}

fn client(number: u32, ready: u64) -> Arc<Client> {
    let client = Client::new(number, String::new(), String::new(), SystemTime::UNIX_EPOCH);
    client.ready.store(ready, Ordering::Relaxed);
    client.msg_timeout.store(60_000, Ordering::Relaxed);
    Arc::new(client)
}

fn feed(owners: u64) -> Feed {
    let feed = Feed::new(TopicName::new("t").unwrap(), ChannelName::new("c").unwrap(), 999);
    (1..=owners).for_each(|owner| feed.open(id(owner), owner as u16, Arc::default()));
    feed
}

fn frames(tag: u16, sequences: &[u64]) -> Bytes {
    let mut bytes = BytesMut::new();
    sequences.iter().for_each(|at| nsq::put_message(&mut bytes, 1, 1, MessageId::new(tag, *at), b""));
    bytes.freeze()
}

impl Model {
    /// Reads what the feed says, and sends what that allows.
    fn turn(&mut self, feed: &Feed, owner: u64) {
        let (asks, _) = feed.take_asks(0, id(owner));
        let mut asks = asks.as_deref().unwrap_or_default();
        let mut owes = false;
        while let Some((ask, len)) = Ask::decode(asks).unwrap() {
            asks = &asks[len..];
            match ask {
                Ask::Credit { serial, limit, .. } => {
                    owes |= limit < self.limit;
                    self.limit = limit.max(self.sent);
                    self.serial = serial;
                }
                Ask::Finish { count, .. } => self.finished += u64::from(count),
                Ask::GiveBack { .. } => self.backlog += 1,
                other => panic!("{other:?}"),
            }
        }
        let count = self.backlog.min(self.limit - self.sent);
        if count > 0 {
            self.talk.push(Talk::Messages((self.sent..self.sent + count).collect()));
            self.sent += count;
            self.backlog -= count;
        }
        let state =
            Tell::State { serial: self.serial, limit: self.limit, waiting: self.backlog, served: false };
        if owes || count > 0 || self.backlog > 0 {
            self.talk.push(Talk::State(state));
        }
    }

    /// What the owner said last time arrives.
    fn arrive(&mut self, feed: &Feed, owner: u64) {
        for talk in self.talk.drain(..) {
            match talk {
                Talk::Messages(sequences) => {
                    let count = sequences.len() as u32;
                    feed.arrive(id(owner), frames(owner as u16, &sequences), count).unwrap();
                }
                Talk::State(tell) => feed.told(id(owner), tell).unwrap(),
            }
        }
    }
}

fn take(feed: &Feed, client: &Client) -> (Handed, Vec<MessageId>) {
    let mut out = Output::new();
    let timeout = 60_000;
    let mut want = Want { client: client.id, messages: client.free(), bytes: 1 << 20, timeout, sample: None };
    let handed = feed.hand_over(0, client, &mut want, &mut out);
    let mut ids = Vec::new();
    for frames in &out {
        let mut rest = &frames[..];
        while let Some(len) = nsq::message_frame_len(rest) {
            ids.push(MessageId::from_hex(nsq::MessageView::parse_frame(&rest[..len]).unwrap().id).unwrap());
            rest = &rest[len..];
        }
    }
    (handed, ids)
}

fn outstanding(feed: &Feed) -> u64 {
    let state = feed.state.lock();
    state.outstanding() + state.arrived()
}

#[test]
fn the_nodes_own_channel_gets_what_is_not_lent() {
    let (feed, client) = (feed(2), client(1, 100));
    feed.join(&client);
    feed.balance(false, 0);
    assert_eq!(outstanding(&feed), 50);
    assert_eq!(take(&feed, &client).0, Handed { messages: 0, own: 50 });
    // It has more than that: the owners, who have nothing, are asked to give it back.
    feed.balance(true, 50);
    assert_eq!(take(&feed, &client).0.own, 50, "they have not confirmed");
    for owner in 1..=2 {
        let mut model = Model::default();
        model.turn(&feed, owner);
        model.arrive(&feed, owner);
    }
    assert_eq!(take(&feed, &client).0.own, 100);
}

#[test]
fn a_link_that_is_lost_takes_its_messages_along() {
    let (feed, client) = (feed(1), client(1, 10));
    feed.join(&client);
    feed.balance(false, 0);
    let mut owner = Model { backlog: 3, ..Model::default() };
    owner.turn(&feed, 1);
    owner.arrive(&feed, 1);
    let (handed, ids) = take(&feed, &client);
    assert_eq!((handed.messages, ids.len()), (3, 3));
    feed.close(id(1));
    assert_eq!(client.in_flight.load(Ordering::Relaxed), 0);
    let mut refused = Vec::new();
    feed.finish(&client, &ids, |id, why| refused.push((id, why)));
    assert_eq!(refused, ids.iter().map(|id| (*id, NotYours::NotInFlight)).collect::<Vec<_>>());
    assert!(!feed.is_linked());
}

#[test]
fn what_no_consumer_is_left_for_goes_back() {
    let (feed, client) = (feed(1), client(1, 10));
    feed.join(&client);
    feed.balance(false, 0);
    let mut owner = Model { backlog: 4, ..Model::default() };
    owner.turn(&feed, 1);
    owner.arrive(&feed, 1);
    assert!(feed.leave(&client));
    owner.turn(&feed, 1);
    assert_eq!(owner.backlog, 4);
}

#[test]
fn no_two_links_have_messages_of_one_id() {
    let feed = feed(0);
    let client = client(1, 100);
    feed.join(&client);
    for owner in 1..=3 {
        feed.open(id(owner), if owner == 1 { 999 } else { 7 }, Arc::default());
    }
    feed.balance(false, 0);
    for (owner, tag) in [(1, 999), (2, 7), (3, 7)] {
        let _ = feed.take_asks(0, id(owner));
        feed.arrive(id(owner), frames(tag, &[1, 2]), 2).unwrap();
    }
    let (_, ids) = take(&feed, &client);
    let tags: std::collections::BTreeSet<u16> = ids.iter().map(|id| id.node()).collect();
    assert_eq!((ids.len(), tags.len()), (6, 3));
    assert!(!tags.contains(&999), "that is this node's own");
    feed.finish(&client, &ids, |id, why| panic!("{id:?}: {why}"));
}

proptest! {
    /// Ten owners, some consumers, whatever happens in whatever order: never more than RDY, and in the end
    /// everything is drained.
    #[test]
    fn never_more_than_ready_and_everything_in_the_end(
        ready in prop::collection::vec(1_u64..30, 1..4),
        backlogs in prop::collection::vec(0_u64..60, 10),
        steps in prop::collection::vec((0_u8..4, 0_usize..10), 0..300),
    ) {
        let feed = feed(10);
        let clients: Vec<Arc<Client>> =
            ready.iter().enumerate().map(|(at, ready)| client(at as u32 + 1, *ready)).collect();
        let rdy: u64 = ready.iter().sum();
        clients.iter().for_each(|client| feed.join(client));
        feed.balance(false, 0);
        let mut owners: Vec<Model> =
            backlogs.iter().map(|backlog| Model { backlog: *backlog, ..Model::default() }).collect();
        let mut held: Vec<Vec<MessageId>> = vec![Vec::new(); clients.len()];
        // With RDY 1 a message takes some rounds over all owners.
        let drain = (0..100_000_usize).map(|at| ((at % 4) as u8, at / 4));
        for (what, which) in steps.into_iter().chain(drain) {
            if owners.iter().zip(&backlogs).all(|(owner, backlog)| owner.finished == *backlog) {
                break;
            }
            let owner = which % owners.len();
            let at = which % clients.len();
            match what {
                0 => owners[owner].turn(&feed, owner as u64 + 1),
                1 => owners[owner].arrive(&feed, owner as u64 + 1),
                2 => {
                    held[at].extend(take(&feed, &clients[at]).1);
                    feed.balance(false, 0);
                }
                _ => {
                    let ids = std::mem::take(&mut held[at]);
                    feed.finish(&clients[at], &ids, |id, why| panic!("{id:?}: {why}"));
                    feed.balance(false, 0);
                }
            }
            let in_flight: u64 = held.iter().map(|held| held.len() as u64).sum();
            prop_assert!(in_flight + outstanding(&feed) <= rdy, "{in_flight} + {} > {rdy}", outstanding(&feed));
            for (client, held) in clients.iter().zip(&held) {
                prop_assert!(held.len() as u64 <= client.ready.load(Ordering::Relaxed));
            }
        }
        let finished: Vec<u64> = owners.iter().map(|owner| owner.finished).collect();
        prop_assert_eq!(finished, backlogs);
    }
}
