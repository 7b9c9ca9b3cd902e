//! The command line: publishing from files, tailing, settings and their origin, exit codes.

use std::path::PathBuf;

use bruit_tests::{
    Node, Options,
    command::{Ended, bruit, bruit_started, bruit_with},
    texts, wait,
};

/// A file that is gone with the returned directory.
fn file(name: &str, content: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join(name);
    std::fs::write(&path, content).expect("a file can be written");
    (directory, path)
}

fn shown(path: &std::path::Path) -> &str {
    path.to_str().expect("a path of plain characters")
}

#[test]
fn pub_publishes_one_message_a_line() {
    let node = Node::start();
    let address = node.tcp_address().to_string();
    let (_directory, path) = file("lines", "one\n\ntwo\r\nlast");
    let ended = bruit(&["pub", "t", "--file", shown(&path), "--nsqd-tcp-address", &address]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("3 acknowledged"), "{ended:?}");
    let messages = node.consumer("t", "c", 10).finish_messages(3);
    assert!(texts(&messages).iter().map(|text| text.trim_end()).eq(["last", "one", "two"]), "{messages:?}");
}

#[test]
fn pub_reads_standard_input() {
    let node = Node::start();
    let address = node.tcp_address().to_string();
    for (i, arguments) in [vec!["pub", "t"], vec!["pub", "t", "--file", "-"]].into_iter().enumerate() {
        let mut arguments = arguments;
        arguments.extend(["--nsqd-tcp-address", &address]);
        let ended = bruit_with(&arguments, &[], format!("line {i}\n").as_bytes());
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.contains("1 acknowledged"), "{ended:?}");
    }
    assert_eq!(texts(&node.consumer("t", "c", 10).finish_messages(2)), ["line 0", "line 1"]);
}

#[test]
fn pub_takes_a_large_file_and_can_go_on_where_it_stopped() {
    let node = Node::start();
    let address = node.tcp_address().to_string();
    let lines: String = (0..20_000).map(|i| format!("line {i}\n")).collect();
    let (_directory, path) = file("lines", &lines);
    let arguments = ["pub", "t", "--file", shown(&path), "--nsqd-tcp-address", &address, "--skip", "5000"];
    let ended = bruit(&arguments);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("15000 acknowledged"), "{ended:?}");
    let mut texts = texts(&node.consumer("t", "c", 2500).finish_messages(15_000));
    texts.sort_by_key(|text| text[5..].parse::<u32>().unwrap_or_default());
    assert_eq!((texts[0].as_str(), texts[14_999].as_str()), ("line 5000", "line 19999"));
}

#[test]
fn pub_says_when_no_node_is_there() {
    let ended = bruit_with(&["pub", "t", "--nsqd-tcp-address", "127.0.0.1:1"], &[], b"x\n");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("127.0.0.1:1"), "{ended:?}");
    assert!(ended.stderr.contains("bruit serve"), "the message does not say what to do: {ended:?}");
}

#[test]
fn pub_says_which_topic_is_not_valid() {
    let node = Node::start();
    let address = node.tcp_address().to_string();
    let ended = bruit_with(&["pub", "bad$", "--nsqd-tcp-address", &address], &[], b"x\n");
    assert!(matches!(ended.code, Some(1 | 2)), "{ended:?}");
    assert!(ended.stderr.contains("bad$"), "{ended:?}");
}

#[test]
fn pub_says_how_far_it_came_when_a_line_is_too_long() {
    let node = Options::new().arg("--max-msg-size=1000").start();
    let address = node.tcp_address().to_string();
    let lines = format!("good\n{}\nafter\n", "x".repeat(2000));
    let ended = bruit_with(&["pub", "t", "--nsqd-tcp-address", &address], &[], lines.as_bytes());
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("too big"), "{ended:?}");
}

