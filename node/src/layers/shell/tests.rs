use std::{
    io::Read as _,
    sync::atomic::{AtomicUsize, Ordering},
};

use bruit_wire::compress::{Compression, Packer};
use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};

use super::*;

const GREETING: &[u8] = b"hello";

/// Counts the writes of the socket that it stands for, and takes at most so many bytes of each.
struct Counted {
    writes: Arc<AtomicUsize>,
    at_once: usize,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl AsyncWrite for Counted {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let now = bytes.len().min(self.at_once);
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.taken.lock().extend_from_slice(&bytes[..now]);
        Poll::Ready(Ok(now))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn counted(at_once: usize) -> (Conn, Arc<AtomicUsize>, Arc<Mutex<Vec<u8>>>) {
    let (writes, taken) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let writer = Counted { writes: Arc::clone(&writes), at_once, taken: Arc::clone(&taken) };
    (Conn { reader: Box::new(tokio::io::empty()), writer: Box::new(writer) }, writes, taken)
}

/// A node's side of a handshake that nobody answers.
fn waiting() -> ServerConnection {
    let crypto = Arc::new(rustls::crypto::ring::default_provider());
    let made = rcgen::generate_simple_self_signed(["node".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let builder = ServerConfig::builder_with_provider(crypto).with_safe_default_protocol_versions().unwrap();
    let config = builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    ServerConnection::new(Arc::new(config)).unwrap()
}

#[tokio::test]
async fn a_flush_is_one_write_however_it_was_put() {
    for compression in [Compression::Snappy, Compression::Deflate { level: 6 }] {
        let (conn, writes, taken) = counted(usize::MAX);
        let (mut conn, _) = wrap(conn, Stack::negotiated(None, Some(compression), GREETING));
        for flush in 1..=3 {
            let pieces = [&[b'a'; 5000][..], b"frame", &[b'b'; 90_000]].map(IoSlice::new);
            assert_eq!(conn.writer.write_vectored(&pieces).await.unwrap(), 95_005);
            conn.writer.flush().await.unwrap();
            assert_eq!(writes.load(Ordering::Relaxed), flush, "{compression:?}");
            conn.writer.flush().await.unwrap();
            assert_eq!(writes.load(Ordering::Relaxed), flush, "an idle flush writes nothing");
        }
        drop(conn);
        assert!(!taken.lock().is_empty());
    }
}

#[tokio::test]
async fn a_socket_that_takes_little_gets_all_of_it_in_the_end() {
    let (conn, _, taken) = counted(777);
    let (mut conn, _) = wrap(conn, Stack::negotiated(None, Some(Compression::Snappy), GREETING));
    let noise: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 9) as u8).collect();
    conn.writer.write_all(&noise).await.unwrap();
    conn.writer.flush().await.unwrap();
    let (stream, mut plain) = (taken.lock().clone(), Vec::new());
    snap::read::FrameDecoder::new(&stream[..]).read_to_end(&mut plain).unwrap();
    assert_eq!(plain, [GREETING, &noise].concat());
}

#[tokio::test]
async fn of_what_a_socket_does_not_take_no_more_than_a_bound_is_held() {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    let noise: Vec<u8> = (0..1_000_000).map(|_| next()).collect();
    for compression in [None, Some(Compression::Snappy)] {
        let (near, far) = duplex(1);
        let (reader, writer) = split(far);
        let conn = Conn { reader: Box::new(reader), writer: Box::new(writer) };
        let (mut conn, layered) = wrap(conn, Stack::negotiated(None, compression, GREETING));
        let patience = Duration::from_millis(50);
        let written = tokio::time::timeout(patience, conn.writer.write_all(&noise)).await;
        assert!(written.is_err(), "{compression:?}: {written:?}");
        let waiting = layered.waiting();
        assert!((200_000..400_000).contains(&waiting), "{compression:?}: {waiting}");
        drop(near);
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_nobody_makes_is_given_up() {
    let (near, far) = duplex(1024);
    let (reader, writer) = split(far);
    let conn = Conn { reader: Box::new(reader), writer: Box::new(writer) };
    let (mut conn, layered) = wrap(conn, Stack::tls(waiting()));
    assert_eq!(layered.handshake(), Handshake::Running);
    let begun = tokio::time::Instant::now();
    let error = conn.reader.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(begun.elapsed() >= HANDSHAKE_MAX);
    assert!(matches!(layered.handshake(), Handshake::Failed(why) if why.contains("too long")));
    drop(near);
}

#[tokio::test]
async fn blocks_without_content_are_no_end_and_leave_others_their_turn() {
    let (mut near, far) = duplex(1024);
    let (reader, writer) = split(far);
    let conn = Conn { reader: Box::new(reader), writer: Box::new(writer) };
    let how = Compression::Deflate { level: 6 };
    let (mut conn, _) = wrap(conn, Stack::negotiated(None, Some(how), GREETING));
    let send = async {
        for _ in 0..2000 {
            near.write_all(b"\x00\x00\x00\xff\xff").await.unwrap();
        }
        let (mut packer, mut packed) = (Packer::new(how), Vec::new());
        packer.put(b"at last", &mut packed);
        packer.flush(&mut packed);
        near.write_all(&packed).await.unwrap();
        near
    };
    let mut room = [0; 64];
    let (_near, read) = tokio::join!(send, conn.reader.read(&mut room));
    assert_eq!(&room[..read.unwrap()], b"at last");
}
