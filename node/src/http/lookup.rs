//! nsqlookupd's questions: which topics and channels there are, and who has them.

use axum::{
    Extension,
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use serde::Serialize;

use super::{
    HttpState, NSQ_VERSION,
    document::{document, item},
    known::Known,
    query::Query,
    reply::{self, ApiError},
    serve::Asker,
};

pub(super) const TOPIC_NOT_FOUND: ApiError = ApiError::absent("TOPIC_NOT_FOUND");

/// `GET /lookup?topic=`: the channels, and the nodes to connect to. A topic that is known and held by nobody
/// has empty lists; one that nobody knows is not found.
pub(super) async fn lookup(
    State(state): State<HttpState>,
    asker: Option<Extension<Asker>>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let topic = named_topic(&Query::of(&uri)?)?;
    let known = Known::of(&state);
    if !known.knows(&topic) {
        return Err(TOPIC_NOT_FOUND);
    }
    let mut head = b"{\"channels\":".to_vec();
    head.extend_from_slice(&item(&known.channels(&topic)));
    head.extend_from_slice(b",\"producers\":[");
    let asker = asker.map(|Extension(asker)| asker.0);
    let holders = known.holders(&topic);
    let shown = holders.iter().filter(|holder| !holder.tombstoned);
    let producers: Vec<_> =
        shown.map(|holder| item(&known.producer(holder.member, holder.about, asker))).collect();
    Ok(document(head, producers.into_iter(), "]}"))
}

/// `GET /topics`: every name, also of topics that nobody holds any more.
pub(super) async fn topics(State(state): State<HttpState>) -> Response {
    let topics = Known::of(&state).topics();
    document(b"{\"topics\":[".to_vec(), topics.into_iter().map(|topic| item(&topic)), "]}")
}

/// `GET /channels?topic=`: an unknown topic has none.
pub(super) async fn channels(State(state): State<HttpState>, uri: Uri) -> Result<Response, ApiError> {
    let topic = named_topic(&Query::of(&uri)?)?;
    let channels = Known::of(&state).channels(&topic);
    Ok(document(b"{\"channels\":[".to_vec(), channels.into_iter().map(|channel| item(&channel)), "]}"))
}

/// `GET /info` where only nsqlookupd's API is served.
pub(super) async fn info() -> Response {
    #[derive(Serialize)]
    struct Info {
        version: &'static str,
    }
    reply::json(&Info { version: NSQ_VERSION })
}

/// `GET /ping` where only nsqlookupd's API is served: it depends on no disk.
pub(super) async fn ping() -> Response {
    reply::bare_text(StatusCode::OK, "OK")
}

/// The `topic` of the query as it stands: an invalid name is one that does not exist.
pub(super) fn named_topic(query: &Query) -> Result<String, ApiError> {
    query.first("topic").ok_or(ApiError::bad("MISSING_ARG_TOPIC"))
}

#[cfg(test)]
mod tests {
    use crate::http::fixture::{Fixture, error, ok};

    #[tokio::test]
    async fn a_topic_is_found_with_its_channels_as_soon_as_it_is_made() {
        let node = Fixture::start().await;
        assert_eq!(node.read("/lookup?topic=t").await, error(404, "TOPIC_NOT_FOUND"));
        assert_eq!(node.read("/topics").await, ok(r#"{"topics":[]}"#));
        for target in ["/topic/create?topic=t", "/channel/create?topic=t&channel=c", "/topic/create?topic=a"]
        {
            assert_eq!(node.post(target, "").await, ok(""), "{target}");
        }
        let found = r#"{"channels":["c"],"producers":[{"remote_address":"127.0.0.1:0","hostname":"vm","broadcast_address":"127.0.0.1","tcp_port":4150,"http_port":4151,"version":"1.3.0","topology_zone":"","topology_region":""}]}"#;
        assert_eq!(node.read("/lookup?topic=t").await, ok(found));
        assert_eq!(node.lookup_read("/lookup?topic=t").await, ok(found));
        assert_eq!(node.read("/topics").await, ok(r#"{"topics":["a","t"]}"#));
        assert_eq!(node.read("/channels?topic=t").await, ok(r#"{"channels":["c"]}"#));
        assert_eq!(node.post("/topic/delete?topic=t", "").await, ok(""));
        assert_eq!(node.read("/lookup?topic=t").await, error(404, "TOPIC_NOT_FOUND"));
    }

    #[tokio::test]
    async fn a_name_that_nobody_holds_has_no_producers() {
        let node = Fixture::start().await;
        assert_eq!(node.lookup_post("/channel/create?topic=t&channel=c").await, ok(""));
        assert_eq!(node.read("/lookup?topic=t").await, ok(r#"{"channels":["c"],"producers":[]}"#));
        assert_eq!(node.read("/topics").await, ok(r#"{"topics":["t"]}"#));
        assert_eq!(node.topics("").await, serde_json::json!([]), "a name alone makes no topic");
    }

    #[tokio::test]
    async fn what_is_missing_is_named_and_what_is_invalid_is_unknown() {
        let node = Fixture::start().await;
        for path in ["/lookup", "/channels"] {
            assert_eq!(node.read(path).await, error(400, "MISSING_ARG_TOPIC"), "{path}");
            assert_eq!(
                node.read(&format!("{path}?topic=a;b")).await,
                error(400, "INVALID_REQUEST"),
                "{path}"
            );
        }
        assert_eq!(node.read("/lookup?topic=bad%24").await, error(404, "TOPIC_NOT_FOUND"));
        for topic in ["", "none", "bad%24"] {
            let target = format!("/channels?topic={topic}");
            assert_eq!(node.read(&target).await, ok(r#"{"channels":[]}"#), "{topic}");
        }
    }

    #[tokio::test]
    async fn the_port_of_nsqlookupd_serves_its_api_and_no_other() {
        let node = Fixture::start().await;
        assert_eq!(node.lookup_read("/info").await, ok(r#"{"version":"1.3.0"}"#));
        assert_eq!(node.lookup_read("/ping").await, ok("OK"));
        assert_eq!(node.lookup_read("/stats").await, error(404, "NOT_FOUND"));
        assert_eq!(node.lookup_post("/pub?topic=t").await, error(404, "NOT_FOUND"));
        assert!(node.read("/info").await.1.contains("\"tcp_port\":4150"));
    }
}