#[test]
fn pub_says_where_to_go_on_when_the_node_goes() {
    let mut node = Node::start();
    let address = node.tcp_address().to_string();
    let lines: String = (0..2000).map(|i| format!("line {i}\n")).collect();
    let (_directory, path) = file("lines", &lines);
    let arguments = ["pub", "t", "--file", shown(&path), "--nsqd-tcp-address", &address, "--rate", "500"];
    let publishing = bruit_started(&arguments, b"");
    wait::until("some lines are published", || {
        node.topic_stats("t").is_some_and(|stats| stats["message_count"].as_u64() > Some(100))
    });
    node.kill();
    let ended = publishing.end();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let skip: Vec<&str> = ended.stderr.split("--skip ").skip(1).collect();
    let skip = skip.first().and_then(|text| text.split(|c: char| !c.is_ascii_digit()).next());
    let skip = skip.unwrap_or_else(|| panic!("it is not said where to go on: {ended:?}"));
    node.start_again();
    let address = node.tcp_address().to_string();
    let arguments = ["pub", "t", "--file", shown(&path), "--nsqd-tcp-address", &address, "--skip", skip];
    assert_eq!(bruit(&arguments).code, Some(0));
    let mut consumer = node.consumer("t", "c", 2500);
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2000 {
        let message = consumer.message();
        consumer.finish(&message.id);
        seen.insert(message.text());
    }
}

#[test]
fn tail_ends_with_an_error_when_the_node_goes() {
    let mut node = Node::start();
    let address = node.tcp_address().to_string();
    let tailing = bruit_started(&["tail", "t", "--channel", "c", "--nsqd-tcp-address", &address], b"");
    node.wait_for("t", "c", "client_count", 1);
    node.client().publish("t", "x");
    node.wait_for("t", "c", "in_flight_count", 0);
    node.wait_for("t", "c", "depth", 0);
    node.kill();
    let ended = tailing.end();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(ended.stdout, "x\n");
    assert!(!ended.stderr.is_empty(), "it ended without a word");
}

#[test]
fn tail_prints_messages_and_ends_after_n() {
    let node = Node::start();
    let address = node.tcp_address().to_string();
    node.client().publish_all("t", &["one", "two", "three"]);
    let ended = bruit(&["tail", "t", "-n", "2", "--channel", "c", "--nsqd-tcp-address", &address]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stdout.lines().count(), 2, "{ended:?}");
    node.wait_for("t", "c", "client_count", 0);
    let left = texts(&node.consumer("t", "c", 10).finish_messages(1));
    let mut all: Vec<&str> = ended.stdout.lines().chain(left.iter().map(String::as_str)).collect();
    all.sort_unstable();
    assert_eq!(all, ["one", "three", "two"]);
}

#[test]
fn tail_makes_an_ephemeral_channel_unless_told_otherwise() {
    let node = Node::start();
    let address = node.tcp_address().to_string();
    node.client().publish("t", "x");
    let ended = bruit(&["tail", "t", "-n", "1", "--print-topic", "--nsqd-tcp-address", &address]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("t | x"), "{ended:?}");
    wait::until("the channel of the tail is gone", || {
        node.topic_stats("t").is_some_and(|stats| stats["channels"].as_array().is_some_and(Vec::is_empty))
    });
}

#[test]
fn unknown_flags_are_usage_errors() {
    let ended = bruit(&["--tcp-adress=127.0.0.1:0"]);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("--tcp-address"), "no suggestion: {ended:?}");
    assert_eq!(bruit(&["nonsense"]).code, Some(2));
    assert_eq!(bruit(&["pub"]).code, Some(2), "a missing topic");
}

