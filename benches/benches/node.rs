//! A whole node without the kernel: its sockets are pipes in memory, its data directory is in memory, and
//! everything between them is what runs in production. What is left is the CPU time that is ours to improve.
//!
//! Figures are for a run of messages; the counter beside them is per message. `bruit bench` measures the
//! same with real sockets and a real disk.

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use bruit::{
    Config, JournalConfig, MeshConfig,
    env::{BoxFut, Conn, Listener, Net, real},
};
use bruit_wire::nsq::{
    FrameDecoder, FrameType, MAGIC_V2, MessageView, put_finish, put_identify, put_multi_publish, put_publish,
    put_ready, put_subscribe,
};
use divan::{Bencher, counter::ItemsCount};
use quinn::AsyncUdpSocket;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    runtime::{Builder, Runtime},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

/// Messages in a run.
const MESSAGES: usize = 20_000;
const BODY: [u8; 200] = [b'x'; 200];
/// Room of a pipe in each direction, bytes.
const PIPE: usize = 512 * 1024;

fn main() {
    divan::main();
}

/// Publishing with one command in flight, as many messages in each.
#[divan::bench(args = [1, 10, 200, 1000], max_time = 5)]
fn publish(bencher: Bencher<'_, '_>, batch: usize) {
    let world = RefCell::new(World::start());
    let mut command = Vec::new();
    put_multi_publish(&mut command, "bench", std::iter::repeat_n(&BODY[..], batch));
    bencher
        .counter(ItemsCount::new(MESSAGES))
        .with_inputs(|| world.borrow_mut().consume_all())
        .bench_local_values(|()| world.borrow_mut().publish(&command, 1, MESSAGES / batch, batch));
}

/// Publishing by PUB with a hundred commands in flight.
#[divan::bench(max_time = 5)]
fn publish_pipelined(bencher: Bencher<'_, '_>) {
    let world = RefCell::new(World::start());
    let mut commands = Vec::new();
    (0..100).for_each(|_| put_publish(&mut commands, "bench", &BODY));
    bencher
        .counter(ItemsCount::new(MESSAGES))
        .with_inputs(|| world.borrow_mut().consume_all())
        .bench_local_values(|()| world.borrow_mut().publish(&commands, 100, MESSAGES / 100, 100));
}

/// Consuming a backlog that is still in memory, each message finished.
#[divan::bench(max_time = 5)]
fn consume(bencher: Bencher<'_, '_>) {
    let world = RefCell::new(World::start());
    let mut command = Vec::new();
    put_multi_publish(&mut command, "bench", std::iter::repeat_n(&BODY[..], 200));
    bencher
        .counter(ItemsCount::new(MESSAGES))
        .with_inputs(|| {
            world.borrow_mut().consume_all();
            world.borrow_mut().publish(&command, 1, MESSAGES / 200, 200);
        })
        .bench_local_values(|()| world.borrow_mut().consume_all());
}

/// A node, a publisher, and a consumer that takes only when it is told to.
struct World {
    publisher: Client,
    consumer: Client,
    /// Messages that were published and not consumed yet.
    waiting: usize,
    runtime: Runtime,
    _background: Runtime,
    _data: TempDir,
}

impl World {
    fn start() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let background = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let data = tempfile::tempdir_in("/dev/shm").unwrap();
        let (connect, connections) = unbounded_channel();
        let mut env = real::env(runtime.handle().clone(), background.handle().clone());
        env.net = Arc::new(MemoryNet { connections: Mutex::new(Some(connections)) });
        let config = Config {
            data_path: data.path().to_owned(),
            http_address: None,
            journal: JournalConfig { segment_size: 16 * 1024 * 1024, ..JournalConfig::default() },
            mesh: MeshConfig { gossip_address: None, ..MeshConfig::default() },
            ..Config::default()
        };
        runtime.spawn(async {
            bruit::run(config, env, std::future::pending(), |_| ()).await.unwrap();
        });
        let (publisher, consumer) = runtime.block_on(async {
            let publisher = Client::connect(&connect, |_| ()).await;
            let consumer = Client::connect(&connect, |out| put_subscribe(out, "bench", "bench")).await;
            (publisher, consumer)
        });
        Self { publisher, consumer, waiting: 0, runtime, _background: background, _data: data }
    }

    /// Sends `commands` as often as said and waits each time for all `answers` to it.
    fn publish(&mut self, commands: &[u8], answers: usize, times: usize, messages: usize) {
        self.waiting += times * messages;
        self.runtime.block_on(async {
            for _ in 0..times {
                self.publisher.pipe.write_all(commands).await.unwrap();
                let mut missing = answers;
                while missing > 0 {
                    missing -= self.publisher.receive(&mut Vec::new()).await;
                }
            }
        });
    }

    fn consume_all(&mut self) {
        let mut out = Vec::new();
        put_ready(&mut out, 2500);
        self.runtime.block_on(async {
            while self.waiting > 0 {
                self.consumer.pipe.write_all(&out).await.unwrap();
                out.clear();
                self.waiting -= self.consumer.receive(&mut out).await;
            }
            put_ready(&mut out, 0);
            self.consumer.pipe.write_all(&out).await.unwrap();
        });
    }
}

