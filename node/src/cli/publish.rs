//! `bruit pub`: publishes lines, and knows at every moment which of them are safe.

use std::{
    collections::VecDeque,
    fs,
    io::{self, IsTerminal, Read, Write},
    num::NonZeroUsize,
    path::PathBuf,
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, anyhow};
use bruit_wire::{TopicName, nsq};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::{select, sync::mpsc, time::Instant};

use super::{
    client::{Client, Introduction, Reply},
    lines::{self, Chunk},
};

/// Messages that may be on their way unacknowledged.
const WINDOW: usize = 4096;
/// Largest content of one MPUB, bytes: well below the 5 MiB that a node takes unless told otherwise.
const BATCH_SIZE: usize = 1 << 20;
/// No more commands are made while this many bytes of them have not left.
const UNSENT_MAX: usize = 1 << 20;
/// Furthest that `--rate` may fall behind and then catch up on at once.
const CATCH_UP: Duration = Duration::from_millis(100);
/// Exit code after SIGINT, by the shell's rule.
const INTERRUPTED: u8 = 130;

/// Arguments of `bruit pub`.
#[derive(Debug, Args)]
#[command(
    after_help = "Every line is a message; empty lines are skipped. Says at the end how many messages were \
    acknowledged, on standard output. If not all were, the exit code is 1, and the first line that was not \
    acknowledged is named, to go on from there with --skip."
)]
pub(super) struct PublishArgs {
    /// The topic; created when it does not exist
    topic: TopicName,
    /// `-` reads standard input, which is also what happens without --file
    #[arg(value_name = "-", value_parser = ["-"], conflicts_with = "file")]
    stdin: Option<String>,
    /// Read this file
    #[arg(long)]
    file: Option<PathBuf>,
    /// The node to publish to
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4150")]
    nsqd_tcp_address: String,
    /// Messages a second; as fast as possible when not given
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Most messages to put into one MPUB, which a node keeps whole or not at all; 1 publishes one by one
    #[arg(long, value_name = "N", default_value = "200")]
    batch: NonZeroUsize,
    /// Leave out the first N lines, as after a publish that was cut short
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: u64,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "write a number of messages a second".to_owned())?;
    if rate > 0.0 && rate.is_finite() { Ok(rate) } else { Err("write a number above 0".to_owned()) }
}

/// Publishes until the input ends or something goes wrong.
///
/// # Errors
/// What went wrong, and how to go on.
pub(super) fn run(args: &PublishArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(publish(args));
    // The thread that reads may wait for a terminal or a pipe for ever.
    runtime.shutdown_background();
    outcome
}

async fn publish(args: &PublishArgs) -> anyhow::Result<ExitCode> {
    let (source, size) = open(args)?;
    let introduction = Introduction::new(concat!("bruit-pub/", env!("CARGO_PKG_VERSION")));
    let client = Client::connect(&args.nsqd_tcp_address, &introduction).await?;
    let (sender, chunks) = mpsc::channel(2);
    let skip = args.skip;
    tokio::runtime::Handle::current().spawn_blocking(move || lines::read(source, skip, &sender));

    let mut publisher = Publisher {
        client,
        topic: args.topic.clone(),
        batch: args.batch.get(),
        pace: args.rate.map(|rate| Pace::new(rate, Instant::now())),
        chunk: Chunk::default(),
        sent: VecDeque::new(),
        in_flight: 0,
        acknowledged: 0,
        through: args.skip,
        bar: progress_bar(size),
    };
    let outcome = select! {
        biased;
        interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| INTERRUPTED).map_err(anyhow::Error::from),
        outcome = publisher.run(chunks) => outcome.map(|()| 0),
    };
    publisher.bar.finish_and_clear();
    writeln!(io::stdout(), "{} acknowledged", publisher.acknowledged)?;
    match outcome {
        Ok(0) => Ok(ExitCode::SUCCESS),
        Ok(code) => {
            eprintln!("bruit: interrupted; {}", publisher.how_to_go_on());
            Ok(ExitCode::from(code))
        }
        Err(error) => Err(anyhow!("{error:#}\n{}", publisher.how_to_go_on())),
    }
}

/// What to read, and its size in bytes if that is known.
fn open(args: &PublishArgs) -> anyhow::Result<(Box<dyn Read + Send>, Option<u64>)> {
    let Some(path) = args.file.as_ref().filter(|path| path.as_os_str() != "-") else {
        if io::stdin().is_terminal() {
            eprintln!("bruit: every line that you type is published; end with Ctrl-D");
        }
        return Ok((Box::new(io::stdin()), None));
    };
    let wrong = || format!("cannot read {}", path.display());
    let file = fs::OpenOptions::new().read(true).open(path).with_context(wrong)?;
    let metadata = file.metadata().with_context(wrong)?;
    Ok((Box::new(file), metadata.is_file().then_some(metadata.len())))
}

