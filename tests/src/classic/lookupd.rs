//! An nsqlookupd: what registers, and what its HTTP says of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
};

use serde_json::{Value, json};

use super::registration::read_sized;

/// A topic, and a channel or "".
type Registered = (String, String);

/// A running nsqlookupd. Dropping it closes its connections.
#[derive(Debug)]
pub struct Lookupd {
    tcp: SocketAddr,
    http: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// By connection: what it says of itself, and what it has registered.
    producers: BTreeMap<u64, (Value, BTreeSet<Registered>)>,
    names: BTreeSet<Registered>,
    pings: u64,
    refuses: bool,
    hangs: bool,
    connections: Vec<TcpStream>,
    gone: bool,
}

impl Lookupd {
    /// Starts one on free ports.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn start() -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into())
    }

    /// Starts one that takes registrations at `address`.
    ///
    /// # Panics
    /// When the address is taken.
    #[must_use]
    pub fn start_at(address: SocketAddr) -> Self {
        let tcp = TcpListener::bind(address).expect("a port for registrations");
        let http = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let lookupd = Self {
            tcp: tcp.local_addr().expect("a bound address"),
            http: http.local_addr().expect("a bound address"),
            state: Arc::default(),
        };
        let http_port = lookupd.http.port();
        serve(tcp, &lookupd.state, move |number, stream, state| register(number, stream, state, http_port));
        serve(http, &lookupd.state, |_, stream, state| answer(stream, state));
        lookupd
    }

    /// Where producers register.
    #[must_use]
    pub fn tcp_address(&self) -> SocketAddr {
        self.tcp
    }

    /// Where its HTTP is.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Makes a name known, as `POST /channel/create` does; "" for no channel.
    pub fn create(&self, topic: &str, channel: &str) {
        let mut state = lock(&self.state);
        state.names.insert((topic.to_owned(), String::new()));
        state.names.insert((topic.to_owned(), channel.to_owned()));
    }

    /// The TCP ports of those who have registered this; "" for no channel.
    #[must_use]
    pub fn producers(&self, topic: &str, channel: &str) -> Vec<u16> {
        let state = lock(&self.state);
        let wanted = (topic.to_owned(), channel.to_owned());
        let holders = state.producers.values().filter(|(_, names)| names.contains(&wanted));
        holders.filter_map(|(about, _)| about["tcp_port"].as_u64().map(|port| port as u16)).collect()
    }

    /// What those who have registered say of themselves.
    #[must_use]
    pub fn descriptions(&self) -> Vec<Value> {
        lock(&self.state).producers.values().map(|(about, _)| about.clone()).collect()
    }

    /// How many PINGs came.
    #[must_use]
    pub fn pings(&self) -> u64 {
        lock(&self.state).pings
    }

    /// Answers every REGISTER with an error from now on.
    pub fn refuse(&self) {
        lock(&self.state).refuses = true;
    }

    /// Takes requests by HTTP from now on, and answers none.
    pub fn hang(&self) {
        lock(&self.state).hangs = true;
    }

    /// Closes the connections that there are; further ones are taken.
    pub fn disconnect_all(&self) {
        for stream in lock(&self.state).connections.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Lookupd {
    fn drop(&mut self) {
        lock(&self.state).gone = true;
        self.disconnect_all();
        // Wakes those who accept.
        for address in [self.tcp, self.http] {
            let _ = TcpStream::connect(address);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no daemon panics")
}

fn serve(
    listener: TcpListener,
    state: &Arc<Mutex<State>>,
    handle: impl Fn(u64, TcpStream, &Mutex<State>) + Clone + Send + 'static,
) {
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let Ok(stream) = stream else { continue };
            let mut shared = lock(&state);
            if shared.gone {
                return;
            }
            shared.connections.extend(stream.try_clone());
            drop(shared);
            let (state, handle) = (Arc::clone(&state), handle.clone());
            std::thread::spawn(move || handle(number as u64, stream, &state));
        }
    });
}

