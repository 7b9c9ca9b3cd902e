//! Connections: accepting them, limiting them, and letting them end.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{
    HttpState, app, lookup_app,
    patience::{Impatient, Phase},
};
use crate::{
    env::{Conn, Listener, Spawn},
    exit::Exiting,
    layers::{Doorkeeper, Layered, Stack, wrap},
};

/// How long a connection may be idle between two requests. It is long because closing races with the next
/// request: a client that publishes now and then would lose one.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// Bytes of a request's head, and of the buffers to and from a connection.
const BUFFER_MAX: usize = 64 * 1024;
/// Pause after a failed accept: it may fail for want of descriptors, which retrying at once does not free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long requests under way may take to end when the node stops.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

/// Which API a listener serves.
#[derive(Debug, Clone)]
pub(crate) enum Face {
    /// All of it.
    Node,
    /// A refusal for every request, with the port where HTTPS is served: all of it is for those who come by TLS.
    Refusing {
        /// 0 if there is none.
        https_port: u16,
    },
    /// All of it, inside of TLS.
    Secure(Arc<Doorkeeper>),
    /// nsqlookupd's alone.
    Lookup,
}

/// From where a request came; the handlers find it among the request's extensions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker(pub(super) SocketAddr);

/// Serves HTTP on `listener` until `shutdown` becomes true or its sender is gone. Returns when the last
/// request under way has been answered, or a few seconds later.
///
/// Connections become tasks of the background runtime. This is to be polled there as well, so that their
/// sockets belong to it.
pub(crate) async fn serve(listener: Box<dyn Listener>, state: HttpState, face: Face, shutdown: Exiting) {
    let background = Arc::clone(&state.env.background);
    let doorkeeper = match &face {
        Face::Secure(doorkeeper) => Some(Arc::clone(doorkeeper)),
        Face::Node | Face::Refusing { .. } | Face::Lookup => None,
    };
    let max = state.config.limits.max_http_connections;
    let app = Arc::new(match face {
        Face::Node | Face::Secure(_) => app(state),
        Face::Refusing { https_port } => app(state).refusing(https_port),
        Face::Lookup => lookup_app(state),
    });
    let service = service_fn(move |request: Request<Incoming>| {
        let app = Arc::clone(&app);
        async move { Ok(app.answer(request.map(Body::new)).await) }
    });
    serve_with(listener, doorkeeper, service, &*background, shutdown, max).await;
}

/// Takes up to `max` connections at once. Further ones are closed as they come, which a client sees at once;
/// waiting would leave it in the dark.
async fn serve_with<S, F>(
    mut listener: Box<dyn Listener>,
    doorkeeper: Option<Arc<Doorkeeper>>,
    service: S,
    background: &dyn Spawn,
    shutdown: Exiting,
    max: u32,
) where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future = F>,
    S: Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response, Infallible>> + Send,
{
    let slots = Arc::new(Semaphore::new(max as usize));
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.told() => break,
            accepted = listener.accept() => accepted,
        };
        let (conn, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting an HTTP connection failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            tracing::debug!(%peer, limit = max, "too many HTTP connections, this one is closed");
            continue;
        };
        let Some((conn, layered)) = secured(conn, doorkeeper.as_deref()) else { continue };
        let (service, shutdown) = (service.clone(), shutdown.clone());
        background.spawn(Box::pin(async move {
            converse(conn, layered, peer, service, shutdown).await;
            drop(slot);
        }));
    }
    drop(listener);
    // All slots are free when the last connection has ended.
    if timeout(FAREWELL_MAX, slots.acquire_many(max)).await.is_err() {
        tracing::warn!("HTTP requests are still under way; stopping without them");
    }
}

/// The connection as requests come over it: inside of TLS where there is a doorkeeper. The handshake is made when
/// the first request is read, and has a time limit of its own.
fn secured(conn: Conn, doorkeeper: Option<&Doorkeeper>) -> Option<(Conn, Option<Layered>)> {
    let Some(doorkeeper) = doorkeeper else { return Some((conn, None)) };
    match doorkeeper.handshake() {
        Ok(tls) => {
            let (conn, layered) = wrap(conn, Stack::tls(tls));
            Some((conn, Some(layered)))
        }
        Err(why) => {
            tracing::warn!("an HTTPS connection cannot be served: {why}");
            None
        }
    }
}

