//! The repository as files.

use std::{path::Path, process::Command};

/// The top of the repository.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// Every file of the repository: what git tracks, and what it would track if it were told. Sorted, relative to
/// the top, with forward slashes.
///
/// # Panics
/// When git cannot be asked.
#[must_use]
pub fn files() -> Vec<String> {
    let mut git = Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).current_dir(root());
    let output = git.output().expect("git can be started");
    assert!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("paths are text");
    let names = text.split('\0').filter(|name| !name.is_empty() && root().join(name).is_file());
    let mut files: Vec<String> = names.map(str::to_owned).collect();
    files.sort();
    files.dedup();
    files
}

/// The `.rs` files below `folder` (`""` for all), with their text.
#[must_use]
pub fn sources(folder: &str) -> Vec<(String, String)> {
    let wanted = |path: &String| path.starts_with(folder) && path.ends_with(".rs");
    files().into_iter().filter(wanted).map(|path| (path.clone(), text(&path))).collect()
}

/// The text of a file, by its path relative to the top; bytes that are not UTF-8 become the replacement
/// character.
///
/// # Panics
/// When it cannot be read.
#[must_use]
pub fn text(path: &str) -> String {
    let bytes = std::fs::read(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    String::from_utf8_lossy(&bytes).into_owned()
}
