//! A disk that is memory: for a node that stores nothing, and still is made of the same parts.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{AlignedBuf, BoxFut, DirEntry, DirLock, Disk, DiskFile, Open};

/// Files in memory, gone with the process.
#[derive(Default)]
pub(crate) struct MemoryDisk {
    files: Mutex<BTreeMap<PathBuf, Arc<MemoryFile>>>,
}

#[derive(Default)]
struct MemoryFile(Mutex<Vec<u8>>);

struct NoLock;

impl DirLock for NoLock {}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFut<'a, T> {
    Box::pin(std::future::ready(value))
}

impl Disk for MemoryDisk {
    fn open<'a>(&'a self, path: &'a Path, how: Open) -> BoxFut<'a, io::Result<Arc<dyn DiskFile>>> {
        let mut files = self.files.lock();
        if how.writes() {
            files.entry(path.to_owned()).or_default();
        }
        let file = files.get(path).map(|file| -> Arc<dyn DiskFile> { Arc::<MemoryFile>::clone(file) });
        ready(file.ok_or_else(missing))
    }

    fn list<'a>(&'a self, dir: &'a Path) -> BoxFut<'a, io::Result<Vec<DirEntry>>> {
        let files = self.files.lock();
        let inside = files.iter().filter(|(path, _)| path.parent() == Some(dir));
        let entries = inside.filter_map(|(path, file)| {
            let name = path.file_name()?.to_str()?.to_owned();
            Some(DirEntry { name, len: file.0.lock().len() as u64 })
        });
        ready(Ok(entries.collect()))
    }

    fn create_dir_all<'a>(&'a self, _: &'a Path) -> BoxFut<'a, io::Result<()>> {
        ready(Ok(()))
    }

    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFut<'a, io::Result<()>> {
        let mut files = self.files.lock();
        let moved = files.remove(from).map(|file| drop(files.insert(to.to_owned(), file)));
        ready(moved.ok_or_else(missing))
    }

    fn remove<'a>(&'a self, path: &'a Path) -> BoxFut<'a, io::Result<()>> {
        let removed = self.files.lock().remove(path);
        ready(removed.map(drop).ok_or_else(missing))
    }

    fn sync_dir<'a>(&'a self, _: &'a Path) -> BoxFut<'a, io::Result<()>> {
        ready(Ok(()))
    }

    fn lock(&self, _: PathBuf) -> BoxFut<'_, io::Result<Box<dyn DirLock>>> {
        let lock: Box<dyn DirLock> = Box::new(NoLock);
        ready(Ok(lock))
    }

    fn free_bytes<'a>(&'a self, _: &'a Path) -> BoxFut<'a, io::Result<u64>> {
        ready(Ok(u64::MAX))
    }
}

impl DiskFile for MemoryFile {
    fn write_at(&self, offset: u64, data: AlignedBuf, _: bool) -> BoxFut<'_, (AlignedBuf, io::Result<()>)> {
        let mut content = self.0.lock();
        let start = offset as usize;
        let end = start + data.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[start..end].copy_from_slice(data.as_slice());
        drop(content);
        ready((data, Ok(())))
    }

    fn read_at(&self, offset: u64, len: usize) -> BoxFut<'_, io::Result<Bytes>> {
        let content = self.0.lock();
        let start = content.len().min(offset as usize);
        let end = content.len().min(start.saturating_add(len));
        ready(Ok(Bytes::copy_from_slice(&content[start..end])))
    }

    fn sync(&self) -> BoxFut<'_, io::Result<()>> {
        ready(Ok(()))
    }

    fn set_len(&self, len: u64) -> BoxFut<'_, io::Result<()>> {
        self.0.lock().resize(len as usize, 0);
        ready(Ok(()))
    }

    fn size(&self) -> BoxFut<'_, io::Result<u64>> {
        ready(Ok(self.0.lock().len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_are_written_read_renamed_listed_and_removed() {
        let disk = MemoryDisk::default();
        let (one, other) = (Path::new("d/one"), Path::new("d/other"));
        assert_eq!(disk.open(one, Open::Read).await.err().unwrap().kind(), io::ErrorKind::NotFound);
        let file = disk.open(one, Open::Write).await.unwrap();
        let mut bytes = AlignedBuf::with_capacity(3);
        bytes.extend_from_slice(b"abc");
        file.write_at(2, bytes, true).await.1.unwrap();
        assert_eq!(file.read_at(1, 10).await.unwrap(), b"\0abc"[..]);
        assert_eq!(file.read_at(9, 10).await.unwrap(), b""[..]);
        disk.rename(one, other).await.unwrap();
        assert_eq!(disk.list(Path::new("d")).await.unwrap(), [DirEntry { name: "other".to_owned(), len: 5 }]);
        file.set_len(1).await.unwrap();
        assert_eq!(file.size().await.unwrap(), 1);
        disk.remove(other).await.unwrap();
        assert!(disk.remove(other).await.is_err() && disk.list(Path::new("d")).await.unwrap().is_empty());
    }
}
