//! The table of figures: what was to be reached, and what was.

use std::{
    io::{self, Write},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    figures::Sample,
    net::{Distance, Weather},
};

/// Something to be measured.
#[derive(Debug, Clone, Copy)]
pub struct Figure {
    /// What to call it on the command line.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// What is to be reached.
    pub target: &'static str,
    /// The unit of its values.
    pub unit: &'static str,
    /// How many seeds make a good measurement.
    pub seeds: u64,
    measure: fn(u64) -> Vec<f64>,
}

/// Nothing gets lost.
const CALM: Weather = Weather::CALM;
/// One packet in a hundred gets lost.
const LOSSY: Weather = Weather::CALM.with_loss(10);

/// All figures.
pub const FIGURES: [Figure; 19] = [
    Figure {
        name: "join-100",
        about: "every node sees every node, 100 join at once, 1 % loss",
        target: "p99 <= 5 s",
        unit: "s",
        seeds: 200,
        measure: |seed| all(Sample::new(seed, 100, LOSSY).joined().all),
    },
    Figure {
        name: "join-1000",
        about: "the same, 1,000 nodes, 1 % loss",
        target: "<= 15 s",
        unit: "s",
        seeds: 10,
        measure: |seed| all(Sample::new(seed, 1_000, LOSSY).joined().all),
    },
    Figure {
        name: "publish-3",
        about: "first publish on A until B names A, 3 nodes",
        target: "p99 <= 0.05 s",
        unit: "s",
        seeds: 50,
        measure: |seed| publishes(seed, 3, CALM),
    },
    Figure {
        name: "publish-100",
        about: "the same, 100 nodes",
        target: "p99 <= 0.5 s",
        unit: "s",
        seeds: 20,
        measure: |seed| publishes(seed, 100, CALM),
    },
    Figure {
        name: "publish-100-lossy",
        about: "the same, 100 nodes, 1 % loss",
        target: "-",
        unit: "s",
        seeds: 20,
        measure: |seed| publishes(seed, 100, LOSSY),
    },
    Figure {
        name: "publish-1000",
        about: "the same, 1,000 nodes",
        target: "p99 <= 1.5 s",
        unit: "s",
        seeds: 4,
        measure: |seed| publishes(seed, 1_000, CALM),
    },
    Figure {
        name: "gone-100",
        about: "host gone, known to all of 100 nodes",
        target: "median <= 6 s, p99 <= 10 s",
        unit: "s",
        seeds: 50,
        measure: |seed| losses(seed, 100, true, 4),
    },
    Figure {
        name: "gone-1000",
        about: "the same, 1,000 nodes",
        target: "-",
        unit: "s",
        seeds: 4,
        measure: |seed| losses(seed, 1_000, true, 2),
    },
    Figure {
        name: "killed-3",
        about: "process killed, host alive, 3 nodes",
        target: "<= 1.5 s",
        unit: "s",
        seeds: 100,
        measure: |seed| losses(seed, 3, false, 4),
    },
    Figure {
        name: "killed-100",
        about: "the same, 100 nodes",
        target: "-",
        unit: "s",
        seeds: 20,
        measure: |seed| losses(seed, 100, false, 4),
    },
    Figure {
        name: "gone-3",
        about: "host gone, 3 nodes",
        target: "-",
        unit: "s",
        seeds: 100,
        measure: |seed| losses(seed, 3, true, 4),
    },
    Figure {
        name: "heal-100",
        about: "all equal after a heal, 100 nodes in halves for 10 to 120 s",
        target: "p99 <= 5 s",
        unit: "s",
        seeds: 100,
        measure: |seed| heals(seed, 100),
    },
    Figure {
        name: "heal-1000",
        about: "the same, 1,000 nodes",
        target: "<= 10 s",
        unit: "s",
        seeds: 4,
        measure: |seed| heals(seed, 1_000),
    },
    Figure {
        name: "false-paused",
        about: "healthy nodes taken for dead by healthy ones, 1 of 32 paused, 1 h",
        target: "0",
        unit: "",
        seeds: 25,
        measure: |seed| vec![Sample::settled(seed, 32, CALM).mistaken(false, HOUR).0 as f64],
    },
    Figure {
        name: "false-starved",
        about: "the same, 1 of 32 starved",
        target: "0",
        unit: "",
        seeds: 25,
        measure: |seed| vec![Sample::settled(seed, 32, CALM).mistaken(true, HOUR).0 as f64],
    },
    Figure {
        name: "false-own",
        about: "healthy nodes taken for dead by the starved one itself, 1 h",
        target: "-",
        unit: "",
        seeds: 10,
        measure: |seed| vec![Sample::settled(seed, 32, CALM).mistaken(true, HOUR).1 as f64],
    },
    Figure {
        name: "bytes-100",
        about: "gossip that a node sends, steady, sealed, with UDP/IP, 100 nodes, 1,000 topics",
        target: "<= 390 B/s",
        unit: "B/s",
        seeds: 3,
        measure: |seed| steady(seed, 100),
    },
    Figure {
        name: "bytes-1000",
        about: "the same, 1,000 nodes",
        target: "<= 1,000 B/s",
        unit: "B/s",
        seeds: 1,
        measure: |seed| steady(seed, 1_000),
    },
    Figure {
        name: "join-100-wan",
        about: "every node sees every node, 100 join at once, 1 % loss, far away",
        target: "-",
        unit: "s",
        seeds: 20,
        measure: |seed| {
            all(Sample::new(seed, 100, Weather { distance: Distance::Wan, ..LOSSY }).joined().all)
        },
    },
];

