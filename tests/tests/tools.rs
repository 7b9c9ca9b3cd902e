//! What NSQ's tools do: to-file, to-http, to-mesh, stat and tail, with their flags.

#![expect(clippy::disallowed_types, reason = "servers beside the node, and not within it")]

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
};

use bruit_tests::{
    Node,
    classic::Lookupd,
    command::{Running, bruit, bruit_started},
    texts, wait,
};

fn started(args: &[&str], more: &[String]) -> Running {
    let args: Vec<&str> = args.iter().copied().chain(more.iter().map(String::as_str)).collect();
    bruit_started(&args, b"")
}

/// Everything in the files of a directory whose names begin so, by name.
fn contents(dir: &Path, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let named = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut files: Vec<_> = named.map(|path| (name(&path), std::fs::read(&path).unwrap())).collect();
    files.retain(|(name, _)| name.starts_with(prefix));
    files.sort();
    files
}

/// The lines in such files.
fn lines(dir: &Path, prefix: &str) -> Vec<String> {
    let files = contents(dir, prefix);
    let texts = files.iter().map(|(_, bytes)| String::from_utf8_lossy(bytes));
    texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn wait_until_consumed(node: &Node, topic: &str, channel: &str) {
    wait::until("all is finished", || {
        node.channel_stats(topic, channel)
            .is_some_and(|stats| stats["depth"] == 0 && stats["in_flight_count"] == 0)
    });
}

#[test]
fn to_file_finishes_nothing_that_is_not_synced_and_everything_that_is() {
    let node = Node::start();
    node.client().publish_all("t", &["one", "two", "three"]);
    let dir = tempfile::tempdir().unwrap();
    let args = ["to-file", "--topic=t", "--filename-format=<TOPIC>.<DATETIME>.log", "--datetime-format=%Y"];
    let never = [&args[..], &["--sync-interval=1h"]].concat();
    let more = [
        format!("--nsqd-tcp-address={}", node.tcp_address()),
        format!("--output-dir={}", dir.path().display()),
    ];
    let tool = started(&never, &more);
    node.wait_for("t", "nsq_to_file", "in_flight_count", 3);
    // A kill before the sync loses nothing.
    tool.signal("KILL");
    let _ = tool.end();
    node.wait_for("t", "nsq_to_file", "depth", 3);
    let tool = started(&never, &more);
    node.wait_for("t", "nsq_to_file", "in_flight_count", 3);
    tool.signal("TERM");
    let ended = tool.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    // What it has not come to write by then goes back.
    let written = lines(dir.path(), "t.").len() as u64;
    assert!(written <= 3, "{written}");
    node.wait_for("t", "nsq_to_file", "in_flight_count", 0);
    node.wait_for("t", "nsq_to_file", "depth", 3 - written);
    node.client().publish("t", "four");
    let tool = started(&[&args[..], &["--sync-interval=50ms"]].concat(), &more);
    wait_until_consumed(&node, "t", "nsq_to_file");
    tool.signal("TERM");
    assert_eq!(tool.end().code, Some(0));
    let mut all = lines(dir.path(), "t.");
    all.sort();
    assert_eq!(all, ["four", "one", "three", "two"]);
    assert_eq!(contents(dir.path(), "t.").len(), 1, "all are of one year");
    // As many as may be under way are synced without waiting.
    let mut more = more.to_vec();
    more.push("--max-in-flight=2".to_owned());
    node.client().publish_all("t", &["five", "six"]);
    let tool = started(&never, &more);
    wait_until_consumed(&node, "t", "nsq_to_file");
    tool.signal("TERM");
    assert_eq!(tool.end().code, Some(0));
}

#[test]
fn to_file_goes_on_when_all_messages_come_from_one_of_several_nodes() {
    let (full, empty) = (Node::start(), Node::start());
    let bodies: Vec<String> = (0..50).map(|n| format!("message {n} of no file before")).collect();
    full.client().publish_all("t", &bodies);
    let dir = tempfile::tempdir().unwrap();
    let more = [
        format!("--nsqd-tcp-address={},{}", full.tcp_address(), empty.tcp_address()),
        format!("--output-dir={}", dir.path().display()),
    ];
    let args = ["to-file", "--topic=t", "--sync-interval=1h", "--max-in-flight=10", "--rotate-size=200"];
    let tool = started(&args, &more);
    wait::until("all have been delivered", || {
        full.channel_stats("t", "nsq_to_file").is_some_and(|stats| stats["depth"] == 0)
    });
    tool.signal("TERM");
    assert_eq!(tool.end().code, Some(0));
    full.wait_for("t", "nsq_to_file", "in_flight_count", 0);
    let files = contents(dir.path(), "t.");
    let lines = files.iter().map(|(_, text)| text.iter().filter(|byte| **byte == b'\n').count());
    // What was on its way when the tool was told to end has gone back.
    let back = full.channel_stats("t", "nsq_to_file").unwrap()["depth"].as_u64().unwrap();
    assert_eq!(lines.sum::<usize>() as u64 + back, 50);
    let empty: Vec<&String> =
        files.iter().filter(|(_, text)| text.is_empty()).map(|(name, _)| name).collect();
    assert!(files.len() > 3 && empty.len() <= 1, "only the last may be empty: {files:?}");
}

#[test]
fn to_file_rotates_compresses_and_moves_finished_files_without_overwriting_any() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let (work, output) = (dir.path().join("work"), dir.path().join("done"));
    std::fs::create_dir(&output).unwrap();
    std::fs::write(output.join("t-000000.log.gz"), "precious").unwrap();
    let args = [
        "to-file",
        "--topic=t",
        "--gzip",
        "--gzip-level=1",
        "--skip-empty-files",
        "--rotate-size=10",
        "--sync-interval=20ms",
        "--filename-format=<TOPIC><REV>.log",
    ];
    let more = [
        format!("--nsqd-tcp-address={}", node.tcp_address()),
        format!("--output-dir={}", output.display()),
        format!("--work-dir={}", work.display()),
    ];
    let tool = started(&args, &more);
    for round in 0..3 {
        node.client().publish("t", format!("message {round} is long enough"));
        wait::until("the file is finished", || contents(&output, "t-").len() == round + 2);
    }
    wait_until_consumed(&node, "t", "nsq_to_file");
    tool.signal("TERM");
    assert_eq!(tool.end().code, Some(0));
    assert!(contents(&work, "").is_empty(), "nothing is left there");
    let files = contents(&output, "t-");
    assert_eq!(files[0].1, b"precious");
    for (round, (name, _)) in files.iter().skip(1).enumerate() {
        let mut unzip = std::process::Command::new("gzip");
        unzip.args(["-dc", &output.join(name).display().to_string()]);
        let text = bruit_tests::command::run(unzip, b"").stdout;
        assert_eq!(text, format!("message {round} is long enough\n"), "{name}");
    }
}

