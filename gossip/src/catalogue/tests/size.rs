//! How much memory a catalogue takes.

use super::*;
use crate::fact::Segment;

/// A thousand nodes that all hold the same thousand topics: 16 bytes for each item, a few hundred for each
/// node, and what the names take.
#[test]
fn a_thousand_nodes_with_a_thousand_topics_take_17_megabytes() {
    let mut reader = Node::new(5_000);
    let names = (0..1_000).map(|topic| name(&format!("orders.region-{topic:04}.v1")));
    let names: Vec<Handle> = names.filter_map(|name| reader.catalogue.intern(&name)).collect();
    for &handle in &names {
        reader.catalogue.names.apply(handle, Mark { made: Stamp::LOWEST, gone: Stamp::NEVER });
    }
    for owner in 0..1_000 {
        let changes = names.iter().zip(2..).map(|(handle, version)| (*handle, version, true)).collect();
        let about = Some((1, about(owner)));
        let segment =
            Segment { base: 0, upto: 1_001, sure: 1_001, all: 1_001, floor: 0, full: true, about, changes };
        let mut merged = Merged::default();
        reader.catalogue.merge_fact(NodeId::new(owner), 1, segment, &mut merged).unwrap();
    }
    let stats = reader.catalogue.stats();
    names.iter().for_each(|handle| reader.catalogue.names.release(*handle));
    assert_eq!((stats.items, stats.owners, stats.names), (1_000_000, 1_001, 1_000));
    assert!((16_000_000..17_000_000).contains(&stats.bytes), "{stats:?}");
    let names = reader.catalogue.names.bytes();
    assert!(names < 1_000 * 200, "{names} bytes for a thousand names");
}

#[test]
fn a_million_names_fit_at_130_bytes_each_and_the_next_one_is_left_out() {
    let mut names = Names::default();
    names.set_limit(100_000);
    for number in 0..100_000 {
        let handle = names.intern(&format!("orders.region-{number:06}"), None).unwrap();
        names.apply(handle, Mark { made: Stamp::LOWEST, gone: Stamp::NEVER });
        names.release(handle);
    }
    assert_eq!(names.intern("one.more", None), None);
    assert!(names.bytes() < 130 * 100_000, "{}", names.bytes());
    let handle = names.intern("orders.region-000001", None).unwrap();
    names.write(handle, &name("orders.region-000001"), Mark::NONE);
    names.release(handle);
    assert!(names.intern("one.more", None).is_some());
}

#[test]
fn churn_of_ephemeral_names_leaves_nothing_behind() {
    let mut nodes = [Node::new(1), Node::new(2)];
    for round in 0..2_000 {
        let tail = name(&format!("t/tail-{round}#ephemeral"));
        nodes[0].make(now(round), &tail);
        nodes[0].lose(now(round), &tail);
        for item in nodes[0].news() {
            nodes[1].hear(now(round), &item);
        }
    }
    settle(now(3_000), &mut nodes, 1 << 20);
    for node in &nodes {
        // The topic, and the losses that are remembered.
        assert!(node.catalogue.names.len() <= 1 + 64, "{}", node.catalogue.names.len());
    }
}
