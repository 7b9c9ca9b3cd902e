//! A consumer for the tools: some topics, from several nodes or from all that lookups name.
//!
//! One task looks for nodes, one more serves each connection. Messages come out of [`Consumer::next`] in any
//! order and are answered by themselves ([`Message::finish`], [`Message::requeue`]); what is not answered goes
//! back when the consumer is dropped. RDY is divided over the connections, and withheld for a while when
//! messages are requeued ([`pace`]).

mod connection;
mod forward;
mod pace;
mod places;

use std::{sync::Arc, time::Duration};

use bruit_wire::{ChannelName, TopicName};
use bytes::Bytes;
use clap::Args;
use tokio::{runtime::Handle, sync::mpsc, task::JoinHandle};

pub(super) use self::forward::forward;
use self::{pace::Pace, places::Places};
use super::{
    client::{Introduction, Options},
    http::Http,
};

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
    /// An option of NSQ's client library, such as snappy,true or auth_secret,SECRET
    #[arg(long, value_name = "OPTION,VALUE")]
    consumer_opt: Vec<String>,
}

impl FromArgs {
    /// The lookups that were named.
    pub(super) fn lookups(&self) -> Vec<Http> {
        self.lookupd_http_address.iter().map(|address| Http::new(address)).collect()
    }

    /// How many messages may be under way.
    ///
    /// # Errors
    /// An option that is no number.
    pub(super) fn max_in_flight(&self) -> anyhow::Result<u64> {
        Ok(self.options()?.number("max_in_flight")?.unwrap_or(self.max_in_flight).max(1))
    }

    /// How long a message that failed waits until it is delivered again.
    ///
    /// # Errors
    /// An option that is no duration.
    pub(super) fn requeue_delay(&self) -> anyhow::Result<Duration> {
        Ok(self.options()?.duration("default_requeue_delay")?.unwrap_or(REQUEUED_FOR))
    }

    fn options(&self) -> anyhow::Result<Options> {
        Options::parse(&self.consumer_opt)
    }

    fn places(&self) -> anyhow::Result<Places> {
        let interval = self.options()?.duration("lookupd_poll_interval")?.unwrap_or(places::LOOK);
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
    pace: Arc<Pace>,
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
        let introduction = Introduction::new(&format!("{tool}/{} bruit", env!("CARGO_PKG_VERSION")));
        let introduction = introduction.with(&from.options()?)?;
        let (messages, incoming) = mpsc::unbounded_channel();
        let (topics, wanted) = mpsc::unbounded_channel();
        let pace = Arc::new(Pace::new(from.max_in_flight()?));
        let supply =
            connection::Supply { channel: channel.clone(), introduction, messages, pace: Arc::clone(&pace) };
        let running = Handle::current().spawn(places::run(from.places()?, supply, wanted));
        Ok(Self { incoming, topics, running, pace })
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

    /// How many messages may stay unanswered.
    pub(super) fn allowance(&self) -> Allowance {
        Allowance(Arc::clone(&self.pace))
    }

    /// Ends the connections once the nodes have seen all answers that were given. What is not answered by then
    /// goes back.
    pub(super) async fn close(self) {
        let Self { incoming, topics, running, .. } = self;
        drop((incoming, topics));
        // A panic of that task has been printed.
        let _ = running.await;
    }
}

/// How many messages may stay unanswered without keeping a connection from getting more.
pub(super) struct Allowance(Arc<Pace>);

impl Allowance {
    /// As it is now.
    pub(super) fn now(&self) -> u64 {
        self.0.least()
    }

    /// How often it may have changed.
    pub(super) fn changes(&self) -> u64 {
        self.0.changes()
    }

    /// Waits until it may have changed more often.
    pub(super) async fn changed_after(&self, seen: u64) {
        self.0.changed_after(seen).await;
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
