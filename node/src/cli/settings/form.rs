//! How values are written: durations as Go writes them, sizes with units, addresses as nsqd takes them.
//!
//! Each form reads a text and shows a value again; errors say what would have been right.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

use bruit_gossip::{Profile, TEXT_MAX};

use crate::config::{Durability, DurabilityRule, Relay};

/// The port for gossip, where none is given.
const GOSSIP_PORT: u16 = 4160;

/// A way to write values of type `T`.
pub(super) trait Form<T> {
    /// Reads a value; the error completes a sentence that begins with the setting and the text.
    fn parse(text: &str) -> Result<T, String>;
    /// Writes a value so that [`Form::parse`] reads the same.
    fn show(value: &T) -> String;
}

/// `1h30m`, `250ms`: Go's durations.
pub(super) struct GoDuration;
/// `65536`, `64KiB`, `1MB`.
pub(super) struct Size;
/// A plain number.
pub(super) struct Count;
/// Any text.
pub(super) struct Text;
/// Several texts, with commas between them; empty ones do not count.
pub(super) struct Texts;
/// A file system path.
pub(super) struct PathText;
/// `host:port`, or `:port` for all addresses of the machine.
pub(super) struct Address;
/// As [`Address`], or nothing to turn it off.
pub(super) struct AddressOrOff;
/// A port to announce, or 0 for the one that is listened on.
pub(super) struct PortOrSame;
/// `fsync` or `os`.
pub(super) struct Level;
/// `PATTERN=LEVEL`, several with commas.
pub(super) struct Rules;
/// `debug`, `info`, `warn`, `error` or `fatal`.
pub(super) struct LogLevel;
/// What lines of the log begin with, or nothing.
pub(super) struct LogPrefix;
/// `lan`, `wan` or `local`.
pub(super) struct ProfileName;
/// `auto` or `off`.
pub(super) struct RelayMode;
/// `host:port` of other nodes, several with commas; the port may be left out.
pub(super) struct Peers;

impl Form<Option<String>> for LogPrefix {
    fn parse(text: &str) -> Result<Option<String>, String> {
        if text.chars().any(char::is_control) {
            return Err("holds control characters: write plain text".to_owned());
        }
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    fn show(value: &Option<String>) -> String {
        value.clone().unwrap_or_default()
    }
}

impl Form<Duration> for GoDuration {
    fn parse(text: &str) -> Result<Duration, String> {
        let wrong = || "is no duration: write a number and a unit, as in 250ms, 60s or 1h30m".to_owned();
        let mut rest = text;
        if rest == "0" {
            return Ok(Duration::ZERO);
        }
        if rest.is_empty() {
            return Err(wrong());
        }
        let mut nanos = 0_f64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let (number, tail) = rest.split_at(digits);
            let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let number: f64 = number.parse().map_err(|_| wrong())?;
            nanos += number * nanos_per(unit).ok_or_else(wrong)?;
            rest = tail;
        }
        // Go holds a duration in 63 bits of nanoseconds, some 292 years.
        if nanos > i64::MAX as f64 {
            return Err("is too long: the longest duration is 292 years".to_owned());
        }
        Ok(Duration::from_nanos(nanos.round() as u64))
    }

    fn show(value: &Duration) -> String {
        let mut nanos = value.as_nanos();
        if nanos == 0 {
            return "0s".to_owned();
        }
        let mut shown = String::new();
        for unit in ["h", "m", "s", "ms", "us", "ns"] {
            let per = nanos_per(unit).map_or(1, |per| per as u128);
            if nanos >= per {
                shown.push_str(&format!("{}{unit}", nanos / per));
                nanos %= per;
            }
        }
        shown
    }
}

fn nanos_per(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3600e9,
        _ => return None,
    })
}

const SIZE_UNITS: [(&str, u64); 7] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
];

impl<T: Copy + TryFrom<u64> + TryInto<u64>> Form<T> for Size {
    fn parse(text: &str) -> Result<T, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start();
        let named = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
        let factor = match named {
            Some((_, factor)) => Some(*factor),
            None => (unit.is_empty() || unit.eq_ignore_ascii_case("b")).then_some(1),
        };
        let number: Option<u64> = number.parse().ok();
        let (Some(number), Some(factor)) = (number, factor) else {
            return Err("is no size: write bytes, or a whole number and KiB, MiB or GiB".to_owned());
        };
        let bytes = number.checked_mul(factor).and_then(|bytes| T::try_from(bytes).ok());
        bytes.ok_or_else(|| "is larger than this machine can count".to_owned())
    }

    fn show(value: &T) -> String {
        let bytes: u64 = (*value).try_into().unwrap_or(u64::MAX);
        // The units that are powers of two come first and are the only ones shown.
        let unit = SIZE_UNITS[..4].iter().find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor));
        unit.map_or_else(|| bytes.to_string(), |(name, factor)| format!("{}{name}", bytes / factor))
    }
}

