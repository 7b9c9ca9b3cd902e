//! What becomes of names and of what nodes hold under them.

use super::*;

const LIMIT: usize = 1 << 20;

fn pair() -> [Node; 2] {
    [Node::new(1), Node::new(2)]
}

fn meet(ms: u64, nodes: &mut [Node; 2]) {
    settle(now(ms), nodes, LIMIT);
}

fn topics(view: &View) -> Vec<String> {
    view.topics().iter().map(ToString::to_string).collect()
}

fn channels(view: &View, topic: &str) -> Vec<String> {
    view.channels(topic).iter().map(ToString::to_string).collect()
}

#[test]
fn one_datagram_tells_who_holds_a_new_topic() {
    let [mut a, mut b] = pair();
    meet(0, &mut [Node::new(3), Node::new(4)]);
    exchange(now(0), &mut a, &mut b, LIMIT);
    a.news();
    a.make(now(1), &name("t/c"));
    let items = a.news();
    assert!(items.iter().all(|item| item.len() <= NEWS_MAX));
    for item in &items {
        assert!(matches!(b.hear(now(2), item), Heard::News(_)));
        assert_eq!(b.hear(now(2), item), Heard::Known);
    }
    let view = b.view(&[&a, &b]);
    assert_eq!(topics(&view), ["t"]);
    assert_eq!(channels(&view, "t"), ["c"]);
    let producers: Vec<NodeId> = view.producers("t").iter().map(|producer| producer.member.peer.id).collect();
    assert_eq!(producers, [a.id]);
    assert_eq!(view.member(a.id).unwrap().about.as_deref(), Some(&about(1)));
    assert_eq!(a.catalogue.hash(), b.catalogue.hash());
}

#[test]
fn a_topic_begins_with_its_channels_whichever_word_of_them_came_first() {
    let mut a = Node::new(1);
    a.news();
    a.make(now(1), &name("t/c"));
    let items = a.news();
    assert!(items.len() > 1, "that it was made, and that it is held");
    for item in &items {
        let mut b = Node::new(2);
        b.hear(now(2), item);
        let view = b.view(&[&a, &b]);
        assert_eq!(view.lasting_channels("t"), view.channels("t"));
    }
    // After a delete a node that holds a channel may only not have heard of it.
    let mut b = Node::new(2);
    exchange(now(2), &mut a, &mut b, LIMIT);
    b.delete(now(3), &name("t"));
    b.make(now(4), &name("t"));
    assert_eq!(b.view(&[&a, &b]).lasting_channels("t"), []);
}

#[test]
fn what_a_node_held_is_hidden_when_it_is_down_and_its_names_stay() {
    let [mut a, mut b] = pair();
    a.make(now(0), &name("t/c"));
    a.make(now(0), &name("t/tail#ephemeral"));
    exchange(now(1), &mut a, &mut b, LIMIT);
    assert_eq!(channels(&b.view(&[&a, &b]), "t"), ["c", "tail#ephemeral"]);
    let down = Member { state: MemberState::Down, ..a.member() };
    let view = b.catalogue.view(vec![b.member(), down]);
    assert!(view.producers("t").is_empty() && view.holdings(a.id).is_empty());
    assert!(view.knows("t") && !view.knows("u"));
    assert_eq!(channels(&view, "t"), ["c"]);
    assert_eq!(view.lasting_channels("t"), view.channels("t"));
    // An older or newer life of a node holds something else.
    let mut other_life = a.member();
    other_life.peer.generation += 1;
    assert!(b.catalogue.view(vec![other_life]).producers("t").is_empty());
}

#[test]
fn a_delete_reaches_every_holder_and_a_channel_every_node_with_the_topic() {
    let mut nodes = pair();
    nodes[0].make(now(0), &name("t/a"));
    nodes[1].make(now(0), &name("t/b"));
    meet(1, &mut nodes);
    assert!(nodes.iter().all(|node| node.holds("t/a") && node.holds("t/b")));
    meet(2, &mut nodes);
    assert!(nodes[1].delete(now(3), &name("t/a")));
    assert!(!nodes[1].delete(now(3), &name("u")));
    meet(4, &mut nodes);
    meet(5, &mut nodes);
    assert!(nodes.iter().all(|node| !node.holds("t/a") && node.holds("t/b")));
    let view = nodes[0].view(&[&nodes[0], &nodes[1]]);
    assert!(view.channel_was_deleted("t", "a") && !view.knows_channel("t", "a"));
    assert!(nodes[0].delete(now(6), &name("t")));
    meet(7, &mut nodes);
    assert!(nodes.iter().all(|node| node.held.is_empty()));
    let view = nodes[1].view(&[&nodes[0], &nodes[1]]);
    assert!(view.was_deleted("t") && view.channel_was_deleted("t", "b") && topics(&view).is_empty());
}

