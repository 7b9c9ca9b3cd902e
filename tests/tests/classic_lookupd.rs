//! A node that registers at nsqlookupds of the classic kind, as nsqd does.

use bruit_tests::{Node, Options, classic::Lookupd, texts, wait};

fn registering_at(lookupds: &[&Lookupd]) -> Options {
    lookupds.iter().fold(Options::new(), |options, lookupd| {
        options.arg(format!("--lookupd-tcp-address={}", lookupd.tcp_address()))
    })
}

fn wait_until_held(lookupd: &Lookupd, node: &Node, topic: &str, channel: &str) {
    let port = node.tcp_address().port();
    wait::until(&format!("{topic}/{channel} is registered"), || lookupd.producers(topic, channel) == [port]);
}

#[test]
fn topics_and_channels_are_registered_as_they_come_and_go() {
    let (one, two) = (Lookupd::start(), Lookupd::start());
    let node = registering_at(&[&one, &two]).start();
    node.client().publish("t", "m");
    node.http().post_ok("/channel/create?topic=t&channel=c", "");
    for lookupd in [&one, &two] {
        wait_until_held(lookupd, &node, "t", "");
        wait_until_held(lookupd, &node, "t", "c");
        let descriptions = lookupd.descriptions();
        assert_eq!(descriptions[0]["broadcast_address"], "127.0.0.1", "{descriptions:?}");
        assert_eq!(descriptions[0]["http_port"], node.http_address().port());
        assert_eq!(descriptions[0]["version"], "1.3.0");
    }
    node.http().post_ok("/channel/delete?topic=t&channel=c", "");
    wait::until("the channel is unregistered", || one.producers("t", "c").is_empty());
    wait_until_held(&one, &node, "t", "");
    node.http().post_ok("/topic/delete?topic=t", "");
    wait::until("the topic is unregistered", || one.producers("t", "").is_empty());
    // Many at once.
    for number in 0..200 {
        node.http().post_ok(&format!("/topic/create?topic=t{number}"), "");
    }
    wait_until_held(&two, &node, "t199", "");
    wait_until_held(&two, &node, "t0", "");
}

#[test]
fn a_lookupd_that_goes_and_comes_back_is_told_everything_again() {
    let lookupd = Lookupd::start();
    let other = Lookupd::start();
    let node = registering_at(&[&lookupd, &other]).start();
    node.client().publish("t", "m");
    wait_until_held(&lookupd, &node, "t", "");
    lookupd.disconnect_all();
    wait_until_held(&lookupd, &node, "t", "");
    let address = lookupd.tcp_address();
    drop(lookupd);
    wait::until("the loss is noticed", || node.log().contains("not registered at nsqlookupd"));
    // Nobody waits for the one that is away.
    node.client().publish("u", "m");
    wait_until_held(&other, &node, "u", "");
    let again = Lookupd::start_at(address);
    wait_until_held(&again, &node, "t", "");
    wait_until_held(&again, &node, "u", "");
    again.refuse();
    node.client().publish("v", "m");
    wait::until("the refusal is said", || node.log().contains("it refuses with \"E_INVALID no\""));
}

#[test]
fn the_lookupds_can_be_changed_while_the_node_runs() {
    let (one, two) = (Lookupd::start(), Lookupd::start());
    let node = registering_at(&[&one]).start();
    node.client().publish("t", "m");
    wait_until_held(&one, &node, "t", "");
    let option = "/config/nsqlookupd_tcp_addresses";
    let shown = format!("[\"{}\"]", one.tcp_address());
    assert_eq!(node.http().get(option).text(), shown);
    let wanted = format!("[\"{}\"]", two.tcp_address());
    let reply = node.http().put(option, &wanted);
    assert_eq!(reply.outcome(), (200, wanted));
    wait_until_held(&two, &node, "t", "");
    wait::until("the first is left", || one.descriptions().is_empty());
    for refused in ["[\"no port\"]", "[\"a:0\"]", "{}"] {
        assert_eq!(node.http().put(option, refused).status, 400, "{refused}");
    }
}

