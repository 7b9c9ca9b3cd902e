//! HTTP requests whose exact answer is looked at.

#![expect(clippy::disallowed_types, reason = "a client is outside of the node: its sockets are real")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use crate::wait::PATIENCE;

/// Sends requests to one node, each on a connection of its own.
#[derive(Debug, Clone, Copy)]
pub struct Http {
    address: SocketAddr,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order received.
    pub headers: Vec<(String, String)>,
    /// The body, with any chunking undone.
    pub body: Vec<u8>,
}

impl Http {
    /// For the node whose HTTP address this is.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// GET.
    #[must_use]
    pub fn get(&self, target: &str) -> Reply {
        self.request("GET", target, b"")
    }

    /// POST.
    #[must_use]
    pub fn post(&self, target: &str, body: impl AsRef<[u8]>) -> Reply {
        self.request("POST", target, body.as_ref())
    }

    /// PUT.
    #[must_use]
    pub fn put(&self, target: &str, body: impl AsRef<[u8]>) -> Reply {
        self.request("PUT", target, body.as_ref())
    }

    /// POST that has to succeed with an empty body or `OK`.
    pub fn post_ok(&self, target: &str, body: impl AsRef<[u8]>) {
        let reply = self.post(target, body);
        assert_eq!(reply.status, 200, "POST {target}: {reply:?}");
    }

    /// Any method, with a body of known length.
    #[must_use]
    pub fn request(&self, method: &str, target: &str, body: &[u8]) -> Reply {
        let mut request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.exchange(&request)
    }

    /// Sends bytes as they are and reads one answer.
    ///
    /// # Panics
    /// When no whole answer comes.
    #[must_use]
    pub fn exchange(&self, request: &[u8]) -> Reply {
        let mut stream = self.connect();
        // The node may answer, and close, before it has read a body that it refuses.
        let _ = stream.write_all(request);
        read_reply(&mut stream)
    }

    /// Sends bytes and then nothing; returns everything that came back when the node closed.
    ///
    /// # Panics
    /// When the node does not close.
    #[must_use]
    pub fn send_and_stall(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        stream.write_all(request).expect("the node takes the beginning of a request");
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Ok(_) => answer,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => answer,
            Err(error) => panic!("the node did not close a stalled request: {error}"),
        }
    }

    /// Sends bytes to a node that may close before it has taken all of them; returns everything that came back.
    #[must_use]
    pub fn send_and_end(&self, request: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        // A reset after the answer leaves the answer.
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    /// A connection of its own, for requests that share one.
    #[must_use]
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the node listens for HTTP");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        stream
    }
}

impl Reply {
    /// The value of a header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Status and text at once, which is what most tests compare.
    #[must_use]
    pub fn outcome(&self) -> (u16, String) {
        (self.status, self.text())
    }
}

/// Reads one answer from a connection.
///
/// # Panics
/// When the connection ends inside of it.
pub fn read_reply(stream: &mut impl Read) -> Reply {
    let mut input = Vec::new();
    let head_end = loop {
        if let Some(at) = find(&input, b"\r\n\r\n") {
            break at;
        }
        assert!(read_more(stream, &mut input), "no whole header: {:?}", String::from_utf8_lossy(&input));
    };
    let head = String::from_utf8(input[..head_end].to_vec()).expect("a header is text");
    let mut body = input.split_off(head_end + 4);
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status in {status_line:?}"));
    let headers: Vec<(String, String)> = lines
        .map(|line| {
            let (name, value) = line.split_once(':').expect("a header has a colon");
            (name.to_ascii_lowercase(), value.trim().to_owned())
        })
        .collect();
    let reply = Reply { status, headers, body: Vec::new() };
    let body = if reply.header("transfer-encoding") == Some("chunked") {
        read_chunks(stream, body)
    } else if let Some(length) = reply.header("content-length") {
        let length: usize = length.parse().expect("a length is a number");
        while body.len() < length {
            assert!(read_more(stream, &mut body), "the body ended early");
        }
        body.truncate(length);
        body
    } else {
        while read_more(stream, &mut body) {}
        body
    };
    Reply { body, ..reply }
}

fn read_chunks(stream: &mut impl Read, mut input: Vec<u8>) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line_end = loop {
            if let Some(at) = find(&input, b"\r\n") {
                break at;
            }
            assert!(read_more(stream, &mut input), "the chunks ended early");
        };
        let line = String::from_utf8_lossy(&input[..line_end]).into_owned();
        let size = usize::from_str_radix(line.trim(), 16).expect("a chunk begins with its size");
        while input.len() < line_end + 2 + size + 2 {
            assert!(read_more(stream, &mut input), "a chunk ended early");
        }
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&input[line_end + 2..line_end + 2 + size]);
        input.drain(..line_end + 2 + size + 2);
    }
}

fn read_more(stream: &mut impl Read, input: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 64 << 10];
    let n = stream.read(&mut chunk).unwrap_or_else(|error| panic!("no answer: {error}"));
    input.extend_from_slice(&chunk[..n]);
    n > 0
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
