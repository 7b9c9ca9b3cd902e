//! Changing the keys of all nodes from one of them.

use std::{io, sync::Arc, time::Duration};

use bruit_gossip::{MemberState, Peer};
use bruit_wire::peer::Purpose;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{
    super::{MeshHandle, core::Core, quic::Pool},
    ANSWER_MAX, NodeKeys, Offer, Operation, Report, apply, distrust,
    envelope::SealedAnswer,
    held,
    operation::Answer,
};

/// Nodes that are asked at the same time.
const AT_ONCE: usize = 64;
/// How long a node may take.
const PATIENCE: Duration = Duration::from_secs(6);

/// Why a request over HTTP is not even considered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is no request.
    Malformed,
    /// Its challenge is not of this node, or too old, or was answered before.
    Stale,
    /// It was sealed with no secret that is held here.
    WrongSecret,
    /// The cluster has no secret.
    NoSecret,
    /// Too many in a minute.
    Busy,
    /// The node is about to end.
    Exiting,
}

impl MeshHandle {
    /// What a person's tool needs to know before it asks.
    ///
    /// # Errors
    /// The cluster has no secret.
    pub(crate) fn keys_offer(&self) -> Result<Offer, Refusal> {
        let core = &self.core;
        if core.state.lock().keyring.is_open() {
            return Err(Refusal::NoSecret);
        }
        let mut random = [0; 8];
        core.env.entropy.fill(&mut random);
        let challenge = core.keys.challenges.lock().offer(core.now().elapsed, random);
        Ok(Offer { challenge, cluster: core.config.cluster_name.clone() })
    }

    /// Does what a sealed request asks, on the whole mesh, and seals the answer. Goes on when the asker goes
    /// away.
    ///
    /// # Errors
    /// Nobody who knows the secret has asked this now.
    pub(crate) async fn keys_request(&self, request: &[u8]) -> Result<SealedAnswer, Refusal> {
        let core = Arc::clone(&self.core);
        let keyring = core.state.lock().keyring.clone();
        if keyring.is_open() {
            return Err(Refusal::NoSecret);
        }
        let (now, cluster) = (core.now().elapsed, &core.config.cluster_name);
        let opened = core.keys.challenges.lock().open(now, cluster, &keyring, request);
        let (operation, conversation) = opened?;
        let (done, answered) = oneshot::channel();
        let spawn = Arc::clone(&core.env.background);
        spawn.spawn(Box::pin(async move {
            // The asker may have gone.
            let _ = done.send(change(&core, operation).await);
        }));
        let report = answered.await.map_err(|_| Refusal::Exiting)?;
        conversation.answer(&report).map_err(|_| Refusal::Exiting)
    }
}

/// Does it on every live node, unless that would cut some off.
async fn change(core: &Arc<Core>, operation: Operation) -> Report {
    let view = core.view();
    let down = view.members().iter().filter(|member| member.state == MemberState::Down).count();
    let live = |state| matches!(state, MemberState::Alive | MemberState::Suspect);
    let others: Vec<Peer> = view
        .members()
        .iter()
        .filter(|member| live(member.state) && member.peer.id != core.id())
        .map(|member| member.peer)
        .collect();
    if matches!(operation, Operation::Use { .. } | Operation::Remove { .. }) {
        let nodes = ask_all(core, &others, &Operation::List).await;
        if let Some(refused) = objection(&operation, &nodes) {
            return Report { refused: Some(refused), nodes, down };
        }
    }
    let nodes = ask_all(core, &others, &operation).await;
    if matches!(operation, Operation::Remove { .. }) {
        distrust(core);
    }
    Report { refused: None, nodes, down }
}

/// Why the operation would cut nodes off that are as `nodes` says.
fn objection(operation: &Operation, nodes: &[NodeKeys]) -> Option<String> {
    let all = nodes.len();
    match operation {
        Operation::Use { fingerprint, force: false } => {
            let holds = |node: &&NodeKeys| node.keys.iter().any(|key| key.fingerprint == *fingerprint);
            let count = nodes.iter().filter(holds).count();
            (count < all).then(|| {
                format!(
                    "{count} of {all} nodes hold key {fingerprint}: the others would be cut off. Install it again, \
                     or --force it"
                )
            })
        }
        Operation::Remove { fingerprint, force } => {
            let is_used =
                |node: &&NodeKeys| node.keys.iter().any(|key| key.used && key.fingerprint == *fingerprint);
            let using = nodes.iter().filter(is_used).count();
            let silent = nodes.iter().filter(|node| node.keys.is_empty()).count();
            if using > 0 {
                Some(format!("key {fingerprint} is in use on {using} of {all} nodes: use another one first"))
            } else if silent > 0 && !force {
                Some(format!(
                    "{silent} of {all} nodes do not answer, and may still use key {fingerprint}: they would be cut \
                     off. Try again, or --force it"
                ))
            } else {
                None
            }
        }
        Operation::List | Operation::Install { .. } | Operation::Use { .. } => None,
    }
}

