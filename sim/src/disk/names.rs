//! Directories: which name leads to which file, in memory and on the platter.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use crate::dice::Dice;

/// Number of a simulated file.
pub type InodeId = u64;

/// The names as programs see them, the names as a power loss would leave them, and the changes between.
#[derive(Debug, Default)]
pub struct Names {
    live: Entries,
    durable: Entries,
    /// Changes per directory that no sync of the directory has covered, oldest first. File systems with a
    /// journal keep the order of changes within a directory, so a power loss keeps a prefix.
    pending: BTreeMap<PathBuf, Vec<Change>>,
}

#[derive(Debug, Clone, Default)]
struct Entries {
    files: BTreeMap<PathBuf, InodeId>,
    dirs: BTreeSet<PathBuf>,
}

#[derive(Debug, Clone)]
enum Change {
    MakeDir(PathBuf),
    Link(PathBuf, InodeId),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Names {
    /// The file that `path` leads to.
    #[must_use]
    pub fn find(&self, path: &Path) -> Option<InodeId> {
        self.live.files.get(path).copied()
    }

    /// Whether `path` is a directory.
    #[must_use]
    pub fn is_dir(&self, path: &Path) -> bool {
        self.live.dirs.contains(path)
    }

    /// All files, sorted by path.
    pub fn files(&self) -> impl Iterator<Item = (&Path, InodeId)> {
        self.live.files.iter().map(|(path, id)| (path.as_path(), *id))
    }

    /// The files directly in `dir`, sorted by name.
    pub fn files_in<'a>(&'a self, dir: &'a Path) -> impl Iterator<Item = (&'a Path, InodeId)> {
        self.files().filter(move |(path, _)| path.parent() == Some(dir))
    }

    /// The inodes that some name, seen or durable, still leads to.
    #[must_use]
    pub fn reachable(&self) -> BTreeSet<InodeId> {
        let pending = self.pending.values().flatten().filter_map(|change| match change {
            Change::Link(_, id) => Some(*id),
            Change::MakeDir(_) | Change::Unlink(_) | Change::Rename(..) => None,
        });
        self.live.files.values().chain(self.durable.files.values()).copied().chain(pending).collect()
    }

    /// Makes `dir` and its parents, durably: how the operator prepared the machine.
    pub fn prepare_dir(&mut self, dir: &Path) {
        for dir in dir.ancestors() {
            self.live.dirs.insert(dir.to_owned());
            self.durable.dirs.insert(dir.to_owned());
        }
    }

    /// Makes `dir` and those of its parents that are missing.
    pub fn make_dir(&mut self, dir: &Path) {
        let ancestors: Vec<&Path> = dir.ancestors().collect();
        for dir in ancestors.into_iter().rev() {
            if !self.is_dir(dir) {
                self.change(dir, Change::MakeDir(dir.to_owned()));
            }
        }
    }

    /// Makes a new file.
    pub fn link(&mut self, path: &Path, id: InodeId) {
        self.change(path, Change::Link(path.to_owned(), id));
    }

    /// Removes a file; false when there is none.
    pub fn unlink(&mut self, path: &Path) -> bool {
        let found = self.find(path).is_some();
        if found {
            self.change(path, Change::Unlink(path.to_owned()));
        }
        found
    }

    /// Renames a file over whatever has the new name; false when there is none.
    pub fn rename(&mut self, from: &Path, to: &Path) -> bool {
        let found = self.find(from).is_some();
        if found {
            self.change(to, Change::Rename(from.to_owned(), to.to_owned()));
        }
        found
    }

    /// Makes all changes in `dir` durable.
    pub fn sync_dir(&mut self, dir: &Path) {
        for change in self.pending.remove(dir).unwrap_or_default() {
            self.durable.apply(&change);
        }
    }

