//! Stamps: small files beside what was made, saying what it was made with.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Says whether a thing was made the way it would be made now.
pub struct Stamp {
    path: PathBuf,
    wanted: String,
}

impl Stamp {
    /// `made_with` is one line for each fact that calls for making it again when it changes.
    pub fn new(path: impl Into<PathBuf>, made_with: &[&str]) -> Self {
        Self {
            path: path.into(),
            wanted: made_with.join("\n") + "\n",
        }
    }

    pub fn is_current(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|found| found == self.wanted)
    }

    /// Whether there is one at all, current or not.
    pub fn is_set(&self) -> bool {
        self.path.exists()
    }

    /// To be called once the thing is whole.
    pub fn set(&self) -> Result<()> {
        fs::write(&self.path, &self.wanted)
            .with_context(|| format!("failed to write {}", self.path.display()))
    }

    /// To be called before the thing is touched, so that a half-made one is made again.
    pub fn clear(&self) -> Result<()> {
        remove_if_there(&self.path)
    }
}

/// Removes a file or a whole directory; it may be absent.
pub fn remove_if_there(path: &Path) -> Result<()> {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let removed = if metadata.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.with_context(|| format!("failed to remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_holds_until_any_fact_changes_or_it_is_cleared() {
        let path = std::env::temp_dir().join(format!("xtask-stamp-{}", std::process::id()));
        let made = Stamp::new(&path, &["rustc 1.95.0 abc", "bpf-linker 0.13.0"]);
        assert!(!made.is_current() && !made.is_set(), "nothing was made yet");
        made.set().unwrap();
        assert!(made.is_current());
        assert!(!Stamp::new(&path, &["rustc 1.95.0 abd", "bpf-linker 0.13.0"]).is_current());
        assert!(!Stamp::new(&path, &["rustc 1.95.0 abc", "bpf-linker 0.14.0"]).is_current());
        let other = Stamp::new(&path, &["rustc 1.95.0 abc"]);
        assert!(!other.is_current() && other.is_set());
        made.clear().unwrap();
        assert!(!made.is_current());
        made.clear().unwrap();
    }
}
