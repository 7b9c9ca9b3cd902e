//! The parameters of a request. NSQ takes them from the query string only, by Go's rules.

use axum::http::Uri;

use super::reply::ApiError;

/// A query string that decodes throughout.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query(String);

impl Query {
    /// The parameters of `uri`.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when any part of the query holds a `;` or a broken escape, even a part that nobody
    /// asks for.
    pub(super) fn of(uri: &Uri) -> Result<Self, ApiError> {
        Self::parse(uri.query().unwrap_or_default()).ok_or(ApiError::bad("INVALID_REQUEST"))
    }

    /// The first value of `key`; later ones do not count. `None` when the key is absent, `Some("")` when it
    /// has no value.
    pub(super) fn first(&self, key: &str) -> Option<String> {
        pairs(&self.0)
            .filter_map(|(k, v)| Some((unescape(k)?, v)))
            .find(|(k, _)| k == key)
            .and_then(|(_, v)| unescape(v))
    }

    /// A yes-or-no parameter: `true`, `1`, `false`, `0`; absent or anything else gives `default`.
    pub(super) fn flag(&self, key: &str, default: bool) -> bool {
        match self.first(key).as_deref() {
            Some("true" | "1") => true,
            Some("false" | "0") => false,
            _ => default,
        }
    }

    fn parse(raw: &str) -> Option<Self> {
        let valid = pairs(raw).all(|(k, v)| unescape(k).is_some() && unescape(v).is_some());
        (valid && !raw.contains(';')).then(|| Self(raw.to_owned()))
    }
}

/// The still escaped keys and values of a query string.
fn pairs(raw: &str) -> impl Iterator<Item = (&str, &str)> {
    raw.split('&').filter(|part| !part.is_empty()).map(|part| part.split_once('=').unwrap_or((part, "")))
}

/// Resolves `%41` and `+`. `None` when an escape is broken. Bytes that are not UTF-8 become U+FFFD, which
/// no valid name contains.
fn unescape(escaped: &str) -> Option<String> {
    if !escaped.contains(['%', '+']) {
        return Some(escaped.to_owned());
    }
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex_digit(rest.next()?)? << 4 | hex_digit(rest.next()?)?,
            b'+' => b' ',
            other => other,
        });
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(raw: &str, key: &str) -> Option<String> {
        Query::parse(raw).and_then(|query| query.first(key))
    }

    #[test]
    fn the_first_of_repeated_keys_counts() {
        assert_eq!(first("topic=a&topic=b", "topic").as_deref(), Some("a"));
        assert_eq!(first("topic&topic=b", "topic").as_deref(), Some(""));
    }

    #[test]
    fn an_absent_key_differs_from_an_empty_one() {
        assert_eq!(first("topic=", "topic").as_deref(), Some(""));
        assert_eq!(first("&&topics=a&", "topic"), None);
        assert_eq!(first("", "topic"), None);
    }

    #[test]
    fn escapes_are_resolved_in_keys_and_values() {
        assert_eq!(first("%74opic=a%23ephemeral", "topic").as_deref(), Some("a#ephemeral"));
        assert_eq!(first("a=b+c%2B=d", "a").as_deref(), Some("b c+=d"));
        assert_eq!(first("a=%ff", "a").as_deref(), Some("\u{fffd}"));
    }

    #[test]
    fn a_semicolon_or_a_broken_escape_spoils_the_whole_query() {
        for raw in ["topic=a;b=c", "topic=a&x=;", "topic=a&x=%", "topic=a&x=%4", "topic=a&%zz", "x=%+1"] {
            assert_eq!(Query::parse(raw), None, "{raw}");
        }
        assert_eq!(first("topic=a&x=%3B", "x").as_deref(), Some(";"));
    }

    #[test]
    fn only_four_words_are_flags() {
        for (raw, expected) in
            [("f=1", true), ("f=true", true), ("f=0", false), ("f=false", false), ("f=no", true), ("", true)]
        {
            assert_eq!(Query::parse(raw).unwrap().flag("f", true), expected, "{raw}");
        }
        assert!(!Query::parse("f=TRUE").unwrap().flag("f", false));
    }
}