#[test]
fn a_new_topic_begins_with_the_channels_that_the_lookupd_knows() {
    let lookupd = Lookupd::start();
    for channel in ["one", "two", "passing#ephemeral"] {
        lookupd.create("t", channel);
    }
    // The very first message comes before the node can have registered.
    let node = registering_at(&[&lookupd]).start();
    let mut producer = node.client();
    producer.publish("t", "first");
    producer.publish("t", "second");
    for channel in ["one", "two"] {
        let mut consumer = node.consumer("t", channel, 2);
        assert_eq!(texts(&[consumer.message(), consumer.message()]), ["first", "second"], "{channel}");
    }
    assert!(node.channel_stats("t", "passing#ephemeral").is_none());
    // A consumer that is there already gets it, too.
    let mut other = node.consumer("u", "c", 1);
    producer.publish("u", "m");
    assert_eq!(other.message().text(), "m");
}

#[test]
fn a_lookupd_that_is_silent_keeps_messages_back_only_for_a_while() {
    let silent = silent_listener();
    let node = Options::new().arg(format!("--lookupd-tcp-address={silent}")).start();
    let mut consumer = node.consumer("t", "c", 1);
    node.client().publish("t", "m");
    assert_eq!(consumer.message().text(), "m");
}

#[test]
fn a_lookupd_that_does_not_answer_hides_nothing_that_another_one_knows() {
    // Whichever would be asked first.
    for hanging in [0, 1] {
        let lookupds = [Lookupd::start(), Lookupd::start()];
        let node = registering_at(&[&lookupds[0], &lookupds[1]]).start();
        lookupds[hanging].hang();
        lookupds[1 - hanging].create("t", "c");
        let is_registered = || lookupds.iter().all(|lookupd| !lookupd.descriptions().is_empty());
        wait::until("the node is registered", is_registered);
        node.client().publish("t", "m");
        node.wait_for("t", "c", "depth", 1);
    }
}

#[test]
fn a_lookupd_that_cannot_be_connected_to_hides_nothing_that_another_one_knows() {
    let lookupd = Lookupd::start();
    lookupd.create("t", "c");
    let (silent, later) = (silent_listener(), silent_listener());
    let node = registering_at(&[&lookupd]).arg(format!("--lookupd-tcp-address={silent}")).start();
    node.client().publish("t", "m");
    // For as long as this one is tried, the topic could wait and have no time left.
    let all = format!("[\"{}\",\"{silent}\",\"{later}\"]", lookupd.tcp_address());
    assert_eq!(node.http().put("/config/nsqlookupd_tcp_addresses", &all).status, 200);
    node.wait_for("t", "c", "depth", 1);
}

#[test]
fn a_lookupd_that_does_not_answer_keeps_no_topic_of_a_crowd_back_for_longer_than_one() {
    let (hanging, lookupd) = (Lookupd::start(), Lookupd::start());
    let node = registering_at(&[&hanging, &lookupd]).start();
    hanging.hang();
    let is_registered = || [&hanging, &lookupd].iter().all(|lookupd| !lookupd.descriptions().is_empty());
    wait::until("the node is registered", is_registered);
    // So many that it would take minutes if some waited for an answer, and the others for these.
    lookupd.create("t499", "c");
    let mut producer = node.client();
    for number in 0..500 {
        producer.publish(&format!("t{number}"), "m");
    }
    node.http().post_ok("/channel/create?topic=t498&channel=local", "");
    node.wait_for("t498", "local", "depth", 1);
    node.wait_for("t499", "c", "depth", 1);
}

/// An address where connections are accepted by the system and by nobody else.
#[expect(clippy::disallowed_types, reason = "beside the node, and not within it")]
fn silent_listener() -> std::net::SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    std::mem::forget(listener);
    address
}
