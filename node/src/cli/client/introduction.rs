//! How a client introduces itself to a node: IDENTIFY, then the layers that were agreed on, then AUTH (NSQ
//! reference, sections 2.8 to 2.10).

use std::{io, time::Duration};

use anyhow::bail;
use bruit_wire::{
    compress::Compression,
    nsq::{self, FrameType},
};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Access, Client, PATIENCE, access::LEVEL, options::Options};
use crate::{
    env::Conn,
    layers::{Stack, wrap},
};

/// Bytes of a frame's type, which its size counts.
const KIND: usize = 4;
/// Bytes of the answer to IDENTIFY, at most.
const ANSWER_MAX: usize = 64 << 10;
const RESPONSE: u32 = FrameType::Response as u32;
const ERROR: u32 = FrameType::Error as u32;
/// How long a node may take to have a token judged by servers of its own.
const JUDGEMENT: Duration = Duration::from_secs(30);

/// What a client says of itself and what it asks for.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Introduction {
    fields: Map<String, Value>,
    access: Access,
}

impl Introduction {
    /// As `user_agent`, with the access that the command line asks for.
    pub(in crate::cli) fn new(user_agent: &str) -> Self {
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let fields = [("client_id", hostname.as_str()), ("hostname", &hostname), ("user_agent", user_agent)];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.into())).into_iter().collect();
        Self { fields, access: Access::chosen() }
    }

    /// The same with what `options` say in addition.
    ///
    /// # Errors
    /// An option whose value cannot be.
    pub(in crate::cli) fn with(mut self, options: &Options) -> anyhow::Result<Self> {
        self.fields.extend(options.fields()?);
        self.access = options.access(self.access)?;
        Ok(self)
    }

    fn identify(&self) -> Vec<u8> {
        let (access, mut fields) = (&self.access, self.fields.clone());
        fields.insert("feature_negotiation".to_owned(), true.into());
        fields.insert("tls_v1".to_owned(), access.tls.into());
        match access.compression {
            None => {}
            Some(Compression::Snappy) => drop(fields.insert("snappy".to_owned(), true.into())),
            Some(Compression::Deflate { level }) => {
                fields.insert("deflate".to_owned(), true.into());
                fields.insert("deflate_level".to_owned(), level.into());
            }
        }
        Value::from(fields).to_string().into_bytes()
    }
}

/// What the node has agreed to. Everything is off where it says nothing, as a node that is no nsqd may.
#[derive(Debug, Default)]
struct Granted {
    tls: bool,
    snappy: bool,
    deflate: Option<u32>,
    wants_token: bool,
}

impl Granted {
    fn parse(reply: &[u8]) -> Self {
        let reply: Value = serde_json::from_slice(reply).unwrap_or_else(|_| json!({}));
        let is = |name: &str| reply[name] == true;
        let level = reply["deflate_level"].as_u64().and_then(|level| u32::try_from(level).ok());
        Self {
            tls: is("tls_v1"),
            snappy: is("snappy"),
            deflate: is("deflate").then(|| level.unwrap_or(LEVEL)),
            wants_token: is("auth_required"),
        }
    }
}

