//! The binary as a command that runs and ends.

#![expect(
    clippy::disallowed_methods,
    reason = "feeds standard input on a thread, or a full pipe would block"
)]

use std::{
    io::Write,
    process::{Child, Command, Stdio},
};

use crate::{binary, wait};

/// How a command ended and what it said.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `bruit` with arguments and an empty standard input, to its end.
#[must_use]
pub fn bruit(args: &[&str]) -> Ended {
    bruit_with(args, &[], b"")
}

/// Runs `bruit` with arguments, environment variables and a standard input, to its end.
///
/// # Panics
/// When it does not end.
#[must_use]
pub fn bruit_with(args: &[&str], environment: &[(&str, &str)], stdin: &[u8]) -> Ended {
    let mut command = Command::new(binary::bruit());
    command.args(args).envs(environment.iter().copied()).env("NO_COLOR", "1");
    binary::hide_own_variables(&mut command);
    run(command, stdin)
}

/// Starts `bruit` with arguments and a standard input, to be waited for with [`Running::end`].
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn bruit_started(args: &[&str], stdin: &[u8]) -> Running {
    let mut command = Command::new(binary::bruit());
    command.args(args).env("NO_COLOR", "1");
    binary::hide_own_variables(&mut command);
    start(command, stdin)
}

/// A command on its way.
#[derive(Debug)]
pub struct Running {
    child: Child,
    feeder: std::thread::JoinHandle<()>,
}

impl Running {
    /// Sends a signal by name.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn signal(&self, name: &str) {
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status();
        assert!(status.expect("sh can be started").success(), "cannot send SIG{name}");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn end(self) -> Ended {
        let ended = finish(self.child);
        self.feeder.join().expect("the feeder does not panic");
        ended
    }
}

/// Runs any command to its end.
///
/// # Panics
/// When it cannot be started, or does not end.
#[must_use]
pub fn run(command: Command, stdin: &[u8]) -> Ended {
    start(command, stdin).end()
}

fn start(mut command: Command, stdin: &[u8]) -> Running {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut pipe = child.stdin.take().expect("standard input is piped");
    let bytes = stdin.to_vec();
    // A command that ends early does not read all of it.
    let feeder = std::thread::spawn(move || drop(pipe.write_all(&bytes)));
    Running { child, feeder }
}

/// Waits for a child whose output is piped.
fn finish(mut child: Child) -> Ended {
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let stdout = std::thread::spawn(move || out.as_mut().map(read_all).unwrap_or_default());
    let stderr = std::thread::spawn(move || err.as_mut().map(read_all).unwrap_or_default());
    let mut status = None;
    let started = wait::Stopwatch::start();
    while status.is_none() {
        status = child.try_wait().expect("the child can be waited for");
        if started.elapsed() > 4 * wait::PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            let said = stderr.join().unwrap_or_default();
            panic!("the command did not end; standard error was:\n{said}");
        }
        wait::pause(std::time::Duration::from_millis(5));
    }
    Ended {
        code: status.and_then(|status| status.code()),
        stdout: stdout.join().expect("the reader does not panic"),
        stderr: stderr.join().expect("the reader does not panic"),
    }
}

fn read_all(pipe: &mut impl std::io::Read) -> String {
    let mut bytes = Vec::new();
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
