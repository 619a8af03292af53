// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Debian's stock cloud kernel: found, downloaded and unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages;
use crate::process;
use crate::progress::Step;

/// The package that depends on the newest kernel of the kind.
const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// An unpacked kernel package.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Name and version of the package.
    pub(crate) package: String,
    /// As `uname -r` says it.
    pub(crate) release: String,
    folder: PathBuf,
}

impl Kernel {
    /// The bzImage.
    pub(crate) fn vmlinuz(&self) -> PathBuf {
        self.folder.join(format!("boot/vmlinuz-{}", self.release))
    }

    /// The folder of the modules.
    pub(crate) fn modules(&self) -> PathBuf {
        self.folder.join(format!("lib/modules/{}", self.release))
    }

    /// Opens what was unpacked, if it is whole.
    fn open(folder: PathBuf) -> Option<Self> {
        let package = folder.file_name()?.to_str()?.strip_suffix(".unpacked")?.to_owned();
        let release = package.split('_').next()?.strip_prefix("linux-image-")?.to_owned();
        let kernel = Self { package, release, folder };
        (kernel.vmlinuz().is_file() && kernel.modules().is_dir()).then_some(kernel)
    }
}

/// The kernel that is there already, or the newest that Debian has. `update` looks for the newest in any case.
pub(crate) fn ensure(guest: &Path, update: bool) -> Result<Kernel> {
    let cache = guest.join("cache");
    fs::create_dir_all(&cache).with_context(|| format!("can't make {}", cache.display()))?;
    // The name of the one in use; others in the cache are left from before.
    let current = cache.join("current");
    let in_use = fs::read_to_string(&current).ok().and_then(|name| Kernel::open(cache.join(name)));
    if let Some(kernel) = in_use
        && !update
    {
        return Ok(kernel);
    }
    let name = newest()?;
    let deb = download(&cache, &name)?;
    let kernel = unpack(&cache, &deb)?;
    fs::write(&current, kernel.folder.file_name().unwrap_or_default().as_encoded_bytes())
        .with_context(|| format!("can't write {}", current.display()))?;
    Ok(kernel)
}

/// The package that the metapackage depends on.
fn newest() -> Result<String> {
    if process::find("apt-cache").is_none() {
        bail!("the guest's kernel is Debian's: this needs apt-cache and apt-get, as on Debian 12");
    }
    let step = Step::start("looking for Debian's newest cloud kernel");
    let ask = || process::output(Command::new("apt-cache").env("LC_ALL", "C").args(["depends", METAPACKAGE]));
    let mut found = ask().ok().and_then(|answer| parse_depends(&answer));
    if found.is_none() && rustix::process::geteuid().is_root() {
        packages::update()?;
        found = parse_depends(&ask()?);
    }
    let name = found.with_context(|| {
        format!("apt knows no kernel that {METAPACKAGE} depends on; fetch the lists with: sudo apt-get update")
    })?;
    step.finish(&name);
    Ok(name)
}

/// The kernel in what `apt-cache depends` prints: a line `Depends: linux-image-6.1.0-…-cloud-amd64`.
fn parse_depends(answer: &str) -> Option<String> {
    let names = answer.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let mut kernels = names.filter(|name| {
        name.strip_prefix("linux-image-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            && name.ends_with("-cloud-amd64")
    });
    kernels.next().map(str::to_owned)
}

fn download(cache: &Path, name: &str) -> Result<PathBuf> {
    let step = Step::start(format!("downloading {name}"));
    let attempt = || process::output(packages::apt_get().args(["download", name]).current_dir(cache));
    if let Err(error) = attempt() {
        // The lists may name a version that Debian has replaced since.
        if !rustix::process::geteuid().is_root() {
            return Err(error.context("if the lists of packages are old, this helps: sudo apt-get update"));
        }
        packages::update()?;
        attempt()?;
    }
    let prefix = format!("{name}_");
    let entries = fs::read_dir(cache)?.flatten().map(|entry| entry.path());
    let mut debs: Vec<_> = entries
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&prefix) && name.ends_with(".deb")
        })
        .collect();
    debs.sort_by_key(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok());
    let deb = debs.pop().with_context(|| format!("apt-get downloaded no {prefix}*.deb into {}", cache.display()))?;
    let size = fs::metadata(&deb)?.len();
    step.finish(&format!("{} MiB", size >> 20));
    Ok(deb)
}

fn unpack(cache: &Path, deb: &Path) -> Result<Kernel> {
    let name = deb.file_stem().unwrap_or_default().to_string_lossy();
    let folder = cache.join(format!("{name}.unpacked"));
    if let Some(kernel) = Kernel::open(folder.clone()) {
        return Ok(kernel);
    }
    let step = Step::start(format!("unpacking {name}"));
    let draft = tempfile::tempdir_in(cache)?;
    process::output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(draft.path()))?;
    let _ = fs::remove_dir_all(&folder);
    fs::rename(draft.keep(), &folder)?;
    let kernel = Kernel::open(folder).with_context(|| format!("{} holds no kernel with modules", deb.display()))?;
    step.finish("");
    Ok(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_the_versioned_dependency() {
        let answer = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n  Suggests: other\n";
        assert_eq!(parse_depends(answer).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
    }

    #[test]
    fn unsigned_and_debug_kernels_are_not_taken() {
        let answer = "x\n  Depends: linux-image-6.1.0-56-cloud-amd64-unsigned\n  Depends: linux-image-amd64-dbg\n";
        assert_eq!(parse_depends(answer), None);
        assert_eq!(parse_depends(""), None);
    }
}
