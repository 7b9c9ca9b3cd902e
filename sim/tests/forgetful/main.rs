//! The simulator judged by software of known quality: a node that keeps all in memory must pass as long as
//! nothing ends its process, and must be caught as soon as something does.

mod queue;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use bruit::env::{Conn, Env};
use bruit_sim::{
    process::{Life, Process},
    run::{Verdict, run_software},
    scenario::Scenario,
};
use bruit_wire::{
    MessageId,
    nsq::{self, Command, Decoded, Decoder, FrameType, Phase, Rules},
};
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use self::queue::Queue;

type Place = (String, String);

#[test]
fn a_correct_node_passes_as_long_as_its_process_lives() {
    for seed in 1..=10 {
        let verdict = judge(seed, "calm");
        assert!(verdict.is_good(), "{verdict}");
        assert!(verdict.tally.acked > 50, "{verdict}");
    }
}

#[test]
fn a_node_that_forgets_is_caught_when_its_process_is_killed() {
    let verdicts: Vec<Verdict> = (1..=10).map(|seed| judge(seed, "crash")).collect();
    let caught = verdicts.iter().flat_map(|verdict| &verdict.findings);
    assert!(caught.filter(|finding| finding.invariant == "I1").count() > 0);
}

#[test]
fn one_seed_is_one_run() {
    let hashes = |seed| {
        let verdict = judge(seed, "all");
        (verdict.trace_hash, verdict.events)
    };
    assert_eq!(hashes(1), hashes(1));
    assert_ne!(hashes(1), hashes(2));
}

fn judge(seed: u64, scenario: &str) -> Verdict {
    run_software(seed, &Scenario::find(scenario).unwrap(), false, forgetful)
}

/// A node without a disk.
fn forgetful(process: Process) -> Life {
    let Process { config, env, stopped, ready } = process;
    Box::pin(async move {
        let queue = Arc::new(Mutex::new(Queue::default()));
        let mut tcp = env.net.listen(config.tcp_address).await?;
        let mut http = env.net.listen(config.http_address.expect("the simulation serves HTTP")).await?;
        ready.tell();
        let owners = AtomicU64::new(0);
        loop {
            tokio::select! {
                biased;
                () = stopped.pass() => return Ok(()),
                accepted = tcp.accept() => {
                    let owner = owners.fetch_add(1, Ordering::Relaxed);
                    let session = Session::new(env.clone(), queue.clone(), owner);
                    env.spawn.spawn(Box::pin(session.run(accepted?.0)));
                }
                accepted = http.accept() => {
                    env.background.spawn(Box::pin(statistics(accepted?.0, queue.clone())));
                }
            }
        }
    })
}

async fn statistics(mut conn: Conn, queue: Arc<Mutex<Queue>>) {
    let _ = conn.reader.read(&mut [0; 1024]).await;
    let answer = format!("HTTP/1.1 200 OK\r\n\r\n{}", queue.lock().stats());
    let _ = conn.writer.write_all(answer.as_bytes()).await;
}

struct Session {
    env: Env,
    queue: Arc<Mutex<Queue>>,
    owner: u64,
    place: Option<Place>,
    ready: u64,
    msg_timeout: Duration,
    out: Vec<u8>,
}

impl Session {
    fn new(env: Env, queue: Arc<Mutex<Queue>>, owner: u64) -> Self {
        let msg_timeout = Duration::from_secs(60);
        Self { env, queue, owner, place: None, ready: 0, msg_timeout, out: Vec::new() }
    }

    async fn run(mut self, mut conn: Conn) {
        let mut input = BytesMut::new();
        let mut decoder = Decoder::new();
        let mut magic_len = nsq::MAGIC_V2.len();
        loop {
            tokio::select! {
                biased;
                read = conn.reader.read_buf(&mut input) => if !matches!(read, Ok(1..)) { break },
                () = sleep(Duration::from_millis(1)) => self.deliver(),
            }
            let magic = magic_len.min(input.len());
            input.advance(magic);
            magic_len -= magic;
            if magic_len > 0 {
                continue;
            }
            loop {
                let rules = self.rules();
                let Ok(Decoded::Command { command, consumed }) = decoder.decode(&input, &rules) else {
                    break;
                };
                self.apply(command);
                input.advance(consumed);
            }
            let out = std::mem::take(&mut self.out);
            if conn.writer.write_all(&out).await.is_err() {
                break;
            }
        }
        if let Some(place) = &self.place {
            self.queue.lock().leave(place, self.owner);
        }
    }

    fn rules(&self) -> Rules {
        Rules {
            phase: if self.place.is_some() { Phase::Subscribed } else { Phase::Init },
            heartbeats: true,
            max_msg_size: 1 << 20,
            max_body_size: 5 << 20,
            max_rdy_count: 2500,
            max_req_timeout_ms: 3_600_000,
            max_defer_timeout_ms: 3_600_000,
        }
    }

    fn apply(&mut self, command: Command<'_>) {
        let now = self.env.wall.now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
        let mut queue = self.queue.lock();
        let place = self.place.clone().unwrap_or_default();
        let id = |id| MessageId::from_hex(id).unwrap_or(MessageId::new(0, 0));
        match command {
            Command::Identify { body } => {
                let wishes: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
                self.msg_timeout = Duration::from_millis(wishes["msg_timeout"].as_u64().unwrap_or(60_000));
                return nsq::put_frame(&mut self.out, FrameType::Response, b"{}");
            }
            Command::Publish { topic, body } => queue.publish(topic, body, now, Duration::ZERO),
            Command::DeferredPublish { topic, delay_ms, body } => {
                queue.publish(topic, body, now, Duration::from_millis(delay_ms));
            }
            Command::MultiPublish { topic, messages } => {
                messages.iter().for_each(|body| queue.publish(topic, body, now, Duration::ZERO));
            }
            Command::Subscribe { topic, channel } => {
                queue.subscribe(topic, channel);
                self.place = Some((topic.to_owned(), channel.to_owned()));
            }
            Command::Ready { count } => {
                self.ready = count;
                return;
            }
            Command::Finish { id: hex } => {
                let ok = queue.finish(&place, self.owner, id(hex));
                return complain(ok, &mut self.out, "FIN", hex);
            }
            Command::Requeue { id: hex, delay_ms } => {
                let ok = queue.requeue(&place, self.owner, id(hex), Duration::from_millis(delay_ms));
                return complain(ok, &mut self.out, "REQ", hex);
            }
            Command::Touch { id: hex } => {
                let ok = queue.touch(&place, self.owner, id(hex), self.msg_timeout);
                return complain(ok, &mut self.out, "TOUCH", hex);
            }
            Command::Auth { .. } | Command::Close | Command::Nop => return,
        }
        self.out.extend_from_slice(&nsq::OK_FRAME);
    }

    fn deliver(&mut self) {
        let Some(place) = &self.place else { return };
        let mut queue = self.queue.lock();
        while let Some(message) = queue.take(place, self.owner, self.ready, self.msg_timeout) {
            let mut frame = BytesMut::new();
            nsq::put_message(&mut frame, message.timestamp, message.attempts, message.id, &message.body);
            self.out.extend_from_slice(&frame);
        }
    }
}

fn complain(ok: bool, out: &mut Vec<u8>, command: &str, id: &[u8; 16]) {
    if !ok {
        let id = String::from_utf8_lossy(id);
        let text = format!("E_{command}_FAILED {command} {id} failed ID not in flight");
        nsq::put_frame(out, FrameType::Error, text.as_bytes());
    }
}
