//! The shape of the repository: who may depend on whom, what pure code may not name, how long files may be.
//! Each rule says in its message what to do instead.

use std::{collections::BTreeMap, process::Command};

use bruit_tests::tree;

/// Fails with every finding at once.
fn assert_none(findings: &[String], rule: &str) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

/// The part of a source that is compiled into the product: without its tests, comments and string contents.
fn code(text: &str) -> Vec<(usize, String)> {
    let product = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = product.lines().enumerate();
    lines.map(|(i, line)| (i + 1, line.split("//").next().unwrap_or_default().to_owned())).collect()
}

/// Where any of `words` occurs in the code below `folders`.
fn mentions(folders: &[&str], words: &[&str], allowed: impl Fn(&str) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    for folder in folders {
        for (path, text) in tree::sources(folder) {
            if allowed(&path) {
                continue;
            }
            for (number, line) in code(&text) {
                for word in words.iter().filter(|word| occurs(&line, word)) {
                    findings.push(format!("{path}:{number} names `{word}`"));
                }
            }
        }
    }
    findings
}

/// Whether `word` occurs in `line` and is not merely the end of a longer name.
fn occurs(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_') || !word.starts_with(char::is_alphanumeric)
    })
}

#[test]
fn wire_and_gossip_depend_on_nothing_that_does_io() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "tree",
        "--locked",
        "-p",
        "bruit-wire",
        "-p",
        "bruit-gossip",
        "-e",
        "normal",
        "--prefix",
        "none",
    ]);
    let output = command.current_dir(tree::root()).output().expect("cargo can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("bruit-wire v"), "cargo tree shows something else: {text}");
    let io = ["tokio", "mio", "socket2", "quinn", "hyper", "async-std", "smol", "rustix", "turmoil"];
    let found = text.lines().filter_map(|line| line.split(' ').next()).filter(|name| io.contains(name));
    assert_none(
        &found.map(str::to_owned).collect::<Vec<_>>(),
        "bytes and facts need no IO; move it to the node",
    );
}

#[test]
fn wire_and_gossip_name_neither_runtime_nor_clock_nor_socket() {
    let words =
        ["tokio", ".await", "Instant::now", "SystemTime", "std::net::Tcp", "std::net::Udp", "std::fs"];
    let fuzz = |path: &str| path.contains("/fuzz/");
    assert_none(&mentions(&["wire/", "gossip/"], &words, fuzz), "take what you need as an argument");
}

#[test]
fn dependencies_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("wire", [].as_slice()),
        ("gossip", &["bruit-wire"]),
        ("node", &["bruit-gossip", "bruit-wire"]),
        ("sim", &["bruit", "bruit-gossip", "bruit-wire"]),
        ("tests", &["bruit-wire"]),
        ("benches", &["bruit", "bruit-wire"]),
    ]);
    for (package, allowed) in allowed {
        let manifest = tree::text(&format!("{package}/Cargo.toml"));
        let mut section = "";
        for line in manifest.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            if section.contains("dependencies") && (name == "bruit" || name.starts_with("bruit-")) {
                assert!(
                    allowed.contains(&name),
                    "{package} may not depend on {name}: wire <- gossip <- node <- sim"
                );
            }
            if package != "sim" {
                assert_ne!(name, "turmoil", "only the simulation names turmoil, not {package}");
            }
        }
    }
}

#[test]
fn only_the_simulation_names_turmoil() {
    let found = mentions(&["wire/", "gossip/", "node/", "benches/"], &["turmoil"], |_| false);
    assert_none(&found, "the node must not know that it is simulated; use the traits of bruit::env");
}

#[test]
fn only_the_real_environment_and_the_clients_of_the_command_line_open_sockets_and_files() {
    let words = [
        "std::fs",
        "fs::",
        "tokio::net",
        "TcpStream",
        "TcpListener",
        "TcpSocket",
        "UdpSocket",
        "OpenOptions",
    ];
    // quinn's traits name a socket, which env/quic.rs refuses to take.
    let outside = |path: &str| {
        path.starts_with("node/src/env/") || path.starts_with("node/src/cli/") || path.ends_with("/tests.rs")
    };
    let found = mentions(&["node/src/"], &words, outside);
    assert_none(&found, "use Env, or the simulation cannot see it");
}

#[test]
fn only_the_command_line_reads_environment_variables() {
    let found =
        mentions(&["wire/", "gossip/", "node/"], &["std::env::var", "env::var(", "env::vars"], |path| {
            path.starts_with("node/src/cli/")
        });
    assert_none(&found, "settings come in through bruit::Config");
}

