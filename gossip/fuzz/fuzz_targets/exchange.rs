//! Any leg of an exchange is merged as far as it makes sense, or refused: damaged ones, and those that nobody
//! wrote.
#![no_main]

use std::{net::SocketAddr, time::Duration};

use bruit_gossip::{
    About, Input, LEG_MAX, LocalChange, LocalWhat, Mesh, Name, NodeId, Now, Output, Peer, Profile, Setup,
};
use bruit_wire::{ChannelName, TopicName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u16, &[u8], &[u8])| {
    let (which, at, patch, noise) = input;
    let now = Now { elapsed: Duration::from_secs(1), wall_ms: 1_800_000_000_000 };
    let (mut one, mut two) = (filled(1, now), filled(2, now));
    for mesh in [&mut one, &mut two] {
        let _ = mesh.exchange_answer(now, NodeId::new(3), noise);
        let _ = mesh.exchange_close(now, NodeId::new(3), noise);
        let _ = mesh.exchange_end(now, NodeId::new(3), noise);
    }
    // A whole exchange of which one leg is damaged.
    let damaged = |leg: u8, bytes: &[u8]| {
        let mut bytes = bytes.to_vec();
        if which % 3 == leg {
            for (place, byte) in patch.iter().enumerate() {
                match bytes.get_mut(usize::from(at) + place) {
                    Some(there) => *there = *byte,
                    None => bytes.push(*byte),
                }
            }
        }
        assert!(bytes.len() <= LEG_MAX + patch.len());
        bytes
    };
    let first = one.exchange_open(now, &peer(2));
    if let Ok(second) = two.exchange_answer(now, NodeId::new(1), &damaged(0, &first))
        && let Ok(third) = one.exchange_close(now, NodeId::new(2), &damaged(1, &second))
    {
        let _ = two.exchange_end(now, NodeId::new(1), &damaged(2, &third));
    }
    one.exchange_over(now, &peer(2), Some(1));
    for mesh in [&mut one, &mut two] {
        mesh.handle(now, Input::Timeout);
        let _ = (mesh.view(now), mesh.stats(now), mesh.names_to_save());
        while let Some(output) = mesh.poll_output() {
            // What a peer says may add channels to topics that are here, and delete what is.
            if let Output::Broker(bruit_gossip::Command::CreateChannel { topic, .. }) = output {
                assert!(topic.as_str().starts_with("held"), "{topic} is not held here");
            }
        }
    }
});

fn filled(number: u64, now: Now) -> Mesh {
    let random = [number as u8; 32];
    let about = About { hostname: format!("host{number}"), ..About::default() };
    let mut mesh =
        Mesh::new(Setup { peer: peer(number), about, profile: Profile::Lan, random, saved: None }, now);
    for topic in 0..3 {
        let Ok(topic) = TopicName::new(&format!("held{}", topic * number)) else { continue };
        let Ok(channel) = ChannelName::new(&format!("c{number}")) else { continue };
        for name in [Name::topic(topic.clone()), Name::channel(topic, channel)] {
            mesh.handle(now, Input::Local(LocalChange { name, number, what: LocalWhat::Created }));
        }
    }
    if let Ok(topic) = TopicName::new("deleted") {
        mesh.handle(now, Input::Delete(Name::topic(topic)));
    }
    while mesh.poll_output().is_some() {}
    mesh
}

fn peer(number: u64) -> Peer {
    let gossip = SocketAddr::from(([10, 0, 0, number as u8], 4160));
    Peer { id: NodeId::new(number), generation: 1, renewal: 0, gossip, mesh_port: 4161 }
}
