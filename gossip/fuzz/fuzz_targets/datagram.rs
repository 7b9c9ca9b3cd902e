//! A node that hears anything at all goes on: real datagrams, damaged ones, made-up ones, in any order and at any
//! time. What it sends stays within a datagram, and it is never told to make a topic or a channel.
#![no_main]

use std::{net::SocketAddr, time::Duration};

use bruit_gossip::{
    About, DATAGRAM_MAX, Input, LocalChange, LocalWhat, Mesh, Name, NodeId, Now, Output, Peer, Profile, Setup,
};
use bruit_wire::TopicName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|steps: Vec<(u8, u16, &[u8])>| {
    let mut clock = Now { elapsed: Duration::from_secs(1), wall_ms: 1_800_000_000_000 };
    let (mut honest, mut victim) = (mesh(1, clock), mesh(2, clock));
    honest.handle(clock, Input::Join { address: address(2) });
    let mut to_victim = Vec::new();
    for (number, (kind, at, bytes)) in (1..).zip(steps) {
        match kind % 6 {
            0 => hear(&mut victim, clock, at, bytes),
            1 | 2 => {
                if let Some(mut datagram) = to_victim.pop() {
                    damage(&mut datagram, at, if kind % 6 == 1 { bytes } else { &[] });
                    hear(&mut victim, clock, 1, &datagram);
                }
            }
            3 => {
                clock.elapsed += Duration::from_millis(at.into());
                clock.wall_ms = clock.wall_ms.wrapping_add(u64::from(at));
                honest.handle(clock, Input::Timeout);
                victim.handle(clock, Input::Timeout);
            }
            4 => {
                if let Ok(topic) = TopicName::new(&format!("t{at}")) {
                    let what = if bytes.is_empty() { LocalWhat::Gone } else { LocalWhat::Created };
                    let change = LocalChange { name: Name::topic(topic), number, what };
                    honest.handle(clock, Input::Local(change));
                }
            }
            _ => clock.wall_ms = u64::from_le_bytes(std::array::from_fn(|i| bytes.get(i).copied().unwrap_or(0))),
        }
        carry(&mut victim, &mut honest, clock);
        while let Some(output) = honest.poll_output() {
            if let Output::Send { datagram, .. } = output {
                to_victim.push(datagram.to_vec());
            }
        }
        let _ = (victim.view(clock), victim.stats(clock), victim.next_timeout(), victim.names_to_save());
    }
});

fn mesh(number: u64, now: Now) -> Mesh {
    let id = NodeId::new(number);
    let gossip = address(number);
    let peer = Peer { id, generation: 1, renewal: 0, gossip, mesh_port: 4161 };
    let random = [number as u8; 32];
    Mesh::new(Setup { peer, about: About::default(), profile: Profile::Lan, random, saved: None }, now)
}

fn address(number: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number as u8], 4160))
}

fn hear(mesh: &mut Mesh, now: Now, sender: u16, bytes: &[u8]) {
    let sender = u64::from(sender % 5);
    mesh.handle(now, Input::Datagram { from: address(sender), sender: NodeId::new(sender), bytes });
}

fn damage(datagram: &mut Vec<u8>, at: u16, bytes: &[u8]) {
    for (place, byte) in bytes.iter().enumerate() {
        let place = usize::from(at) + place;
        match datagram.get_mut(place) {
            Some(there) => *there = *byte,
            None => datagram.push(*byte),
        }
    }
}

/// Takes what the victim wants to be done, and lets the honest node hear what it says.
fn carry(victim: &mut Mesh, honest: &mut Mesh, now: Now) {
    while let Some(output) = victim.poll_output() {
        match output {
            Output::Send { to, datagram } => {
                assert!(datagram.len() <= DATAGRAM_MAX);
                if to == address(1) {
                    hear(honest, now, 2, &datagram);
                }
            }
            Output::Broker(command) => panic!("a node that holds nothing is to do {command:?}"),
            Output::Exchange { peer } => victim.exchange_over(now, &peer, None),
            Output::Check { .. } | Output::Event(_) => {}
        }
    }
}
