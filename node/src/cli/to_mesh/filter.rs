//! Which messages go on, and how much of them.

use bytes::Bytes;
use clap::Args;
use serde_json::{Map, Value};

/// Flags that choose.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// Only messages that are JSON objects with this field; the others are finished
    #[arg(long, value_name = "FIELD")]
    require_json_field: Option<String>,
    /// And only with this value in it, a text or a number; those without the field are tried again
    #[arg(long, value_name = "VALUE", requires = "require_json_field")]
    require_json_value: Option<String>,
    /// Only this field goes on; may be given several times
    #[arg(long, value_name = "FIELD")]
    whitelist_json_field: Vec<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Filter {
    field: Option<String>,
    value: Option<String>,
    kept: Vec<String>,
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on, with this body.
    Pass(Bytes),
    /// It is finished here.
    Drop,
    /// It is delivered again.
    Retry,
}

impl Filter {
    pub(super) fn new(args: &FilterArgs) -> Self {
        Self {
            field: args.require_json_field.clone(),
            value: args.require_json_value.clone(),
            kept: args.whitelist_json_field.clone(),
        }
    }

    /// What becomes of a message with this body.
    pub(super) fn judge(&self, body: &Bytes) -> Verdict {
        if self.field.is_none() && self.kept.is_empty() {
            return Verdict::Pass(body.clone());
        }
        let Ok(Value::Object(object)) = serde_json::from_slice(body) else {
            eprintln!("bruit: a message is no JSON object, and is left out");
            return Verdict::Drop;
        };
        if let Some(field) = &self.field {
            match (object.get(field), &self.value) {
                (None, Some(_)) => {
                    eprintln!("bruit: a message lacks the field {field}, and is tried again");
                    return Verdict::Retry;
                }
                (None, None) => return Verdict::Drop,
                (Some(found), Some(wanted)) if !is_value(found, wanted) => return Verdict::Drop,
                (Some(_), _) => {}
            }
        }
        if self.kept.is_empty() {
            return Verdict::Pass(body.clone());
        }
        let kept = self.kept.iter().filter_map(|field| Some((field.clone(), object.get(field)?.clone())));
        let kept: Map<String, Value> = kept.collect();
        Verdict::Pass(Value::Object(kept).to_string().into())
    }
}

fn is_value(found: &Value, wanted: &str) -> bool {
    match found {
        Value::String(text) => text == wanted,
        Value::Number(number) => {
            number.as_f64().zip(wanted.parse().ok()).is_some_and(|(a, b): (f64, f64)| a == b)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(field: Option<&str>, value: Option<&str>, kept: &[&str], body: &str) -> Verdict {
        let filter = Filter {
            field: field.map(str::to_owned),
            value: value.map(str::to_owned),
            kept: kept.iter().map(|&field| field.to_owned()).collect(),
        };
        filter.judge(&Bytes::copy_from_slice(body.as_bytes()))
    }

    fn pass(body: &'static str) -> Verdict {
        Verdict::Pass(Bytes::from_static(body.as_bytes()))
    }

    #[test]
    fn messages_are_chosen_and_cut_as_nsq_to_nsq_does() {
        assert_eq!(judge(None, None, &[], "no json"), pass("no json"));
        let body = r#"{"a":"x","b":2,"c":null}"#;
        assert_eq!(judge(Some("a"), None, &[], body), pass(r#"{"a":"x","b":2,"c":null}"#));
        assert_eq!(judge(Some("z"), None, &[], body), Verdict::Drop);
        assert_eq!(judge(Some("z"), Some("1"), &[], body), Verdict::Retry);
        assert_eq!(judge(Some("a"), Some("x"), &["b"], body), pass(r#"{"b":2}"#));
        assert_eq!(judge(Some("a"), Some("y"), &["b"], body), Verdict::Drop);
        assert_eq!(judge(Some("b"), Some("2.0"), &["a", "z"], body), pass(r#"{"a":"x"}"#));
        for noise in ["no json", "[1]", ""] {
            assert_eq!(judge(Some("a"), None, &[], noise), Verdict::Drop, "{noise}");
        }
    }
}
