//! A small HTTP client for the command line: one request, one answer, one connection.
//!
//! It speaks HTTP/1.0, in which an answer is never in chunks and ends with the connection.
#![expect(clippy::disallowed_types, reason = "client code, beside the node and not within it")]

use std::{io, time::Duration};

use anyhow::{Context, anyhow, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::client::Access;
use crate::env::Conn;

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long to wait for the whole answer then.
const ANSWER: Duration = Duration::from_secs(30);
/// Longest answer to take, bytes.
const ANSWER_MAX: u64 = 256 << 20;

/// The HTTP side of a node, or another server.
#[derive(Debug, Clone)]
pub(super) struct Http {
    address: String,
    secure: bool,
    access: Access,
}

/// What a node answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The status code.
    pub(super) status: u16,
    /// The body.
    pub(super) body: Vec<u8>,
}

impl Http {
    /// The node whose HTTP is at `address`: `host:port`, in a URL or not; encrypted where it begins with
    /// `https://`.
    pub(super) fn new(address: &str) -> Self {
        let (secure, address) = match address.strip_prefix("https://") {
            Some(address) => (true, address),
            None => (false, address.strip_prefix("http://").unwrap_or(address)),
        };
        Self { address: address.trim_end_matches('/').to_owned(), secure, access: Access::chosen() }
    }

    /// A server at `address` (`host:port`) that is no node: it is shown no token.
    pub(super) fn stranger(address: String, secure: bool) -> Self {
        Self { address, secure, access: Access::of_strangers() }
    }

    /// Where it is, `host:port`.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// `GET target`.
    ///
    /// # Errors
    /// A sentence for the user, when nothing answers there or what answers does not speak HTTP.
    pub(super) async fn get(&self, target: &str) -> anyhow::Result<Answer> {
        self.request("GET", target, &[]).await
    }

    /// `POST target`.
    ///
    /// # Errors
    /// As [`Http::get`].
    pub(super) async fn post(&self, target: &str, body: &[u8]) -> anyhow::Result<Answer> {
        self.request("POST", target, body).await
    }

    /// `GET target`, which has to succeed and to answer with JSON.
    ///
    /// # Errors
    /// As [`Http::get`], and what the node says when it refuses.
    pub(super) async fn json(&self, target: &str) -> anyhow::Result<Value> {
        self.get(target).await?.json(self)
    }

    async fn request(&self, method: &str, target: &str, body: &[u8]) -> anyhow::Result<Answer> {
        self.ask(method, target, "", body, (CONNECT, ANSWER)).await
    }

    /// A request with more headers, whole lines each, that may take so long to connect and to be answered.
    ///
    /// # Errors
    /// As [`Http::get`].
    pub(super) async fn ask(
        &self,
        method: &str,
        target: &str,
        headers: &str,
        body: &[u8],
        (to_connect, to_answer): (Duration, Duration),
    ) -> anyhow::Result<Answer> {
        let address = &self.address;
        let stream = match timeout(to_connect, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(address, &error)),
            Err(_) => bail!("cannot reach a node at {address} (no answer within {to_connect:?})"),
        };
        let (reader, writer) = stream.into_split();
        let mut conn = Conn { reader: Box::new(reader), writer: Box::new(writer) };
        if self.secure {
            conn = self.access.encrypt(conn, address).await?.0;
        }
        let token = self.access.token.as_ref();
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let mut request = format!(
            "{method} {target} HTTP/1.0\r\nHost: {address}\r\nUser-Agent: bruit/{}\r\n{token}{headers}Content-Length: {}\r\n\r\n",
            env!("CARGO_PKG_VERSION"),
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        let exchange = timeout(to_answer, async {
            let Conn { reader, mut writer } = conn;
            // A node may answer, and close, before it has read all of a request that it refuses.
            let mut answer = Vec::new();
            let mut reader = reader.take(ANSWER_MAX);
            let write = async {
                writer.write_all(&request).await?;
                writer.flush().await
            };
            // Together: a handshake has to hear before it can say more.
            let (written, read) = tokio::join!(write, reader.read_to_end(&mut answer));
            if answer.is_empty() { written.and(read).map(|_| answer) } else { Ok(answer) }
        });
        let exchanged = exchange.await.map_err(|_| {
            anyhow!("what is at {address} does not answer {method} {target} within {to_answer:?}")
        })?;
        let bytes = exchanged.with_context(|| match self.secure {
            true => format!("TLS with {address} fails, or the connection is lost"),
            false => format!("the connection to {address} is lost"),
        })?;
        parse(&bytes).ok_or_else(|| {
            anyhow!(
                "what answers at {address} does not speak HTTP: is it the HTTP port of a node, and https:// \
                 before it where that is encrypted?"
            )
        })
    }
}

