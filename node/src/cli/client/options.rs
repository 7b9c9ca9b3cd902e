//! The options of NSQ's client library, which NSQ's tools take as `--consumer-opt` and `--producer-opt`.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{anyhow, bail};
use bruit_wire::compress::Compression;
use serde_json::Value;

use super::{Access, access::LEVEL};
use crate::{
    certificates::{Named, Trust},
    cli::settings,
};

/// Options that are known and have no effect: what they set is done otherwise here, or not at all.
const WITHOUT_EFFECT: [&str; 17] = [
    "backoff_multiplier",
    "backoff_strategy",
    "dial_timeout",
    "local_addr",
    "lookupd_authorization",
    "lookupd_poll_jitter",
    "lookupd_poll_timeout",
    "low_rdy_idle_timeout",
    "low_rdy_timeout",
    "max_attempts",
    "max_backoff_duration",
    "max_requeue_delay",
    "rdy_redistribute_interval",
    "read_timeout",
    "skip_resolve",
    "tls_min_version",
    "write_timeout",
];
/// Options that have one, wherever they are read.
const WITH_EFFECT: [&str; 20] = [
    "auth_secret",
    "client_id",
    "default_requeue_delay",
    "deflate",
    "deflate_level",
    "heartbeat_interval",
    "hostname",
    "lookupd_poll_interval",
    "max_in_flight",
    "msg_timeout",
    "output_buffer_size",
    "output_buffer_timeout",
    "sample_rate",
    "snappy",
    "tls_cert",
    "tls_insecure_skip_verify",
    "tls_key",
    "tls_root_ca_file",
    "tls_v1",
    "user_agent",
];

/// Options by their names; of those that were given twice the last.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Options(BTreeMap<String, String>);

impl Options {
    /// Takes `NAME,VALUE`, or `NAME` alone for one that is switched on.
    ///
    /// # Errors
    /// There is no such option.
    pub(in crate::cli) fn parse(given: &[String]) -> anyhow::Result<Self> {
        let mut options = BTreeMap::new();
        for option in given {
            let (name, value) = option.split_once(',').unwrap_or((option, "true"));
            // The library takes both spellings.
            let name = name.replace('-', "_");
            if !WITH_EFFECT.contains(&name.as_str()) && !WITHOUT_EFFECT.contains(&name.as_str()) {
                bail!("NSQ's client library has no option {name:?}; known are {}", WITH_EFFECT.join(", "));
            }
            options.insert(name, value.to_owned());
        }
        Ok(Self(options))
    }

    /// What was given.
    pub(in crate::cli) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A time with its unit.
    ///
    /// # Errors
    /// It is none.
    pub(in crate::cli) fn duration(&self, name: &str) -> anyhow::Result<Option<Duration>> {
        let parse = |text| settings::duration(text).map_err(|problem| wrong(name, text, &problem));
        self.text(name).map(parse).transpose()
    }

    /// A number.
    ///
    /// # Errors
    /// It is none.
    pub(in crate::cli) fn number(&self, name: &str) -> anyhow::Result<Option<u64>> {
        let parse = |text: &str| text.parse().map_err(|_| wrong(name, text, "is no number"));
        self.text(name).map(parse).transpose()
    }

    fn flag(&self, name: &str) -> anyhow::Result<Option<bool>> {
        let parse = |text| match text {
            "true" | "1" | "t" => Ok(true),
            "false" | "0" | "f" => Ok(false),
            _ => Err(wrong(name, text, "is neither true nor false")),
        };
        self.text(name).map(parse).transpose()
    }

    /// Fields of IDENTIFY.
    pub(super) fn fields(&self) -> anyhow::Result<Vec<(String, Value)>> {
        let mut fields = Vec::new();
        for name in ["client_id", "hostname", "user_agent"] {
            fields.extend(self.text(name).map(|text| (name.to_owned(), text.into())));
        }
        for name in ["output_buffer_size", "sample_rate"] {
            fields.extend(self.number(name)?.map(|number| (name.to_owned(), number.into())));
        }
        for name in ["heartbeat_interval", "msg_timeout", "output_buffer_timeout"] {
            let millis = self.duration(name)?.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
            fields.extend(millis.map(|millis| (name.to_owned(), millis.into())));
        }
        Ok(fields)
    }

    /// What is asked for, where `access` is what the command line asks for anyway.
    pub(super) fn access(&self, access: Access) -> anyhow::Result<Access> {
        let named = |name: &str, flag| self.text(name).map(|path| Named { flag, path: path.into() });
        let cert = named("tls_cert", "consumer-opt tls_cert");
        let shown = cert.zip(named("tls_key", "consumer-opt tls_key"));
        let authorities = named("tls_root_ca_file", "consumer-opt tls_root_ca_file");
        let anyone = self.flag("tls_insecure_skip_verify")?;
        let mut access = match authorities.is_some() || shown.is_some() || anyone.is_some() {
            false => access,
            true => {
                let Trust { authorities: theirs, shown: other, anyone: all } = access.trust.clone();
                let trust = Trust {
                    authorities: authorities.or(theirs),
                    shown: shown.or(other),
                    anyone: anyone.unwrap_or(all),
                };
                access.trusting(trust)
            }
        };
        access.tls = self.flag("tls_v1")?.unwrap_or(access.tls);
        if let Some(secret) = self.text("auth_secret") {
            access.token = Some(secret.to_owned());
        }
        let level =
            self.number("deflate_level")?.map_or(LEVEL, |level| u32::try_from(level).unwrap_or(LEVEL));
        match (self.flag("snappy")?.unwrap_or(false), self.flag("deflate")?.unwrap_or(false)) {
            (true, true) => bail!("snappy and deflate do not go together: choose one"),
            (true, false) => access.compression = Some(Compression::Snappy),
            (false, true) => access.compression = Some(Compression::Deflate { level }),
            (false, false) => {}
        }
        Ok(access)
    }
}

fn wrong(name: &str, text: &str, problem: &str) -> anyhow::Error {
    anyhow!("option {name}: {text:?} {problem}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[&str]) -> anyhow::Result<Options> {
        Options::parse(&given.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_unknown_or_cannot_be_is_refused() {
        let refusal = |given: &[&str]| {
            let outcome = parse(given).and_then(|options| {
                options.fields()?;
                options.access(Access::default()).map(drop)
            });
            outcome.unwrap_err().to_string()
        };
        assert!(refusal(&["snapy"]).contains("has no option \"snapy\"; known are auth_secret"));
        assert_eq!(refusal(&["sample_rate,half"]), "option sample_rate: \"half\" is no number");
        assert!(refusal(&["msg_timeout,soon"]).starts_with("option msg_timeout: \"soon\""));
        assert!(refusal(&["tls_v1,perhaps"]).ends_with("is neither true nor false"));
        assert!(refusal(&["snappy", "deflate,true"]).contains("do not go together"));
        parse(&["max_attempts,5", "backoff_multiplier,1s"]).unwrap();
    }

    #[test]
    fn of_two_the_last_counts_and_both_spellings_do() {
        let options = parse(&["max-in-flight,1", "max_in_flight,7"]).unwrap();
        assert_eq!(options.number("max_in_flight").unwrap(), Some(7));
        let access = parse(&["snappy", "auth-secret,s"]).unwrap().access(Access::default()).unwrap();
        assert_eq!((access.compression, access.token.as_deref()), (Some(Compression::Snappy), Some("s")));
    }
}
