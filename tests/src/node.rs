//! A node as a child process.

#![expect(
    clippy::disallowed_methods,
    reason = "reads the node's output on a thread of its own, or a chatty node would block"
)]

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
};

use crate::{Client, Http, binary, wait};

/// How to start a node. The defaults suit tests: free ports on loopback, for the mesh too, a directory of its
/// own, small segments, and no opinion about how full the disk is.
#[derive(Debug, Clone, Default)]
pub struct Options {
    args: Vec<String>,
    data_path: Option<PathBuf>,
    open_files_max: Option<u32>,
    program: Option<String>,
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an argument such as `--msg-timeout=1s`. A later one wins over an earlier one of the same name.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Starts the binary through a link of this name, with the given arguments and no others.
    #[must_use]
    pub fn program(mut self, name: &str) -> Self {
        self.program = Some(name.to_owned());
        self
    }

    /// Keeps the data in `path` (which outlives the node) instead of a temporary directory.
    #[must_use]
    pub fn data_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.data_path = Some(path.into());
        self
    }

    /// Lets the process open no more than `count` files and sockets.
    #[must_use]
    pub fn open_files_max(mut self, count: u32) -> Self {
        self.open_files_max = Some(count);
        self
    }

    /// Starts the node and waits until it serves.
    ///
    /// # Panics
    /// When it exits or stays silent instead.
    #[must_use]
    pub fn start(self) -> Node {
        let temporary = self.data_path.is_none().then(|| tempfile::tempdir().expect("a temporary directory"));
        let data_path = self
            .data_path
            .clone()
            .unwrap_or_else(|| temporary.as_ref().expect("made just above").path().join("data"));
        let process = Process::spawn(&self, &data_path);
        let mut node = Node { options: self, data_path, process, _temporary: temporary };
        node.process.wait_until_serving();
        node
    }

    /// Starts the node where it is expected to refuse; returns how it exited and what it said.
    ///
    /// # Panics
    /// When it serves instead, or does not exit by itself. It is gone then, too.
    #[must_use]
    pub fn start_refused(self) -> (ExitStatus, String) {
        let data_path = self.data_path.clone().expect("name the directory that makes it refuse");
        let mut process = Process::spawn(&self, &data_path);
        assert!(!process.serves(), "the node serves where it should refuse to");
        let status = process.wait_for_exit();
        (status, process.log())
    }

    fn command(&self, data_path: &Path) -> Vec<String> {
        if self.program.is_some() {
            return self.args.clone();
        }
        let mut command: Vec<String> = [
            "--tcp-address=127.0.0.1:0",
            "--http-address=127.0.0.1:0",
            "--broadcast-address=127.0.0.1",
            "--gossip-address=127.0.0.1:0",
            "--mesh-address=127.0.0.1:0",
            "--segment-size=1MiB",
            "--min-free-disk=0",
        ]
        .map(str::to_owned)
        .to_vec();
        command.push(format!("--data-path={}", data_path.display()));
        for arg in &self.args {
            let name = arg.split('=').next().unwrap_or_default();
            command.retain(|earlier| earlier.split('=').next() != Some(name) || repeatable(name));
            command.push(arg.clone());
        }
        command
    }
}

/// A running node. Dropping it kills it.
#[derive(Debug)]
pub struct Node {
    options: Options,
    data_path: PathBuf,
    process: Process,
    _temporary: Option<tempfile::TempDir>,
}

impl Node {
    /// Starts a node with the default [`Options`].
    #[must_use]
    pub fn start() -> Self {
        Options::new().start()
    }

    /// Where clients connect.
    #[must_use]
    pub fn tcp_address(&self) -> SocketAddr {
        self.process.tcp.expect("a started node has said where it listens")
    }

    /// Where HTTP is served.
    #[must_use]
    pub fn http_address(&self) -> SocketAddr {
        self.process.http.expect("a started node has said where it listens")
    }

