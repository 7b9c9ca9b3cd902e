//! Where each item of the list of parity tests in the NSQ reference (section 14) is shown, from outside and on
//! the bytes, and the tests that no other file has the topic of.
//!
//! | item | test |
//! |---|---|
//! | bad magic | `protocol_errors::noise_instead_of_the_magic...` |
//! | CRLF | `traps::crlf_and_surplus_parameters...` |
//! | lower-case command, empty line | `protocol_errors::an_unknown_command_is_fatal` |
//! | every row of 2.7 | all of `protocol_errors`, and the next nine rows |
//! | - states, order of the checks | `parity::every_command_in_every_state`, `parity::the_first_fault_is_told` |
//! | - TLS required, handshake | `tls::nothing_but_identify...`, `tls::a_handshake_that_is_none...` |
//! | - values of IDENTIFY, its JSON | `identify::wishes_beyond...`, `identify::of_several...`, `identify::wrong_types...` |
//! | - both compressions | `compression::both_at_once...` |
//! | - texts with limits | `parity::texts_name_the_limits...` |
//! | - disk errors | `parity::what_the_disk_refuses...`, `data_directory::a_full_disk...` |
//! | - a body that never comes | `hostile::half_a_body...`, `protocol_errors::a_client_that_hangs_up...` |
//! | - AUTH | `auth::without_auth...`, `auth::patterns...`, `auth::replies...`, `auth::an_answer_that_has_expired...` |
//! | - `exiting` | in the node, `client/outbox` and `http`: one that stops closes before it could answer |
//! | - deleted, `AUTH error`, `already deferred` | in `wire`, the texts alone: this node has no such moment |
//! | name lengths | `protocol_errors::names_may_have_64_bytes...`, `parity::names_of_one_byte_too_many...` |
//! | IDENTIFY bounds table | `identify::wishes...`, `identify::every_heartbeat...`, `identify::the_limits...` |
//! | IDENTIFY twice | `identify::identify_may_come_twice...`, `identify::only_the_first_identify...` |
//! | feature_negotiation false with TLS asked | `tls::without_negotiation...` |
//! | TLS+deflate double OK | `tls::each_layer_says_ok_once...` |
//! | snappy raw bytes, repeated stream id | `compression::snappy_begins...`, `compression::one_identifier...` |
//! | AUTH bad, empty, ttl 0, unknown permission | `auth::replies...`, `auth::without_auth...` |
//! | AUTH anchoring, channel-less publish, expiry | `auth::patterns...`, `auth::an_answer_that_has_expired...` |
//! | RDY 0/2500/2501/none | `delivery::rdy_without_a_number...`, `protocol_errors::numbers_are_plain_digits` |
//! | FIN by another client, double FIN | `delivery::only_the_connection...`, `delivery::a_finished_message...` |
//! | TOUCH cap, REQ clamp | `delivery::touch_does_not_extend...`, `delivery::a_requeue_delay_beyond...` |
//! | heartbeat close at 2x | `hostile::a_client_that_leaves_heartbeats...`, `hostile::half_a_line...` |
//! | disconnect with in-flight | `delivery::a_lost_connection...` |
//! | CLS then FIN | `delivery::after_cls...` |
//! | pause, empty, delete with live consumers | `lifecycle::a_paused...`, `lifecycle::emptying...`, `lifecycle::deleting...` |
//! | backlog to first channel | `lifecycle::the_first_channel_gets_the_backlog...` |
//! | ephemeral lifecycle | `lifecycle::an_ephemeral...`, `lifecycle::nothing_ephemeral...` |
//! | graceful restart, kill -9 | all of `durability` |
//! | /pub and /mpub error table | `http_publish::pub_names...`, `http_publish::mpub_names...`; 503: as disk errors |
//! | 301/307 | `http_admin::paths_that_are_nearly_right...` |
//! | /stats null and `[]` | `http_stats::an_idle_node...`, `http_stats::filters...`, `http_stats::clients_and_memory...` |
//! | tombstone hides from /lookup only | `mesh_nsqadmin::it_takes_a_topic...`, `registration::a_tombstone...` |
//! | lookupd names sticky | `mesh_names::names_stay...`, `registration::an_nsqd_that_registers_is_found...` |
//! | pre-creation on a second node | `mesh_names::the_first_message_on_another_node...` |
//! | nsqadmin pages, DELETE, tombstone | all of `mesh_nsqadmin`, `http_guard::an_administrator...`, `lookup::a_node_is_told...` |
//! | statsd datagram shape | `statsd::every_figure...`, `statsd::prefix_size...` |
//! | frames and messages (2.3, 2.4) | `parity::a_delivery_and_a_heartbeat...` |