#[test]
fn every_select_is_biased() {
    let mut findings = Vec::new();
    for (path, text) in tree::sources("") {
        let lines = code(&text);
        for (at, (number, line)) in lines.iter().enumerate() {
            if occurs(line, "select! {") {
                let next = lines[at + 1..].iter().find(|(_, line)| !line.trim().is_empty());
                if next.is_none_or(|(_, line)| line.trim() != "biased;") {
                    findings.push(format!("{path}:{number}"));
                }
            }
        }
    }
    assert_none(&findings, "begin every select! with `biased;`: a random choice differs from run to run");
}

#[test]
fn files_are_named_after_what_they_hold() {
    let vague = ["util", "utils", "common", "helper", "helpers", "manager", "types", "misc"];
    let found = tree::files().into_iter().filter(|path| {
        let name = path.rsplit('/').next().unwrap_or_default();
        let folder = path.rsplit('/').nth(1).unwrap_or_default();
        vague.contains(&name.split('.').next().unwrap_or_default()) || vague.contains(&folder)
    });
    assert_none(&found.collect::<Vec<_>>(), "name it after the noun that it holds");
}

#[test]
fn files_stay_short_or_say_why_not() {
    let mut findings = Vec::new();
    for (path, text) in tree::sources("") {
        let lines = text.lines().count();
        let header = text.lines().take_while(|line| line.starts_with("//!") || line.is_empty());
        let explained = header.into_iter().any(|line| line.contains("long because"));
        if lines > 1000 {
            findings.push(format!("{path} has {lines} lines: split it"));
        } else if lines > 600 && !explained {
            findings
                .push(format!("{path} has {lines} lines: split it, or say `long because ...` in its header"));
        }
    }
    assert_none(&findings, "files aim for 150 to 400 lines");
}

#[test]
fn functions_stay_short() {
    let mut findings = Vec::new();
    for (path, text) in tree::sources("") {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            if !starts_function(line.trim_start()) {
                continue;
            }
            let end = format!("{}}}", " ".repeat(indent));
            let length = lines[at..].iter().position(|line| *line == end).unwrap_or_default();
            if length > 100 {
                findings.push(format!("{path}:{} has {length} lines", at + 1));
            }
        }
    }
    assert_none(&findings, "functions aim for less than 70 lines, and none has more than 100");
}

fn starts_function(line: &str) -> bool {
    let line = line.strip_prefix("pub(crate) ").or_else(|| line.strip_prefix("pub ")).unwrap_or(line);
    let line = line.strip_prefix("async ").or_else(|| line.strip_prefix("const ")).unwrap_or(line);
    line.starts_with("fn ") && !line.ends_with(';') && !line.ends_with('}')
}

#[test]
fn exceptions_to_lints_have_to_be_needed_and_explained() {
    let found =
        mentions(&[""], &[concat!("#[", "allow("), concat!("#![", "allow(")], |path| path.contains("/fuzz/"));
    assert_none(&found, "use #[expect(lint, reason = \"...\")]");
}

#[test]
fn accessors_are_named_after_what_they_return() {
    let mut findings = Vec::new();
    for (path, text) in tree::sources("") {
        let lines = code(&text).into_iter();
        let found = lines.filter(|(_, line)| line.contains(concat!("fn ", "get_")) && line.contains("self"));
        findings.extend(found.map(|(number, line)| format!("{path}:{number} {}", line.trim())));
    }
    assert_none(&findings, "leave the `get_` out");
}

#[test]
fn the_top_level_holds_only_what_belongs_there() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "benches",
        "gossip",
        "node",
        "sim",
        "tests",
        "wire",
    ];
    let mut top: Vec<String> =
        tree::files().into_iter().map(|path| path.split('/').next().unwrap_or_default().to_owned()).collect();
    top.dedup();
    top.retain(|name| !name.starts_with('.') && !allowed.contains(&name.as_str()));
    assert_none(&top, "keep the top level to the six packages and the papers");
}

#[test]
fn the_architecture_is_told_briefly() {
    let lines = tree::text("ARCHITECTURE.md").lines().count();
    assert!((20..=250).contains(&lines), "ARCHITECTURE.md has {lines} lines; it is to have at most 250");
}

#[test]
fn nothing_names_the_place_where_it_was_written() {
    let hosts = [
        concat!("/wo", "rk/"),
        concat!("registry.npm", "js.org"),
        concat!("pypi", ".org"),
        concat!("python", "hosted.org"),
        concat!("deb.deb", "ian.org"),
        concat!("static.crates", ".io"),
        concat!("index.crates", ".io"),
        concat!("proxy.gol", "ang.org"),
    ];
    let mut findings = Vec::new();
    for path in tree::files() {
        let text = tree::text(&path);
        for host in hosts.iter().filter(|host| text.contains(**host)) {
            findings.push(format!("{path} names {host}"));
        }
    }
    assert_none(&findings, "use the ordinary clients as they are set up");
}
