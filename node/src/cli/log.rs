//! The log: to standard error, in our own format or in NSQ's.

use std::{fmt, io::IsTerminal, sync::Arc, time::SystemTime};

use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer, layer},
    layer::SubscriberExt,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

use super::settings::log_level;

/// Begins to log; with a prefix, in NSQ's format. What it returns changes the level.
pub(super) fn start(level: &str, prefix: Option<&str>) -> Arc<dyn Fn(&str) -> bool + Send + Sync> {
    let level = LevelFilter::from(log_level(level));
    let (filter, change) = reload::Layer::new(level);
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (own, classic) = match prefix {
        None => (Some(layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false)), None),
        Some(prefix) => {
            let format = ClassicFormat { prefix: prefix.to_owned() };
            (None, Some(layer().with_writer(std::io::stderr).with_ansi(false).event_format(format)))
        }
    };
    tracing_subscriber::registry().with(filter).with(own).with(classic).init();
    Arc::new(move |level| {
        log_level(level).is_some_and(|level| change.modify(|filter| *filter = level.into()).is_ok())
    })
}

/// `[nsqd] 2026/11/21 06:26:44.123456 INFO: text`. The time is UTC, where NSQ's is that of the time zone.
struct ClassicFormat {
    prefix: String,
}

impl<S, N> FormatEvent<S, N> for ClassicFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        #[expect(clippy::disallowed_methods, reason = "the log of the command line, outside of the node")]
        let now = SystemTime::now();
        let level = word(*event.metadata().level());
        write!(writer, "{}{} {level}: ", self.prefix, stamp(now))?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// As Go's log writes the time with microseconds.
fn stamp(time: SystemTime) -> String {
    let text = humantime::format_rfc3339_micros(time).to_string();
    text.trim_end_matches('Z').replacen('-', "/", 2).replacen('T', " ", 1)
}

/// NSQ's words for the levels.
fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_as_go_writes_them() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_795_242_404_000_042);
        assert_eq!(stamp(time), "2026/11/21 06:26:44.000042");
    }
}