/// The client's end of a connection.
struct Client {
    pipe: DuplexStream,
    inbox: Vec<u8>,
}

impl Client {
    /// Opens a connection, says hello and what `more` adds, and waits until that is answered.
    async fn connect(connect: &UnboundedSender<DuplexStream>, more: impl Fn(&mut Vec<u8>)) -> Self {
        let (pipe, theirs) = tokio::io::duplex(PIPE);
        connect.send(theirs).unwrap();
        let mut client = Self { pipe, inbox: Vec::with_capacity(2 * PIPE) };
        let mut out = MAGIC_V2.to_vec();
        put_identify(&mut out, b"{}");
        let hello = out.len();
        more(&mut out);
        client.pipe.write_all(&out).await.unwrap();
        let mut missing = if out.len() > hello { 2 } else { 1 };
        while missing > 0 {
            missing -= client.receive(&mut Vec::new()).await;
        }
        client
    }

    /// Reads once; returns how many answers and messages are whole now, and puts the FINs of the messages
    /// into `out`.
    async fn receive(&mut self, out: &mut Vec<u8>) -> usize {
        assert!(self.pipe.read_buf(&mut self.inbox).await.unwrap() > 0, "the node hung up");
        let decoder = FrameDecoder::new(1024 * 1024);
        let (mut at, mut found) = (0, 0);
        while let Some((frame, len)) = decoder.decode(&self.inbox[at..]).unwrap() {
            at += len;
            match frame.kind {
                FrameType::Message => {
                    put_finish(out, MessageView::parse_payload(frame.body).unwrap().id);
                    found += 1;
                }
                FrameType::Response => found += usize::from(frame.body != b"_heartbeat_"),
                FrameType::Error => panic!("{}", String::from_utf8_lossy(frame.body)),
            }
        }
        self.inbox.drain(..at);
        found
    }
}

/// Sockets that are pipes in memory; there is one listener.
struct MemoryNet {
    connections: Mutex<Option<UnboundedReceiver<DuplexStream>>>,
}

struct MemoryListener {
    address: SocketAddr,
    connections: UnboundedReceiver<DuplexStream>,
}

impl Net for MemoryNet {
    fn listen(&self, address: SocketAddr) -> BoxFut<'_, io::Result<Box<dyn Listener>>> {
        let connections = self.connections.lock().unwrap().take().expect("a node without HTTP listens once");
        Box::pin(async move { Ok(Box::new(MemoryListener { address, connections }) as Box<dyn Listener>) })
    }

    fn connect(&self, _: SocketAddr) -> BoxFut<'_, io::Result<Conn>> {
        unreachable!("a node without a mesh connects to nobody")
    }

    fn bind_udp(&self, _: SocketAddr) -> BoxFut<'_, io::Result<Arc<dyn AsyncUdpSocket>>> {
        unreachable!("a node without a mesh sends no datagrams")
    }

    fn resolve<'a>(&'a self, _: &'a str, _: u16) -> BoxFut<'a, io::Result<Vec<SocketAddr>>> {
        unreachable!("a node without a mesh looks nobody up")
    }

    fn route(&self, _: SocketAddr) -> io::Result<IpAddr> {
        unreachable!("a node without a mesh asks for no route")
    }
}

impl Listener for MemoryListener {
    fn accept(&mut self) -> BoxFut<'_, io::Result<(Conn, SocketAddr)>> {
        Box::pin(async {
            let Some(pipe) = self.connections.recv().await else { return std::future::pending().await };
            let (reader, writer) = tokio::io::split(pipe);
            Ok((Conn { reader: Box::new(reader), writer: Box::new(writer) }, self.address))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
