// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Knows whether a file still fits what it was made of.

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What a file is made of, boiled down to one word. Files count by content.
#[derive(Default)]
pub(crate) struct Recipe(DefaultHasher);

impl Recipe {
    /// Adds a text: a version, a list of names.
    pub(crate) fn text(mut self, text: &str) -> Self {
        self.0.write(text.as_bytes());
        self.0.write_u8(0xff);
        self
    }

    /// Adds the content of a file.
    pub(crate) fn file(mut self, path: &Path) -> Result<Self> {
        let content = fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
        self.0.write_usize(content.len());
        self.0.write(&content);
        Ok(self)
    }

    /// The word.
    pub(crate) fn word(self) -> String {
        format!("{:016x}", self.0.finish())
    }
}

/// Makes `path` unless it is there and made after the same recipe. `make` writes to a path that it is given, so that
/// nobody ever sees half a file. Whether it had to be made.
pub(crate) fn keep(path: &Path, recipe: Recipe, make: impl FnOnce(&Path) -> Result<()>) -> Result<bool> {
    let word = recipe.word();
    let stamp = beside(path, "stamp");
    if path.exists() && fs::read_to_string(&stamp).is_ok_and(|seen| seen == word) {
        return Ok(false);
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    let draft = beside(path, "draft");
    let _ = fs::remove_file(&draft);
    make(&draft).with_context(|| format!("can't make {}", path.display()))?;
    let _ = fs::remove_file(&stamp);
    fs::rename(&draft, path).with_context(|| format!("can't put {} in place", path.display()))?;
    fs::write(&stamp, word).with_context(|| format!("can't write {}", stamp.display()))?;
    Ok(true)
}

/// A hidden neighbour of a file.
fn beside(path: &Path, kind: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{kind}"))
}

/// Keeps two runs from making the same files at the same time, until it is dropped.
pub(crate) fn lock(folder: &Path) -> Result<fs::File> {
    fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    let path = folder.join(".lock");
    let file = fs::File::create(&path).with_context(|| format!("can't make {}", path.display()))?;
    file.lock().with_context(|| format!("can't lock {}", path.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_once_for_a_recipe_and_again_for_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made");
        let keep = |word: &str| keep(&path, Recipe::default().text(word), |draft| Ok(fs::write(draft, word)?)).unwrap();
        assert!(keep("one"));
        assert!(!keep("one"));
        assert!(keep("two"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        fs::remove_file(&path).unwrap();
        assert!(keep("two"));
    }

    #[test]
    fn a_failed_attempt_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made");
        keep(&path, Recipe::default(), |draft| Ok(fs::write(draft, "old")?)).unwrap();
        keep(&path, Recipe::default().text("new"), |_| anyhow::bail!("no")).unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }
}
