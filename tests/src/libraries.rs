//! Client libraries that others wrote, at pinned versions.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::{command::run, tree};

/// Installs the libraries below the target directory, unless they are there; returns where they are.
///
/// # Panics
/// When one that is not optional cannot be installed: a test that skips itself proves nothing.
pub fn libraries() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let test = std::env::current_exe().expect("the running test has a path");
        let target = test.ancestors().nth(3).expect("a test lies in <target>/<profile>/deps");
        let path = target.join("clients");
        let mut install = Command::new(tree::root().join("tests/clients/install"));
        install.arg(&path);
        let ended = run(install, b"");
        assert_eq!(ended.code, Some(0), "the client libraries cannot be installed: {}", ended.stderr);
        path
    })
}
