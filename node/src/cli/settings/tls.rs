//! The settings of TLS: how they are written, what follows from what, and what cannot hold.

use super::{figures::OnOff, form::Form};
use crate::config::{ClientAuth, Config, TlsConfig, TlsRequired, TlsVersion};

/// Levels that deflate knows.
const DEFLATE_LEVELS: std::ops::RangeInclusive<u32> = 1..=9;

/// `true`, `false` or `tcp-https`.
pub(super) struct Required;
/// `require`, `require-verify`, or nothing.
pub(super) struct Policy;
/// `tls1.2` or `tls1.3`.
pub(super) struct Version;

impl Form<TlsRequired> for Required {
    fn parse(text: &str) -> Result<TlsRequired, String> {
        match text {
            "tcp-https" => Ok(TlsRequired::TcpOnly),
            "" => Ok(TlsRequired::No),
            _ => match OnOff::parse(text) {
                Ok(true) => Ok(TlsRequired::Everywhere),
                Ok(false) => Ok(TlsRequired::No),
                Err(_) => Err("is no way to require TLS: write true, false or tcp-https".to_owned()),
            },
        }
    }

    fn show(value: &TlsRequired) -> String {
        match value {
            TlsRequired::No => "false",
            TlsRequired::TcpOnly => "tcp-https",
            TlsRequired::Everywhere => "true",
        }
        .to_owned()
    }
}

impl Form<ClientAuth> for Policy {
    fn parse(text: &str) -> Result<ClientAuth, String> {
        match text {
            "" => Ok(ClientAuth::None),
            "require" => Ok(ClientAuth::Require),
            "require-verify" => Ok(ClientAuth::RequireVerify),
            _ => Err("is no policy: write require, require-verify, or nothing".to_owned()),
        }
    }

    fn show(value: &ClientAuth) -> String {
        match value {
            ClientAuth::None => "",
            ClientAuth::Require => "require",
            ClientAuth::RequireVerify => "require-verify",
        }
        .to_owned()
    }
}

impl Form<TlsVersion> for Version {
    fn parse(text: &str) -> Result<TlsVersion, String> {
        match text {
            "tls1.2" => Ok(TlsVersion::Tls12),
            "tls1.3" => Ok(TlsVersion::Tls13),
            "ssl3.0" | "tls1.0" | "tls1.1" => Err("is not spoken here: TLS 1.1 and older can be broken by who \
                                                   listens; write tls1.2, which every client library speaks, or \
                                                   tls1.3"
                .to_owned()),
            _ => Err("is no version: write tls1.2 or tls1.3".to_owned()),
        }
    }

    fn show(value: &TlsVersion) -> String {
        match value {
            TlsVersion::Tls12 => "tls1.2",
            TlsVersion::Tls13 => "tls1.3",
        }
        .to_owned()
    }
}

/// Settings that follow from others; `given` says which ones somebody has decided.
pub(super) fn settle(tls: &mut TlsConfig, given: impl Fn(&str) -> bool) {
    // Who asks clients for certificates means that they cannot go without.
    if tls.client_auth != ClientAuth::None && !given("tls-required") {
        tls.required = TlsRequired::Everywhere;
    }
}

/// Says what cannot hold.
pub(super) fn check(config: &Config, problems: &mut Vec<String>) {
    let tls = &config.tls;
    let level = config.limits.max_deflate_level;
    if !DEFLATE_LEVELS.contains(&level) {
        problems.push(format!("--max-deflate-level is {level}: write something from 1 to 9"));
    }
    let (one, other) = match (&tls.cert, &tls.key) {
        (Some(_), Some(_)) => return,
        (None, None) => {
            if tls.client_auth != ClientAuth::None {
                problems.push(
                    "--tls-client-auth-policy needs TLS: name a certificate with --tls-cert and its key with \
                     --tls-key"
                        .to_owned(),
                );
            } else if tls.required != TlsRequired::No {
                problems.push(
                    "--tls-required needs TLS: name a certificate with --tls-cert and its key with --tls-key"
                        .to_owned(),
                );
            }
            return;
        }
        (Some(_), None) => ("cert", "key"),
        (None, Some(_)) => ("key", "cert"),
    };
    problems.push(format!("--tls-{one} goes with --tls-{other}: name both files, or none"));
}

