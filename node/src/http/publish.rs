//! `/pub` and `/mpub`: messages that come by HTTP.

use std::{iter, time::Duration};

use axum::{
    extract::{Request, State},
    response::Response,
};
use bruit_wire::TopicName;

use super::{
    HttpState,
    query::Query,
    reply::{self, ApiError},
};
use crate::{Limits, broker::Refused};

/// `POST /pub?topic=&defer=`: the body is one message.
pub(super) async fn publish(State(state): State<HttpState>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let limits = &state.config.limits;
    let taken = state.bodies.take(&parts.headers, body, limits.max_msg_size).await;
    let body = taken.map_err(|error| error.reply("MSG_TOO_BIG"))?;
    if body.is_empty() {
        return Err(ApiError::bad("MSG_EMPTY"));
    }
    let query = Query::of(&parts.uri)?;
    let topic = topic_name(&query)?;
    let delay = delay(&query, limits)?;
    store(&state, &topic, iter::once(&*body), delay).await
}

/// `POST /mpub?topic=&binary=&defer=`: the body is many messages, stored together or not at all.
pub(super) async fn multi_publish(
    State(state): State<HttpState>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let limits = &state.config.limits;
    let query = Query::of(&parts.uri)?;
    let topic = topic_name(&query)?;
    let delay = delay(&query, limits)?;
    let taken = state.bodies.take(&parts.headers, body, limits.max_body_size).await;
    let body = taken.map_err(|error| error.reply("BODY_TOO_BIG"))?;
    if is_binary(&query) {
        return store(&state, &topic, framed(&body, limits)?, delay).await;
    }
    let mut lines = lines(&body, limits)?.peekable();
    if lines.peek().is_none() {
        // Nothing to store, but the topic comes into being, as it does in nsqd.
        return state
            .broker
            .topic_or_create(&topic)
            .map(|_| reply::text("OK"))
            .map_err(|r| refusal(&state, &r));
    }
    store(&state, &topic, lines, delay).await
}

/// Stores `bodies` as one batch and answers once they are as durable as the topic promises.
async fn store<'a>(
    state: &HttpState,
    topic: &TopicName,
    bodies: impl Iterator<Item = &'a [u8]> + Send,
    delay: Option<Duration>,
) -> Result<Response, ApiError> {
    let staged = state.broker.topic_or_create(topic).and_then(|topic| topic.publish(bodies, delay));
    let ticket = staged.map_err(|refused| refusal(state, &refused))?;
    state.broker.settled(ticket).await.map_err(|refused| refusal(state, &refused))?;
    Ok(reply::text("OK"))
}

/// nsqd knows one answer for a publish that cannot be stored, whatever the reason. The log tells the reason.
fn refusal(state: &HttpState, refused: &Refused) -> ApiError {
    if *refused != Refused::Exiting {
        state.refusals.log(refused);
    }
    ApiError::unavailable("EXITING")
}

/// The `topic` that the query names, which need not exist.
pub(super) fn topic_name(query: &Query) -> Result<TopicName, ApiError> {
    let name = query.first("topic").ok_or(ApiError::bad("MISSING_ARG_TOPIC"))?;
    TopicName::new(&name).map_err(|_| ApiError::bad("INVALID_TOPIC"))
}

/// How long the messages are to wait: `defer`, milliseconds. `None` for not at all.
fn delay(query: &Query, limits: &Limits) -> Result<Option<Duration>, ApiError> {
    let Some(text) = query.first("defer") else { return Ok(None) };
    let invalid = ApiError::bad("INVALID_DEFER");
    let milliseconds: i64 = text.parse().map_err(|_| invalid)?;
    let delay = Duration::from_millis(u64::try_from(milliseconds).map_err(|_| invalid)?);
    if delay > limits.max_defer_timeout {
        return Err(invalid);
    }
    Ok((!delay.is_zero()).then_some(delay))
}

/// A `binary` that is there means yes, unless it plainly says no.
fn is_binary(query: &Query) -> bool {
    query.first("binary").is_some() && query.flag("binary", true)
}

/// One message per line; empty lines are none. A `\r` belongs to its message.
fn lines<'a>(body: &'a [u8], limits: &Limits) -> Result<impl Iterator<Item = &'a [u8]>, ApiError> {
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    if lines.clone().any(|line| line.len() > limits.max_msg_size) {
        return Err(ApiError::too_large("MSG_TOO_BIG"));
    }
    Ok(lines)
}

/// `[count]([length][bytes])*`, all numbers 32 bits, big-endian.
///
/// Bytes after the last message are refused, where nsqd drops them: a client that counts wrong would be told
/// `OK` for messages that are not stored.
fn framed<'a>(body: &'a [u8], limits: &Limits) -> Result<impl Iterator<Item = &'a [u8]>, ApiError> {
    const BAD_BODY: ApiError = ApiError::too_large("BAD_BODY");
    let (count, messages) = split_number(body).ok_or(BAD_BODY)?;
    // Every message takes five bytes at least, so a count over this cannot be true.
    if count == 0 || count > limits.max_body_size.saturating_sub(4) / 5 {
        return Err(BAD_BODY);
    }
    let mut rest = messages;
    for _ in 0..count {
        let bad_message = ApiError::too_large("BAD_MESSAGE");
        let (message, after) = split_message(rest).ok_or(bad_message)?;
        if message.is_empty() || message.len() > limits.max_msg_size {
            return Err(bad_message);
        }
        rest = after;
    }
    if !rest.is_empty() {
        return Err(BAD_BODY);
    }
    let mut rest = messages;
    Ok(iter::from_fn(move || {
        let (message, after) = split_message(rest)?;
        rest = after;
        Some(message)
    }))
}

