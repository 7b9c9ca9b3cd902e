//! A message is published on the first node and found through the last, with the time that each step took.

use std::{future::Future, time::Duration};

use anyhow::{anyhow, bail};
use bruit_wire::{TopicName, nsq};
use tokio::time::{Instant, sleep, timeout};

use super::super::{
    client::{Client, Delivery, Introduction, Reply},
    http::Http,
    lookup::{lookup, producers},
    members::members,
};
use crate::Ready;

/// What is published to.
pub(super) const TOPIC: &str = "greetings";
/// Read through; goes with its consumer.
const CHANNEL: &str = "demonstration#ephemeral";
/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often to look whether something has come about.
const LOOK: Duration = Duration::from_millis(2);

/// Shows it on `nodes`, line by line.
///
/// # Errors
/// A step that does not succeed within half a minute, and what it waited for.
pub(super) async fn run(nodes: &[Ready]) -> anyhow::Result<()> {
    let (Some(first), Some(last)) = (nodes.first(), nodes.last()) else { bail!("there is no node") };
    let topic = TopicName::new(TOPIC)?;
    let (count, began) = (nodes.len(), Instant::now());
    let https: Vec<Http> = nodes.iter().map(http).collect::<anyhow::Result<_>>()?;

    let seen = all_see_all(&https);
    step(&format!("all {count} nodes know each other"), seen).await?;

    let body = format!("hello from node 1 ({})", first.node_id);
    let sent = publish(first, &topic, body.as_bytes());
    step(&format!("node 1 took a message for topic {TOPIC:?}: it is on disk"), sent).await?;

    let asked = http(last)?;
    let found = until_found(&asked, &topic, first.tcp_address.to_string());
    let address =
        step(&format!("node {count} was asked /lookup?topic={TOPIC} and named node 1"), found).await?;

    let received = receive(&address, &topic, body.as_bytes());
    step(&format!("a consumer connected to {address} and read {body:?}"), received).await?;
    println!("{:>9.1} ms  in all", began.elapsed().as_secs_f64() * 1000.0);
    Ok(())
}

/// Does one step and says what it was and how long it took.
async fn step<T>(what: &str, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let began = Instant::now();
    let done = timeout(PATIENCE, work).await;
    let done = done.map_err(|_| anyhow!("waited {} s in vain until {what}", PATIENCE.as_secs()))??;
    println!("{:>9.1} ms  {what}", began.elapsed().as_secs_f64() * 1000.0);
    Ok(done)
}

fn http(node: &Ready) -> anyhow::Result<Http> {
    let address = node.http_address.ok_or_else(|| anyhow!("HTTP is off"))?;
    Ok(Http::new(&address.to_string()))
}

async fn all_see_all(nodes: &[Http]) -> anyhow::Result<()> {
    for node in nodes {
        loop {
            let members = members(node).await?;
            let members = members["members"].as_array().into_iter().flatten();
            if members.filter(|member| member["state"] == "alive").count() == nodes.len() {
                break;
            }
            sleep(LOOK).await;
        }
    }
    Ok(())
}

async fn publish(node: &Ready, topic: &TopicName, body: &[u8]) -> anyhow::Result<()> {
    let mut client = connect(&node.tcp_address.to_string()).await?;
    nsq::put_publish(client.out(), topic.as_str(), body);
    match client.next().await? {
        Reply::Ok => Ok(()),
        other => bail!("the publish is answered with {other:?}"),
    }
}

/// Asks until `wanted` is among the answers; returns it as it was answered.
async fn until_found(node: &Http, topic: &TopicName, wanted: String) -> anyhow::Result<String> {
    loop {
        if let Some(found) = lookup(node, topic).await?
            && let Some(address) = producers(&found).find(|address| *address == wanted)
        {
            return Ok(address);
        }
        sleep(LOOK).await;
    }
}

/// Reads until `body` comes; what others have left in the topic comes before it.
async fn receive(address: &str, topic: &TopicName, body: &[u8]) -> anyhow::Result<()> {
    let mut client = connect(address).await?;
    nsq::put_subscribe(client.out(), topic.as_str(), CHANNEL);
    nsq::put_ready(client.out(), 1);
    loop {
        match client.next().await? {
            Reply::Message(Delivery { id, body: received }) => {
                nsq::put_finish(client.out(), &id);
                if received == body {
                    break;
                }
            }
            Reply::Ok => {}
            other => bail!("the subscription is answered with {other:?}"),
        }
    }
    nsq::put_close(client.out());
    while client.next().await? != Reply::CloseWait {}
    Ok(())
}

async fn connect(address: &str) -> anyhow::Result<Client> {
    Client::connect(address, &Introduction::new(concat!("bruit-dev/", env!("CARGO_PKG_VERSION")))).await
}
