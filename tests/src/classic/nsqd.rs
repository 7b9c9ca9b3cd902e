//! An nsqd: messages in memory, clients in protocol V2, registered at lookups in protocol V1.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
};

use super::Registration;
use crate::Http;

/// A running nsqd. Dropping it closes its connections.
#[derive(Debug)]
pub struct Nsqd {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    registrations: Arc<Mutex<Vec<Registration>>>,
}

#[derive(Debug, Default)]
struct State {
    topics: BTreeMap<String, Topic>,
    next: u64,
    connections: Vec<TcpStream>,
    gone: bool,
}

#[derive(Debug, Default)]
struct Topic {
    /// What came before there was a channel.
    backlog: VecDeque<Held>,
    channels: BTreeMap<String, Channel>,
}

#[derive(Debug, Default)]
struct Channel {
    queue: VecDeque<Held>,
    in_flight: BTreeMap<String, Held>,
}

#[derive(Debug, Clone)]
struct Held {
    id: String,
    attempts: u16,
    body: Vec<u8>,
}

impl Nsqd {
    /// Starts one that registers at these lookups.
    ///
    /// # Panics
    /// When there is no free port, or a lookup refuses.
    #[must_use]
    pub fn start(lookups: &[SocketAddr]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let identified = |lookup: &SocketAddr| Registration::identified(*lookup, "127.0.0.1", address.port());
        let registrations = Arc::new(Mutex::new(lookups.iter().map(identified).collect()));
        let nsqd = Self { address, state: Arc::default(), registrations };
        let (state, registrations) = (Arc::clone(&nsqd.state), Arc::clone(&nsqd.registrations));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut shared = lock(&state);
                if shared.gone {
                    return;
                }
                shared.connections.extend(stream.try_clone());
                drop(shared);
                let (state, registrations) = (Arc::clone(&state), Arc::clone(&registrations));
                std::thread::spawn(move || {
                    Session { state: &state, registrations: &registrations }.serve(stream)
                });
            }
        });
        nsqd
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Messages of a channel that are not finished.
    #[must_use]
    pub fn unfinished(&self, topic: &str, channel: &str) -> usize {
        let state = lock(&self.state);
        let topic = state.topics.get(topic);
        let channel = topic.and_then(|topic| topic.channels.get(channel));
        channel.map_or(0, |channel| channel.queue.len() + channel.in_flight.len())
    }
}

impl Drop for Nsqd {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.gone = true;
        for stream in state.connections.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        // Their connections close with them.
        self.registrations.lock().expect("no daemon panics").clear();
        let _ = TcpStream::connect(self.address);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no daemon panics")
}

struct Session<'a> {
    state: &'a Mutex<State>,
    registrations: &'a Mutex<Vec<Registration>>,
}

