use super::*;
use proptest::prelude::*;

const LIMITS: IdentifyLimits = IdentifyLimits {
    heartbeat_interval: Duration::from_secs(30),
    max_heartbeat_interval: Duration::from_secs(60),
    output_buffer_size: 16384,
    max_output_buffer_size: 65536,
    output_buffer_timeout: Duration::from_millis(250),
    min_output_buffer_timeout: Duration::from_millis(25),
    max_output_buffer_timeout: Duration::from_secs(30),
    msg_timeout: Duration::from_secs(60),
    max_msg_timeout: Duration::from_secs(900),
};

const BAD_JSON: &str = "E_BAD_BODY IDENTIFY failed to decode JSON body";

fn parse(json: &str) -> Identify {
    Identify::parse(json.as_bytes(), &LIMITS).unwrap_or_else(|error| panic!("{json}: {error}"))
}

fn error(json: impl AsRef<[u8]>) -> String {
    let error = Identify::parse(json.as_ref(), &LIMITS).unwrap_err();
    assert!(error.fatal);
    error.to_string()
}

#[test]
fn an_empty_object_and_null_get_the_defaults() {
    let defaults = Identify {
        client_id: None,
        hostname: None,
        user_agent: String::new(),
        feature_negotiation: false,
        heartbeat: Some(Duration::from_secs(30)),
        output_buffer_size: 16384,
        output_buffer_timeout: Some(Duration::from_millis(250)),
        tls_v1: false,
        snappy: false,
        deflate: false,
        deflate_level: 0,
        sample_rate: 0,
        msg_timeout: Duration::from_secs(60),
        topology_region: String::new(),
        topology_zone: String::new(),
    };
    assert_eq!(parse("{}"), defaults);
    assert_eq!(parse(" null\n"), defaults);
    let nulls = r#"{"client_id":null,"hostname":null,"user_agent":null,"feature_negotiation":null,
        "heartbeat_interval":null,"output_buffer_size":null,"output_buffer_timeout":null,"tls_v1":null,
        "snappy":null,"deflate":null,"deflate_level":null,"sample_rate":null,"msg_timeout":null,
        "topology_region":null,"topology_zone":null}"#;
    assert_eq!(parse(nulls), defaults);
}

#[test]
fn every_field_is_read() {
    let identify = parse(
        r#"{"client_id":"c","hostname":"h","user_agent":"u/1","feature_negotiation":true,
        "heartbeat_interval":1000,"output_buffer_size":64,"output_buffer_timeout":25,"tls_v1":true,
        "snappy":true,"deflate":true,"deflate_level":3,"sample_rate":99,"msg_timeout":900000,
        "topology_region":"r","topology_zone":"z","short_id":"s","long_id":{"any":[1.5,"\ud800"]}}"#,
    );
    let expected = Identify {
        client_id: Some("c".to_owned()),
        hostname: Some("h".to_owned()),
        user_agent: "u/1".to_owned(),
        feature_negotiation: true,
        heartbeat: Some(Duration::from_secs(1)),
        output_buffer_size: 64,
        output_buffer_timeout: Some(Duration::from_millis(25)),
        tls_v1: true,
        snappy: true,
        deflate: true,
        deflate_level: 3,
        sample_rate: 99,
        msg_timeout: Duration::from_secs(900),
        topology_region: "r".to_owned(),
        topology_zone: "z".to_owned(),
    };
    assert_eq!(identify, expected);
}

