//! `bruit bench null`: a server that reads commands as a node does, and keeps nothing.
//!
//! One thread and a large buffer for each connection, as in a node; what is left is the cost of the sockets
//! and of the protocol, below which no server can go.
#![expect(clippy::disallowed_types, reason = "it is a server of its own, outside of the node and its seam")]

use std::{io, process::ExitCode};

use anyhow::{Context, Result};
use bruit_wire::nsq::{
    CLOSE_WAIT_FRAME, Command, Decoded, Decoder, FrameType, MAGIC_V2, OK_FRAME, Phase, Rules, put_frame,
};
use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Room for what one connection has sent and is not understood yet, bytes; also the largest command.
const INBOX_MAX: usize = 8 * 1024 * 1024;

/// Room for one read, bytes.
const READ_SIZE: usize = 256 * 1024;

/// Runs a server that reads commands and keeps nothing, until it is killed.
#[derive(Debug, Args)]
pub(super) struct NullArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:4150", value_name = "HOST:PORT")]
    listen: String,
}

/// Serves for ever.
///
/// # Errors
/// The address cannot be bound.
pub(super) fn run(args: &NullArgs) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(&args.listen)
            .await
            .with_context(|| format!("cannot listen on {}", args.listen))?;
        eprintln!("TCP: listening on {}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await.context("cannot accept connections")?;
            tokio::task::spawn_local(async move {
                if let Err(error) = serve(stream).await {
                    eprintln!("a connection ended: {error}");
                }
            });
        }
    })
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut magic = [0; MAGIC_V2.len()];
    stream.read_exact(&mut magic).await?;
    if magic != MAGIC_V2 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak NSQ"));
    }
    let mut session = Session::new();
    let mut inbox = vec![0; READ_SIZE];
    let mut end = 0;
    loop {
        let read = stream.read(&mut inbox[end..]).await?;
        if read == 0 {
            return Ok(());
        }
        end += read;
        let (consumed, wanted) = session.answer(&inbox[..end])?;
        inbox.copy_within(consumed..end, 0);
        end -= consumed;
        if wanted > inbox.len() {
            inbox.resize(wanted.min(INBOX_MAX), 0);
        }
        if end == inbox.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a command exceeds 8 MiB"));
        }
        stream.write_all(&session.out).await?;
        session.out.clear();
    }
}

/// What is remembered of a connection: nothing but how far it has come.
struct Session {
    decoder: Decoder,
    rules: Rules,
    out: Vec<u8>,
}

impl Session {
    fn new() -> Self {
        let rules = Rules {
            phase: Phase::Init,
            heartbeats: true,
            max_msg_size: 1024 * 1024,
            max_body_size: 5 * 1024 * 1024,
            max_rdy_count: 2500,
            max_req_timeout_ms: 3_600_000,
            max_defer_timeout_ms: 3_600_000,
        };
        Self { decoder: Decoder::new(), rules, out: Vec::new() }
    }

    /// Answers every whole command at the front of `input` into `out`. Returns the bytes that these took, and
    /// how many bytes the next one needs.
    fn answer(&mut self, input: &[u8]) -> io::Result<(usize, usize)> {
        let mut at = 0;
        loop {
            let decoded = self.decoder.decode(&input[at..], &self.rules);
            match decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))? {
                Decoded::Need(need) => return Ok((at, need.at_least)),
                Decoded::Command { command, consumed } => {
                    at += consumed;
                    match command {
                        Command::Publish { .. }
                        | Command::MultiPublish { .. }
                        | Command::DeferredPublish { .. } => {
                            self.out.extend_from_slice(&OK_FRAME);
                        }
                        Command::Identify { .. } => {
                            let granted = br#"{"max_rdy_count":2500,"version":"null"}"#;
                            put_frame(&mut self.out, FrameType::Response, granted);
                        }
                        Command::Subscribe { .. } => {
                            self.rules.phase = Phase::Subscribed;
                            self.out.extend_from_slice(&OK_FRAME);
                        }
                        Command::Close => {
                            self.rules.phase = Phase::Closing;
                            self.out.extend_from_slice(&CLOSE_WAIT_FRAME);
                        }
                        _ => {}
                    }
                }
            }
        }
    }
}