#[test]
fn to_file_finds_topics_by_a_pattern_and_says_what_cannot_be() {
    let node = Node::start();
    for topic in ["orders.eu", "orders.us", "other"] {
        node.client().publish(topic, topic);
    }
    let dir = tempfile::tempdir().unwrap();
    let args = ["to-file", "--topic-pattern=^orders", "--topic-refresh=50ms", "--sync-interval=20ms"];
    let more = [
        format!("--lookupd-http-address={}", node.http_address()),
        format!("--output-dir={}", dir.path().display()),
        "--consumer-opt=lookupd_poll_interval,50ms".to_owned(),
        "--host-identifier=h".to_owned(),
    ];
    let tool = started(&args, &more);
    wait_until_consumed(&node, "orders.eu", "nsq_to_file");
    wait_until_consumed(&node, "orders.us", "nsq_to_file");
    node.client().publish("orders.asia", "late");
    wait_until_consumed(&node, "orders.asia", "nsq_to_file");
    tool.signal("TERM");
    assert_eq!(tool.end().code, Some(0));
    assert!(node.channel_stats("other", "nsq_to_file").is_none());
    let files = contents(dir.path(), "orders.");
    assert_eq!(files.len(), 3);
    assert!(files.iter().all(|(name, text)| name.contains(".h.") && text.ends_with(b"\n")), "{files:?}");

    for (args, because) in [
        (["to-file", "--output-dir=/tmp"].as_slice(), "name a topic"),
        (&["to-file", "--topic=t", "--gzip", "--filename-format=x"], "lacks <REV>"),
        (&["to-file", "--topic-pattern=x"], "needs --lookupd-http-address"),
    ] {
        let ended = bruit(args);
        assert_ne!(ended.code, Some(0));
        assert!(ended.stderr.contains(because), "{ended:?}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let to = format!("--output-dir={}/x", file.path().display());
    let ended = bruit(&["to-file", "--topic=t", &to, &format!("--nsqd-tcp-address={}", node.tcp_address())]);
    assert_eq!(ended.code, Some(1), "what cannot be written ends it: {ended:?}");
}

/// A server that answers with these statuses, then with 200 for ever; what it was asked comes out.
fn http_server(statuses: &'static [u16]) -> (SocketAddr, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, requests) = std::sync::mpsc::channel();
    #[expect(clippy::disallowed_methods, reason = "a server beside the node")]
    std::thread::spawn(move || {
        let mut statuses = statuses.iter().copied();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut request, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
                request.push_str(&line);
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            request.push_str(&String::from_utf8(body).unwrap());
            let status = statuses.next().unwrap_or(200);
            let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
            if asked.send(request).is_err() {
                return;
            }
        }
    });
    (address, requests)
}

#[test]
fn to_http_finishes_what_a_server_has_taken_and_delivers_the_rest_again() {
    let node = Node::start();
    let (server, requests) = http_server(&[500, 201]);
    node.client().publish("t", "a message");
    let args = [
        "to-http",
        "--topic=t",
        "--consumer-opt=default_requeue_delay,0s",
        "--header=X-Extra: yes",
        "-n",
        "1",
    ];
    let more = [
        format!("--nsqd-tcp-address={}", node.tcp_address()),
        format!("--post=http://{server}/in?x=1"),
        "--content-type=text/plain".to_owned(),
    ];
    let tool = started(&args, &more);
    for _ in 0..2 {
        let request = requests.recv_timeout(wait::PATIENCE).unwrap();
        assert!(request.starts_with("POST /in?x=1 HTTP/1."), "{request}");
        assert!(
            request.contains("Content-Type: text/plain\r\n") && request.contains("X-Extra: yes\r\n"),
            "{request}"
        );
        assert!(request.ends_with("a message"), "{request}");
    }
    wait_until_consumed(&node, "t", "nsq_to_http");
    assert_eq!(node.channel_stats("t", "nsq_to_http").unwrap()["requeue_count"], 1);
    tool.signal("TERM");
    assert_eq!(tool.end().code, Some(0));

    // Every server gets a message, by GET, in which only 200 counts.
    let (one, of_one) = http_server(&[]);
    let (other, of_other) = http_server(&[204]);
    node.client().publish("u", "a b&c");
    let args = ["to-http", "--topic=u", "--mode=multicast", "--consumer-opt=default_requeue_delay,0s"];
    let more = [
        format!("--nsqd-tcp-address={}", node.tcp_address()),
        format!("--get=http://{one}/?m=%s"),
        format!("--get=http://{other}/?m=%s"),
    ];
    let tool = started(&args, &more);
    for requests in [&of_one, &of_other, &of_one, &of_other] {
        let request = requests.recv_timeout(wait::PATIENCE).unwrap();
        assert!(request.starts_with("GET /?m=a+b%26c HTTP/1."), "{request}");
    }
    wait_until_consumed(&node, "u", "nsq_to_http");
    tool.signal("TERM");
    assert_eq!(tool.end().code, Some(0));
}

#[test]
fn to_mesh_publishes_what_passes_and_finishes_it_once_it_is_acknowledged() {
    let (from, to) = (Node::start(), Node::start());
    let bodies = [
        r#"{"kind":"order","id":1,"secret":"x"}"#,
        r#"{"kind":"other","id":2}"#,
        "no json",
        r#"{"kind":"order","id":3}"#,
    ];
    from.client().publish_all("t", &bodies);
    let args = [
        "to-mesh",
        "--topic=t",
        "--destination-topic=copy",
        "--require-json-field=kind",
        "--require-json-value=order",
        "--whitelist-json-field=id",
    ];
    let more = [
        format!("--nsqd-tcp-address={}", from.tcp_address()),
        format!("--destination-nsqd-tcp-address={}", to.tcp_address()),
    ];
    let tool = started(&args, &more);
    wait_until_consumed(&from, "t", "nsq_to_nsq");
    tool.signal("TERM");
    assert_eq!(tool.end().code, Some(0));
    assert_eq!(texts(&to.consumer("copy", "c", 5).finish_messages(2)), [r#"{"id":1}"#, r#"{"id":3}"#]);
}

#[test]
fn to_mesh_goes_on_by_another_node_when_one_is_gone() {
    let (from, mut gone, to) = (Node::start(), Node::start(), Node::start());
    let more = [
        format!("--nsqd-tcp-address={}", from.tcp_address()),
        format!("--destination-nsqd-tcp-address={}", gone.tcp_address()),
        format!("--destination-nsqd-tcp-address={}", to.tcp_address()),
        "--consumer-opt=default_requeue_delay,0s".to_owned(),
    ];
    gone.kill();
    from.client().publish_all("t", &["one", "two", "three"]);
    let tool = started(&["to-mesh", "--topic=t"], &more);
    wait_until_consumed(&from, "t", "nsq_to_nsq");
    let mut copied = to.consumer("t", "c", 5);
    let arrived: BTreeSet<String> = texts(&copied.finish_messages(3)).into_iter().collect();
    assert_eq!(arrived.len(), 3);
    tool.signal("TERM");
    assert_eq!(tool.end().code, Some(0));
}

#[test]
fn stat_shows_a_channel_as_nsq_stat_does() {
    let node = Node::start();
    node.client().publish_all("t", &["one", "two"]);
    node.http().post_ok("/channel/create?topic=t&channel=c", "");
    let http = format!("--nsqd-http-address={}", node.http_address());
    let lookup = format!("--lookupd-http-address={}", node.http_address());
    for from in [&http, &lookup] {
        let ended =
            bruit(&["stat", "--topic=t", "--channel", "c", "--interval=10ms", "--count=2", from.as_str()]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let lines: Vec<&str> = ended.stdout.lines().collect();
        assert_eq!(lines.len(), 4, "{ended:?}");
        assert_eq!(
            lines[1],
            "ingress  egress |   total     mem    disk inflt   def |     req     t-o         msgs clients"
        );
        let figures: Vec<&str> = lines[2].split_whitespace().collect();
        assert_eq!(figures[..4], ["0", "0", "|", "2"], "{ended:?}");
    }
    let ended = bruit(&["stat", "--topic=t", "--channel=none", "--count=1", &http]);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stderr.contains("no node has the channel none"), "{ended:?}");
}

#[test]
fn tail_takes_the_flags_of_nsq_tail() {
    let (one, two) = (Node::start(), Node::start());
    one.client().publish("t", "one");
    two.client().publish("t", "two");
    two.client().publish("u", "three");
    let at = [&one, &two].map(|node| format!("--nsqd-tcp-address={}", node.tcp_address()));
    let args =
        ["tail", "-topic=t", "-topic", "u", "-channel=c", "-n", "3", "-print-topic", "-max-in-flight=5"];
    let ended = started(&args, &at).end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let printed: BTreeSet<&str> = ended.stdout.lines().collect();
    assert_eq!(printed, BTreeSet::from(["t | one", "t | two", "u | three"]));

    // From what a classic nsqlookupd knows.
    let lookupd = Lookupd::start();
    let options = bruit_tests::Options::new();
    let node = options.arg(format!("--lookupd-tcp-address={}", lookupd.tcp_address())).start();
    node.client().publish("v", "four");
    wait::until("it is registered", || !lookupd.producers("v", "").is_empty());
    let from = [format!("--lookupd-http-address={}", lookupd.http_address())];
    let ended = started(&["tail", "--topic=v", "-n", "1"], &from).end();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "four\n"), "{}", ended.stderr);
}