impl<T: Copy + TryFrom<u64> + TryInto<u64>> Form<T> for Count {
    fn parse(text: &str) -> Result<T, String> {
        let number: u64 = text.parse().map_err(|_| "is no whole number of 0 or more".to_owned())?;
        T::try_from(number).map_err(|_| "is larger than this machine can count".to_owned())
    }

    fn show(value: &T) -> String {
        (*value).try_into().unwrap_or(u64::MAX).to_string()
    }
}

impl Form<String> for Text {
    fn parse(text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }

    fn show(value: &String) -> String {
        value.clone()
    }
}

impl Form<Vec<String>> for Texts {
    fn parse(text: &str) -> Result<Vec<String>, String> {
        Ok(parts(text).map(str::to_owned).collect())
    }

    fn show(value: &Vec<String>) -> String {
        value.join(",")
    }
}

/// The texts between the commas of a list.
pub(super) fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

impl Form<PathBuf> for PathText {
    fn parse(text: &str) -> Result<PathBuf, String> {
        if text.is_empty() { Err("is empty: name a directory".to_owned()) } else { Ok(text.into()) }
    }

    fn show(value: &PathBuf) -> String {
        value.display().to_string()
    }
}

impl Form<SocketAddr> for Address {
    fn parse(text: &str) -> Result<SocketAddr, String> {
        let all_addresses = text.strip_prefix(':').map(|port| format!("{}:{port}", Ipv4Addr::UNSPECIFIED));
        let spelled = all_addresses.as_deref().unwrap_or(text);
        if let Ok(address) = spelled.parse() {
            return Ok(address);
        }
        let form = "write host:port, as in 127.0.0.1:4150, or :4150 for all addresses of this machine";
        match spelled.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                let mut found =
                    spelled.to_socket_addrs().map_err(|error| format!("cannot be found: {error}"))?;
                found.next().ok_or_else(|| "has no address".to_owned())
            }
            _ => Err(format!("is no address: {form}")),
        }
    }

    fn show(value: &SocketAddr) -> String {
        value.to_string()
    }
}

impl Form<Option<SocketAddr>> for AddressOrOff {
    fn parse(text: &str) -> Result<Option<SocketAddr>, String> {
        if text.is_empty() { Ok(None) } else { Address::parse(text).map(Some) }
    }

    fn show(value: &Option<SocketAddr>) -> String {
        value.map(|address| address.to_string()).unwrap_or_default()
    }
}

impl Form<Option<u16>> for PortOrSame {
    fn parse(text: &str) -> Result<Option<u16>, String> {
        let port: u16 = text.parse().map_err(|_| "is no port: write a number from 0 to 65535".to_owned())?;
        Ok((port != 0).then_some(port))
    }

    fn show(value: &Option<u16>) -> String {
        value.unwrap_or(0).to_string()
    }
}

impl Form<Durability> for Level {
    fn parse(text: &str) -> Result<Durability, String> {
        match text {
            "fsync" => Ok(Durability::Fsync),
            "os" => Ok(Durability::Os),
            "memory" => Err("is for topics only whose names end in #ephemeral: write fsync or os".to_owned()),
            _ => Err("is no durability: write fsync (synced to disk before OK) or os (handed to the \
                      operating system before OK)"
                .to_owned()),
        }
    }

    fn show(value: &Durability) -> String {
        let level = match value {
            Durability::Memory => "memory",
            Durability::Os => "os",
            Durability::Fsync => "fsync",
        };
        level.to_owned()
    }
}

impl Form<Vec<DurabilityRule>> for Rules {
    fn parse(text: &str) -> Result<Vec<DurabilityRule>, String> {
        text.split(',').filter(|rule| !rule.is_empty()).map(rule).collect()
    }

    fn show(value: &Vec<DurabilityRule>) -> String {
        let rules: Vec<String> =
            value.iter().map(|rule| format!("{}={}", rule.pattern, Level::show(&rule.durability))).collect();
        rules.join(",")
    }
}

fn rule(text: &str) -> Result<DurabilityRule, String> {
    let Some((pattern, level)) = text.split_once('=') else {
        return Err("is no rule: write PATTERN=LEVEL, as in metrics.*=os".to_owned());
    };
    let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '*');
    if pattern.is_empty() || !pattern.chars().all(is_of_a_name) {
        return Err(format!(
            "cannot match a topic: {pattern:?} should be made of letters, digits, '.', '_', '-', and '*' for \
             any run of them"
        ));
    }
    let durability = Level::parse(level).map_err(|error| format!("({level}) {error}"))?;
    Ok(DurabilityRule { pattern: pattern.to_owned(), durability })
}

