//! What others may send.

use proptest::prelude::*;

use super::*;
use crate::{
    digest::{NameText, Record, Writer},
    fact::VERSION_MAX,
};

const OTHER: NodeId = NodeId::new(7);

fn payload(records: &[Record<'_>]) -> Payload {
    let mut writer = Writer::new(1 << 20);
    assert!(records.iter().all(|record| writer.push(record, 0)));
    writer.finish()
}

fn fact(all: u64) -> Record<'static> {
    Record::Fact { owner: OTHER, generation: 1, base: 0, all, floor: 0, full: true }
}

fn held(text: &str, version: u64) -> Record<'_> {
    Record::Held { name: NameText::New(text, None), version }
}

#[test]
fn one_bad_record_spoils_no_other() {
    let mut node = Node::new(1);
    let about = About { broadcast_addresses: vec![String::new(); 9], ..About::default() };
    let payload = payload(&[
        Record::Mark { name: NameText::New("not valid", None), made: 1, gone: 0 },
        Record::Mark { name: NameText::New("future", None), made: u64::MAX, gone: 0 },
        Record::Mark { name: NameText::Again(0), made: 1, gone: 0 },
        Record::Mark { name: NameText::Again(9), made: 1, gone: 0 },
        Record::Mark { name: NameText::New("a", Some("c")), made: 9, gone: 0 },
        fact(4),
        held("", 1),
        held("b", 9),
        held("good", 2),
        Record::About { version: 3, about },
        Record::End { upto: 4 },
        held("after", 4),
        Record::End { upto: 4 },
    ]);
    let merged = node.catalogue.merge(now(0), OTHER, &payload);
    let why: Vec<(&str, u64)> = merged.refused.into_iter().collect();
    let expected = [
        ("a change of no fact", 1),
        ("a change with an impossible number", 1),
        ("a name that was not mentioned", 1),
        ("a stamp is from the future", 1),
        ("an end without a beginning", 1),
        ("an impossible description of a node", 1),
        // Twice where it is spelled, and once where it is mentioned again.
        ("an invalid name", 3),
    ];
    assert_eq!(why, expected);
    assert_eq!(merged.news, 2);
    let other = Member { peer: Peer { id: OTHER, ..node.member().peer }, ..node.member() };
    let view = node.catalogue.view(vec![other]);
    assert_eq!(view.holdings(OTHER).len(), 1);
    assert_eq!(view.producers("good").len(), 1);
    assert!(view.knows_channel("a", "c"));
    // Nothing stays of names that nobody uses.
    assert_eq!(node.catalogue.names.len(), 2);
}

#[test]
fn what_one_peer_garbles_another_one_can_still_tell() {
    let mut node = Node::new(1);
    let rows = |second| {
        payload(&[fact(3), held("first", 1), held(second, 2), held("third", 3), Record::End { upto: 3 }])
    };
    let delta = Record::Fact { owner: OTHER, generation: 1, base: 1, all: 3, floor: 0, full: false };
    let topics = |node: &Node| {
        let other = Member { peer: Peer { id: OTHER, ..node.member().peer }, ..node.member() };
        node.catalogue.view(vec![other]).holdings(OTHER).len()
    };
    node.catalogue.merge(now(0), NodeId::new(8), &rows("not valid"));
    assert_eq!(topics(&node), 2);
    assert_eq!(node.catalogue.digest().knows(OTHER), Some((1, 1)), "the second change is still to come");
    assert!(node.catalogue.misses([(OTHER, 1)].into_iter()));
    let garbled = payload(&[delta.clone(), held("second", 9), held("third", 3), Record::End { upto: 3 }]);
    node.catalogue.merge(now(0), NodeId::new(8), &garbled);
    assert_eq!(node.catalogue.digest().knows(OTHER), Some((1, 1)), "a number that cannot be is none");
    let good = payload(&[delta, held("second", 2), held("third", 3), Record::End { upto: 3 }]);
    node.catalogue.merge(now(0), OTHER, &good);
    assert_eq!((topics(&node), node.catalogue.digest().knows(OTHER)), (3, Some((1, 3))));
    assert!(!node.catalogue.misses([(OTHER, 1)].into_iter()));
}

