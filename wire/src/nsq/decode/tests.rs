//! What nsqd does with each command, to the byte and to the letter.

use super::*;
use crate::nsq::*;

pub(super) const ID: &[u8; 16] = b"0123456789abcdef";

pub(super) const RULES: Rules = Rules {
    phase: Phase::Init,
    heartbeats: true,
    max_msg_size: 1_048_576,
    max_body_size: 5_242_880,
    max_rdy_count: 2500,
    max_req_timeout_ms: 3_600_000,
    max_defer_timeout_ms: 3_600_000,
};

const SUBSCRIBED: Rules = Rules { phase: Phase::Subscribed, ..RULES };
const CLOSING: Rules = Rules { phase: Phase::Closing, ..RULES };
const INSECURE: Rules = Rules { phase: Phase::Insecure, ..RULES };

#[test]
fn without_the_tls_that_is_insisted_on_nothing_but_identify_is_heard() {
    for line in ["NOP", "PUB t", "PUB", "SUB t c", "RDY 1", "FIN 0123456789abcdef", "CLS", "AUTH", "what", ""]
    {
        let input = format!("{line}\n");
        let refused = Decoder::new().decode(input.as_bytes(), &INSECURE);
        let word = line.split(' ').next().unwrap();
        let text = format!("E_INVALID cannot {word} in current state (TLS required)");
        assert_eq!(refused.unwrap_err().to_string(), text);
    }
    let identify = Decoder::new().decode(b"IDENTIFY\n\0\0\0\x02{}", &INSECURE);
    assert!(matches!(identify, Ok(Decoded::Command { command: Command::Identify { body: b"{}" }, .. })));
}

/// The command that `input` is, in one piece.
fn command(input: &[u8], rules: Rules) -> Command<'_> {
    match Decoder::new().decode(input, &rules) {
        Ok(Decoded::Command { command, consumed }) => {
            assert_eq!(consumed, input.len());
            command
        }
        other => panic!("{other:?} for {:?}", String::from_utf8_lossy(input)),
    }
}

/// The text of the error that `input` is, which must be so with its last byte and not before.
fn error(input: impl AsRef<[u8]>, rules: Rules) -> String {
    let input = input.as_ref();
    let mut decoder = Decoder::new();
    for cut in 0..input.len() {
        assert!(matches!(decoder.decode(&input[..cut], &rules), Ok(Decoded::Need(_))), "early at {cut}");
    }
    let error = decoder.decode(input, &rules).unwrap_err();
    assert!(error.fatal);
    assert_eq!(Decoder::new().decode(input, &rules).unwrap_err(), error);
    error.to_string()
}

/// What is owed if the client leaves after `input`.
fn interrupted(input: impl AsRef<[u8]>, rules: Rules) -> Option<String> {
    match Decoder::new().decode(input.as_ref(), &rules) {
        Ok(Decoded::Need(need)) => need.interrupted().map(|error| error.to_string()),
        other => panic!("{other:?}"),
    }
}

fn sized(line: &str, sizes: &[i32]) -> Vec<u8> {
    let mut bytes = line.as_bytes().to_vec();
    bytes.push(b'\n');
    sizes.iter().for_each(|size| bytes.extend_from_slice(&size.to_be_bytes()));
    bytes
}

#[test]
fn golden_commands() {
    assert_eq!(command(b"IDENTIFY\n\x00\x00\x00\x02{}", RULES), Command::Identify { body: b"{}" });
    assert_eq!(command(b"AUTH\n\x00\x00\x00\x01s", RULES), Command::Auth { secret: b"s" });
    assert_eq!(command(b"PUB t\n\x00\x00\x00\x02hi", RULES), Command::Publish { topic: "t", body: b"hi" });
    assert_eq!(
        command(b"DPUB t 1500\n\x00\x00\x00\x01x", RULES),
        Command::DeferredPublish { topic: "t", delay_ms: 1500, body: b"x" }
    );
    assert_eq!(
        command(b"SUB t c#ephemeral\n", RULES),
        Command::Subscribe { topic: "t", channel: "c#ephemeral" }
    );
    assert_eq!(command(b"RDY 2500\n", SUBSCRIBED), Command::Ready { count: 2500 });
    assert_eq!(command(b"FIN 0123456789abcdef\n", SUBSCRIBED), Command::Finish { id: ID });
    assert_eq!(command(b"REQ 0123456789abcdef 7\n", SUBSCRIBED), Command::Requeue { id: ID, delay_ms: 7 });
    assert_eq!(command(b"TOUCH 0123456789abcdef\n", SUBSCRIBED), Command::Touch { id: ID });
    assert_eq!(command(b"CLS\n", SUBSCRIBED), Command::Close);
    assert_eq!(command(b"NOP\n", RULES), Command::Nop);
}

