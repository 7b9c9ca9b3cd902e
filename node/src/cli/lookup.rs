//! `bruit topics` and `bruit lookup`: what the mesh holds, and which nodes hold it.

use std::process::ExitCode;

use bruit_wire::TopicName;
use clap::Args;
use serde_json::Value;

use super::{
    NOT_FOUND,
    http::{Http, encoded},
    members::NodeArgs,
    table::{self, Output, Table},
};

/// Arguments of `bruit topics`.
#[derive(Debug, Args)]
#[command(
    after_help = "A table on a terminal, JSON otherwise. A topic that no node holds at present is known until \
    somebody deletes it."
)]
pub(super) struct TopicsArgs {
    /// How to write it
    #[arg(short, long, value_enum)]
    output: Option<Output>,
    #[command(flatten)]
    node: NodeArgs,
}

/// Arguments of `bruit lookup`.
#[derive(Debug, Args)]
#[command(
    after_help = "A table on a terminal, JSON otherwise: nsqlookupd's answer to /lookup. The exit code is 3 \
    when the mesh does not know the topic."
)]
pub(super) struct LookupArgs {
    /// The topic
    topic: TopicName,
    /// How to write it
    #[arg(short, long, value_enum)]
    output: Option<Output>,
    #[command(flatten)]
    node: NodeArgs,
}

/// Shows the topics that the mesh knows.
///
/// # Errors
/// The node cannot be reached, or does not answer as a node does.
pub(super) fn topics(args: &TopicsArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let topics = runtime.block_on(args.node.http().json("/mesh/topics"))?;
    table::print(&match Output::or_suitable(args.output) {
        Output::Json => format!("{topics:#}\n"),
        output => topics_table(&topics, output == Output::Wide),
    })
}

/// Shows the nodes that hold a topic.
///
/// # Errors
/// The node cannot be reached, or does not answer as a node does.
pub(super) fn run(args: &LookupArgs) -> anyhow::Result<ExitCode> {
    let http = args.node.http();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Some(found) = runtime.block_on(lookup(&http, &args.topic))? else {
        eprintln!("bruit: the mesh does not know the topic {}", args.topic);
        return Ok(ExitCode::from(NOT_FOUND));
    };
    table::print(&match Output::or_suitable(args.output) {
        Output::Json => format!("{found:#}\n"),
        output => lookup_table(&found, output == Output::Wide),
    })
}

/// What the node at `http` answers about a topic; `None` if the mesh does not know it.
///
/// # Errors
/// As [`Http::json`].
pub(super) async fn lookup(http: &Http, topic: &TopicName) -> anyhow::Result<Option<Value>> {
    let answer = http.get(&format!("/lookup?topic={}", encoded(topic.as_str()))).await?;
    if answer.status == 404 && answer.message() == "TOPIC_NOT_FOUND" {
        return Ok(None);
    }
    answer.json(http).map(Some)
}

/// Where clients connect to the producers of an answer of [`lookup`].
pub(super) fn producers(found: &Value) -> impl Iterator<Item = String> {
    found["producers"].as_array().into_iter().flatten().filter_map(|producer| at(producer, "tcp_port"))
}

/// Where their HTTP is.
pub(super) fn http_of_producers(found: &Value) -> impl Iterator<Item = String> {
    found["producers"].as_array().into_iter().flatten().filter_map(|producer| at(producer, "http_port"))
}

fn at(producer: &Value, port: &str) -> Option<String> {
    let (host, port) = (producer["broadcast_address"].as_str()?, producer[port].as_u64()?);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    (port != 0).then(|| format!("{host}:{port}"))
}

fn topics_table(topics: &Value, wide: bool) -> String {
    let mut table = Table::new(&["TOPIC", "NODES", "CHANNELS"]);
    let topics: Vec<&Value> = topics["topics"].as_array().into_iter().flatten().collect();
    for topic in &topics {
        let nodes = strings(&topic["producers"]);
        let nodes = if wide { nodes.join(" ") } else { nodes.len().to_string() };
        let name = topic["topic"].as_str().unwrap_or_default().to_owned();
        table.row([name, nodes, strings(&topic["channels"]).join(" ")]);
    }
    if topics.is_empty() { "no topics\n".to_owned() } else { table.render() }
}

fn lookup_table(found: &Value, wide: bool) -> String {
    let mut heading = vec!["CLIENTS", "HTTP", "HOST", "ZONE"];
    if wide {
        heading.extend(["REGION", "VERSION", "REMOTE"]);
    }
    let mut table = Table::new(&heading);
    let producers: Vec<&Value> = found["producers"].as_array().into_iter().flatten().collect();
    for producer in &producers {
        let text = |key: &str| producer[key].as_str().unwrap_or_default().to_owned();
        let mut row = vec![
            at(producer, "tcp_port").unwrap_or_default(),
            at(producer, "http_port").unwrap_or_default(),
            text("hostname"),
            text("topology_zone"),
        ];
        if wide {
            row.extend([text("topology_region"), text("version"), text("remote_address")]);
        }
        table.row(row);
    }
    let channels = strings(&found["channels"]);
    let channels = if channels.is_empty() { "none".to_owned() } else { channels.join(" ") };
    let nodes =
        if producers.is_empty() { "no node holds it at present\n".to_owned() } else { table.render() };
    format!("{nodes}channels: {}\n", table::printable(&channels))
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Value {
        serde_json::json!({ "channels": ["c", "d"], "producers": [
            { "remote_address": "10.0.0.1:4160", "hostname": "a", "broadcast_address": "10.0.0.1",
              "tcp_port": 4150, "http_port": 0, "version": "1.3.0", "topology_zone": "z" },
            { "broadcast_address": "fd00::1", "tcp_port": 4150, "http_port": 4151 },
            { "hostname": "damaged" },
        ]})
    }

    #[test]
    fn producers_are_addresses_to_connect_to() {
        assert_eq!(producers(&found()).collect::<Vec<_>>(), ["10.0.0.1:4150", "[fd00::1]:4150"]);
        assert_eq!(producers(&Value::Null).count(), 0);
    }

    #[test]
    fn a_topic_is_shown_with_its_nodes_and_channels() {
        let shown = lookup_table(&found(), false);
        assert!(
            shown.starts_with("CLIENTS         HTTP            HOST     ZONE\n10.0.0.1:4150   -"),
            "{shown}"
        );
        assert!(shown.ends_with("-               -               damaged  -\nchannels: c d\n"), "{shown}");
        let nobody = lookup_table(&serde_json::json!({ "channels": [], "producers": [] }), false);
        assert_eq!(nobody, "no node holds it at present\nchannels: none\n");
    }

    #[test]
    fn topics_are_shown_with_how_many_hold_them() {
        let topics = serde_json::json!({ "topics": [
            { "topic": "t", "channels": ["c", "d"], "producers": ["0a", "0b"] },
            { "topic": "orphan", "channels": [], "producers": [] },
        ]});
        assert_eq!(
            topics_table(&topics, false),
            "TOPIC   NODES  CHANNELS\nt       2      c d\norphan  0      -\n"
        );
        assert!(topics_table(&topics, true).contains("t       0a 0b  c d"));
        assert_eq!(topics_table(&serde_json::json!({ "topics": [] }), false), "no topics\n");
    }
}
