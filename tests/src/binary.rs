//! Finds the binary under test.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The `bruit` binary: `BRUIT_BIN` when that is set (`tests/run` sets it), else the one of the profile that
/// this test was built with, brought up to date first.
///
/// # Panics
/// When it cannot be built or found.
pub fn bruit() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("BRUIT_BIN") {
        Some(path) => PathBuf::from(path),
        None => built("bruit"),
    })
}

/// A link to the binary under another name, in `dir`.
///
/// # Panics
/// When it cannot be made.
pub fn linked(name: &str, dir: &Path) -> PathBuf {
    let link = dir.join(name);
    if !link.exists() {
        std::os::unix::fs::symlink(bruit(), &link).expect("a link can be made");
    }
    link
}

/// Keeps the variables of the tests from a node, which would take them for settings that it does not know.
pub(crate) fn hide_own_variables(command: &mut Command) {
    command.env_remove("BRUIT_BIN").env_remove("BRUIT_KILLS");
}

/// Builds `package` into the profile directory that the running test came from: a test must never judge a
/// binary that is older than the source.
fn built(package: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the running test has a path");
    let profile = test.ancestors().nth(2).expect("a test lies in <target>/<profile>/deps");
    let target = profile.parent().expect("a profile directory lies in the target directory");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--locked", "--package", package]);
    build.current_dir(crate::tree::root()).arg("--target-dir").arg(target);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let status = build.status().expect("cargo can be started");
    assert!(status.success(), "building {package} failed: {status}");
    let path = profile.join(package);
    assert!(path.is_file(), "{} is missing although it was built", path.display());
    path
}