#[test]
fn golden_multi_publish() {
    let input = b"MPUB t\n\x00\x00\x00\x0f\x00\x00\x00\x02\x00\x00\x00\x01a\x00\x00\x00\x02bc";
    let Command::MultiPublish { topic, messages } = command(input, RULES) else { panic!("not an MPUB") };
    assert_eq!((topic, messages.len(), messages.body_bytes()), ("t", 2, 3));
    assert_eq!(messages.iter().collect::<Vec<_>>(), [&b"a"[..], b"bc"]);
}

#[test]
fn a_multi_publish_goes_by_its_count_and_leaves_the_surplus() {
    let mut input = sized("MPUB t", &[100, 1, 1]);
    input.push(b'x');
    let consumed_expected = input.len();
    input.extend_from_slice(b"NOP\n");
    let Ok(Decoded::Command { consumed, .. }) = Decoder::new().decode(&input, &RULES) else { panic!() };
    assert_eq!(consumed, consumed_expected);
}

#[test]
fn one_carriage_return_is_stripped_and_no_more() {
    assert_eq!(command(b"PUB t\r\n\x00\x00\x00\x01x", RULES), Command::Publish { topic: "t", body: b"x" });
    assert_eq!(command(b"FIN 0123456789abcdef\r\n", SUBSCRIBED), Command::Finish { id: ID });
    assert_eq!(command(b"RDY\r\n", SUBSCRIBED), Command::Ready { count: 1 });
    assert_eq!(error("PUB t\r\r\n", RULES), "E_BAD_TOPIC PUB topic name \"t\\r\" is not valid");
    assert_eq!(error("FIN 0123456789abcde\r\n", SUBSCRIBED), "E_INVALID invalid message ID");
}

#[test]
fn surplus_parameters_are_ignored_and_empty_ones_are_kept() {
    assert_eq!(
        command(b"PUB t more of it\n\x00\x00\x00\x01x", RULES),
        Command::Publish { topic: "t", body: b"x" }
    );
    assert_eq!(command(b"FIN 0123456789abcdef more\n", SUBSCRIBED), Command::Finish { id: ID });
    assert_eq!(command(b"NOP more\n", RULES), Command::Nop);
    assert_eq!(error("PUB  t\n", RULES), "E_BAD_TOPIC PUB topic name \"\" is not valid");
    assert_eq!(error("PUB \n", RULES), "E_BAD_TOPIC PUB topic name \"\" is not valid");
    assert_eq!(error("SUB t  c\n", RULES), "E_BAD_CHANNEL SUB channel name \"\" is not valid");
}

#[test]
fn unknown_and_empty_lines_are_invalid_commands() {
    assert_eq!(error("\n", RULES), "E_INVALID invalid command ");
    assert_eq!(error("\r\n", RULES), "E_INVALID invalid command ");
    assert_eq!(error("nop\n", RULES), "E_INVALID invalid command nop");
    assert_eq!(error("PUBX t\n", RULES), "E_INVALID invalid command PUBX");
    assert_eq!(error(" PUB t\n", RULES), "E_INVALID invalid command ");
    assert_eq!(error(b"\xff t\n", RULES), "E_INVALID invalid command \u{fffd}");
}