    /// Where HTTPS is served.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn https_address(&self) -> SocketAddr {
        address_after(&self.log(), "HTTPS: listening on ").expect("a node with a certificate has said so")
    }

    /// Where other nodes are heard.
    ///
    /// # Panics
    /// When the node keeps to itself.
    #[must_use]
    pub fn gossip_address(&self) -> SocketAddr {
        let address = address_after(&self.log(), "gossip: listening on ");
        address.expect("a node of a mesh has said where it listens")
    }

    /// Where nsqds of the classic kind register.
    ///
    /// # Panics
    /// When they may not.
    #[must_use]
    pub fn registry_address(&self) -> SocketAddr {
        let address = address_after(&self.log(), "lookup: nsqd registers on ");
        address.expect("a node with a registry has said where it listens")
    }

    /// A connection on which the magic was sent.
    #[must_use]
    pub fn client(&self) -> Client {
        let mut client = Client::connect(self.tcp_address());
        client.send(b"  V2");
        client
    }

    /// A connection on which nothing was sent.
    #[must_use]
    pub fn silent_client(&self) -> Client {
        Client::connect(self.tcp_address())
    }

    /// A consumer of `channel` with RDY `ready`.
    #[must_use]
    pub fn consumer(&self, topic: &str, channel: &str, ready: u64) -> Client {
        let mut client = self.client();
        client.subscribe(topic, channel);
        client.ready(ready);
        client
    }

    /// The node's HTTP side.
    #[must_use]
    pub fn http(&self) -> Http {
        Http::new(self.http_address())
    }

    /// Where the node keeps its data.
    #[must_use]
    pub fn data_path(&self) -> &Path {
        &self.data_path
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Everything that the node has written to standard error since it was last started.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Whether the process still runs.
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        self.process.child.try_wait().expect("the child can be waited for").is_none()
    }

    /// Kills the process with SIGKILL, as `kill -9` does, and waits until it is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Sends SIGTERM and waits for the exit.
    ///
    /// # Panics
    /// When the node does not exit.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.process.wait_for_exit()
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.pid())]).status();
        assert!(status.expect("sh can be started").success(), "cannot send SIG{name}");
    }

    /// Starts the (dead) node again on the same directory, with new ports.
    pub fn start_again(&mut self) {
        assert!(!self.is_running(), "the node still runs");
        self.process = Process::spawn(&self.options, &self.data_path);
        self.process.wait_until_serving();
    }

    /// Starts the (dead) node again on the same directory, with one more argument from now on.
    pub fn start_again_with(&mut self, arg: impl Into<String>) {
        self.options = self.options.clone().arg(arg);
        self.start_again();
    }

    /// Starts the (dead) node again where it may refuse.
    ///
    /// # Errors
    /// What it said, when it exits instead of serving.
    pub fn try_start_again(&mut self) -> Result<(), String> {
        assert!(!self.is_running(), "the node still runs");
        self.process = Process::spawn(&self.options, &self.data_path);
        if self.process.serves() { Ok(()) } else { Err(self.log()) }
    }

    /// Starts the (dead) node again, only to kill it after `delay`.
    pub fn interrupt_start(&mut self, delay: std::time::Duration) {
        self.process = Process::spawn(&self.options, &self.data_path);
        wait::pause(delay);
        self.process.kill();
    }

    /// SIGTERM, then start again.
    pub fn restart(&mut self) {
        let status = self.terminate();
        assert!(status.success(), "a graceful stop ended with {status}\n{}", self.log());
        self.start_again();
    }

    /// SIGKILL, then start again.
    pub fn crash(&mut self) {
        self.kill();
        self.start_again();
    }

    /// `/stats?format=json` of one channel, or `None` while it does not exist.
    #[must_use]
    pub fn channel_stats(&self, topic: &str, channel: &str) -> Option<serde_json::Value> {
        let stats = self.topic_stats(topic)?;
        let channels = stats["channels"].as_array()?;
        channels.iter().find(|candidate| candidate["channel_name"] == channel).cloned()
    }

    /// `/stats?format=json` of one topic, or `None` while it does not exist.
    #[must_use]
    pub fn topic_stats(&self, topic: &str) -> Option<serde_json::Value> {
        let target = format!("/stats?format=json&topic={}", topic.replace('#', "%23"));
        let stats = self.http().get(&target).json();
        stats["topics"].as_array()?.first().cloned()
    }

    /// Waits until a number in the stats of a channel has this value.
    pub fn wait_for(&self, topic: &str, channel: &str, key: &str, value: u64) {
        wait::until(&format!("{topic}/{channel} has {key} {value}"), || {
            self.channel_stats(topic, channel).is_some_and(|stats| stats[key] == value)
        });
    }
}