fn split_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = split_number(bytes)?;
    rest.split_at_checked(len)
}

fn split_number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((usize::try_from(u32::from_be_bytes(*number)).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use axum::http::Uri;

    use super::*;

    fn query(raw: &str) -> Query {
        Query::of(&Uri::try_from(format!("/pub?{raw}")).unwrap()).unwrap()
    }

    fn limits() -> Limits {
        Limits { max_msg_size: 4, max_body_size: 24, ..Limits::default() }
    }

    fn collect<'a>(
        messages: Result<impl Iterator<Item = &'a [u8]>, ApiError>,
    ) -> Result<Vec<&'a [u8]>, &'static str> {
        messages.map(Iterator::collect).map_err(|error| error.code)
    }

    #[test]
    fn a_topic_is_missing_or_invalid_or_named() {
        let code = |raw| topic_name(&query(raw)).map_err(|error| error.code);
        assert_eq!(code("topic=t%23ephemeral").unwrap().as_str(), "t#ephemeral");
        assert_eq!(code("channel=c"), Err("MISSING_ARG_TOPIC"));
        assert_eq!(code("topic="), Err("INVALID_TOPIC"));
        assert_eq!(code("topic=a%20b"), Err("INVALID_TOPIC"));
    }

    #[test]
    fn defer_is_milliseconds_up_to_the_limit() {
        let code = |raw| delay(&query(raw), &limits()).map_err(|error| error.code);
        assert_eq!(code("topic=t"), Ok(None));
        assert_eq!(code("defer=0"), Ok(None));
        assert_eq!(code("defer=1500"), Ok(Some(Duration::from_millis(1500))));
        assert_eq!(code("defer=3600000"), Ok(Some(Duration::from_secs(3600))));
        for raw in
            ["defer=", "defer=-1", "defer=1.5", "defer=3600001", "defer=99999999999999999999", "defer=1s"]
        {
            assert_eq!(code(raw), Err("INVALID_DEFER"), "{raw}");
        }
    }

    #[test]
    fn a_binary_that_is_there_means_yes_unless_it_says_no() {
        for (raw, expected) in [
            ("binary=true", true),
            ("binary=1", true),
            ("binary", true),
            ("binary=no", true),
            ("binary=false", false),
            ("binary=0", false),
            ("topic=t", false),
        ] {
            assert_eq!(is_binary(&query(raw)), expected, "{raw}");
        }
    }

    #[test]
    fn each_line_is_a_message() {
        assert_eq!(collect(lines(b"a\n\nbc\r\n\nlast", &limits())), Ok(vec![&b"a"[..], b"bc\r", b"last"]));
        assert_eq!(collect(lines(b"", &limits())), Ok(vec![]));
        assert_eq!(collect(lines(b"\n\n", &limits())), Ok(vec![]));
        assert_eq!(collect(lines(b"a\n12345\n", &limits())), Err("MSG_TOO_BIG"));
    }

    #[test]
    fn framed_messages_are_taken_by_their_lengths() {
        let body = b"\0\0\0\x02\0\0\0\x03a\nb\0\0\0\x01c";
        assert_eq!(collect(framed(body, &limits())), Ok(vec![&b"a\nb"[..], b"c"]));
    }

    #[test]
    fn framed_messages_that_do_not_add_up_are_refused() {
        for (body, code) in [
            (&b""[..], "BAD_BODY"),
            (b"\0\0\0", "BAD_BODY"),
            (b"\0\0\0\0", "BAD_BODY"),
            (b"\xff\xff\xff\xff\0\0\0\x01a", "BAD_BODY"),
            (b"\0\0\0\x05\0\0\0\x01a", "BAD_BODY"),
            (b"\0\0\0\x01\0\0\0\x01ab", "BAD_BODY"),
            (b"\0\0\0\x01", "BAD_MESSAGE"),
            (b"\0\0\0\x01\0\0\0", "BAD_MESSAGE"),
            (b"\0\0\0\x01\0\0\0\0", "BAD_MESSAGE"),
            (b"\0\0\0\x01\0\0\0\x02a", "BAD_MESSAGE"),
            (b"\0\0\0\x01\xff\xff\xff\xffa", "BAD_MESSAGE"),
            (b"\0\0\0\x01\0\0\0\x0512345", "BAD_MESSAGE"),
            (b"\0\0\0\x02\0\0\0\x01a", "BAD_MESSAGE"),
        ] {
            assert_eq!(collect(framed(body, &limits())), Err(code), "{body:?}");
        }
    }
}
