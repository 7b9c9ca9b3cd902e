//! Producers that registered at one node, as the others see them.

use super::*;
use crate::REGISTRANTS_MAX;

const NSQD: NodeId = NodeId::new(0xa11);

fn classic(port: u16) -> About {
    About {
        broadcast_addresses: vec!["old.example".to_owned()],
        hostname: "old".to_owned(),
        tcp_port: port,
        http_port: port + 1,
        version: "1.2.1".to_owned(),
        registered_from: Some(([10, 0, 0, 9], 40_000).into()),
        ..About::default()
    }
}

/// Two nodes; at the first, a producer with a topic and a channel has registered.
fn two() -> [Node; 2] {
    let mut nodes = [Node::new(1), Node::new(2)];
    nodes[0].catalogue.register(NSQD, classic(4150));
    for held in ["t", "t/c"] {
        nodes[0].catalogue.registered(now(1), NSQD, &name(held), true);
    }
    nodes
}

fn holders(node: &Node, live: &[&Node], topic: &str) -> Vec<NodeId> {
    let view = node.view(live);
    view.registered_producers(topic).iter().map(|producer| producer.member.peer.id).collect()
}

/// What node `a` has to tell reaches `b`.
fn tell(a: &mut Node, b: &mut Node) -> Vec<Heard> {
    a.news().iter().map(|item| b.hear(now(2), item)).collect()
}

#[test]
fn a_registrant_is_seen_everywhere_while_it_is_there() {
    for by_news in [true, false] {
        let [mut a, mut b] = two();
        if by_news {
            assert!(tell(&mut a, &mut b).iter().all(|heard| matches!(heard, Heard::News(_) | Heard::Gap(_))));
        } else {
            exchange(now(2), &mut a, &mut b, 4096);
        }
        let view = b.view(&[&a, &b]);
        let [registrant] = &view.registrants().collect::<Vec<_>>()[..] else { panic!("one registrant") };
        assert_eq!(registrant.peer.gossip, ([10, 0, 0, 9], 40_000).into());
        assert_eq!(registrant.about.as_ref().unwrap().version, "1.2.1");
        assert_eq!(holders(&b, &[&a, &b], "t"), [NSQD]);
        assert!(view.holds_channel(NSQD, "t", "c") && view.producers("t").is_empty());
        assert!(view.knows("t") && view.knows_channel("t", "c"));
        assert_eq!(view.holdings(NSQD)[0].channels.len(), 1);
        let hash = |node: &Node| node.catalogue.hash_of([(NodeId::new(1), 1)].into_iter());
        assert_eq!(hash(&a), hash(&b));
        // It goes with the node where it registered.
        assert_eq!(holders(&b, &[&b], "t"), []);

        a.catalogue.registered(now(3), NSQD, &name("t"), false);
        tell(&mut a, &mut b);
        assert_eq!(holders(&b, &[&a, &b], "t"), []);
        a.catalogue.deregister(NSQD);
        if by_news {
            tell(&mut a, &mut b);
        } else {
            exchange(now(4), &mut a, &mut b, 4096);
        }
        for node in [&a, &b] {
            let view = node.view(&[&a, &b]);
            assert_eq!(view.registrants().count(), 0);
            assert!(view.knows("t") && view.knows_channel("t", "c"), "names stay");
        }
    }
}

#[test]
fn what_is_missing_of_a_registrant_is_asked_for() {
    let [mut a, mut b] = two();
    let lacks = |b: &Node| b.catalogue.missing([(NodeId::new(1), 1)].into_iter());
    let items = a.news();
    // The one that lists it, and not what it holds.
    let listing = items.iter().find(|item| {
        b.hear(now(2), item);
        b.view(&[]).members().is_empty()
            && b.catalogue.about(NodeId::new(1), 1).is_some_and(|a| !a.registrants.is_empty())
    });
    assert!(listing.is_some());
    let mut c = Node::new(3);
    c.hear(now(2), listing.unwrap());
    assert_eq!(lacks(&c), Some(NodeId::new(1)));
    exchange(now(3), &mut c, &mut a, 4096);
    assert_eq!(lacks(&c), None);
    assert_eq!(holders(&c, &[&a, &c], "t"), [NSQD]);
}

#[test]
fn a_crowd_of_changes_is_told_by_numbers() {
    let [mut a, mut b] = two();
    tell(&mut a, &mut b);
    for number in 0..200 {
        a.catalogue.registered(now(3), NSQD, &name(&format!("t{number}")), true);
    }
    let items = a.news();
    assert!(items.len() <= 2, "{}", items.len());
    let heard: Vec<Heard> = items.iter().map(|item| b.hear(now(4), item)).collect();
    assert!(heard.iter().any(|heard| matches!(heard, Heard::Gap(_))), "{heard:?}");
    assert_eq!(b.catalogue.missing([(a.id, 1)].into_iter()), Some(a.id));
    exchange(now(5), &mut b, &mut a, 16 << 10);
    assert_eq!(holders(&b, &[&a, &b], "t199"), [NSQD]);
}

