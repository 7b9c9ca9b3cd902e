//! `bruit members`: who is in the mesh, as any of its nodes sees it.

use std::{
    io::IsTerminal,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use serde_json::Value;

use super::{
    http::Http,
    table::{self, Output, Table},
};

/// How often `--watch` looks.
const WATCH: Duration = Duration::from_secs(1);
/// Brings the cursor to the top and clears the terminal.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Which node answers for the mesh.
#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// The HTTP address of a node, any of the mesh
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4151")]
    http_address: String,
}

impl NodeArgs {
    /// Its HTTP side.
    pub(super) fn http(&self) -> Http {
        Http::new(&self.http_address)
    }
}

/// Arguments of `bruit members`.
#[derive(Debug, Args)]
#[command(
    after_help = "A table on a terminal, JSON otherwise. The node that answers is marked with *. States: alive; \
    suspect (does not answer, and is about to be declared down); down; left (said that it goes).\n\
    SINCE is when the state was last seen to change, RTT the time of a packet there and back."
)]
pub(super) struct MembersArgs {
    /// How to write it
    #[arg(short, long, value_enum)]
    output: Option<Output>,
    /// Look again every second, until Ctrl-C; in JSON, a line whenever something has changed
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Shows the members.
///
/// # Errors
/// The node cannot be reached, or does not answer as a node does.
pub(super) fn run(args: &MembersArgs) -> anyhow::Result<ExitCode> {
    let output = Output::or_suitable(args.output);
    let http = args.node.http();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if args.watch {
            return watch(&http, output).await;
        }
        table::print(&shown(&members(&http).await?, output, wall_ms()))
    })
}

/// The members that the node at `http` knows.
///
/// # Errors
/// As [`Http::json`].
pub(super) async fn members(http: &Http) -> anyhow::Result<Value> {
    http.json("/mesh/members").await
}

async fn watch(http: &Http, output: Output) -> anyhow::Result<ExitCode> {
    let clear = if std::io::stdout().is_terminal() { CLEAR } else { "" };
    let mut last = None;
    loop {
        let members = members(http).await?;
        if output == Output::Json {
            // Round trips are measured all the time; a line for each would hide the changes.
            let lasting = without_rtt(&members);
            if last.as_ref() != Some(&lasting) {
                table::print(&format!("{members}\n"))?;
                last = Some(lasting);
            }
        } else {
            table::print(&format!("{clear}{}", shown(&members, output, wall_ms())))?;
        }
        tokio::time::sleep(WATCH).await;
    }
}

fn without_rtt(members: &Value) -> Value {
    let mut lasting = members.clone();
    for member in lasting["members"].as_array_mut().into_iter().flatten() {
        member["rtt_us"] = Value::Null;
    }
    lasting
}

/// Milliseconds since 1970.
fn wall_ms() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "client code, beside the node and not within it")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn shown(members: &Value, output: Output, now_ms: u64) -> String {
    if output == Output::Json {
        return format!("{members:#}\n");
    }
    let mut heading = vec!["NODE", "STATE", "ADDRESS", "HOST", "ZONE", "VERSION", "RTT", "SINCE"];
    if output == Output::Wide {
        heading.extend(["CLIENTS", "HTTP", "QUIC", "REGION", "STARTS"]);
    }
    let mut table = Table::new(&heading);
    let members: Vec<&Value> = members["members"].as_array().into_iter().flatten().collect();
    for member in &members {
        table.row(row(member, output == Output::Wide, now_ms));
    }
    let alive = members.iter().filter(|member| member["state"] == "alive").count();
    format!("{}{alive} alive of {}\n", table.render(), members.len())
}

fn row(member: &Value, wide: bool, now_ms: u64) -> Vec<String> {
    let text = |key: &str| member[key].as_str().unwrap_or_default().to_owned();
    let mark = if member["self"] == true { "*" } else { "" };
    let draining = if member["draining"] == true { ", draining" } else { "" };
    let since = member["since_ms"].as_u64().map(|since| Duration::from_millis(now_ms.saturating_sub(since)));
    let mut row = vec![
        text("id") + mark,
        text("state") + draining,
        text("gossip_address"),
        text("hostname"),
        text("topology_zone"),
        text("version"),
        member["rtt_us"].as_f64().map(|micros| format!("{:.1} ms", micros / 1000.0)).unwrap_or_default(),
        since.map(ago).unwrap_or_default(),
    ];
    if wide {
        let told = member["broadcast_addresses"][0].as_str().unwrap_or_default();
        let at = |port: &str| match member[port].as_u64() {
            Some(port) if port != 0 && !told.is_empty() => format!("{told}:{port}"),
            _ => String::new(),
        };
        let starts = member["generation"].as_u64().map(|count| count.to_string()).unwrap_or_default();
        row.extend([at("tcp_port"), at("http_port"), text("mesh_address"), text("topology_region"), starts]);
    }
    row
}

/// A time span in its largest unit.
fn ago(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Value {
        serde_json::json!({ "node": "0a", "members": [
            { "id": "0a", "state": "alive", "gossip_address": "10.0.0.1:4160", "mesh_address": "10.0.0.1:4161",
              "broadcast_addresses": ["a.example", "10.0.0.1"], "hostname": "a", "tcp_port": 4150,
              "http_port": 0, "version": "0.1.0", "topology_zone": "z", "topology_region": "",
              "draining": false, "rtt_us": null, "since_ms": 1000, "generation": 3, "self": true },
            { "id": "0b", "state": "suspect", "gossip_address": "10.0.0.2:4160", "draining": true,
              "rtt_us": 1540, "since_ms": 999_000_000, "self": false },
        ]})
    }

    #[test]
    fn the_table_has_a_line_for_each_member_even_if_little_is_known_of_it() {
        let shown_lines = shown(&two(), Output::Table, 8_000_000);
        let lines: Vec<Vec<&str>> = shown_lines
            .lines()
            .map(|line| line.split("  ").filter(|c| !c.is_empty()).map(str::trim).collect())
            .collect();
        assert_eq!(lines[0], ["NODE", "STATE", "ADDRESS", "HOST", "ZONE", "VERSION", "RTT", "SINCE"]);
        assert_eq!(lines[1], ["0a*", "alive", "10.0.0.1:4160", "a", "z", "0.1.0", "-", "2 h"]);
        assert_eq!(lines[2], ["0b", "suspect, draining", "10.0.0.2:4160", "-", "-", "-", "1.5 ms", "0 s"]);
        assert_eq!(lines[3], ["1 alive of 2"]);
        let wide = shown(&two(), Output::Wide, 0);
        assert!(wide.contains("a.example:4150  -     10.0.0.1:4161  -       3"), "{wide}");
    }

    #[test]
    fn a_new_round_trip_is_no_change() {
        let (mut one, mut other) = (two(), two());
        other["members"][1]["rtt_us"] = 7.into();
        assert_eq!(without_rtt(&one), without_rtt(&other));
        one["members"][1]["state"] = "down".into();
        assert_ne!(without_rtt(&one), without_rtt(&other));
    }
}
