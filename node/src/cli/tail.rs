//! `bruit tail`: prints messages, and finishes each only once it is printed.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{anyhow, bail};
use bruit_wire::{ChannelName, TopicName, nsq};
use clap::Args;
use tokio::{runtime::Handle, select, task::JoinHandle, time::timeout};

use super::client::{Client, Delivery, Reply};

/// Messages that may be delivered and not yet printed.
const IN_FLIGHT_MAX: u64 = 200;
/// How long to wait for the node to say that it is done with us.
const FAREWELL: Duration = Duration::from_secs(5);

/// Arguments of `bruit tail`.
#[derive(Debug, Args)]
#[command(
    after_help = "Every message is printed as it is, and a newline. The exit code is 0 after -n messages or \
    when the reader of the output goes away, and 1 when the connection to the node ends."
)]
pub(super) struct TailArgs {
    /// The topic; created when it does not exist
    topic: TopicName,
    /// The channel to read through; without it one of its own, which goes when the command ends
    #[arg(long, value_name = "NAME")]
    channel: Option<ChannelName>,
    /// End after N messages; 0 is no end
    #[arg(short = 'n', value_name = "N", default_value_t = 0)]
    count: u64,
    /// Print `topic | message`
    #[arg(long)]
    print_topic: bool,
    /// The node to read from
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4150")]
    nsqd_tcp_address: String,
}

/// Prints messages until there were enough or the connection ends.
///
/// # Errors
/// The node cannot be reached, refuses, or went away.
pub(super) fn run(args: &TailArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(tail(args, io::stdout()));
    runtime.shutdown_background();
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn tail<W: Write + Send + 'static>(args: &TailArgs, output: W) -> anyhow::Result<()> {
    let user_agent = concat!("bruit-tail/", env!("CARGO_PKG_VERSION"));
    let mut client = Client::connect(&args.nsqd_tcp_address, user_agent).await?;
    let channel = match &args.channel {
        Some(channel) => channel.clone(),
        None => own_channel()?,
    };
    nsq::put_subscribe(client.out(), args.topic.as_str(), channel.as_str());
    match client.next().await? {
        Reply::Ok => {}
        Reply::Error(text) => bail!("the node refuses the subscription: {text}"),
        other => bail!("the node answers the subscription with {other:?}"),
    }
    let remaining = if args.count == 0 { u64::MAX } else { args.count };
    let ready = remaining.min(IN_FLIGHT_MAX);
    nsq::put_ready(client.out(), ready);
    let prefix = if args.print_topic { format!("{} | ", args.topic) } else { String::new() };
    let mut tail = Tail {
        client,
        prefix,
        remaining,
        ready,
        page: Page::default(),
        output: Some(output),
        printing: None,
    };
    tail.run().await
}

/// A channel that no other tail has, in all likelihood.
fn own_channel() -> anyhow::Result<ChannelName> {
    let random = RandomState::new().build_hasher().finish() % 1_000_000;
    Ok(ChannelName::new(&format!("tail{random:06}#ephemeral"))?)
}

struct Tail<W> {
    client: Client,
    prefix: String,
    /// Messages still to print.
    remaining: u64,
    /// What the node was told that it may have in flight; never above `remaining`.
    ready: u64,
    /// Delivered and to be printed next.
    page: Page,
    /// Where to print; away while it is printed to.
    output: Option<W>,
    printing: Option<JoinHandle<(W, Page, io::Result<()>)>>,
}

#[derive(Default)]
struct Page {
    text: Vec<u8>,
    ids: Vec<[u8; 16]>,
}

impl<W: Write + Send + 'static> Tail<W> {
    /// Printing may block for as long as its reader likes, and heartbeats have to be answered meanwhile, so
    /// it is done on another thread, one page at a time.
    async fn run(&mut self) -> anyhow::Result<()> {
        while self.remaining > 0 {
            self.take_replies()?;
            self.print();
            let printed = select! {
                biased;
                printed = wait(&mut self.printing) => Some(printed?),
                moved = self.client.progress() => {
                    moved?;
                    None
                }
            };
            let Some((output, page, outcome)) = printed else { continue };
            (self.output, self.printing) = (Some(output), None);
            match outcome {
                Ok(()) => self.finish(&page),
                // The reader has seen enough. What it did not see is delivered again to someone else.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(anyhow!("cannot write to standard output: {error}")),
            }
        }
        self.take_leave().await
    }

    fn take_replies(&mut self) -> anyhow::Result<()> {
        while let Some(reply) = self.client.take()? {
            match reply {
                Reply::Message(Delivery { id, body }) => {
                    self.page.text.extend_from_slice(self.prefix.as_bytes());
                    self.page.text.extend_from_slice(&body);
                    self.page.text.push(b'\n');
                    self.page.ids.push(id);
                }
                // The node gave the message to someone else because printing it took too long.
                Reply::Error(text) if text.starts_with("E_FIN_FAILED") => {
                    eprintln!("bruit: a message was printed too late and will be delivered again ({text})");
                }
                Reply::Error(text) => bail!("the node reports {text}"),
                Reply::Ok | Reply::CloseWait => bail!("the node gave an answer to no question: {reply:?}"),
            }
        }
        Ok(())
    }

    fn print(&mut self) {
        if self.page.ids.is_empty() {
            return;
        }
        let Some(mut output) = self.output.take() else { return };
        let page = std::mem::take(&mut self.page);
        self.printing = Some(Handle::current().spawn_blocking(move || {
            let outcome = output.write_all(&page.text).and_then(|()| output.flush());
            (output, page, outcome)
        }));
    }

    fn finish(&mut self, page: &Page) {
        self.remaining = self.remaining.saturating_sub(page.ids.len() as u64);
        // Lowered before the messages are finished, so that no more are delivered than will be printed.
        if self.remaining < self.ready {
            self.ready = self.remaining;
            nsq::put_ready(self.client.out(), self.ready);
        }
        for id in &page.ids {
            nsq::put_finish(self.client.out(), id);
        }
    }

    /// Waits until the node has seen all that was finished.
    async fn take_leave(&mut self) -> anyhow::Result<()> {
        nsq::put_close(self.client.out());
        let farewell = timeout(FAREWELL, async {
            while self.client.next().await? != Reply::CloseWait {}
            anyhow::Ok(())
        });
        farewell.await.map_err(|_| anyhow!("the node does not confirm that the messages are finished"))?
    }
}