/// Answers the requests of one connection until it ends.
async fn converse<S, F>(conn: Conn, layered: Option<Layered>, peer: SocketAddr, service: S, shutdown: Exiting)
where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future = F>,
    F: Future<Output = Result<Response, Infallible>>,
{
    let phase = Phase::default();
    let io = TokioIo::new(Impatient::new(conn, phase.clone(), shutdown.clone()));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Asker(peer));
        if let Some(layered) = &layered {
            request.extensions_mut().insert(layered.clone());
        }
        phase.turn();
        let (answer, phase) = (service.call(request), phase.clone());
        async move {
            let answer = answer.await;
            phase.turn();
            answer
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_MAX)
        .max_buf_size(BUFFER_MAX)
        // The spelling that Go sends; and the date comes from the node's own clock.
        .title_case_headers(true)
        .auto_date_header(false)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = shutdown.told() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "an HTTP connection ended badly");
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use axum::response::IntoResponse;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split},
        sync::{mpsc, oneshot},
        time::Instant,
    };

    use super::*;
    use crate::{
        Limits,
        env::BoxFut,
        exit::{self, Exit},
        http::{body::Bodies, reply},
    };

    const CONNECTIONS_MAX: u32 = 100;

    /// Hands out the connections that the test makes.
    struct Door(mpsc::UnboundedReceiver<io::Result<Conn>>);

    impl Listener for Door {
        fn accept(&mut self) -> BoxFut<'_, io::Result<(Conn, SocketAddr)>> {
            Box::pin(async {
                let conn = self.0.recv().await.unwrap_or_else(|| Err(io::ErrorKind::NotConnected.into()))?;
                Ok((conn, SocketAddr::from(([127, 0, 0, 1], 9))))
            })
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[derive(Debug)]
    struct TokioSpawn;

    impl Spawn for TokioSpawn {
        #[expect(clippy::disallowed_methods, reason = "a test has no node's Env to spawn through")]
        fn spawn(&self, task: BoxFut<'static, ()>) {
            tokio::spawn(task);
        }
    }

    /// A server that takes bodies of up to ten bytes and answers with their length.
    struct Server {
        door: mpsc::UnboundedSender<io::Result<Conn>>,
        stop: Exit,
        ended: oneshot::Receiver<()>,
    }

    impl Server {
        fn start() -> Self {
            let (door, conns) = mpsc::unbounded_channel();
            let (stop, shutdown) = exit::channel();
            let (end, ended) = oneshot::channel();
            let bodies = Bodies::new(&Limits::default());
            let service = service_fn(move |request: Request<Incoming>| {
                let bodies = bodies.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    Ok(match bodies.take(&parts.headers, Body::new(body), 10).await {
                        Ok(body) => reply::text(body.len().to_string()),
                        Err(error) => error.reply("TOO_BIG").into_response(),
                    })
                }
            });
            TokioSpawn.spawn(Box::pin(async move {
                let door = Box::new(Door(conns));
                serve_with(door, None, service, &TokioSpawn, shutdown, CONNECTIONS_MAX).await;
                let _ = end.send(());
            }));
            Self { door, stop, ended }
        }

        fn connect(&self) -> DuplexStream {
            let (near, far) = duplex(1024);
            let (reader, writer) = split(far);
            let conn = Conn { reader: Box::new(reader), writer: Box::new(writer) };
            self.door.send(Ok(conn)).unwrap();
            near
        }
    }

    /// Reads until `end` has come.
    async fn read_to(stream: &mut DuplexStream, end: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(end) {
            text.push(char::from(stream.read_u8().await.unwrap_or_else(|_| panic!("only {text:?} came"))));
        }
        text
    }

    async fn read_to_close(stream: &mut DuplexStream) -> String {
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_serves_many_requests_with_pauses_between() {
        let server = Server::start();
        let mut client = server.connect();
        for body in ["a", "bcd"] {
            let request =
                format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            client.write_all(request.as_bytes()).await.unwrap();
            let expected = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n\
                 X-Nsq-Content-Type: nsq; version=1.0\r\nContent-Length: 1\r\n\r\n{}",
                body.len()
            );
            assert_eq!(read_to(&mut client, &format!("\r\n\r\n{}", body.len())).await, expected);
            sleep(IDLE_MAX - Duration::from_secs(1)).await;
        }
        assert_eq!(read_to_close(&mut client).await, "", "an idle connection is closed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_has_begun_has_to_end_soon() {
        let server = Server::start();
        let mut client = server.connect();
        let begun = Instant::now();
        client.write_all(b"POST / HTTP/1.1\r\nHos").await.unwrap();
        assert_eq!(read_to_close(&mut client).await, "");
        assert!(begun.elapsed() < IDLE_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_body_is_answered_and_cut() {
        let server = Server::start();
        let mut client = server.connect();
        client.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab").await.unwrap();
        let answer = read_to_close(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.ends_with(r#"{"message":"REQUEST_TIMEOUT"}"#));
    }

    #[tokio::test]
    async fn a_refusal_reaches_a_client_that_still_sends() {
        let server = Server::start();
        let mut client = server.connect();
        client.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n").await.unwrap();
        // More than the connection buffers: this ends only because the server reads on.
        client.write_all(&[b'x'; 100_000]).await.unwrap();
        let answer = read_to_close(&mut client).await;
        assert!(
            answer.starts_with("HTTP/1.1 413 ") && answer.ends_with(r#"{"message":"TOO_BIG"}"#),
            "{answer}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_does_not_wait_for_the_body() {
        let server = Server::start();
        let mut client = server.connect();
        let begun = Instant::now();
        client.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n").await.unwrap();
        read_to(&mut client, r#"{"message":"TOO_BIG"}"#).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_client_that_asks_before_it_sends_is_told_to_go_on() {
        let server = Server::start();
        let mut client = server.connect();
        let head = "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(read_to(&mut client, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n").await.unwrap();
        read_to(&mut client, "\r\n\r\n5").await;
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let server = Server::start();
        let mut client = server.connect();
        let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", "x".repeat(2 * BUFFER_MAX));
        // The server may close before it has taken all of it.
        let _ = client.write_all(head.as_bytes()).await;
        assert!(read_to_close(&mut client).await.starts_with("HTTP/1.1 431 "));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_that_nobody_reads_is_given_up() {
        let server = Server::start();
        let mut client = server.connect();
        let request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na";
        // Replies that are never read fill up what the connection buffers, and then requests do.
        let given_up = async { while client.write_all(request).await.is_ok() {} };
        timeout(Duration::from_secs(3600), given_up).await.expect("the server gives up within the hour");
    }

    #[tokio::test]
    async fn one_connection_too_many_is_closed_and_a_failed_accept_ends_nothing() {
        let server = Server::start();
        let mut held: Vec<_> = (0..CONNECTIONS_MAX).map(|_| server.connect()).collect();
        assert_eq!(read_to_close(&mut server.connect()).await, "");
        server.door.send(Err(io::ErrorKind::OutOfMemory.into())).unwrap();
        held[0].write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(read_to_close(&mut held[0]).await.starts_with("HTTP/1.1 200 "));
        held.clear();
        loop {
            let mut client = server.connect();
            let _ = client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
            if read_to_close(&mut client).await.starts_with("HTTP/1.1 200 ") {
                break;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_closes_idle_connections_and_finishes_the_others() {
        let mut server = Server::start();
        let (mut idle, mut busy) = (server.connect(), server.connect());
        busy.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na").await.unwrap();
        let begun = Instant::now();
        // Lets the server read what was sent before it is told to stop.
        sleep(Duration::from_millis(1)).await;
        server.stop.tell();
        assert_eq!(read_to_close(&mut idle).await, "");
        assert!(server.ended.try_recv().is_err());
        busy.write_all(b"b").await.unwrap();
        assert!(read_to_close(&mut busy).await.ends_with("\r\n\r\n2"));
        server.ended.await.unwrap();
        assert!(begun.elapsed() < FAREWELL_MAX);
    }
}
