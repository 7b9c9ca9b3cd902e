//! `/mesh/keys`: the cluster's keys, for those who prove that they know one. See `mesh::keys` for how.

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};

use super::{
    HttpState,
    reply::{self, ApiError},
};
use crate::mesh::keys::Refusal;

/// Longest request, bytes.
const REQUEST_MAX: usize = 4096;

/// `GET /mesh/keys`: a challenge.
pub(super) async fn offer(State(state): State<HttpState>) -> Result<Response, ApiError> {
    state.mesh.keys_offer().map(|offer| reply::json(&offer)).map_err(refused)
}

/// `POST /mesh/keys`: a sealed request, and a sealed answer.
pub(super) async fn change(State(state): State<HttpState>, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let taken = state.bodies.take(&parts.headers, body, REQUEST_MAX).await;
    let body = taken.map_err(|error| error.reply("BODY_TOO_BIG"))?;
    state.mesh.keys_request(&body).await.map(|answer| reply::json(&answer)).map_err(refused)
}

const fn refused(refusal: Refusal) -> ApiError {
    let (status, code) = match refusal {
        Refusal::Malformed => (StatusCode::BAD_REQUEST, "INVALID_REQUEST"),
        Refusal::Stale => (StatusCode::FORBIDDEN, "CHALLENGE_EXPIRED"),
        Refusal::WrongSecret => (StatusCode::FORBIDDEN, "WRONG_SECRET"),
        Refusal::NoSecret => (StatusCode::CONFLICT, "NO_CLUSTER_SECRET"),
        Refusal::Busy => (StatusCode::SERVICE_UNAVAILABLE, "TOO_BUSY"),
        Refusal::Exiting => (StatusCode::SERVICE_UNAVAILABLE, "EXITING"),
    };
    ApiError { status, code }
}
