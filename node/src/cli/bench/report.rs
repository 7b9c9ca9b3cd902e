//! What a run found, for people and for programs.

use std::{
    fmt::{self, Display, Formatter},
    process::ExitCode,
};

use anyhow::Result;
use serde::Serialize;

use super::{
    latency::LatencySummary,
    process::{Meter, Used, load_average},
    tally::Verdict,
};

/// The result of one run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    /// Which benchmark: `pub`, `sub`, `flow`, `e2e` or `idle`.
    pub(super) bench: &'static str,
    /// What was done, in words.
    pub(super) what: String,
    /// What the figures "per message" are per: messages, or subscribers.
    pub(super) unit: &'static str,
    /// How many of these.
    pub(super) count: u64,
    /// How long they took.
    pub(super) seconds: f64,
    /// Rate.
    pub(super) per_second: f64,
    /// CPU time of the server for each, microseconds; needs `--pid`.
    pub(super) server_cpu_us: Option<f64>,
    /// CPU time of the load generator for each, microseconds.
    pub(super) client_cpu_us: f64,
    /// What the server used in all; needs `--pid`.
    pub(super) server: Option<Used>,
    /// What the load generator used in all.
    pub(super) client: Used,
    /// Growth of the server's resident memory for each, bytes; needs `--pid`.
    pub(super) server_rss_growth: Option<f64>,
    /// Latencies, of which kind `latency_is` says.
    pub(super) latency: Option<LatencySummary>,
    /// From when to when the latencies are.
    pub(super) latency_is: &'static str,
    /// How late a paced generator sent.
    pub(super) lateness: Option<LatencySummary>,
    /// What each channel delivered.
    pub(super) channels: Vec<Verdict>,
    /// What was found wrong; empty when all is well.
    pub(super) faults: Vec<String>,
    /// The machine's load averages at the end.
    pub(super) load_average: Option<[f64; 3]>,
}

impl Report {
    /// The result of `count` units in `seconds`, with what `meter` has seen until now.
    ///
    /// # Errors
    /// The server's process cannot be read any more.
    pub(super) fn new(
        bench: &'static str,
        what: String,
        (count, unit): (u64, &'static str),
        seconds: f64,
        meter: &Meter,
    ) -> Result<Self> {
        let (server, client) = meter.stop()?;
        let each = |total: f64| if count == 0 { 0.0 } else { total / count as f64 };
        Ok(Self {
            bench,
            what,
            unit,
            count,
            seconds,
            per_second: if seconds > 0.0 { count as f64 / seconds } else { 0.0 },
            server_cpu_us: server.map(|used| each(used.cpu_seconds * 1e6)),
            client_cpu_us: each(client.cpu_seconds * 1e6),
            server,
            client,
            server_rss_growth: server.map(|used| each(used.rss_after as f64 - used.rss_before as f64)),
            latency: None,
            latency_is: "",
            lateness: None,
            channels: Vec::new(),
            faults: Vec::new(),
            load_average: load_average(),
        })
    }

    /// Adds what a channel delivered, and that it is a fault if it is one.
    pub(super) fn add_channel(&mut self, verdict: Verdict) {
        if !verdict.is_good() {
            let Verdict { missing, repeated, redelivered, damaged, shared_ids, .. } = &verdict;
            let number = self.channels.len();
            self.faults.push(format!(
                "channel {number}: {missing} missing, {repeated} repeated ({redelivered} marked as redelivered), \
                 {damaged} damaged, {shared_ids} with the id of another"
            ));
        }
        self.channels.push(verdict);
    }

    /// Prints the result on stdout, as one line of JSON or as text. The exit code tells whether all was well.
    ///
    /// # Errors
    /// Never in practice: the report can always be written as JSON.
    pub(super) fn print(&self, json: bool) -> Result<ExitCode> {
        if json {
            println!("{}", serde_json::to_string(self)?);
        } else {
            print!("{self}");
        }
        Ok(if self.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let unit = self.unit;
        writeln!(f, "{}: {}", self.bench, self.what)?;
        let count = grouped(self.count as f64);
        let rate = grouped(self.per_second);
        writeln!(f, "  rate        {rate} {unit}s/s ({count} in {:.3} s)", self.seconds)?;
        if let (Some(each), Some(used)) = (self.server_cpu_us, self.server) {
            let cores = used.cpu_seconds / self.seconds.max(1e-9);
            writeln!(f, "  server CPU  {each:.3} µs a {unit} ({:.2} s, {cores:.2} cores)", used.cpu_seconds)?;
        }
        let cores = self.client.cpu_seconds / self.seconds.max(1e-9);
        writeln!(f, "  client CPU  {:.3} µs a {unit} ({cores:.2} cores)", self.client_cpu_us)?;
        if let (Some(each), Some(used)) = (self.server_rss_growth, self.server) {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            let (before, after) = (mib(used.rss_before), mib(used.rss_after));
            writeln!(f, "  server RSS  {before:.1} MiB before, {after:.1} MiB after ({each:.1} B a {unit})")?;
        }
        if let Some(latency) = &self.latency {
            writeln!(f, "  latency     {latency} ({})", self.latency_is)?;
        }
        if let Some(lateness) = &self.lateness {
            writeln!(f, "  lateness    {lateness} (due time to sending: the load generator's own share)")?;
        }
        for (number, channel) in self.channels.iter().enumerate() {
            writeln!(f, "  channel {number:<3} {channel}")?;
        }
        if let Some([one, five, fifteen]) = self.load_average {
            writeln!(f, "  load        {one:.2} {five:.2} {fifteen:.2}")?;
        }
        self.faults.iter().try_for_each(|fault| writeln!(f, "  FAULT       {fault}"))
    }
}

impl Display for LatencySummary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { p50_us, p90_us, p99_us, p999_us, max_us, .. } = self;
        write!(f, "p50 {p50_us:.0} p90 {p90_us:.0} p99 {p99_us:.0} p99.9 {p999_us:.0} max {max_us:.0} µs")
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { distinct, missing, repeated, damaged, foreign, .. } = self;
        write!(
            f,
            "{} messages, {missing} missing, {repeated} repeated, {damaged} damaged, {foreign} of other runs",
            grouped(*distinct as f64)
        )
    }
}

/// A whole number with commas between its thousands.
pub(super) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let meter = Meter::start(&[std::process::id()]).unwrap();
        Report::new("pub", "a test".to_owned(), (1_234_567, "message"), 0.5, &meter).unwrap()
    }

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0.0, "0"), (999.4, "999"), (1000.0, "1,000"), (1_234_567.0, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn a_fault_of_a_channel_fails_the_run_and_is_told() {
        let mut report = report();
        report.add_channel(Verdict { distinct: 5, ..Verdict::default() });
        assert_eq!(report.faults, [""; 0]);
        report.add_channel(Verdict { missing: 2, ..Verdict::default() });
        assert!(report.faults[0].contains("channel 1: 2 missing"), "{:?}", report.faults);
        let text = report.to_string();
        assert!(text.contains("2,469,134 messages/s") && text.contains("FAULT"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(json["count"], 1_234_567);
        assert_eq!(json["channels"][1]["missing"], 2);
    }

    #[test]
    fn nothing_done_is_no_division_by_zero() {
        let meter = Meter::start(&[]).unwrap();
        let report = Report::new("pub", String::new(), (0, "message"), 0.0, &meter).unwrap();
        assert_eq!((report.per_second, report.client_cpu_us), (0.0, 0.0));
    }
}
