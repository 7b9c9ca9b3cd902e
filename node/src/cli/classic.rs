//! NSQ's programs by their names: started through a link called `nsqd` or `nsq_tail`, the binary is that one.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use super::settings::Persona;
use crate::Ready;

/// NSQ's programs, and the commands that do what they do.
const PROGRAMS: [(&str, &str); 7] = [
    ("nsqd", "nsqd"),
    ("nsqlookupd", "nsqlookupd"),
    ("nsq_stat", "stat"),
    ("nsq_tail", "tail"),
    ("nsq_to_file", "to-file"),
    ("nsq_to_http", "to-http"),
    ("nsq_to_nsq", "to-mesh"),
];

/// The version of NSQ that they behave like, as they print it themselves.
const VERSION: &str = concat!("v1.3.0 (built w/bruit ", env!("CARGO_PKG_VERSION"), ")");

/// A command line as its program's name makes it: `nsqd -flag` is `bruit nsqd -flag`. And what to print
/// instead of running it, if it only asks for the version.
pub(super) fn unfold(argv: impl Iterator<Item = OsString>) -> (Vec<OsString>, Option<String>) {
    let mut argv: Vec<OsString> = argv.collect();
    let named = argv.first().and_then(|path| Path::new(path).file_name()).and_then(OsStr::to_str);
    let named = named.map(str::to_owned);
    if let Some((_, command)) = PROGRAMS.iter().find(|(program, _)| named.as_deref() == Some(*program)) {
        argv.insert(1, (*command).into());
    }
    let program = PROGRAMS.iter().find(|(program, command)| {
        argv.get(1).is_some_and(|given| given == command)
            && (named.as_deref() == Some(*program) || *program == *command)
    });
    let asks = |argument: &OsString| {
        let flag =
            argument.to_str().and_then(|text| text.strip_prefix("--").or_else(|| text.strip_prefix('-')));
        matches!(flag, Some("version" | "version=true"))
    };
    let version = program.filter(|_| argv.iter().skip(2).take_while(|argument| *argument != "--").any(asks));
    let version = version.map(|(program, _)| format!("{program} {VERSION}"));
    (argv, version)
}

/// What nsqd and nsqlookupd log at the start, and scripts wait for.
pub(super) fn greet(persona: Persona, ready: &Ready) {
    tracing::info!("{} {VERSION}", persona.name());
    tracing::info!("ID: {}", ready.node_id);
    let (tcp, http) = match persona {
        Persona::Nsqlookupd => (ready.registry_address, ready.lookup_http_address),
        _ => (Some(ready.tcp_address), ready.http_address),
    };
    if let Some(tcp) = tcp {
        tracing::info!("TCP: listening on {tcp}");
    }
    if let Some(http) = http {
        tracing::info!("HTTP: listening on {http}");
    }
    if let Some(mesh) = &ready.mesh {
        tracing::info!("MESH: gossip on {} (UDP), cluster {}", mesh.gossip, mesh.cluster);
    }
}

/// A warning, if an nsqd has left messages in the data directory: they are not read.
pub(super) fn leftovers(data_path: &Path) -> Option<String> {
    let is_queue = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.contains(".diskqueue.") && name.ends_with(".dat") && !name.ends_with(".meta.dat")
    };
    let entries = std::fs::read_dir(data_path).ok()?;
    let queues = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_queue).count();
    (queues > 0).then(|| {
        format!(
            "{} holds {queues} files of messages that an nsqd left there. This node does not read them: start \
             that nsqd on other ports until its consumers have emptied it",
            data_path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unfolded(argv: &[&str]) -> (Vec<String>, Option<String>) {
        let (argv, version) = unfold(argv.iter().map(OsString::from));
        (argv.into_iter().map(|argument| argument.into_string().unwrap()).collect(), version)
    }

    #[test]
    fn a_link_named_like_a_program_of_nsq_is_that_program() {
        assert_eq!(unfolded(&["/usr/bin/nsqd", "-verbose"]).0, ["/usr/bin/nsqd", "nsqd", "-verbose"]);
        assert_eq!(unfolded(&["nsq_to_nsq", "--topic=t"]).0, ["nsq_to_nsq", "to-mesh", "--topic=t"]);
        assert_eq!(unfolded(&["bruit", "tail", "t"]).0, ["bruit", "tail", "t"]);
        assert_eq!(unfolded(&["nsqdx"]).0, ["nsqdx"]);
    }

    #[test]
    fn a_program_of_nsq_tells_its_version_in_its_form() {
        let form =
            |program: &str| Some(format!("{program} v1.3.0 (built w/bruit {})", env!("CARGO_PKG_VERSION")));
        assert_eq!(unfolded(&["nsqd", "-tcp-address=:1", "-version"]).1, form("nsqd"));
        assert_eq!(unfolded(&["bruit", "nsqlookupd", "--version"]).1, form("nsqlookupd"));
        assert_eq!(unfolded(&["./nsq_tail", "--version=true"]).1, form("nsq_tail"));
        assert_eq!(unfolded(&["bruit", "--version"]).1, None);
        assert_eq!(unfolded(&["bruit", "tail", "--version"]).1, None);
        assert_eq!(unfolded(&["nsqd", "--", "-version"]).1, None);
    }

    #[test]
    fn messages_that_an_nsqd_left_are_mentioned() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("t.diskqueue.meta.dat"), "0").unwrap();
        assert_eq!(leftovers(dir.path()), None);
        std::fs::write(dir.path().join("t:c.diskqueue.000000.dat"), "x").unwrap();
        assert!(leftovers(dir.path()).unwrap().contains("1 files"));
        assert_eq!(leftovers(&dir.path().join("none")), None);
    }
}