#[test]
fn a_node_that_registers_at_another_is_there_once() {
    let mut nodes = [Node::new(1), Node::new(2)];
    let itself = About { broadcast_addresses: vec!["b".to_owned()], ..about(2) };
    nodes[1].catalogue.set_about(itself.clone());
    let from = Some(([127, 0, 0, 1], 9).into());
    nodes[0].catalogue.register(NSQD, About { registered_from: from, ..itself.clone() });
    nodes[0].catalogue.register(NodeId::new(7), About { registered_from: from, tcp_port: 4250, ..itself });
    settle(now(1), &mut nodes, 4096);
    let [a, b] = &nodes;
    let seen = |live: &[&Node]| {
        let view = a.view(live);
        view.registrants().map(|registrant| registrant.peer.id.bits()).collect::<Vec<_>>()
    };
    assert_eq!(seen(&[a, b]), [7]);
    assert_eq!(seen(&[a]), [7, NSQD.bits()], "it is no member any more, and registered still");
}

#[test]
fn nobody_else_speaks_for_a_registrant() {
    let [mut a, mut b] = two();
    tell(&mut a, &mut b);
    let mut liar = Node::new(3);
    liar.catalogue.register(NSQD, classic(1));
    for number in 0..20 {
        liar.catalogue.registered(now(1), NSQD, &name(&format!("lie{number}")), true);
    }
    let heard = tell(&mut liar, &mut a);
    assert!(heard.contains(&Heard::Refused("a peer speaks for this node")), "{heard:?}");
    assert_eq!(a.view(&[&a]).registered_producers("lie19").len(), 0);
}

#[test]
fn there_are_as_many_as_there_may_be_and_the_forgotten_are_forgotten() {
    let [mut a, mut b] = two();
    for number in 0..300 {
        a.catalogue.register(NodeId::new(10_000 + number), classic(4150));
    }
    assert_eq!(a.view(&[&a]).registrants().count(), REGISTRANTS_MAX);
    exchange(now(2), &mut a, &mut b, 256 << 10);
    assert_eq!(b.view(&[&a, &b]).registrants().count(), REGISTRANTS_MAX);
    for number in 0..300 {
        a.catalogue.deregister(NodeId::new(10_000 + number));
    }
    exchange(now(3), &mut a, &mut b, 256 << 10);
    assert_eq!(a.catalogue.stats().owners, 3);
    for seconds in 1..70 {
        b.catalogue.tick(now(seconds * 1_000));
    }
    assert_eq!(b.catalogue.stats().owners, 3);
    assert_eq!(holders(&b, &[&a, &b], "t"), [NSQD]);
}

#[test]
fn a_registrant_that_was_forgotten_comes_back_with_the_node_that_lists_it() {
    let [mut a, mut b] = two();
    exchange(now(2), &mut a, &mut b, 4096);
    // The node was away for so long that it is not remembered, and then its registrants are not either.
    b.catalogue.forget(a.id);
    for seconds in 1..=62 {
        b.catalogue.tick(now(seconds * 1_000));
    }
    assert_eq!(b.catalogue.stats().owners, 1);
    exchange(now(63_000), &mut a, &mut b, 4096);
    assert_eq!(holders(&b, &[&a, &b], "t"), [NSQD]);
    assert_eq!(b.catalogue.missing([(a.id, 1)].into_iter()), None, "or exchanges would never end");
    // One that nobody lists stays forgotten, whoever still tells of it.
    let mut stale = Node::new(3);
    exchange(now(63_000), &mut a, &mut stale, 4096);
    a.catalogue.deregister(NSQD);
    exchange(now(64_000), &mut a, &mut b, 4096);
    b.catalogue.forget(NSQD);
    exchange(now(65_000), &mut stale, &mut b, 4096);
    assert_eq!(b.catalogue.about(NSQD, 1), None);
}

#[test]
fn a_registrant_is_hidden_on_every_node_until_it_gives_the_topic_up() {
    let [mut a, mut b] = two();
    tell(&mut a, &mut b);
    b.catalogue.tombstone(now(3), &name("t").topic, NSQD);
    tell(&mut b, &mut a);
    for node in [&a, &b] {
        assert!(node.view(&[&a, &b]).registered_producers("t")[0].tombstoned);
    }
    for held in [false, true] {
        a.catalogue.registered(now(4), NSQD, &name("t"), held);
    }
    assert!(!a.view(&[&a, &b]).registered_producers("t")[0].tombstoned);
}