#[test]
fn a_line_that_is_too_long_is_dropped_in_silence() {
    let line = |len: usize| [b"NOP ".repeat(len / 4).as_slice(), &b"xxx"[..len % 4]].concat();
    let mut longest = line(LINE_LEN_MAX - 1);
    longest.push(b'\n');
    assert_eq!(command(&longest, RULES), Command::Nop);
    assert_eq!(error(line(LINE_LEN_MAX), RULES), "");
    let error = Decoder::new().decode(&line(LINE_LEN_MAX), &RULES).unwrap_err();
    assert!(error.is_silent());
    // A newline that comes too late does not help.
    let mut late = line(LINE_LEN_MAX);
    late.push(b'\n');
    assert!(Decoder::new().decode(&late, &RULES).unwrap_err().is_silent());
}

#[test]
fn states_allow_what_nsqd_allows() {
    let cannot = |command: &str| format!("E_INVALID cannot {command} in current state");
    for line in ["FIN 0123456789abcdef", "FIN", "REQ", "REQ 0123456789abcdef 1", "TOUCH", "RDY x", "CLS"] {
        let word = line.split(' ').next().unwrap();
        assert_eq!(error(format!("{line}\n"), RULES), cannot(word));
    }
    for rules in [SUBSCRIBED, CLOSING] {
        for line in ["IDENTIFY", "AUTH", "AUTH x", "SUB t c", "SUB"] {
            let word = line.split(' ').next().unwrap();
            assert_eq!(error(format!("{line}\n"), rules), cannot(word));
        }
        assert_eq!(command(b"FIN 0123456789abcdef\n", rules), Command::Finish { id: ID });
        assert_eq!(command(b"TOUCH 0123456789abcdef\n", rules), Command::Touch { id: ID });
        assert_eq!(command(b"REQ 0123456789abcdef 1\n", rules), Command::Requeue { id: ID, delay_ms: 1 });
        assert!(matches!(command(b"PUB t\n\x00\x00\x00\x01x", rules), Command::Publish { .. }));
        assert_eq!(command(b"NOP\n", rules), Command::Nop);
    }
    assert_eq!(error("CLS\n", CLOSING), cannot("CLS"));
    assert_eq!(command(b"RDY 99999999\n", CLOSING), Command::Nop);
    let deaf = Rules { heartbeats: false, ..RULES };
    assert_eq!(error("SUB\n", deaf), "E_INVALID cannot SUB with heartbeats disabled");
    assert_eq!(error("SUB\n", Rules { phase: Phase::Subscribed, ..deaf }), cannot("SUB"));
}

#[test]
fn missing_parameters_are_told_in_the_words_of_nsqd() {
    for line in ["PUB", "MPUB", "DPUB", "DPUB t", "SUB", "SUB t"] {
        let word = line.split(' ').next().unwrap();
        let text = format!("E_INVALID {word} insufficient number of parameters");
        assert_eq!(error(format!("{line}\n"), RULES), text);
    }
    for line in ["FIN", "REQ", "REQ short", "TOUCH"] {
        let word = line.split(' ').next().unwrap();
        let text = format!("E_INVALID {word} insufficient number of params");
        assert_eq!(error(format!("{line}\n"), SUBSCRIBED), text);
    }
    for line in ["AUTH x", "AUTH "] {
        assert_eq!(error(format!("{line}\n"), RULES), "E_INVALID AUTH invalid number of parameters");
    }
}

#[test]
fn message_ids_are_sixteen_bytes_of_anything() {
    for id in ["", "0123456789abcde", "0123456789abcdef0"] {
        for line in [format!("FIN {id}\n"), format!("REQ {id} x\n"), format!("TOUCH {id}\n")] {
            assert_eq!(error(line, SUBSCRIBED), "E_INVALID invalid message ID");
        }
    }
    for id in [b"zzzzzzzzzzzzzzzz", b"\xff\0\x80\x7f\r\r\t~!~!~!~!~", b"0123456789abcde\xe9"] {
        let line = [b"FIN ", &id[..], b"\n"].concat();
        assert_eq!(command(&line, SUBSCRIBED), Command::Finish { id });
    }
    // Sixteen bytes up to the newline, but the id ends at the space.
    assert_eq!(error("FIN 0123456 89abcdef\n", SUBSCRIBED), "E_INVALID invalid message ID");
}

