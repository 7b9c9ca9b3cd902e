//! The paper that specifies the format names everything that the code knows.

use super::super::{
    record::{HEADER, Op, PAD},
    segment::FORMAT,
};

const PAPER: &str = include_str!("../FORMAT.md");

fn assert_says(text: &str) {
    assert!(PAPER.contains(text), "FORMAT.md does not say `{text}`");
}

#[test]
fn the_paper_names_every_kind_and_every_change() {
    let kinds = [(1, "Messages"), (2, "Finished"), (3, "Requeued"), (4, "Control"), (5, "Index")];
    for (byte, kind) in kinds {
        assert_says(&format!("| {byte} | {kind} |"));
    }
    let mut known = 0;
    for byte in 0..=u8::MAX {
        if let Some(op) = Op::from_byte(byte) {
            assert_eq!(op as u8, byte, "read as it is written");
            assert_says(&format!("| {byte} | {op:?} |"));
            known += 1;
        }
    }
    assert_eq!(PAPER.matches("\n| ").count(), PAPER.matches(" |\n").count(), "whole rows");
    assert_eq!(known, 9, "a new change needs a new format version, and a row in FORMAT.md");
}

#[test]
fn the_paper_names_the_numbers_that_the_code_uses() {
    assert_says(&format!("format version is {FORMAT}"));
    assert_says(&format!("multiple of {PAD} bytes"));
    assert_says(&format!("{HEADER} bytes of header"));
    for field in [
        "replay_from",
        "control",
        "sequence_floor",
        "segments",
        "topics",
        "number",
        "stamp",
        "end",
        "index",
        "name",
        "next",
        "mark",
        "paused",
        "message_count",
        "message_bytes",
        "channels",
        "held",
        "finished",
        "first",
        "count",
        "due",
        "attempts",
    ] {
        assert_says(&format!("| `{field}` |"));
    }
    for name in
        [".segment", ".checkpoint", ".spare", ".unfinished", "`lock`", "`node`", "bruitjnl", "bruitchk"]
    {
        assert_says(name);
    }
}
