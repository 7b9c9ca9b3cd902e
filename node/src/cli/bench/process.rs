//! CPU time and memory of a process, as Linux tells them under `/proc`.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

/// What a process has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    /// User and system time of all threads, those that have ended included. Linux counts it in ticks of
    /// 10 ms as a rule.
    pub(super) cpu: Duration,
    /// Resident memory, bytes.
    pub(super) rss: u64,
}

impl Usage {
    /// Reads the usage of the process `pid`, or of this one.
    ///
    /// # Errors
    /// There is no such process, or the system has no `/proc`.
    pub(super) fn of(pid: Option<u32>) -> Result<Self> {
        let dir = pid.map_or_else(|| "/proc/self".to_owned(), |pid| format!("/proc/{pid}"));
        let read = |name: &str| {
            fs::read_to_string(format!("{dir}/{name}"))
                .with_context(|| format!("cannot read {dir}/{name}: is the process running?"))
        };
        let ticks = cpu_ticks(&read("stat")?).with_context(|| format!("{dir}/stat is not understood"))?;
        let rss = resident_bytes(&read("status")?).with_context(|| format!("{dir}/status has no VmRSS"))?;
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        Ok(Self { cpu: Duration::from_secs(ticks) / u32::try_from(per_second).unwrap_or(100), rss })
    }
}

/// What a process used in the course of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Used {
    /// CPU time, seconds.
    pub(super) cpu_seconds: f64,
    /// Resident memory before, bytes.
    pub(super) rss_before: u64,
    /// Resident memory after, bytes.
    pub(super) rss_after: u64,
}

impl Used {
    fn plus(self, other: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            rss_before: self.rss_before + other.rss_before,
            rss_after: self.rss_after + other.rss_after,
        }
    }
}

/// Watches the servers whose process ids are known, and this process.
#[derive(Debug)]
pub(super) struct Meter {
    servers: Vec<(u32, Usage)>,
    client: Usage,
}

impl Meter {
    /// Starts to count now.
    ///
    /// # Errors
    /// As [`Usage::of`].
    pub(super) fn start(servers: &[u32]) -> Result<Self> {
        let servers = servers.iter().map(|&pid| Ok((pid, Usage::of(Some(pid))?))).collect::<Result<_>>()?;
        Ok(Self { servers, client: Usage::of(None)? })
    }

    /// What the servers together and this process have used since the start.
    ///
    /// # Errors
    /// As [`Usage::of`]; above all when the server has died.
    pub(super) fn stop(&self) -> Result<(Option<Used>, Used)> {
        let used = |before: Usage, after: Usage| Used {
            cpu_seconds: after.cpu.saturating_sub(before.cpu).as_secs_f64(),
            rss_before: before.rss,
            rss_after: after.rss,
        };
        let mut servers: Option<Used> = None;
        for &(pid, before) in &self.servers {
            let one = used(before, Usage::of(Some(pid))?);
            servers = Some(servers.map_or(one, |sum| sum.plus(one)));
        }
        Ok((servers, used(self.client, Usage::of(None)?)))
    }
}

/// The load averages of the machine, as `/proc/loadavg` gives them.
pub(super) fn load_average() -> Option<[f64; 3]> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    let mut fields = text.split(' ').map(str::parse);
    Some([fields.next()?.ok()?, fields.next()?.ok()?, fields.next()?.ok()?])
}

/// User plus system time from the text of `/proc/PID/stat`. The program's name stands in parentheses and may
/// itself hold spaces and parentheses, so counting starts behind the last one.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    Some(fields.next()?.ok()? + fields.next()?.ok()?)
}

/// `VmRSS` from the text of `/proc/PID/status`, in bytes.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_a_name_of_any_shape() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 250 50 77 78 20 0 3 0 1000";
        for name in ["(bruit)", "(a b)", "(a) 9 9 (b)"] {
            assert_eq!(cpu_ticks(&format!("42 {name} {rest}")), Some(300), "{name}");
        }
        assert_eq!(cpu_ticks("42 (bruit) S 1 2"), None);
        assert_eq!(cpu_ticks(""), None);
    }

    #[test]
    fn resident_memory_is_in_bytes() {
        assert_eq!(resident_bytes("VmPeak:\t 9 kB\nVmRSS:\t    1234 kB\n"), Some(1234 * 1024));
        assert_eq!(resident_bytes("VmPeak:\t 9 kB\n"), None);
    }

    #[test]
    fn this_process_can_be_read_and_an_absent_one_cannot() {
        assert!(Usage::of(None).unwrap().rss > 0);
        assert!(Usage::of(Some(u32::MAX)).is_err());
    }
}