#[test]
fn ready_counts() {
    assert_eq!(command(b"RDY\n", SUBSCRIBED), Command::Ready { count: 1 });
    assert_eq!(command(b"RDY \n", SUBSCRIBED), Command::Ready { count: 0 });
    assert_eq!(command(b"RDY 0\n", SUBSCRIBED), Command::Ready { count: 0 });
    assert_eq!(command(b"RDY 0000002500\n", SUBSCRIBED), Command::Ready { count: 2500 });
    for (count, shown) in
        [("2501", "2501"), ("9223372036854775807", "9223372036854775807"), ("18446744073709551615", "-1")]
    {
        let text = format!("E_INVALID RDY count {shown} out of range 0-2500");
        assert_eq!(error(format!("RDY {count}\n"), SUBSCRIBED), text);
    }
    // Go's parser wraps around, so 2^64 is 0.
    assert_eq!(command(b"RDY 18446744073709551616\n", SUBSCRIBED), Command::Ready { count: 0 });
    for count in ["x", "-1", "+1", "1.0", "1x", "\t1"] {
        let text = format!("E_INVALID RDY could not parse count {count}");
        assert_eq!(error(format!("RDY {count}\n"), SUBSCRIBED), text);
    }
}

#[test]
fn requeue_delays_are_clamped_and_publish_delays_are_not() {
    for (delay, delay_ms) in [
        ("", 0),
        ("0", 0),
        ("3600000", 3_600_000),
        ("3600001", 3_600_000),
        ("18446744073709551615", 3_600_000),
    ] {
        let line = format!("REQ 0123456789abcdef {delay}\n");
        assert_eq!(command(line.as_bytes(), SUBSCRIBED), Command::Requeue { id: ID, delay_ms });
    }
    assert_eq!(error("REQ 0123456789abcdef -1\n", SUBSCRIBED), "E_INVALID REQ could not parse timeout -1");
    assert_eq!(error("DPUB t x\n", RULES), "E_INVALID DPUB could not parse timeout x");
    for delay in ["3600001", "18446744073709551615"] {
        let text = format!("E_INVALID DPUB timeout {delay} out of range 0-3600000");
        assert_eq!(error(format!("DPUB t {delay}\n"), RULES), text);
    }
    for (delay, delay_ms) in [("0", 0), ("", 0), ("3600000", 3_600_000)] {
        let mut input = sized(&format!("DPUB t {delay}"), &[1]);
        input.push(b'x');
        assert_eq!(command(&input, RULES), Command::DeferredPublish { topic: "t", delay_ms, body: b"x" });
    }
}