#[cfg(test)]
mod tests {
    use super::{super::tests::resolve, *};

    const PAIR: [&str; 2] = ["--tls-cert=c.pem", "--tls-key=k.pem"];

    fn tls(flags: &[&str]) -> TlsConfig {
        resolve(&[&PAIR[..], flags].concat(), &[]).unwrap().config.tls
    }

    fn refusal(flags: &[&str], because: &str) {
        let error = resolve(flags, &[]).unwrap_err();
        assert!(error.contains(because), "{flags:?}: {error}");
    }

    #[test]
    fn tls_is_required_in_three_ways() {
        for (flag, required) in [
            ("--tls-required", TlsRequired::Everywhere),
            ("--tls-required=true", TlsRequired::Everywhere),
            ("--tls-required=tcp-https", TlsRequired::TcpOnly),
            ("--tls-required=false", TlsRequired::No),
        ] {
            assert_eq!(tls(&[flag]).required, required, "{flag}");
        }
        refusal(&["--tls-required=maybe"], "write true, false or tcp-https");
    }

    #[test]
    fn a_policy_for_clients_requires_tls_unless_that_is_decided() {
        let flag = "--tls-client-auth-policy=require";
        assert_eq!(tls(&[flag]).required, TlsRequired::Everywhere);
        assert_eq!(tls(&[flag, "--tls-required=tcp-https"]).required, TlsRequired::TcpOnly);
        assert_eq!(tls(&[flag, "--tls-required=false"]).required, TlsRequired::No);
        refusal(&["--tls-client-auth-policy=verify"], "write require, require-verify, or nothing");
    }

    #[test]
    fn tls_needs_a_certificate_and_its_key() {
        for flags in [["--tls-required", "--tls-cert="], ["--tls-required=tcp-https", "--tls-key="]] {
            refusal(&flags, "--tls-required needs TLS: name a certificate with --tls-cert");
        }
        refusal(&["--tls-client-auth-policy=require-verify"], "--tls-client-auth-policy needs TLS");
        refusal(&PAIR[..1], "--tls-cert goes with --tls-key: name both");
        refusal(&PAIR[1..], "--tls-key goes with --tls-cert: name both");
    }

    #[test]
    fn old_versions_are_refused_with_the_reason() {
        assert_eq!(tls(&[]).min_version, TlsVersion::Tls12);
        assert_eq!(tls(&["--tls-min-version=tls1.3"]).min_version, TlsVersion::Tls13);
        for old in ["ssl3.0", "tls1.0", "tls1.1"] {
            refusal(&[&format!("--tls-min-version={old}")], "can be broken by who listens; write tls1.2");
        }
        refusal(&["--tls-min-version=1.2"], "is no version: write tls1.2 or tls1.3");
    }

    #[test]
    fn deflate_has_levels_and_may_be_off() {
        refusal(&["--max-deflate-level=0"], "from 1 to 9");
        refusal(&["--max-deflate-level=10"], "from 1 to 9");
        let limits = resolve(&["--deflate=false", "--snappy=0", "--max-deflate-level=9"], &[]).unwrap();
        let limits = limits.config.limits;
        assert_eq!((limits.deflate, limits.snappy, limits.max_deflate_level), (false, false, 9));
    }

    #[test]
    fn the_port_of_https_is_its_own_where_there_is_tls() {
        let clash = ["--https-address=127.0.0.1:4151", "--http-address=127.0.0.1:4151"];
        assert!(resolve(&clash, &[]).is_ok());
        refusal(&[&PAIR[..], &clash].concat(), "--http-address and --https-address are both");
    }
}
