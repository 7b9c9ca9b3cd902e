//! Any file is restored as far as it makes sense, and what was restored is saved and restored alike.
#![no_main]

use std::time::Duration;

use bruit_gossip::{About, Catalogue, Name, NodeId, Now};
use bruit_wire::{ChannelName, TopicName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], Vec<(u16, u8)>)| {
    let (noise, damage) = input;
    alike(noise);
    let mut file = written();
    for (at, byte) in damage {
        let len = file.len();
        file[usize::from(at) % len] ^= byte;
    }
    alike(&file);
    file.truncate(noise.len());
    alike(&file);
});

/// Restores, saves and restores again.
fn alike(file: &[u8]) {
    let mut first = catalogue();
    first.restore(file);
    let saved = first.saved();
    let mut second = catalogue();
    second.restore(&saved);
    assert_eq!(first.hash(), second.hash());
    assert_eq!(saved, second.saved());
    let view = first.view(Vec::new());
    for topic in view.topics() {
        assert!(view.knows(topic.as_str()));
        let _ = view.channels(topic.as_str());
    }
}

fn catalogue() -> Catalogue {
    Catalogue::new(NodeId::new(1), 1, About::default())
}

/// What a node saves that knows a few names, some of them deleted.
fn written() -> Vec<u8> {
    let mut catalogue = catalogue();
    let now = Now { elapsed: Duration::from_secs(1), wall_ms: 1_800_000_000_000 };
    for number in 0..4 {
        let Ok(topic) = TopicName::new(&format!("topic{number}")) else { return Vec::new() };
        let Ok(channel) = ChannelName::new("channel") else { return Vec::new() };
        catalogue.create(now, &Name::topic(topic.clone()));
        catalogue.create(now, &Name::channel(topic.clone(), channel));
        if number % 2 == 0 {
            catalogue.delete(now, &Name::topic(topic));
        }
    }
    catalogue.saved()
}