/// What printing came to; never, while nothing is printed.
async fn wait<T>(printing: &mut Option<JoinHandle<T>>) -> anyhow::Result<T> {
    match printing {
        Some(printing) => Ok(printing.await?),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bruit_wire::{MessageId, nsq::CLOSE_WAIT_FRAME, nsq::OK_FRAME};
    use bytes::BytesMut;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::mpsc,
    };

    use super::{super::fake_node::FakeNode, *};

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct TornPaper;

    impl Write for TornPaper {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn args(node: &FakeNode, count: u64, print_topic: bool) -> TailArgs {
        TailArgs {
            topic: TopicName::new("t").unwrap(),
            channel: Some(ChannelName::new("c").unwrap()),
            count,
            print_topic,
            nsqd_tcp_address: node.address.clone(),
        }
    }

    fn message(sequence: u64, body: &[u8]) -> BytesMut {
        let mut frame = BytesMut::new();
        nsq::put_message(&mut frame, 0, 1, MessageId::new(0, sequence), body);
        frame
    }

    async fn expect(stream: &mut (impl AsyncReadExt + Unpin), expected: &[u8]) {
        let mut received = vec![0; expected.len()];
        stream.read_exact(&mut received).await.unwrap();
        assert_eq!(received, expected, "{}", String::from_utf8_lossy(&received));
    }

    #[tokio::test]
    async fn messages_are_finished_once_printed_and_never_more_asked_for_than_wanted() {
        let node = FakeNode::start().await;
        let paper = Paper::default();
        let served = async {
            let mut stream = node.accept().await;
            expect(&mut stream, b"SUB t c\n").await;
            stream.write_all(&OK_FRAME).await.unwrap();
            expect(&mut stream, b"RDY 2\n").await;
            stream.write_all(&message(1, b"one")).await.unwrap();
            expect(&mut stream, b"RDY 1\nFIN 0000000000000001\n").await;
            assert_eq!(*paper.0.lock().unwrap(), b"t | one\n");
            stream.write_all(&message(2, b"two\0")).await.unwrap();
            expect(&mut stream, b"RDY 0\nFIN 0000000000000002\nCLS\n").await;
            stream.write_all(&CLOSE_WAIT_FRAME).await.unwrap();
        };
        let args = args(&node, 2, true);
        let (outcome, ()) = tokio::join!(tail(&args, paper.clone()), served);
        outcome.unwrap();
        assert_eq!(*paper.0.lock().unwrap(), b"t | one\nt | two\0\n");
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_ends_it_without_finishing_what_it_did_not_see() {
        let node = FakeNode::start().await;
        let (left, mut leaving) = mpsc::channel::<Vec<u8>>(1);
        let served = async {
            let mut stream = node.accept().await;
            expect(&mut stream, b"SUB t c\n").await;
            stream.write_all(&OK_FRAME).await.unwrap();
            stream.write_all(&message(1, b"one")).await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            left.send(rest).await.unwrap();
        };
        let args = args(&node, 0, false);
        let (outcome, ()) = tokio::join!(tail(&args, TornPaper), served);
        outcome.unwrap();
        assert_eq!(leaving.recv().await.unwrap(), b"RDY 200\n");
    }

    #[tokio::test]
    async fn a_node_that_closes_is_an_error() {
        let node = FakeNode::start().await;
        let served = async {
            let mut stream = node.accept().await;
            expect(&mut stream, b"SUB t c\n").await;
            stream.write_all(&OK_FRAME).await.unwrap();
            expect(&mut stream, b"RDY 200\n").await;
        };
        let args = args(&node, 0, false);
        let (outcome, ()) = tokio::join!(tail(&args, Paper::default()), served);
        assert!(outcome.unwrap_err().to_string().contains("the node closed it"));
    }

    #[test]
    fn a_channel_of_its_own_is_named_as_nsq_tail_names_it() {
        let channel = own_channel().unwrap();
        assert!(channel.is_ephemeral());
        let digits = channel.as_str().strip_prefix("tail").and_then(|rest| rest.strip_suffix("#ephemeral"));
        assert!(digits.unwrap().len() == 6 && digits.unwrap().bytes().all(|byte| byte.is_ascii_digit()));
    }
}
