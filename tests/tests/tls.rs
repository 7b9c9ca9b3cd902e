//! TLS over TCP: how it begins, who may come, and what is refused without it (NSQ reference, section 2.9).

use bruit_tests::{Client, FrameKind, Node, Packing, certificates::Authority, command, frame_bytes, wait};

const ASK: &str = r#"{"feature_negotiation":true,"tls_v1":true}"#;

/// A client that asked for TLS and was granted it, before the handshake.
fn granted(node: &Node) -> Client {
    let mut client = node.client();
    let answer = client.identify(ASK);
    assert!(answer.contains(r#""tls_v1":true"#), "{answer}");
    client
}

#[test]
fn messages_travel_inside_of_tls_whatever_else_is_negotiated() {
    let authority = Authority::new("authority");
    let node = authority.options().start();
    for packing in [Packing::None, Packing::Snappy, Packing::Deflate] {
        let topic = format!("{packing:?}");
        let (mut producer, mut consumer) = (node.client(), node.client());
        for client in [&mut producer, &mut consumer] {
            client.negotiate(Some(&authority.client(None)), packing);
        }
        consumer.subscribe(&topic, "c");
        consumer.ready(10);
        // Longer than a record of TLS and a chunk of snappy, and hard to compress.
        let noise: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for body in [b"small".to_vec(), noise, vec![b'x'; 500_000]] {
            producer.publish(&topic, &body);
            let message = consumer.message();
            assert_eq!((message.attempts, &message.body), (1, &body));
            consumer.requeue(&message.id, 0);
            let again = consumer.message();
            assert_eq!((again.attempts, again.id, again.body), (2, message.id.clone(), body));
            consumer.finish(&message.id);
        }
        node.wait_for(&topic, "c", "depth", 0);
        node.wait_for(&topic, "c", "in_flight_count", 0);
    }
}

#[test]
fn each_layer_says_ok_once_and_nothing_else() {
    let authority = Authority::new("authority");
    let node = authority.options().start();
    for packing in [Packing::None, Packing::Snappy, Packing::Deflate] {
        let mut client = node.client();
        client.negotiate(Some(&authority.client(None)), packing);
        // Another OK would come before this.
        client.send("FOO\n");
        client.expect_fatal("E_INVALID invalid command FOO");
    }
}

#[test]
fn without_negotiation_no_layer_begins_whatever_is_asked_for() {
    let authority = Authority::new("authority");
    let node = authority.options().start();
    for body in [
        r#"{"feature_negotiation":false,"tls_v1":true}"#,
        r#"{"tls_v1":true,"snappy":true}"#,
        r#"{"tls_v1":true,"snappy":true,"deflate":true}"#,
    ] {
        let mut client = node.client();
        client.send([command("IDENTIFY", body.as_bytes()), command("PUB t", b"in plain text")].concat());
        let two = frame_bytes(FrameKind::Response, "OK").repeat(2);
        assert_eq!(client.raw_bytes(two.len()), two, "{body}");
    }
}

#[test]
fn stats_show_how_a_client_is_connected() {
    let authority = Authority::new("authority");
    let node = authority.options().start();
    for (version, name) in [(&rustls::version::TLS12, "TLS1.2"), (&rustls::version::TLS13, "TLS1.3")] {
        let mut consumer = node.client();
        consumer.negotiate(Some(&authority.client_of(&[version], None)), Packing::Snappy);
        consumer.subscribe(name, "c");
        let stats = node.channel_stats(name, "c").expect("the channel exists");
        let client = &stats["clients"][0];
        assert_eq!((&client["tls"], &client["tls_version"]), (&true.into(), &name.into()), "{client}");
        assert!(
            client["tls_cipher_suite"].as_str().is_some_and(|suite| suite.starts_with("TLS_")),
            "{client}"
        );
        assert_eq!((&client["snappy"], &client["deflate"]), (&true.into(), &false.into()), "{client}");
    }
}

#[test]
fn what_was_sent_in_clear_text_is_not_taken_for_what_is_protected() {
    let authority = Authority::new("authority");
    let node = authority.options().start();
    let mut client = node.silent_client();
    let identify = command("IDENTIFY", ASK.as_bytes());
    let smuggled = command("PUB smuggled", b"by who sits between");
    client.send([b"  V2", &identify[..], &smuggled].concat());
    assert_eq!(client.frame().kind, FrameKind::Response);
    client.handshake(&authority.client(None)).expect("the handshake goes well");
    client.expect_ok();
    client.publish("real", "one");
    assert_eq!(node.topic_stats("smuggled"), None);
}

#[test]
fn nothing_but_identify_is_heard_without_the_tls_that_is_required() {
    let authority = Authority::new("authority");
    let node = authority.options().arg("--tls-required").start();
    for line in ["NOP", "PUB t", "SUB t c", "FIN 0123456789abcdef", "what", ""] {
        let word = line.split(' ').next().unwrap_or_default();
        let mut client = node.client();
        client.send(format!("{line}\n"));
        client.expect_fatal(&format!("E_INVALID cannot {word} in current state (TLS required)"));
    }
    for packing in [Packing::None, Packing::Snappy, Packing::Deflate] {
        let mut identified = node.client();
        identified.negotiate(None, packing);
        identified.send("NOP\n");
        identified.expect_fatal("E_INVALID cannot NOP in current state (TLS required)");
    }
    let mut secure = node.client();
    secure.negotiate(Some(&authority.client(None)), Packing::Deflate);
    secure.publish("t", "protected");
}

#[test]
fn a_handshake_that_is_none_is_named_and_others_are_served() {
    let authority = Authority::new("authority");
    let node = authority.options().start();
    let mut client = granted(&node);
    client.send(b"this is no handshake, but long enough to be looked at");
    let rest = client.raw_rest();
    // An alert, and then what NSQ says, in clear text.
    assert_eq!(rest.first(), Some(&21), "{rest:?}");
    let text = String::from_utf8_lossy(&rest).into_owned();
    assert!(text.contains("E_IDENTIFY_FAILED IDENTIFY failed "), "{text:?}");
    let mut other = node.client();
    other.negotiate(Some(&authority.client(None)), Packing::None);
    other.publish("t", "served");
}

#[test]
fn a_client_that_stops_in_the_middle_of_its_handshake_is_given_up() {
    let authority = Authority::new("authority");
    let node = authority.options().start();
    // The beginning of a ClientHello, and one that says nothing at all.
    for begun in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..], b""] {
        let mut client = granted(&node);
        client.send(begun);
        let rest = String::from_utf8_lossy(&client.raw_rest()).into_owned();
        assert!(
            rest.contains("E_IDENTIFY_FAILED IDENTIFY failed the TLS handshake takes too long"),
            "{rest:?}"
        );
    }
    // One that goes away leaves nothing behind.
    drop(granted(&node));
    node.client().publish("t", "served");
}

