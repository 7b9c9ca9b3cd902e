//! `bruit tail`: prints messages, and finishes each only once it is printed.

mod feed;
mod producers;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Write},
    process::ExitCode,
};

use bruit_wire::{ChannelName, TopicName};
use clap::Args;

use self::{
    feed::{Budget, Feed},
    producers::Places,
};
use super::{
    client::{Introduction, Options},
    http::Http,
};

/// Arguments of `bruit tail`.
#[derive(Debug, Args)]
#[command(
    after_help = "Every message is printed as it is, and a newline. The exit code is 0 after -n messages or \
    when the reader of the output goes away, and 1 when the connection to the node ends.\n\
    With --lookupd-http-address, nodes that come are read from as well, and those that go are waited for."
)]
pub(super) struct TailArgs {
    /// The topic; created when it does not exist
    #[arg(required_unless_present = "topics")]
    topic: Option<TopicName>,
    /// A topic, as nsq_tail names it; may be given several times
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<TopicName>,
    /// The channel to read through; without it one of its own, which goes when the command ends
    #[arg(long, value_name = "NAME")]
    channel: Option<ChannelName>,
    /// End after N messages; 0 is no end
    #[arg(short = 'n', value_name = "N", default_value_t = 0)]
    count: u64,
    /// Print `topic | message`
    #[arg(long)]
    print_topic: bool,
    /// The node to read from; may be given several times. 127.0.0.1:4150 unless given
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    nsqd_tcp_address: Vec<String>,
    /// Read from every node that holds the topic; this is the HTTP address of any node of the mesh, or of an
    /// nsqlookupd. May be given several times
    #[arg(
        long,
        value_name = "HOST:PORT",
        visible_alias = "lookup",
        value_delimiter = ',',
        conflicts_with = "nsqd_tcp_address"
    )]
    lookupd_http_address: Vec<String>,
    /// Messages that may be delivered to each connection and not yet printed
    #[arg(long, value_name = "N", default_value_t = 200)]
    max_in_flight: u64,
    /// An option of NSQ's client library, such as snappy,true or auth_secret,SECRET
    #[arg(long, value_name = "OPTION,VALUE")]
    consumer_opt: Vec<String>,
}

/// What is read.
#[derive(Debug, Clone)]
struct Source {
    topic: TopicName,
    channel: ChannelName,
    print_topic: bool,
    max_in_flight: u64,
    introduction: Introduction,
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
    let channel = match &args.channel {
        Some(channel) => channel.clone(),
        None => own_channel()?,
    };
    let options = Options::parse(&args.consumer_opt)?;
    let introduction = Introduction::new(concat!("bruit-tail/", env!("CARGO_PKG_VERSION"))).with(&options)?;
    let max_in_flight = options.number("max_in_flight")?.unwrap_or(args.max_in_flight).max(1);
    let source = |topic: &TopicName| Source {
        topic: topic.clone(),
        channel: channel.clone(),
        print_topic: args.print_topic,
        max_in_flight,
        introduction: introduction.clone(),
    };
    let sources: Vec<Source> = args.topic.iter().chain(&args.topics).map(source).collect();
    let budget = Budget::new(args.count);
    let places = match (&args.nsqd_tcp_address[..], &args.lookupd_http_address[..]) {
        (fixed, []) => Places::Fixed(match fixed {
            [] => vec!["127.0.0.1:4150".to_owned()],
            fixed => fixed.to_vec(),
        }),
        (_, lookups) => Places::Lookups(lookups.iter().map(|address| Http::new(address)).collect()),
    };
    match (&places, &sources[..]) {
        // Whoever reads from one place alone wants to know when that is gone.
        (Places::Fixed(fixed), [source]) if fixed.len() == 1 => {
            Feed::open(&fixed[0], source, budget, output).await?.run().await
        }
        _ => producers::tail(&places, &sources, budget, output).await,
    }
}

/// A channel that no other tail has, in all likelihood.
fn own_channel() -> anyhow::Result<ChannelName> {
    let random = RandomState::new().build_hasher().finish() % 1_000_000;
    Ok(ChannelName::new(&format!("tail{random:06}#ephemeral"))?)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bruit_wire::{
        MessageId,
        nsq::{self, CLOSE_WAIT_FRAME, OK_FRAME},
    };
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
            topic: Some(TopicName::new("t").unwrap()),
            topics: Vec::new(),
            channel: Some(ChannelName::new("c").unwrap()),
            count,
            print_topic,
            nsqd_tcp_address: vec![node.address.clone()],
            lookupd_http_address: Vec::new(),
            max_in_flight: 200,
            consumer_opt: Vec::new(),
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
