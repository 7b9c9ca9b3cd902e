//! What a reply looks like: three kinds of success and one kind of error, with NSQ's headers.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::broker::Refused;

/// Clients of the discovery API refuse to read a reply that lacks exactly this header.
const NSQ_CONTENT_TYPE: HeaderName = HeaderName::from_static("x-nsq-content-type");
const NSQ_VERSION_1: HeaderValue = HeaderValue::from_static("nsq; version=1.0");

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// A refusal: a status and one of NSQ's codes, sent as `{"message":"CODE"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
}

impl ApiError {
    /// The request is wrong: 400.
    pub(super) const fn bad(code: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code }
    }

    /// The request names something that does not exist: 404.
    pub(super) const fn absent(code: &'static str) -> Self {
        Self { status: StatusCode::NOT_FOUND, code }
    }

    /// The request carries too much, or what NSQ answers so: 413.
    pub(super) const fn too_large(code: &'static str) -> Self {
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, code }
    }

    /// The node cannot do it now: 503.
    pub(super) const fn unavailable(code: &'static str) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, code }
    }

    /// The node failed: 500.
    pub(super) const fn internal() -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, code: "INTERNAL_ERROR" }
    }

    /// The refusal of a change to topics and channels, which is logged: these are rare.
    pub(super) fn of_change(refused: &Refused) -> Self {
        match refused {
            Refused::Exiting => Self::unavailable("EXITING"),
            other => {
                tracing::warn!(error = %other, "a change to topics or channels failed");
                Self::internal()
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        message(self.status, self.code)
    }
}

/// Success with a text.
pub(super) fn text(body: impl Into<Body>) -> Response {
    with_headers(body.into(), Some(TEXT))
}

/// Success with a JSON document.
pub(super) fn json(document: &impl Serialize) -> Response {
    match serde_json::to_vec(document) {
        Ok(bytes) => with_headers(Body::from(bytes), Some(JSON)),
        Err(error) => {
            tracing::error!(%error, "a reply could not be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Success with a JSON document that is written already, or while it is sent.
pub(super) fn json_bytes(body: Body) -> Response {
    with_headers(body, Some(JSON))
}

/// A refusal with a sentence for people, in the shape that errors have.
pub(super) fn message(status: StatusCode, message: &str) -> Response {
    let mut response = json(&serde_json::json!({ "message": message }));
    *response.status_mut() = status;
    response
}

/// Success with figures for Prometheus, which asks for exactly this type.
pub(super) fn metrics(body: String) -> Response {
    with_headers(Body::from(body), Some(HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8")))
}

/// Success with nothing to say: no body, and no content type for it.
pub(super) fn empty() -> Response {
    with_headers(Body::empty(), None)
}

/// A text without NSQ's header, for the endpoints that are not part of its versioned API.
pub(super) fn bare_text(status: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

fn with_headers(body: Body, content_type: Option<HeaderValue>) -> Response {
    let mut response = Response::new(body);
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response.headers_mut().insert(NSQ_CONTENT_TYPE, NSQ_VERSION_1);
    response
}
