//! `bruit to-mesh`: publishes the messages of topics to other nodes, and finishes each only once one has it.

mod destination;
mod filter;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::bail;
use bruit_wire::{ChannelName, TopicName};
use clap::Args;
use tokio::{runtime::Builder, time::Instant};

use self::{
    destination::Destination,
    filter::{Filter, FilterArgs, Verdict},
};
use super::{
    client::{Introduction, Options},
    consumer::{Consumer, FromArgs, Message, forward},
    upstreams::{Mode, Upstreams},
};

/// Arguments of `bruit to-mesh`.
#[derive(Debug, Args)]
#[command(
    after_help = "A message is finished once a destination has acknowledged it; otherwise it is delivered again, \
    and all messages more slowly for a while.\n\
    SIGTERM and SIGINT end the command once what is under way is acknowledged."
)]
pub(super) struct ToMeshArgs {
    /// The topic; may be given several times
    #[arg(long = "topic", value_name = "TOPIC", required = true)]
    topics: Vec<TopicName>,
    /// The channel
    #[arg(long, value_name = "NAME", default_value = "nsq_to_nsq")]
    channel: ChannelName,
    /// Where to publish; the topic itself unless given
    #[arg(long, value_name = "TOPIC")]
    destination_topic: Option<TopicName>,
    /// A node to publish to; may be given several times
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', required = true)]
    destination_nsqd_tcp_address: Vec<String>,
    /// Which of several nodes gets a message
    #[arg(long, value_enum, default_value = "hostpool")]
    mode: Mode,
    #[command(flatten)]
    filter: FilterArgs,
    /// Say how it goes after every N messages; 0 is never
    #[arg(long, value_name = "N", default_value_t = 250)]
    status_every: u64,
    /// An option of NSQ's client library, towards the nodes that are published to
    #[arg(long, value_name = "OPTION,VALUE")]
    producer_opt: Vec<String>,
    #[command(flatten)]
    from: FromArgs,
}

/// Publishes until a signal stops it.
///
/// # Errors
/// Flags that cannot be.
pub(super) fn run(args: &ToMeshArgs) -> anyhow::Result<ExitCode> {
    if args.mode == Mode::Multicast {
        bail!(
            "--mode multicast would publish a message again where one node of several fails: choose another"
        );
    }
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let outcome = runtime.block_on(consume(args));
    runtime.shutdown_background();
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Where messages go, and which.
struct Publisher {
    destinations: Vec<Destination>,
    upstreams: Upstreams,
    filter: Filter,
    topic: Option<TopicName>,
    requeued_for: Duration,
}

async fn consume(args: &ToMeshArgs) -> anyhow::Result<()> {
    let introduction = Introduction::new(concat!("nsq_to_nsq/", env!("CARGO_PKG_VERSION")));
    let introduction = introduction.with(&Options::parse(&args.producer_opt)?)?;
    let destinations = args.destination_nsqd_tcp_address.iter();
    let destinations: Vec<Destination> =
        destinations.map(|address| Destination::start(address, &introduction)).collect();
    let publisher = Arc::new(Publisher {
        upstreams: Upstreams::new(args.mode, destinations.len()),
        destinations,
        filter: Filter::new(&args.filter),
        topic: args.destination_topic.clone(),
        requeued_for: args.from.requeue_delay()?,
    });
    let consumer = Consumer::start(&args.from, &args.channel, "nsq_to_nsq")?;
    for topic in &args.topics {
        consumer.subscribe(topic.clone());
    }
    let serve = |message| {
        let publisher = Arc::clone(&publisher);
        async move { publisher.publish(message).await }
    };
    // As many as nodes deliver.
    forward(consumer, usize::MAX, args.status_every, serve).await
}

impl Publisher {
    /// Publishes a message where it is to go, and answers it.
    async fn publish(&self, message: Message) {
        let body = match self.filter.judge(&message.body) {
            Verdict::Pass(body) => body,
            Verdict::Drop => return message.finish(),
            Verdict::Retry => return message.requeue(self.requeued_for),
        };
        let topic = self.topic.as_ref().unwrap_or(&message.topic).clone();
        // One, since multicast is refused.
        for place in self.upstreams.choose() {
            let began = Instant::now();
            let outcome = self.destinations[place].publish(topic.clone(), body.clone()).await;
            self.upstreams.note(place, outcome.is_ok(), began.elapsed());
            if let Err(why) = outcome {
                eprintln!("bruit: a message was not taken, and is delivered again: {why}");
                return message.requeue(self.requeued_for);
            }
        }
        message.finish();
    }
}
