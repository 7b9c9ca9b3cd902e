//! The settings as flags of the command line.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, error::Error, value_parser};

use super::{
    defaults,
    table::{Effect, SETTINGS, Setting, Shape},
};
use crate::config::Config;

/// The flags that were given, unread.
#[derive(Debug, Default, Clone)]
pub(crate) struct Flags {
    texts: BTreeMap<&'static str, String>,
    file: Option<PathBuf>,
}

impl Flags {
    /// The file that `--config` names.
    pub(super) fn file(&self) -> Option<PathBuf> {
        self.file.clone()
    }

    /// The texts, by the names of their settings; of repeated ones with commas between.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.texts.iter().map(|(name, text)| (*name, text.as_str()))
    }

    /// Reads flags as a command line would.
    #[cfg(test)]
    pub(super) fn of(flags: &[&str]) -> Self {
        let command = Self::augment_args(Command::new("test").no_binary_name(true));
        Self::from_arg_matches(&command.try_get_matches_from(flags).unwrap()).unwrap()
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        let defaults = defaults();
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .overrides_with("config")
            .help("TOML file of settings, such as nsqd's: the flags' names with _ for - [env: BRUIT_CONFIG]");
        let flags = SETTINGS.iter().filter(|setting| setting.shape != Shape::Hidden);
        command.arg(file).args(flags.map(|setting| arg(setting, &defaults)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut flags = Self { texts: BTreeMap::new(), file: matches.get_one("config").cloned() };
        for setting in SETTINGS {
            if setting.shape == Shape::Hidden {
                continue;
            }
            if let Some(texts) = matches.get_many::<String>(setting.name) {
                let texts: Vec<&str> = texts.map(String::as_str).collect();
                flags.texts.insert(setting.name, texts.join(","));
            }
        }
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn arg(setting: &'static Setting, defaults: &Config) -> Arg {
    let arg = Arg::new(setting.name).long(setting.name).value_name(setting.value_name);
    let arg = match setting.shape {
        Shape::Many => arg.action(ArgAction::Append),
        // As with Go's flags, the last one given holds.
        Shape::One | Shape::Duration | Shape::Hidden => arg.overrides_with(setting.name),
        Shape::Switch => {
            let arg = arg.overrides_with(setting.name).num_args(0..=1);
            arg.require_equals(true).default_missing_value("true")
        }
    };
    match setting.effect {
        Effect::Applied { show, .. } => {
            let default = show(defaults);
            let default = if default.is_empty() { String::new() } else { format!(" [default: {default}]") };
            arg.help(format!("{}{default}", setting.help))
        }
        Effect::Secret { .. } => arg.help(setting.help),
        Effect::Ignored(_) => arg.hide(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(flags: &[&str], name: &str) -> Option<String> {
        Flags::of(flags).texts.get(name).cloned()
    }

    #[test]
    fn values_follow_an_equals_sign_or_a_space_and_the_last_holds() {
        assert_eq!(text(&["--max-rdy-count=1", "--max-rdy-count", "2"], "max-rdy-count").unwrap(), "2");
        assert_eq!(text(&["--http-address="], "http-address").unwrap(), "");
        assert_eq!(text(&["--http-address", ""], "http-address").unwrap(), "");
        assert_eq!(text(&[], "http-address"), None);
    }

    #[test]
    fn switches_are_bare_or_take_a_value_after_an_equals_sign() {
        assert_eq!(text(&["--snappy"], "snappy").unwrap(), "true");
        assert_eq!(text(&["--snappy=false"], "snappy").unwrap(), "false");
        assert_eq!(text(&["--snappy", "--snappy=0"], "snappy").unwrap(), "0");
    }

    #[test]
    fn repeated_flags_are_joined() {
        let flags = ["--lookupd-tcp-address=a:1", "--lookupd-tcp-address", "b:2"];
        assert_eq!(text(&flags, "lookupd-tcp-address").unwrap(), "a:1,b:2");
    }

    #[test]
    fn the_table_makes_a_command_line_that_clap_finds_sound() {
        Flags::augment_args(Command::new("test")).debug_assert();
    }
}
