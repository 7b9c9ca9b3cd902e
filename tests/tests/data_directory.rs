//! What a node does with a data directory that is taken, unusable, full or damaged.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bruit_tests::{FrameKind, Node, Options, command, command::bruit, load, wait};

/// A file system of its own in memory, unmounted when dropped.
struct Mount {
    directory: tempfile::TempDir,
}

impl Mount {
    /// Mounts one with these options, or says why that is not possible here.
    fn new(options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().to_str().expect("a path of plain characters");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", options, "bruit-test", path]).output();
        let why = match output {
            Ok(output) if output.status.success() => return Some(Self { directory }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        // Written past the test harness, which would keep it to itself.
        let _ = writeln!(io::stderr(), "SKIPPED a test that needs a file system of its own: mount: {why}");
        None
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn remount(&self, options: &str) {
        let status =
            Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.path()).status();
        assert!(status.expect("mount can be started").success(), "cannot remount with {options}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("--lazy").arg(self.path()).status();
        assert!(status.is_ok_and(|status| status.success()), "cannot unmount {}", self.path().display());
    }
}

/// The files of a stopped node that are not empty, by name.
fn data_files(node: &Node) -> Vec<PathBuf> {
    let entries = fs::read_dir(node.data_path()).expect("the data directory can be listed");
    let filled = entries.flatten().filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 0));
    let mut files: Vec<PathBuf> = filled.map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// Those that hold messages, oldest first.
fn segments(node: &Node) -> Vec<PathBuf> {
    let mut files = data_files(node);
    files.retain(|path| path.extension().is_some_and(|extension| extension == "segment"));
    files
}

/// An offset of something written in the records of a segment, about a `part` in 16 into it; `None` when it
/// holds no records.
fn written_offset(path: &Path, part: usize) -> Option<u64> {
    let bytes = fs::read(path).expect("readable");
    let last = bytes.iter().rposition(|&byte| byte != 0).filter(|&last| last >= FIRST_RECORD)?;
    let from = FIRST_RECORD + (last - FIRST_RECORD) * (part % 16) / 16;
    (from..=last).find(|&at| bytes[at] != 0).map(|at| at as u64)
}

/// Where records begin in a segment.
const FIRST_RECORD: usize = 4096;

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the file can be opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("the offset is inside of the file");
    file.write_all_at(&[byte[0] ^ 0x10], offset).expect("the file can be written");
}

#[test]
fn a_second_node_on_the_same_directory_is_refused() {
    let mut node = Node::start();
    let (status, said) = Options::new().data_path(node.data_path()).start_refused();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(node.data_path().to_str().expect("plain characters")), "{said}");
    assert!(said.contains("another") || said.contains("lock"), "{said}");
    node.client().publish("t", "the first goes on");
    node.kill();
    let second = Options::new().data_path(node.data_path()).start();
    assert!(second.topic_stats("t").is_some(), "the lock outlived its owner");
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("a-file");
    fs::write(&path, "not a directory").expect("a file can be written");
    let (status, said) = Options::new().data_path(&path).start_refused();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("a-file"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_read_only_directory_is_refused() {
    let Some(mount) = Mount::new("ro,size=16m") else { return };
    let (status, said) = Options::new().data_path(mount.path().join("data")).start_refused();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(mount.path().to_str().expect("plain characters")), "{said}");
}

#[test]
fn a_directory_that_turns_read_only_refuses_publishes() {
    let Some(mount) = Mount::new("size=32m") else { return };
    let mut node = Options::new().data_path(mount.path().join("data")).start();
    node.client().publish("t", "before");
    node.kill();
    mount.remount("ro");
    let (status, said) = Options::new().data_path(node.data_path()).start_refused();
    assert_eq!(status.code(), Some(1), "{said}");
    mount.remount("rw");
    node.start_again();
    assert_eq!(node.consumer("t", "c", 1).message().text(), "before");
}

#[test]
fn a_full_disk_refuses_publishes_and_recovers_by_itself() {
    let Some(mount) = Mount::new("size=24m") else { return };
    let mut node = Options::new().data_path(mount.path().join("data")).arg("--min-free-disk=4MiB").start();
    let mut consumer = node.consumer("t", "c", 0);
    let acknowledged = fill(&node);
    assert!(acknowledged > 5, "only {acknowledged} messages found room");
    let reply = node.http().post("/pub?topic=t", "x");
    assert_eq!(reply.outcome(), (503, r#"{"message":"EXITING"}"#.to_owned()));
    let why = "NOK - disk full: free some space, or lower --min-free-disk";
    assert_eq!(node.http().get("/ping").outcome(), (500, why.to_owned()));
    assert_eq!(node.http().get("/stats?format=json").json()["health"], why);
    assert!(node.is_running());
    // Deliveries and FINs go on, and give the room back.
    consumer.ready(10);
    consumer.finish_messages(acknowledged);
    wait::until("there is room again", || node.http().post("/pub?topic=t", "after").status == 200);
    assert_eq!(node.http().get("/ping").outcome(), (200, "OK".to_owned()));
    assert_eq!(consumer.message().text(), "after");
    node.crash();
    assert_eq!(node.consumer("t", "c", 1).message().text(), "after");
}

/// Publishes messages of 200 kB until the node refuses one; returns how many were acknowledged.
fn fill(node: &Node) -> usize {
    let mut producer = node.client();
    let body = vec![b'x'; 200_000];
    for acknowledged in 0..1000 {
        producer.send(command("PUB t", &body));
        let frame = producer.frame();
        if frame.kind == FrameKind::Error {
            let text = String::from_utf8_lossy(&frame.body).into_owned();
            assert!(text.starts_with("E_PUB_FAILED PUB failed "), "{text}");
            return acknowledged;
        }
    }
    panic!("200 MB found room on a disk of 24 MB");
}

#[test]
fn damage_costs_only_what_it_hit() {
    let mut node = Options::new().arg("--segment-size=64KiB").start();
    node.consumer("t", "c", 0).settle();
    let mut producer = node.client();
    for i in 0..500 {
        producer.publish("t", load::body(&format!("m-{i}")));
    }
    node.kill();
    let mut flips = 0;
    for (part, path) in segments(&node).iter().enumerate() {
        if let Some(offset) = written_offset(path, part) {
            flip(path, offset);
            flips += 1;
        }
    }
    assert!(flips >= 2, "too few segments to damage");
    node.start_again();
    let delivered = load::drain(&mut node.consumer("t", "c", 2500), Duration::from_secs(1));
    // A flip costs the record that it hit; a commit of a busy publisher may hold several messages.
    let lost = 500 - delivered.len();
    assert!(lost as u64 <= flips * 2, "{flips} flipped bits cost {lost} messages");
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

#[test]
fn no_flipped_bit_anywhere_keeps_a_node_from_starting_or_makes_it_panic() {
    let mut node = Options::new().arg("--segment-size=64KiB").start();
    node.consumer("t", "c", 0).settle();
    let mut producer = node.client();
    for i in 0..200 {
        producer.publish("t", load::body(&format!("m-{i}")));
    }
    node.restart();
    node.kill();
    let originals: Vec<(PathBuf, Vec<u8>)> = data_files(&node)
        .into_iter()
        .map(|path| (path.clone(), fs::read(&path).expect("readable")))
        .collect();
    for round in 0..40_u64 {
        for (path, bytes) in &originals {
            fs::write(path, bytes).expect("the file can be put back");
        }
        let (path, bytes) = &originals[(round % originals.len() as u64) as usize];
        // The first bytes hold the headers; after them anywhere.
        let offset = if round % 2 == 0 { round * 3 } else { round * 2_654_435_761 } % bytes.len() as u64;
        flip(path, offset);
        let shown = format!("byte {offset} of {}", path.display());
        match node.try_start_again() {
            Ok(()) => {
                let delivered = load::drain(&mut node.consumer("t", "c", 2500), Duration::from_millis(200));
                assert!(delivered.keys().all(|key| key.starts_with("m-")), "{shown}: {delivered:?}");
                node.kill();
            }
            // Refusing is right where going on would lose what is not damaged; it has to say what is wrong.
            Err(said) => {
                assert!(said.contains(path.file_name().and_then(|n| n.to_str()).unwrap_or("?")), "{said}")
            }
        }
        assert!(!node.log().contains("panicked"), "{shown}: {}", node.log());
    }
}

#[test]
fn a_directory_of_a_later_version_is_refused_and_left_alone() {
    let mut node = Node::start();
    node.client().publish("t", "x");
    node.kill();
    let segment = segments(&node).pop().expect("a segment");
    let good = fs::read(&segment).expect("readable");
    let mut later = good.clone();
    later[8..12].copy_from_slice(&2_u32.to_le_bytes());
    let checksum = crc32(&later[..32]);
    later[32..36].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&segment, &later).expect("the file can be written");
    let said = node.try_start_again().expect_err("a later format was read as if it were known");
    assert!(said.contains("format 2") && said.contains(".segment"), "{said}");
    assert!(fs::read(&segment).expect("readable") == later, "the file was changed");
    fs::write(&segment, &good).expect("the file can be written");
    node.start_again();
    assert_eq!(node.consumer("t", "c", 1).message().text(), "x");
}

/// The checksum of a segment's front.
fn crc32(bytes: &[u8]) -> u32 {
    let update = |crc: u32, byte: &u8| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 },
        )
    };
    !bytes.iter().fold(u32::MAX, update)
}