use bruit_tests::{
    Client,
    FrameKind::{self, Error, Response},
    Node, Options, command, frame_bytes, multi_publish, tree,
};

/// What a command comes to.
#[derive(Clone, Copy)]
enum Outcome {
    /// Nothing is answered, and the connection lives.
    Silence,
    /// This frame, and the connection lives.
    Answer(FrameKind, &'static str),
    /// This error, and the connection ends.
    Fatal(&'static str),
}

use Outcome::{Answer, Fatal, Silence};

const OK: Outcome = Answer(Response, "OK");
const ID: &str = "0123456789abcdef";

/// Sends `bytes` and, in the same write, a PUB: that it is answered shows that the connection lives, that it is
/// not, that nothing behind a fatal error is heard.
fn expect(mut client: Client, bytes: &[u8], outcome: Outcome, what: &str) {
    client.send([bytes, &command("PUB alive", b"x")].concat());
    let (mut expected, lives) = match outcome {
        Silence => (Vec::new(), true),
        Answer(kind, text) => (frame_bytes(kind, text), true),
        Fatal(text) => (frame_bytes(Error, text), false),
    };
    let answer = if lives {
        expected.extend(frame_bytes(Response, "OK"));
        client.raw_bytes(expected.len())
    } else {
        client.raw_rest()
    };
    let shown = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer == expected, "{what}: {shown:?}, not {:?}", String::from_utf8_lossy(&expected));
}

/// A connection that is in the state: 0 init, 1 subscribed, 2 closing.
fn client_in(node: &Node, state: usize) -> Client {
    let mut client = node.client();
    if state > 0 {
        client.subscribe("t", "c");
    }
    if state > 1 {
        client.send("CLS\n");
        client.expect_response("CLOSE_WAIT");
    }
    client
}

#[test]
fn every_command_in_every_state() {
    let node = Node::start();
    let fin = Answer(Error, "E_FIN_FAILED FIN 0123456789abcdef failed ID not in flight");
    let req = Answer(Error, "E_REQ_FAILED REQ 0123456789abcdef failed ID not in flight");
    let touch = Answer(Error, "E_TOUCH_FAILED TOUCH 0123456789abcdef failed ID not in flight");
    let identify = Fatal("E_INVALID cannot IDENTIFY in current state");
    let auth = Fatal("E_INVALID cannot AUTH in current state");
    let sub = Fatal("E_INVALID cannot SUB in current state");
    let cls = Fatal("E_INVALID cannot CLS in current state");
    let line = |text: &str| format!("{text}\n").into_bytes();
    let rows: [(Vec<u8>, [Outcome; 3]); 14] = [
        (command("IDENTIFY", b"{}"), [OK, identify, identify]),
        (command("AUTH", b"secret"), [Fatal("E_AUTH_DISABLED AUTH disabled"), auth, auth]),
        (line("SUB t d"), [OK, sub, sub]),
        (line("RDY 1"), [Fatal("E_INVALID cannot RDY in current state"), Silence, Silence]),
        (
            line("RDY x"),
            [
                Fatal("E_INVALID cannot RDY in current state"),
                Fatal("E_INVALID RDY could not parse count x"),
                Silence,
            ],
        ),
        (line(&format!("FIN {ID}")), [Fatal("E_INVALID cannot FIN in current state"), fin, fin]),
        (line(&format!("REQ {ID} 0")), [Fatal("E_INVALID cannot REQ in current state"), req, req]),
        (line(&format!("TOUCH {ID}")), [Fatal("E_INVALID cannot TOUCH in current state"), touch, touch]),
        (line("CLS"), [cls, Answer(Response, "CLOSE_WAIT"), cls]),
        (line("NOP"), [Silence; 3]),
        (command("PUB p", b"x"), [OK; 3]),
        (multi_publish("p", &["x", "y"]), [OK; 3]),
        (command("DPUB p 60000", b"x"), [OK; 3]),
        (line("FOO"), [Fatal("E_INVALID invalid command FOO"); 3]),
    ];
    for (bytes, outcomes) in rows {
        for (state, outcome) in outcomes.into_iter().enumerate() {
            let what = format!("{:?} in state {state}", String::from_utf8_lossy(&bytes));
            expect(client_in(&node, state), &bytes, outcome, &what);
        }
    }
}

#[test]
fn the_first_fault_is_told() {
    let node = Node::start();
    for (state, bytes, error) in [
        (0, "PUB t$\n\0\0\0\0", r#"E_BAD_TOPIC PUB topic name "t$" is not valid"#),
        (0, "MPUB t$\n\0\0\0\0", r#"E_BAD_TOPIC E_BAD_TOPIC MPUB topic name "t$" is not valid"#),
        (0, "DPUB t$\n", "E_INVALID DPUB insufficient number of parameters"),
        (0, "DPUB t$ x\n", r#"E_BAD_TOPIC DPUB topic name "t$" is not valid"#),
        (0, "DPUB t x\n\0\0\0\0", "E_INVALID DPUB could not parse timeout x"),
        (0, "DPUB t 3600001\n\0\0\0\0", "E_INVALID DPUB timeout 3600001 out of range 0-3600000"),
        (0, "SUB t$\n", "E_INVALID SUB insufficient number of parameters"),
        (0, "SUB t$ c$\n", r#"E_BAD_TOPIC SUB topic name "t$" is not valid"#),
        (0, "AUTH x\n\0\0\0\0", "E_INVALID AUTH invalid number of parameters"),
        (0, "AUTH\n\0\0\0\0", "E_BAD_BODY AUTH invalid body size 0"),
        (0, "MPUB t\n\0\0\0\0\0\0\0\0", "E_BAD_BODY MPUB invalid body size 0"),
        (0, "MPUB t\n\0\0\0\x08\0\0\0\0\0\0\0\0", "E_BAD_BODY MPUB invalid message count 0"),
        (1, "SUB\n", "E_INVALID cannot SUB in current state"),
        (1, "AUTH x\n", "E_INVALID cannot AUTH in current state"),
        (1, "REQ 01 x\n", "E_INVALID invalid message ID"),
        (1, "REQ 01\n", "E_INVALID REQ insufficient number of params"),
        (2, "SUB\n", "E_INVALID cannot SUB in current state"),
    ] {
        expect(client_in(&node, state), bytes.as_bytes(), Fatal(error), bytes);
    }
    for bytes in ["SUB\n", "SUB t$ c$\n"] {
        let mut deaf = node.client();
        assert_eq!(deaf.identify(r#"{"heartbeat_interval":-1}"#), "OK");
        expect(deaf, bytes.as_bytes(), Fatal("E_INVALID cannot SUB with heartbeats disabled"), bytes);
    }
}

#[test]
fn names_of_one_byte_too_many_are_refused() {
    let node = Node::start();
    for name in ["x".repeat(65), format!("{}#ephemeral", "x".repeat(55))] {
        for (bytes, error) in [
            (format!("PUB {name}\n"), format!("E_BAD_TOPIC PUB topic name \"{name}\" is not valid")),
            (
                format!("MPUB {name}\n"),
                format!("E_BAD_TOPIC E_BAD_TOPIC MPUB topic name \"{name}\" is not valid"),
            ),
            (format!("DPUB {name} 1\n"), format!("E_BAD_TOPIC DPUB topic name \"{name}\" is not valid")),
            (format!("SUB {name} c\n"), format!("E_BAD_TOPIC SUB topic name \"{name}\" is not valid")),
            (format!("SUB t {name}\n"), format!("E_BAD_CHANNEL SUB channel name \"{name}\" is not valid")),
        ] {
            let mut client = node.client();
            client.send(&bytes);
            assert_eq!(client.raw_rest(), frame_bytes(Error, &error), "{bytes}");
        }
        let name = name.replace('#', "%23");
        for (target, code) in [
            (format!("/pub?topic={name}"), "INVALID_TOPIC"),
            (format!("/mpub?topic={name}"), "INVALID_TOPIC"),
            (format!("/topic/create?topic={name}"), "INVALID_TOPIC"),
            (format!("/channel/create?topic={name}&channel=c"), "INVALID_ARG_TOPIC"),
            (format!("/channel/create?topic=t&channel={name}"), "INVALID_ARG_CHANNEL"),
        ] {
            let expected = (400, format!(r#"{{"message":"{code}"}}"#));
            assert_eq!(node.http().post(&target, "x").outcome(), expected, "{target}");
        }
    }
}

#[test]
fn texts_name_the_limits_that_are_set() {
    let options = Options::new().arg("--max-rdy-count=10").arg("--max-req-timeout=5s");
    let node = options.arg("--max-msg-size=10").arg("--max-body-size=104").start();
    for (state, bytes, outcome) in [
        (1, "RDY 10\n", Silence),
        (1, "RDY 11\n", Fatal("E_INVALID RDY count 11 out of range 0-10")),
        (0, "DPUB p 5000\n\0\0\0\x01x", OK),
        (0, "DPUB p 5001\n", Fatal("E_INVALID DPUB timeout 5001 out of range 0-5000")),
        (0, "PUB p\n\0\0\0\x0a0123456789", OK),
        (0, "PUB p\n\0\0\0\x0b", Fatal("E_BAD_MESSAGE PUB message too big 11 > 10")),
        (0, "MPUB p\n\0\0\0\x08\0\0\0\x01\0\0\0\x0b", Fatal("E_BAD_MESSAGE MPUB message too big 11 > 10")),
        (0, "MPUB p\n\0\0\0\x69", Fatal("E_BAD_BODY MPUB body too big 105 > 104")),
        // A message takes five bytes at least: (104 - 4) / 5.
        (0, "MPUB p\n\0\0\0\x68\0\0\0\x15", Fatal("E_BAD_BODY MPUB invalid message count 21")),
        (0, "IDENTIFY\n\0\0\0\x69", Fatal("E_BAD_BODY IDENTIFY body too big 105 > 104")),
        (0, "AUTH\n\0\0\0\x69", Fatal("E_BAD_BODY AUTH body too big 105 > 104")),
    ] {
        expect(client_in(&node, state), bytes.as_bytes(), outcome, bytes);
    }
}

#[test]
fn what_the_disk_refuses_is_told_to_each_publisher() {
    // No disk has so much room.
    let node = Options::new().arg("--min-free-disk=1000000TiB").start();
    let why = "failed disk full: free some space, or lower --min-free-disk";
    for (bytes, code, name) in [
        (command("PUB t", b"x"), "E_PUB_FAILED", "PUB"),
        (multi_publish("t", &["x", "y"]), "E_MPUB_FAILED", "MPUB"),
        (command("DPUB t 60000", b"x"), "E_DPUB_FAILED", "DPUB"),
        (command("DPUB t 0", b"x"), "E_DPUB_FAILED", "DPUB"),
    ] {
        let mut client = node.client();
        client.send([bytes, b"FOO\n".to_vec()].concat());
        let answer = client.raw_rest();
        let shown = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer == frame_bytes(Error, &format!("{code} {name} {why}")), "{name}: {shown:?}");
    }
    for target in ["/pub?topic=t", "/mpub?topic=t", "/mpub?topic=t&binary=1", "/pub?topic=t&defer=60000"] {
        let outcome = node.http().post(target, "\0\0\0\x01\0\0\0\x01x").outcome();
        assert_eq!(outcome, (503, r#"{"message":"EXITING"}"#.to_owned()), "{target}");
    }
    let reply = node.http().get("/ping").outcome();
    assert_eq!(reply, (500, "NOK - disk full: free some space, or lower --min-free-disk".to_owned()));
    // What needs no room goes on.
    node.client().subscribe("t", "c");
    assert!(node.topic_stats("t").is_some_and(|stats| stats["message_count"] == 0));
}

#[test]
fn a_delivery_and_a_heartbeat_in_their_bytes() {
    let node = Node::start();
    let mut client = node.consumer("t", "c", 1);
    node.client().publish("t", "body");
    let message = client.raw_bytes(38);
    assert_eq!(message[..8], *b"\0\0\0\x22\0\0\0\x02", "30 bytes and the type, type 2");
    let published = i64::from_be_bytes(message[8..16].try_into().expect("8 bytes"));
    assert!((1_700_000_000_000_000_000..).contains(&published), "{published} is not nanoseconds");
    assert_eq!(message[16..18], [0, 1], "the first attempt");
    assert!(message[18..34].iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{message:?}");
    assert_eq!(message[34..], *b"body");
    // Given back, it differs in its attempts alone.
    client.send([b"REQ ", &message[18..34], b" 0\n"].concat());
    let again = client.raw_bytes(38);
    assert_eq!((&again[16..18], &again[..16], &again[18..]), (&[0, 2][..], &message[..16], &message[18..]));

    let mut idle = node.client();
    assert_eq!(idle.identify(r#"{"heartbeat_interval":1000}"#), "OK");
    assert_eq!(idle.raw_bytes(19), *b"\0\0\0\x0f\0\0\0\0_heartbeat_");
}

#[test]
fn the_map_names_tests_that_exist() {
    let own = tree::text("tests/tests/parity.rs");
    let rows = own.lines().filter_map(|line| line.strip_prefix("//! | "));
    let mut count = 0;
    for name in rows.flat_map(|row| row.split('`').skip(1).step_by(2)) {
        let Some((file, test)) = name.split_once("::") else { continue };
        let text = tree::text(&format!("tests/tests/{file}.rs"));
        let end = if test.ends_with("...") { "" } else { "()" };
        let function = format!("\nfn {}{end}", test.trim_end_matches("..."));
        assert!(text.contains(&function), "{name} is no test");
        count += 1;
    }
    assert!(count > 50, "{count} names are not the whole map");
}
