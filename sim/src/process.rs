//! A process of the node on its host: how it starts, and the ways in which it ends.

use std::{
    future::{Future, pending},
    pin::Pin,
};

use bruit::{Config, env::Env};

use crate::{
    gate::Gate,
    history::{Down, Event, Recorder},
    nemesis::{NodeStatus, Victim},
};

/// What a process of the node is given, and what it tells: the arguments of [`bruit::run`].
#[derive(Debug)]
pub struct Process {
    /// What it is told.
    pub config: Config,
    /// Its world.
    pub env: Env,
    /// Opens when it is asked to stop.
    pub stopped: Gate,
    /// To be told that it serves.
    pub ready: Serving,
}

/// To be told that a process of the node serves.
#[derive(Debug)]
pub struct Serving {
    recorder: Recorder,
    status: NodeStatus,
}

impl Serving {
    /// The process serves.
    pub fn tell(&self) {
        self.recorder.record(Event::Serving);
        self.status.serves();
    }
}

/// The future of a process of the node. It ends when the process does.
pub type Life = Pin<Box<dyn Future<Output = anyhow::Result<()>>>>;

/// The software of a node's host: one process of the node at each call.
#[expect(clippy::disallowed_methods, reason = "one process alone listens whether it is killed")]
pub(crate) fn host(
    software: fn(Process) -> Life,
    config: Config,
    victim: Victim,
) -> impl Fn() -> Pin<Box<dyn Future<Output = turmoil::Result>>> {
    move || {
        let (config, Victim { machine, address, status, recorder, .. }) = (config.clone(), victim.clone());
        // At once, not at the first poll: the process may be told to end before that.
        recorder.record(Event::Started);
        let (stopped, mut killed) = status.started();
        Box::pin(async move {
            let env = machine.env(recorder.incarnation());
            let failures = machine.disk().failures();
            let ready = Serving { recorder: recorder.clone(), status: status.clone() };
            let mut life = software(Process { config, env, stopped, ready });
            let down = tokio::select! {
                biased;
                down = killed.wait_for(Option::is_some) => down.ok().and_then(|down| *down).unwrap_or(Down::Crash),
                result = &mut life => match result {
                    // A node that stops although its disk refuses is not one that has kept everything.
                    Ok(()) if machine.disk().failures() == failures => Down::Stopped,
                    Ok(()) => Down::GaveUp,
                    Err(error) => {
                        recorder.record(Event::Fault(format!("the node gave up: {error:#}")));
                        Down::GaveUp
                    }
                },
            };
            recorder.record(Event::Down(down));
            // The disk goes first: what the process does while it is torn down never happened.
            if down == Down::Power {
                // A machine without power says no goodbye; a crashed process's kernel closes its sockets.
                machine.ether().darken(address);
                machine.disk().lose_power();
            } else {
                machine.disk().crash_process();
            }
            drop(life);
            machine.end_tasks();
            status.ended();
            pending().await
        })
    }
}

/// The node itself.
pub(crate) fn bruit(process: Process) -> Life {
    let Process { config, env, stopped, ready } = process;
    Box::pin(async move { Ok(bruit::run(config, env, stopped.pass(), |_| ready.tell()).await?) })
}
