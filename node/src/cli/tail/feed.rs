//! One connection of `bruit tail`: what it delivers is printed, and finished once it is printed.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use anyhow::{anyhow, bail};
use bruit_wire::nsq;
use tokio::{runtime::Handle, select, sync::watch, task::JoinHandle, time::timeout};

use super::{
    super::client::{Client, Delivery, Reply},
    Source,
};

/// How long to wait for the node to say that it is done with us.
const FAREWELL: Duration = Duration::from_secs(5);

/// How many messages are still to be printed, over all connections.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<watch::Sender<u64>>);

impl Budget {
    /// A budget of `count` messages; 0 is no end.
    pub(super) fn new(count: u64) -> Self {
        Self(Arc::new(watch::Sender::new(if count == 0 { u64::MAX } else { count })))
    }

    /// What is left of it.
    pub(super) fn left(&self) -> u64 {
        *self.0.borrow()
    }

    /// Takes up to `count` from it; returns how many.
    fn take(&self, count: u64) -> u64 {
        let mut taken = 0;
        self.0.send_modify(|left| {
            taken = count.min(*left);
            *left -= taken;
        });
        taken
    }

    /// Leaves nothing.
    fn close(&self) {
        self.0.send_replace(0);
    }

    /// Waits until nothing is left.
    #[expect(clippy::disallowed_methods, reason = "client code, beside the node and not within it")]
    pub(super) async fn spent(&self) {
        // The sender is here, so that it cannot be gone.
        let _ = self.0.subscribe().wait_for(|left| *left == 0).await;
    }
}

/// A subscription, and where its messages are printed.
pub(super) struct Feed<W> {
    client: Client,
    prefix: String,
    budget: Budget,
    /// What the node was told that it may have in flight; never above what is left of the budget.
    ready: u64,
    /// Delivered and to be printed next.
    page: Page,
    /// Where to print; away while it is printed to.
    output: Option<W>,
    printing: Option<JoinHandle<(W, Page, io::Result<()>)>>,
}

#[derive(Default)]
struct Page {
    text: Vec<u8>,
    /// The messages, and where the text of each ends.
    messages: Vec<([u8; 16], usize)>,
}

impl<W: Write + Send + 'static> Feed<W> {
    /// Subscribes at the node at `address`.
    ///
    /// # Errors
    /// The node cannot be reached, or refuses.
    pub(super) async fn open(
        address: &str,
        source: &Source,
        budget: Budget,
        output: W,
    ) -> anyhow::Result<Self> {
        let mut client = Client::connect(address, &source.introduction).await?;
        nsq::put_subscribe(client.out(), source.topic.as_str(), source.channel.as_str());
        match client.next().await? {
            Reply::Ok => {}
            Reply::Error(text) => bail!("the node refuses the subscription: {text}"),
            other => bail!("the node answers the subscription with {other:?}"),
        }
        let ready = budget.left().min(source.max_in_flight);
        nsq::put_ready(client.out(), ready);
        let prefix = if source.print_topic { format!("{} | ", source.topic) } else { String::new() };
        Ok(Self {
            client,
            prefix,
            budget,
            ready,
            page: Page::default(),
            output: Some(output),
            printing: None,
        })
    }

    /// Prints until the budget is spent.
    ///
    /// Printing may block for as long as its reader likes, and heartbeats have to be answered meanwhile, so
    /// it is done on another thread, one page at a time.
    ///
    /// # Errors
    /// The connection ends, or what is printed cannot be written.
    pub(super) async fn run(&mut self) -> anyhow::Result<()> {
        while self.budget.left() > 0 || self.printing.is_some() {
            self.take_replies()?;
            self.print();
            let idle = self.printing.is_none();
            let printed = select! {
                biased;
                printed = wait(&mut self.printing) => Some(printed?),
                () = self.budget.spent(), if idle => None,
                moved = self.client.progress() => {
                    moved?;
                    None
                }
            };
            let Some((output, page, outcome)) = printed else { continue };
            (self.output, self.printing) = (Some(output), None);
            match outcome {
                Ok(()) => self.finish(&page),
                Err(error) => {
                    self.budget.close();
                    // The reader has seen enough. What it did not see is delivered again to someone else.
                    if error.kind() == io::ErrorKind::BrokenPipe {
                        return Ok(());
                    }
                    return Err(anyhow!("cannot write to standard output: {error}"));
                }
            }
        }
        self.take_leave().await
    }

    fn take_replies(&mut self) -> anyhow::Result<()> {
        while let Some(reply) = self.client.take()? {
            match reply {
                Reply::Message(Delivery { id, body }) => {
                    self.page.text.extend_from_slice(self.prefix.as_bytes());
                    self.page.text.extend_from_slice(&body);
                    self.page.text.push(b'\n');
                    self.page.messages.push((id, self.page.text.len()));
                }
                // The node gave the message to someone else because printing it took too long.
                Reply::Error(text) if text.starts_with("E_FIN_FAILED") => {
                    eprintln!("bruit: a message was printed too late and will be delivered again ({text})");
                }
                Reply::Error(text) => bail!("the node reports {text}"),
                Reply::Ok | Reply::CloseWait => bail!("the node gave an answer to no question: {reply:?}"),
            }
        }
        Ok(())
    }

    fn print(&mut self) {
        if self.page.messages.is_empty() || self.output.is_none() {
            return;
        }
        let mut page = std::mem::take(&mut self.page);
        // Other connections may have used up the budget meanwhile; what is over is delivered again.
        page.messages.truncate(self.budget.take(page.messages.len() as u64) as usize);
        page.text.truncate(page.messages.last().map_or(0, |(_, end)| *end));
        let Some(mut output) = self.output.take() else { return };
        self.printing = Some(Handle::current().spawn_blocking(move || {
            let outcome = output.write_all(&page.text).and_then(|()| output.flush());
            (output, page, outcome)
        }));
    }

    fn finish(&mut self, page: &Page) {
        // Lowered before the messages are finished, so that no more are delivered than will be printed.
        if self.budget.left() < self.ready {
            self.ready = self.budget.left();
            nsq::put_ready(self.client.out(), self.ready);
        }
        for (id, _) in &page.messages {
            nsq::put_finish(self.client.out(), id);
        }
    }

    /// Waits until the node has seen all that was finished.
    async fn take_leave(&mut self) -> anyhow::Result<()> {
        nsq::put_close(self.client.out());
        let farewell = timeout(FAREWELL, async {
            while self.client.next().await? != Reply::CloseWait {}
            anyhow::Ok(())
        });
        farewell.await.map_err(|_| anyhow!("the node does not confirm that the messages are finished"))?
    }
}

/// What printing came to; never, while nothing is printed.
async fn wait<T>(printing: &mut Option<JoinHandle<T>>) -> anyhow::Result<T> {
    match printing {
        Some(printing) => Ok(printing.await?),
        None => std::future::pending().await,
    }
}