#[test]
fn nobody_speaks_for_another_node_about_what_it_has_not_done() {
    let mut node = Node::new(1);
    let mine = |all, upto| {
        let owner = NodeId::new(1);
        payload(&[
            Record::Fact { owner, generation: 2, base: 0, all, floor: 0, full: true },
            held("lie", 1),
            Record::End { upto },
        ])
    };
    let merged = node.catalogue.merge(now(0), OTHER, &mine(3, 3));
    assert_eq!(merged.refused.into_keys().collect::<Vec<_>>(), ["a peer speaks for this node"]);
    for (all, upto) in [(3, 0), (3, 4), (VERSION_MAX + 1, 3)] {
        let merged = node.catalogue.merge(now(0), OTHER, &mine(all, upto));
        assert_eq!(merged.refused.into_keys().collect::<Vec<_>>(), ["an impossible part of a fact"]);
    }
    assert!(node.view(&[&node]).topics().is_empty());
}

#[test]
fn a_lie_about_a_node_lasts_until_it_is_asked_itself() {
    let mut nodes = [Node::new(1), Node::new(7)];
    nodes[1].make(now(0), &name("truth"));
    let lie = payload(&[fact(VERSION_MAX), held("lie", 1), Record::End { upto: VERSION_MAX }]);
    nodes[0].catalogue.merge(now(0), NodeId::new(8), &lie);
    assert_eq!(nodes[0].view(&[&nodes[1]]).producers("lie").len(), 1);
    let asked = nodes[1].catalogue.digest();
    nodes[0].catalogue.answer(now(1), &asked, 1 << 20);
    let [one, other] = &mut nodes;
    exchange(now(2), one, other, 1 << 20);
    let view = nodes[0].view(&[&nodes[1]]);
    assert!(view.producers("lie").is_empty() && view.producers("truth").len() == 1);
}

#[test]
fn a_damaged_file_gives_what_is_whole_in_it() {
    let mut node = Node::new(1);
    for topic in 0..10 {
        node.make(now(0), &name(&format!("t{topic}")));
    }
    node.save();
    let whole = node.saved.clone();
    let names_of = |saved: &[u8]| {
        let mut node = Node::new(1);
        node.catalogue.restore(saved);
        node.view(&[]).topics().len()
    };
    assert_eq!(names_of(&whole), 10);
    assert_eq!(names_of(b""), 0);
    assert_eq!(names_of(&whole[..whole.len() - 1]), 9);
    let header = b"bruit-names 1\n".len();
    for place in header..whole.len() {
        let mut damaged = whole.clone();
        damaged[place] ^= 0x55;
        assert_eq!(names_of(&damaged), 9, "damaged at {place}");
        damaged.insert(place, 0);
        assert!(names_of(&damaged) >= 8, "inserted at {place}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut node = Node::new(1);
        node.make(now(0), &name("t/c"));
        let hash = node.catalogue.hash();
        node.hear(now(1), &bytes);
        let mut saved = b"bruit-names 1\n".to_vec();
        saved.extend(&bytes);
        Node::new(2).catalogue.restore(&saved);
        let mut framed = vec![0];
        framed.extend(postcard::to_allocvec(&bytes).unwrap());
        let payload: Payload = postcard::from_bytes(&framed).unwrap();
        node.catalogue.merge(now(2), OTHER, &payload);
        if let Ok(digest) = postcard::from_bytes(&bytes) {
            node.catalogue.answer(now(3), &digest, 4_096);
        }
        node.obey(now(3));
        drop(node.catalogue.view(vec![node.member()]).topics());
        prop_assert!(node.holds("t/c") || node.catalogue.hash() != hash);
    }

    /// Bytes that are nearly right get deeper than random ones.
    #[test]
    fn no_change_to_a_good_payload_makes_it_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        topics in 1..20u32,
    ) {
        let mut teller = Node::new(1);
        for topic in 0..topics {
            teller.make(now(0), &name(&format!("t{topic}/c")));
        }
        teller.lose(now(0), &name("t0"));
        let mut listener = Node::new(2);
        listener.make(now(0), &name("t1"));
        let news = teller.news();
        let answer = teller.catalogue.answer(now(1), &listener.catalogue.digest(), 1 << 20);
        for good in news.iter().map(|item| item.to_vec()).chain([postcard::to_allocvec(&answer).unwrap()]) {
            let mut bytes = good;
            for (place, value) in &flips {
                let place = place.index(bytes.len());
                bytes[place] ^= value;
            }
            listener.hear(now(1), &bytes);
            if let Ok(payload) = postcard::from_bytes(&bytes) {
                listener.catalogue.merge(now(1), NodeId::new(1), &payload);
            }
            listener.obey(now(1));
            drop(listener.view(&[&teller, &listener]).topics());
            drop(listener.catalogue.saved());
        }
    }
}