#[test]
fn keys_match_in_any_case_and_the_last_that_is_not_null_wins() {
    assert_eq!(parse(r#"{"CLIENT_ID":"a"}"#).client_id.as_deref(), Some("a"));
    assert_eq!(parse(r#"{"ho\u017ftname":"a"}"#).hostname.as_deref(), Some("a"));
    assert_eq!(
        parse(r#"{"client_id":"a","Client_Id":"b","client_id":null}"#).client_id.as_deref(),
        Some("b")
    );
    assert_eq!(parse(r#"{"sample_rate":500,"sample_rate":5}"#).sample_rate, 5);
}

#[test]
fn wrong_types_and_broken_json_are_refused() {
    for json in [
        "",
        "[]",
        "1",
        "\"x\"",
        "true",
        "{",
        "{}x",
        "{} {}",
        r#"{"client_id":1}"#,
        r#"{"client_id":["a"]}"#,
        r#"{"hostname":{}}"#,
        r#"{"feature_negotiation":1}"#,
        r#"{"feature_negotiation":"true"}"#,
        r#"{"heartbeat_interval":"1000"}"#,
        r#"{"heartbeat_interval":30000.0}"#,
        r#"{"heartbeat_interval":3e4}"#,
        r#"{"heartbeat_interval":true}"#,
        r#"{"heartbeat_interval":9223372036854775808}"#,
        r#"{"sample_rate":2147483648}"#,
        r#"{"msg_timeout":0.5}"#,
        r#"{"unknown":}"#,
        r#"{"client_id":"a",}"#,
        r#"{'client_id':"a"}"#,
    ] {
        assert_eq!(error(json), BAD_JSON, "{json}");
    }
    assert_eq!(error(b"{\"client_id\":\xff}"), BAD_JSON);
    let identify = Identify::parse(b"{\"client_id\":\"a\xff\"}", &LIMITS).unwrap();
    assert_eq!(identify.client_id.as_deref(), Some("a\u{fffd}"));
}

#[test]
fn deep_nesting_is_skipped_or_refused_and_never_a_crash() {
    let deep = "[".repeat(1_000_000);
    assert_eq!(error(format!("{{\"unknown\":{deep}")), BAD_JSON);
    assert_eq!(error(format!("{{\"client_id\":{deep}")), BAD_JSON);
    assert_eq!(error(deep), BAD_JSON);
}

#[test]
fn values_out_of_bounds_are_named() {
    for (key, phrase, bad) in [
        ("heartbeat_interval", "heartbeat interval", &[-2, 1, 999, 60_001, i64::MIN, i64::MAX][..]),
        ("output_buffer_timeout", "output buffer timeout", &[-2, 24, 30_001, i64::MAX]),
        ("output_buffer_size", "output buffer size", &[-2, 1, 63, 65_537, i64::MIN]),
        ("sample_rate", "sample rate", &[-1, 100, i32::MIN.into(), i32::MAX.into()]),
        ("msg_timeout", "msg timeout", &[-1, 1, 999, 900_001, i64::MAX]),
    ] {
        for value in bad {
            let json = format!("{{\"{key}\":{value}}}");
            assert_eq!(error(json), format!("E_BAD_BODY IDENTIFY {phrase} ({value}) is invalid"));
        }
    }
}

#[test]
fn values_at_their_bounds_are_granted() {
    for ms in [1000, 60_000] {
        let heartbeat = parse(&format!("{{\"heartbeat_interval\":{ms}}}")).heartbeat;
        assert_eq!(heartbeat, Some(Duration::from_millis(ms)));
        let msg_timeout = parse(&format!("{{\"msg_timeout\":{ms}}}")).msg_timeout;
        assert_eq!(msg_timeout, Duration::from_millis(ms));
    }
    for ms in [25, 30_000] {
        let timeout = parse(&format!("{{\"output_buffer_timeout\":{ms}}}")).output_buffer_timeout;
        assert_eq!(timeout, Some(Duration::from_millis(ms)));
    }
    for size in [64, 65_536] {
        assert_eq!(parse(&format!("{{\"output_buffer_size\":{size}}}")).output_buffer_size, size);
    }
    assert_eq!(parse(r#"{"deflate_level":-7}"#).deflate_level, -7);
}

#[test]
fn minus_one_turns_things_off() {
    assert_eq!(parse(r#"{"heartbeat_interval":-1}"#).heartbeat, None);
    let identify = parse(r#"{"output_buffer_timeout":-1}"#);
    assert_eq!((identify.output_buffer_size, identify.output_buffer_timeout), (16384, None));
    let identify = parse(r#"{"output_buffer_size":-1,"output_buffer_timeout":100}"#);
    assert_eq!((identify.output_buffer_size, identify.output_buffer_timeout), (1, None));
}

#[test]
fn the_first_bad_value_in_order_is_the_one_told() {
    let mut bad: Vec<_> =
        ["msg_timeout", "sample_rate", "output_buffer_size", "output_buffer_timeout", "heartbeat_interval"]
            .map(|key| format!("\"{key}\":-5"))
            .into();
    for phrase in
        ["heartbeat interval", "output buffer timeout", "output buffer size", "sample rate", "msg timeout"]
    {
        let text = error(format!("{{{}}}", bad.join(",")));
        assert_eq!(text, format!("E_BAD_BODY IDENTIFY {phrase} (-5) is invalid"));
        bad.pop();
    }
}

#[test]
fn golden_reply() {
    let reply = IdentifyReply {
        max_rdy_count: 2500,
        version: "1.3.0",
        max_msg_timeout: 900_000,
        msg_timeout: 60_000,
        tls_v1: false,
        deflate: false,
        deflate_level: 6,
        max_deflate_level: 6,
        snappy: false,
        sample_rate: 0,
        auth_required: false,
        output_buffer_size: 16384,
        output_buffer_timeout: 250,
        topology_region: "",
        topology_zone: "",
    };
    assert_eq!(
        String::from_utf8(reply.to_json()).unwrap(),
        r#"{"max_rdy_count":2500,"version":"1.3.0","max_msg_timeout":900000,"msg_timeout":60000,"tls_v1":false,"deflate":false,"deflate_level":6,"max_deflate_level":6,"snappy":false,"sample_rate":0,"auth_required":false,"output_buffer_size":16384,"output_buffer_timeout":250,"topology_region":"","topology_zone":""}"#
    );
}

proptest! {
    #[test]
    fn any_bytes_parse_without_panic(bytes: Vec<u8>) {
        let _ = Identify::parse(&bytes, &LIMITS).is_ok();
    }

    #[test]
    fn any_number_is_granted_within_bounds_or_refused(value: i64) {
        for key in ["heartbeat_interval", "output_buffer_size", "output_buffer_timeout", "msg_timeout"] {
            if let Ok(identify) = Identify::parse(format!("{{\"{key}\":{value}}}").as_bytes(), &LIMITS) {
                prop_assert!(identify.heartbeat.is_none_or(|h| h <= LIMITS.max_heartbeat_interval));
                prop_assert!(identify.output_buffer_size <= LIMITS.max_output_buffer_size);
                prop_assert!(identify.msg_timeout <= LIMITS.max_msg_timeout);
            }
        }
    }
}
