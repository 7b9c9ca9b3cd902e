//! Topics and channels as names of the mesh: nsqlookupd's way to create and delete them, and what deleting one
//! does on every node.
//!
//! **A delete over HTTP is meant for the whole mesh**: a user who deletes a topic wants it gone, not gone from
//! one host until gossip brings its channels back. There is one exception: where nsqadmin has hidden a
//! producer of the topic (its tombstone) and then deletes the topic there, it means that node alone.

use axum::{extract::State, http::Uri, response::Response};
use bruit_gossip::Name;
use bruit_wire::{ChannelName, TopicName};

use super::{
    HttpState,
    known::Known,
    lookup::named_topic,
    query::Query,
    reply::{self, ApiError},
};
use crate::broker::Ticket;

const CHANNEL_NOT_FOUND: ApiError = ApiError::absent("CHANNEL_NOT_FOUND");

type Answer = Result<Response, ApiError>;

/// `POST /topic/create?topic=` where only nsqlookupd's API is served: the name alone.
pub(super) async fn create_topic(State(state): State<HttpState>, uri: Uri) -> Answer {
    let topic = named_topic(&Query::of(&uri)?)?;
    let topic = TopicName::new(&topic).map_err(|_| ApiError::bad("INVALID_ARG_TOPIC"))?;
    state.mesh.create(Name::topic(topic)).await;
    Ok(reply::empty())
}

/// `POST /topic/delete?topic=` where only nsqlookupd's API is served: success also when there is none.
pub(super) async fn delete_topic(State(state): State<HttpState>, uri: Uri) -> Answer {
    let topic = named_topic(&Query::of(&uri)?)?;
    remove_topic(&state, &topic).await?;
    Ok(reply::empty())
}

/// `POST /channel/create?topic=&channel=` where only nsqlookupd's API is served: the name, and the topic's.
pub(super) async fn create_channel(State(state): State<HttpState>, uri: Uri) -> Answer {
    let (topic, channel) = topic_and_channel(&Query::of(&uri)?)?;
    state.mesh.create(Name::topic(topic.clone())).await;
    state.mesh.create(Name::channel(topic, channel)).await;
    Ok(reply::empty())
}

/// `POST /channel/delete?topic=&channel=` where only nsqlookupd's API is served.
pub(super) async fn delete_channel(State(state): State<HttpState>, uri: Uri) -> Answer {
    let (topic, channel) = topic_and_channel(&Query::of(&uri)?)?;
    match remove_channel(&state, &topic, &channel).await? {
        true => Ok(reply::empty()),
        false => Err(CHANNEL_NOT_FOUND),
    }
}

/// Deletes a topic with its channels in the whole mesh. Returns whether anybody ever heard of it.
///
/// # Errors
/// It could not be written here that it is gone.
pub(super) async fn remove_topic(state: &HttpState, topic: &str) -> Result<bool, ApiError> {
    let Ok(topic) = TopicName::new(topic) else { return Ok(false) };
    let known = Known::of(state);
    let held = state.broker.topic(topic.as_str());
    let was_deleted = known.view().was_deleted(topic.as_str());
    if held.is_none() && !known.knows(topic.as_str()) {
        // A client that walks over all nodes comes to those where the delete was first.
        return Ok(was_deleted);
    }
    if is_local(&known, &topic, held.is_some()) {
        if held.is_none() {
            return Ok(was_deleted);
        }
    } else if !topic.is_ephemeral() {
        state.mesh.delete(Name::topic(topic.clone())).await;
    }
    // One that was made after that is another topic.
    let gone = held.and_then(|held| state.broker.delete_topic_numbered(topic.as_str(), held.number()));
    settled(state, gone).await?;
    Ok(true)
}

