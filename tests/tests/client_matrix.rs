//! The client matrix: libraries that others wrote, over each transport that they have. The table is printed, and
//! written to `client-matrix.txt` in the target directory.

use std::{fmt::Write as _, path::Path, process::Command, time::Duration};

use bruit_tests::{Node, certificates::Authority, command::run, libraries, tree, wait};

/// The columns: what lies between a client and the socket, and finding the node by a lookup.
const TRANSPORTS: [&str; 7] = ["plain", "lookup", "tls", "snappy", "deflate", "tls+snappy", "tls+deflate"];

/// A client library, and what it cannot do by itself, with the reason.
struct Library {
    name: &'static str,
    /// `py`, `js` or `rust`: where it is installed, and what runs it.
    home: &'static str,
    program: &'static str,
    cannot: &'static [(&'static str, &'static str)],
    /// What its cells do not show.
    note: &'static str,
}

const NO_LAYERS: [&str; 5] = ["tls", "snappy", "deflate", "tls+snappy", "tls+deflate"];

const LIBRARIES: [Library; 6] = [
    Library { name: "pynsq", home: "py", program: "with_pynsq.py", cannot: &[], note: "" },
    Library {
        name: "gnsq",
        home: "py",
        program: "with_gnsq.py",
        cannot: &[],
        note: "gnsq: only its consumer can use TLS and compression, its producer ends with a KeyError; it publishes in clear text",
    },
    Library {
        name: "ansq",
        home: "py",
        program: "with_ansq.py",
        cannot: &[("*", "it has neither TLS nor compression (NotImplementedError)")],
        note: "",
    },
    Library { name: "nsqjs", home: "js", program: "with_nsqjs.js", cannot: &[], note: "" },
    Library {
        name: "squeaky",
        home: "js",
        program: "with_squeaky.js",
        cannot: &[("*", "it has neither TLS nor compression (its README says so)")],
        note: "",
    },
    Library {
        name: "tokio-nsq",
        home: "rust",
        program: "bruit-rust-client",
        cannot: &[],
        note: "tokio-nsq: its TLS takes any certificate by default, as here",
    },
];

impl Library {
    /// Why the library cannot do `transport` by itself.
    fn excuse(&self, transport: &str) -> Option<&'static str> {
        let all_layers = NO_LAYERS.contains(&transport);
        let applies = |what: &str| what == transport || (what == "*" && all_layers);
        self.cannot.iter().find(|(what, _)| applies(what)).map(|(_, why)| *why)
    }

    /// Runs it over `transport`.
    ///
    /// # Errors
    /// What it said when it was not content.
    fn run(&self, node: &Node, transport: &str, installed: &Path, ca: &Path) -> Result<(), String> {
        let script = tree::root().join("tests/clients/matrix").join(self.program);
        let mut command = match self.home {
            "py" => Command::new(installed.join("py/bin/python")),
            "js" => Command::new("node"),
            _ => Command::new(installed.join("rust/debug").join(self.program)),
        };
        if self.home != "rust" {
            command.arg(script);
        }
        let topic = format!("{}-{}", self.name, transport.replace('+', "-"));
        command.arg(node.tcp_address().to_string()).arg(node.http_address().to_string());
        command.args([topic.as_str(), transport]).arg(ca);
        command.env("NODE_PATH", installed.join("js/node_modules")).env("NODE_EXTRA_CA_CERTS", ca);
        let (ended, seen) = std::thread::scope(|scope| {
            let running = scope.spawn(|| run(command, b""));
            let mut seen = false;
            while !running.is_finished() {
                seen = seen || consumes_over(node, &topic, transport);
                wait::pause(Duration::from_millis(20));
            }
            (running.join().expect("running a program does not panic"), seen)
        });
        if ended.code != Some(0) {
            return Err(format!("{}\n{}", ended.stdout, ended.stderr));
        }
        if !seen {
            return Err("the node has not seen a consumer that comes over this".to_owned());
        }
        let stats = node.channel_stats(&topic, "test").ok_or("there is no channel")?;
        let (sent, requeued) = (&stats["message_count"], &stats["requeue_count"]);
        if *sent != 100 || *requeued != 10 {
            return Err(format!("the node counts {sent} messages and {requeued} put back"));
        }
        node.wait_for(&topic, "test", "depth", 0);
        node.wait_for(&topic, "test", "in_flight_count", 0);
        Ok(())
    }

    /// Why it is not there, if the installer could not install it.
    fn missing(&self, installed: &Path) -> Option<String> {
        let note = installed.join(format!("{}.missing", self.name));
        std::fs::read_to_string(note).ok().map(|why| why.trim().to_owned())
    }
}

