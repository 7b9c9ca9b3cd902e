//! A pattern for names: a regular expression that matches anywhere in them, as Go's `MatchString` does.
//!
//! Most patterns that people write are a word with `^`, `$` or `.*` at its ends. These are compared as they are,
//! for a compiled expression takes kilobytes, and every connection may have its own.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, de::Error};

/// Longest pattern, bytes: four times the longest name.
const PATTERN_MAX: usize = 256;
/// Largest compiled expression, bytes; where letters are only those of ASCII, and where not.
const COMPILED_MAX: usize = 32 * 1024;
const COMPILED_UNICODE_MAX: usize = 256 * 1024;
/// How deep groups may lie in each other.
const NESTED_MAX: u32 = 32;

/// A pattern for the names of topics or channels.
#[derive(Clone, Debug)]
pub struct Pattern(Form);

#[derive(Clone, Debug)]
enum Form {
    /// A text that the name begins with, ends with, both (then it is the name), or neither (then it holds it).
    Text { begins: bool, ends: bool, text: Box<str> },
    /// Anything else.
    Expression(Regex),
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// It is longer than 256 bytes.
    #[error("a pattern of {0} bytes is too long: write at most 256")]
    Long(usize),
    /// It is no regular expression, or one that is too large once compiled.
    #[error("{pattern:?} is no regular expression that can be used: {why}")]
    Expression {
        /// The text.
        pattern: String,
        /// What is wrong with it, in one line.
        why: String,
    },
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// It is too long, or no regular expression.
    pub fn new(text: &str) -> Result<Self, InvalidPattern> {
        if text.len() > PATTERN_MAX {
            return Err(InvalidPattern::Long(text.len()));
        }
        plain(text).map_or_else(|| compile(text).map(Form::Expression), Ok).map(Self)
    }

    /// Whether the pattern matches somewhere in `name`.
    pub fn matches(&self, name: &str) -> bool {
        match &self.0 {
            Form::Text { begins: true, ends: true, text } => name == &**text,
            Form::Text { begins: true, ends: false, text } => name.starts_with(&**text),
            Form::Text { begins: false, ends: true, text } => name.ends_with(&**text),
            Form::Text { begins: false, ends: false, text } => name.contains(&**text),
            Form::Expression(expression) => expression.is_match(name.as_bytes()),
        }
    }

    /// Whether it takes a compiled expression, which is what costs memory.
    pub(super) const fn is_compiled(&self) -> bool {
        matches!(self.0, Form::Expression(_))
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A pattern that needs no expression. Names hold no line feed, which is all that `.` does not match.
fn plain(pattern: &str) -> Option<Form> {
    let (begins, rest) = cut(pattern, pattern.strip_prefix('^'));
    let (ends, rest) = cut(rest, rest.strip_suffix('$'));
    let (free_before, rest) = cut(rest, rest.strip_prefix(".*"));
    let (free_behind, rest) = cut(rest, rest.strip_suffix(".*"));
    let (begins, ends) = (begins && !free_before, ends && !free_behind);
    let mut text = String::with_capacity(rest.len());
    let mut characters = rest.chars();
    while let Some(c) = characters.next() {
        // What follows a backslash has to be there, so that none of those cut off above was a character.
        let escaped = c == '\\';
        let c = if escaped { characters.next()? } else { c };
        let stands_for_itself = c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '#');
        if !(if escaped { matches!(c, '.' | '-') } else { stands_for_itself }) {
            return None;
        }
        text.push(c);
    }
    Some(Form::Text { begins, ends, text: text.into() })
}

/// Whether `text` could be cut, and what is left of it.
fn cut<'a>(text: &'a str, rest: Option<&'a str>) -> (bool, &'a str) {
    rest.map_or((false, text), |rest| (true, rest))
}

/// First with ASCII's letters only, which are all that names are made of and take much less memory; Go's
/// classes such as `\pL` need the others.
fn compile(pattern: &str) -> Result<Regex, InvalidPattern> {
    let build = |unicode: bool, size: usize| {
        let mut builder = RegexBuilder::new(pattern);
        builder.unicode(unicode).size_limit(size).dfa_size_limit(COMPILED_MAX).nest_limit(NESTED_MAX);
        builder.build()
    };
    build(false, COMPILED_MAX).or_else(|_| build(true, COMPILED_UNICODE_MAX)).map_err(|error| {
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        InvalidPattern::Expression { pattern: pattern.to_owned(), why }
    })
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Text { begins, ends, text } => {
                let mark = |there: bool, mark| if there { mark } else { "" };
                write!(f, "{}{text}{}", mark(*begins, "^"), mark(*ends, "$"))
            }
            Form::Expression(expression) => f.write_str(expression.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).unwrap().matches(name)
    }

    #[test]
    fn a_pattern_matches_anywhere_unless_it_says_where() {
        for (pattern, name, expected) in [
            ("t1", "xt1x", true),
            ("^t1$", "xt1x", false),
            ("^t1$", "t1", true),
            ("^t1", "t1x", true),
            ("t1$", "xt1", true),
            ("", "", true),
            (".*", "", true),
            ("^.*$", "", true),
            ("^$", "", true),
            ("^$", "c", false),
            ("^c1$", "", false),
            ("^orders\\..*$", "orders.new", true),
            ("^orders\\..*$", "orders", false),
            ("^(a|b)$", "b", true),
            ("^[a-z]+$", "B", false),
            ("(?i)^t", "T", true),
            ("^.$", "x", true),
            ("^\\w+#ephemeral$", "t#ephemeral", true),
            ("^\\pL+$", "abc", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_no_expression_or_too_large_is_refused() {
        let because = |pattern: &str| Pattern::new(pattern).unwrap_err().to_string();
        assert!(because("(").contains("unclosed group"), "{}", because("("));
        assert!(because("[z-a]").starts_with("\"[z-a]\" is no regular expression"));
        assert!(because("a\\").contains("incomplete escape"), "{}", because("a\\"));
        assert_eq!(because(&"x".repeat(257)), "a pattern of 257 bytes is too long: write at most 256");
        assert!(because("(a{1000}){1000}").contains("size limit"), "{}", because("(a{1000}){1000}"));
        let nested = format!("{}a{}", "(".repeat(100), ")".repeat(100));
        assert!(because(&nested).contains("nest"), "{}", because(&nested));
    }

    #[test]
    fn words_with_anchors_need_no_expression() {
        for pattern in ["", "t", "^t$", ".*", "^.*$", "^a\\.b-c_d.*", ".*#ephemeral$"] {
            assert!(!Pattern::new(pattern).unwrap().is_compiled(), "{pattern}");
        }
        for pattern in ["a.b", "a\\$", "a\\.*", "a+", "^^a", "a|b"] {
            assert!(Pattern::new(pattern).unwrap().is_compiled(), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn a_comparison_says_what_the_expression_would(
            pattern in r"(\^)?(\.\*)?([ab]|\\\.|\\-|\.|\*|\\){0,4}(\.\*)?(\$)?",
            name in "[ab.-]{0,6}",
        ) {
            let expression = Regex::new(&pattern);
            match Pattern::new(&pattern) {
                Ok(pattern) => prop_assert_eq!(pattern.matches(&name), expression.unwrap().is_match(name.as_bytes())),
                Err(_) => prop_assert!(expression.is_err()),
            }
        }
    }
}