impl Answer {
    /// The body as JSON, when the answer is a success.
    ///
    /// # Errors
    /// What the node at `from` says when it refuses.
    pub(super) fn json(&self, from: &Http) -> anyhow::Result<Value> {
        if self.status != 200 {
            return Err(self.refusal(from));
        }
        let json = serde_json::from_slice(&self.body);
        json.with_context(|| format!("the node at {} answers with something that is no JSON", from.address))
    }

    /// A sentence that says why the node at `from` refused.
    pub(super) fn refusal(&self, from: &Http) -> anyhow::Error {
        let hint = match self.status {
            404 => ": is it a node of bruit, and a recent one?",
            401 => ": it wants a token that it knows, in a file that --token-file names, or in BRUIT_TOKEN",
            403 => ": the token does not allow this",
            _ => "",
        };
        anyhow!("the node at {} refuses with {} {}{hint}", from.address, self.status, self.message())
    }

    /// What the node says in words.
    pub(super) fn message(&self) -> String {
        let json: Option<Value> = serde_json::from_slice(&self.body).ok();
        let message = json.as_ref().and_then(|json| json["message"].as_str());
        let text = message.map_or_else(|| String::from_utf8_lossy(&self.body).into_owned(), str::to_owned);
        // It goes to a terminal.
        text.chars().filter(|c| !c.is_control()).take(500).collect()
    }
}

/// `text` as a value in a query.
pub(super) fn encoded(text: impl AsRef<[u8]>) -> String {
    let mut encoded = String::new();
    for &byte in text.as_ref() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The answer in `bytes`. `None` if it is none, or not whole.
fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let (version, rest) = lines.next()?.split_once(' ')?;
    let status = rest.get(..3)?.parse().ok().filter(|_| version.starts_with("HTTP/1."))?;
    let mut body = bytes[end + 4..].to_vec();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") {
            let length: usize = value.trim().parse().ok()?;
            if body.len() < length {
                return None;
            }
            body.truncate(length);
        }
    }
    Some(Answer { status, body })
}

fn unreachable(address: &str, error: &io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => anyhow!(
            "cannot reach a node at {address} (connection refused): is one running? start it with `bruit serve`, \
             or name another with --http-address"
        ),
        io::ErrorKind::InvalidInput => anyhow!("{address:?} is no address: write host:port"),
        _ => anyhow!("cannot reach a node at {address} ({error})"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_answer_is_taken_whole_or_not_at_all() {
        let answer = |text: &str| parse(text.as_bytes()).map(|answer| (answer.status, answer.body));
        assert_eq!(answer("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nabc"), Some((200, b"ab".to_vec())));
        assert_eq!(answer("HTTP/1.1 404 Not Found\r\nX: y\r\n\r\nabc"), Some((404, b"abc".to_vec())));
        for bad in [
            "",
            "OK\r\n\r\n",
            "HTTP/1.0 200 OK\r\n",
            "HTTP/1.0 20\r\n\r\n",
            "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nabc",
            "HTTP/1.0 200 OK\r\nContent-Length: -1\r\n\r\nabc",
            "SSH/1.0 200 OK\r\n\r\n",
        ] {
            assert_eq!(answer(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_put_into_a_query_stays_in_one_value() {
        assert_eq!(encoded("a.b_c-d#e&f=g h"), "a.b_c-d%23e%26f%3Dg%20h");
    }

    #[tokio::test]
    async fn a_request_is_answered_and_a_refusal_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = Http::new(&format!("http://{}/", listener.local_addr().unwrap()));
        let serve = async {
            for answer in ["200 OK\r\n\r\n{\"a\":1}", "400 Bad Request\r\n\r\n{\"message\":\"NO\\u001b\"}"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\nbody") && !request.ends_with(b"Length: 0\r\n\r\n") {
                    assert!(stream.read_buf(&mut request).await.unwrap() > 0);
                }
                assert!(request.starts_with(b"GET /x HTTP/1.0\r\n") || request.starts_with(b"POST /x "));
                stream.write_all(format!("HTTP/1.0 {answer}").as_bytes()).await.unwrap();
            }
        };
        let ask = async {
            assert_eq!(http.json("/x").await.unwrap()["a"], 1);
            let error = http.post("/x", b"body").await.unwrap().json(&http).unwrap_err().to_string();
            assert_eq!(error, format!("the node at {} refuses with 400 NO", http.address()));
        };
        tokio::join!(serve, ask);
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_what_to_do() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = Http::new(&address).get("/ping").await.unwrap_err().to_string();
        assert!(error.contains("start it with `bruit serve`") && error.contains(&address), "{error}");
    }
}
