//! Files by `std`, positional and, where the caller promised whole blocks, past the page cache.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    panic,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use rustix::fs::OFlags;
use tokio::runtime::Handle;

use super::{
    super::{ALIGNMENT, AlignedBuf, BoxFut, DirEntry, DirLock, Disk, DiskFile, Open},
    pace::Pace,
    pool::ReadPool,
};

/// Messages are no one else's business on the machine.
const FILE_MODE: u32 = 0o600;
/// Largest write that is made inline, bytes. What is larger waits for the device's bandwidth, beside
/// which a hop costs nothing, and says nothing about how quick a sync is.
const INLINE_MAX: usize = 512 * 1024;

pub(super) struct RealDisk {
    blocking: Handle,
    pace: Arc<Pace>,
    pool: Arc<ReadPool>,
    direct_refused: AtomicBool,
}

impl RealDisk {
    /// `blocking` lends the threads on which slow calls wait.
    pub(super) fn new(blocking: Handle) -> Self {
        Self { blocking, pace: Arc::default(), pool: Arc::default(), direct_refused: AtomicBool::new(false) }
    }

    fn open_now(&self, path: &Path, how: Open) -> io::Result<(File, bool)> {
        let mut options = OpenOptions::new();
        options.read(true);
        if how.writes() {
            options.write(true).create(true).truncate(false).mode(FILE_MODE);
        }
        if matches!(how, Open::Direct | Open::ReadDirect) && !self.direct_refused.load(Ordering::Relaxed) {
            let flags = i32::try_from(OFlags::DIRECT.bits()).map_err(io::Error::other)?;
            match options.clone().custom_flags(flags).open(path) {
                Ok(file) => return Ok((file, true)),
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    tracing::info!("{}: no direct IO on this file system, using its cache", path.display());
                    self.direct_refused.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
            }
        }
        Ok((options.open(path)?, false))
    }
}

impl Disk for RealDisk {
    fn open<'a>(&'a self, path: &'a Path, how: Open) -> BoxFut<'a, io::Result<Arc<dyn DiskFile>>> {
        Box::pin(async move {
            // Opening takes microseconds and happens once per segment: not worth a hop.
            let (file, uncached) = self.open_now(path, how)?;
            let file: Arc<dyn DiskFile> = Arc::new(RealFile {
                file: Arc::new(file),
                whole_blocks: how == Open::Direct,
                uncached,
                blocking: self.blocking.clone(),
                pace: self.pace.clone(),
                pool: self.pool.clone(),
            });
            Ok(file)
        })
    }

    fn list<'a>(&'a self, dir: &'a Path) -> BoxFut<'a, io::Result<Vec<DirEntry>>> {
        let dir = dir.to_owned();
        Box::pin(hop(&self.blocking, move || list(&dir)))
    }

    fn create_dir_all<'a>(&'a self, dir: &'a Path) -> BoxFut<'a, io::Result<()>> {
        let dir = dir.to_owned();
        Box::pin(hop(&self.blocking, move || fs::create_dir_all(dir)))
    }

    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFut<'a, io::Result<()>> {
        let (from, to) = (from.to_owned(), to.to_owned());
        Box::pin(hop(&self.blocking, move || fs::rename(from, to)))
    }

    fn remove<'a>(&'a self, path: &'a Path) -> BoxFut<'a, io::Result<()>> {
        let path = path.to_owned();
        Box::pin(hop(&self.blocking, move || fs::remove_file(path)))
    }

    fn sync_dir<'a>(&'a self, dir: &'a Path) -> BoxFut<'a, io::Result<()>> {
        let dir = dir.to_owned();
        Box::pin(hop(&self.blocking, move || File::open(dir)?.sync_all()))
    }

    fn lock(&self, path: PathBuf) -> BoxFut<'_, io::Result<Box<dyn DirLock>>> {
        Box::pin(async move {
            let file =
                OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
            match file.try_lock() {
                Ok(()) => {
                    let lock: Box<dyn DirLock> = Box::new(RealLock { _file: file });
                    Ok(lock)
                }
                Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
                Err(TryLockError::Error(error)) => Err(error),
            }
        })
    }

    fn free_bytes<'a>(&'a self, dir: &'a Path) -> BoxFut<'a, io::Result<u64>> {
        let dir = dir.to_owned();
        Box::pin(hop(&self.blocking, move || {
            let volume = rustix::fs::statvfs(&dir)?;
            Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
        }))
    }
}

