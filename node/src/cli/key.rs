//! `bruit key`: makes the secret of a cluster, and changes it while the cluster runs.
//!
//! Nothing that is secret goes over HTTP in the clear, and nobody is obeyed who does not know a secret of the
//! cluster: see `mesh::keys`.

use std::{
    io::{self, Read},
    process::ExitCode,
};

use anyhow::{Context, anyhow, bail};
use bruit_gossip::{Fingerprint, Secret};
use clap::{Args, Subcommand};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use serde_json::json;

use super::{
    FAILED, IN_PART,
    http::{Answer, Http},
    members::NodeArgs,
    settings::{parse_secret, read_secret},
    table::{self, Output, Table},
};
use crate::mesh::keys::{Conversation, NodeKeys, Offer, Operation, Report};

/// Where a secret may stand instead of a flag.
const SECRET_VARIABLE: &str = "BRUIT_CLUSTER_SECRET";
/// Where the name of a file with one may stand.
const SECRET_FILE_VARIABLE: &str = "BRUIT_CLUSTER_SECRET_FILE";
/// What is read of standard input, bytes.
const KEY_MAX: u64 = 1024;

/// Arguments of `bruit key`.
#[derive(Debug, Args)]
#[command(after_help = "To change the secret of a running mesh:\n  \
    bruit key generate > new\n  \
    bruit key install - < new      every node accepts both\n  \
    bruit key use FINGERPRINT      every node uses the new one\n  \
    bruit key remove FINGERPRINT   nobody accepts the old one any more\n\
    Any node will do. Nodes that are down meanwhile miss it: install again when they are back, before the old \
    key is removed. Put the new secret into the files that nodes start with, too: new nodes need it.\n\n\
    The fingerprint of a key tells nothing about it.")]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Print a new random secret
    Generate,
    /// Show which keys the nodes hold, and which they use
    List(MeshArgs),
    /// Have every node hold one more key, without using it
    Install {
        /// The key, or - to read it from standard input, where no list of processes shows it
        #[arg(value_name = "KEY")]
        key: String,
        #[command(flatten)]
        mesh: MeshArgs,
    },
    /// Have every node use a key that all hold
    Use(OneKeyArgs),
    /// Have every node forget a key that none uses
    Remove(OneKeyArgs),
}

#[derive(Debug, Args)]
struct OneKeyArgs {
    /// The key, as `bruit key list` names it
    fingerprint: Fingerprint,
    /// Do it although that cuts off nodes that lack it or do not answer
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    mesh: MeshArgs,
}

/// Which mesh, and how to be let in.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 all live nodes are as asked, 4 some are not, 1 none is, or it was refused."
)]
struct MeshArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// A file with a secret of the cluster, any that its nodes hold [env: BRUIT_CLUSTER_SECRET_FILE]. The secret
    /// itself can be given as [env: BRUIT_CLUSTER_SECRET]
    #[arg(long, value_name = "FILE")]
    cluster_secret_file: Option<String>,
    /// How to write it
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

/// Does what was asked for.
///
/// # Errors
/// The node cannot be reached, or refuses.
pub(super) fn run(args: &KeyArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        KeyCommand::Generate => generate(),
        KeyCommand::List(mesh) => ask(mesh, &Operation::List),
        KeyCommand::Install { key, mesh } => ask(mesh, &Operation::Install { key: given(key)? }),
        KeyCommand::Use(OneKeyArgs { fingerprint, force, mesh }) => {
            ask(mesh, &Operation::Use { fingerprint: *fingerprint, force: *force })
        }
        KeyCommand::Remove(OneKeyArgs { fingerprint, force, mesh }) => {
            ask(mesh, &Operation::Remove { fingerprint: *fingerprint, force: *force })
        }
    }
}

fn generate() -> anyhow::Result<ExitCode> {
    table::print(&format!("{}\n", Secret::new(random()?).reveal()))
}

/// The key that the argument means.
fn given(key: &str) -> anyhow::Result<Secret> {
    let mut text = key.to_owned();
    if key == "-" {
        text.clear();
        let read = io::stdin().lock().take(KEY_MAX).read_to_string(&mut text);
        read.context("cannot read a key from standard input")?;
    }
    parse_secret(&text).map_err(|error| anyhow!("{error}"))
}

fn ask(args: &MeshArgs, operation: &Operation) -> anyhow::Result<ExitCode> {
    let secret = secret(args.cluster_secret_file.as_deref())?;
    let http = args.node.http();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(request(&http, secret, operation))?;
    let output = Output::or_suitable(args.output);
    table::print(&shown(&report, operation, output))?;
    if let Some(refused) = &report.refused {
        bail!("nothing was changed: {}", table::printable(refused));
    }
    for node in report.nodes.iter().filter(|node| node.error.is_some()) {
        let error = node.error.as_deref().unwrap_or_default();
        eprintln!("bruit: node {} at {}: {}", node.node, node.address, table::printable(error));
    }
    if report.down > 0 && *operation != Operation::List {
        eprintln!(
            "bruit: {} more are down and do not learn of it; do it again when they are back",
            report.down
        );
    }
    Ok(outcome(&report, operation))
}

