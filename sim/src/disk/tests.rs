//! The disk's promises, each through the traits that the node uses.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bruit::env::{AlignedBuf, DirEntry, Disk, DiskFile, Open};

use super::{Failing, Mount, Pace, SimDisk};
use crate::{
    dice::Dice,
    trace::{SimClock, Trace},
};

const DATA: &str = "/data";

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(Dice::new(seed), Trace::new(SimClock::default(), false), Path::new(DATA))
}

fn buffer(bytes: &[u8]) -> AlignedBuf {
    let mut buffer = AlignedBuf::default();
    buffer.extend_from_slice(bytes);
    buffer
}

fn path(name: &str) -> PathBuf {
    Path::new(DATA).join(name)
}

async fn create(mount: &Mount, name: &str) -> Arc<dyn DiskFile> {
    let file = mount.open(&path(name), Open::Write).await.unwrap();
    mount.sync_dir(Path::new(DATA)).await.unwrap();
    file
}

async fn content(mount: &Mount, name: &str) -> Vec<u8> {
    let file = mount.open(&path(name), Open::Read).await.unwrap();
    file.read_at(0, 1 << 20).await.unwrap().to_vec()
}

#[tokio::test(start_paused = true)]
async fn a_process_crash_keeps_what_was_written_and_a_power_loss_what_was_synced() {
    let disk = disk(1);
    let file = create(&disk.mount(), "a").await;
    assert!(file.write_at(0, buffer(b"synced"), true).await.1.is_ok());
    assert!(file.write_at(0, buffer(b"cached"), false).await.1.is_ok());
    disk.crash_process();
    assert_eq!(content(&disk.mount(), "a").await, b"cached");
    let mut left = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let disk = super::tests::disk(seed);
        let file = create(&disk.mount(), "a").await;
        assert!(file.write_at(0, buffer(b"synced"), true).await.1.is_ok());
        assert!(file.write_at(0, buffer(b"cached"), false).await.1.is_ok());
        disk.lose_power();
        left.insert(content(&disk.mount(), "a").await);
    }
    assert_eq!(left.into_iter().collect::<Vec<_>>(), [b"cached".to_vec(), b"synced".to_vec()]);
}

#[tokio::test(start_paused = true)]
async fn a_handle_of_an_earlier_process_is_dead() {
    let disk = disk(1);
    let (mount, old) = (disk.mount(), create(&disk.mount(), "a").await);
    disk.crash_process();
    assert!(old.write_at(0, buffer(b"x"), true).await.1.is_err());
    assert!(old.read_at(0, 1).await.is_err());
    assert!(mount.open(&path("a"), Open::Write).await.is_err());
    assert_eq!(content(&disk.mount(), "a").await, b"");
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_held_once_and_released_by_drop_or_crash() {
    let disk = disk(1);
    let mount = disk.mount();
    let held = mount.lock(path("lock")).await.unwrap();
    let refused = mount.lock(path("lock")).await.err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    disk.crash_process();
    let new = disk.mount();
    let again = new.lock(path("lock")).await.unwrap();
    drop(held);
    assert!(new.lock(path("lock")).await.is_err(), "a dead process released the lock of a living one");
    drop(again);
    assert!(new.lock(path("lock")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_growth_says_so_and_takes_overwrites() {
    let disk = disk(1);
    let mount = disk.mount();
    let file = create(&mount, "a").await;
    assert!(file.write_at(0, buffer(&[1; 1024]), true).await.1.is_ok());
    disk.set_faults(|faults| faults.capacity = Some(2048));
    assert_eq!(mount.free_bytes(Path::new(DATA)).await.unwrap(), 1024);
    let full = file.write_at(1024, buffer(&[2; 2048]), false).await.1.unwrap_err();
    assert_eq!((full.kind(), full.raw_os_error()), (io::ErrorKind::StorageFull, Some(28)));
    assert!(file.set_len(4096).await.is_err());
    assert!(file.write_at(0, buffer(&[3; 1024]), true).await.1.is_ok());
    disk.set_faults(|faults| faults.capacity = None);
    assert!(file.set_len(4096).await.is_ok());
    assert_eq!(disk.wear().refused_writes, 2);
}

#[tokio::test(start_paused = true)]
async fn failing_operations_fail_as_often_as_told() {
    let disk = disk(1);
    let mount = disk.mount();
    let file = create(&mount, "a").await;
    disk.set_faults(|faults| faults.sync = Failing::Once);
    assert_eq!(file.write_at(0, buffer(b"x"), true).await.1.unwrap_err().raw_os_error(), Some(5));
    assert!(file.sync().await.is_ok());
    disk.set_faults(|faults| (faults.write, faults.read) = (Failing::Always, Failing::Always));
    for _ in 0..3 {
        assert!(file.write_at(0, buffer(b"x"), false).await.1.is_err());
        assert!(file.read_at(0, 1).await.is_err());
    }
    disk.set_faults(|faults| faults.sync = Failing::Always);
    assert!(mount.sync_dir(Path::new(DATA)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_slow_disk_takes_simulated_time() {
    let disk = disk(1);
    let file = create(&disk.mount(), "a").await;
    disk.set_faults(|faults| faults.pace = Pace { per_mille: 1000, transfer_millis: 1, sync_millis: 9000 });
    let before = tokio::time::Instant::now();
    for _ in 0..10 {
        assert!(file.sync().await.is_ok());
    }
    assert!(before.elapsed() > Duration::from_secs(9));
}

#[tokio::test(start_paused = true)]
async fn a_frozen_disk_answers_nothing_until_the_next_crash() {
    for seed in 0..32 {
        let disk = disk(seed);
        let file = create(&disk.mount(), "a").await;
        disk.freeze_after(2);
        assert!(file.write_at(0, buffer(&[1; 1024]), false).await.1.is_ok());
        assert!(!disk.is_frozen());
        let stuck = file.write_at(0, buffer(&[2; 1024]), false);
        assert!(tokio::time::timeout(Duration::from_secs(9), stuck).await.is_err());
        assert!(disk.is_frozen());
        assert!(tokio::time::timeout(Duration::from_secs(9), file.size()).await.is_err());
        disk.crash_process();
        let left = content(&disk.mount(), "a").await;
        assert!(left.iter().all(|byte| [1, 2].contains(byte)) && left.len() == 1024);
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "direct write")]
async fn a_direct_write_must_be_aligned() {
    let mount = disk(1).mount();
    let file = mount.open(&path("a"), Open::Direct).await.unwrap();
    let _ = file.write_at(512, buffer(&[0; 4096]), false).await;
}

#[tokio::test(start_paused = true)]
async fn listing_is_sorted_and_knows_lengths() {
    let mount = disk(1).mount();
    assert!(mount.list(Path::new("/none")).await.is_err());
    for name in ["b", "a"] {
        let file = create(&mount, name).await;
        assert!(file.write_at(0, buffer(name.repeat(3).as_bytes()), false).await.1.is_ok());
    }
    mount.rename(&path("b"), &path("c")).await.unwrap();
    let entry = |name: &str| DirEntry { name: name.to_owned(), len: 3 };
    assert_eq!(mount.list(Path::new(DATA)).await.unwrap(), [entry("a"), entry("c")]);
    mount.remove(&path("a")).await.unwrap();
    assert_eq!(mount.list(Path::new(DATA)).await.unwrap(), [entry("c")]);
    assert!(mount.open(&path("a"), Open::Read).await.is_err());
}
