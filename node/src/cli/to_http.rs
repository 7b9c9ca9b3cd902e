//! `bruit to-http`: hands the messages of a topic to HTTP servers.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::bail;
use bruit_wire::{ChannelName, TopicName};
use clap::Args;
use tokio::{runtime::Builder, time::Instant};

use super::{
    consumer::{Consumer, FromArgs, Message, forward},
    http::{Http, encoded},
    settings,
    upstreams::{Mode, Upstreams},
};

/// Arguments of `bruit to-http`.
#[derive(Debug, Args)]
#[command(
    after_help = "A message is finished once a server has answered with 2xx (200 for GET); otherwise it is \
    delivered again, and all messages more slowly for a while. Servers of https URLs have to show a \
    certificate that --tls-ca-file or the system vouches for; none is shown the token.\nSIGTERM and SIGINT end the command once the requests under way are answered."
)]
pub(super) struct ToHttpArgs {
    /// The topic; may be given several times
    #[arg(long = "topic", value_name = "TOPIC", required = true)]
    topics: Vec<TopicName>,
    /// The channel
    #[arg(long, value_name = "NAME", default_value = "nsq_to_http")]
    channel: ChannelName,
    /// Where to POST messages; may be given several times
    #[arg(long, value_name = "URL")]
    post: Vec<String>,
    /// Where to GET, with %s for the message; may be given several times
    #[arg(long, value_name = "URL", conflicts_with = "post")]
    get: Vec<String>,
    /// Of what type messages are
    #[arg(long, value_name = "TYPE", default_value = "application/octet-stream")]
    content_type: String,
    /// One more header of each request; may be given several times
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// Which of several URLs gets a message
    #[arg(long, value_enum, default_value = "hostpool")]
    mode: Mode,
    /// Share of messages to send, from 0 to 1; the others are finished
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    sample: f64,
    /// Requests at a time
    #[arg(short = 'n', value_name = "N", default_value_t = 100)]
    count: usize,
    /// Say how it goes after every N messages; 0 is never
    #[arg(long, value_name = "N", default_value_t = 250)]
    status_every: u64,
    /// How long a connection may take
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = settings::duration)]
    http_client_connect_timeout: Duration,
    /// How long an answer may take
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = settings::duration)]
    http_client_request_timeout: Duration,
    #[command(flatten)]
    from: FromArgs,
}

