//! TCP and UDP by tokio.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use quinn::{AsyncUdpSocket, Runtime, TokioRuntime};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};

use super::super::{BoxFut, Conn, Listener, Net};

/// Connections that the kernel completes before they are accepted; further ones wait or are refused.
const BACKLOG: u32 = 1024;

pub(super) struct RealNet;

impl Net for RealNet {
    fn listen(&self, address: SocketAddr) -> BoxFut<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            // A restarted node takes its port back although old connections linger in TIME_WAIT.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener: Box<dyn Listener> = Box::new(RealListener(socket.listen(BACKLOG)?));
            Ok(listener)
        })
    }

    fn connect(&self, address: SocketAddr) -> BoxFut<'_, io::Result<Conn>> {
        Box::pin(async move { Ok(conn(TcpStream::connect(address).await?)) })
    }

    fn bind_udp(&self, address: SocketAddr) -> BoxFut<'_, io::Result<Arc<dyn AsyncUdpSocket>>> {
        // Made by quinn, so that many packets go through one system call where the kernel can do it.
        Box::pin(async move { TokioRuntime.wrap_udp_socket(UdpSocket::bind(address)?) })
    }

    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFut<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(lookup_host((host, port)).await?.collect()) })
    }

    fn route(&self, to: SocketAddr) -> io::Result<IpAddr> {
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // Connecting a datagram socket asks the kernel for a route and sends nothing.
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        Ok(socket.local_addr()?.ip())
    }
}

fn conn(stream: TcpStream) -> Conn {
    // Fails only on a connection that is gone already, which its first read will tell.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    Conn { reader: Box::new(reader), writer: Box::new(writer) }
}

struct RealListener(TcpListener);

impl Listener for RealListener {
    fn accept(&mut self) -> BoxFut<'_, io::Result<(Conn, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.0.accept().await?;
            Ok((conn(stream), peer))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        io::{IoSlice, IoSliceMut},
    };

    use quinn::udp::{RecvMeta, Transmit};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    #[tokio::test]
    async fn bytes_travel_both_ways_and_writes_are_vectored() {
        let mut listener = RealNet.listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut conn, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
        assert!(conn.writer.is_write_vectored());

        let slices = [IoSlice::new(b"ab"), IoSlice::new(b"cd")];
        assert_eq!(conn.writer.write_vectored(&slices).await.unwrap(), 4);
        let mut received = [0; 4];
        client.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"abcd");

        client.write_all(b"back").await.unwrap();
        conn.reader.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"back");
    }

    #[tokio::test]
    async fn a_port_that_is_taken_says_so() {
        let first = RealNet.listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let error = RealNet.listen(first.local_addr().unwrap()).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_stream_is_opened_and_a_closed_port_refuses() {
        let mut listener = RealNet.listen(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut near = RealNet.connect(address).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        near.writer.write_all(b"hello").await.unwrap();
        let mut received = [0; 5];
        far.reader.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"hello");

        drop((listener, near, far));
        let error = RealNet.connect(address).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn datagrams_travel_and_a_free_port_is_told() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (near, far) = (RealNet.bind_udp(any).await.unwrap(), RealNet.bind_udp(any).await.unwrap());
        let (from, to) = (near.local_addr().unwrap(), far.local_addr().unwrap());
        assert_ne!((from.port(), to.port()), (0, 0));
        let contents = b"sealed";
        let transmit = Transmit { destination: to, ecn: None, contents, segment_size: None, src_ip: None };
        let mut poller = near.clone().create_io_poller();
        poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.unwrap();
        near.try_send(&transmit).unwrap();

        let (mut bytes, mut meta) = ([0; 100], [RecvMeta::default()]);
        let received = poll_fn(|cx| far.poll_recv(cx, &mut [IoSliceMut::new(&mut bytes)], &mut meta)).await;
        assert_eq!(received.unwrap(), 1);
        assert_eq!((meta[0].addr, &bytes[..meta[0].len]), (from, &contents[..]));

        let error = RealNet.bind_udp(to).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn names_and_addresses_resolve() {
        for host in ["127.0.0.1", "localhost"] {
            let found = RealNet.resolve(host, 4160).await.unwrap();
            assert!(!found.is_empty(), "{host}");
            assert!(
                found.iter().all(|address| address.ip().is_loopback() && address.port() == 4160),
                "{found:?}"
            );
        }
        // By RFC 6761 this name never exists.
        assert!(RealNet.resolve("nobody.invalid", 4160).await.is_err());
    }

    #[tokio::test]
    async fn the_route_to_loopback_is_loopback() {
        let local = RealNet.route(SocketAddr::from(([127, 0, 0, 1], 4160))).unwrap();
        assert_eq!(local, IpAddr::from([127, 0, 0, 1]));
    }
}
