//! `bruit bench disk`: what the disk allows a server that writes and syncs each batch before it answers.
#![expect(clippy::disallowed_types, reason = "it measures the disk itself, not a node's use of it")]

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use bruit_wire::nsq::MESSAGE_OVERHEAD;
use clap::Args;
use rustix::fs::{FallocateFlags, OFlags, fallocate};
use serde::Serialize;

use super::{
    clock,
    latency::{Latencies, LatencySummary},
    process::{Usage, load_average},
    report::grouped,
};
use crate::env::{ALIGNMENT, AlignedBuf};

/// Longest file that is written; a longer run starts again at its front.
const FILE_LEN_MAX: u64 = 1024 * 1024 * 1024;

/// Writes and syncs batches in a loop, in two ways.
#[derive(Debug, Args)]
pub(super) struct DiskArgs {
    /// Where to write; the file is removed afterwards
    #[arg(long, default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Bytes in a batch; direct writes are rounded up to whole blocks of 4,096
    #[arg(long, default_value_t = 65_536, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=16 * 1024 * 1024))]
    batch_bytes: u32,
    /// Batches to write
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Bytes of the messages whose rate is told
    #[arg(long, default_value_t = 200, value_name = "BYTES")]
    size: usize,
    /// Prints the result as one line of JSON
    #[arg(long)]
    json: bool,
}

/// What the disk did in one way of writing.
#[derive(Debug, Serialize)]
struct Row {
    mode: &'static str,
    batch_bytes: usize,
    count: u32,
    seconds: f64,
    ops_per_second: f64,
    megabytes_per_second: f64,
    messages_per_second: f64,
    cpu_us: f64,
    latency: Option<LatencySummary>,
}

/// Runs the benchmark.
///
/// # Errors
/// The directory cannot be written to.
pub(super) fn run(args: &DiskArgs) -> Result<ExitCode> {
    let path = args.dir.join(format!(".bruit-bench-{}", std::process::id()));
    let rows = measure(args, &path);
    // Best effort: the measurement's own error matters more.
    let _ = fs::remove_file(&path);
    let rows = rows?;
    if args.json {
        let report = serde_json::json!({ "bench": "disk", "rows": rows, "load_average": load_average() });
        println!("{report}");
    } else {
        rows.iter().for_each(print);
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(args: &DiskArgs, path: &Path) -> Result<Vec<Row>> {
    let context = || format!("cannot write to {}", args.dir.display());
    let len = file_len(args);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true);
    let file = options.open(path).with_context(context)?;
    fallocate(&file, FallocateFlags::empty(), 0, len).with_context(context)?;
    file.sync_all().with_context(context)?;
    let mut rows = vec![write_all(args, "buffered, preallocated", &file, args.batch_bytes as usize)?];
    drop(file);

    fill_with_zeros(&options.open(path).with_context(context)?, len).with_context(context)?;
    let direct = OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(path);
    match direct {
        Ok(file) => {
            let batch = (args.batch_bytes as usize).next_multiple_of(ALIGNMENT);
            rows.push(write_all(args, "direct, zero-filled", &file, batch)?);
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            eprintln!("this file system takes no direct writes: only buffered ones were measured");
        }
        Err(error) => return Err(error).with_context(context),
    }
    Ok(rows)
}

fn file_len(args: &DiskArgs) -> u64 {
    let batch = u64::from(args.batch_bytes).next_multiple_of(ALIGNMENT as u64);
    let whole = FILE_LEN_MAX / batch * batch;
    (batch * u64::from(args.count)).min(whole)
}

fn fill_with_zeros(file: &File, len: u64) -> io::Result<()> {
    let zeros = vec![0; 1024 * 1024];
    let mut at = 0;
    while at < len {
        let step = (len - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..step as usize], at)?;
        at += step;
    }
    file.sync_all()
}

fn write_all(args: &DiskArgs, mode: &'static str, file: &File, batch: usize) -> Result<Row> {
    let mut bytes = AlignedBuf::zeroed(batch);
    bytes.as_mut_slice().fill(b'x');
    let slots = (file.metadata()?.len() / batch as u64).max(1);
    ensure!(slots * batch as u64 <= FILE_LEN_MAX, "the file is longer than it was made");
    let mut latencies = Latencies::new();
    let before = Usage::of(None)?;
    let start = clock::now();
    let mut latest = start;
    for i in 0..u64::from(args.count) {
        file.write_all_at(bytes.as_slice(), i % slots * batch as u64)?;
        file.sync_data()?;
        let now = clock::now();
        latencies.record(now - latest, 1);
        latest = now;
    }
    let seconds = (latest - start).as_secs_f64();
    let cpu = Usage::of(None)?.cpu.saturating_sub(before.cpu);
    let ops_per_second = f64::from(args.count) / seconds.max(1e-9);
    Ok(Row {
        mode,
        batch_bytes: batch,
        count: args.count,
        seconds,
        ops_per_second,
        megabytes_per_second: ops_per_second * batch as f64 / 1e6,
        messages_per_second: ops_per_second * (batch / (args.size + MESSAGE_OVERHEAD)) as f64,
        cpu_us: cpu.as_secs_f64() * 1e6 / f64::from(args.count),
        latency: latencies.summary(),
    })
}

fn print(row: &Row) {
    println!("disk: {}, {} B and fdatasync, {} times", row.mode, row.batch_bytes, row.count);
    let messages = grouped(row.messages_per_second);
    let ops = grouped(row.ops_per_second);
    println!("  rate        {ops} batches/s, {:.1} MB/s, {messages} messages/s", row.megabytes_per_second);
    println!("  CPU         {:.1} µs a batch", row.cpu_us);
    if let Some(latency) = row.latency {
        println!("  latency     {latency}");
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DiskArgs,
    }

    fn args(dir: &Path, batch: &str) -> DiskArgs {
        let dir = dir.to_str().unwrap();
        Line::parse_from(["disk", "--dir", dir, "--batch-bytes", batch, "--count", "3"]).args
    }

    #[test]
    fn both_ways_write_and_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let args = args(dir.path(), "5000");
        let rows = measure(&args, &dir.path().join("x")).unwrap();
        assert_eq!(rows[0].batch_bytes, 5000);
        assert!(rows.iter().all(|row| row.latency.is_some_and(|latency| latency.count == 3)));
        assert!(rows.get(1).is_none_or(|direct| direct.batch_bytes == 8192));
        fs::remove_file(dir.path().join("x")).unwrap();
        run(&args).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_file_has_room_for_whole_batches_and_an_upper_bound() {
        let dir = Path::new(".");
        assert_eq!(file_len(&args(dir, "1")), 3 * 4096);
        let mut long = args(dir, "12288");
        long.count = u32::MAX;
        let len = file_len(&long);
        assert!(len <= FILE_LEN_MAX && len.is_multiple_of(12288));
    }
}