async fn request(http: &Http, secret: Secret, operation: &Operation) -> anyhow::Result<Report> {
    let offer = http.get("/mesh/keys").await?;
    if offer.status != 200 {
        return Err(refusal(&offer, http));
    }
    let offer: Offer = serde_json::from_value(offer.json(http)?)
        .with_context(|| format!("the node at {} does not answer as a node of bruit does", http.address()))?;
    let conversation = Conversation::new(offer, secret, random()?);
    let answer = http.post("/mesh/keys", &conversation.request(operation)?).await?;
    if answer.status != 200 {
        return Err(refusal(&answer, http));
    }
    conversation.report(&answer.body).ok_or_else(|| {
        anyhow!(
            "what answers at {} does not know the secret of the cluster: do not trust it. Whether it has done \
             anything is unknown; ask another node",
            http.address()
        )
    })
}

fn refusal(answer: &Answer, http: &Http) -> anyhow::Error {
    let address = http.address();
    match answer.message().as_str() {
        "WRONG_SECRET" => anyhow!(
            "the node at {address} holds other keys than the one given: give a secret that its cluster uses"
        ),
        "NO_CLUSTER_SECRET" => anyhow!(
            "the node at {address} has no cluster secret: make one with `bruit key generate > secret`, and start \
             every node with --cluster-secret-file secret"
        ),
        "CHALLENGE_EXPIRED" => {
            anyhow!("the node at {address} has waited too long for the request: try again")
        }
        _ => answer.refusal(http),
    }
}

/// A secret of the cluster, which lets this command in.
fn secret(file: Option<&str>) -> anyhow::Result<Secret> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let file_variable = variable(SECRET_FILE_VARIABLE);
    let read = match (file, variable(SECRET_VARIABLE), &file_variable) {
        (Some(path), ..) => read_secret(path),
        (None, Some(_), Some(_)) => {
            bail!(
                "{SECRET_FILE_VARIABLE} and {SECRET_VARIABLE} both give the cluster's secret: leave one out"
            )
        }
        (None, Some(text), None) => {
            parse_secret(&text).map_err(|error| format!("{SECRET_VARIABLE}: {error}"))
        }
        (None, None, Some(path)) => read_secret(path),
        (None, None, None) => {
            bail!("a secret of the cluster is needed: --cluster-secret-file FILE, or {SECRET_VARIABLE}")
        }
    };
    read.map_err(|error| anyhow!("{error}"))
}

fn random<const N: usize>() -> anyhow::Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow!("the system gives no random bytes"))?;
    Ok(bytes)
}

/// How many nodes are as the operation wants them.
fn done(report: &Report, operation: &Operation) -> usize {
    // A node that did not answer shows no keys, which must not count as having removed one.
    let is_done = |node: &&NodeKeys| !node.keys.is_empty() && operation.holds(&node.keys);
    report.nodes.iter().filter(is_done).count()
}

fn outcome(report: &Report, operation: &Operation) -> ExitCode {
    match done(report, operation) {
        all if all == report.nodes.len() => ExitCode::SUCCESS,
        0 => ExitCode::from(FAILED),
        _ => ExitCode::from(IN_PART),
    }
}

fn shown(report: &Report, operation: &Operation, output: Output) -> String {
    match output {
        Output::Json => {
            let report = json!({
                "fingerprint": operation.fingerprint(),
                "done": done(report, operation),
                "of": report.nodes.len(),
                "down": report.down,
                "refused": report.refused,
                "keys": spread(report),
                "nodes": report.nodes,
            });
            format!("{report:#}\n")
        }
        Output::Table | Output::Wide if report.refused.is_some() => keys(report),
        Output::Table if *operation == Operation::List => keys(report),
        Output::Table => summary(report, operation),
        Output::Wide => format!("{}\n{}{}", keys(report), nodes(report), summary(report, operation)),
    }
}

fn summary(report: &Report, operation: &Operation) -> String {
    let (done, of) = (done(report, operation), report.nodes.len());
    let Some(fingerprint) = operation.fingerprint() else { return String::new() };
    let (it, how) = match (operation, of) {
        (Operation::Use { .. }, 1) => ("uses", "key"),
        (Operation::Use { .. }, _) => ("use", "key"),
        (Operation::Remove { .. }, 1) => ("holds", "no key"),
        (Operation::Remove { .. }, _) => ("hold", "no key"),
        (_, 1) => ("holds", "key"),
        (_, _) => ("hold", "key"),
    };
    let nodes = if of == 1 { "node" } else { "nodes" };
    format!("{done} of {of} {nodes} {it} {how} {fingerprint}\n")
}

/// A row for each key.
fn keys(report: &Report) -> String {
    let mut table = Table::new(&["KEY", "USED BY", "HELD BY"]);
    let of = report.nodes.len();
    for Spread { fingerprint, used_by, held_by } in spread(report) {
        table.row([fingerprint.to_string(), format!("{used_by} of {of}"), format!("{held_by} of {of}")]);
    }
    table.render()
}

