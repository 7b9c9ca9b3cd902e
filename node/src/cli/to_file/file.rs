//! The file that a topic is written to at the moment.
#![expect(clippy::disallowed_types, reason = "client code, beside the node and not within it")]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use flate2::{Compression, write::GzEncoder};
use tokio::time::Instant;

use super::{
    ToFileArgs,
    names::{TopicNames, numbered},
};

/// The files of one topic, one after the other.
pub(super) struct TopicFile<'a> {
    args: &'a ToFileArgs,
    names: TopicNames,
    current: Option<Current>,
    /// The name of the last file, its number left open, and that number.
    last: (String, u64),
}

struct Current {
    path: PathBuf,
    output: Output,
    /// Bytes of messages in it.
    written: u64,
    dirty: bool,
    opened: Instant,
}

enum Output {
    Plain(BufWriter<File>),
    Gzip(Box<Gzip>),
}

/// A file of gzip members, one for each sync: what is synced can be read.
struct Gzip {
    /// While no member is open.
    file: Option<BufWriter<File>>,
    member: Option<GzEncoder<BufWriter<File>>>,
    level: Compression,
}

impl<'a> TopicFile<'a> {
    pub(super) fn new(args: &'a ToFileArgs, names: TopicNames) -> Self {
        Self { args, names, current: None, last: (String::new(), 0) }
    }

    /// Begins a file, if none is open.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn open(&mut self) -> anyhow::Result<()> {
        if self.current.is_some() {
            return Ok(());
        }
        let name = self.names.now();
        let mut number = if name == self.last.0 { self.last.1 + 1 } else { 0 };
        let exclusive = self.args.gzip || !self.args.rotate_interval.is_zero();
        let can_number = name.contains("<REV>");
        loop {
            let path = self.work_dir().join(numbered(&name, number));
            let cannot = || format!("cannot write {}", path.display());
            let dir = path.parent().map_or_else(PathBuf::new, Path::to_owned);
            fs::create_dir_all(&dir).with_context(cannot)?;
            let is_finished = || self.args.output_dir.join(numbered(&name, number)).exists();
            if can_number && self.moves() && is_finished() {
                number += 1;
                continue;
            }
            let mut options = OpenOptions::new();
            let options = match exclusive && can_number {
                true => options.write(true).create_new(true),
                false => options.append(true).create(true),
            };
            let file = match options.open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && can_number => {
                    number += 1;
                    continue;
                }
                opened => opened.with_context(cannot)?,
            };
            let length = file.metadata().with_context(cannot)?.len();
            if can_number && length > 0 && self.args.rotate_size > 0 && length >= self.args.rotate_size {
                number += 1;
                continue;
            }
            // The name has to be as durable as what is written under it.
            sync_dir(&dir).with_context(cannot)?;
            let output = Output::new(file, self.args.gzip.then(|| Compression::new(self.args.gzip_level)));
            self.current =
                Some(Current { path, output, written: length, dirty: false, opened: Instant::now() });
            self.last = (name, number);
            return Ok(());
        }
    }

    /// Whether it is time for another file.
    pub(super) fn is_over(&self) -> bool {
        let Some(current) = &self.current else { return false };
        let args = self.args;
        let is_large = args.rotate_size > 0 && current.written >= args.rotate_size;
        let is_old = !args.rotate_interval.is_zero() && current.opened.elapsed() >= args.rotate_interval;
        is_large || is_old || self.names.now() != self.last.0
    }

    /// Appends a message and a newline.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(&mut self, body: &[u8]) -> anyhow::Result<()> {
        self.open()?;
        let Some(current) = &mut self.current else { return Ok(()) };
        let written = current.output.write_all(body).and_then(|()| current.output.write_all(b"\n"));
        written.with_context(|| format!("cannot write {}", current.path.display()))?;
        current.written += body.len() as u64 + 1;
        current.dirty = true;
        Ok(())
    }

    /// Returns once everything that was written is on disk.
    ///
    /// # Errors
    /// It is not.
    pub(super) fn sync(&mut self) -> anyhow::Result<()> {
        let Some(current) = self.current.as_mut().filter(|current| current.dirty) else { return Ok(()) };
        current.dirty = false;
        current.output.sync().with_context(|| format!("cannot sync {}", current.path.display()))
    }

    /// Ends the file that is open, if one is. It has been synced.
    ///
    /// # Errors
    /// It cannot be moved to where finished files are.
    pub(super) fn end(&mut self) -> anyhow::Result<()> {
        self.sync()?;
        let Some(Current { path, output, .. }) = self.current.take() else { return Ok(()) };
        drop(output);
        if !self.moves() {
            return Ok(());
        }
        let (name, mut number) = (&self.last.0, self.last.1);
        loop {
            let target = self.args.output_dir.join(numbered(name, number));
            let cannot = || format!("cannot move {} to {}", path.display(), target.display());
            let dir = target.parent().map_or_else(PathBuf::new, Path::to_owned);
            fs::create_dir_all(&dir).with_context(cannot)?;
            // Unlike a rename, a link never replaces a file.
            match fs::hard_link(&path, &target) {
                Ok(()) => {
                    sync_dir(&dir).with_context(cannot)?;
                    return fs::remove_file(&path).with_context(cannot);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error).with_context(cannot),
            }
        }
    }

    fn work_dir(&self) -> &Path {
        self.args.work_dir.as_ref().unwrap_or(&self.args.output_dir)
    }

    fn moves(&self) -> bool {
        *self.work_dir() != *self.args.output_dir
    }
}

impl Output {
    fn new(file: File, level: Option<Compression>) -> Self {
        let file = BufWriter::new(file);
        match level {
            None => Self::Plain(file),
            Some(level) => Self::Gzip(Box::new(Gzip { file: Some(file), member: None, level })),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(bytes),
            Self::Gzip(gzip) => {
                let Gzip { file, member, level } = &mut **gzip;
                if let Some(file) = file.take() {
                    *member = Some(GzEncoder::new(file, *level));
                }
                member.as_mut().ok_or_else(ended)?.write_all(bytes)
            }
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let file = match self {
            Self::Plain(file) => file,
            Self::Gzip(gzip) => {
                let Gzip { file, member, .. } = &mut **gzip;
                if let Some(member) = member.take() {
                    *file = Some(member.finish()?);
                }
                file.as_mut().ok_or_else(ended)?
            }
        };
        file.flush()?;
        file.get_ref().sync_all()
    }
}

fn ended() -> io::Error {
    io::Error::other("an earlier write failed")
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir)?.sync_all()
}
