//! `bruit to-file`: writes the messages of topics to files, and finishes each only once it is on disk.

mod file;
mod names;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use bruit_wire::{ChannelName, TopicName};
use clap::Args;
use regex::Regex;
use tokio::{
    runtime::Builder,
    select,
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use self::{file::TopicFile, names::Names};
use super::{
    consumer::{Consumer, FromArgs, Message},
    http::Http,
    settings,
};

/// Arguments of `bruit to-file`.
#[derive(Debug, Args)]
#[command(
    after_help = "A message is a line. It is finished once its file is synced: every --sync-interval, when as \
    many wait as --max-in-flight allows, and when a file ends. An existing file is never overwritten.\n\
    SIGHUP ends all files; SIGTERM and SIGINT end the command once everything is synced. A file that cannot be \
    written ends it with exit code 1; what was not synced is delivered again."
)]
pub(super) struct ToFileArgs {
    /// A topic; may be given several times
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<TopicName>,
    /// Also topics that match, of those that the lookups know
    #[arg(long, value_name = "REGEX")]
    topic_pattern: Option<Regex>,
    /// How often to ask for topics
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = settings::duration)]
    topic_refresh: Duration,
    /// The channel
    #[arg(long, value_name = "NAME", default_value = "nsq_to_file")]
    channel: ChannelName,
    /// Where finished files are
    #[arg(long, value_name = "DIR", default_value = "/tmp")]
    output_dir: PathBuf,
    /// Where files are until they are finished, on the same file system; --output-dir unless given
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    #[command(flatten)]
    naming: names::NamingArgs,
    /// Compress
    #[arg(long)]
    gzip: bool,
    /// How hard, from 1 to 9
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=9))]
    gzip_level: u32,
    /// Make no files without messages
    #[arg(long)]
    skip_empty_files: bool,
    /// End a file of so many bytes; 0 is no limit
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    rotate_size: u64,
    /// End a file that is so old; 0s is no limit
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = settings::duration)]
    rotate_interval: Duration,
    /// Sync at least so often
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = settings::duration)]
    sync_interval: Duration,
    #[command(flatten)]
    from: FromArgs,
}

/// Writes until a signal stops it.
///
/// # Errors
/// Flags that cannot be, and a file that cannot be written.
pub(super) fn run(args: &ToFileArgs) -> anyhow::Result<ExitCode> {
    if args.topics.is_empty() && args.topic_pattern.is_none() {
        bail!("name a topic with --topic, or several with --topic-pattern");
    }
    if args.topic_pattern.is_some() && args.from.lookups().is_empty() {
        bail!("--topic-pattern needs --lookupd-http-address, which knows the topics");
    }
    // Files are written on this thread; the connections have one of their own and never wait for a disk.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let outcome = runtime.block_on(write(args));
    runtime.shutdown_background();
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn write(args: &ToFileArgs) -> anyhow::Result<()> {
    let mut consumer = Consumer::start(&args.from, &args.channel, "nsq_to_file")?;
    let mut files = Files::new(args)?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to signals")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot listen to signals")?;
    let ticks = |period: Duration| {
        let mut ticks = interval(period.max(Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    };
    let (mut sync, mut refresh) = (ticks(args.sync_interval), ticks(args.topic_refresh));
    for topic in &args.topics {
        files.subscribe(&consumer, topic.clone())?;
    }
    let allowance = consumer.allowance();
    loop {
        let seen = allowance.changes();
        // Nodes deliver no more before these are finished.
        if files.unsynced.len() as u64 >= allowance.now() {
            files.sync_all()?;
        }
        select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => files.end_all()?,
            _ = sync.tick() => files.sync_all()?,
            _ = refresh.tick(), if args.topic_pattern.is_some() => {
                for topic in matching(args).await {
                    files.subscribe(&consumer, topic)?;
                }
            }
            message = consumer.next() => match message {
                Some(message) => files.write(message)?,
                None => break,
            },
            () = allowance.changed_after(seen) => {}
        }
    }
    files.end_all()?;
    drop(files);
    consumer.close().await;
    Ok(())
}

/// The topics that the pattern means.
async fn matching(args: &ToFileArgs) -> BTreeSet<TopicName> {
    let mut found = BTreeSet::new();
    let Some(pattern) = &args.topic_pattern else { return found };
    for http in args.from.lookups() {
        match topics(&http).await {
            Ok(topics) => found.extend(topics.into_iter().filter(|topic| pattern.is_match(topic.as_str()))),
            Err(error) => eprintln!("bruit: {error:#}; asking again"),
        }
    }
    found
}

async fn topics(http: &Http) -> anyhow::Result<Vec<TopicName>> {
    let answer = http.json("/topics").await?;
    let topics = answer["topics"].as_array().ok_or_else(|| anyhow!("{} names no topics", http.address()))?;
    Ok(topics.iter().filter_map(|topic| TopicName::new(topic.as_str()?).ok()).collect())
}

/// The files of all topics, and the messages in them that are not finished.
struct Files<'a> {
    args: &'a ToFileArgs,
    names: Names,
    open: BTreeMap<TopicName, TopicFile<'a>>,
    /// Written, and not synced yet.
    unsynced: Vec<Message>,
}

impl<'a> Files<'a> {
    fn new(args: &'a ToFileArgs) -> anyhow::Result<Self> {
        let numbered = args.gzip
            || args.rotate_size > 0
            || !args.rotate_interval.is_zero()
            || args.work_dir.as_ref().is_some_and(|work| *work != args.output_dir);
        let names = Names::new(&args.naming, numbered, args.gzip)?;
        Ok(Self { args, names, open: BTreeMap::new(), unsynced: Vec::new() })
    }

    fn subscribe(&mut self, consumer: &Consumer, topic: TopicName) -> anyhow::Result<()> {
        if self.open.contains_key(&topic) {
            return Ok(());
        }
        let mut file = TopicFile::new(self.args, self.names.of(&topic));
        if !self.args.skip_empty_files {
            file.open()?;
        }
        self.open.insert(topic.clone(), file);
        consumer.subscribe(topic);
        Ok(())
    }

    fn write(&mut self, message: Message) -> anyhow::Result<()> {
        if self.open.get(&message.topic).is_some_and(TopicFile::is_over) {
            self.sync_all()?;
        }
        let file = self.open.get_mut(&message.topic).ok_or_else(|| anyhow!("a topic that nobody wanted"))?;
        file.write(&message.body)?;
        self.unsynced.push(message);
        Ok(())
    }

    /// Syncs, then finishes what was written.
    fn sync_all(&mut self) -> anyhow::Result<()> {
        for file in self.open.values_mut() {
            file.sync()?;
        }
        for message in self.unsynced.drain(..) {
            message.finish();
        }
        for file in self.open.values_mut() {
            if file.is_over() {
                file.end()?;
            }
            if !self.args.skip_empty_files {
                file.open()?;
            }
        }
        Ok(())
    }

    fn end_all(&mut self) -> anyhow::Result<()> {
        for file in self.open.values_mut() {
            file.sync()?;
            file.end()?;
        }
        for message in self.unsynced.drain(..) {
            message.finish();
        }
        Ok(())
    }
}
