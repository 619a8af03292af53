// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The initial RAM disk: a cpio archive with `/init`, the modules and a list of them. It isn't compressed: unpacking would
//! take the guest longer than it takes the host to hand over a few MiB more.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use cpio::newc::{Builder, ModeFileType, trailer};

use super::{Kernel, modules_for};

/// The drivers that any guest of ours may need, of those that the kernel has as modules.
const MODULES: [&str; 14] = [
    "virtio_mmio",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "vmw_vsock_virtio_transport",
    "virtio_rng",
    "virtio_balloon",
    "virtio_console",
    "virtiofs",
    "9pnet_virtio",
    "9p",
    "button",
    "evdev",
    "pvpanic_mmio",
];
/// Changes when the same parts would give another archive.
const VERSION: &str = "1";

/// What the archive depends on, beside the kernel and the init.
pub(crate) fn recipe() -> String {
    format!("{VERSION} {}", MODULES.join(" "))
}

/// Writes the archive; the number of modules in it.
pub(crate) fn build(kernel: &Kernel, init: &Path, to: &Path) -> Result<usize> {
    let modules = modules_for(kernel, &MODULES)?;
    let mut archive = Vec::new();
    for folder in ["dev", "proc", "sys", "root", "lib", "lib/modules"] {
        write_folder(&mut archive, folder)?;
    }
    // Process 1 gets its standard streams from here, before it can mount anything.
    let console = Builder::new("dev/console").set_mode_file_type(ModeFileType::Char).mode(0o020_600);
    write_entry(&mut archive, console.rdev_major(5).rdev_minor(1), &[])?;
    write_file(
        &mut archive,
        "init",
        0o755,
        &fs::read(init).with_context(|| format!("can't read {}", init.display()))?,
    )?;
    let mut list = String::new();
    for module in &modules {
        let name = module.path.rsplit('/').next().unwrap_or(&module.path);
        write_file(&mut archive, &format!("lib/modules/{name}"), 0o644, &module.content)?;
        list.push_str(&format!("/lib/modules/{name}\n"));
    }
    write_file(&mut archive, "modules", 0o644, list.as_bytes())?;
    trailer(&mut archive)?;
    fs::write(to, archive).with_context(|| format!("can't write {}", to.display()))?;
    Ok(modules.len())
}

/// Adds a file to an archive.
fn write_file(archive: &mut Vec<u8>, name: &str, permissions: u32, content: &[u8]) -> Result<()> {
    let entry = Builder::new(name).mode(permissions).set_mode_file_type(ModeFileType::Regular);
    write_entry(archive, entry, content)
}

fn write_folder(archive: &mut Vec<u8>, name: &str) -> Result<()> {
    let entry = Builder::new(name).mode(0o755).set_mode_file_type(ModeFileType::Directory).nlink(2);
    write_entry(archive, entry, &[])
}

fn write_entry(archive: &mut Vec<u8>, entry: Builder, content: &[u8]) -> Result<()> {
    let mut writer = entry.write(archive, u32::try_from(content.len())?);
    writer.write_all(content)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_by_name_mode_and_content() {
        let mut archive = Vec::new();
        write_folder(&mut archive, "lib").unwrap();
        write_file(&mut archive, "lib/x", 0o755, b"12345").unwrap();
        trailer(&mut archive).unwrap();
        let reader = cpio::NewcReader::new(archive.as_slice()).unwrap();
        assert_eq!((reader.entry().name(), reader.entry().mode()), ("lib", 0o040_755));
        let mut reader = cpio::NewcReader::new(reader.finish().unwrap()).unwrap();
        assert_eq!((reader.entry().name(), reader.entry().mode()), ("lib/x", 0o100_755));
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut content).unwrap();
        assert_eq!(content, b"12345");
        let reader = cpio::NewcReader::new(reader.finish().unwrap()).unwrap();
        assert!(reader.entry().is_trailer());
    }
}