/// Protocol V1 (reference, section 7.1).
fn register(number: u64, stream: TcpStream, state: &Mutex<State>, http_port: u16) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
    let mut magic = [0; 4];
    if std::io::Read::read_exact(&mut reader, &mut magic).is_ok() && magic == *b"  V1" {
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
            let answer = obey(number, line.trim(), &mut reader, state, http_port);
            let Some(answer) = answer else { break };
            let sized = [&(answer.len() as u32).to_be_bytes()[..], answer.as_bytes()].concat();
            if (&stream).write_all(&sized).is_err() || answer.starts_with("E_") {
                break;
            }
            line.clear();
        }
    }
    lock(state).producers.remove(&number);
    let _ = stream.shutdown(Shutdown::Both);
}

fn obey(
    number: u64,
    line: &str,
    reader: &mut impl BufRead,
    state: &Mutex<State>,
    http_port: u16,
) -> Option<String> {
    let mut words = line.split(' ');
    let command = words.next().unwrap_or_default();
    if command == "IDENTIFY" {
        let about: Value = serde_json::from_slice(&read_sized(reader)?).ok()?;
        for key in ["version", "tcp_port", "http_port", "broadcast_address"] {
            assert!(!about[key].is_null() && about[key] != 0 && about[key] != "", "no {key} in {about}");
        }
        lock(state).producers.insert(number, (about, BTreeSet::new()));
        let own = json!({
            "broadcast_address": "127.0.0.1", "hostname": "classic", "http_port": http_port, "tcp_port": 4160,
            "version": "1.3.0",
        });
        return Some(own.to_string());
    }
    let mut state = lock(state);
    if command == "PING" {
        state.pings += 1;
        return Some("OK".to_owned());
    }
    if state.refuses {
        return Some("E_INVALID no".to_owned());
    }
    let topic = words.next().unwrap_or_default().to_owned();
    let channel = words.next().unwrap_or_default().to_owned();
    assert!(!topic.is_empty(), "{line}");
    let State { producers, names, .. } = &mut *state;
    let Some((_, registered)) = producers.get_mut(&number) else {
        return Some("E_INVALID client must IDENTIFY".to_owned());
    };
    match command {
        "REGISTER" => {
            for name in [(topic.clone(), String::new()), (topic, channel)] {
                names.insert(name.clone());
                registered.insert(name);
            }
        }
        "UNREGISTER" => {
            registered.retain(|(t, c)| *t != topic || (!channel.is_empty() && *c != channel));
        }
        _ => return Some(format!("E_INVALID invalid command {command}")),
    }
    Some("OK".to_owned())
}

/// `GET /lookup`, `/channels` and `/topics` (reference, section 7.2), one request per connection.
fn answer(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
    let (mut request, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line).is_ok_and(|read| read > 0) && line.trim() != "" {
        if request.is_empty() {
            request.clone_from(&line);
        }
        line.clear();
    }
    let target = request.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let topic = query.split('&').find_map(|pair| pair.strip_prefix("topic=")).unwrap_or_default();
    let topic = topic.replace("%23", "#");
    let state = lock(state);
    if state.hangs {
        // The state keeps the connection open.
        return;
    }
    let of_topic = state.names.iter().filter(|(name, channel)| *name == topic && !channel.is_empty());
    let channels: Vec<&String> = of_topic.map(|(_, channel)| channel).collect();
    let wanted = (topic.clone(), String::new());
    let (status, body) = match path {
        "/channels" => (200, json!({ "channels": channels })),
        "/topics" => {
            let topics: BTreeSet<&String> = state.names.iter().map(|(name, _)| name).collect();
            (200, json!({ "topics": topics }))
        }
        "/lookup" if state.names.contains(&wanted) => {
            let holders = state.producers.values().filter(|(_, names)| names.contains(&wanted));
            let producers: Vec<&Value> = holders.map(|(about, _)| about).collect();
            (200, json!({ "channels": channels, "producers": producers }))
        }
        "/lookup" => (404, json!({ "message": "TOPIC_NOT_FOUND" })),
        _ => (404, json!({ "message": "NOT_FOUND" })),
    };
    drop(state);
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} X\r\nX-Nsq-Content-Type: nsq; version=1.0\r\nContent-Type: application/json; \
         charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = (&stream).write_all(head.as_bytes());
    let _ = (&stream).write_all(body.as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
}
