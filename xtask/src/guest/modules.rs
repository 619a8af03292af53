// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Kernel modules with all that they need, in an order in which they can be loaded.
//!
//! A package that was only unpacked has no `modules.dep`; that one is written by depmod at installation, from what every
//! module says of itself in its section `.modinfo`. So this reads the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Kernel, elf};
use crate::process;

/// A module to load: its path below the folder of the modules, and its content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// As `kernel/drivers/block/virtio_blk.ko`.
    pub(crate) path: String,
    /// The ELF file, not compressed.
    pub(crate) content: Vec<u8>,
}

/// The wanted modules and what they depend on. What the kernel has built in, or doesn't have at all, is left out.
pub(crate) fn modules_for(kernel: &Kernel, wanted: &[&str]) -> Result<Vec<Module>> {
    let root = kernel.modules();
    let mut files = BTreeMap::new();
    collect(&root, &mut files)?;
    let mut contents = BTreeMap::new();
    let order = in_load_order(wanted, |name| {
        let Some(path) = files.get(name) else {
            return Ok(None);
        };
        let content = read(path)?;
        let needs = depends(&content).with_context(|| format!("{} is no kernel module", path.display()))?;
        contents.insert(name.to_owned(), content);
        Ok(Some(needs))
    })?;
    let mut modules = Vec::new();
    for name in order {
        let (Some(path), Some(content)) = (files.get(&name), contents.remove(&name)) else {
            continue;
        };
        let below = path.strip_prefix(&root)?.to_string_lossy();
        let below = below.strip_suffix(".xz").unwrap_or(&below).to_owned();
        modules.push(Module { path: below, content });
    }
    Ok(modules)
}

/// Names in an order in which each comes after all that it depends on. `depends` gives nothing for a module that isn't
/// there.
fn in_load_order(wanted: &[&str], mut depends: impl FnMut(&str) -> Result<Option<Vec<String>>>) -> Result<Vec<String>> {
    let mut order = Vec::new();
    let mut path = Vec::new();
    for name in wanted {
        visit(name, &mut depends, &mut path, &mut order)?;
    }
    Ok(order)
}

fn visit(
    name: &str,
    depends: &mut impl FnMut(&str) -> Result<Option<Vec<String>>>,
    path: &mut Vec<String>,
    order: &mut Vec<String>,
) -> Result<()> {
    let name = canonical(name);
    if order.contains(&name) {
        return Ok(());
    }
    if path.contains(&name) {
        bail!("the modules {} depend on each other in a circle", path.join(", "));
    }
    let Some(needs) = depends(&name)? else {
        return Ok(());
    };
    path.push(name.clone());
    for need in needs {
        visit(&need, depends, path, order)?;
    }
    path.pop();
    order.push(name);
    Ok(())
}

/// The kernel takes `-` and `_` in a module's name for the same.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// All modules below a folder, by name.
fn collect(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, files)?;
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(stem) = name.strip_suffix(".ko").or_else(|| name.strip_suffix(".ko.xz")) {
            files.insert(canonical(stem), path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let output = process::caught(Command::new("xz").args(["--decompress", "--stdout"]).arg(path))?;
        if !output.status.success() {
            bail!("can't decompress {}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim());
        }
        return Ok(output.stdout);
    }
    fs::read(path).with_context(|| format!("can't read {}", path.display()))
}

/// What a module says it depends on; nothing where the file isn't a module.
fn depends(module: &[u8]) -> Option<Vec<String>> {
    let info = elf::section(module, ".modinfo")?;
    parse_depends(info)
}

/// Entries of `.modinfo` are `key=value`, each of which ends in NUL.
fn parse_depends(info: &[u8]) -> Option<Vec<String>> {
    let value = info.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"depends="))?;
    let names = std::str::from_utf8(value).ok()?.split(',').filter(|name| !name.is_empty());
    Some(names.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(wanted: &[&str]) -> Result<Vec<String>> {
        in_load_order(wanted, |name| {
            let needs: &[&str] = match name {
                "virtio_ring" => &["virtio"],
                "virtio" | "net_failover" => &[],
                "virtio_blk" => &["virtio", "virtio-ring"],
                "virtio_net" => &["virtio_ring", "virtio", "net_failover"],
                "chicken" => &["egg"],
                "egg" => &["chicken"],
                _ => return Ok(None),
            };
            Ok(Some(needs.iter().map(|need| (*need).to_owned()).collect()))
        })
    }

    #[test]
    fn every_module_comes_after_what_it_needs_and_only_once() {
        let expected = ["virtio", "virtio_ring", "virtio_blk", "net_failover", "virtio_net"];
        assert_eq!(order(&["virtio_blk", "virtio-net", "virtio"]).unwrap(), expected);
    }

    #[test]
    fn what_the_kernel_does_not_have_as_a_module_is_left_out() {
        assert!(order(&["built_in"]).unwrap().is_empty());
    }

    #[test]
    fn a_circle_is_an_error() {
        assert!(order(&["chicken"]).unwrap_err().to_string().contains("circle"));
    }

    #[test]
    fn dependencies_are_read_from_modinfo() {
        let info = b"license=GPL\0depends=virtio,virtio_ring\0name=virtio_blk\0";
        assert_eq!(parse_depends(info).unwrap(), ["virtio", "virtio_ring"]);
        assert!(parse_depends(b"depends=\0").unwrap().is_empty());
        assert_eq!(parse_depends(b"license=GPL\0"), None);
    }
}
