//! `bruit join` and `bruit leave`: changes whom a running node talks to.

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use clap::Args;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    FAILED, IN_PART,
    http::{Http, encoded},
    members::{NodeArgs, members},
    settings::peer,
};

/// How long to wait for somebody to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How often to look meanwhile.
const LOOK: Duration = Duration::from_millis(100);

/// Arguments of `bruit join`.
#[derive(Debug, Args)]
#[command(
    after_help = "The node remembers the members that it meets, and finds them again after a restart; give \
    addresses that have to outlast that to --join of `bruit serve`.\n\nExit codes: 0 all are members, 4 some \
    are, 1 none is within 5 s (the node goes on trying)."
)]
pub(super) struct JoinArgs {
    /// Gossip addresses of nodes in the mesh to join; port 4160 unless given
    #[arg(required = true, value_name = "HOST[:PORT]")]
    peers: Vec<String>,
    #[command(flatten)]
    node: NodeArgs,
}

/// Arguments of `bruit leave`.
#[derive(Debug, Args)]
#[command(
    after_help = "Others are told at once. The node goes on serving what it holds, by itself, until it is joined \
    to a mesh again or started again."
)]
pub(super) struct LeaveArgs {
    #[command(flatten)]
    node: NodeArgs,
}

/// Joins the node to the mesh of others.
///
/// # Errors
/// The node cannot be reached, or an address cannot be one.
pub(super) fn join(args: &JoinArgs) -> anyhow::Result<ExitCode> {
    let http = args.node.http();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut joined = 0;
        for text in &args.peers {
            joined += usize::from(join_one(&http, text).await?);
        }
        Ok(match joined {
            0 => ExitCode::from(FAILED),
            some if some < args.peers.len() => ExitCode::from(IN_PART),
            _ => ExitCode::SUCCESS,
        })
    })
}

/// Takes the node out of its mesh.
///
/// # Errors
/// The node cannot be reached, or refuses.
pub(super) fn leave(args: &LeaveArgs) -> anyhow::Result<ExitCode> {
    let http = args.node.http();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(http.post("/mesh/leave", b""))?;
    if answer.status != 200 {
        return Err(answer.refusal(&http));
    }
    println!(
        "the node at {} has left; it serves on by itself, and `bruit join` brings it back",
        http.address()
    );
    Ok(ExitCode::SUCCESS)
}

async fn join_one(http: &Http, text: &str) -> anyhow::Result<bool> {
    let Some(peer) = peer(text) else {
        eprintln!("bruit: {text:?} is no address of a node: write host:port");
        return Ok(false);
    };
    let before = alive(&members(http).await?);
    let answer = http.post(&format!("/mesh/join?peer={}", encoded(&peer)), b"").await?;
    if answer.status == 400 {
        eprintln!("bruit: {peer}: {}", answer.message());
        return Ok(false);
    }
    let answer = answer.json(http)?;
    let addresses: BTreeSet<&str> =
        answer["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let deadline = Instant::now() + ANSWER;
    loop {
        let now = alive(&members(http).await?);
        // A node may be reached at an address that is not the one under which the mesh knows it.
        if now.iter().any(|address| addresses.contains(address.as_str()) || !before.contains(address)) {
            println!("{peer} is in the mesh, which has {} nodes alive", now.len() + 1);
            return Ok(true);
        }
        if Instant::now() >= deadline {
            eprintln!(
                "bruit: nobody answers at {peer} within {} s; the node goes on trying. Is the address right, is \
                 UDP let through, and do both have the same --cluster-name and secret?",
                ANSWER.as_secs()
            );
            return Ok(false);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Gossip addresses of the other members that are alive.
fn alive(members: &Value) -> BTreeSet<String> {
    let members = members["members"].as_array().into_iter().flatten();
    let alive = members.filter(|member| member["state"] == "alive" && member["self"] != true);
    alive.filter_map(|member| member["gossip_address"].as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_others_that_are_alive_count() {
        let members = serde_json::json!({ "members": [
            { "state": "alive", "gossip_address": "a:1", "self": true },
            { "state": "alive", "gossip_address": "b:1", "self": false },
            { "state": "suspect", "gossip_address": "c:1", "self": false },
            { "state": "alive" },
        ]});
        assert_eq!(alive(&members), BTreeSet::from(["b:1".to_owned()]));
    }
}
