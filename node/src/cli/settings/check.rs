//! What settings have to satisfy, alone and together.

use std::{fmt::Display, time::Duration};

use bruit_gossip::{ADDRESSES_MAX, TEXT_MAX};

use super::{
    auth, figures,
    form::{Form, GoDuration, Size},
    mesh, tls,
};
use crate::{
    config::{Config, JournalConfig, Limits},
    env::ALIGNMENT,
    lookupd::LOOKUPDS_MAX,
};

/// Largest body that can be asked for, bytes: a node takes one into memory whole.
const BODY_MAX: usize = 32 << 20;
/// Bounds of a segment file, bytes.
const SEGMENT_SIZES: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 30;
/// The shortest heartbeat interval that clients may ask for, by NSQ's rules.
const HEARTBEAT_MIN: Duration = Duration::from_secs(1);
/// The shortest patience with a silent client that leaves it time for an answer.
const CLIENT_TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// Longest wait of a FIN: longer ones would redeliver much after a crash.
const FINISH_DELAY_MAX: Duration = Duration::from_secs(10);

/// Says what cannot hold in `config` and what to do about it. Nothing, if all is well.
pub(super) fn check(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    addresses(config, &mut problems);
    mesh::check(&config.mesh, &mut problems);
    sizes(&config.limits, &mut problems);
    times(&config.limits, &mut problems);
    let silence = config.classic.inactive_producer_timeout;
    at_least("inactive-producer-timeout", silence, Duration::from_secs(1), &mut problems);
    journal(&config.journal, &mut problems);
    tls::check(config, &mut problems);
    auth::check(&config.auth, &mut problems);
    figures::check(config, &mut problems);
    problems
}

fn addresses(config: &Config, problems: &mut Vec<String>) {
    let listeners = [
        ("--tcp-address", Some(config.tcp_address)),
        ("--http-address", config.http_address),
        ("--lookupd-http-address", config.mesh.lookupd_http_address),
        ("--https-address", config.https_address.filter(|_| config.tls.is_on())),
        ("--lookupd-listen-tcp-address", config.classic.listen),
    ];
    for (place, (flag, address)) in listeners.iter().enumerate() {
        let taken = address.filter(|address| address.port() != 0);
        let twin = listeners[..place].iter().find(|(_, other)| taken.is_some() && *other == taken);
        if let (Some((twin, _)), Some(address)) = (twin, taken) {
            problems.push(format!(
                "{twin} and {flag} are both {address}: give them different ports, or turn the second off with \
                 {flag}="
            ));
        }
    }
    let lookupds = config.classic.lookupds.len();
    if lookupds > LOOKUPDS_MAX {
        problems
            .push(format!("--lookupd-tcp-address is given {lookupds} times: write at most {LOOKUPDS_MAX}"));
    }
    let told = &config.broadcast_addresses;
    if told.len() > ADDRESSES_MAX {
        problems.push(format!(
            "--broadcast-address is given {} times: write the {ADDRESSES_MAX} that matter",
            told.len()
        ));
    }
    let mut texts: Vec<(&str, &String)> = told.iter().map(|text| ("broadcast-address", text)).collect();
    texts.push(("topology-region", &config.topology_region));
    texts.push(("topology-zone", &config.topology_zone));
    for (name, text) in texts.into_iter().filter(|(_, text)| text.len() > TEXT_MAX) {
        problems.push(format!("--{name} has {} bytes: write at most {TEXT_MAX}", text.len()));
    }
}

fn sizes(limits: &Limits, problems: &mut Vec<String>) {
    for (name, value) in [("max-msg-size", limits.max_msg_size), ("max-body-size", limits.max_body_size)] {
        if value == 0 || value > BODY_MAX {
            problems.push(out_of_range(name, Size::show(&value), 1, Size::show(&BODY_MAX)));
        }
    }
    if limits.max_rdy_count == 0 {
        problems.push("--max-rdy-count is 0, so that nothing could be delivered: write 1 or more".to_owned());
    }
    if limits.max_connections == 0 {
        problems.push("--max-connections is 0, so that nobody could connect: write 1 or more".to_owned());
    }
    let largest = limits.max_msg_size.max(limits.max_body_size);
    if limits.max_unfinished_input < largest {
        problems.push(format!(
            "--max-unfinished-input is {}, in which a body of {} never fits: raise it, or lower --max-msg-size and \
             --max-body-size",
            Size::show(&limits.max_unfinished_input),
            Size::show(&largest)
        ));
    }
    if limits.max_http_connections == 0 {
        problems.push("--max-http-connections is 0: turn HTTP off with --http-address= instead".to_owned());
    }
    if limits.max_output_buffer_size < 64 {
        problems.push(format!(
            "--max-output-buffer-size is {}: write 64 or more, the smallest buffer that clients may ask for",
            limits.max_output_buffer_size
        ));
    }
}

fn times(limits: &Limits, problems: &mut Vec<String>) {
    at_least("msg-timeout", limits.msg_timeout, Duration::from_millis(1), problems);
    at_least("opening-timeout", limits.opening_timeout, CLIENT_TIMEOUT_MIN, problems);
    at_least("command-timeout", limits.command_timeout, CLIENT_TIMEOUT_MIN, problems);
    at_least("client-timeout", limits.client_timeout, CLIENT_TIMEOUT_MIN, problems);
    at_least("max-heartbeat-interval", limits.max_heartbeat_interval, HEARTBEAT_MIN, problems);
    let shortest = limits.min_output_buffer_timeout;
    at_least("max-output-buffer-timeout", limits.max_output_buffer_timeout, shortest, problems);
    at_most("msg-timeout", limits.msg_timeout, "max-msg-timeout", limits.max_msg_timeout, problems);
    at_most(
        "output-buffer-timeout",
        limits.output_buffer_timeout,
        "max-output-buffer-timeout",
        limits.max_output_buffer_timeout,
        problems,
    );
}