/// One run of the binary. Dropping it kills it; when the test is failing, what it said is printed.
#[derive(Debug)]
struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
    tcp: Option<SocketAddr>,
    http: Option<SocketAddr>,
    http_wanted: bool,
}

impl Process {
    fn spawn(options: &Options, data_path: &Path) -> Self {
        let args = options.command(data_path);
        let program = match &options.program {
            Some(name) => binary::linked(name, data_path.parent().expect("a directory in another")),
            None => binary::bruit().to_owned(),
        };
        let mut command = match options.open_files_max {
            Some(count) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!("ulimit -n {count} && exec \"$0\" \"$@\"")).arg(program);
                shell
            }
            None => Command::new(program),
        };
        command.args(&args).env("NO_COLOR", "1");
        binary::hide_own_variables(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary can be started");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("standard error is piped");
        let sink = Arc::clone(&log);
        let reader = Some(std::thread::spawn(move || copy_lines(stderr, &sink)));
        let http_wanted = !args.iter().any(|arg| arg == "--http-address=");
        Self { child, log, reader, tcp: None, http: None, http_wanted }
    }

    fn wait_until_serving(&mut self) {
        assert!(self.serves(), "the node exited instead of serving:\n{}", self.log());
    }

    /// Waits until the node serves (true) or has exited (false).
    fn serves(&mut self) -> bool {
        let mut exited = false;
        wait::until("the node serves", || {
            exited = self.child.try_wait().expect("the child can be waited for").is_some();
            let log = self.log();
            self.tcp = address_after(&log, "TCP: listening on ");
            self.http = address_after(&log, "HTTP: listening on ");
            exited || (self.tcp.is_some() && (self.http.is_some() || !self.http_wanted))
        });
        if exited {
            self.read_to_the_end();
        }
        !exited
    }

    /// Waits until the last line of a dead process has been read.
    fn read_to_the_end(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader of the log does not panic");
        }
    }

    fn wait_for_exit(&mut self) -> ExitStatus {
        let mut exit = None;
        wait::until("the node exits", || {
            exit = self.child.try_wait().expect("the child can be waited for");
            exit.is_some()
        });
        self.read_to_the_end();
        exit.expect("set by the condition above")
    }

    fn kill(&mut self) {
        // An error here means that it is already dead.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.read_to_the_end();
    }

    fn log(&self) -> String {
        self.log.lock().expect("no reader of the log panics").clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- the node's last lines ---\n{}\n---", tail.join("\n"));
        }
    }
}

/// Flags that may be given several times, so that a later one does not replace an earlier one.
fn repeatable(name: &str) -> bool {
    let names = ["--topic-durability", "--join", "--lookupd-tcp-address", "--auth-http-address"];
    names.contains(&name)
}

fn copy_lines(stderr: impl Read, sink: &Mutex<String>) {
    for line in BufReader::new(stderr).split(b'\n') {
        let Ok(line) = line else { return };
        let mut log = sink.lock().expect("no reader of the log panics");
        let _ = writeln!(log, "{}", String::from_utf8_lossy(&line));
    }
}

/// The address that follows `marker`, as soon as its whole line is there.
fn address_after(log: &str, marker: &str) -> Option<SocketAddr> {
    let rest = &log[log.find(marker)? + marker.len()..];
    let line = &rest[..rest.find('\n')?];
    let end = line.find(|c: char| c.is_whitespace() || c == '\u{1b}').unwrap_or(line.len());
    line[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_should_have_refused_to_start_is_gone() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = Options::new().data_path(directory.path().join("data"));
        let unrefused = std::panic::catch_unwind(|| options.clone().start_refused());
        assert!(unrefused.is_err(), "nothing keeps it from serving: {unrefused:?}");
        // Two nodes cannot have one directory.
        drop(options.start());
    }
}