/// How many nodes have a key.
#[derive(Debug, Serialize)]
struct Spread {
    fingerprint: Fingerprint,
    used_by: usize,
    held_by: usize,
}

fn spread(report: &Report) -> Vec<Spread> {
    let mut spread: Vec<Spread> = Vec::new();
    for key in report.nodes.iter().flat_map(|node| &node.keys) {
        let used = usize::from(key.used);
        match spread.iter_mut().find(|known| known.fingerprint == key.fingerprint) {
            Some(known) => (known.used_by, known.held_by) = (known.used_by + used, known.held_by + 1),
            None => spread.push(Spread { fingerprint: key.fingerprint, used_by: used, held_by: 1 }),
        }
    }
    spread
}

/// A row for each node.
fn nodes(report: &Report) -> String {
    let mut table = Table::new(&["NODE", "ADDRESS", "USES", "HOLDS", "ERROR"]);
    for node in &report.nodes {
        let of = |used: bool| {
            let keys = node.keys.iter().filter(|key| key.used == used);
            keys.map(|key| key.fingerprint.to_string()).collect::<Vec<_>>().join(" ")
        };
        let error = node.error.clone().unwrap_or_default();
        table.row([node.node.to_string(), node.address.clone(), of(true), of(false), error]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use bruit_gossip::NodeId;

    use super::*;
    use crate::mesh::keys::HeldKey;

    fn fingerprint(number: u8) -> Fingerprint {
        Secret::new([number; 32]).fingerprint()
    }

    /// Nodes by the keys that they hold, the used one first.
    fn report(nodes: &[&[u8]]) -> Report {
        let node = |(at, numbers): (usize, &&[u8])| {
            let keys = numbers.iter().enumerate();
            let keys = keys.map(|(at, number)| HeldKey { fingerprint: fingerprint(*number), used: at == 0 });
            let keys: Vec<_> = keys.collect();
            let error = keys.is_empty().then(|| "no answer\x1b[2J".to_owned());
            NodeKeys { node: NodeId::new(at as u64 + 1), address: format!("10.0.0.{at}:4160"), keys, error }
        };
        Report { refused: None, nodes: nodes.iter().enumerate().map(node).collect(), down: 0 }
    }

    #[test]
    fn it_is_said_how_many_nodes_are_as_asked() {
        let remove = Operation::Remove { fingerprint: fingerprint(1), force: true };
        let use_ = Operation::Use { fingerprint: fingerprint(2), force: false };
        let install = Operation::Install { key: Secret::new([2; 32]) };
        let (one, two) = (fingerprint(1), fingerprint(2));
        for (nodes, operation, text, code) in [
            (&[&[2, 1][..], &[1, 2], &[1, 2]][..], &install, format!("3 of 3 nodes hold key {two}\n"), 0),
            (&[&[2, 1], &[1, 2], &[]], &install, format!("2 of 3 nodes hold key {two}\n"), IN_PART),
            (&[&[2, 1], &[1, 2]], &use_, format!("1 of 2 nodes use key {two}\n"), IN_PART),
            (&[&[2], &[]], &remove, format!("1 of 2 nodes hold no key {one}\n"), IN_PART),
            (&[&[1]], &use_, format!("0 of 1 node uses key {two}\n"), FAILED),
        ] {
            let report = report(nodes);
            assert_eq!(shown(&report, operation, Output::Table), text);
            assert_eq!(outcome(&report, operation), ExitCode::from(code), "{text}");
        }
    }

    #[test]
    fn tables_show_each_key_and_each_node() {
        let report = report(&[&[1, 2], &[2], &[]]);
        let (one, two) = (fingerprint(1), fingerprint(2));
        let list = shown(&report, &Operation::List, Output::Table);
        assert_eq!(
            list,
            format!("KEY       USED BY  HELD BY\n{one}  1 of 3   1 of 3\n{two}  1 of 3   2 of 3\n")
        );
        let wide = shown(&report, &Operation::List, Output::Wide);
        assert!(wide.contains(&format!("10.0.0.0:4160  {one}  {two}  -")), "{wide}");
        assert!(wide.contains("no answer[2J") && !wide.contains('\x1b'), "{wide}");
        let json: serde_json::Value =
            serde_json::from_str(&shown(&report, &Operation::List, Output::Json)).unwrap();
        assert_eq!(json["nodes"][0]["keys"][0], json!({ "fingerprint": one, "used": true }));
        assert_eq!(json["keys"][1], json!({ "fingerprint": two, "used_by": 1, "held_by": 2 }));
        assert_eq!((&json["done"], &json["of"]), (&json!(2), &json!(3)));
    }

    #[test]
    fn generated_secrets_are_secrets_and_differ() {
        let secrets: [Secret; 2] = std::array::from_fn(|_| Secret::new(random().unwrap()));
        assert_ne!(secrets[0], secrets[1]);
        assert_eq!(given(&secrets[0].reveal()).unwrap(), secrets[0]);
        let error = given("1234").unwrap_err().to_string();
        assert!(error.contains("64 characters") && !error.contains("1234"), "{error}");
    }
}
