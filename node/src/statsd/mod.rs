//! Figures for statsd, sent by UDP every so often (NSQ reference, section 9).
//!
//! `lines` says what; this is the task that sends it. Nothing waits for statsd: what cannot be sent is dropped.

mod lines;

use std::{
    future::poll_fn,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use quinn::{AsyncUdpSocket, udp::Transmit};
use tokio::time::{Instant, sleep_until, timeout};

use self::lines::Counters;
use crate::{
    broker::{Broker, TopicFigures},
    config::StatsdConfig,
    env::Env,
    exit::Exiting,
};

/// The datagrams of a pass are spread over the interval without this, so that a pass ends before the next.
const REST: Duration = Duration::from_secs(1);
/// How long statsd's address may take to be found, and a datagram to be taken.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sends the figures until the node stops. `address` and `port` name the node.
pub(crate) async fn run(
    config: StatsdConfig,
    address: String,
    port: u16,
    broker: Arc<Broker>,
    env: Env,
    exit: Exiting,
) {
    let Some(target) = config.address.clone() else { return };
    let prefix = lines::prefix(&config.prefix, &address, port);
    let (mut counters, mut next) = (Counters::default(), Instant::now());
    let mut complained = false;
    loop {
        next += config.interval;
        tokio::select! {
            biased;
            () = exit.told() => return,
            () = sleep_until(next) => {}
        }
        let topics = figures(&broker, config.exclude_ephemeral);
        let datagrams = lines::datagrams(&prefix, config.packet_size, &topics, config.memory, &mut counters);
        let sent = tokio::select! {
            biased;
            () = exit.told() => return,
            sent = send(&env, &target, &datagrams, config.interval.saturating_sub(REST)) => sent,
        };
        if let Err(error) = &sent
            && !complained
        {
            tracing::warn!(address = target, "nothing can be sent to statsd: {error}");
        }
        complained = sent.is_err();
        // A pass that took longer than the interval is not made up for.
        if Instant::now() > next + config.interval {
            next = Instant::now();
        }
    }
}

fn figures(broker: &Broker, exclude_ephemeral: bool) -> Vec<TopicFigures> {
    let topics = broker.topics();
    let wanted = topics.iter().filter(|topic| !(exclude_ephemeral && topic.name().is_ephemeral()));
    let take = |topic: &Arc<_>| {
        TopicFigures::take(topic, |channel| !(exclude_ephemeral && channel.name().is_ephemeral()))
    };
    wanted.map(take).collect()
}

/// Sends datagrams, spread over `time`.
async fn send(env: &Env, target: &str, datagrams: &[String], time: Duration) -> io::Result<()> {
    let to = resolve(env, target).await?;
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = env.net.bind_udp(SocketAddr::new(any, 0)).await?;
    let pause = time / u32::try_from(datagrams.len().max(1)).unwrap_or(u32::MAX);
    let began = Instant::now();
    for (at, datagram) in (0..).zip(datagrams) {
        send_one(&socket, to, datagram.as_bytes()).await?;
        sleep_until(began + pause * (at + 1)).await;
    }
    Ok(())
}

async fn resolve(env: &Env, target: &str) -> io::Result<SocketAddr> {
    let (host, port) = target.rsplit_once(':').unwrap_or((target, ""));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.parse().map_err(|_| io::Error::other("its address has no port"))?;
    let found = timeout(PATIENCE, env.net.resolve(host, port)).await;
    let found = found.map_err(|_| io::Error::other("its address cannot be found in time"))??;
    found.first().copied().ok_or_else(|| io::Error::other("its name has no address"))
}

async fn send_one(socket: &Arc<dyn AsyncUdpSocket>, to: SocketAddr, contents: &[u8]) -> io::Result<()> {
    let transmit = Transmit { destination: to, ecn: None, contents, segment_size: None, src_ip: None };
    let mut poller = Arc::clone(socket).create_io_poller();
    let sending = async {
        loop {
            match socket.try_send(&transmit) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll_fn(|cx| poller.as_mut().poll_writable(cx)).await?;
                }
                done => return done,
            }
        }
    };
    timeout(PATIENCE, sending).await.map_err(|_| io::Error::other("no room to send"))?
}