fn progress_bar(size: Option<u64>) -> ProgressBar {
    let template = match size {
        Some(_) => "{wide_bar} {bytes}/{total_bytes} {msg}, {eta} left",
        None => "{spinner} {msg} in {elapsed}",
    };
    let bar = ProgressBar::with_draw_target(size, ProgressDrawTarget::stderr());
    // The templates are fixed; a plain bar would do if one were wrong.
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

struct Publisher {
    client: Client,
    topic: TopicName,
    batch: usize,
    pace: Option<Pace>,
    /// Lines that were read and not sent.
    chunk: Chunk,
    /// Commands that have no answer yet, oldest first.
    sent: VecDeque<Sent>,
    /// Messages in `sent`.
    in_flight: usize,
    acknowledged: u64,
    /// Every line up to this one is acknowledged, empty, or skipped.
    through: u64,
    bar: ProgressBar,
}

struct Sent {
    messages: usize,
    size: usize,
    /// The last line in it.
    through: u64,
}

impl Publisher {
    /// Publishes all chunks; returns when the last of them is acknowledged. May be dropped at any time.
    async fn run(&mut self, mut chunks: mpsc::Receiver<io::Result<Chunk>>) -> anyhow::Result<()> {
        let mut ended = false;
        loop {
            self.take_answers()?;
            if ended && self.chunk.is_empty() && self.sent.is_empty() {
                return Ok(());
            }
            let due = self.send();
            let mut due = pin!(tokio::time::sleep_until(due.unwrap_or_else(Instant::now)));
            let (wants_lines, is_paced) = (!ended && self.chunk.is_empty(), !self.chunk.is_empty());
            select! {
                biased;
                chunk = chunks.recv(), if wants_lines => match chunk {
                    Some(chunk) => self.chunk = chunk.context("cannot read on")?,
                    None => ended = true,
                },
                () = &mut due, if is_paced && self.has_room() && self.pace.is_some() => {}
                moved = self.client.progress() => moved?,
            }
        }
    }

    fn take_answers(&mut self) -> anyhow::Result<()> {
        while let Some(reply) = self.client.take()? {
            let oldest = self.sent.pop_front();
            match (reply, oldest) {
                (Reply::Ok, Some(sent)) => {
                    self.in_flight -= sent.messages;
                    self.acknowledged += sent.messages as u64;
                    self.through = sent.through;
                    self.bar.inc(sent.size as u64);
                    self.bar.set_message(format!("{} acknowledged", self.acknowledged));
                }
                (Reply::Error(text), Some(sent)) => {
                    let lines = match sent.messages {
                        1 => format!("line {}", sent.through),
                        _ => format!("a line up to line {}", sent.through),
                    };
                    return Err(anyhow!("the node refuses {lines}: {text}"));
                }
                (Reply::Error(text), None) => return Err(anyhow!("the node reports {text}")),
                (other, _) => return Err(anyhow!("the node answers a publish with {other:?}")),
            }
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.in_flight < WINDOW && self.client.unsent() < UNSENT_MAX
    }

    /// Makes commands of as many lines as may be on their way; tells when the pace allows the next one.
    fn send(&mut self) -> Option<Instant> {
        while !self.chunk.is_empty() && self.has_room() {
            let mut count = self.batch.min(WINDOW - self.in_flight);
            if let Some(pace) = &mut self.pace {
                let now = Instant::now();
                count = count.min(pace.allows(now));
                if count == 0 {
                    return Some(pace.next);
                }
            }
            let (messages, size) = self.put(count);
            if let Some(pace) = &mut self.pace {
                pace.spend(messages);
            }
            self.in_flight += messages;
            self.sent.push_back(Sent { messages, size, through: self.chunk.remove(messages) });
        }
        None
    }

    /// Makes one command of at most `count` lines; tells how many it took and their bytes.
    fn put(&mut self, count: usize) -> (usize, usize) {
        let (topic, out) = (self.topic.as_str(), self.client.out());
        let bodies = self.chunk.peek(count, BATCH_SIZE);
        let messages = bodies.len();
        let size = bodies.clone().map(|body| body.len() + 1).sum();
        match bodies.clone().next() {
            Some(body) if messages == 1 => nsq::put_publish(out, topic, body),
            _ => nsq::put_multi_publish(out, topic, bodies),
        }
        (messages, size)
    }

    fn how_to_go_on(&self) -> String {
        format!(
            "line {} is the first that was not acknowledged: go on with --skip {} (lines after it that were on \
             their way may have been stored, and would be twice)",
            self.through + 1,
            self.through
        )
    }
}

/// Spreads messages evenly over time.
struct Pace {
    interval: Duration,
    /// When the next message is due.
    next: Instant,
}

impl Pace {
    fn new(rate: f64, now: Instant) -> Self {
        // A message a day is as slow as anyone means it.
        let interval = Duration::from_secs_f64((1.0 / rate).min(86_400.0)).max(Duration::from_nanos(1));
        Self { interval, next: now }
    }

    /// How many messages may be sent now.
    fn allows(&mut self, now: Instant) -> usize {
        let Some(late) = now.checked_duration_since(self.next) else { return 0 };
        if late > CATCH_UP {
            self.next = now - CATCH_UP;
        }
        let late = late.min(CATCH_UP);
        usize::try_from(late.as_nanos() / self.interval.as_nanos()).unwrap_or(usize::MAX - 1) + 1
    }

    fn spend(&mut self, messages: usize) {
        self.next += self.interval.saturating_mul(u32::try_from(messages).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use bruit_wire::nsq::OK_FRAME;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::{super::fake_node::FakeNode, *};

    fn args(node: &FakeNode, file: &tempfile::NamedTempFile, flags: &[&str]) -> PublishArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: PublishArgs,
        }
        let file = file.path().to_str().unwrap();
        let fixed = ["pub", "t", "--nsqd-tcp-address", &node.address, "--file", file];
        let line: Line = clap::Parser::try_parse_from(fixed.iter().chain(flags)).unwrap();
        line.args
    }

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        file
    }

    #[tokio::test]
    async fn many_lines_travel_as_batches_and_few_by_themselves() {
        let node = FakeNode::start().await;
        let file = file("a\n\nb\nc\n");
        let args = args(&node, &file, &["--batch", "2"]);
        let served = async {
            let mut stream = node.accept().await;
            let expected = b"MPUB t\n\0\0\0\x0e\0\0\0\x02\0\0\0\x01a\0\0\0\x01bPUB t\n\0\0\0\x01c";
            let mut received = vec![0; expected.len()];
            stream.read_exact(&mut received).await.unwrap();
            assert_eq!(received, expected);
            stream.write_all(&[OK_FRAME, OK_FRAME].concat()).await.unwrap();
            stream
        };
        let (code, _) = tokio::join!(publish(&args), served);
        assert_eq!(code.unwrap(), ExitCode::SUCCESS);
    }

    #[tokio::test]
    async fn a_lost_connection_names_the_line_to_go_on_from() {
        let node = FakeNode::start().await;
        let file = file("a\n\nb\nc\nd\n");
        let args = args(&node, &file, &["--batch=1", "--skip=1"]);
        let served = async {
            let mut stream = node.accept().await;
            let mut received = vec![0; 3 * b"PUB t\n\0\0\0\x01b".len()];
            stream.read_exact(&mut received).await.unwrap();
            assert!(received.starts_with(b"PUB t\n\0\0\0\x01b"), "line 1 is skipped");
            stream.write_all(&OK_FRAME).await.unwrap();
        };
        let (outcome, ()) = tokio::join!(publish(&args), served);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("is lost: the node closed it"), "{error}");
        assert!(error.contains("line 4 is the first that was not acknowledged"), "{error}");
        assert!(error.contains("--skip 3"), "{error}");
    }

    #[tokio::test]
    async fn a_refusal_names_the_line_and_the_reason() {
        let node = FakeNode::start().await;
        let file = file("a\nb\n");
        let args = args(&node, &file, &["--batch=1"]);
        let served = async {
            let mut stream = node.accept().await;
            let mut received = vec![0; 2 * b"PUB t\n\0\0\0\x01a".len()];
            stream.read_exact(&mut received).await.unwrap();
            let mut answers = OK_FRAME.to_vec();
            nsq::put_frame(&mut answers, nsq::FrameType::Error, b"E_PUB_FAILED disk full");
            stream.write_all(&answers).await.unwrap();
            stream
        };
        let (outcome, _) = tokio::join!(publish(&args), served);
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("the node refuses line 2: E_PUB_FAILED disk full"), "{error}");
        assert!(error.contains("go on with --skip 1"), "{error}");
    }

    #[test]
    fn the_pace_is_even_and_catches_up_on_little() {
        let start = Instant::now();
        let mut pace = Pace::new(100.0, start);
        assert_eq!(pace.allows(start), 1);
        pace.spend(1);
        assert_eq!(pace.allows(start), 0);
        assert_eq!(pace.allows(start + Duration::from_millis(9)), 0);
        assert_eq!(pace.allows(start + Duration::from_millis(35)), 3);
        pace.spend(3);
        assert_eq!(pace.allows(start + Duration::from_millis(39)), 0);
        assert_eq!(pace.allows(start + Duration::from_secs(60)), 11, "a pause is not made up for");
    }

    #[test]
    fn rates_are_above_nothing() {
        assert_eq!(rate("2.5"), Ok(2.5));
        for text in ["0", "-1", "inf", "NaN", "x"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
