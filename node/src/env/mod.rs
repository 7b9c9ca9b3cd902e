//! The outside world, as a handful of small object-safe traits given to the node at start.
//!
//! Production passes [`real`]; the simulation passes its own network, disk and clock.
//! Both drive the same compiled node. Monotonic time is not here: shells read
//! `tokio::time::Instant::now()`, which a paused runtime controls, and hand it to the pure parts.
//!
//! **Invariant:** no other module of this crate opens a socket or a file, reads a wall clock, draws
//! randomness or starts a thread. The lints of the workspace and a test hold this.

mod buffer;
pub(crate) mod memory;
mod quic;
pub mod real;

use std::{
    fmt::Debug,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::buffer::{ALIGNMENT, AlignedBuf};
pub(crate) use self::quic::QuicRuntime;

/// A boxed future that may move between threads: what an object-safe async method returns.
pub type BoxFut<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Everything the node may ask of the world. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Sockets.
    pub net: Arc<dyn Net>,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// The cryptography that QUIC uses. Its randomness is part of the world.
    pub crypto: Arc<rustls::crypto::CryptoProvider>,
    /// The wall clock, for time stamps and due times that survive a restart; never for time-outs.
    pub wall: Arc<dyn WallClock>,
    /// Tasks of the data plane: client connections and the commit loop. One thread in production.
    pub spawn: Arc<dyn Spawn>,
    /// Tasks that may be slow without slowing messages: HTTP, segment preparation, reclaim.
    pub background: Arc<dyn Spawn>,
}

impl Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").finish_non_exhaustive()
    }
}

impl Env {
    /// Opens a stream to the first address of `host` that takes one. The caller brings the time-out.
    ///
    /// # Errors
    /// The name has no address, or none of them takes it; then this is what the last one said.
    pub async fn connect(&self, host: &str, port: u16) -> io::Result<Conn> {
        let mut last = io::Error::other("its name has no address");
        for address in self.net.resolve(host, port).await? {
            match self.net.connect(address).await {
                Ok(conn) => return Ok(conn),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Sockets.
pub trait Net: Send + Sync + 'static {
    /// Listens on `address`; port 0 takes a free one, which [`Listener::local_addr`] tells.
    fn listen(&self, address: SocketAddr) -> BoxFut<'_, io::Result<Box<dyn Listener>>>;
    /// Opens a stream to `address`. The caller brings the time-out.
    fn connect(&self, address: SocketAddr) -> BoxFut<'_, io::Result<Conn>>;
    /// Binds a datagram socket; port 0 takes a free one, which the socket tells. To be called on the runtime
    /// that polls the socket.
    fn bind_udp(&self, address: SocketAddr) -> BoxFut<'_, io::Result<Arc<dyn quinn::AsyncUdpSocket>>>;
    /// Every address of a name, as the system's resolver orders them.
    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFut<'a, io::Result<Vec<SocketAddr>>>;
    /// The local address from which packets to `to` would go; sends none.
    ///
    /// # Errors
    /// There is no route.
    fn route(&self, to: SocketAddr) -> io::Result<IpAddr>;
}

/// A bound stream socket that hands out connections.
pub trait Listener: Send + Sync + 'static {
    /// Waits for the next connection and its peer's address.
    ///
    /// # Errors
    /// What the operating system reports; running out of descriptors is transient, the caller retries.
    fn accept(&mut self) -> BoxFut<'_, io::Result<(Conn, SocketAddr)>>;

    /// The address that is really bound.
    ///
    /// # Errors
    /// What the operating system reports.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// One connection, as two halves that are polled by the same task.
pub struct Conn {
    /// Bytes from the peer.
    pub reader: Box<dyn AsyncRead + Send + Sync + Unpin>,
    /// Bytes to the peer. Vectored writes are passed through.
    pub writer: Box<dyn AsyncWrite + Send + Sync + Unpin>,
}

impl Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conn").finish_non_exhaustive()
    }
}

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading large stretches once, so that the page cache may be passed by.
    ReadDirect,
    /// An existing file or a new one, for reading and writing through the page cache; content is kept.
    Write,
    /// As [`Open::Write`], and the caller promises offsets and lengths of whole [`ALIGNMENT`] blocks, so
    /// that the page cache may be passed by.
    Direct,
}

impl Open {
    /// Whether the file is made if it is missing, and may be written.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Direct)
    }
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The file's name, without the directory.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
}

/// Held as long as the data directory is in use; dropping it releases the lock.
pub trait DirLock: Send + Sync + 'static {}

/// Files. Every call is per batch, never per message: a hop to a blocking thread costs about 20 µs.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file.
    fn open<'a>(&'a self, path: &'a Path, how: Open) -> BoxFut<'a, io::Result<Arc<dyn DiskFile>>>;
    /// Lists the files of a directory, sorted by name.
    fn list<'a>(&'a self, dir: &'a Path) -> BoxFut<'a, io::Result<Vec<DirEntry>>>;
    /// Creates a directory and its parents.
    fn create_dir_all<'a>(&'a self, dir: &'a Path) -> BoxFut<'a, io::Result<()>>;
    /// Renames a file, replacing the target; durable after [`Disk::sync_dir`].
    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFut<'a, io::Result<()>>;
    /// Removes a file; durable after [`Disk::sync_dir`].
    fn remove<'a>(&'a self, path: &'a Path) -> BoxFut<'a, io::Result<()>>;
    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir<'a>(&'a self, dir: &'a Path) -> BoxFut<'a, io::Result<()>>;
    /// Takes the exclusive lock of a data directory, by the file `path`. Fails with
    /// [`io::ErrorKind::WouldBlock`] when another process holds it.
    fn lock(&self, path: PathBuf) -> BoxFut<'_, io::Result<Box<dyn DirLock>>>;
    /// Bytes that can still be written to the file system of `dir`.
    fn free_bytes<'a>(&'a self, dir: &'a Path) -> BoxFut<'a, io::Result<u64>>;
}

/// An open file: positional, with owned buffers and no cursor.
pub trait DiskFile: Send + Sync + 'static {
    /// Writes all of `data` at `offset` and, if `sync` is set, makes it durable before it returns, so that
    /// a disk may do both in one step. The buffer comes back for reuse, whatever the outcome.
    ///
    /// After an error nothing is known of the bytes in that range, and a later sync proves nothing.
    fn write_at(&self, offset: u64, data: AlignedBuf, sync: bool)
    -> BoxFut<'_, (AlignedBuf, io::Result<()>)>;
    /// Reads up to `len` bytes at `offset`; shorter only at the end of the file.
    fn read_at(&self, offset: u64, len: usize) -> BoxFut<'_, io::Result<Bytes>>;
    /// Makes everything written durable.
    fn sync(&self) -> BoxFut<'_, io::Result<()>>;
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> BoxFut<'_, io::Result<()>>;
    /// The file's length in bytes.
    fn size(&self) -> BoxFut<'_, io::Result<u64>>;
}

/// A source of randomness.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// The time of day.
pub trait WallClock: Send + Sync + 'static {
    /// Now; may step in either direction.
    fn now(&self) -> SystemTime;
}

/// Starts tasks.
pub trait Spawn: Debug + Send + Sync + 'static {
    /// Runs `task` until it ends or the node does.
    fn spawn(&self, task: BoxFut<'static, ()>);
}