impl Form<String> for LogLevel {
    fn parse(text: &str) -> Result<String, String> {
        let level = text.to_ascii_lowercase();
        let is_known = log_level(&level).is_some();
        is_known
            .then_some(level)
            .ok_or_else(|| "is no log level: write debug, info, warn, error or fatal".to_owned())
    }

    fn show(value: &String) -> String {
        value.clone()
    }
}

impl Form<Profile> for ProfileName {
    fn parse(text: &str) -> Result<Profile, String> {
        text.parse().map_err(|_| "is no gossip profile: write lan, wan or local".to_owned())
    }

    fn show(value: &Profile) -> String {
        value.to_string()
    }
}

impl Form<Relay> for RelayMode {
    fn parse(text: &str) -> Result<Relay, String> {
        match text {
            "auto" => Ok(Relay::Auto),
            "off" => Ok(Relay::Off),
            _ => Err("is no way to relay: write auto or off".to_owned()),
        }
    }

    fn show(value: &Relay) -> String {
        match value {
            Relay::Auto => "auto",
            Relay::Off => "off",
        }
        .to_owned()
    }
}

impl Form<Vec<String>> for Peers {
    fn parse(text: &str) -> Result<Vec<String>, String> {
        parts(text).map(|part| peer(part).ok_or_else(|| not_a_peer(part))).collect()
    }

    fn show(value: &Vec<String>) -> String {
        value.join(",")
    }
}

fn not_a_peer(part: &str) -> String {
    format!(
        "cannot be joined: {part:?} is no address of a node: write host:port, or host for port {GOSSIP_PORT}"
    )
}

/// A duration as Go writes it.
///
/// # Errors
/// What would have been right.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    GoDuration::parse(text)
}

/// Where another node takes gossip, as `host:port`, from a text that may leave out the port. `None` if it is
/// no address; whether the host exists is not asked.
pub(crate) fn peer(text: &str) -> Option<String> {
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Some(SocketAddr::new(address, GOSSIP_PORT).to_string());
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let port = if port.is_empty() && !text.ends_with(':') { GOSSIP_PORT } else { port.parse().ok()? };
    if text.starts_with('[') {
        return text.parse::<SocketAddr>().ok().map(|address| address.to_string()).filter(|_| port != 0);
    }
    let is_of_a_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_host = !host.is_empty() && host.len() <= TEXT_MAX && host.chars().all(is_of_a_host);
    (is_host && port != 0).then(|| format!("{host}:{port}"))
}