#[test]
fn a_node_that_was_away_learns_of_the_delete_before_anybody_believes_it() {
    for crashed in [false, true] {
        let mut nodes = pair();
        nodes[0].make(now(0), &name("t/c"));
        meet(1, &mut nodes);
        nodes[1].make(now(2), &name("t"));
        assert!(nodes[1].holds("t/c"));
        meet(3, &mut nodes);
        nodes[1].save();
        nodes[0].delete(now(4), &name("t"));
        if crashed {
            nodes[1].restart(now(5));
        }
        meet(5, &mut nodes);
        assert!(nodes.iter().all(|node| node.held.is_empty()), "crashed: {crashed}");
        meet(6, &mut nodes);
        let view = nodes[0].view(&[&nodes[0], &nodes[1]]);
        assert!(!view.knows("t") && view.producers("t").is_empty());
    }
}

#[test]
fn a_node_that_lost_its_names_does_not_bring_back_what_was_deleted() {
    let mut nodes = pair();
    nodes[0].make(now(0), &name("t/c"));
    meet(1, &mut nodes);
    nodes[1].make(now(2), &name("t"));
    nodes[0].delete(now(4), &name("t/c"));
    nodes[1].saved.clear();
    nodes[1].restart(now(5));
    meet(6, &mut nodes);
    meet(6, &mut nodes);
    assert!(nodes.iter().all(|node| node.holds("t") && !node.holds("t/c")));
}

#[test]
fn a_topic_that_is_made_again_begins_without_its_old_channels() {
    let mut nodes = pair();
    nodes[0].make(now(0), &name("t/old"));
    meet(1, &mut nodes);
    // Cut off, the second node keeps the old topic, while it is deleted and made again on the first.
    nodes[1].make(now(2), &name("t/old"));
    nodes[0].delete(now(3), &name("t"));
    nodes[0].make(now(4), &name("t/new"));
    meet(5, &mut nodes);
    meet(6, &mut nodes);
    assert_eq!(nodes[0].held.keys().cloned().collect::<Vec<_>>(), [name("t"), name("t/new")]);
    assert!(nodes[1].held.is_empty(), "{:?}", nodes[1].held);
    assert_eq!(channels(&nodes[1].view(&[&nodes[0], &nodes[1]]), "t"), ["new"]);
}

#[test]
fn what_was_made_after_a_delete_lives_whoever_hears_of_it_late() {
    let mut nodes = pair();
    nodes[0].make(now(0), &name("t"));
    meet(1, &mut nodes);
    nodes[0].delete(now(10), &name("t"));
    // Not having heard of the delete, it need not make the name, only the topic.
    nodes[1].make(now(20), &name("t"));
    meet(30, &mut nodes);
    assert!(nodes[1].holds("t") && !nodes[0].holds("t"));
    meet(31, &mut nodes);
    assert!(nodes[0].view(&[&nodes[0], &nodes[1]]).knows("t"));
}

#[test]
fn a_crash_loses_neither_a_delete_nor_what_was_made_after_it() {
    let mut node = Node::new(1);
    node.make(now(0), &name("t/c"));
    node.delete(now(1), &name("t"));
    node.save();
    // The journal did not get as far as the delete.
    node.held = BTreeMap::from([(name("t"), 7), (name("t/c"), 8)]);
    node.restart(now(2));
    assert!(node.held.is_empty());

    node.catalogue.tick(now(10_000));
    node.save();
    // The names did not get as far as the new topic.
    node.make(now(10_001), &name("t/c"));
    node.restart(now(10_002));
    assert!(node.holds("t/c"));
    assert_eq!(topics(&node.view(&[&node])), ["t"]);
}

#[test]
fn an_ephemeral_name_is_known_while_it_is_held_also_after_a_delete() {
    let mut nodes = pair();
    let ephemeral = name("t#ephemeral");
    nodes[0].make(now(0), &ephemeral);
    meet(1, &mut nodes);
    assert_eq!(topics(&nodes[1].view(&[&nodes[0], &nodes[1]])), ["t#ephemeral"]);
    assert!(nodes[1].delete(now(2), &ephemeral));
    meet(3, &mut nodes);
    assert!(!nodes[0].holds("t#ephemeral"));
    nodes[0].make(now(4), &ephemeral);
    meet(5, &mut nodes);
    assert!(nodes[1].view(&[&nodes[0], &nodes[1]]).knows("t#ephemeral"));
    nodes[0].lose(now(6), &ephemeral);
    meet(7, &mut nodes);
    assert!(!nodes[1].view(&[&nodes[0], &nodes[1]]).knows("t#ephemeral"));
}

