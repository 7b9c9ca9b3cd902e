//! `bruit stat`: the rates and depths of a channel, a line at a time.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::bail;
use bruit_wire::{ChannelName, TopicName};
use clap::Args;
use serde_json::Value;
use tokio::time::sleep;

use super::{
    NOT_FOUND,
    http::{Http, encoded},
    lookup, settings,
};

/// Rows between headers.
const HEADER_EVERY: u64 = 25;

/// Arguments of `bruit stat`.
#[derive(Debug, Args)]
#[command(
    after_help = "A line shows the messages per second that came in and were done since the last one, how many \
    wait, in memory and on disk, are under way and are deferred, and totals. The exit code is 3 when the channel \
    does not exist."
)]
pub(super) struct StatArgs {
    /// The topic
    #[arg(long)]
    topic: TopicName,
    /// The channel
    #[arg(long)]
    channel: ChannelName,
    /// Time between lines
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = settings::duration)]
    interval: Duration,
    /// End after N lines; 0 is no end
    #[arg(long, value_name = "N", default_value_t = 0)]
    count: u64,
    /// HTTP address of a node; may be given several times. 127.0.0.1:4151 unless given
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    nsqd_http_address: Vec<String>,
    /// HTTP address of a node of the mesh or of an nsqlookupd, for all nodes that hold the topic; may be given
    /// several times
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', conflicts_with = "nsqd_http_address")]
    lookupd_http_address: Vec<String>,
}

/// The figures of a channel, over all nodes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Figures {
    depth: i64,
    backend_depth: i64,
    in_flight: i64,
    deferred: i64,
    requeued: i64,
    timed_out: i64,
    messages: i64,
    clients: i64,
}

/// Prints lines until there were enough.
///
/// # Errors
/// A node cannot be reached, or does not answer as a node does.
pub(super) fn run(args: &StatArgs) -> anyhow::Result<ExitCode> {
    if args.interval.is_zero() {
        bail!("--interval is 0s: write something longer");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(watch(args, &mut io::stdout()))
}

async fn watch(args: &StatArgs, output: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut last: Option<Figures> = None;
    let mut lines = 0;
    loop {
        let Some(now) = figures(args).await? else {
            eprintln!("bruit: no node has the channel {} of the topic {}", args.channel, args.topic);
            return Ok(ExitCode::from(NOT_FOUND));
        };
        if let Some(last) = last {
            let header = if lines % HEADER_EVERY == 0 { header() } else { String::new() };
            let line = header + &line(&last, &now, args.interval);
            match output.write_all(line.as_bytes()).and_then(|()| output.flush()) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
                written => written?,
            }
            lines += 1;
            if lines == args.count {
                return Ok(ExitCode::SUCCESS);
            }
        }
        last = Some(now);
        sleep(args.interval).await;
    }
}

/// The figures now; `None` if no node has the channel.
async fn figures(args: &StatArgs) -> anyhow::Result<Option<Figures>> {
    let target = format!(
        "/stats?format=json&topic={}&channel={}&include_clients=false&include_mem=false",
        encoded(args.topic.as_str()),
        encoded(args.channel.as_str())
    );
    let mut total: Option<Figures> = None;
    for address in addresses(args).await? {
        let stats = Http::new(&address).json(&target).await?;
        // Before 1.0, nsqd put its answer into an envelope.
        let topics = if stats["topics"].is_null() { &stats["data"]["topics"] } else { &stats["topics"] };
        for topic in
            topics.as_array().into_iter().flatten().filter(|it| it["topic_name"] == args.topic.as_str())
        {
            let channels = topic["channels"].as_array().into_iter().flatten();
            for channel in channels.filter(|it| it["channel_name"] == args.channel.as_str()) {
                total.get_or_insert_default().add(channel);
            }
        }
    }
    Ok(total)
}

/// Where the nodes answer that hold the topic.
async fn addresses(args: &StatArgs) -> anyhow::Result<BTreeSet<String>> {
    if args.lookupd_http_address.is_empty() {
        let named = args.nsqd_http_address.iter().cloned();
        let named: BTreeSet<String> = named.collect();
        return Ok(if named.is_empty() { BTreeSet::from(["127.0.0.1:4151".to_owned()]) } else { named });
    }
    let (mut found, mut failed) = (BTreeSet::new(), Vec::new());
    for address in &args.lookupd_http_address {
        match lookup::lookup(&Http::new(address), &args.topic).await {
            Ok(answer) => found.extend(answer.iter().flat_map(lookup::http_of_producers)),
            Err(error) => failed.push(error),
        }
    }
    match failed.pop() {
        Some(error) if failed.len() + 1 == args.lookupd_http_address.len() => Err(error),
        Some(error) => {
            eprintln!("bruit: {error:#}");
            Ok(found)
        }
        None => Ok(found),
    }
}

impl Figures {
    fn add(&mut self, channel: &Value) {
        let number = |key: &str| channel[key].as_i64().unwrap_or_default();
        let clients = channel["clients"].as_array().map_or(0, Vec::len) as i64;
        self.depth += number("depth");
        self.backend_depth += number("backend_depth");
        self.in_flight += number("in_flight_count");
        self.deferred += number("deferred_count");
        self.requeued += number("requeue_count");
        self.timed_out += number("timeout_count");
        self.messages += number("message_count");
        self.clients += channel["client_count"].as_i64().unwrap_or(clients);
    }
}

fn header() -> String {
    format!(
        "{}+{}+{}\n{:>7} {:>7} | {:>7} {:>7} {:>7} {:>5} {:>5} | {:>7} {:>7} {:>12} {:>7}\n",
        "------rate------",
        "----------------depth----------------",
        "--------------metadata---------------",
        "ingress",
        "egress",
        "total",
        "mem",
        "disk",
        "inflt",
        "def",
        "req",
        "t-o",
        "msgs",
        "clients"
    )
}

fn line(last: &Figures, now: &Figures, interval: Duration) -> String {
    let per_second = |count: i64| (count as f64 / interval.as_secs_f64()) as i64;
    let came = now.messages - last.messages;
    format!(
        "{:>7} {:>7} | {:>7} {:>7} {:>7} {:>5} {:>5} | {:>7} {:>7} {:>12} {:>7}\n",
        per_second(came),
        per_second(came - (now.depth - last.depth)),
        now.depth,
        now.depth - now.backend_depth,
        now.backend_depth,
        now.in_flight,
        now.deferred,
        now.requeued,
        now.timed_out,
        now.messages,
        now.clients
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_that_of_nsq_stat() {
        let last = Figures { messages: 100, depth: 10, ..Figures::default() };
        let now = Figures { messages: 300, depth: 50, backend_depth: 20, clients: 1, ..last };
        assert_eq!(
            header() + &line(&last, &now, Duration::from_secs(2)),
            "------rate------+----------------depth----------------+--------------metadata---------------\n\
             ingress  egress |   total     mem    disk inflt   def |     req     t-o         msgs clients\n\
             \x20   100      80 |      50      30      20     0     0 |       0       0          300       1\n"
        );
    }
}
