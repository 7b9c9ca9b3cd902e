//! The command line before clap sees it: what years of NSQ have taught users' fingers.
//!
//! Go's flags take one dash or two, and `nsqd` is a node without saying so. Both go on working.

use std::{collections::BTreeSet, ffi::OsString};

use clap::Command;

/// Rewrites `argv`, program name included: `-tcp-address=x` becomes `--tcp-address=x`, and a command line
/// that names no command becomes one of `serve`. Real short flags and all that follows `--` stay.
pub(super) fn rewrite(argv: impl Iterator<Item = OsString>, command: &Command) -> Vec<OsString> {
    let (mut long, mut short) = (BTreeSet::from(["help".to_owned(), "version".to_owned()]), BTreeSet::new());
    short.extend(['h', 'V']);
    collect_flags(command, &mut long, &mut short);

    let mut rewritten = Vec::new();
    let mut verbatim = false;
    for (position, argument) in argv.enumerate() {
        verbatim |= argument == "--";
        let doubled =
            argument.to_str().filter(|text| !verbatim && position > 0 && is_long(text, &long, &short));
        rewritten.push(match doubled {
            Some(text) => OsString::from(format!("-{text}")),
            None => argument,
        });
    }
    if serves(&rewritten) {
        rewritten.insert(1.min(rewritten.len()), "serve".into());
    }
    rewritten
}

fn collect_flags(command: &Command, long: &mut BTreeSet<String>, short: &mut BTreeSet<char>) {
    for arg in command.get_arguments() {
        long.extend(arg.get_long().map(str::to_owned));
        short.extend(arg.get_short());
    }
    for inner in command.get_subcommands() {
        collect_flags(inner, long, short);
    }
}

/// Whether `text` is a long flag behind a single dash: one that exists, or one that no short flag can
/// mean, so that clap can suggest what it should have been.
fn is_long(text: &str, long: &BTreeSet<String>, short: &BTreeSet<char>) -> bool {
    let Some(name) = text.strip_prefix('-').filter(|name| !name.starts_with('-')) else { return false };
    let name = name.split_once('=').map_or(name, |(name, _)| name);
    let Some(first) = name.chars().next() else { return false };
    name.len() > 1 && (long.contains(name) || (first.is_ascii_alphabetic() && !short.contains(&first)))
}

/// Whether no command is named: nothing at all, or flags of a node.
fn serves(argv: &[OsString]) -> bool {
    let Some(first) = argv.get(1) else { return true };
    let asks_for_help = ["-h", "--help", "-V", "--version"].iter().any(|flag| first == flag);
    first.to_string_lossy().starts_with('-') && !asks_for_help
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn rewritten(argv: &[&str]) -> Vec<String> {
        let tail = Command::new("tail").arg(Arg::new("n").short('n').long("count"));
        let serve = Command::new("serve").arg(Arg::new("tcp-address").long("tcp-address"));
        let serve = serve.arg(Arg::new("node-id").long("node-id"));
        let command = Command::new("bruit").subcommand(serve).subcommand(tail);
        let argv = ["bruit"].iter().chain(argv).map(OsString::from);
        let rewritten = rewrite(argv, &command);
        rewritten.into_iter().skip(1).map(|argument| argument.into_string().unwrap()).collect()
    }

    #[test]
    fn a_command_line_without_a_command_serves() {
        assert_eq!(rewritten(&[]), ["serve"]);
        assert_eq!(rewritten(&["--tcp-address=:1"]), ["serve", "--tcp-address=:1"]);
        assert_eq!(rewritten(&["-tcp-address", ":1"]), ["serve", "--tcp-address", ":1"]);
        for ask in ["-h", "--help", "-V", "--version"] {
            assert_eq!(rewritten(&[ask]), [ask]);
        }
        assert_eq!(rewritten(&["-version"]), ["--version"]);
        assert_eq!(rewritten(&["tial"]), ["tial"]);
    }

    #[test]
    fn one_dash_is_as_good_as_two_but_short_flags_stay_short() {
        assert_eq!(rewritten(&["tail", "-n", "5"]), ["tail", "-n", "5"]);
        assert_eq!(rewritten(&["tail", "-n5"]), ["tail", "-n5"]);
        assert_eq!(rewritten(&["serve", "-node-id=5"]), ["serve", "--node-id=5"]);
        assert_eq!(rewritten(&["serve", "-tcp-adress=:1"]), ["serve", "--tcp-adress=:1"]);
        assert_eq!(rewritten(&["tail", "-h"]), ["tail", "-h"]);
    }

    #[test]
    fn values_and_what_follows_two_dashes_stay() {
        assert_eq!(rewritten(&["pub", "t", "-"]), ["pub", "t", "-"]);
        assert_eq!(rewritten(&["pub", "-5"]), ["pub", "-5"]);
        assert_eq!(rewritten(&["pub", "--", "-tcp-address"]), ["pub", "--", "-tcp-address"]);
    }
}