impl Client {
    /// Makes itself known, up to the point where commands can be sent.
    pub(super) async fn introduce(&mut self, introduction: &Introduction) -> anyhow::Result<()> {
        nsq::put_identify(self.out(), &introduction.identify());
        let granted = match timeout(PATIENCE, self.identify()).await {
            Ok(Ok((ERROR, text))) => {
                bail!("the node at {} refuses us: {}", self.address, String::from_utf8_lossy(&text))
            }
            Ok(Ok((_, reply))) => Granted::parse(&reply),
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(self.not_nsq(&error.to_string()));
            }
            Ok(Err(error)) => return Err(self.lost(&error.to_string())),
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                return Err(self.not_nsq(&format!("no answer to IDENTIFY within {seconds} s")));
            }
        };
        let access = &introduction.access;
        self.agree(access, &granted).await?;
        if granted.wants_token {
            self.authenticate(access.token.as_deref()).await?;
        }
        Ok(())
    }

    /// Puts the layers around the connection. In each of them the node says `OK` once.
    async fn agree(&mut self, access: &Access, granted: &Granted) -> anyhow::Result<()> {
        let address = self.address.clone();
        if access.tls && !granted.tls {
            bail!("the node at {address} has no TLS: give it --tls-cert and --tls-key, or leave out --tls");
        }
        let compression = match access.compression {
            None => None,
            Some(Compression::Snappy) if granted.snappy => Some(Compression::Snappy),
            Some(Compression::Deflate { .. }) if granted.deflate.is_some() => {
                granted.deflate.map(|level| Compression::Deflate { level })
            }
            Some(_) => bail!("the node at {address} does not compress in this way: try without"),
        };
        if !access.tls && compression.is_none() {
            return Ok(());
        }
        let conn = self.take_conn();
        let layered = if access.tls {
            let (conn, layered) = access.encrypt(conn, &address).await?;
            self.conn = conn;
            self.expect_ok("TLS").await?;
            layered
        } else {
            let (conn, layered) = wrap(conn, Stack::plain());
            self.conn = conn;
            layered
        };
        if let Some(compression) = compression {
            layered.pack(compression);
            self.expect_ok("compression").await?;
        }
        Ok(())
    }

    fn take_conn(&mut self) -> Conn {
        let nothing = Conn { reader: Box::new(tokio::io::empty()), writer: Box::new(tokio::io::empty()) };
        std::mem::replace(&mut self.conn, nothing)
    }

    /// Takes the node's word that a layer works.
    async fn expect_ok(&mut self, layer: &str) -> anyhow::Result<()> {
        let address = self.address.clone();
        let Ok(outcome) = timeout(PATIENCE, self.read_frame()).await else {
            bail!("the node at {address} does not say whether {layer} works")
        };
        match outcome {
            Ok((RESPONSE, answer)) if answer == b"OK" => Ok(()),
            Ok((_, answer)) => {
                bail!("the node at {address} answers {layer} with {:?}", String::from_utf8_lossy(&answer))
            }
            Err(error) => {
                let text = error.to_string();
                let hint = match text.contains("UnknownIssuer") {
                    true => ": name the authority that its certificate comes from with --tls-ca-file",
                    false => "",
                };
                bail!("{layer} with the node at {address} fails: {text}{hint}")
            }
        }
    }

    /// Sends what there is to be sent, and takes the answer.
    async fn identify(&mut self) -> io::Result<(u32, Vec<u8>)> {
        self.conn.writer.write_all(&std::mem::take(&mut self.out)).await?;
        self.conn.writer.flush().await?;
        self.read_frame().await
    }

    /// The type and body of the next frame, and not a byte more: what follows may lie in another layer.
    async fn read_frame(&mut self) -> io::Result<(u32, Vec<u8>)> {
        let reader = &mut self.conn.reader;
        let size = reader.read_u32().await? as usize;
        let Some(size) = size.checked_sub(KIND).filter(|size| *size <= ANSWER_MAX) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {size} bytes")));
        };
        let kind = reader.read_u32().await?;
        let mut body = vec![0; size];
        reader.read_exact(&mut body).await?;
        Ok((kind, body))
    }

    /// Shows the token and waits until it was taken.
    async fn authenticate(&mut self, token: Option<&str>) -> anyhow::Result<()> {
        let address = self.address.clone();
        let Some(token) = token else {
            bail!(
                "the node at {address} wants a token: name a file that holds it with --token-file, or set BRUIT_TOKEN"
            );
        };
        nsq::put_auth(self.out(), token.as_bytes());
        match self.answer(JUDGEMENT).await? {
            Some((FrameType::Response, _)) => Ok(()),
            Some((_, text)) => {
                bail!("the node at {address} does not take the token: {}", String::from_utf8_lossy(&text))
            }
            None => bail!("the node at {address} does not say whether it takes the token"),
        }
    }

    /// The next frame that is no heartbeat. `None` if none comes in time.
    async fn answer(&mut self, patience: Duration) -> anyhow::Result<Option<(FrameType, Bytes)>> {
        let answer = timeout(patience, async {
            loop {
                match self.take_frame()? {
                    Some((FrameType::Response, body)) if &body[..] == b"_heartbeat_" => {
                        nsq::put_nop(self.out());
                    }
                    Some(frame) => return anyhow::Ok(frame),
                    None => self.progress().await?,
                }
            }
        });
        answer.await.map_or(Ok(None), |frame| frame.map(Some))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(options: &[&str]) -> Value {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let options = Options::parse(&options).unwrap();
        serde_json::from_slice(&Introduction::new("a/1").with(&options).unwrap().identify()).unwrap()
    }

    #[test]
    fn options_say_what_is_asked_for() {
        let plain = told(&[]);
        assert_eq!((&plain["user_agent"], &plain["tls_v1"]), (&json!("a/1"), &json!(false)));
        assert_eq!((&plain["snappy"], &plain["msg_timeout"]), (&Value::Null, &Value::Null));
        let asked =
            told(&["user_agent,b/2", "tls_v1,true", "deflate,true", "deflate_level,3", "msg_timeout,90s"]);
        assert_eq!((&asked["user_agent"], &asked["tls_v1"]), (&json!("b/2"), &json!(true)));
        assert_eq!((&asked["deflate"], &asked["deflate_level"]), (&json!(true), &json!(3)));
        assert_eq!(asked["msg_timeout"], 90_000);
        assert_eq!(told(&["snappy"])["snappy"], true);
    }
}
