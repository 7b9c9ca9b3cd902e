//! Any reply of an authorisation server is refused, or allows what it says in few words and for some time.
#![no_main]

use bruit_wire::auth::{Grant, Pattern, REPLY_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    match Grant::parse(body) {
        Ok(grant) => {
            assert!(body.len() <= REPLY_MAX && grant.ttl.as_secs() > 0);
            assert!(grant.identity.len() <= 1024 && grant.identity_url.len() <= 1024);
            assert!(grant.authorizations.len() <= 4096);
            for topic in ["", "t", "orders.new", "t#ephemeral"] {
                // Who may consume a topic may look it up.
                let channels = ["", "c", "c#ephemeral"];
                if channels.iter().any(|channel| grant.may_subscribe(topic, channel)) {
                    assert!(grant.may_look_up(topic));
                }
                let _ = grant.may_publish(topic);
            }
            let answer = grant.to_json();
            assert!(answer.starts_with(b"{\"identity\":"));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    // A pattern by itself says the same however often it is asked, and ends.
    if let Ok(text) = std::str::from_utf8(body)
        && let Ok(pattern) = Pattern::new(text)
    {
        assert_eq!(pattern.matches("orders"), pattern.clone().matches("orders"));
    }
});
