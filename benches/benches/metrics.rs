//! `/metrics` of a node with 1,000 topics of three channels each, asked for over loopback.
//!
//! The goal is 50 ms; nothing asserts it, for the machine decides.

#![expect(clippy::disallowed_types, reason = "a client is outside of the node: its sockets are real")]
#![expect(clippy::disallowed_methods, reason = "the node runs on a thread of its own beside the client")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::mpsc,
};

use bruit::{Config, JournalConfig, MeshConfig, env::real};
use divan::Bencher;
use tokio::runtime::Builder;

const TOPICS: usize = 1_000;
const CHANNELS: usize = 3;

fn main() {
    divan::main();
}

/// All of it; then with quantiles of latency, of which there is one sketch for each channel.
#[divan::bench(args = [0, 3], max_time = 5)]
fn scrape(bencher: Bencher<'_, '_>, percentiles: usize) {
    let address = start([1.0, 0.99, 0.95][..percentiles].to_vec());
    for topic in 0..TOPICS {
        request(address, "POST", &format!("/topic/create?topic=t{topic:04}"));
        for channel in 0..CHANNELS {
            request(address, "POST", &format!("/channel/create?topic=t{topic:04}&channel=c{channel}"));
        }
    }
    let samples = request(address, "GET", "/metrics").lines().filter(|line| line.starts_with("nsq_")).count();
    assert_eq!(samples, TOPICS * (4 + percentiles + CHANNELS * (8 + percentiles)));
    bencher.bench_local(|| request(address, "GET", "/metrics"));
}

/// Starts a node that nobody stops; the process ends soon. Returns where its HTTP is.
fn start(percentiles: Vec<f64>) -> SocketAddr {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let background = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let data = tempfile::tempdir_in("/dev/shm").unwrap();
        let env = real::env(runtime.handle().clone(), background.handle().clone());
        let mut config = Config {
            tcp_address: ([127, 0, 0, 1], 0).into(),
            http_address: Some(([127, 0, 0, 1], 0).into()),
            data_path: data.path().to_owned(),
            journal: JournalConfig { min_free_bytes: 0, ..JournalConfig::default() },
            mesh: MeshConfig { gossip_address: None, ..MeshConfig::default() },
            ..Config::default()
        };
        config.latency.percentiles = percentiles;
        let ready = |ready: &bruit::Ready| tell.send(ready.http_address.unwrap()).unwrap();
        runtime.block_on(bruit::run(config, env, std::future::pending(), ready)).unwrap();
    });
    told.recv().unwrap()
}

fn request(address: SocketAddr, method: &str, target: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{method} {target} HTTP/1.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 200"), "{method} {target}: {answer}");
    answer
}
