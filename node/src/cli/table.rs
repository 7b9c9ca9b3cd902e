//! How commands write what they found: a table for people, JSON for programs.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::ValueEnum;

/// How to write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Columns for people; what a terminal gets unless told otherwise
    Table,
    /// JSON; what a file or a pipe gets unless told otherwise
    Json,
    /// As `table`, with more columns
    Wide,
}

impl Output {
    /// What was asked for, or what suits standard output.
    pub(super) fn or_suitable(asked: Option<Self>) -> Self {
        let suitable = if io::stdout().is_terminal() { Self::Table } else { Self::Json };
        asked.unwrap_or(suitable)
    }
}

/// Rows under a heading, in columns as wide as their widest entry.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with this heading and nothing below it.
    pub(super) fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(|name| (*name).to_owned()).collect()] }
    }

    /// Adds a row. Control characters are left out, since others may have chosen the text.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// The table as lines. Empty entries are shown as `-`.
    pub(super) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count().max(1)).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let cell = if cell.is_empty() { "-" } else { cell };
                line.push_str(&format!("{cell:width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// `text` without control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Writes to standard output. A reader that goes away has seen enough.
///
/// # Errors
/// Whatever else keeps it from being written.
pub(super) fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_nothing_in_them_reaches_the_terminal() {
        let mut table = Table::new(&["A", "LONG"]);
        table.row(["wide entry".to_owned(), String::new()]);
        table.row(["\u{1b}[31mü".to_owned(), "x".to_owned()]);
        assert_eq!(table.render(), "A           LONG\nwide entry  -\n[31mü       x\n");
    }
}
