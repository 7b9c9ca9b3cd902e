//! JSON documents that may be long: they are written while they are sent.
//!
//! What a mesh knows can be tens of megabytes as text, and many may ask at once. So only a piece of an answer
//! exists at a time; the next one is made when the connection has taken it.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use hyper::body::Frame;
use serde::Serialize;

use super::reply;

/// Bytes of a piece, or a little more. A document that fits into one is sent as a whole, with its length.
const PIECE: usize = 64 * 1024;

/// Success with `head`, the `items` between commas, and `tail`, which make up a JSON document.
pub(super) fn document<I>(head: Vec<u8>, items: I, tail: &'static str) -> Response
where
    I: Iterator<Item = Vec<u8>> + Send + Unpin + 'static,
{
    let mut pieces = Pieces { items: Some(items), tail, begun: false };
    let first = pieces.fill(head);
    match pieces.items {
        None => reply::json_bytes(Body::from(first)),
        Some(_) => reply::json_bytes(Body::new(Opened { first: Some(first), rest: pieces })),
    }
}

/// `value` as JSON; `null` if it cannot be written, which no value here is.
pub(super) fn item(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|error| {
        tracing::error!(%error, "a part of a reply could not be written as JSON");
        b"null".to_vec()
    })
}

struct Pieces<I> {
    /// `None` once the tail is written.
    items: Option<I>,
    tail: &'static str,
    begun: bool,
}

impl<I: Iterator<Item = Vec<u8>>> Pieces<I> {
    /// Adds items to `piece` until it is full or they end.
    fn fill(&mut self, mut piece: Vec<u8>) -> Bytes {
        while let Some(items) = &mut self.items {
            if piece.len() >= PIECE {
                break;
            }
            match items.next() {
                Some(item) => {
                    if self.begun {
                        piece.push(b',');
                    }
                    self.begun = true;
                    piece.extend_from_slice(&item);
                }
                None => {
                    piece.extend_from_slice(self.tail.as_bytes());
                    self.items = None;
                }
            }
        }
        Bytes::from(piece)
    }
}

/// A body whose first piece is there.
struct Opened<I> {
    first: Option<Bytes>,
    rest: Pieces<I>,
}

impl<I: Iterator<Item = Vec<u8>> + Unpin> hyper::body::Body for Opened<I> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.first.take() {
            Some(first) => first,
            None if self.rest.items.is_none() => return Poll::Ready(None),
            None => self.rest.fill(Vec::new()),
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn sent(count: usize) -> (Option<u64>, Vec<u8>) {
        let items = (0..count).map(|number| item(&number));
        let response = document(b"{\"numbers\":[".to_vec(), items, "]}");
        let length = hyper::body::Body::size_hint(response.body()).exact();
        (length, response.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    #[tokio::test]
    async fn a_short_document_has_a_length_and_a_long_one_comes_in_pieces() {
        assert_eq!(sent(0).await, (Some(14), b"{\"numbers\":[]}".to_vec()));
        assert_eq!(sent(2).await, (Some(17), b"{\"numbers\":[0,1]}".to_vec()));
        let (length, text) = sent(100_000).await;
        assert_eq!(length, None);
        let read: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(read["numbers"].as_array().map(Vec::len), Some(100_000));
        assert_eq!(read["numbers"][99_999], 99_999);
    }
}