/// Deletes a channel in the whole mesh. Returns whether anybody ever heard of it.
///
/// # Errors
/// It could not be written here that it is gone.
pub(super) async fn remove_channel(
    state: &HttpState,
    topic: &TopicName,
    channel: &ChannelName,
) -> Result<bool, ApiError> {
    let known = Known::of(state);
    let view = known.view();
    let was_deleted = view.channel_was_deleted(topic.as_str(), channel.as_str());
    let topic_here = state.broker.topic(topic.as_str());
    let held = topic_here.as_ref().and_then(|topic| topic.channel(channel.as_str()));
    if held.is_none() && !view.knows_channel(topic.as_str(), channel.as_str()) {
        return Ok(was_deleted);
    }
    let name = Name::channel(topic.clone(), channel.clone());
    if is_local(&known, topic, topic_here.is_some()) {
        if held.is_none() {
            return Ok(was_deleted);
        }
    } else if !name.is_ephemeral() {
        state.mesh.delete(name).await;
    }
    let gone = topic_here
        .zip(held)
        .and_then(|(topic, held)| topic.delete_channel_numbered(channel.as_str(), held.number()));
    settled(state, gone).await?;
    Ok(true)
}

/// Whether deleting the topic, or a channel of it, here means this node alone. A delete that is repeated
/// means no more than the first one did.
fn is_local(known: &Known, topic: &TopicName, held: bool) -> bool {
    let (view, topic) = (known.view(), topic.as_str());
    view.is_tombstoned(topic, view.me()) || (!held && view.was_tombstoned(topic, view.me()))
}

/// Waits for `gone`, or, if the mesh was quicker, for what it has done.
async fn settled(state: &HttpState, gone: Option<Ticket>) -> Result<(), ApiError> {
    let ticket = gone.unwrap_or_else(|| state.broker.barrier());
    state.broker.settled(ticket).await.map_err(|refused| ApiError::of_change(&refused))
}

/// Valid names of a topic and a channel, as the channel endpoints of both daemons want them.
pub(super) fn topic_and_channel(query: &Query) -> Result<(TopicName, ChannelName), ApiError> {
    let topic = named_topic(query)?;
    let topic = TopicName::new(&topic).map_err(|_| ApiError::bad("INVALID_ARG_TOPIC"))?;
    let channel = query.first("channel").ok_or(ApiError::bad("MISSING_ARG_CHANNEL"))?;
    let channel = ChannelName::new(&channel).map_err(|_| ApiError::bad("INVALID_ARG_CHANNEL"))?;
    Ok((topic, channel))
}

#[cfg(test)]
mod tests {
    use bruit_gossip::Name;

    use super::*;
    use crate::http::fixture::{Fixture, error, ok};

    #[tokio::test]
    async fn a_topic_that_the_mesh_has_deleted_is_deleted_again_with_success() {
        let node = Fixture::start().await;
        assert_eq!(node.post("/topic/delete?topic=t", "").await, error(404, "TOPIC_NOT_FOUND"));
        assert_eq!(node.lookup_post("/topic/delete?topic=t").await, ok(""));
        assert_eq!(node.post("/topic/delete?topic=t", "").await, error(404, "TOPIC_NOT_FOUND"));
        assert_eq!(node.post("/topic/create?topic=t", "").await, ok(""));
        assert_eq!(node.lookup_post("/topic/delete?topic=t").await, ok(""));
        assert!(node.broker.topic("t").is_none(), "the port of nsqlookupd deletes what is held, too");
        assert_eq!(node.post("/topic/delete?topic=t", "").await, ok(""));
        assert_eq!(node.post("/topic/delete?topic=none", "").await, error(404, "TOPIC_NOT_FOUND"));
    }