fn journal(journal: &JournalConfig, problems: &mut Vec<String>) {
    let size = journal.segment_size;
    if !SEGMENT_SIZES.contains(&size) {
        let (least, most) = (Size::show(SEGMENT_SIZES.start()), Size::show(SEGMENT_SIZES.end()));
        problems.push(out_of_range("segment-size", Size::show(&size), least, most));
    } else if !size.is_multiple_of(ALIGNMENT as u64) {
        let below = Size::show(&(size - size % ALIGNMENT as u64));
        problems.push(format!("--segment-size is {size}, no multiple of {ALIGNMENT}: write {below}, say"));
    }
    if journal.finish_delay > FINISH_DELAY_MAX {
        let (shown, most) = (GoDuration::show(&journal.finish_delay), GoDuration::show(&FINISH_DELAY_MAX));
        problems.push(out_of_range("finish-delay", shown, "0s", most));
    }
}

pub(super) fn out_of_range(
    name: &str,
    value: impl Display,
    least: impl Display,
    most: impl Display,
) -> String {
    format!("--{name} is {value}: write something from {least} to {most}")
}

pub(super) fn at_least(name: &str, value: Duration, least: Duration, problems: &mut Vec<String>) {
    if value < least {
        let (value, least) = (GoDuration::show(&value), GoDuration::show(&least));
        problems.push(format!("--{name} is {value}: write {least} or more"));
    }
}

fn at_most(name: &str, value: Duration, bound: &str, most: Duration, problems: &mut Vec<String>) {
    if value > most {
        let (value, most) = (GoDuration::show(&value), GoDuration::show(&most));
        problems.push(format!(
            "--{name} is {value}, more than --{bound}, which is {most}: lower the first or raise the second"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        check(&config)
    }

    fn refuses(because: &str, change: impl FnOnce(&mut Config)) {
        let problems = problems(change);
        assert!(problems.len() == 1 && problems[0].contains(because), "{because}: {problems:?}");
    }

    #[test]
    fn the_default_is_sound() {
        assert_eq!(check(&Config::default()), Vec::<String>::new());
    }

    #[test]
    fn one_address_cannot_serve_both() {
        refuses("different ports", |config| config.http_address = Some(config.tcp_address));
        let any = problems(|config| {
            config.tcp_address.set_port(0);
            config.http_address = Some(config.tcp_address);
        });
        assert_eq!(any, Vec::<String>::new());
        refuses("--http-address and --lookupd-http-address are both", |config| {
            config.mesh.lookupd_http_address = config.http_address;
        });
    }

    #[test]
    fn what_is_told_to_others_is_short() {
        refuses("is given 9 times: write the 8 that matter", |config| {
            config.broadcast_addresses = vec!["a".to_owned(); 9];
        });
        refuses("--topology-zone has 256 bytes: write at most 255", |config| {
            config.topology_zone = "z".repeat(256);
        });
    }

    #[test]
    fn sizes_have_bounds() {
        refuses("--max-body-size is 64MiB: write something from 1 to 32MiB", |config| {
            config.limits.max_body_size = 64 << 20;
        });
        refuses("--max-msg-size is 0", |config| config.limits.max_msg_size = 0);
        refuses("--max-rdy-count is 0", |config| config.limits.max_rdy_count = 0);
        refuses("--max-connections is 0", |config| config.limits.max_connections = 0);
        refuses("--max-http-connections is 0", |config| config.limits.max_http_connections = 0);
        refuses("--max-unfinished-input is 4MiB, in which a body of 5MiB never fits", |config| {
            config.limits.max_unfinished_input = 4 << 20;
        });
        refuses("write 64 or more", |config| config.limits.max_output_buffer_size = 63);
        refuses("--segment-size is 4KiB: write something from 64KiB to 1GiB", |config| {
            config.journal.segment_size = 4096;
        });
        refuses("from 64KiB to 1GiB", |config| config.journal.segment_size = 2 << 30);
        refuses("--segment-size is 1000000, no multiple of 4096: write 976KiB, say", |config| {
            config.journal.segment_size = 1_000_000;
        });
    }

    #[test]
    fn times_have_bounds() {
        refuses("more than --max-msg-timeout, which is 15m: lower the first", |config| {
            config.limits.msg_timeout = Duration::from_secs(3600);
        });
        refuses("--msg-timeout is 0s: write 1ms or more", |config| {
            config.limits.msg_timeout = Duration::ZERO
        });
        refuses("--opening-timeout is 1ms: write 100ms or more", |config| {
            config.limits.opening_timeout = Duration::from_millis(1);
        });
        refuses("--client-timeout is 10ms: write 100ms or more", |config| {
            config.limits.client_timeout = Duration::from_millis(10);
        });
        refuses("--max-heartbeat-interval is 0s: write 1s", |config| {
            config.limits.max_heartbeat_interval = Duration::ZERO;
        });
        refuses("--output-buffer-timeout is 1m, more than --max-output-buffer-timeout", |config| {
            config.limits.output_buffer_timeout = Duration::from_secs(60);
        });
        refuses("--max-output-buffer-timeout is 30s: write 1m or more", |config| {
            config.limits.min_output_buffer_timeout = Duration::from_secs(60);
        });
        refuses("--finish-delay is 1m", |config| config.journal.finish_delay = Duration::from_secs(60));
    }
}