    /// The power goes: of each directory's unsynced changes some first ones had reached the platter. A file
    /// is gone when a directory above it is.
    pub fn lose_power(&mut self, dice: &mut Dice) {
        for (_, changes) in std::mem::take(&mut self.pending) {
            let kept = if dice.chance(500) { 0 } else { dice.below(changes.len() as u64 + 1) };
            for change in changes.iter().take(usize::try_from(kept).unwrap_or(0)) {
                self.durable.apply(change);
            }
        }
        let dirs = self.durable.dirs.clone();
        let rooted = |path: &Path| path.ancestors().skip(1).all(|dir| dirs.contains(dir));
        self.durable.dirs.retain(|dir| rooted(dir));
        self.durable.files.retain(|path, _| rooted(path));
        self.live = self.durable.clone();
    }

    /// True when a power loss could undo a change of a name.
    #[must_use]
    pub fn has_unsynced_changes(&self) -> bool {
        !self.pending.is_empty()
    }

    fn change(&mut self, path: &Path, change: Change) {
        self.live.apply(&change);
        let dir = path.parent().unwrap_or(path).to_owned();
        self.pending.entry(dir).or_default().push(change);
    }
}

impl Entries {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::MakeDir(path) => {
                self.dirs.insert(path.clone());
            }
            Change::Link(path, id) => {
                self.files.insert(path.clone(), *id);
            }
            Change::Unlink(path) => {
                self.files.remove(path);
            }
            Change::Rename(from, to) => {
                if let Some(id) = self.files.remove(from) {
                    self.files.insert(to.clone(), id);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let mut names = Names::default();
        names.prepare_dir(Path::new("/data"));
        names
    }

    /// What `/data` may hold after a power loss, over many seeds.
    fn outcomes(prepare: impl Fn(&mut Names)) -> BTreeSet<Vec<String>> {
        (0..200)
            .map(|seed| {
                let mut names = names();
                prepare(&mut names);
                names.lose_power(&mut Dice::new(seed));
                names.files().map(|(path, id)| format!("{}={id}", path.display())).collect()
            })
            .collect()
    }

    fn set(outcomes: &[&[&str]]) -> BTreeSet<Vec<String>> {
        outcomes.iter().map(|files| files.iter().map(ToString::to_string).collect()).collect()
    }

    #[test]
    fn a_name_is_durable_only_after_its_directory_is_synced() {
        let a = Path::new("/data/a");
        assert_eq!(outcomes(|names| names.link(a, 1)), set(&[&[], &["/data/a=1"]]));
        let synced = outcomes(|names| {
            names.link(a, 1);
            names.sync_dir(Path::new("/data"));
        });
        assert_eq!(synced, set(&[&["/data/a=1"]]));
    }

    #[test]
    fn a_rename_is_whole_and_comes_after_what_went_before() {
        let (a, b) = (Path::new("/data/a"), Path::new("/data/b"));
        let renamed = outcomes(|names| {
            names.link(b, 1);
            names.sync_dir(Path::new("/data"));
            names.link(a, 2);
            assert!(names.rename(a, b));
        });
        assert_eq!(renamed, set(&[&["/data/b=1"], &["/data/a=2", "/data/b=1"], &["/data/b=2"]]));
    }

    #[test]
    fn a_removed_file_may_come_back_until_the_directory_is_synced() {
        let a = Path::new("/data/a");
        let removed = outcomes(|names| {
            names.link(a, 1);
            names.sync_dir(Path::new("/data"));
            assert!(names.unlink(a));
            assert!(!names.unlink(a));
        });
        assert_eq!(removed, set(&[&[], &["/data/a=1"]]));
    }

    #[test]
    fn an_unsynced_directory_takes_its_files_with_it() {
        let made = outcomes(|names| {
            names.make_dir(Path::new("/data/sub"));
            names.link(Path::new("/data/sub/a"), 1);
            names.sync_dir(Path::new("/data/sub"));
        });
        assert_eq!(made, set(&[&[], &["/data/sub/a=1"]]));
    }
}
