//! What files are called.

use anyhow::bail;
use bruit_wire::TopicName;
use clap::Args;
use jiff::Zoned;

/// How files are named.
#[derive(Debug, Args)]
pub(super) struct NamingArgs {
    /// Name of a file; `<TOPIC>`, `<HOST>`, `<PID>`, `<DATETIME>` and `<REV>` (a number) stand for what they say
    #[arg(long, value_name = "FORMAT", default_value = "<TOPIC>.<HOST><REV>.<DATETIME>.log")]
    filename_format: String,
    /// `<DATETIME>`, as strftime writes it; a file ends when it changes
    #[arg(long, value_name = "FORMAT", default_value = "%Y-%m-%d_%H")]
    datetime_format: String,
    /// `<HOST>`; `<SHORT_HOST>` and `<HOSTNAME>` stand for this machine's name. The short name unless given
    #[arg(long, value_name = "TEXT", default_value = "")]
    host_identifier: String,
}

/// The names of the files of all topics.
pub(super) struct Names {
    format: String,
    datetime: String,
}

/// The names of the files of one topic.
pub(super) struct TopicNames {
    format: String,
    datetime: String,
}

impl Names {
    /// `numbered` says whether several files may have the same date.
    ///
    /// # Errors
    /// A format that cannot tell files apart, or names no time.
    pub(super) fn new(args: &NamingArgs, numbered: bool, gzip: bool) -> anyhow::Result<Self> {
        let mut format = args.filename_format.clone();
        if numbered && !format.contains("<REV>") {
            bail!(
                "--filename-format lacks <REV>, which --gzip, --rotate-size, --rotate-interval and --work-dir need"
            );
        }
        if !numbered {
            format = format.replace("<REV>", "");
        }
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy();
        let short = host.split('.').next().unwrap_or_default();
        let identifier = match args.host_identifier.as_str() {
            "" => short.to_owned(),
            given => given.replace("<SHORT_HOST>", short).replace("<HOSTNAME>", &host),
        };
        format = format.replace("<HOST>", &identifier).replace("<PID>", &std::process::id().to_string());
        if gzip && !format.ends_with(".gz") {
            format.push_str(".gz");
        }
        let names = Self { format, datetime: args.datetime_format.clone() };
        if let Err(error) = jiff::fmt::strtime::format(&names.datetime, &Zoned::now()) {
            bail!("--datetime-format {:?}: {error}", names.datetime);
        }
        Ok(names)
    }

    pub(super) fn of(&self, topic: &TopicName) -> TopicNames {
        TopicNames { format: self.format.replace("<TOPIC>", topic.as_str()), datetime: self.datetime.clone() }
    }
}

impl TopicNames {
    /// The name of a file that begins now, its number left open.
    pub(super) fn now(&self) -> String {
        // The format was tried at the start.
        let datetime = jiff::fmt::strtime::format(&self.datetime, &Zoned::now()).unwrap_or_default();
        self.format.replace("<DATETIME>", &datetime)
    }
}

/// `name` with its number.
pub(super) fn numbered(name: &str, number: u64) -> String {
    name.replace("<REV>", &format!("-{number:06}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(filename_format: &str) -> NamingArgs {
        NamingArgs {
            filename_format: filename_format.to_owned(),
            datetime_format: "%Y".to_owned(),
            host_identifier: "h-<SHORT_HOST>".to_owned(),
        }
    }

    #[test]
    fn names_are_made_as_nsq_to_file_makes_them() {
        let year = Zoned::now().year();
        let uname = rustix::system::uname();
        let host = uname.nodename().to_string_lossy().split('.').next().unwrap().to_owned();
        let topic = TopicName::new("t#ephemeral").unwrap();
        let name = |numbered, gzip| {
            Names::new(&args("<TOPIC>.<HOST><REV>.<DATETIME>.log"), numbered, gzip).unwrap().of(&topic).now()
        };
        assert_eq!(name(false, false), format!("t#ephemeral.h-{host}.{year}.log"));
        assert_eq!(numbered(&name(true, true), 7), format!("t#ephemeral.h-{host}-000007.{year}.log.gz"));
        assert!(Names::new(&args("<TOPIC>.log"), true, false).is_err());
        let bad = NamingArgs { datetime_format: "%!".to_owned(), ..args("x") };
        assert!(Names::new(&bad, false, false).is_err());
    }
}