impl Session<'_> {
    /// One client, until it goes.
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
        let mut magic = [0; 4];
        let mut subscribed: Option<(String, String)> = None;
        let mut ready = 0;
        if reader.read_exact(&mut magic).is_ok() && magic == *b"  V2" {
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
                let words: Vec<&str> = line.trim_end().split(' ').collect();
                if self.obey(&words, &mut reader, &stream, &mut subscribed, &mut ready).is_none() {
                    break;
                }
                if let Some((topic, channel)) = &subscribed {
                    self.deliver(topic, channel, ready, &stream);
                }
                line.clear();
            }
        }
        if let Some((topic, channel)) = subscribed {
            let mut state = lock(self.state);
            let channel = state.topics.entry(topic).or_default().channels.entry(channel).or_default();
            channel.queue.extend(std::mem::take(&mut channel.in_flight).into_values());
        }
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn obey(
        &self,
        words: &[&str],
        reader: &mut impl Read,
        stream: &TcpStream,
        subscribed: &mut Option<(String, String)>,
        ready: &mut usize,
    ) -> Option<()> {
        match *words {
            ["IDENTIFY"] => {
                super::registration::read_sized(reader)?;
                frame(stream, 0, br#"{"max_rdy_count":2500,"version":"1.2.1","msg_timeout":60000,"max_msg_timeout":900000}"#);
            }
            ["PUB", topic] => {
                let body = super::registration::read_sized(reader)?;
                self.publish(topic, body);
                frame(stream, 0, b"OK");
            }
            ["SUB", topic, channel] => {
                self.make(topic, channel);
                *subscribed = Some((topic.to_owned(), channel.to_owned()));
                frame(stream, 0, b"OK");
            }
            ["RDY", count] => *ready = count.parse().ok()?,
            ["FIN", id] => {
                let (topic, channel) = subscribed.as_ref()?;
                let mut state = lock(self.state);
                state.topics.get_mut(topic)?.channels.get_mut(channel)?.in_flight.remove(id)?;
            }
            ["CLS"] => frame(stream, 0, b"CLOSE_WAIT"),
            ["NOP"] => {}
            _ => return None,
        }
        Some(())
    }

    fn publish(&self, topic: &str, body: Vec<u8>) {
        let is_new = !lock(self.state).topics.contains_key(topic);
        if is_new {
            self.register(&format!("REGISTER {topic}"));
            for channel in self.known_channels(topic) {
                self.make(topic, &channel);
            }
        }
        let mut state = lock(self.state);
        state.next += 1;
        let held = Held { id: format!("{:016x}", state.next), attempts: 0, body };
        let topic = state.topics.entry(topic.to_owned()).or_default();
        match topic.channels.is_empty() {
            true => topic.backlog.push_back(held),
            false => topic.channels.values_mut().for_each(|channel| channel.queue.push_back(held.clone())),
        }
    }

    /// The lasting channels that the lookups know, with which a new topic begins (reference, section 4).
    fn known_channels(&self, topic: &str) -> Vec<String> {
        let registrations = self.registrations.lock().expect("no daemon panics");
        let lookups: Vec<SocketAddr> = registrations.iter().filter_map(|known| known.http).collect();
        drop(registrations);
        let ask = |lookup: &SocketAddr| Http::new(*lookup).get(&format!("/channels?topic={topic}")).json();
        let answers: Vec<serde_json::Value> = lookups.iter().map(ask).collect();
        let channels =
            answers.iter().flat_map(|answer| answer["channels"].as_array().cloned().unwrap_or_default());
        let names = channels.filter_map(|channel| channel.as_str().map(str::to_owned));
        names.filter(|name| !name.ends_with("#ephemeral")).collect()
    }

    fn make(&self, topic: &str, channel: &str) {
        self.register(&format!("REGISTER {topic} {channel}"));
        let mut state = lock(self.state);
        let topic = state.topics.entry(topic.to_owned()).or_default();
        let backlog = match topic.channels.is_empty() {
            true => std::mem::take(&mut topic.backlog),
            false => VecDeque::new(),
        };
        topic.channels.entry(channel.to_owned()).or_default().queue.extend(backlog);
    }

    fn register(&self, line: &str) {
        for registration in self.registrations.lock().expect("no daemon panics").iter_mut() {
            registration.ok(line);
        }
    }

    fn deliver(&self, topic: &str, channel: &str, ready: usize, stream: &TcpStream) {
        let mut state = lock(self.state);
        let channel = state.topics.entry(topic.to_owned()).or_default().channels.entry(channel.to_owned());
        let channel = channel.or_default();
        while channel.in_flight.len() < ready {
            let Some(mut held) = channel.queue.pop_front() else { return };
            held.attempts += 1;
            let head = [&1_i64.to_be_bytes()[..], &held.attempts.to_be_bytes(), held.id.as_bytes()].concat();
            frame(stream, 2, &[head, held.body.clone()].concat());
            channel.in_flight.insert(held.id.clone(), held);
        }
    }
}

fn frame(mut stream: &TcpStream, kind: u32, body: &[u8]) {
    let bytes = [&(body.len() as u32 + 4).to_be_bytes()[..], &kind.to_be_bytes(), body].concat();
    // A client that is gone is noticed by its reader.
    let _ = stream.write_all(&bytes);
}
