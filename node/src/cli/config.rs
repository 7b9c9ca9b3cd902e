//! `bruit config show`: what holds, and which place decided it.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, Subcommand, ValueEnum};

use super::settings::{Flags, Origin, Row, Settings};

/// Arguments of `bruit config`.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show each setting as a node would take it, and whether a flag, the environment, the file or nobody
    /// decided it
    Show(ShowArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// How to write it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Shows the settings.
///
/// # Errors
/// Settings that cannot hold.
pub(super) fn run(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let ConfigCommand::Show(args) = &args.command;
    let settings = Settings::resolve(&args.flags, std::env::vars_os())?;
    for warning in &settings.warnings {
        eprintln!("bruit: {warning}");
    }
    let shown = match args.output {
        Output::Table => table(&settings.rows),
        Output::Json => json(&settings.rows),
    };
    io::stdout().write_all(shown.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn table(rows: &[Row]) -> String {
    let names = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max("SETTING".len());
    let values = rows.iter().map(|row| row.value.len()).max().unwrap_or(0).max("VALUE".len());
    let mut table = format!("{:names$}  {:values$}  ORIGIN\n", "SETTING", "VALUE");
    for row in rows {
        let place = place(&row.origin).map_or_else(String::new, |place| format!(" ({place})"));
        let origin = word(&row.origin);
        table.push_str(&format!("{:names$}  {:values$}  {origin}{place}\n", row.name, row.value));
    }
    table
}

/// An object by setting. Values are texts, as a flag would give them.
fn json(rows: &[Row]) -> String {
    let mut settings = serde_json::Map::new();
    for row in rows {
        let mut setting = serde_json::json!({ "value": row.value, "origin": word(&row.origin) });
        if let Some(place) = place(&row.origin) {
            setting["place"] = place.into();
        }
        settings.insert(row.name.to_owned(), setting);
    }
    format!("{:#}\n", serde_json::Value::Object(settings))
}

fn word(origin: &Origin) -> &'static str {
    match origin {
        Origin::Flag => "flag",
        Origin::Environment => "env",
        Origin::File { .. } => "file",
        Origin::Default => "default",
    }
}

fn place(origin: &Origin) -> Option<String> {
    match origin {
        Origin::File { path, line } => Some(format!("{}:{line}", path.display())),
        Origin::Flag | Origin::Environment | Origin::Default => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let file = Origin::File { path: "b.toml".into(), line: 3 };
        let row = |name, value: &str, origin| Row { name, value: value.to_owned(), origin };
        vec![row("a", "1", Origin::Flag), row("long-name", "", Origin::Default), row("c", "22", file)]
    }

    #[test]
    fn the_table_lines_up() {
        let lines: Vec<String> = table(&rows()).lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "SETTING    VALUE  ORIGIN");
        assert_eq!(lines[3], "c          22     file (b.toml:3)");
    }

    #[test]
    fn json_has_each_setting_with_value_and_origin() {
        let shown: serde_json::Value = serde_json::from_str(&json(&rows())).unwrap();
        let expected = serde_json::json!({
            "a": { "value": "1", "origin": "flag" },
            "long-name": { "value": "", "origin": "default" },
            "c": { "value": "22", "origin": "file", "place": "b.toml:3" },
        });
        assert_eq!(shown, expected);
    }
}