    #[tokio::test]
    async fn a_topic_that_is_hidden_here_is_deleted_here_alone() {
        let node = Fixture::start().await;
        let topic = TopicName::new("t").unwrap();
        assert_eq!(node.post("/topic/create?topic=t", "").await, ok(""));
        node.mesh.create(Name::topic(topic.clone())).await;
        node.mesh.tombstone(topic, node.mesh.node_id()).await;
        assert_eq!(node.post("/topic/delete?topic=t", "").await, ok(""));
        assert!(node.broker.topic("t").is_none());
        assert_eq!(node.read("/lookup?topic=t").await, ok(r#"{"channels":[],"producers":[]}"#));
        assert_eq!(node.post("/topic/delete?topic=t", "").await, error(404, "TOPIC_NOT_FOUND"));
    }

    #[tokio::test]
    async fn channels_of_a_topic_that_only_others_hold_are_names() {
        let node = Fixture::start().await;
        let create = "/channel/create?topic=t&channel=c";
        assert_eq!(node.post(create, "").await, error(404, "TOPIC_NOT_FOUND"));
        assert_eq!(node.lookup_post("/topic/create?topic=t").await, ok(""));
        assert_eq!(node.post(create, "").await, ok(""));
        assert!(node.broker.topic("t").is_none());
        assert_eq!(node.read("/channels?topic=t").await, ok(r#"{"channels":["c"]}"#));
        let delete = "/channel/delete?topic=t&channel=c";
        for _ in 0..2 {
            assert_eq!(node.post(delete, "").await, ok(""));
            assert_eq!(node.lookup_post(delete).await, ok(""));
        }
        assert_eq!(node.read("/channels?topic=t").await, ok(r#"{"channels":[]}"#));
        let never = "/channel/delete?topic=t&channel=never";
        assert_eq!(node.post(never, "").await, error(404, "CHANNEL_NOT_FOUND"));
        assert_eq!(node.lookup_post(never).await, error(404, "CHANNEL_NOT_FOUND"));
        let nowhere = "/channel/delete?topic=none&channel=c";
        assert_eq!(node.post(nowhere, "").await, error(404, "TOPIC_NOT_FOUND"));
        assert_eq!(node.lookup_post(nowhere).await, error(404, "CHANNEL_NOT_FOUND"));
    }

    #[tokio::test]
    async fn a_deleted_channel_goes_from_the_broker_and_a_new_one_is_another() {
        let node = Fixture::start().await;
        for target in ["/topic/create?topic=t", "/channel/create?topic=t&channel=c"] {
            assert_eq!(node.post(target, "").await, ok(""), "{target}");
        }
        assert_eq!(node.lookup_post("/channel/delete?topic=t&channel=c").await, ok(""));
        assert!(node.broker.topic("t").unwrap().channel("c").is_none());
        assert_eq!(node.post("/channel/create?topic=t&channel=c", "").await, ok(""));
        assert!(node.broker.topic("t").unwrap().channel("c").is_some());
    }

    #[tokio::test]
    async fn nsqlookupd_has_its_own_words_for_what_is_wrong() {
        let node = Fixture::start().await;
        for (target, code) in [
            ("/topic/create", "MISSING_ARG_TOPIC"),
            ("/topic/create?topic=bad%24", "INVALID_ARG_TOPIC"),
            ("/topic/create?topic=", "INVALID_ARG_TOPIC"),
            ("/topic/delete", "MISSING_ARG_TOPIC"),
            ("/topic/delete?topic=a;", "INVALID_REQUEST"),
            ("/channel/create", "MISSING_ARG_TOPIC"),
            ("/channel/create?topic=t", "MISSING_ARG_CHANNEL"),
            ("/channel/create?topic=bad%24&channel=c", "INVALID_ARG_TOPIC"),
            ("/channel/delete?topic=t&channel=bad%24", "INVALID_ARG_CHANNEL"),
        ] {
            assert_eq!(node.lookup_post(target).await, error(400, code), "{target}");
        }
        assert_eq!(node.lookup_post("/topic/delete?topic=bad%24").await, ok(""));
        assert_eq!(node.lookup_post("/topic/create?topic=t%23ephemeral").await, ok(""));
        assert_eq!(node.read("/topics").await, ok(r#"{"topics":[]}"#));
    }
}