#[test]
fn a_torn_tail_is_cut_at_the_last_whole_record() {
    let mut node = Options::new().arg("--segment-size=256KiB").start();
    node.consumer("t", "c", 0).settle();
    let mut producer = node.client();
    for i in 0..50 {
        producer.publish("t", load::body(&format!("m-{i}")));
    }
    node.kill();
    // Noise behind the last record, as a torn write leaves it.
    let segment = segments(&node).pop().expect("a segment");
    let bytes = fs::read(&segment).expect("readable");
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1) as u64;
    let file = OpenOptions::new().write(true).open(&segment).expect("the file can be opened");
    file.write_all_at(&[0xA5; 700], end.next_multiple_of(8)).expect("the file can be written");
    node.start_again();
    let delivered = load::drain(&mut node.consumer("t", "c", 2500), Duration::from_secs(1));
    assert_eq!(delivered.len(), 50);
    node.client().publish("t", load::body("m-50"));
    node.crash();
    let delivered = load::drain(&mut node.consumer("t", "c", 2500), Duration::from_secs(1));
    assert!(delivered.contains_key("m-50"), "{delivered:?}");
}

#[test]
fn journal_verify_tells_a_good_directory_from_a_damaged_one() {
    let mut node = Options::new().arg("--segment-size=64KiB").start();
    let mut producer = node.client();
    for i in 0..300 {
        producer.publish("t", load::body(&format!("m-{i}")));
    }
    node.kill();
    let path = node.data_path().to_str().expect("plain characters").to_owned();
    let ended = bruit(&["journal", "verify", &path]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let segment = segments(&node).swap_remove(0);
    flip(&segment, written_offset(&segment, 5).expect("the first segment is full"));
    let ended = bruit(&["journal", "verify", &path]);
    assert!(matches!(ended.code, Some(1 | 4 | 5)), "damage was not reported: {ended:?}");
    let said = ended.stdout + &ended.stderr;
    let name = segment.file_name().and_then(|name| name.to_str()).expect("plain characters");
    assert!(said.contains(name), "the damaged file is not named: {said}");
    let ended = bruit(&["journal", "verify", "/nonexistent"]);
    assert_ne!(ended.code, Some(0), "{ended:?}");
}
