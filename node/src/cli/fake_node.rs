//! The node's end of a client's connection, for scripts in tests.
#![expect(clippy::disallowed_types, reason = "tests of client code talk over real sockets")]

use bruit_wire::nsq::OK_FRAME;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Listens as a node does.
pub(super) struct FakeNode {
    listener: TcpListener,
    /// Where.
    pub(super) address: String,
}

impl FakeNode {
    /// Listens on a free port.
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self { listener, address }
    }

    /// The next connection, with its IDENTIFY read and answered.
    pub(super) async fn accept(&self) -> TcpStream {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        let mut start = [0; 13];
        stream.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"  V2IDENTIFY\n");
        let len = stream.read_u32().await.unwrap();
        let mut identity = vec![0; len as usize];
        stream.read_exact(&mut identity).await.unwrap();
        let identity: serde_json::Value = serde_json::from_slice(&identity).unwrap();
        assert_eq!(identity["feature_negotiation"], true);
        stream.write_all(&OK_FRAME).await.unwrap();
        stream
    }
}
