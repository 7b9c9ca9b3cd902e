//! An authorisation server that answers as a test wants it to.

#![expect(clippy::disallowed_types, reason = "a server is outside of the node: its sockets are real")]
#![expect(clippy::disallowed_methods, reason = "serves on a thread of its own while the test goes on")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::{certificates::Certified, wait::PATIENCE};

/// What the server does with a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// 200 with this body.
    Json(String),
    /// Another status, with this body.
    Status(u16, String),
    /// These bytes, as they are, and the end of the connection.
    Raw(Vec<u8>),
    /// Nothing, with the connection left open until the server is dropped.
    Hang,
}

/// A server on a port of its own. It stops taking connections when it is dropped.
#[derive(Debug)]
pub struct AuthServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    answer: Mutex<Answer>,
    requests: Mutex<Vec<String>>,
    hanging: Mutex<Vec<Box<dyn Send>>>,
    stopped: Mutex<bool>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("answer", &self.answer).finish_non_exhaustive()
    }
}

impl AuthServer {
    /// Starts a server that gives this answer.
    ///
    /// # Panics
    /// When no port is free.
    #[must_use]
    pub fn start(answer: Answer) -> Self {
        Self::begin(answer, None)
    }

    /// The same by HTTPS, with this certificate.
    #[must_use]
    pub fn start_secure(answer: Answer, certified: &Certified) -> Self {
        Self::begin(answer, Some(certified.server()))
    }

    fn begin(answer: Answer, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            answer: Mutex::new(answer),
            requests: Mutex::default(),
            hanging: Mutex::default(),
            stopped: Mutex::new(false),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if *serving.stopped.lock().expect("no holder panics") {
                    return;
                }
                let (Ok(stream), serving, tls) = (stream, Arc::clone(&serving), tls.clone()) else {
                    continue;
                };
                std::thread::spawn(move || serve(stream, tls, &serving));
            }
        });
        Self { address, shared }
    }

    /// Starts a server that allows all of `permissions` (as JSON texts) on every topic and channel for an hour.
    #[must_use]
    pub fn allowing(permissions: &str) -> Self {
        Self::start(Answer::Json(allowing(3600, permissions)))
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Answers in another way from now on.
    ///
    /// # Panics
    /// When a thread of the server has panicked.
    pub fn answer(&self, answer: Answer) {
        *self.shared.answer.lock().expect("no holder panics") = answer;
    }

    /// The requests so far: head and body.
    ///
    /// # Panics
    /// When a thread of the server has panicked.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().expect("no holder panics").clone()
    }
}

impl Drop for AuthServer {
    fn drop(&mut self) {
        *self.shared.stopped.lock().expect("no holder panics") = true;
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address));
    }
}

/// A reply that allows `permissions` on everything for `ttl` seconds.
#[must_use]
pub fn allowing(ttl: u64, permissions: &str) -> String {
    format!(
        r#"{{"ttl":{ttl},"identity":"me","identity_url":"http://u","authorizations":[{{"topic":".*","channels":[".*"],"permissions":[{permissions}]}}]}}"#
    )
}

fn serve(stream: TcpStream, tls: Option<Arc<ServerConfig>>, shared: &Shared) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    match tls.map(|config| ServerConnection::new(config).expect("the configuration is sound")) {
        None => converse(stream, shared),
        Some(tls) => converse(StreamOwned::new(tls, stream), shared),
    }
}

fn converse(mut stream: impl Read + Write + Send + 'static, shared: &Shared) {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    while !is_whole(&request) {
        match stream.read(&mut chunk) {
            Ok(n) if n > 0 => request.extend_from_slice(&chunk[..n]),
            _ => return,
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    shared.requests.lock().expect("no holder panics").push(text);
    let answer = shared.answer.lock().expect("no holder panics").clone();
    let head = |status: u16, length: usize| {
        format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n")
    };
    // The node may have hung up on an answer that it does not want.
    let _ = match answer {
        Answer::Json(body) => stream.write_all((head(200, body.len()) + &body).as_bytes()),
        Answer::Status(status, body) => stream.write_all((head(status, body.len()) + &body).as_bytes()),
        Answer::Raw(bytes) => stream.write_all(&bytes),
        Answer::Hang => {
            shared.hanging.lock().expect("no holder panics").push(Box::new(stream));
            return;
        }
    };
}

/// Whether the head has come, and as much of a body as it says.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    length.is_none_or(|length| length.trim().parse().is_ok_and(|length: usize| body.len() >= length))
}
