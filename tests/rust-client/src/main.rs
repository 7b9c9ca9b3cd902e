//! One cell of the client matrix with tokio-nsq. See tests/clients/matrix/README for the arguments and what is to be
//! shown.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use tokio_nsq::{
    NSQChannel, NSQConfigShared, NSQConfigSharedCompression, NSQConfigSharedTLS, NSQConsumerConfig,
    NSQConsumerConfigSources, NSQConsumerLookupConfig, NSQDeflateLevel, NSQEvent, NSQProducerConfig,
    NSQRequeueDelay, NSQTopic,
};

const LIMIT: Duration = Duration::from_secs(40);

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [tcp, http, topic, transport, _] = args.as_slice() else { bail!("five arguments are needed") };
    let topic = NSQTopic::new(topic).context("a topic")?;
    tokio::time::timeout(LIMIT, round_trip(tcp, http, &topic, transport)).await.context("after 40 s")?
}

fn shared(transport: &str) -> anyhow::Result<NSQConfigShared> {
    let mut shared = NSQConfigShared::new();
    for layer in transport.split('+') {
        shared = match layer {
            "tls" => shared.set_tls(NSQConfigSharedTLS::new("localhost")),
            "snappy" => shared.set_compression(NSQConfigSharedCompression::Snappy),
            "deflate" => {
                let level = NSQDeflateLevel::new(6).context("a level")?;
                shared.set_compression(NSQConfigSharedCompression::Deflate(level))
            }
            _ => shared,
        };
    }
    Ok(shared)
}

async fn round_trip(tcp: &str, http: &str, topic: &Arc<NSQTopic>, transport: &str) -> anyhow::Result<()> {
    let mut producer = NSQProducerConfig::new(tcp).set_shared(shared(transport)?).build();
    ensure!(matches!(producer.consume().await, Some(NSQEvent::Healthy())), "the producer is not healthy");
    for number in 0..50 {
        producer.publish(topic, format!("single {number}").into_bytes()).await?;
    }
    let batch = (0..50).map(|number| format!("batch {number}").into_bytes()).collect();
    producer.publish_multiple(topic, batch).await?;
    for _ in 0..51 {
        let answer = producer.consume().await;
        ensure!(matches!(answer, Some(NSQEvent::Ok())), "a publish was answered with {answer:?}");
    }

    let sources = if transport == "lookup" {
        let lookup = NSQConsumerLookupConfig::new().set_poll_interval(Duration::from_secs(1));
        NSQConsumerConfigSources::Lookup(lookup.set_addresses(HashSet::from([format!("http://{http}")])))
    } else {
        NSQConsumerConfigSources::Daemons(vec![tcp.to_owned()])
    };
    let channel = NSQChannel::new("test").context("a channel")?;
    let consumer = NSQConsumerConfig::new(Arc::clone(topic), channel).set_max_in_flight(20);
    let mut consumer = consumer.set_sources(sources).set_shared(shared(transport)?).build();
    let (mut attempts, mut finished) = (BTreeMap::new(), BTreeSet::new());
    while finished.len() < 100 {
        let message = consumer.consume_filtered().await.context("the consumer has ended")?;
        let body = String::from_utf8_lossy(&message.body).into_owned();
        let attempt = attempts.entry(body.clone()).or_insert(0);
        *attempt += 1;
        if body.ends_with('0') && *attempt == 1 {
            message.requeue(NSQRequeueDelay::NoDelay).await;
            continue;
        }
        message.finish().await;
        finished.insert(body);
    }
    let requeued = attempts.values().filter(|count| **count == 2).count();
    ensure!(requeued == 10, "{requeued} were put back instead of 10");
    // The last FIN goes out with the next flush.
    tokio::time::sleep(Duration::from_millis(500)).await;
    println!("100 finished, 10 requeued");
    Ok(())
}