#[test]
fn a_name_without_a_holder_is_made_and_deleted() {
    let mut nodes = pair();
    nodes[0].catalogue.create(now(0), &name("t/c"));
    meet(1, &mut nodes);
    let view = nodes[1].view(&[]);
    assert_eq!((topics(&view), channels(&view, "t")), (vec!["t".into()], vec!["c".into()]));
    // Gossip makes no topic, but the topic begins with the channel.
    assert!(nodes[1].held.is_empty());
    nodes[1].make(now(2), &name("t"));
    assert!(nodes[1].holds("t/c"));
    assert!(nodes[1].delete(now(3), &name("t")));
    assert!(!nodes[1].delete(now(4), &name("t")));
}

#[test]
fn a_delete_by_a_slow_clock_takes_all_that_its_node_had_heard_of() {
    let mut nodes = pair();
    nodes[0].make(now(0), &name("t"));
    meet(1, &mut nodes);
    // The second one's clock is a second ahead.
    nodes[1].make(now(1_002), &name("t"));
    meet(3, &mut nodes);
    nodes[0].delete(now(4), &name("t"));
    meet(5, &mut nodes);
    meet(6, &mut nodes);
    assert!(nodes.iter().all(|node| !node.holds("t")), "{:?}", nodes.each_ref().map(|node| &node.held));
    assert!(!nodes[1].view(&[&nodes[0], &nodes[1]]).knows("t"));
}

#[test]
fn a_channel_that_joins_its_name_goes_with_a_delete_that_is_under_way() {
    let mut nodes = pair();
    nodes[0].make(now(0), &name("t/c"));
    meet(1, &mut nodes);
    nodes[0].delete(now(10), &name("t/c"));
    // As gossip makes it with a topic that is new here: nobody has asked for it since the delete.
    nodes[1].make(now(20), &name("t/c"));
    meet(30, &mut nodes);
    meet(31, &mut nodes);
    assert!(nodes.iter().all(|node| node.holds("t") && !node.holds("t/c")));
}

#[test]
fn that_a_producer_was_hidden_stays_known_when_it_loses_the_topic() {
    let mut node = Node::new(1);
    let id = node.id;
    let seen = |node: &Node| {
        let view = node.view(&[node]);
        (view.is_tombstoned("t", id), view.was_tombstoned("t", id))
    };
    node.make(now(0), &name("t"));
    assert_eq!(seen(&node), (false, false));
    node.catalogue.tombstone(now(10), &name("t").topic, id);
    assert_eq!(seen(&node), (true, true));
    node.lose(now(20), &name("t"));
    node.catalogue.tick(now(45_009));
    assert_eq!(seen(&node), (false, true));
    node.catalogue.tick(now(46_010));
    assert_eq!(seen(&node), (false, false));
}

#[test]
fn a_hidden_producer_comes_back_in_time_or_with_a_new_topic() {
    let mut nodes = pair();
    nodes[0].make(now(0), &name("t"));
    meet(1, &mut nodes);
    let id = nodes[0].id;
    let hide = |nodes: &mut [Node; 2], ms| {
        nodes[1].news();
        nodes[1].catalogue.tombstone(now(ms), &name("t").topic, id);
        for item in nodes[1].news() {
            assert!(matches!(nodes[0].hear(now(ms), &item), Heard::News(_)));
            assert_eq!(nodes[0].hear(now(ms), &item), Heard::Known);
        }
    };
    let is_hidden = |nodes: &[Node; 2]| {
        nodes.each_ref().map(|node| {
            let view = node.view(&[&nodes[0], &nodes[1]]);
            view.producers("t").first().is_some_and(|producer| producer.tombstoned)
        })
    };
    hide(&mut nodes, 10);
    assert_eq!(is_hidden(&nodes), [true; 2]);
    assert!(nodes[1].view(&[&nodes[0]]).holdings(id)[0].tombstoned);
    nodes.iter_mut().for_each(|node| node.catalogue.tick(now(45_009)));
    assert_eq!(is_hidden(&nodes), [true; 2]);
    nodes.iter_mut().for_each(|node| node.catalogue.tick(now(46_010)));
    assert_eq!(is_hidden(&nodes), [false; 2]);

    hide(&mut nodes, 50_000);
    nodes[0].lose(now(50_001), &name("t"));
    nodes[0].make(now(50_002), &name("t"));
    meet(50_003, &mut nodes);
    assert_eq!(is_hidden(&nodes), [false; 2], "the second never saw the topic go, and sees another one");
    hide(&mut nodes, 50_004);
    nodes[0].lose(now(50_005), &name("t"));
    meet(50_006, &mut nodes);
    nodes[0].make(now(50_007), &name("t"));
    meet(50_008, &mut nodes);
    assert_eq!(is_hidden(&nodes), [false; 2]);

    // Somebody who has not heard of the new topic hides the old one.
    nodes[0].lose(now(50_009), &name("t"));
    nodes[0].make(now(50_010), &name("t"));
    hide(&mut nodes, 50_011);
    assert_eq!(is_hidden(&nodes), [false, true]);
    meet(50_012, &mut nodes);
    assert_eq!(is_hidden(&nodes), [false; 2]);
}

