//! The binary under the names of NSQ's daemons, with their command lines and files as they are.

use std::collections::BTreeSet;

use bruit_tests::{Node, Options, binary, classic::Registration, command, texts, wait};

/// Every flag of nsqd that names no other machine and no file, as years of scripts have written them.
const NSQD_FLAGS: [&str; 50] = [
    "-auth-http-request-method=get",
    "-broadcast-address",
    "127.0.0.1",
    "--broadcast-tcp-port=0",
    "-broadcast-http-port=0",
    "-deflate=true",
    "-e2e-processing-latency-percentile=1.0,0.99",
    "-e2e-processing-latency-percentile",
    "0.95",
    "-e2e-processing-latency-window-time=10m0s",
    "-http-address=127.0.0.1:0",
    "-http-client-connect-timeout=2s",
    "-http-client-request-timeout=5s",
    "-log-level=info",
    "-max-body-size=5242880",
    "-max-bytes-per-file=104857600",
    "-max-channel-consumers=0",
    "-max-deflate-level=6",
    "-max-heartbeat-interval=1m0s",
    "-max-msg-size=1048576",
    "-max-msg-timeout=15m0s",
    "-max-output-buffer-size=65536",
    "-max-output-buffer-timeout=30s",
    "-max-rdy-count=2500",
    "-max-req-timeout=1h0m0s",
    "-max-defer-timeout=1h",
    "-mem-queue-size=10000",
    "-min-output-buffer-timeout=25ms",
    "-msg-timeout=1m0s",
    "-node-id=5",
    "-output-buffer-timeout=250ms",
    "-queue-scan-selection-count=20",
    "-queue-scan-worker-pool-max=4",
    "-snappy=true",
    "-statsd-exclude-ephemeral=false",
    "-statsd-interval=1m0s",
    "-statsd-mem-stats",
    "-statsd-prefix=nsq.%s",
    "-statsd-udp-packet-size=508",
    "-sync-every=2500",
    "-sync-timeout=2s",
    "-tcp-address",
    "127.0.0.1:0",
    "-tls-min-version=tls1.2",
    "-tls-required=false",
    "-topology-region=eu",
    "-topology-zone=a",
    "-worker-id=5",
    "-verbose",
    "-log-prefix=[nsqd] ",
];

fn nsqd(args: &[&str]) -> Options {
    args.iter().fold(Options::new().program("nsqd"), |options, arg| options.arg(*arg))
}

fn data_path(dir: &tempfile::TempDir) -> String {
    format!("-data-path={}", dir.path().display())
}

#[test]
fn a_command_line_of_nsqd_is_taken_over_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let node = nsqd(&NSQD_FLAGS).arg(data_path(&dir)).start();
    let log = node.log();
    for line in [
        "INFO: nsqd v1.3.0 (built w/bruit",
        "INFO: TCP: listening on 127.0.0.1:",
        "INFO: HTTP: listening on 127.0.0.1:",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
    let is_classic = |line: &str| {
        let stamp = line.strip_prefix("[nsqd] ").and_then(|rest| rest.split_once(' '));
        stamp.is_some_and(|(day, _)| day.len() == 10 && day.split('/').count() == 3)
    };
    assert!(log.lines().all(is_classic), "{log}");
    let said = log.lines().filter(|line| line.contains("sync-every has no effect here"));
    assert_eq!(said.count(), 1, "{log}");
    let mut client = node.client();
    client.publish("t", "m");
    assert_eq!(node.consumer("t", "c", 1).message().text(), "m");
    assert_eq!(node.http().get("/info").json()["topology_zone"], "a");
    assert!(dir.path().join("node").exists(), "the data is where --data-path says");
}

#[test]
fn a_file_of_nsqd_is_taken_over_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nsqd.cfg");
    let content = format!(
        "## enable verbose logging\nverbose = false\n\n## unique identifier (int) for this worker (will default \
         to a hash of hostname)\n# id = 5\n\ntcp_address = \"127.0.0.1:0\"\nhttp_address = \"127.0.0.1:0\"\n\
         broadcast_address = \"127.0.0.1\"\nnsqlookupd_tcp_addresses = []\nhttp_client_connect_timeout = \"2s\"\n\
         data_path = \"{}\"\nmem_queue_size = 10000\nmax_bytes_per_file = 104857600\nsync_every = 2500\n\
         sync_timeout = \"2s\"\nmsg_timeout = \"60s\"\nmax_msg_timeout = \"15m\"\nmax_msg_size = 1024768\n\
         max_req_timeout = \"1h\"\nmax_rdy_count = 2500\ndeflate = true\nsnappy = true\nmax_deflate_level = 6\n\
         statsd_interval = \"60s\"\nstatsd_mem_stats = true\ne2e_processing_latency_percentiles = [ 1.0, 0.99 ]\n",
        dir.path().display()
    );
    std::fs::write(&file, content).unwrap();
    let node = nsqd(&["-config", &file.display().to_string()]).start();
    assert_eq!(node.http().get("/config/max_msg_size").text(), "1024768");
    node.client().publish("t", "m");
    assert!(dir.path().join("node").exists());
}