const HOUR: Duration = Duration::from_secs(3_600);

/// What never happened.
const NEVER: f64 = f64::INFINITY;

fn all(time: Option<Duration>) -> Vec<f64> {
    vec![time.map_or(NEVER, |time| time.as_secs_f64())]
}

fn publishes(seed: u64, nodes: usize, weather: Weather) -> Vec<f64> {
    let mut sample = Sample::settled(seed, nodes, weather);
    let arrivals = (0..10).flat_map(|_| sample.first_publish().each);
    arrivals.map(|time| time.as_secs_f64()).collect()
}

fn losses(seed: u64, nodes: usize, is_host: bool, times: usize) -> Vec<f64> {
    let mut sample = Sample::settled(seed, nodes, CALM);
    (0..times).flat_map(|_| all(sample.lost(is_host).all)).collect()
}

fn heals(seed: u64, nodes: usize) -> Vec<f64> {
    let cut = [10, 30, 60, 120][usize::try_from(seed % 4).unwrap_or(0)];
    all(Sample::settled(seed, nodes, CALM).healed(Duration::from_secs(cut)))
}

/// Each node's rate, exchanges included.
fn steady(seed: u64, nodes: usize) -> Vec<f64> {
    Sample::settled(seed, nodes, CALM)
        .steady(1_000)
        .into_iter()
        .map(|(datagrams, exchanges)| datagrams + exchanges)
        .collect()
}

/// Measures the figure called `only`, or else those whose names start with it, and prints a row for each.
///
/// # Errors
///
/// When standard output does.
pub fn report(only: &str, first: u64, seeds: Option<u64>, workers: u64) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(
        out,
        "| | to reach | median | p99 | max | values | seeds | wall s |\n|---|---|---|---|---|---|---|---|"
    )?;
    let is_name = FIGURES.iter().any(|figure| figure.name == only);
    let wanted = |name: &str| if is_name { name == only } else { name.starts_with(only) };
    for figure in FIGURES.iter().filter(|figure| wanted(figure.name)) {
        let seeds = seeds.unwrap_or(figure.seeds);
        #[expect(clippy::disallowed_methods, reason = "tells how long the measurement took")]
        let begin = Instant::now();
        let mut values = values(figure, first, seeds, workers);
        values.sort_by(f64::total_cmp);
        writeln!(
            out,
            "| {}: {} | {} | {} | {} | {} | {} | {seeds} | {:.1} |",
            figure.name,
            figure.about,
            figure.target,
            show(quantile(&values, 0.5), figure.unit),
            show(quantile(&values, 0.99), figure.unit),
            show(quantile(&values, 1.0), figure.unit),
            values.len(),
            begin.elapsed().as_secs_f64(),
        )?;
        out.flush()?;
    }
    Ok(())
}

fn values(figure: &Figure, first: u64, seeds: u64, workers: u64) -> Vec<f64> {
    let (next, values) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..workers.max(1) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= seeds {
                        break;
                    }
                    let measured = (figure.measure)(first + index);
                    values.lock().unwrap_or_else(PoisonError::into_inner).extend(measured);
                }
            });
        }
    });
    values.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The value below or at which so much of `sorted` lies.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    // The product is below the length, which is far below what an f64 holds exactly.
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

fn show(value: f64, unit: &str) -> String {
    match unit {
        _ if value.is_infinite() => "never".to_owned(),
        "s" => format!("{value:.3} s"),
        "" => format!("{value:.0}"),
        unit => format!("{value:.0} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let sorted: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|part| quantile(&sorted, part)), [100.0, 198.0, 200.0]);
        assert_eq!(quantile(&[7.0], 0.99), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn names_tell_figures_apart() {
        for (index, figure) in FIGURES.iter().enumerate() {
            assert!(FIGURES.iter().skip(index + 1).all(|other| other.name != figure.name), "{}", figure.name);
        }
    }
}