#[test]
fn a_deleted_name_is_forgotten_after_a_week_however_the_wall_clock_jumps() {
    const DAY: u64 = 24 * 60 * 60 * 1000;
    let mut node = Node::new(1);
    node.make(now(0), &name("t"));
    node.delete(now(1), &name("t"));
    let jumped = Now { elapsed: Duration::from_secs(60), wall_ms: WALL_MS + 30 * DAY };
    node.catalogue.tick(jumped);
    assert!(node.view(&[]).was_deleted("t"));
    node.catalogue.tick(now(8 * DAY));
    assert!(!node.view(&[]).was_deleted("t"));
    assert_eq!(node.catalogue.names.counts(), (0, 0));
}

#[test]
fn a_clock_that_was_days_ahead_leaves_no_name_that_others_refuse() {
    const DAY: u64 = 24 * 60 * 60 * 1000;
    let mut nodes = pair();
    nodes[0].make(now(0), &name("gone"));
    let ahead = Now { elapsed: Duration::from_millis(1), wall_ms: WALL_MS + 30 * DAY };
    nodes[0].make(ahead, &name("t"));
    nodes[0].delete(ahead, &name("gone"));
    for item in nodes[0].news() {
        let heard = nodes[1].hear(now(1), &item);
        assert!(matches!(
            heard,
            Heard::News(_) | Heard::Gap(_) | Heard::Refused("a stamp is from the future")
        ));
    }
    assert!(!nodes[1].view(&[]).knows("t"));
    nodes[0].catalogue.tick(now(5_000));
    meet(5_001, &mut nodes);
    let view = nodes[1].view(&[]);
    assert!(view.knows("t") && view.was_deleted("gone"));
    assert!(nodes[0].holds("t"));
}

#[test]
fn a_burst_is_told_as_a_number_and_then_fetched() {
    let mut nodes = pair();
    meet(0, &mut nodes);
    for number in 0..100 {
        nodes[0].make(now(1), &name(&format!("t{number}")));
    }
    let items = nodes[0].news();
    assert_eq!(items.len(), 1);
    assert!(matches!(nodes[1].hear(now(2), &items[0]), Heard::Gap(_)));
    let live = [(nodes[0].id, 1), (nodes[1].id, 1)];
    assert_eq!(nodes[1].catalogue.missing(live.into_iter()), Some(nodes[0].id));
    meet(3, &mut nodes);
    assert!(!nodes[1].catalogue.misses(live.into_iter()));
    assert_eq!(nodes[1].view(&[&nodes[0]]).producers("t99").len(), 1);
}

#[test]
fn many_losses_send_the_fact_whole_and_few_do_not() {
    let mut nodes = pair();
    for number in 0..300 {
        nodes[0].make(now(0), &name(&format!("t{number}#ephemeral")));
    }
    meet(1, &mut nodes);
    for (lost, is_small) in [(0..10, true), (10..200, false)] {
        for number in lost {
            nodes[0].lose(now(2), &name(&format!("t{number}#ephemeral")));
        }
        let asked = nodes[1].catalogue.digest();
        let payload = nodes[0].catalogue.answer(now(3), &asked, LIMIT);
        assert_eq!(payload.records().flatten().count() < 20, is_small);
        meet(3, &mut nodes);
        assert_eq!(nodes[1].view(&[&nodes[0]]).holdings(nodes[0].id).len(), nodes[0].held.len());
    }
}

#[test]
fn a_forgotten_node_is_not_taught_again_until_it_speaks() {
    let mut nodes = [Node::new(1), Node::new(2), Node::new(3)];
    nodes[0].make(now(0), &name("t"));
    settle(now(1), &mut nodes, LIMIT);
    let id = nodes[0].id;
    nodes[1].catalogue.forget(id);
    let [first, second, third] = &mut nodes;
    exchange(now(2), second, third, LIMIT);
    assert_eq!(second.catalogue.about(id, 1), None);
    let live = [(second.id, 1), (third.id, 1)];
    assert_eq!(second.catalogue.hash_of(live.into_iter()), third.catalogue.hash_of(live.into_iter()));
    exchange(now(3), first, second, LIMIT);
    assert!(second.catalogue.about(id, 1).is_some());
}