/// Hands messages on until a signal stops it.
///
/// # Errors
/// Flags that cannot be.
pub(super) fn run(args: &ToHttpArgs) -> anyhow::Result<ExitCode> {
    let sender = Arc::new(Sender::new(args)?);
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let outcome = runtime.block_on(consume(args, &sender));
    runtime.shutdown_background();
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn consume(args: &ToHttpArgs, sender: &Arc<Sender>) -> anyhow::Result<()> {
    let consumer = Consumer::start(&args.from, &args.channel, "nsq_to_http")?;
    for topic in &args.topics {
        consumer.subscribe(topic.clone());
    }
    let serve = |message| {
        let sender = Arc::clone(sender);
        async move { sender.send(message).await }
    };
    forward(consumer, args.count.max(1), args.status_every, serve).await
}

/// Where messages go, and how.
struct Sender {
    targets: Vec<Target>,
    upstreams: Upstreams,
    gets: bool,
    headers: String,
    sample: f64,
    patience: (Duration, Duration),
    requeued_for: Duration,
}

struct Target {
    http: Http,
    /// The path and query; for GET with a place for the message.
    path: String,
}

impl Sender {
    fn new(args: &ToHttpArgs) -> anyhow::Result<Self> {
        let gets = !args.get.is_empty();
        let urls = if gets { &args.get } else { &args.post };
        if urls.is_empty() {
            bail!("name a URL with --post or --get");
        }
        if !(0.0..=1.0).contains(&args.sample) {
            bail!("--sample is {}: write something from 0 to 1", args.sample);
        }
        let mut headers = match gets {
            true => String::new(),
            false => format!("Content-Type: {}\r\n", args.content_type),
        };
        for header in &args.header {
            let named = header.split_once(':').filter(|_| !header.chars().any(char::is_control));
            let Some((name, value)) = named else { bail!("--header {header:?}: write NAME: VALUE") };
            headers.push_str(&format!("{}: {}\r\n", name.trim(), value.trim()));
        }
        if args.content_type.chars().any(char::is_control) {
            bail!("--content-type holds control characters");
        }
        let targets: anyhow::Result<Vec<Target>> = urls.iter().map(|url| Target::parse(url, gets)).collect();
        Ok(Self {
            upstreams: Upstreams::new(args.mode, urls.len()),
            targets: targets?,
            gets,
            headers,
            sample: args.sample,
            requeued_for: args.from.requeue_delay()?,
            patience: (args.http_client_connect_timeout, args.http_client_request_timeout),
        })
    }

    /// Sends a message to where it is to go, and answers it.
    async fn send(&self, message: Message) {
        if self.sample < 1.0 && share() >= self.sample {
            return message.finish();
        }
        let mut is_taken = true;
        for place in self.upstreams.choose() {
            let began = Instant::now();
            let outcome = self.request(&self.targets[place], &message.body).await;
            self.upstreams.note(place, outcome.is_ok(), began.elapsed());
            if let Err(error) = outcome {
                eprintln!("bruit: a message was not taken, and is delivered again: {error:#}");
                is_taken = false;
                break;
            }
        }
        if is_taken { message.finish() } else { message.requeue(self.requeued_for) }
    }

    async fn request(&self, target: &Target, body: &[u8]) -> anyhow::Result<()> {
        let http = &target.http;
        let answer = if self.gets {
            // Go's url.QueryEscape, which writes a space as a plus sign.
            let path = target.path.replacen("%s", &encoded(body).replace("%20", "+"), 1);
            http.ask("GET", &path, &self.headers, b"", self.patience).await?
        } else {
            http.ask("POST", &target.path, &self.headers, body, self.patience).await?
        };
        let is_good = if self.gets { answer.status == 200 } else { (200..300).contains(&answer.status) };
        if !is_good {
            bail!("{} answers with {}", http.address(), answer.status);
        }
        Ok(())
    }
}

impl Target {
    fn parse(url: &str, gets: bool) -> anyhow::Result<Self> {
        let (secure, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => bail!("{url:?} is no URL that begins with http:// or https://"),
        };
        if gets && url.matches("%s").count() != 1 {
            bail!("--get {url:?}: write %s once, where the message is to be");
        }
        if rest.chars().any(|c| c.is_control() || c == ' ') {
            bail!("{url:?} holds blanks");
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let port = if secure { 443 } else { 80 };
        let host = if has_port { host.to_owned() } else { format!("{host}:{port}") };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { http: Http::stranger(host, secure), path })
    }
}

/// A random number from 0 up to 1.
fn share() -> f64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    (RandomState::new().build_hasher().finish() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let parse = |url: &str, gets| Target::parse(url, gets).map(|t| (t.http.address().to_owned(), t.path));
        let parsed = |url: &str, gets| parse(url, gets).unwrap();
        assert_eq!(parsed("http://a", false), ("a:80".to_owned(), "/".to_owned()));
        assert_eq!(parsed("http://a:81/x?y=1", false), ("a:81".to_owned(), "/x?y=1".to_owned()));
        assert_eq!(parsed("http://[::1]:81?m=%s", true), ("[::1]:81".to_owned(), "/?m=%s".to_owned()));
        assert_eq!(parsed("https://a/x", false), ("a:443".to_owned(), "/x".to_owned()));
        for (url, gets) in [("ftp://a", false), ("a:80", false), ("http://a", true), ("http://a/ b", false)] {
            assert!(parse(url, gets).is_err(), "{url}");
        }
    }
}