#[test]
fn names_are_checked_before_any_body() {
    for (line, text) in [
        ("PUB t#x", r#"E_BAD_TOPIC PUB topic name "t#x" is not valid"#),
        ("DPUB t#x y", r#"E_BAD_TOPIC DPUB topic name "t#x" is not valid"#),
        ("MPUB t#x", r#"E_BAD_TOPIC E_BAD_TOPIC MPUB topic name "t#x" is not valid"#),
        ("SUB t#x c#x", r#"E_BAD_TOPIC SUB topic name "t#x" is not valid"#),
        ("SUB t c#x", r#"E_BAD_CHANNEL SUB channel name "c#x" is not valid"#),
    ] {
        assert_eq!(error(format!("{line}\n"), RULES), text);
    }
    assert_eq!(error(b"PUB \xff\"\n", RULES), r#"E_BAD_TOPIC PUB topic name "\xff\"" is not valid"#);
    for name in ["a".repeat(64), "a".repeat(54) + "#ephemeral"] {
        let line = format!("SUB {name} {name}\n");
        assert_eq!(command(line.as_bytes(), RULES), Command::Subscribe { topic: &name, channel: &name });
    }
    for name in ["a".repeat(65), "a".repeat(55) + "#ephemeral", "#ephemeral".to_owned()] {
        let text = format!("E_BAD_TOPIC PUB topic name \"{name}\" is not valid");
        assert_eq!(error(format!("PUB {name}\n"), RULES), text);
    }
}

#[test]
fn lengths_are_checked_before_their_bodies() {
    for (line, limit) in [("PUB t", 1_048_576), ("DPUB t 1", 1_048_576)] {
        let word = line.split(' ').next().unwrap();
        for size in [0, -1, i32::MIN] {
            let text = format!("E_BAD_MESSAGE {word} invalid message body size {size}");
            assert_eq!(error(sized(line, &[size]), RULES), text);
        }
        for size in [limit + 1, i32::MAX] {
            let text = format!("E_BAD_MESSAGE {word} message too big {size} > {limit}");
            assert_eq!(error(sized(line, &[size]), RULES), text);
        }
        let text = format!("E_BAD_MESSAGE {word} failed to read message body");
        assert_eq!(interrupted(sized(line, &[limit]), RULES), Some(text));
    }
    for line in ["IDENTIFY", "AUTH", "MPUB t"] {
        let word = line.split(' ').next().unwrap();
        for size in [0, -1, i32::MIN] {
            let text = format!("E_BAD_BODY {word} invalid body size {size}");
            assert_eq!(error(sized(line, &[size]), RULES), text);
        }
        for size in [5_242_881, i32::MAX] {
            let text = format!("E_BAD_BODY {word} body too big {size} > 5242880");
            assert_eq!(error(sized(line, &[size]), RULES), text);
        }
        assert!(interrupted(sized(line, &[5_242_880]), RULES).is_some());
    }
}

#[test]
fn multi_publish_counts_and_lengths_are_checked() {
    for count in [0, -1, 1_048_576, i32::MAX] {
        let text = format!("E_BAD_BODY MPUB invalid message count {count}");
        assert_eq!(error(sized("MPUB t", &[100, count]), RULES), text);
    }
    assert!(interrupted(sized("MPUB t", &[100, 1_048_575]), RULES).is_some());
    for size in [0, -1] {
        let text = format!("E_BAD_MESSAGE MPUB invalid message(0) body size {size}");
        assert_eq!(error(sized("MPUB t", &[100, 2, size]), RULES), text);
        let mut second = sized("MPUB t", &[100, 2, 1]);
        second.push(b'x');
        second.extend_from_slice(&size.to_be_bytes());
        let text = format!("E_BAD_MESSAGE MPUB invalid message(1) body size {size}");
        assert_eq!(error(second, RULES), text);
    }
    for size in [1_048_577, i32::MAX] {
        let text = format!("E_BAD_MESSAGE MPUB message too big {size} > 1048576");
        assert_eq!(error(sized("MPUB t", &[100, 1, size]), RULES), text);
    }
}

#[test]
fn a_multi_publish_cannot_grow_past_the_limit_of_a_body() {
    let rules = Rules { max_body_size: 40, max_msg_size: 30, ..RULES };
    // 4 for the count, 4 + 20, 4 + 8: exactly the limit.
    let fits = |last: i32| {
        let mut input = sized("MPUB t", &[10, 2, 20]);
        input.extend_from_slice(&[b'x'; 20]);
        input.extend_from_slice(&last.to_be_bytes());
        input
    };
    assert!(interrupted(fits(8), rules).is_some());
    assert_eq!(error(fits(9), rules), "E_BAD_BODY MPUB body too big 41 > 40");
    let mut whole = fits(8);
    whole.extend_from_slice(&[b'x'; 8]);
    assert!(matches!(command(&whole, rules), Command::MultiPublish { .. }));
    let mut too_long = fits(9);
    too_long.extend_from_slice(&[b'x'; 9]);
    assert!(Decoder::new().decode(&too_long, &rules).is_err(), "although all of it is there");
    let mut third = sized("MPUB t", &[10, 3, 30]);
    third.extend_from_slice(&[b'x'; 30]);
    assert_eq!(error(third, rules), "E_BAD_BODY MPUB body too big 42 > 40");
}

#[test]
fn clients_that_stop_midway_are_told_where() {
    assert_eq!(interrupted("", RULES), None);
    assert_eq!(interrupted("PUB t", RULES), None);
    let text = |input: Vec<u8>| interrupted(input, RULES).unwrap();
    assert_eq!(text(sized("PUB t", &[])), "E_BAD_MESSAGE PUB failed to read message body size");
    assert_eq!(text(sized("PUB t", &[1])), "E_BAD_MESSAGE PUB failed to read message body");
    assert_eq!(text(sized("DPUB t 1", &[])), "E_BAD_MESSAGE DPUB failed to read message body size");
    assert_eq!(text(sized("DPUB t 1", &[1])), "E_BAD_MESSAGE DPUB failed to read message body");
    assert_eq!(text(sized("MPUB t", &[])), "E_BAD_BODY MPUB failed to read body size");
    assert_eq!(text(sized("MPUB t", &[9])), "E_BAD_BODY MPUB failed to read message count");
    assert_eq!(text(sized("MPUB t", &[9, 1])), "E_BAD_MESSAGE MPUB failed to read message(0) body size");
    assert_eq!(text(sized("MPUB t", &[9, 1, 1])), "E_BAD_MESSAGE MPUB failed to read message body");
    let mut second = sized("MPUB t", &[14, 2, 1]);
    second.push(b'x');
    assert_eq!(text(second), "E_BAD_MESSAGE MPUB failed to read message(1) body size");
    assert_eq!(text(sized("IDENTIFY", &[])), "E_BAD_BODY IDENTIFY failed to read body size");
    assert_eq!(text(sized("IDENTIFY", &[1])), "E_BAD_BODY IDENTIFY failed to read body");
    assert_eq!(text(sized("AUTH", &[])), "E_BAD_BODY AUTH failed to read body size");
    assert_eq!(text(sized("AUTH", &[1])), "E_BAD_BODY AUTH failed to read body");
}

#[test]
fn a_repeated_publish_line_is_only_taken_for_itself() {
    let mut decoder = Decoder::new();
    let mut next = |input: &[u8]| match decoder.decode(input, &RULES) {
        Ok(Decoded::Command { command: Command::Publish { topic, .. }, .. }) => topic.to_owned(),
        other => panic!("{other:?}"),
    };
    for (line, topic) in
        [("PUB a", "a"), ("PUB a", "a"), ("PUB ab", "ab"), ("PUB a", "a"), ("PUB a x", "a"), ("PUB a\r", "a")]
    {
        let mut input = sized(line, &[1]);
        input.push(b'x');
        assert_eq!(next(&input), topic);
        assert_eq!(next(&input), topic);
    }
    // Longer than is remembered: decoded all the same.
    let mut input = sized(&format!("PUB a {}", "x".repeat(200)), &[1]);
    input.push(b'x');
    assert_eq!(next(&input), "a");
    assert_eq!(next(&input), "a");
}

#[test]
fn a_repeated_publish_line_excuses_no_check() {
    let rules = Rules { max_msg_size: 3, ..RULES };
    let mut decoder = Decoder::new();
    let first = b"PUB a\n\x00\x00\x00\x01x";
    assert!(decoder.decode(first, &rules).is_ok());
    for (input, text) in [
        (&b"PUB a\n\x00\x00\x00\x04xxxx"[..], "E_BAD_MESSAGE PUB message too big 4 > 3"),
        (b"PUB a\n\x00\x00\x00\x00xxxx", "E_BAD_MESSAGE PUB invalid message body size 0"),
        (b"PUB a\n\xff\xff\xff\xffxxxx", "E_BAD_MESSAGE PUB invalid message body size -1"),
        // What follows would pass for a length, were the newline not compared.
        (b"PUB ax\x00\x00\x00\x01y\n", r#"E_BAD_TOPIC PUB topic name "ax\x00\x00\x00\x01y" is not valid"#),
    ] {
        assert_eq!(decoder.decode(input, &rules).unwrap_err().to_string(), text);
    }
}
