//! A consumer for the tools: some topics, from several nodes or from all that lookups name.
//!
//! One task looks for nodes, one more serves each connection. Messages come out of [`Consumer::next`] in any
//! order and are answered by themselves ([`Message::finish`], [`Message::requeue`]); what is not answered goes
//! back when the consumer is dropped. RDY is divided over the connections, and withheld for a while when
//! messages are requeued ([`pace`]).

mod connection;
mod pace;
mod places;

use std::{sync::Arc, time::Duration};

use bruit_wire::{ChannelName, TopicName};
use bytes::Bytes;
use clap::Args;
use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle};

use self::{pace::Pace, places::Places};
use super::http::Http;

/// How long a message that failed waits until it is delivered again.
const REQUEUED_FOR: Duration = Duration::from_secs(90);

/// Where to consume from: the flags that NSQ's tools share.
#[derive(Debug, Clone, Args)]
pub(super) struct FromArgs {
    /// A node to read from; may be given several times
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    nsqd_tcp_address: Vec<String>,
    /// HTTP address of a node of the mesh or of an nsqlookupd; all nodes that it names are read from. May be
    /// given several times
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', conflicts_with = "nsqd_tcp_address")]
    lookupd_http_address: Vec<String>,
    /// Messages that may be under way at a time, over all nodes
    #[arg(long, value_name = "N", default_value_t = 200)]
    max_in_flight: u64,
    /// An option of NSQ's client library: max_in_flight, lookupd_poll_interval, default_requeue_delay and
    /// user_agent are known, the others have no effect
    #[arg(long, value_name = "OPTION,VALUE")]
    consumer_opt: Vec<String>,
}

impl FromArgs {
    /// The lookups that were named.
    pub(super) fn lookups(&self) -> Vec<Http> {
        self.lookupd_http_address.iter().map(|address| Http::new(address)).collect()
    }

    /// How many messages may be under way.
    pub(super) fn max_in_flight(&self) -> u64 {
        let option = self.option("max_in_flight").and_then(|value| value.parse().ok());
        option.unwrap_or(self.max_in_flight).max(1)
    }

    /// How long a message that failed waits until it is delivered again.
    ///
    /// # Errors
    /// An option that is no duration.
    pub(super) fn requeue_delay(&self) -> anyhow::Result<Duration> {
        self.duration("default_requeue_delay", REQUEUED_FOR)
    }

    fn duration(&self, name: &str, default: Duration) -> anyhow::Result<Duration> {
        let Some(text) = self.option(name) else { return Ok(default) };
        let wrong = |problem| anyhow::anyhow!("--consumer-opt {name}: {text:?} {problem}");
        super::settings::duration(text).map_err(wrong)
    }

    fn option(&self, name: &str) -> Option<&str> {
        let options = self.consumer_opt.iter().rev().filter_map(|option| option.split_once(','));
        options.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    fn places(&self) -> anyhow::Result<Places> {
        let interval = self.duration("lookupd_poll_interval", places::LOOK)?;
        let fixed = match (&self.nsqd_tcp_address[..], &self.lookupd_http_address[..]) {
            ([], []) => vec!["127.0.0.1:4150".to_owned()],
            (fixed, _) => fixed.to_vec(),
        };
        Ok(Places { fixed, lookups: self.lookups(), interval: interval.max(Duration::from_millis(10)) })
    }
}

/// A running consumer. Its connections end when it is dropped.
pub(super) struct Consumer {
    incoming: mpsc::UnboundedReceiver<Message>,
    topics: mpsc::UnboundedSender<TopicName>,
    running: JoinHandle<()>,
}

/// A message, to be answered.
#[derive(Debug)]
pub(super) struct Message {
    /// Where it was published.
    pub(super) topic: TopicName,
    /// Its content.
    pub(super) body: Bytes,
    id: [u8; 16],
    answers: mpsc::UnboundedSender<Answer>,
    pace: Arc<Pace>,
}

/// What becomes of a message.
#[derive(Debug)]
enum Answer {
    Finish([u8; 16]),
    Requeue([u8; 16], Duration),
}

impl Consumer {
    /// Begins to consume `channel` of the topics that [`subscribe`](Self::subscribe) names. To be called on a
    /// runtime.
    ///
    /// # Errors
    /// An option that cannot be.
    pub(super) fn start(from: &FromArgs, channel: &ChannelName, tool: &str) -> anyhow::Result<Self> {
        let user_agent = from.option("user_agent").map(str::to_owned);
        let user_agent = user_agent.unwrap_or_else(|| format!("{tool}/{} bruit", env!("CARGO_PKG_VERSION")));
        let (messages, incoming) = mpsc::unbounded_channel();
        let (topics, wanted) = mpsc::unbounded_channel();
        let pace = Arc::new(Pace::new(from.max_in_flight()));
        let supply = connection::Supply { channel: channel.clone(), user_agent, messages, pace };
        let running = Handle::current().spawn(places::run(from.places()?, supply, wanted));
        Ok(Self { incoming, topics, running })
    }

    /// Consumes this topic too, from now on.
    pub(super) fn subscribe(&self, topic: TopicName) {
        // It ends with this.
        let _ = self.topics.send(topic);
    }

    /// The next message. Nothing is lost when this is dropped.
    pub(super) async fn next(&mut self) -> Option<Message> {
        self.incoming.recv().await
    }

    /// Ends the connections once the nodes have seen all answers that were given. What is not answered by then
    /// goes back.
    pub(super) async fn close(self) {
        let Self { incoming, topics, running } = self;
        drop((incoming, topics));
        // A panic of that task has been printed.
        let _ = running.await;
    }
}

impl Message {
    /// It is done.
    pub(super) fn finish(self) {
        self.pace.succeeded();
        // Where the connection is gone, the message has gone back already.
        let _ = self.answers.send(Answer::Finish(self.id));
    }

    /// It is to be delivered again, after `delay`; and all the others more slowly for a while.
    pub(super) fn requeue(self, delay: Duration) {
        self.pace.failed();
        let _ = self.answers.send(Answer::Requeue(self.id, delay));
    }
}