/// The lock goes with the descriptor, and so with the process, however that ends.
struct RealLock {
    _file: File,
}

impl DirLock for RealLock {}

struct RealFile {
    file: Arc<File>,
    /// The caller promised to write whole blocks: checked, so that a breach is found on any file system.
    whole_blocks: bool,
    /// The page cache is really passed by, so that reads have to be of whole blocks too.
    uncached: bool,
    blocking: Handle,
    pace: Arc<Pace>,
    pool: Arc<ReadPool>,
}

impl DiskFile for RealFile {
    fn write_at(
        &self,
        offset: u64,
        data: AlignedBuf,
        sync: bool,
    ) -> BoxFut<'_, (AlignedBuf, io::Result<()>)> {
        Box::pin(async move {
            if self.whole_blocks && !(is_aligned(offset) && is_aligned(data.len() as u64)) {
                let error = io::Error::new(io::ErrorKind::InvalidInput, "a direct write of partial blocks");
                return (data, Err(error));
            }
            let small = data.len() <= INLINE_MAX;
            // A write into the cache would make a slow disk look quick.
            let telling = small && (sync || self.uncached);
            let (file, pace) = (self.file.clone(), self.pace.clone());
            let write = move || {
                let write = || write_now(&file, offset, data.as_slice(), sync);
                let outcome = if telling { pace.measure(write) } else { write() };
                (data, outcome)
            };
            if small && self.pace.is_quick() {
                return write();
            }
            let written = self.blocking.spawn_blocking(write);
            match written.await {
                Ok(done) => done,
                Err(error) => (AlignedBuf::default(), Err(resume(error))),
            }
        })
    }

    fn read_at(&self, offset: u64, len: usize) -> BoxFut<'_, io::Result<Bytes>> {
        let (file, pool) = (self.file.clone(), self.uncached.then(|| self.pool.clone()));
        Box::pin(hop(&self.blocking, move || read_now(&file, offset, len, pool.as_ref())))
    }

    fn sync(&self) -> BoxFut<'_, io::Result<()>> {
        let file = self.file.clone();
        Box::pin(hop(&self.blocking, move || file.sync_data()))
    }

    fn set_len(&self, len: u64) -> BoxFut<'_, io::Result<()>> {
        let file = self.file.clone();
        Box::pin(hop(&self.blocking, move || file.set_len(len)))
    }

    fn size(&self) -> BoxFut<'_, io::Result<u64>> {
        Box::pin(async move { Ok(self.file.metadata()?.len()) })
    }
}

fn is_aligned(position: u64) -> bool {
    position.is_multiple_of(ALIGNMENT as u64)
}

fn write_now(file: &File, offset: u64, data: &[u8], sync: bool) -> io::Result<()> {
    file.write_all_at(data, offset)?;
    if sync { file.sync_data() } else { Ok(()) }
}

/// Reads `len` bytes at `offset`, fewer at the end of the file. Without the cache the range is widened to
/// whole blocks, read into a buffer of `pool`, and the part that was asked for cut out without a copy.
fn read_now(file: &File, offset: u64, len: usize, pool: Option<&Arc<ReadPool>>) -> io::Result<Bytes> {
    let uncached = pool.is_some();
    let block = ALIGNMENT as u64;
    let ahead = if uncached { (offset % block) as usize } else { 0 };
    let wanted = ahead.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
    let span = if uncached { wanted.next_multiple_of(ALIGNMENT) } else { wanted };
    let mut buf = pool.map_or_else(|| AlignedBuf::zeroed(span), |pool| pool.take(span));
    let start = offset - ahead as u64;
    let mut filled = 0;
    while filled < wanted {
        match file.read_at(&mut buf.as_mut_slice()[filled..span], start + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // A direct read stops inside a block at the end of the file only, and could not go on from there.
        if uncached && !filled.is_multiple_of(ALIGNMENT) {
            break;
        }
    }
    let end = filled.min(wanted);
    let content = match pool {
        Some(pool) => pool.lend(buf),
        None => buf.freeze(),
    };
    Ok(content.slice(ahead.min(end)..end))
}

fn list(dir: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // A name that is no text was not given by a node.
        if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
            entries.push(DirEntry { name, len: metadata.len() });
        }
    }
    entries.sort();
    Ok(entries)
}

