//! The settings as a TOML file, such as nsqd's own.

use std::path::Path;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    Given, Origin, Texts,
    table::{SETTINGS, Setting, Shape},
};

/// Reads the settings in `content`, the content of the file at `path`.
///
/// # Errors
/// All keys that are unknown and all values that no setting takes, or what is wrong with the TOML.
pub(super) fn parse(path: &Path, content: &str) -> Result<Texts, Vec<String>> {
    let place = |line: usize| format!("{}:{line}", path.display());
    let table = DeTable::parse(content).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(content, span.start));
        vec![format!("{}: this is no TOML: {}", place(line), error.message())]
    })?;
    let (mut texts, mut problems) = (Texts::new(), Vec::new());
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let line = line_of(content, key.span().start);
        let name: &str = key.get_ref();
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key() == name) else {
            problems.push(format!("{}: {name} is no setting{}", place(line), suggestion(name)));
            continue;
        };
        if setting.shape == Shape::Hidden {
            let hint = "does not belong into this file: put it into one of its own and name that with";
            problems.push(format!("{}: {name} {hint} {name}_file", place(line)));
            continue;
        }
        match text(setting, value) {
            Ok(text) => {
                let origin = Origin::File { path: path.to_owned(), line };
                texts.insert(setting.name, Given { text, origin });
            }
            Err(problem) => problems.push(format!("{}: {name} {problem}", place(line))),
        }
    }
    if problems.is_empty() { Ok(texts) } else { Err(problems) }
}

/// The line, from 1, of the byte at `offset`.
fn line_of(content: &str, offset: usize) -> usize {
    content.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The value as a flag would give it.
fn text(setting: &Setting, value: &Spanned<DeValue<'_>>) -> Result<String, String> {
    let DeValue::Array(values) = value.get_ref() else { return scalar(setting, value.get_ref()) };
    if setting.shape != Shape::Many {
        return Err("takes one value, not a list".to_owned());
    }
    let texts: Result<Vec<String>, String> =
        values.iter().map(|value| scalar(setting, value.get_ref())).collect();
    Ok(texts?.join(","))
}

fn scalar(setting: &Setting, value: &DeValue<'_>) -> Result<String, String> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => {
            let number = i64::from_str_radix(number.as_str(), number.radix());
            number.map_err(|_| "is larger than this machine can count".to_owned())?.to_string()
        }
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(switch) => switch.to_string(),
        DeValue::Array(_) | DeValue::Table(_) | DeValue::Datetime(_) => {
            return Err(format!("cannot be of type {}", value.type_str()));
        }
    };
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // nsqd takes a bare number in its file, though not in its flags, for milliseconds.
    Ok(if setting.shape == Shape::Duration && is_number { text + "ms" } else { text })
}

/// The key that was probably meant.
fn suggestion(name: &str) -> String {
    let dashes = name.replace('_', "-");
    let meant = SETTINGS.iter().find(|setting| setting.name == dashes).map(Setting::key).or_else(|| {
        let distances = SETTINGS.iter().map(|setting| (distance(&setting.key(), name), setting));
        let (near, setting) = distances.min_by_key(|(distance, _)| *distance)?;
        (near <= 3).then(|| setting.key())
    });
    meant.map_or_else(String::new, |key| format!("; did you mean {key}?"))
}

/// How many characters to insert, remove or replace to make one of the other. Names are short.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(content: &str) -> Vec<(&'static str, String)> {
        let texts = parse(Path::new("f"), content).unwrap();
        texts.into_iter().map(|(name, given)| (name, given.text)).collect()
    }

    fn refusal(content: &str) -> Vec<String> {
        parse(Path::new("f"), content).unwrap_err()
    }

    #[test]
    fn a_file_of_nsqd_is_read_as_it_is() {
        let content = r#"
            ## enable verbose logging
            verbose = false
            ## unique identifier (int) for this worker
            id = 5
            tcp_address = "0.0.0.0:4150"
            nsqlookupd_tcp_addresses = [
                "127.0.0.1:4160",
                "127.0.0.1:4161"
            ]
            max_msg_size = 1_024_768
            sync_timeout = "2s"
            msg_timeout = 60000
            max_msg_timeout = "900000"
            e2e_processing_latency_percentiles = [ 1.0, 0.99 ]
        "#;
        let expected = [
            ("e2e-processing-latency-percentile", "1.0,0.99"),
            ("lookupd-tcp-address", "127.0.0.1:4160,127.0.0.1:4161"),
            ("max-msg-size", "1024768"),
            ("max-msg-timeout", "900000ms"),
            ("msg-timeout", "60000ms"),
            ("node-id", "5"),
            ("sync-timeout", "2s"),
            ("tcp-address", "0.0.0.0:4150"),
            ("verbose", "false"),
        ];
        assert_eq!(texts(content), expected.map(|(name, text)| (name, text.to_owned())));
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_its_line() {
        assert_eq!(
            refusal("tcp_adress = \":1\"\n\ntcp-address = \":2\"\nqwertyuiop = 1"),
            [
                "f:1: tcp_adress is no setting; did you mean tcp_address?",
                "f:3: tcp-address is no setting; did you mean tcp_address?",
                "f:4: qwertyuiop is no setting",
            ]
        );
        assert_eq!(refusal("[limits]\nmax_rdy_count = 1"), ["f:1: limits is no setting"]);
        assert_eq!(
            refusal("cluster_secret = \"abc\""),
            ["f:1: cluster_secret does not belong into this file: put it into one of its own and name that \
              with cluster_secret_file"]
        );
        assert_eq!(refusal("node_id = 1"), ["f:1: node_id is no setting; did you mean id?"]);
    }

    #[test]
    fn values_of_the_wrong_kind_are_errors() {
        assert_eq!(refusal("max_rdy_count = [1]"), ["f:1: max_rdy_count takes one value, not a list"]);
        assert_eq!(refusal("max_rdy_count = {a=1}"), ["f:1: max_rdy_count cannot be of type table"]);
        assert_eq!(refusal("topic_durability = [[1]]"), ["f:1: topic_durability cannot be of type array"]);
        assert_eq!(refusal("id = 99999999999999999999"), ["f:1: id is larger than this machine can count"]);
    }

    #[test]
    fn what_is_no_toml_says_where() {
        let problems = refusal("max_rdy_count = 1\nmax_rdy_count 2\n");
        assert!(problems[0].starts_with("f:2: this is no TOML: "), "{problems:?}");
    }
}