#[test]
fn versions_are_told_as_nsq_tells_them() {
    let dir = tempfile::tempdir().unwrap();
    for (program, args) in [
        ("nsqd", ["-version"].as_slice()),
        ("nsqd", &["-tcp-address=127.0.0.1:1", "--version"]),
        ("nsqlookupd", &["--version"]),
        ("nsq_tail", &["-version"]),
        ("nsq_to_file", &["--version"]),
    ] {
        let mut started = std::process::Command::new(binary::linked(program, dir.path()));
        started.args(args);
        let ended = command::run(started, b"");
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let expected = format!("{program} v1.3.0 (built w/bruit {})\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(ended.stdout, expected);
    }
}

#[test]
fn what_would_be_unsafe_to_ignore_and_what_no_nsqd_knows_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (flag, because) in [
        ("-tls-required=maybe", "tls-required"),
        ("-tcp-adress=:1", "tcp-address"),
        ("-max-msg-size=-1", "max-msg-size"),
        ("-msg-timeout=60", "is no duration"),
    ] {
        let mut started = std::process::Command::new(binary::linked("nsqd", dir.path()));
        started.args([flag, &data_path(&dir)]);
        let ended = command::run(started, b"");
        assert_eq!(ended.code, Some(2), "{flag}: {ended:?}");
        assert!(ended.stderr.contains(because), "{flag}: {}", ended.stderr);
    }
}

#[test]
fn several_nsqds_on_one_machine_need_no_flag_of_the_mesh() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let ports = ["-tcp-address=127.0.0.1:0", "-http-address=127.0.0.1:0"];
    let nodes: Vec<Node> = dirs.iter().map(|dir| nsqd(&ports).arg(data_path(dir)).start()).collect();
    let said = nodes.iter().filter(|node| node.log().contains("this node takes a free port instead"));
    assert!(said.count() >= 2, "at most one of them has port 4160");
    for node in &nodes {
        node.client().publish("t", "m");
        assert_eq!(node.alive().len(), 1, "nobody joins who was not told to");
    }
}

#[test]
fn messages_that_an_nsqd_left_behind_are_mentioned() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("t:c.diskqueue.000000.dat"), "x").unwrap();
    let ports = ["-tcp-address=127.0.0.1:0", "-http-address=127.0.0.1:0", "-gossip-address=127.0.0.1:0"];
    let node = nsqd(&ports).arg(data_path(&dir)).start();
    assert!(node.log().contains("files of messages that an nsqd left there"), "{}", node.log());
    node.client().publish("t", "m");
}

fn lookupd() -> Options {
    let options = Options::new().program("nsqlookupd");
    let options = options.arg("-tcp-address=127.0.0.1:0").arg("-http-address=127.0.0.1:0");
    options
        .arg("-broadcast-address=127.0.0.1")
        .arg("-inactive-producer-timeout=5m0s")
        .arg("-tombstone-lifetime=45s")
}

#[test]
fn nsqlookupd_answers_lookups_and_nothing_else() {
    let lookupd = lookupd().start();
    assert!(lookupd.log().contains("[nsqlookupd] "), "{}", lookupd.log());
    let mut old = Registration::identified(lookupd.tcp_address(), "old.example", 5150);
    old.ok("REGISTER t c");
    assert_eq!(lookupd.producers("t"), Some(BTreeSet::from([5150])));
    let http = lookupd.http();
    assert_eq!(http.get("/info").outcome(), (200, r#"{"version":"1.3.0"}"#.to_owned()));
    assert_eq!(http.get("/ping").outcome(), (200, "OK".to_owned()));
    assert_eq!(http.post("/pub?topic=t", "m").status, 404);
    assert_eq!(http.get("/stats").status, 404);
    http.post_ok("/channel/create?topic=u&channel=c", "");
    assert_eq!(http.get("/channels?topic=u").text(), r#"{"channels":["c"]}"#);
    let nodes = http.get("/nodes").json();
    assert_eq!(nodes["producers"].as_array().unwrap().len(), 1, "it lists itself not: {nodes}");
    let here = std::fs::read_dir(lookupd.data_path().parent().unwrap()).unwrap();
    assert_eq!(here.count(), 1, "it stores nothing, the link is all that is there");
}

#[test]
fn nsqd_and_nsqlookupd_work_together_by_their_classic_flags_alone() {
    let lookupd = lookupd().start();
    let dir = tempfile::tempdir().unwrap();
    let at = format!("-lookupd-tcp-address={}", lookupd.tcp_address());
    let ports =
        ["-tcp-address=127.0.0.1:0", "-http-address=127.0.0.1:0", "-broadcast-address=127.0.0.1", &at];
    let mut node = nsqd(&ports).arg(data_path(&dir)).start();
    node.client().publish("t", "m");
    lookupd.wait_for_producers("t", &BTreeSet::from([node.tcp_address().port()]));
    let mut consumer = node.consumer("t", "c", 1);
    assert_eq!(texts(&[consumer.message()]), ["m"]);
    lookupd.wait_for_channel_name("t", "c");
    assert!(node.terminate().success());
    lookupd.wait_for_producers("t", &BTreeSet::new());
}

#[test]
fn nsqlookupd_is_a_member_of_a_mesh_that_shows_all_of_it() {
    let seed = Node::start();
    seed.client().publish("t", "m");
    let join = format!("-join={}", seed.gossip_address());
    let lookupd = lookupd().arg("-gossip-address=127.0.0.1:0").arg(join).start();
    let port = seed.tcp_address().port();
    lookupd.wait_for_producers("t", &BTreeSet::from([port]));
    let mut old = Registration::identified(lookupd.tcp_address(), "old.example", 5150);
    old.ok("REGISTER t c");
    seed.wait_for_producers("t", &BTreeSet::from([port, 5150]));
    let nodes = seed.http().get("/nodes").json();
    assert_eq!(nodes["producers"].as_array().unwrap().len(), 2, "{nodes}");
    wait::until("the channel is made where the topic is", || seed.channel_stats("t", "c").is_some());
}
