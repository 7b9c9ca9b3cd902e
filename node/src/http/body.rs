//! Taking in a request's body: never more than asked for, never for ever, and all of them within one budget.

use std::{ops::Deref, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode, header::CONTENT_LENGTH},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::reply::ApiError;
use crate::Limits;

/// Bytes of request bodies held at once, over all connections. A body that finds no room is refused with
/// 503, so that many large publishes at once cannot take the node's memory.
const BODIES_MAX: usize = 256 * 1024 * 1024;
/// A body that does not grow for this long is given up.
const STALL_MAX: Duration = Duration::from_secs(10);
/// A body that is not complete after this long is given up, however steadily it grows.
const TAKING_MAX: Duration = Duration::from_secs(60);

/// Takes in request bodies.
#[derive(Debug, Clone)]
pub(super) struct Bodies {
    room: Arc<Semaphore>,
}

/// A whole body. Its share of the budget is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Received {
    bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Why a body was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyError {
    /// It is longer than the limit.
    TooBig,
    /// The client is too slow.
    Slow,
    /// Other bodies use up the budget.
    NoRoom,
    /// The connection broke, or the chunks are not well formed.
    Broken,
}

impl BodyError {
    /// The refusal, where `too_big` is what this endpoint calls a body over its limit.
    pub(super) const fn reply(self, too_big: &'static str) -> ApiError {
        match self {
            Self::TooBig => ApiError::too_large(too_big),
            Self::Slow => ApiError { status: StatusCode::REQUEST_TIMEOUT, code: "REQUEST_TIMEOUT" },
            Self::NoRoom => ApiError::unavailable("TOO_BUSY"),
            Self::Broken => ApiError::internal(),
        }
    }
}

impl Bodies {
    /// Room for at least one of the largest body that `limits` allow.
    pub(super) fn new(limits: &Limits) -> Self {
        let room = BODIES_MAX.max(limits.max_body_size).max(limits.max_msg_size);
        Self { room: Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS))) }
    }

    /// Reads a body of up to `limit` bytes. A declared length over the limit is refused before anything is
    /// read.
    pub(super) async fn take(
        &self,
        headers: &HeaderMap,
        mut body: Body,
        limit: usize,
    ) -> Result<Received, BodyError> {
        if declared_length(headers).is_some_and(|length| length > limit as u64) {
            return Err(BodyError::TooBig);
        }
        self.collect(&mut body, limit).await
    }

    async fn collect(&self, body: &mut Body, limit: usize) -> Result<Received, BodyError> {
        let deadline = Instant::now() + TAKING_MAX;
        let mut room: Option<OwnedSemaphorePermit> = None;
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(data) = next_data(body, deadline).await? {
            if first.len() + rest.len() + data.len() > limit {
                return Err(BodyError::TooBig);
            }
            let more = self.reserve(data.len())?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
            // Nearly every publish arrives as one piece, which is then not copied.
            if first.is_empty() && rest.is_empty() {
                first = data;
                continue;
            }
            if rest.is_empty() {
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
        let bytes = if rest.is_empty() { first } else { rest.freeze() };
        Ok(Received { bytes, _room: room })
    }

    fn reserve(&self, len: usize) -> Result<OwnedSemaphorePermit, BodyError> {
        let len = u32::try_from(len).map_err(|_| BodyError::NoRoom)?;
        Arc::clone(&self.room).try_acquire_many_owned(len).map_err(|_| BodyError::NoRoom)
    }
}

/// The next piece of `body`; `None` at its end. Trailers are passed over.
async fn next_data(body: &mut Body, deadline: Instant) -> Result<Option<Bytes>, BodyError> {
    loop {
        let patience = deadline.min(Instant::now() + STALL_MAX);
        let frame = timeout_at(patience, body.frame()).await.map_err(|_| BodyError::Slow)?;
        match frame {
            None => return Ok(None),
            Some(Err(_)) => return Err(BodyError::Broken),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                _ => {}
            },
        }
    }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        pin::Pin,
        task::{Context, Poll},
    };

    use hyper::body::Frame;

    use super::*;

    /// A body of these pieces that then ends, or stays open for ever.
    struct Pieces(Vec<&'static [u8]>, bool);

    impl hyper::body::Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.is_empty() {
                false => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(self.0.remove(0)))))),
                true if self.1 => Poll::Pending,
                true => Poll::Ready(None),
            }
        }
    }

    async fn take(bodies: &Bodies, pieces: Pieces, limit: usize) -> Result<Vec<u8>, BodyError> {
        bodies.take(&HeaderMap::new(), Body::new(pieces), limit).await.map(|body| body.to_vec())
    }

    #[tokio::test]
    async fn pieces_are_joined_up_to_the_limit() {
        let bodies = Bodies::new(&Limits::default());
        let pieces = || Pieces(vec![b"ab", b"", b"cd", b"e", b"fg"], false);
        assert_eq!(take(&bodies, pieces(), 7).await.as_deref(), Ok(&b"abcdefg"[..]));
        assert_eq!(take(&bodies, pieces(), 6).await, Err(BodyError::TooBig));
        assert_eq!(take(&bodies, Pieces(vec![], false), 4).await.as_deref(), Ok(&b""[..]));
    }

    #[tokio::test]
    async fn a_declared_length_over_the_limit_is_refused_unread() {
        let headers = HeaderMap::from_iter([(CONTENT_LENGTH, "6".parse().unwrap())]);
        let never = Body::new(Pieces(vec![], true));
        assert_eq!(
            Bodies::new(&Limits::default()).take(&headers, never, 5).await.err(),
            Some(BodyError::TooBig)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stalls_is_given_up() {
        let stalled = Pieces(vec![b"ab"], true);
        assert_eq!(take(&Bodies::new(&Limits::default()), stalled, 10).await, Err(BodyError::Slow));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_only_trickles_is_given_up() {
        /// A byte, just before patience ends, again and again.
        struct Trickle(Pin<Box<tokio::time::Sleep>>);

        impl hyper::body::Body for Trickle {
            type Data = Bytes;
            type Error = Infallible;

            fn poll_frame(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
                std::task::ready!(self.0.as_mut().poll(cx));
                self.0.as_mut().reset(Instant::now() + STALL_MAX - Duration::from_millis(1));
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
            }
        }

        let trickle = Body::new(Trickle(Box::pin(tokio::time::sleep(Duration::ZERO))));
        let taken = Bodies::new(&Limits::default()).take(&HeaderMap::new(), trickle, 1000).await;
        assert_eq!(taken.err(), Some(BodyError::Slow));
    }

    #[tokio::test]
    async fn the_budget_is_shared_and_given_back() {
        let bodies = Bodies { room: Arc::new(Semaphore::new(4)) };
        let held = bodies.take(&HeaderMap::new(), Body::from("abc"), 10).await.unwrap();
        assert_eq!(take(&bodies, Pieces(vec![b"de"], false), 10).await, Err(BodyError::NoRoom));
        drop(held);
        assert_eq!(take(&bodies, Pieces(vec![b"de"], false), 10).await.as_deref(), Ok(&b"de"[..]));
    }
}