/// Runs `call` on a thread that may wait. It runs to its end even if the caller goes away meanwhile.
async fn hop<T: Send + 'static>(
    blocking: &Handle,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match blocking.spawn_blocking(call).await {
        Ok(outcome) => outcome,
        Err(error) => Err(resume(error)),
    }
}

/// Carries a panic over to the caller's thread. What is left is a runtime that is being shut down.
fn resume(error: tokio::task::JoinError) -> io::Error {
    match error.try_into_panic() {
        Ok(payload) => panic::resume_unwind(payload),
        Err(error) => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::PermissionsExt,
        task::{Context, Poll, Waker},
        time::Duration,
    };

    use tempfile::TempDir;

    use super::*;

    fn disk() -> RealDisk {
        RealDisk::new(Handle::current())
    }

    fn blocks(byte: u8, count: usize) -> AlignedBuf {
        let mut buf = AlignedBuf::zeroed(count * ALIGNMENT);
        buf.as_mut_slice().fill(byte);
        buf
    }

    async fn file(dir: &TempDir, how: Open) -> Arc<dyn DiskFile> {
        disk().open(&dir.path().join("f"), how).await.unwrap()
    }

    #[tokio::test]
    async fn direct_writes_are_read_back_at_any_offset() {
        let dir = TempDir::new().unwrap();
        let file = file(&dir, Open::Direct).await;
        let (buf, outcome) = file.write_at(0, blocks(1, 2), true).await;
        outcome.unwrap();
        assert_eq!(buf.len(), 2 * ALIGNMENT, "the buffer comes back");
        let (_, outcome) = file.write_at(2 * ALIGNMENT as u64, blocks(2, 1), false).await;
        outcome.unwrap();
        file.sync().await.unwrap();

        let across = file.read_at(2 * ALIGNMENT as u64 - 3, 5).await.unwrap();
        assert_eq!(across, [1, 1, 1, 2, 2].as_slice());
        assert_eq!(file.read_at(0, 3 * ALIGNMENT).await.unwrap().len(), 3 * ALIGNMENT);
        assert_eq!(file.size().await.unwrap(), 3 * ALIGNMENT as u64);
    }

    #[tokio::test]
    async fn reads_are_short_at_the_end_of_the_file_only() {
        let dir = TempDir::new().unwrap();
        let file = file(&dir, Open::Direct).await;
        file.write_at(0, blocks(7, 2), true).await.1.unwrap();
        file.set_len(5000).await.unwrap();
        for how in [Open::Direct, Open::Write, Open::Read] {
            let file = disk().open(&dir.path().join("f"), how).await.unwrap();
            assert_eq!(file.read_at(4990, 100).await.unwrap(), [7; 10].as_slice(), "{how:?}");
            assert_eq!(file.read_at(0, 9000).await.unwrap().len(), 5000, "{how:?}");
            assert_eq!(file.read_at(5000, 10).await.unwrap().len(), 0, "{how:?}");
            assert_eq!(file.read_at(4999, 0).await.unwrap().len(), 0, "{how:?}");
            assert_eq!(file.read_at(1_000_000, 10).await.unwrap().len(), 0, "{how:?}");
        }
    }

    #[tokio::test]
    async fn a_direct_write_of_partial_blocks_is_refused_and_the_buffer_returned() {
        let dir = TempDir::new().unwrap();
        let file = file(&dir, Open::Direct).await;
        let mut partial = blocks(1, 1);
        partial.resize(100);
        let (buf, outcome) = file.write_at(0, partial, false).await;
        assert_eq!((buf.len(), outcome.unwrap_err().kind()), (100, io::ErrorKind::InvalidInput));
        let (_, outcome) = file.write_at(512, blocks(1, 1), false).await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(file.size().await.unwrap(), 0);
    }

    /// A disk whose only blocking thread is kept busy until the sender goes, so that what hops is pending.
    fn busy_disk() -> (RealDisk, std::sync::mpsc::Sender<()>, tokio::runtime::Runtime) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let (release, released) = std::sync::mpsc::channel();
        runtime.spawn_blocking(move || released.recv());
        (RealDisk::new(runtime.handle().clone()), release, runtime)
    }

    fn poll_once<T>(future: &mut BoxFut<'_, T>) -> Option<T> {
        let mut context = Context::from_waker(Waker::noop());
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn a_quick_disk_is_written_in_the_first_poll_unless_there_is_much_to_write() {
        let dir = TempDir::new().unwrap();
        let (disk, release, runtime) = busy_disk();
        let file = disk.open(&dir.path().join("f"), Open::Write).await.unwrap();
        let (_, outcome) = poll_once(&mut file.write_at(0, blocks(3, 1), true)).unwrap();
        outcome.unwrap();

        let mut large = file.write_at(0, AlignedBuf::zeroed(INLINE_MAX + ALIGNMENT), false);
        assert!(poll_once(&mut large).is_none());
        drop(release);
        large.await.1.unwrap();
        runtime.shutdown_background();
    }

    #[tokio::test]
    async fn a_slow_disk_is_written_from_another_thread() {
        let dir = TempDir::new().unwrap();
        let (disk, release, runtime) = busy_disk();
        let file = disk.open(&dir.path().join("f"), Open::Write).await.unwrap();
        disk.pace.record(Duration::from_secs(1));
        let mut write = file.write_at(0, blocks(3, 1), true);
        assert!(poll_once(&mut write).is_none());
        drop(release);
        write.await.1.unwrap();
        assert_eq!(file.read_at(0, 1).await.unwrap(), [3].as_slice());
        runtime.shutdown_background();
    }

    #[tokio::test]
    async fn a_missing_file_is_created_for_writing_only_and_for_the_owner_only() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("f");
        let error = disk().open(&path, Open::Read).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        disk().open(&path, Open::Direct).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_refusal_of_direct_io_falls_back_to_the_cache() {
        let dir = TempDir::new().unwrap();
        let disk = disk();
        disk.direct_refused.store(true, Ordering::Relaxed);
        let file = disk.open(&dir.path().join("f"), Open::Direct).await.unwrap();
        file.write_at(0, blocks(9, 1), true).await.1.unwrap();
        assert_eq!(file.read_at(1, 2).await.unwrap(), [9, 9].as_slice());
    }

    #[tokio::test]
    async fn a_lock_is_held_once_and_given_back_on_drop() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("lock");
        let held = disk().lock(path.clone()).await.unwrap();
        let error = disk().lock(path.clone()).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        disk().lock(path).await.unwrap();
    }

    #[tokio::test]
    async fn files_are_listed_by_name_renamed_and_removed() {
        let dir = TempDir::new().unwrap();
        let disk = disk();
        for (name, len) in [("b", 2), ("a", 1), ("c", 3)] {
            fs::write(dir.path().join(name), vec![0; len]).unwrap();
        }
        disk.create_dir_all(&dir.path().join("sub/dir")).await.unwrap();
        disk.rename(&dir.path().join("c"), &dir.path().join("a")).await.unwrap();
        let entry = |name: &str, len| DirEntry { name: name.to_owned(), len };
        assert_eq!(disk.list(dir.path()).await.unwrap(), [entry("a", 3), entry("b", 2)]);
        disk.remove(&dir.path().join("a")).await.unwrap();
        disk.sync_dir(dir.path()).await.unwrap();
        assert_eq!(disk.list(dir.path()).await.unwrap(), [entry("b", 2)]);
        assert!(disk.free_bytes(dir.path()).await.unwrap() > 0);
        let missing = disk.list(&dir.path().join("missing")).await.unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
