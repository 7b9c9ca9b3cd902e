//! `bruit serve`: a node, until a signal stops it.

use std::{fmt::Write as _, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    runtime::{Builder, Runtime},
    select,
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use super::{
    classic, log,
    settings::{Flags, Persona, Settings},
};
use crate::{
    Durability, Limits, MeshReady, Ready, Reload, Role,
    config::JournalConfig,
    env::{memory::MemoryDisk, real},
    journal::RecoveryReport,
};

/// How long file operations may take to end after the node has stopped.
pub(super) const LAST_OPERATIONS: Duration = Duration::from_secs(2);
/// Exit codes of a process that a signal ended, by the shell's rule: 128 and the signal's number.
const INTERRUPTED: i32 = 130;
const TERMINATED: i32 = 143;

/// Arguments of `bruit serve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each setting can be given as a flag with one or two dashes, as an environment variable \
    (BRUIT_TCP_ADDRESS), or in a TOML file (tcp_address); a flag beats the environment, which beats the file.\n\
    nsqd's other flags are accepted; those without effect here say so at the start.\n\n\
    SIGTERM and SIGINT stop the node once what it has received is on disk; a second one stops it at once, with \
    exit code 143 or 130. Nothing that was acknowledged is lost either way."
)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    flags: Flags,
}

/// Runs a node on this thread, and what may be slow on another.
///
/// # Errors
/// Settings that cannot hold, and whatever stops a node.
pub(super) fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    run_as(Persona::Bruit, args)
}

/// As [`run`], under the rules of another program.
///
/// # Errors
/// As [`run`].
pub(super) fn run_as(persona: Persona, args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let mut settings = Settings::resolve_as(persona, &args.flags, std::env::vars_os())?;
    settings.config.log.set = log::start(&settings.config.log.level, settings.config.log.prefix.as_deref());
    let leftovers = classic::leftovers(&settings.config.data_path).filter(|_| persona == Persona::Nsqd);
    for warning in settings.warnings.iter().chain(&leftovers) {
        tracing::warn!("{warning}");
    }

    keep_descriptors(&mut settings.config.limits);
    let background = background()?;
    let data_plane =
        Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let stopping = watch_signals(&background).context("cannot listen to signals")?;

    watch_reload(&background, settings.config.reload.clone()).context("cannot listen to signals")?;

    let mut env = real::env(data_plane.handle().clone(), background.handle().clone());
    if settings.config.role == Role::Lookup {
        env.disk = Arc::new(MemoryDisk::default());
    }
    let (data, journal) = (settings.config.data_path.display().to_string(), settings.config.journal.clone());
    let shutdown = async {
        // The sender lives as long as the background runtime, and that outlives the node.
        let _ = stopping.await;
    };
    let greet = |ready: &Ready| match persona {
        Persona::Bruit => eprint!("{}", banner(ready, &data, &journal)),
        Persona::Nsqd | Persona::Nsqlookupd => classic::greet(persona, ready),
    };
    let outcome = data_plane.block_on(crate::run(settings.config, env, shutdown, greet));
    drop(data_plane);
    background.shutdown_timeout(LAST_OPERATIONS);
    outcome?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The runtime for what may be slow.
///
/// # Errors
/// The system has no thread left.
pub(super) fn background() -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    let builder = builder.worker_threads(1).thread_name("bruit-background").enable_all();
    builder.build().context("cannot start the background thread")
}

/// Takes as many file descriptors as the system grants, and leaves a quarter of them to the journal, to HTTP
/// and to the runtime: a crowd of clients must not keep the journal from opening its next segment.
pub(super) fn keep_descriptors(limits: &mut Limits) {
    let granted = getrlimit(Resource::Nofile);
    // The soft limit is often 1,024 for the sake of old programs; raising it to the hard one needs no right.
    let raised = Rlimit { current: granted.maximum, maximum: granted.maximum };
    let descriptors = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => granted.maximum,
        Err(_) => granted.current,
    };
    let Some(descriptors) = descriptors.and_then(|limit| usize::try_from(limit).ok()) else { return };
    let most = (descriptors - descriptors / 4).max(1);
    if limits.max_connections > most {
        tracing::warn!(
            "--max-connections is lowered from {} to {most}: the system grants {descriptors} file descriptors \
             (ulimit -n)",
            limits.max_connections
        );
        limits.max_connections = most;
    }
}

/// Resolves at the first SIGTERM or SIGINT; the second one ends the process. On the background runtime, so
/// that it works while the data plane waits for a disk.
pub(super) fn watch_signals(background: &Runtime) -> std::io::Result<oneshot::Receiver<()>> {
    let _context = background.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopping) = oneshot::channel();
    let mut stop = Some(stop);
    background.spawn(async move {
        loop {
            let code = select! {
                biased;
                _ = terminate.recv() => TERMINATED,
                _ = interrupt.recv() => INTERRUPTED,
            };
            let Some(stop) = stop.take() else { std::process::exit(code) };
            tracing::info!("stopping; a second signal stops at once");
            let _ = stop.send(());
        }
    });
    Ok(stopping)
}