/// Whether a consumer is there now whose connection has exactly these layers: a library that is not given what it
/// asked for may go on without.
fn consumes_over(node: &Node, topic: &str, transport: &str) -> bool {
    let Some(stats) = node.channel_stats(topic, "test") else { return false };
    let has = |client: &serde_json::Value, layer: &str| {
        client[layer] == transport.split('+').any(|part| part == layer)
    };
    let Some(clients) = stats["clients"].as_array() else { return false };
    !clients.is_empty()
        && clients.iter().all(|client| ["tls", "snappy", "deflate"].iter().all(|layer| has(client, layer)))
}

#[test]
fn every_client_does_over_every_transport_what_it_can() {
    let installed = libraries();
    let target = installed.parent().expect("they lie in the target directory");
    let authority = Authority::new("authority");
    let ca = authority.file();
    let node = authority.options().start();
    let rows: Vec<Vec<Cell>> = std::thread::scope(|scope| {
        let run_all = |library: &'static Library| {
            let (node, ca) = (&node, &ca);
            move || TRANSPORTS.map(|transport| cell(library, node, transport, installed, ca)).into()
        };
        let rows: Vec<_> = LIBRARIES.iter().map(|library| scope.spawn(run_all(library))).collect();
        rows.into_iter().map(|row| row.join().expect("a row does not panic")).collect()
    });
    let table = table(&rows);
    println!("{table}");
    std::fs::write(target.join("client-matrix.txt"), &table).expect("the table can be written");
    assert!(!rows.iter().flatten().any(|cell| matches!(cell, Cell::Failed(_))), "\n{table}");
}

enum Cell {
    Works,
    Unsupported(&'static str),
    Missing(String),
    Failed(String),
}

fn cell(library: &'static Library, node: &Node, transport: &str, installed: &Path, ca: &Path) -> Cell {
    if let Some(why) = library.missing(installed) {
        return Cell::Missing(why);
    }
    if let Some(why) = library.excuse(transport) {
        return Cell::Unsupported(why);
    }
    match library.run(node, transport, installed, ca) {
        Ok(()) => Cell::Works,
        Err(why) => Cell::Failed(why),
    }
}

fn table(rows: &[Vec<Cell>]) -> String {
    let (mut table, mut notes) = (format!("{:<10}", "client"), Vec::new());
    for transport in TRANSPORTS {
        let _ = write!(table, " {transport:<13}");
    }
    for (library, row) in LIBRARIES.iter().zip(rows) {
        let _ = write!(table, "\n{:<10}", library.name);
        for (transport, cell) in TRANSPORTS.iter().zip(row) {
            let (word, note) = match cell {
                Cell::Works => ("works", None),
                Cell::Unsupported(why) => {
                    ("unsupported", Some(format!("{}: unsupported by the client: {why}", library.name)))
                }
                Cell::Missing(why) => {
                    ("not installed", Some(format!("{}: not installed here: {why}", library.name)))
                }
                Cell::Failed(why) => ("FAILED", Some(format!("{} over {transport}: {why}", library.name))),
            };
            let _ = write!(table, " {word:<13}");
            notes.extend(note.filter(|note| !notes.contains(note)));
        }
    }
    table.push('\n');
    notes.extend(
        LIBRARIES.iter().filter(|library| !library.note.is_empty()).map(|library| library.note.to_owned()),
    );
    for note in notes {
        let _ = writeln!(table, "{note}");
    }
    table
}
