//! Creating, deleting, emptying and pausing topics and channels.
//!
//! Everything comes in the query; bodies are ignored. Answers wait until the change is as durable as the node
//! promises, so that what was answered is still so after a crash.

use std::sync::Arc;

use axum::{extract::State, http::Uri, response::Response};
use bruit_gossip::Name;

use super::{
    HttpState,
    known::Known,
    lookup::{TOPIC_NOT_FOUND, named_topic},
    names,
    publish::topic_name,
    query::Query,
    reply::{self, ApiError},
};
use crate::broker::{Channel, Ticket, Topic};

const CHANNEL_NOT_FOUND: ApiError = ApiError::absent("CHANNEL_NOT_FOUND");

type Answer = Result<Response, ApiError>;

/// `POST /topic/create?topic=`
pub(super) async fn create_topic(State(state): State<HttpState>, uri: Uri) -> Answer {
    let name = topic_name(&Query::of(&uri)?)?;
    state.broker.topic_or_create(&name).map_err(|refused| ApiError::of_change(&refused))?;
    settled(&state, state.broker.barrier()).await
}

/// `POST /topic/delete?topic=`: on every node that holds it.
pub(super) async fn delete_topic(State(state): State<HttpState>, uri: Uri) -> Answer {
    let name = named_topic(&Query::of(&uri)?)?;
    match names::remove_topic(&state, &name).await? {
        true => Ok(reply::empty()),
        false => Err(TOPIC_NOT_FOUND),
    }
}

/// `POST /topic/empty?topic=`: drops what waits in the topic itself, not in its channels.
pub(super) async fn empty_topic(State(state): State<HttpState>, uri: Uri) -> Answer {
    let name = topic_name(&Query::of(&uri)?)?;
    let topic = state.broker.topic(name.as_str()).ok_or(TOPIC_NOT_FOUND)?;
    settled(&state, topic.empty()).await
}

/// `POST /topic/pause?topic=`
pub(super) async fn pause_topic(State(state): State<HttpState>, uri: Uri) -> Answer {
    set_topic_paused(&state, &uri, true).await
}

/// `POST /topic/unpause?topic=`
pub(super) async fn unpause_topic(State(state): State<HttpState>, uri: Uri) -> Answer {
    set_topic_paused(&state, &uri, false).await
}

/// `POST /channel/create?topic=&channel=`: the topic has to exist. If it does on other nodes only, they make
/// the channel, and this node will when it gets the topic.
pub(super) async fn create_channel(State(state): State<HttpState>, uri: Uri) -> Answer {
    let (topic, channel) = names::topic_and_channel(&Query::of(&uri)?)?;
    let Some(held) = state.broker.topic(topic.as_str()) else {
        if !state.mesh.view().knows(topic.as_str()) {
            return Err(TOPIC_NOT_FOUND);
        }
        state.mesh.create(Name::channel(topic, channel)).await;
        return Ok(reply::empty());
    };
    held.channel_or_create(&channel).map_err(|refused| ApiError::of_change(&refused))?;
    settled(&state, state.broker.barrier()).await
}

/// `POST /channel/delete?topic=&channel=`: on every node that holds it.
pub(super) async fn delete_channel(State(state): State<HttpState>, uri: Uri) -> Answer {
    let (topic, channel) = names::topic_and_channel(&Query::of(&uri)?)?;
    if names::remove_channel(&state, &topic, &channel).await? {
        return Ok(reply::empty());
    }
    match Known::of(&state).knows(topic.as_str()) {
        true => Err(CHANNEL_NOT_FOUND),
        false => Err(TOPIC_NOT_FOUND),
    }
}

/// `POST /channel/empty?topic=&channel=`: drops what waits, what is deferred, and what is in flight.
pub(super) async fn empty_channel(State(state): State<HttpState>, uri: Uri) -> Answer {
    let (topic, channel) = topic_and_channel(&state, &uri)?;
    settled(&state, topic.empty_channel(&channel)).await
}

/// `POST /channel/pause?topic=&channel=`
pub(super) async fn pause_channel(State(state): State<HttpState>, uri: Uri) -> Answer {
    let (topic, channel) = topic_and_channel(&state, &uri)?;
    settled(&state, topic.set_channel_paused(&channel, true)).await
}

/// `POST /channel/unpause?topic=&channel=`
pub(super) async fn unpause_channel(State(state): State<HttpState>, uri: Uri) -> Answer {
    let (topic, channel) = topic_and_channel(&state, &uri)?;
    settled(&state, topic.set_channel_paused(&channel, false)).await
}

async fn set_topic_paused(state: &HttpState, uri: &Uri, paused: bool) -> Answer {
    let name = named_topic(&Query::of(uri)?)?;
    let topic = state.broker.topic(&name).ok_or(TOPIC_NOT_FOUND)?;
    settled(state, topic.set_paused(paused)).await
}

async fn settled(state: &HttpState, ticket: Ticket) -> Answer {
    state.broker.settled(ticket).await.map_err(|refused| ApiError::of_change(&refused))?;
    Ok(reply::empty())
}

fn topic_and_channel(state: &HttpState, uri: &Uri) -> Result<(Arc<Topic>, Arc<Channel>), ApiError> {
    let (topic, channel) = names::topic_and_channel(&Query::of(uri)?)?;
    let topic = state.broker.topic(topic.as_str()).ok_or(TOPIC_NOT_FOUND)?;
    let channel = topic.channel(channel.as_str()).ok_or(CHANNEL_NOT_FOUND)?;
    Ok((topic, channel))
}
