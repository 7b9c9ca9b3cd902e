//! Under which of its addresses a node is named to whoever asks.
//!
//! A host in two networks hands out an address in each. An asker is told the one that lies in its own network,
//! for it may not reach the other.

use std::net::{IpAddr, SocketAddr};

/// Leading bits that two addresses have to share to pass for one network: the shortest private IPv4 network is
/// a /8, the longest IPv6 prefix that one organisation is given is about a /32.
const SHARED_V4: u32 = 8;
const SHARED_V6: u32 = 32;

/// Where a question came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vantage<'a> {
    /// The asker's address; `None` if it is not known.
    asker: Option<IpAddr>,
    /// The addresses of the host that is asked, which are those of an asker on the same host.
    here: &'a [IpAddr],
}

impl<'a> Vantage<'a> {
    /// A question from `asker` to the host with the addresses `here`.
    pub(crate) fn new(asker: Option<SocketAddr>, here: &'a [IpAddr]) -> Self {
        Self { asker: asker.map(|asker| asker.ip().to_canonical()), here }
    }

    /// The one of `addresses` (names or IP addresses of a node whose gossip comes from `heard`) that the asker
    /// is told: the one that shares most leading bits with the asker's, else the first that is not loopback,
    /// else the first. `None` if there are none.
    pub(crate) fn choose<'b>(&self, addresses: &'b [String], heard: IpAddr) -> Option<&'b str> {
        let parsed = || addresses.iter().map(|text| (text.as_str(), address(text)));
        let reachable = parsed().filter_map(|(text, ip)| Some((text, self.shared(ip?, heard)?)));
        // Of equally good ones the first: the order is the operator's.
        let nearest = reachable.reduce(|best, next| if next.1 > best.1 { next } else { best });
        let elsewhere = || parsed().find(|(_, ip)| !ip.is_some_and(|ip| ip.is_loopback()));
        nearest
            .map(|(text, _)| text)
            .or_else(|| elsewhere().map(|(text, _)| text))
            .or_else(|| addresses.first().map(String::as_str))
    }

    /// How many leading bits of `ip` are those of the asker's network; `None` if that is another network.
    fn shared(&self, ip: IpAddr, heard: IpAddr) -> Option<u32> {
        let asker = self.asker?;
        if ip.is_loopback() {
            // Loopback means this host to the asker; the node has to be on it as well.
            let same_host = heard.is_loopback() || self.here.contains(&heard.to_canonical());
            return (asker.is_loopback() && same_host).then_some(u32::MAX);
        }
        if !asker.is_loopback() {
            return in_common(ip, asker);
        }
        self.here.iter().filter_map(|own| in_common(ip, *own)).max()
    }
}

/// `text` as an IP address; names give `None`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

/// Number of leading bits that are equal, if they are enough to be one network.
fn in_common(one: IpAddr, other: IpAddr) -> Option<u32> {
    let (bits, enough) = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            ((one.to_bits() ^ other.to_bits()).leading_zeros(), SHARED_V4)
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => {
            ((one.to_bits() ^ other.to_bits()).leading_zeros(), SHARED_V6)
        }
        _ => return None,
    };
    (bits >= enough).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a node on `heard` with `addresses` is called towards `asker`, when the host asked is 10.1.0.1 and
    /// 192.168.7.1.
    fn choose(asker: &str, addresses: &[&str], heard: &str) -> Option<String> {
        let here = ["10.1.0.1", "192.168.7.1"].map(|ip| ip.parse().unwrap());
        let asker: Option<IpAddr> = asker.parse().ok();
        let addresses: Vec<String> = addresses.iter().map(|&text| text.to_owned()).collect();
        let vantage = Vantage::new(asker.map(|ip| SocketAddr::new(ip, 9)), &here);
        vantage.choose(&addresses, heard.parse().unwrap()).map(str::to_owned)
    }

    #[test]
    fn an_asker_is_told_the_address_in_its_own_network() {
        let node = ["node-2.example", "10.2.0.2", "192.168.7.2", "2001:db8:1::2"];
        for (asker, expected) in [
            ("10.9.9.9", "10.2.0.2"),
            ("192.168.7.99", "192.168.7.2"),
            ("::ffff:192.168.7.99", "192.168.7.2"),
            ("2001:db8:1::9", "2001:db8:1::2"),
            ("2001:db9::9", "node-2.example"),
            ("172.16.0.1", "node-2.example"),
            ("", "node-2.example"),
        ] {
            assert_eq!(choose(asker, &node, "10.2.0.2").as_deref(), Some(expected), "{asker}");
        }
    }

    #[test]
    fn the_longest_common_prefix_wins_and_of_equal_ones_the_first() {
        let node = ["10.2.0.2", "10.1.2.2", "10.1.3.2"];
        assert_eq!(choose("10.1.3.99", &node, "10.1.2.2").as_deref(), Some("10.1.3.2"));
        assert_eq!(choose("10.128.0.1", &node, "10.1.2.2").as_deref(), Some("10.2.0.2"));
        assert_eq!(choose("10.128.0.1", &[], "10.1.2.2"), None);
    }

    #[test]
    fn an_asker_on_this_host_reaches_what_this_host_reaches() {
        let elsewhere = ["203.0.113.2", "192.168.7.2", "127.0.0.1"];
        assert_eq!(choose("127.0.0.1", &elsewhere, "192.168.7.2").as_deref(), Some("192.168.7.2"));
        for heard in ["10.1.0.1", "127.0.0.1", "::ffff:10.1.0.1"] {
            let here = ["10.1.0.1", "127.0.0.1"];
            assert_eq!(choose("127.0.0.1", &here, heard).as_deref(), Some("127.0.0.1"), "{heard}");
        }
    }

    #[test]
    fn nobody_elsewhere_is_told_a_loopback_address_if_there_is_another() {
        assert_eq!(
            choose("172.16.0.1", &["127.0.0.1", "a.example"], "10.1.0.1").as_deref(),
            Some("a.example")
        );
        assert_eq!(choose("172.16.0.1", &["[::1]", "127.0.0.1"], "10.1.0.1").as_deref(), Some("[::1]"));
    }
}
