//! Go's `%q`. NSQ quotes bad names in its error texts with it, and some clients compare the whole text.

use std::fmt::Write;

/// `bytes` as Go's `%q` prints a string: in double quotes, with Go's escapes. Bytes that are not UTF-8
/// become `\xNN`. At most six times as long as `bytes`, and two.
pub fn go_quote(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push_escaped(&mut quoted, c));
        chunk.invalid().iter().for_each(|b| push_formatted(&mut quoted, format_args!("\\x{b:02x}")));
    }
    quoted.push('"');
    quoted
}

fn push_escaped(quoted: &mut String, c: char) {
    match c {
        '"' | '\\' => quoted.extend(['\\', c]),
        '\x07' => quoted.push_str("\\a"),
        '\x08' => quoted.push_str("\\b"),
        '\x0c' => quoted.push_str("\\f"),
        '\n' => quoted.push_str("\\n"),
        '\r' => quoted.push_str("\\r"),
        '\t' => quoted.push_str("\\t"),
        '\x0b' => quoted.push_str("\\v"),
        ' '..='~' => quoted.push(c),
        '\0'..='\x7f' => push_formatted(quoted, format_args!("\\x{:02x}", u32::from(c))),
        _ if is_printable(c) => quoted.push(c),
        '\0'..='\u{ffff}' => push_formatted(quoted, format_args!("\\u{:04x}", u32::from(c))),
        _ => push_formatted(quoted, format_args!("\\U{:08x}", u32::from(c))),
    }
}

/// Both languages print letters, marks, numbers, punctuation and symbols. Rust's `escape_debug` also hides
/// a mark that has nothing to sit on, so it is asked about `c` after a letter.
fn is_printable(c: char) -> bool {
    let mut buffer = [0; 5];
    let (letter, rest) = buffer.split_at_mut(1);
    letter.fill(b'a');
    let len = c.encode_utf8(rest).len();
    let text = buffer.get(..=len).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
    text.escape_debug().nth(1) == Some(c)
}

fn push_formatted(quoted: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = quoted.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_as_go_does() {
        // By the rules of strconv.Quote.
        for (bytes, quoted) in [
            (&b""[..], r#""""#),
            (b"a b", r#""a b""#),
            (b"say \"hi\" \\ '", r#""say \"hi\" \\ '""#),
            (b"\x07\x08\x0c\n\r\t\x0b", r#""\a\b\f\n\r\t\v""#),
            (b"\0\x1b\x7f", r#""\x00\x1b\x7f""#),
            ("héé 世界".as_bytes(), r#""héé 世界""#),
            ("\u{a0}\u{200b}\u{2028}\u{feff}".as_bytes(), r#""\u00a0\u200b\u2028\ufeff""#),
            ("e\u{301}".as_bytes(), "\"e\u{301}\""),
            ("\u{301}".as_bytes(), "\"\u{301}\""),
            ("\u{fffd}".as_bytes(), "\"\u{fffd}\""),
            ("\u{e000}\u{10ffff}".as_bytes(), r#""\ue000\U0010ffff""#),
            (b"\xff\xe2\x82A\xc0\x80", r#""\xff\xe2\x82A\xc0\x80""#),
        ] {
            assert_eq!(go_quote(bytes), quoted, "{bytes:?}");
        }
    }
}