#[test]
fn help_and_version_succeed() {
    for arguments in [["--help"].as_slice(), &["--version"], &["pub", "--help"], &["serve", "--help"]] {
        let ended = bruit(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
        assert!(ended.stdout.contains("bruit"), "{arguments:?}: {ended:?}");
    }
}

/// The value and the origin that `config show` gives for a setting.
fn setting(ended: &Ended, name: &str) -> (serde_json::Value, String) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let json: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON on standard output");
    let row = &json[name];
    assert!(row.is_object(), "{name} is not shown: {json}");
    (row["value"].clone(), row["origin"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let (_directory, path) = file("bruit.toml", "max_rdy_count = 100\nmsg_timeout = \"30s\"\n");
    let config = format!("--config={}", shown(&path));
    let show = |flags: &[&str], environment: &[(&str, &str)]| {
        bruit_with(&[&["config", "show", "-o", "json"], flags].concat(), environment, b"")
    };
    let origin = |ended: &Ended| setting(ended, "max-rdy-count").1;
    let value = |ended: &Ended| {
        let value = setting(ended, "max-rdy-count").0;
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    };
    let default = show(&[], &[]);
    assert_eq!((value(&default), origin(&default).as_str()), ("2500".to_owned(), "default"));
    let from_file = show(&[&config], &[]);
    assert_eq!((value(&from_file), origin(&from_file).as_str()), ("100".to_owned(), "file"));
    let environment = [("BRUIT_MAX_RDY_COUNT", "200")];
    let from_environment = show(&[&config], &environment);
    assert_eq!((value(&from_environment), origin(&from_environment).as_str()), ("200".to_owned(), "env"));
    let from_flag = show(&[&config, "--max-rdy-count=300"], &environment);
    assert_eq!((value(&from_flag), origin(&from_flag).as_str()), ("300".to_owned(), "flag"));
}

#[test]
fn settings_reach_the_node() {
    let (_directory, path) = file("nsqd.cfg", "max_rdy_count = 7\nmsg_timeout = \"90s\"\n");
    let node = Options::new().arg(format!("--config={}", shown(&path))).start();
    let answer = node.client().identify(r#"{"feature_negotiation":true}"#);
    assert!(answer.contains(r#""max_rdy_count":7,"#), "{answer}");
    assert!(answer.contains(r#""msg_timeout":90000,"#), "{answer}");
}

#[test]
fn a_bad_setting_is_named_with_what_to_do() {
    let (_directory, path) = file("bruit.toml", "max_rdy_count = 1\n\nno_such_setting = 1\n");
    for (arguments, expected) in [
        (vec!["--max-rdy-count=0".to_owned()], "max-rdy-count"),
        (vec!["--msg-timeout=fast".to_owned()], "msg-timeout"),
        (vec!["--segment-size=5000".to_owned()], "segment-size"),
        (vec!["--durability=maybe".to_owned()], "durability"),
        (vec!["--config=/nonexistent/bruit.toml".to_owned()], "/nonexistent/bruit.toml"),
        (vec![format!("--config={}", shown(&path))], "no_such_setting"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let ended = bruit(&[&["serve"], arguments.as_slice()].concat());
        assert!(matches!(ended.code, Some(1 | 2)), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains(expected), "{arguments:?}: {ended:?}");
        assert!(!ended.stderr.contains("panicked"), "{arguments:?}: {ended:?}");
    }
}

#[test]
fn nsqds_own_spelling_of_flags_is_understood() {
    let node = Options::new().arg("-max-rdy-count=9").arg("-snappy=false").arg("-msg-timeout=1m30s").start();
    let answer = node.client().identify(r#"{"feature_negotiation":true}"#);
    assert!(answer.contains(r#""max_rdy_count":9,"#), "{answer}");
    assert!(answer.contains(r#""msg_timeout":90000,"#), "{answer}");
}

#[test]
fn flags_without_effect_say_so() {
    let node = Options::new().arg("--sync-every=1").arg("--queue-scan-worker-pool-max=4").start();
    for flag in ["sync-every", "queue-scan-worker-pool-max"] {
        let log = node.log();
        let line = log.lines().find(|line| line.contains(flag));
        assert!(line.is_some_and(|line| line.contains("no effect")), "{flag} passed in silence:\n{log}");
    }
}

#[test]
fn a_node_does_not_start_unprotected_when_protection_was_asked_for() {
    for flag in ["--tls-required=true", "--tls-required=tcp-https"] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (status, said) =
            Options::new().arg(flag).data_path(directory.path().join("data")).start_refused();
        assert!(!status.success(), "{flag} was ignored");
        let name = flag.trim_start_matches('-').split('=').next().unwrap_or_default();
        assert!(said.contains(name), "{flag}: {said}");
    }
}

#[test]
fn a_port_that_is_taken_is_named() {
    let node = Node::start();
    let address = node.tcp_address();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options =
        Options::new().arg(format!("--tcp-address={address}")).data_path(directory.path().join("data"));
    let (status, said) = options.start_refused();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&address.to_string()), "{said}");
}

#[test]
fn both_signals_stop_a_node_in_good_order() {
    for signal in ["TERM", "INT"] {
        let mut node = Node::start();
        let mut client = node.consumer("t", "c", 1);
        node.signal(signal);
        client.expect_end();
        wait::until("the node exits", || !node.is_running());
        node.start_again();
        assert!(node.channel_stats("t", "c").is_some());
    }
}