/// Passes SIGHUP on as word to read certificates again. Without it the signal would end the process.
fn watch_reload(background: &Runtime, reload: Reload) -> std::io::Result<()> {
    let _context = background.enter();
    let mut hang_up = signal(SignalKind::hangup())?;
    background.spawn(async move {
        while hang_up.recv().await.is_some() {
            tracing::info!("SIGHUP: reading again what can be read again");
            reload.ask();
        }
    });
    Ok(())
}

/// What a user wants to see at the start. The lines of the addresses are those of nsqd, which scripts wait
/// for; all are written at once, so that a script that has seen one has seen all.
fn banner(ready: &Ready, data: &str, journal: &JournalConfig) -> String {
    let mut banner = format!(
        "bruit {} node {} ready in {} ms\nTCP: listening on {}\n",
        env!("CARGO_PKG_VERSION"),
        ready.node_id,
        ready.took.as_millis(),
        ready.tcp_address,
    );
    // Writing to a String cannot fail.
    let _ = match ready.http_address {
        Some(address) => writeln!(banner, "HTTP: listening on {address}"),
        None => writeln!(banner, "HTTP: off"),
    };
    if let Some(address) = ready.https_address {
        let _ = writeln!(banner, "HTTPS: listening on {address}");
    }
    if let Some(address) = ready.lookup_http_address {
        let _ = writeln!(banner, "lookup: nsqlookupd's HTTP on {address}");
    }
    if let Some(address) = ready.registry_address {
        let _ = writeln!(banner, "lookup: nsqd registers on {address}");
    }
    banner.push_str(&mesh_lines(ready.mesh.as_ref()));
    let promise = match journal.durability {
        Durability::Fsync => "OK means synced to disk",
        Durability::Os => "OK means handed to the operating system: a power cut loses messages",
        Durability::Memory => "OK means held in memory",
    };
    let exceptions = match journal.rules.len() {
        0 => "",
        _ => ", except where --topic-durability says otherwise",
    };
    let _ = writeln!(banner, "data: {data} ({promise}{exceptions})");
    let RecoveryReport { segments, records, topics, damaged, damaged_bytes, .. } = ready.recovery;
    if segments > 0 || topics > 0 {
        let _ =
            writeln!(banner, "recovered: {topics} topics from {segments} segments, {records} records read");
    }
    if damaged > 0 {
        let _ = writeln!(
            banner,
            "damaged: {damaged} places, {damaged_bytes} bytes; `bruit journal verify {data}` names them"
        );
    }
    banner
}

/// Where other nodes find this one, and a line to paste that starts one.
fn mesh_lines(mesh: Option<&MeshReady>) -> String {
    let Some(MeshReady { gossip, mesh, cluster, sealed }) = mesh else { return "mesh: off\n".to_owned() };
    let named = match cluster.as_str() {
        "bruit" => String::new(),
        cluster => format!(" --cluster-name {cluster}"),
    };
    let (who, how) = match sealed {
        true => ("with a secret", format!("bruit --join {gossip}{named} --cluster-secret-file FILE")),
        // The next node is on this machine as well, and needs ports and a directory of its own.
        false => (
            "without a secret, this machine only",
            format!(
                "bruit --join {gossip}{named} --gossip-address {}:0 --tcp-address :0 --http-address :0 --data-path \
                 bruit-data-2",
                gossip.ip()
            ),
        ),
    };
    format!(
        "gossip: listening on {gossip} (UDP)\nQUIC: listening on {mesh} (UDP)\nmesh: cluster {cluster}, {who}\n\
         join: {how}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_says_how_another_node_joins() {
        let ready = |cluster: &str, sealed| MeshReady {
            gossip: ([10, 0, 0, 1], 4160).into(),
            mesh: ([10, 0, 0, 1], 4161).into(),
            cluster: cluster.to_owned(),
            sealed,
        };
        let sealed = mesh_lines(Some(&ready("bruit", true)));
        assert!(sealed.starts_with("gossip: listening on 10.0.0.1:4160 (UDP)\n"), "{sealed}");
        assert!(
            sealed.ends_with("join: bruit --join 10.0.0.1:4160 --cluster-secret-file FILE\n"),
            "{sealed}"
        );
        let open = mesh_lines(Some(&ready("x", false)));
        assert!(open.contains("without a secret") && open.contains(" --cluster-name x "), "{open}");
        assert_eq!(mesh_lines(None), "mesh: off\n");
    }
}
