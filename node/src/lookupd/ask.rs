//! With which channels a new topic begins: those that nsqlookupds of the classic kind know of it.
//!
//! nsqd asks before the first message of a topic is handed on, and for as long keeps the publisher waiting.
//! Here the publisher has its answer at once; the topic only shows its messages to no channel until the
//! answers are there, or have not come for too long.

use std::{
    future::{Future, poll_fn},
    io,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bruit_gossip::View;
use bruit_wire::{ChannelName, TopicName};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Semaphore, mpsc},
    time::{Instant, timeout_at},
};

use super::lookups::Lookups;
use crate::{broker::Topic, env::Env, exit::Exiting, mesh::MeshHandle};

/// How long nsqlookupds may take to be connected to and to answer. nsqd gives each 2 s and 5 s.
const PATIENCE: Duration = Duration::from_secs(5);
/// How much of that is for connecting: those that are connected by then still have time to answer.
const PATIENCE_TO_CONNECT: Duration = Duration::from_secs(2);
/// Questions that an nsqlookupd gets at a time.
const AT_A_TIME: usize = 16;
/// Longest answer that is read, bytes: names of 64 bytes for as many channels as a topic may have, twice over.
const ANSWER_MAX: u64 = 2 << 20;

/// Where the HTTP of an nsqlookupd is. One that hangs has no room left for further questions; others have.
pub(super) struct Asked {
    address: String,
    places: Semaphore,
}

impl Asked {
    /// The one at `address` (`host:port`).
    pub(super) fn new(address: String) -> Arc<Self> {
        Arc::new(Self { address, places: Semaphore::new(AT_A_TIME) })
    }
}

/// A new topic, and when it came: since then its messages are kept from its channels.
pub(super) struct New {
    pub(super) topic: Arc<Topic>,
    pub(super) came: Instant,
}

/// Asks about each topic that comes, and lets it go then. Ends with the node.
pub(super) async fn run(
    env: Env,
    lookups: Arc<Lookups>,
    mesh: MeshHandle,
    mut topics: mpsc::UnboundedReceiver<New>,
    exit: Exiting,
) {
    loop {
        let new = tokio::select! {
            biased;
            () = exit.told() => return,
            new = topics.recv() => new,
        };
        let Some(new) = new else { return };
        let (asked, lookups, mesh, exit) = (env.clone(), Arc::clone(&lookups), mesh.clone(), exit.clone());
        env.background.spawn(Box::pin(async move {
            tokio::select! {
                biased;
                () = exit.told() => {}
                () = about(&asked, &lookups, &mesh, &new) => new.topic.release(),
            }
        }));
    }
}

/// Makes the channels that nsqlookupds know of a topic. All are asked at once: what one does not say in time,
/// another still does.
async fn about(env: &Env, lookups: &Lookups, mesh: &MeshHandle, new: &New) {
    let New { topic, came } = new;
    let before = mesh.view();
    // At a start, the first messages may be quicker than the first connection.
    let _ = timeout_at(*came + PATIENCE_TO_CONNECT, lookups.tried()).await;
    let (before, deadline) = (&before, *came + PATIENCE);
    let ask = |lookup: Arc<Asked>| async move {
        let address = &lookup.address;
        let answer = async {
            // Closed never.
            let _place = lookup.places.acquire().await.map_err(io::Error::other)?;
            channels(env, address, topic.name()).await
        };
        let why = match timeout_at(deadline, answer).await {
            Ok(Ok(channels)) => return begin_with(topic, &channels, before, &mesh.view()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        tracing::warn!(
            "nsqlookupd at {address} does not say which channels topic {} has ({why}); channels that only it \
             knows get what is published once a consumer subscribes",
            topic.name()
        );
    };
    let mut asking: Vec<_> = lookups.http().into_iter().map(|lookup| Box::pin(ask(lookup))).collect();
    poll_fn(|cx| {
        asking.retain_mut(|answer| answer.as_mut().poll(cx).is_pending());
        if asking.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Makes those of `channels` that were not deleted between the views `before` and `now`: one that was made and
/// deleted here while we asked is remembered there.
fn begin_with(topic: &Arc<Topic>, channels: &[ChannelName], before: &View, now: &View) {
    let name = topic.name();
    let was_deleted =
        |view: &View, channel: &ChannelName| view.channel_was_deleted(name.as_str(), channel.as_str());
    let is_lost = |channel: &ChannelName| was_deleted(now, channel) && !was_deleted(before, channel);
    for channel in channels.iter().filter(|channel| !channel.is_ephemeral() && !is_lost(channel)) {
        if let Err(refused) = topic.channel_or_create(channel) {
            tracing::warn!("the new topic {name} begins without the channel {channel}: {refused}");
        }
    }
}

/// The channels of a topic that the lookup with its HTTP at `address` (`host:port`) knows.
async fn channels(env: &Env, address: &str, topic: &TopicName) -> io::Result<Vec<ChannelName>> {
    #[derive(Deserialize)]
    struct Answer {
        channels: Vec<String>,
    }
    let target = format!("/channels?topic={}", topic.as_str().replace('#', "%23"));
    let body = request(env, address, &target).await?;
    let answer: Answer = serde_json::from_slice(&body).map_err(io::Error::other)?;
    Ok(answer.channels.iter().filter_map(|name| ChannelName::new(name).ok()).collect())
}

/// The body of a successful answer to `GET target`, in HTTP/1.0, in which it ends with the connection.
async fn request(env: &Env, address: &str, target: &str) -> io::Result<Vec<u8>> {
    let mut conn = super::lookups::connect(env, address).await?;
    let request = format!(
        "GET {target} HTTP/1.0\r\nHost: {address}\r\nAccept: application/vnd.nsq; version=1.0\r\n\r\n"
    );
    conn.writer.write_all(request.as_bytes()).await?;
    conn.writer.flush().await?;
    let mut answer = Vec::new();
    conn.reader.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let head = head.ok_or_else(|| io::Error::other("what answers does not speak HTTP"))?;
    let status = answer.get(..head).unwrap_or_default();
    if !status.starts_with(b"HTTP/1.") || status.get(8..12) != Some(b" 200") {
        return Err(io::Error::other("it refuses"));
    }
    Ok(answer.split_off(head + 4))
}
