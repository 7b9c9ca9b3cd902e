//! NSQ's protocol as a client speaks it: hello, publishing, subscribing.

use anyhow::{Context, Result, anyhow, bail, ensure};
use bruit_wire::{
    ChannelName, TopicName,
    nsq::{
        FrameDecoder, FrameType, HEARTBEAT_FRAME, MAGIC_V2, OK_FRAME, put_identify, put_multi_publish,
        put_nop, put_publish, put_subscribe,
    },
};
use serde::Deserialize;

use super::{
    dialect::{Command, Dialect, Replies},
    socket::{Received, Socket},
};

/// Largest frame that is accepted from a server, bytes.
pub(super) const FRAME_SIZE_MAX: usize = 33 * 1024 * 1024;

/// Publishing by PUB and MPUB.
#[derive(Debug)]
pub(super) struct Nsq {
    topic: String,
    tls: bool,
    decoder: FrameDecoder,
}

impl Nsq {
    /// For one connection that publishes to `topic`, inside of TLS if `tls` is set.
    pub(super) fn new(topic: &str, tls: bool) -> Self {
        Self { topic: topic.to_owned(), tls, decoder: FrameDecoder::new(FRAME_SIZE_MAX) }
    }
}

impl Dialect for Nsq {
    fn open(&mut self, socket: &mut Socket) -> Result<()> {
        TopicName::new(&self.topic).with_context(|| format!("--topic {:?}", self.topic))?;
        hello(socket, self.tls).map(drop)
    }

    fn command(&self, body: &[u8], batch: usize) -> Result<Command> {
        let mut bytes = Vec::new();
        let step = body.len() + 4;
        if batch == 1 {
            put_publish(&mut bytes, &self.topic, body);
        } else {
            put_multi_publish(&mut bytes, &self.topic, std::iter::repeat_n(body, batch));
        }
        // Both commands end with their messages, each of which follows its length.
        let first = bytes.len() - batch * step + 4;
        let bodies = (0..batch).map(|i| first + i * step).collect();
        Ok(Command { bytes, bodies, size: body.len() })
    }

    fn replies(&mut self, input: &[u8], owed: &mut Vec<u8>) -> Result<Replies> {
        let mut replies = Replies::default();
        loop {
            let rest = &input[replies.consumed..];
            if rest.starts_with(&OK_FRAME) {
                replies.consumed += OK_FRAME.len();
                replies.acknowledged += 1;
            } else if rest.starts_with(&HEARTBEAT_FRAME) {
                replies.consumed += HEARTBEAT_FRAME.len();
                put_nop(owed);
            } else if let Some((frame, _)) = self.decoder.decode(rest)? {
                let text = String::from_utf8_lossy(frame.body);
                bail!("the server answered {text:?} where OK was due");
            } else {
                return Ok(replies);
            }
        }
    }

    fn held(&mut self, _: &mut Socket) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// What a server grants to a client that identifies itself.
#[derive(Debug, Deserialize)]
pub(super) struct Granted {
    /// Largest RDY.
    pub(super) max_rdy_count: u64,
    #[serde(default)]
    tls_v1: bool,
}

/// Opens the protocol on a fresh connection, with TLS if `tls` is set.
///
/// # Errors
/// The server refuses, has no TLS, or speaks something else.
pub(super) fn hello(socket: &mut Socket, tls: bool) -> Result<Granted> {
    let mut out = MAGIC_V2.to_vec();
    let identity = format!(
        r#"{{"client_id":"bench","user_agent":"bruit-bench","feature_negotiation":true,"tls_v1":{tls}}}"#
    );
    put_identify(&mut out, identity.as_bytes());
    socket.send(&out)?;
    let reply = response(socket).context("the server refused IDENTIFY")?;
    let granted: Granted = serde_json::from_slice(&reply)
        .context("the server answered IDENTIFY with something else than its settings")?;
    if tls {
        ensure!(granted.tls_v1, "the server has no TLS: give it --tls-cert and --tls-key");
        socket.encrypt()?;
        let reply = response(socket).context("the handshake failed")?;
        ensure!(reply == b"OK", "the server answered TLS with {:?}", String::from_utf8_lossy(&reply));
    }
    Ok(granted)
}

/// Subscribes to a channel; nothing is delivered before the first RDY.
///
/// # Errors
/// The server refuses, grants a smaller RDY, or speaks something else.
pub(super) fn subscribe(socket: &mut Socket, topic: &str, channel: &str, rdy: u64) -> Result<()> {
    TopicName::new(topic).with_context(|| format!("--topic {topic:?}"))?;
    ChannelName::new(channel).with_context(|| format!("--channel {channel:?}"))?;
    let granted = hello(socket, false)?;
    let max = granted.max_rdy_count;
    ensure!(rdy <= max, "the server grants RDY {max} at most: lower --rdy, or raise its --max-rdy-count");
    let mut out = Vec::new();
    put_subscribe(&mut out, topic, channel);
    socket.send(&out)?;
    let reply = response(socket).with_context(|| format!("the server refused SUB {topic} {channel}"))?;
    ensure!(reply == b"OK", "the server answered SUB with {:?}", String::from_utf8_lossy(&reply));
    Ok(())
}

/// The next response, heartbeats left out.
fn response(socket: &mut Socket) -> Result<Vec<u8>> {
    let decoder = FrameDecoder::new(FRAME_SIZE_MAX);
    loop {
        while let Some((frame, consumed)) = decoder.decode(socket.unread())? {
            let (kind, body) = (frame.kind, frame.body.to_vec());
            socket.consume(consumed);
            match kind {
                FrameType::Response if body == b"_heartbeat_" => {
                    let mut nop = Vec::new();
                    put_nop(&mut nop);
                    socket.send(&nop)?;
                }
                FrameType::Response => return Ok(body),
                FrameType::Error => return Err(anyhow!("{}", String::from_utf8_lossy(&body))),
                FrameType::Message => bail!("the server sent a message before RDY"),
            }
        }
        if socket.receive()? == Received::Closed {
            bail!("the server closed the connection");
        }
    }
}

#[cfg(test)]
mod tests {
    use bruit_wire::nsq::put_frame;

    use super::*;

    #[test]
    fn acknowledgements_are_counted_across_reads_and_heartbeats() {
        let mut nsq = Nsq::new("t", false);
        let mut owed = Vec::new();
        let input = [&OK_FRAME[..], &HEARTBEAT_FRAME[..], &OK_FRAME[..], &OK_FRAME[..7]].concat();
        let replies = nsq.replies(&input, &mut owed).unwrap();
        assert_eq!(replies, Replies { consumed: 39, acknowledged: 2 });
        assert_eq!(owed, b"NOP\n");
    }

    #[test]
    fn a_refusal_is_an_error_that_tells_the_servers_words() {
        let mut input = OK_FRAME.to_vec();
        put_frame(&mut input, FrameType::Error, b"E_PUB_FAILED PUB failed exiting");
        let error = Nsq::new("t", false).replies(&input, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("E_PUB_FAILED"), "{error}");
    }
}
