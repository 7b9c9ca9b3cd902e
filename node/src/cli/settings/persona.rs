//! The programs of NSQ that a node can be started as. Their flags mean what they always did; only what they
//! leave unsaid differs between them.

use std::{net::SocketAddr, path::PathBuf};

use super::Texts;
use crate::config::{Config, Role};

/// Flags of nsqlookupd that mean something else to a node, and what they mean here.
const LOOKUPD_FLAGS: [(&str, &str); 2] =
    [("http-address", "lookupd-http-address"), ("tcp-address", "lookupd-listen-tcp-address")];
/// nsqlookupd's ports.
const LOOKUPD_TCP_PORT: u16 = 4160;
const LOOKUPD_HTTP_PORT: u16 = 4161;

/// As which program a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persona {
    /// As itself.
    Bruit,
    /// As nsqd: its data in the working directory, its log in NSQ's format.
    Nsqd,
    /// As nsqlookupd: lookups alone, and nothing stored.
    Nsqlookupd,
}

impl Persona {
    /// The program's name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bruit => "bruit",
            Self::Nsqd => "nsqd",
            Self::Nsqlookupd => "nsqlookupd",
        }
    }

    /// What holds when nobody says anything.
    pub(super) fn defaults(self, mut config: Config) -> Config {
        if self == Self::Bruit {
            return config;
        }
        config.log.prefix = Some(format!("[{}] ", self.name()));
        // Several of them may run on one machine, which knew of no port for gossip.
        config.mesh.any_port = true;
        if self == Self::Nsqd {
            config.data_path = PathBuf::from(".");
            return config;
        }
        let any = |port| Some(SocketAddr::from(([0, 0, 0, 0], port)));
        config.role = Role::Lookup;
        config.http_address = None;
        config.mesh.lookupd_http_address = any(LOOKUPD_HTTP_PORT);
        config.classic.listen = any(LOOKUPD_TCP_PORT);
        // What a node that holds no topic writes fits into the smallest segments, which are in memory here.
        config.journal.segment_size = 64 << 10;
        config.journal.min_free_bytes = 0;
        config
    }

    /// Gives the program's flags their names here.
    pub(super) fn translate(self, texts: &mut Texts) {
        if self != Self::Nsqlookupd {
            return;
        }
        for (theirs, ours) in LOOKUPD_FLAGS {
            if let Some(given) = texts.remove(theirs) {
                texts.insert(ours, given);
            }
        }
        // They are a node's; the smallest ones are chosen above.
        for name in ["segment-size", "min-free-disk"] {
            texts.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Flags, Settings},
        *,
    };

    fn settings(persona: Persona, flags: &[&str]) -> Result<Settings, String> {
        let resolved = Settings::resolve_as(persona, &Flags::of(flags), std::iter::empty());
        resolved.map_err(|error| error.to_string())
    }

    #[test]
    fn nsqd_keeps_its_data_where_it_is_started() {
        let config = settings(Persona::Nsqd, &[]).unwrap().config;
        assert_eq!((config.data_path, config.role), (PathBuf::from("."), Role::Node));
        assert_eq!(config.log.prefix.as_deref(), Some("[nsqd] "));
        assert!(config.mesh.any_port);
        let named = settings(Persona::Nsqd, &["--gossip-address=127.0.0.1:4160", "--log-prefix="]);
        let named = named.unwrap().config;
        assert_eq!((named.mesh.any_port, named.log.prefix), (false, None));
    }

    #[test]
    fn nsqlookupd_has_the_ports_of_nsqlookupd_and_no_others() {
        let config = settings(Persona::Nsqlookupd, &[]).unwrap().config;
        assert_eq!((config.role, config.http_address), (Role::Lookup, None));
        assert_eq!(config.classic.listen, Some(([0, 0, 0, 0], 4160).into()));
        assert_eq!(config.mesh.lookupd_http_address, Some(([0, 0, 0, 0], 4161).into()));
        let flags = ["--tcp-address=127.0.0.1:1", "--http-address=127.0.0.1:2", "--tombstone-lifetime=30s"];
        let given = settings(Persona::Nsqlookupd, &flags).unwrap();
        assert_eq!(given.config.classic.listen, Some(([127, 0, 0, 1], 1).into()));
        assert_eq!(given.config.mesh.lookupd_http_address, Some(([127, 0, 0, 1], 2).into()));
        assert_eq!(given.warnings.len(), 1, "{:?}", given.warnings);
    }
}