#[test]
fn any_certificate_will_do_where_one_is_required() {
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    let node = authority.options().arg("--tls-client-auth-policy=require").start();
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let mut known = node.client();
        let certified = stranger.certify("client");
        known.negotiate(Some(&authority.client_of(versions, Some(&certified))), Packing::None);
        known.publish("t", "with a certificate");
        refused(&node, &authority.client_of(versions, None));
    }
    // The policy implies that TLS is required.
    let mut plain = node.client();
    plain.send("NOP\n");
    plain.expect_fatal("E_INVALID cannot NOP in current state (TLS required)");
}

#[test]
fn a_certificate_has_to_come_from_the_authority_where_it_is_verified() {
    let (authority, stranger) = (Authority::new("authority"), Authority::new("stranger"));
    let options = authority.options().arg("--tls-client-auth-policy=require-verify");
    let node = options.arg(format!("--tls-root-ca-file={}", authority.file().display())).start();
    for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let mut known = node.client();
        let certified = authority.certify("client");
        known.negotiate(Some(&authority.client_of(versions, Some(&certified))), Packing::None);
        known.publish("t", "with a good certificate");
        refused(&node, &authority.client_of(versions, None));
        refused(&node, &authority.client_of(versions, Some(&stranger.certify("client"))));
    }
}

/// A client with this configuration does not get through its handshake.
fn refused(node: &Node, config: &std::sync::Arc<rustls::ClientConfig>) {
    let mut client = granted(node);
    // With TLS 1.3 the client's part ends before its certificate has been looked at.
    if client.handshake(config).is_ok() {
        assert_eq!(client.frame_or_end(), None, "no OK");
    }
}

#[test]
fn a_version_older_than_the_oldest_is_refused() {
    let authority = Authority::new("authority");
    let node = authority.options().arg("--tls-min-version=tls1.3").start();
    refused(&node, &authority.client_of(&[&rustls::version::TLS12], None));
    let mut client = node.client();
    client.negotiate(Some(&authority.client_of(&[&rustls::version::TLS13], None)), Packing::None);
    client.publish("t", "new enough");
}

#[test]
fn a_new_certificate_is_taken_at_sighup_and_a_bad_one_is_not() {
    let authority = Authority::new("authority");
    let node = authority.options().start();
    let config = authority.client(None);
    let shown = || {
        let mut client = node.client();
        client.negotiate(Some(&config), Packing::None);
        client.certificate().expect("it was shown")
    };
    let mut early = node.client();
    early.negotiate(Some(&config), Packing::None);
    let first = shown();
    // Takes the place of the files.
    let second = authority.certify("node");
    assert_eq!(shown(), first, "nothing happens by itself");
    node.signal("HUP");
    wait::until("the new certificate is shown", || shown() == second.certificate.to_vec());
    early.publish("t", "connections that are open stay");

    std::fs::write(&second.cert_file, "no certificate").expect("a file can be written");
    node.signal("HUP");
    wait::until("the node says what is wrong", || node.log().contains("the one before stays in use"));
    assert!(node.log().contains("--tls-cert"), "{}", node.log());
    assert_eq!(shown(), second.certificate.to_vec());

    let third = authority.certify("node");
    node.signal("HUP");
    wait::until("the third certificate is shown", || shown() == third.certificate.to_vec());
}

#[test]
fn files_that_cannot_serve_stop_the_start_with_a_sentence() {
    let authority = Authority::new("authority");
    let (one, other) = (authority.certify("one"), authority.certify("other"));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let nothing = directory.path().join("nothing.pem");
    std::fs::write(&nothing, "nothing").expect("a file can be written");
    for (cert, key, because) in [
        (&nothing, &one.key_file, "no certificate in PEM form is in it"),
        (&one.cert_file, &nothing, "no private key in PEM form is in it"),
        (&one.cert_file, &other.key_file, "it is not the key of the certificate in --tls-cert"),
        (&one.cert_file, &directory.path().join("absent"), "cannot read --tls-key"),
    ] {
        let options = authority.options().data_path(directory.path().join("data"));
        let options = options.arg(format!("--tls-cert={}", cert.display()));
        let (status, log) = options.arg(format!("--tls-key={}", key.display())).start_refused();
        assert!(!status.success() && log.contains(because), "{because}: {log}");
    }
}
