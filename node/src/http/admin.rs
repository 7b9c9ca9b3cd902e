//! Creating, deleting, emptying and pausing topics and channels.
//!
//! Everything comes in the query; bodies are ignored. Answers wait until the change is as durable as the node
//! promises, so that what was answered is still so after a crash.

use std::sync::Arc;

use axum::{extract::State, http::Uri, response::Response};
use bruit_wire::ChannelName;

use super::{
    HttpState,
    publish::topic_name,
    query::Query,
    reply::{self, ApiError},
};
use crate::broker::{Channel, Ticket, Topic};

const TOPIC_NOT_FOUND: ApiError = ApiError::absent("TOPIC_NOT_FOUND");
const CHANNEL_NOT_FOUND: ApiError = ApiError::absent("CHANNEL_NOT_FOUND");

type Answer = Result<Response, ApiError>;

/// `POST /topic/create?topic=`
pub(super) async fn create_topic(State(state): State<HttpState>, uri: Uri) -> Answer {
    let name = topic_name(&Query::of(&uri)?)?;
    state.broker.topic_or_create(&name).map_err(|refused| ApiError::of_change(&refused))?;
    settled(&state, state.broker.barrier()).await
}

/// `POST /topic/delete?topic=`
pub(super) async fn delete_topic(State(state): State<HttpState>, uri: Uri) -> Answer {
    let name = named_topic(&Query::of(&uri)?)?;
    let ticket = state.broker.delete_topic(&name).ok_or(TOPIC_NOT_FOUND)?;
    settled(&state, ticket).await
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

/// `POST /channel/create?topic=&channel=`: the topic has to exist.
pub(super) async fn create_channel(State(state): State<HttpState>, uri: Uri) -> Answer {
    let (topic, name) = topic_and_channel_name(&state, &uri)?;
    topic.channel_or_create(&name).map_err(|refused| ApiError::of_change(&refused))?;
    settled(&state, state.broker.barrier()).await
}

/// `POST /channel/delete?topic=&channel=`
pub(super) async fn delete_channel(State(state): State<HttpState>, uri: Uri) -> Answer {
    let (topic, name) = topic_and_channel_name(&state, &uri)?;
    let ticket = topic.delete_channel(name.as_str()).ok_or(CHANNEL_NOT_FOUND)?;
    settled(&state, ticket).await
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

/// The `topic` of the query as it stands: an invalid name is one that does not exist.
fn named_topic(query: &Query) -> Result<String, ApiError> {
    query.first("topic").ok_or(ApiError::bad("MISSING_ARG_TOPIC"))
}

/// An existing topic and a valid channel name.
fn topic_and_channel_name(state: &HttpState, uri: &Uri) -> Result<(Arc<Topic>, ChannelName), ApiError> {
    let query = Query::of(uri)?;
    // The channel endpoints have their own word for an invalid topic.
    let topic = topic_name(&query).map_err(|error| match error.code {
        "INVALID_TOPIC" => ApiError::bad("INVALID_ARG_TOPIC"),
        _ => error,
    })?;
    let channel = query.first("channel").ok_or(ApiError::bad("MISSING_ARG_CHANNEL"))?;
    let channel = ChannelName::new(&channel).map_err(|_| ApiError::bad("INVALID_ARG_CHANNEL"))?;
    let topic = state.broker.topic(topic.as_str()).ok_or(TOPIC_NOT_FOUND)?;
    Ok((topic, channel))
}

fn topic_and_channel(state: &HttpState, uri: &Uri) -> Result<(Arc<Topic>, Arc<Channel>), ApiError> {
    let (topic, name) = topic_and_channel_name(state, uri)?;
    let channel = topic.channel(name.as_str()).ok_or(CHANNEL_NOT_FOUND)?;
    Ok((topic, channel))
}
