//! What fills up, and what becomes of those who fill it: each limit with its setting, from outside.

use std::{io::Read, time::Duration};

use bruit_tests::{Client, Node, Options, command, multi_publish, wait};

/// A figure of `/metrics` without labels.
fn figure(node: &Node, name: &str) -> u64 {
    let text = node.http().get("/metrics").text();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[test]
fn slow_consumers_share_a_budget_and_the_others_are_served() {
    const BUDGET: u64 = 1 << 20;
    const SLOW: usize = 12;
    let node = Options::new().arg(format!("--max-waiting-output={BUDGET}")).start();
    let mut slow: Vec<Client> = (0..SLOW).map(|at| node.consumer("t", &format!("slow{at}"), 2500)).collect();
    let mut quick = node.consumer("t", "quick", 2500);
    let body = "x".repeat(8 << 10);
    let batch = multi_publish("t", &vec![body.as_str(); 500]);
    let mut producer = node.client();
    let mut most = 0;
    // More than the kernel's buffers hold for each of those that do not read.
    for _ in 0..10 {
        producer.send(&batch);
        producer.expect_ok();
        quick.finish_messages(500);
        most = most.max(figure(&node, "bruit_waiting_output_bytes"));
    }
    assert!(most >= BUDGET, "only {most} bytes ever waited: the test does not reach the limit");
    // What one connection may take at once, and a little for each of the others.
    let bound = BUDGET + (512 << 10) + SLOW as u64 * (32 << 10);
    assert!(most <= bound, "{most} bytes wait, and {bound} are the most");

    // Who reads again gets everything.
    slow[0].finish_messages(5000);
    node.wait_for("t", "slow0", "in_flight_count", 0);
    drop(slow);
    wait::until("nothing waits any more", || figure(&node, "bruit_waiting_output_bytes") == 0);
}

#[test]
fn a_connection_that_says_nothing_is_closed_when_it_should_have_opened() {
    let node = Options::new().arg("--opening-timeout=200ms").start();
    node.silent_client().expect_end();
    let mut begun = node.silent_client();
    begun.send(b"  V");
    begun.expect_end();
    let mut opened = node.client();
    wait::pause(Duration::from_millis(400));
    opened.send(command("PUB t", b"x"));
    opened.expect_ok();
}

#[test]
fn a_client_without_heartbeats_has_to_end_the_commands_that_it_begins() {
    let node = Options::new().arg("--command-timeout=300ms").start();
    let silent = || {
        let mut client = node.client();
        client.send(command("IDENTIFY", br#"{"heartbeat_interval":-1}"#));
        client.expect_ok();
        client
    };
    let mut idle = silent();
    let mut stalled = silent();
    stalled.send(b"PUB t\n\0\0\0\x05ab");
    stalled.expect_fatal("E_BAD_MESSAGE PUB failed to read message body");
    let mut in_line = silent();
    in_line.send(b"PUB");
    in_line.expect_end();
    // Between commands it may take as long as it likes.
    idle.send(command("PUB t", b"x"));
    idle.expect_ok();
}

#[test]
fn unfinished_commands_share_a_budget() {
    let node = Options::new()
        .arg("--max-msg-size=160KiB")
        .arg("--max-body-size=160KiB")
        .arg("--max-unfinished-input=200KiB")
        .start();
    let mut begun = b"PUB t\n\0\x02\x80\0".to_vec();
    begun.resize(150 << 10, b'x');
    let mut first = node.client();
    first.send(&begun);
    wait::until("the node holds it", || figure(&node, "bruit_unfinished_input_bytes") > 100 << 10);
    let mut second = node.client();
    second.send(&begun);
    second.expect_fatal("E_INVALID too many unfinished commands on this node, try again later");
    first.send(vec![b'x'; (160 << 10) + 10 - begun.len()]);
    first.expect_ok();
}

#[test]
fn one_http_connection_too_many_is_closed() {
    let node = Options::new().arg("--max-http-connections=2").start();
    let http = node.http();
    let held = [http.connect(), http.connect()];
    let mut refused = http.connect();
    let mut answer = Vec::new();
    // A reset is as good a close as any.
    let _ = refused.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{answer:?}");
    drop(held);
    wait::until("there is room again", || {
        let reply = http.send_and_end(b"GET /ping HTTP/1.0\r\n\r\n");
        reply.starts_with(b"HTTP/1.0 200")
    });
}
