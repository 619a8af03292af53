// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Where things are: the workspace's root and the folder for what gets built.

use std::path::{Path, PathBuf};

/// The places that every chore needs.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The workspace that this program belongs to; the target folder is cargo's.
    pub(crate) fn locate() -> Self {
        // Cargo sets the variable for what it runs. Without it, this program runs where it was built.
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let package = manifest.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        let root = package.parent().unwrap_or(Path::new(".")).to_owned();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(directory) => root.join(directory),
            None => root.join("target"),
        };
        Self { root, target }
    }

    /// The folder with the root `Cargo.toml`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// A path below the target folder.
    pub(crate) fn target(&self, below: &str) -> PathBuf {
        self.target.join(below)
    }

    /// A path as a person would type it at the root.
    pub(crate) fn short<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }
}