/// What NSQ's log level means here. `None` if it is none.
pub(crate) fn log_level(text: &str) -> Option<tracing::Level> {
    Some(match text {
        "debug" => tracing::Level::DEBUG,
        "info" => tracing::Level::INFO,
        "warn" => tracing::Level::WARN,
        "error" | "fatal" => tracing::Level::ERROR,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    fn reads<T: PartialEq + Debug, F: Form<T>>(_: F, cases: &[(&str, T)]) {
        for (text, expected) in cases {
            assert_eq!(F::parse(text).as_ref(), Ok(expected), "{text}");
            assert_eq!(F::parse(&F::show(expected)).as_ref(), Ok(expected), "{text} shown and read again");
        }
    }

    fn refuses<T: PartialEq + Debug, F: Form<T>>(_: F, texts: &[&str], because: &str) {
        for text in texts {
            let error = F::parse(text).unwrap_err();
            assert!(error.contains(because), "{text}: {error}");
        }
    }

    #[test]
    fn durations_are_written_as_in_go() {
        reads(
            GoDuration,
            &[
                ("1h30m", Duration::from_secs(5400)),
                ("250ms", Duration::from_millis(250)),
                ("1m", Duration::from_secs(60)),
                ("1.5s", Duration::from_millis(1500)),
                ("3us", Duration::from_micros(3)),
                ("3µs", Duration::from_micros(3)),
                ("7ns", Duration::from_nanos(7)),
                ("0", Duration::ZERO),
                ("0s", Duration::ZERO),
            ],
        );
        assert_eq!(GoDuration::show(&Duration::from_millis(3_661_001)), "1h1m1s1ms");
        refuses(GoDuration, &["", "60", "s", "1d", "-1s", "1 s", "1s5", ".s", "1..2s", "xs"], "60s or 1h30m");
        refuses(GoDuration, &["9999999h", "99999999999999999999999999999h"], "292 years");
    }

    #[test]
    fn sizes_take_units_of_two_and_of_ten() {
        reads(
            Size,
            &[
                ("0", 0_u64),
                ("4096", 4096),
                ("64KiB", 65536),
                ("64 mib", 64 << 20),
                ("1MB", 1_000_000),
                ("7B", 7),
            ],
        );
        assert_eq!(Size::show(&(64_u64 << 20)), "64MiB");
        assert_eq!(Size::show(&1_000_001_u64), "1000001");
        for text in ["", "MiB", "1.5MiB", "-1", "1XB", "64M"] {
            let error = <Size as Form<u64>>::parse(text).unwrap_err();
            assert!(error.contains("KiB, MiB or GiB"), "{text}: {error}");
        }
        for text in ["99999999TiB", "18446744073709551615KB"] {
            assert!(<Size as Form<u64>>::parse(text).unwrap_err().contains("larger"), "{text}");
        }
    }

    #[test]
    fn counts_are_whole_numbers() {
        reads(Count, &[("0", 0_usize), ("2500", 2500)]);
        for text in ["", "-1", "1k", "99999999999999999999"] {
            assert!(<Count as Form<u64>>::parse(text).unwrap_err().contains("whole number"), "{text}");
        }
    }

    #[test]
    fn addresses_are_host_and_port_and_the_host_may_be_left_out() {
        reads(
            Address,
            &[
                ("127.0.0.1:4150", ([127, 0, 0, 1], 4150).into()),
                (":4150", ([0, 0, 0, 0], 4150).into()),
                ("[::1]:0", "[::1]:0".parse().unwrap()),
            ],
        );
        let localhost = Address::parse("localhost:4150").unwrap();
        assert!(localhost.ip().is_loopback() && localhost.port() == 4150);
        refuses(Address, &["", "4150", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", ":x"], "host:port");
        reads(AddressOrOff, &[("", None), (":4151", Some(([0, 0, 0, 0], 4151).into()))]);
        reads(PortOrSame, &[("0", None), ("4150", Some(4150))]);
        refuses(PortOrSame, &["", "65536", "-1", "http"], "0 to 65535");
    }

    #[test]
    fn durability_rules_are_pattern_and_level() {
        let rule = |pattern: &str, durability| DurabilityRule { pattern: pattern.to_owned(), durability };
        reads(
            Rules,
            &[
                ("", vec![]),
                ("metrics.*=os", vec![rule("metrics.*", Durability::Os)]),
                ("a=fsync,*=os", vec![rule("a", Durability::Fsync), rule("*", Durability::Os)]),
            ],
        );
        refuses(Rules, &["metrics"], "PATTERN=LEVEL");
        refuses(Rules, &["=os", "a b=os", "a#ephemeral=os"], "letters, digits");
        refuses(Rules, &["a=disk"], "fsync (synced to disk before OK)");
        refuses(Rules, &["a=memory"], "#ephemeral");
        reads(Level, &[("fsync", Durability::Fsync), ("os", Durability::Os)]);
    }

    #[test]
    fn log_levels_are_those_of_nsqd() {
        reads(LogLevel, &[("INFO", "info".to_owned()), ("fatal", "fatal".to_owned())]);
        assert_eq!(log_level("fatal"), Some(tracing::Level::ERROR));
        refuses(LogLevel, &["", "trace", "loud"], "debug, info, warn, error or fatal");
    }
    #[test]
    fn nodes_to_join_are_hosts_and_the_port_may_be_left_out() {
        for (text, expected) in [
            ("a:7", "a:7"),
            ("node-1.example", "node-1.example:4160"),
            ("10.0.0.1", "10.0.0.1:4160"),
            ("10.0.0.1:1", "10.0.0.1:1"),
            ("::1", "[::1]:4160"),
            ("[::1]", "[::1]:4160"),
            ("[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(peer(text).as_deref(), Some(expected), "{text}");
            assert_eq!(peer(expected).as_deref(), Some(expected), "{text} read again");
        }
        for text in
            ["", ":4160", "a:", "a:0", "a:x", "a:99999", "a b", "http://a:1", "[::1]:0", "[a]:1", "a/b:1"]
        {
            assert_eq!(peer(text), None, "{text}");
        }
        assert_eq!(Peers::parse(" a, b:2 ,,").unwrap(), ["a:4160", "b:2"]);
        assert_eq!(Peers::parse(""), Ok(Vec::new()));
        refuses(Peers, &["a,b:x"], "\"b:x\" is no address of a node: write host:port");
        reads(ProfileName, &[("lan", Profile::Lan), ("wan", Profile::Wan), ("local", Profile::Local)]);
        refuses(ProfileName, &["", "LAN"], "lan, wan or local");
        reads(RelayMode, &[("auto", Relay::Auto), ("off", Relay::Off)]);
        refuses(RelayMode, &["", "on"], "auto or off");
    }
}
