//! Any body of IDENTIFY is refused or granted something within the limits.
#![no_main]

use bruit_wire::nsq::{Identify, IdentifyLimits};
use libfuzzer_sys::fuzz_target;
use std::time::Duration;

fuzz_target!(|body: &[u8]| {
    let limits = IdentifyLimits {
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
    match Identify::parse(body, &limits) {
        Ok(identify) => {
            assert!(identify.heartbeat.is_none_or(|interval| interval <= limits.max_heartbeat_interval));
            assert!((1..=limits.max_output_buffer_size).contains(&identify.output_buffer_size));
            assert!(identify.msg_timeout <= limits.max_msg_timeout);
            assert!(identify.sample_rate <= 99);
        }
        Err(error) => assert!(error.fatal && error.code == "E_BAD_BODY"),
    }
});
