//! The settings of statsd and of latencies: how they are written, and what cannot hold.

use std::time::Duration;

use super::{
    check::{at_least, out_of_range},
    form::{Form, GoDuration, parts},
};
use crate::config::Config;

/// Quantiles that can be shown.
const PERCENTILES_MAX: usize = 16;
/// Bounds of a datagram for statsd, bytes: one line fits, and UDP carries it.
const PACKET_SIZES: std::ops::RangeInclusive<usize> = 256..=65_507;
/// Shortest time between two passes of statsd.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Longest window of latencies.
const WINDOW_MAX: Duration = Duration::from_secs(7 * 86_400);

/// `host:port`, or nothing.
pub(super) struct HostOrOff;
/// Go's switches.
pub(super) struct OnOff;
/// Numbers over 0 and up to 1, several with commas.
pub(super) struct Percentiles;

/// Says what cannot hold.
pub(super) fn check(config: &Config, problems: &mut Vec<String>) {
    let (statsd, latency) = (&config.statsd, &config.latency);
    at_least("statsd-interval", statsd.interval, INTERVAL_MIN, problems);
    if !PACKET_SIZES.contains(&statsd.packet_size) {
        let (least, most) = (PACKET_SIZES.start(), PACKET_SIZES.end());
        problems.push(out_of_range("statsd-udp-packet-size", statsd.packet_size, least, most));
    }
    at_least("e2e-processing-latency-window-time", latency.window, Duration::from_secs(1), problems);
    if latency.window > WINDOW_MAX {
        let (shown, most) = (GoDuration::show(&latency.window), GoDuration::show(&WINDOW_MAX));
        problems.push(out_of_range("e2e-processing-latency-window-time", shown, "1s", most));
    }
    if latency.percentiles.len() > PERCENTILES_MAX {
        problems.push(format!(
            "--e2e-processing-latency-percentile is given {} times: write the {PERCENTILES_MAX} that matter",
            latency.percentiles.len()
        ));
    }
}

impl Form<Option<String>> for HostOrOff {
    fn parse(text: &str) -> Result<Option<String>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let (host, port) = text.rsplit_once(':').unwrap_or_default();
        let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
        let is_of_a_host = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
        let is_host = !host.is_empty() && host.chars().all(is_of_a_host);
        let is_address = is_port && is_host && host.contains(':') == host.starts_with('[');
        is_address.then(|| Some(text.to_owned())).ok_or_else(|| "is no address: write host:port".to_owned())
    }

    fn show(value: &Option<String>) -> String {
        value.clone().unwrap_or_default()
    }
}

impl Form<bool> for OnOff {
    fn parse(text: &str) -> Result<bool, String> {
        match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" | "" => Ok(false),
            _ => Err("is neither true nor false".to_owned()),
        }
    }

    fn show(value: &bool) -> String {
        value.to_string()
    }
}

impl Form<Vec<f64>> for Percentiles {
    fn parse(text: &str) -> Result<Vec<f64>, String> {
        let percentile = |part: &str| {
            let number = part.parse::<f64>().ok().filter(|number| *number > 0.0 && *number <= 1.0);
            number.ok_or_else(|| {
                format!("has {part:?} in it: write numbers over 0 and up to 1, as in 0.99,0.95")
            })
        };
        parts(text).map(percentile).collect()
    }

    fn show(value: &Vec<f64>) -> String {
        value.iter().map(f64::to_string).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_shown() {
        for text in ["", "127.0.0.1:8125", "statsd.example:1", "[::1]:8125"] {
            assert_eq!(HostOrOff::show(&HostOrOff::parse(text).unwrap()), text);
        }
        for text in ["host", "host:", "host:0", ":8125", "::1:8125", "a b:1", "http://a:1"] {
            assert!(HostOrOff::parse(text).is_err(), "{text}");
        }
        assert_eq!(Percentiles::parse("1.0, 0.99,0.5"), Ok(vec![1.0, 0.99, 0.5]));
        assert_eq!(Percentiles::show(&vec![1.0, 0.995]), "1,0.995");
        for text in ["0", "1.1", "-1", "99", "NaN", "x"] {
            assert!(Percentiles::parse(text).unwrap_err().contains("up to 1"), "{text}");
        }
        assert_eq!((OnOff::parse("T"), OnOff::parse("0")), (Ok(true), Ok(false)));
        assert!(OnOff::parse("yes").is_err());
    }

    #[test]
    fn sizes_and_times_have_bounds() {
        let mut config = Config::default();
        config.statsd.interval = Duration::ZERO;
        config.statsd.packet_size = 10;
        config.latency.window = Duration::from_secs(30 * 86_400);
        config.latency.percentiles = vec![0.5; 17];
        let mut problems = Vec::new();
        check(&config, &mut problems);
        let expected = [
            "--statsd-interval is 0s: write 100ms or more",
            "--statsd-udp-packet-size is 10: write something from 256 to 65507",
            "--e2e-processing-latency-window-time is 720h: write something from 1s to 168h",
            "--e2e-processing-latency-percentile is given 17 times: write the 16 that matter",
        ];
        assert_eq!(problems, expected);
    }
}
