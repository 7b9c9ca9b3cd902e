//! Telling one other node at once what gossip will tell it soon.
//!
//! nsqadmin hides a producer with one request to any node, and deletes the topic on the producer with the next.
//! Gossip may lose that race; the delete would then be taken for one of the whole mesh.

use std::{net::SocketAddr, time::Duration};

use axum::http::HeaderValue;
use bruit_gossip::NodeId;
use bruit_wire::TopicName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{HttpState, known::Known};
use crate::env::Env;

/// How long the other node may take. Beyond that gossip has to do.
const PATIENCE: Duration = Duration::from_secs(1);
/// What an answer of success begins with.
const SUCCESS: &[u8] = b"HTTP/1.1 200";

/// Tells `node` that it is hidden from lookups of `topic`. The request is marked, so that nobody passes it on,
/// and carries the `Authorization` of the one that caused it: the other node may be guarded as well.
pub(super) async fn tombstone(
    state: &HttpState,
    known: &Known,
    node: NodeId,
    topic: &TopicName,
    named: &str,
    token: Option<&HeaderValue>,
) {
    let Some(member) = known.view().member(node) else { return };
    let port = member.about.as_ref().map_or(0, |about| about.http_port);
    if port == 0 {
        return;
    }
    let address = SocketAddr::new(member.peer.gossip.ip(), port);
    let target =
        format!("/topic/tombstone?topic={}&node={}&relayed=1", escape(topic.as_str()), escape(named));
    match timeout(PATIENCE, post(&state.env, address, &target, token)).await {
        Ok(Ok(true)) => {}
        outcome => tracing::debug!(%address, ?outcome, "a node could not be told of its tombstone at once"),
    }
}

/// Whether the node at `address` answers with success.
async fn post(
    env: &Env,
    address: SocketAddr,
    target: &str,
    token: Option<&HeaderValue>,
) -> std::io::Result<bool> {
    // A header that is no text is none that a node would take.
    let token = token.and_then(|token| token.to_str().ok());
    let token = token.map(|token| format!("Authorization: {token}\r\n")).unwrap_or_default();
    let mut conn = env.net.connect(address).await?;
    let request = format!(
        "POST {target} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n{token}Connection: close\r\n\r\n"
    );
    conn.writer.write_all(request.as_bytes()).await?;
    conn.writer.flush().await?;
    let mut status = [0; SUCCESS.len()];
    conn.reader.read_exact(&mut status).await?;
    Ok(status == SUCCESS)
}

/// `text` as a value in a query: what is no letter, digit, dot, dash or underscore is escaped.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let escaped = text.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_can_leave_its_place_in_a_query() {
        assert_eq!(escape("a-b.c_9"), "a-b.c_9");
        assert_eq!(escape("t#ephemeral"), "t%23ephemeral");
        assert_eq!(escape("[::1]:4151 &\r\n="), "%5B%3A%3A1%5D%3A4151%20%26%0D%0A%3D");
    }
}