/// Does it here and on all `others`, and returns how each stands, by id.
async fn ask_all(core: &Arc<Core>, others: &[Peer], operation: &Operation) -> Vec<NodeKeys> {
    let (sender, mut answers) = mpsc::channel(AT_ONCE);
    let room = Arc::new(Semaphore::new(AT_ONCE));
    for &peer in others {
        let (core, operation, sender) = (Arc::clone(core), operation.clone(), sender.clone());
        let room = Arc::clone(&room);
        let spawn = Arc::clone(&core.env.background);
        spawn.spawn(Box::pin(async move {
            // Never closed; and the receiver waits for all.
            let _room = room.acquire().await;
            let _ = sender.send(ask_one(&core, &peer, &operation).await).await;
        }));
    }
    drop(sender);
    let error = apply(core, operation, "a person").await.err();
    let address = core.me.gossip.to_string();
    let mut nodes = vec![NodeKeys { node: core.id(), address, keys: held(core), error }];
    while let Some(node) = answers.recv().await {
        nodes.push(node);
    }
    nodes.sort_by_key(|node| node.node);
    nodes
}

async fn ask_one(core: &Core, peer: &Peer, operation: &Operation) -> NodeKeys {
    let outcome = match &core.pool {
        Some(pool) => timeout(PATIENCE, request(pool, peer, operation)).await,
        None => Ok(Err(io::Error::other("the mesh is off"))),
    };
    let answer = match outcome {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Answer { keys: Vec::new(), error: Some(error.to_string()) },
        Err(_) => {
            let error = format!("no answer within {} s", PATIENCE.as_secs());
            Answer { keys: Vec::new(), error: Some(error) }
        }
    };
    let Answer { keys, error } = answer;
    NodeKeys { node: peer.id, address: peer.gossip.to_string(), keys, error }
}

async fn request(pool: &Pool, peer: &Peer, operation: &Operation) -> io::Result<Answer> {
    let request = serde_json::to_vec(operation)?;
    let answer = match pool.request(peer, Purpose::Keys, &request, ANSWER_MAX).await {
        // The connection may just have been given up, on either side. To do it twice is to do it once.
        Err(_) => pool.request(peer, Purpose::Keys, &request, ANSWER_MAX).await?,
        Ok(answer) => answer,
    };
    serde_json::from_slice(&answer).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use bruit_gossip::{NodeId, Secret};

    use super::{super::HeldKey, *};

    /// Nodes by the keys that they hold, the used one first.
    fn nodes(keys: &[&[u8]]) -> Vec<NodeKeys> {
        let held = |numbers: &[u8]| {
            let fingerprints = numbers.iter().map(|number| Secret::new([*number; 32]).fingerprint());
            fingerprints.enumerate().map(|(at, fingerprint)| HeldKey { fingerprint, used: at == 0 }).collect()
        };
        let node = |(at, numbers): (usize, &&[u8])| NodeKeys {
            node: NodeId::new(at as u64),
            address: String::new(),
            keys: held(numbers),
            error: None,
        };
        keys.iter().enumerate().map(node).collect()
    }

    fn objection_to(name: &str, force: bool, keys: &[&[u8]]) -> Option<String> {
        let fingerprint = Secret::new([1; 32]).fingerprint();
        let operation = match name {
            "use" => Operation::Use { fingerprint, force },
            _ => Operation::Remove { fingerprint, force },
        };
        objection(&operation, &nodes(keys))
    }

    #[test]
    fn a_key_is_used_only_where_all_hold_it() {
        assert_eq!(objection_to("use", false, &[&[2, 1], &[2, 1], &[1]]), None);
        let refused = objection_to("use", false, &[&[2, 1], &[2], &[1]]).unwrap();
        assert!(refused.starts_with("2 of 3 nodes hold key"), "{refused}");
        assert!(
            objection_to("use", false, &[&[2, 1], &[]]).is_some(),
            "one that does not answer may lack it"
        );
        assert_eq!(objection_to("use", true, &[&[2, 1], &[2], &[]]), None);
    }

    #[test]
    fn a_key_in_use_is_not_removed_and_silence_may_mean_use() {
        assert_eq!(objection_to("remove", false, &[&[2, 1], &[2]]), None);
        for force in [false, true] {
            let refused = objection_to("remove", force, &[&[2, 1], &[1, 2], &[]]).unwrap();
            assert!(refused.contains("in use on 1 of 3 nodes"), "{refused}");
        }
        let refused = objection_to("remove", false, &[&[2, 1], &[]]).unwrap();
        assert!(refused.contains("1 of 2 nodes do not answer"), "{refused}");
        assert_eq!(objection_to("remove", true, &[&[2, 1], &[]]), None);
    }
}
