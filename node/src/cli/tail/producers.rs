//! `bruit tail --lookupd-http-address`: reads from every node that holds the topic, also from those that come
//! later.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use bruit_wire::TopicName;
use parking_lot::Mutex;
use tokio::{
    select,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    super::{http::Http, lookup},
    Source,
    feed::{Budget, Feed},
};

/// How often to ask which nodes hold the topic.
const LOOK: Duration = Duration::from_secs(2);

/// Where nodes are found.
pub(super) enum Places {
    /// At these addresses.
    Fixed(Vec<String>),
    /// Where these say that the topic is held.
    Lookups(Vec<Http>),
}

/// Prints until the budget is spent.
///
/// # Errors
/// The first lookup fails, or what is printed cannot be written.
pub(super) async fn tail<W: Write + Send + 'static>(
    places: &Places,
    sources: &[Source],
    budget: Budget,
    output: W,
) -> anyhow::Result<()> {
    let output = Shared(Arc::new(Mutex::new(output)));
    let (mut feeds, mut open) = (JoinSet::new(), BTreeSet::new());
    let mut known: Vec<Known> = sources.iter().map(|_| Known::Never).collect();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while budget.left() > 0 {
        select! {
            biased;
            () = budget.spent() => {}
            Some(ended) = feeds.join_next(), if !feeds.is_empty() => {
                let (spot, outcome): (Spot, anyhow::Result<()>) = ended?;
                open.remove(&spot);
                judge(&budget, &spot.1, outcome)?;
            }
            _ = look.tick() => {
                for (source, known) in sources.iter().zip(&mut known) {
                    for address in known.ask(places, source).await? {
                        let spot = (source.topic.clone(), address);
                        if open.insert(spot.clone()) {
                            feeds.spawn(read(spot, source.clone(), budget.clone(), output.clone()));
                        }
                    }
                }
            }
        }
    }
    // The others learn of it by the budget, and give back what was delivered and not printed.
    while let Some(ended) = feeds.join_next().await {
        let (spot, outcome) = ended?;
        judge(&budget, &spot.1, outcome)?;
    }
    Ok(())
}

/// A topic at a node.
type Spot = (TopicName, String);

async fn read<W: Write + Send + 'static>(
    spot: Spot,
    source: Source,
    budget: Budget,
    output: Shared<W>,
) -> (Spot, anyhow::Result<()>) {
    let outcome = match Feed::open(&spot.1, &source, budget, output).await {
        Ok(mut feed) => feed.run().await,
        Err(error) => Err(error),
    };
    (spot, outcome)
}

/// A node that is lost is said and looked for again; once the budget is spent, what went wrong is the outcome.
fn judge(budget: &Budget, address: &str, outcome: anyhow::Result<()>) -> anyhow::Result<()> {
    match outcome {
        Err(error) if budget.left() > 0 => {
            eprintln!("bruit: {address}: {error:#}; it is read from again when it is found again");
            Ok(())
        }
        outcome => outcome,
    }
}

/// What the last lookup came to.
enum Known {
    Never,
    Something,
    Nothing,
}

impl Known {
    /// Where the topic is held. Only the first lookup has to succeed.
    async fn ask(&mut self, places: &Places, source: &Source) -> anyhow::Result<BTreeSet<String>> {
        let lookups = match places {
            Places::Fixed(fixed) => return Ok(fixed.iter().cloned().collect()),
            Places::Lookups(lookups) => lookups,
        };
        let mut addresses = BTreeSet::new();
        for http in lookups {
            match lookup::lookup(http, &source.topic).await {
                Ok(found) => addresses.extend(found.iter().flat_map(lookup::producers)),
                Err(error) if matches!(self, Self::Never) && lookups.len() == 1 => return Err(error),
                Err(error) => {
                    eprintln!("bruit: {error:#}; asking again");
                    if lookups.len() == 1 {
                        return Ok(BTreeSet::new());
                    }
                }
            }
        }
        if !addresses.is_empty() {
            *self = Self::Something;
        } else if !matches!(self, Self::Nothing) {
            eprintln!("bruit: no node holds the topic {} now; waiting for one", source.topic);
            *self = Self::Nothing;
        }
        Ok(addresses)
    }
}

/// An output that several print to, a page at a time.
struct Shared<W>(Arc<Mutex<W>>);

impl<W> Clone for Shared<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: Write> Write for Shared<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().flush()
    }
}
