// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Disks: from what a configuration says of them to block devices.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use devices::token_bucket::RateLimiter;
use devices::virtio::block::{
    self, Block, BlockControl, BlockOptions, CacheMode, EngineChoice, ImageFormat, MAX_QUEUES, Serial,
};

use super::rate::limiter;
use super::{Machine, default_transport};
use crate::build::BuildError;
use crate::config::{Config, Disk, DiskCache, DiskEngine, DiskFormat, OnError, RateLimit, Transport};
use crate::storage::{lock_behind, problem};

/// What all disks of a machine have in common.
pub(crate) struct Disks<'a> {
    config: &'a Config,
    transport: Transport,
    groups: BTreeMap<&'a str, Arc<RateLimiter>>,
    pub(crate) controls: Vec<BlockControl>,
}

impl<'a> Disks<'a> {
    /// Decides what the configuration leaves open.
    pub(crate) fn new(config: &'a Config) -> Result<Self, BuildError> {
        for (what, disk) in config.all_disks() {
            disk.check().map_err(|text| problem(what, &disk.path, text))?;
        }
        let transport = default_transport(config);
        let mut ways = config.all_disks().map(|(_, disk)| disk.transport.unwrap_or(transport));
        let mixed = ways.next().is_some_and(|first| ways.any(|other| other != first));
        // The guest's drivers decide which of both kinds comes first, and so which disk is /dev/vda.
        if let Some(rootfs) = config.rootfs.as_ref().filter(|_| mixed && config.adds_root()) {
            let text = "shares the machine with disks on another transport, so it may not be /dev/vda: \
                        give them all the same, or say root= with --cmdline";
            return Err(problem("rootfs", &rootfs.path, text));
        }
        Ok(Self { config, transport, groups: groups(config)?, controls: Vec::new() })
    }

    /// Adds a disk on an image that is open: `/dev/vda` is the first one.
    pub(crate) fn add(
        &mut self,
        machine: &mut Machine<'_>,
        what: &'static str,
        disk: &Disk,
        image: File,
    ) -> Result<(), BuildError> {
        let name = name(self.controls.len());
        let cant = |error: &dyn std::fmt::Display| problem(what, &disk.path, error.to_string());
        let options = self.options(disk).map_err(|error| cant(&error))?;
        if disk.format == DiskFormat::Raw && begins_as_qcow2(&image) {
            let path = disk.path.display();
            tracing::warn!(
                "{what} {path}: it begins as a qcow2 image, but is used as a raw one: add format=qcow2 if it is one"
            );
        }
        let block = Block::new(name, image, options).map_err(|error| cant(&error))?;
        self.controls.push(block.control());
        machine.add_virtio(Box::new(block), disk.transport.unwrap_or(self.transport))
    }

    fn options(&self, disk: &Disk) -> Result<BlockOptions, block::BadSerial> {
        let mut options = BlockOptions::default();
        options.read_only = disk.readonly;
        options.engine = match disk.engine {
            None => EngineChoice::Automatic,
            Some(DiskEngine::IoUring) => EngineChoice::IoUring,
            Some(DiskEngine::Sync) => EngineChoice::Sync,
        };
        options.format = match disk.format {
            DiskFormat::Raw => ImageFormat::Raw,
            DiskFormat::Qcow2 => ImageFormat::Qcow2,
        };
        options.permitted = disk.permitted();
        options.lock_behind = Some(lock_behind);
        options.direct = disk.direct;
        options.queues = queues(disk, self.config);
        options.queue_size = disk.queue_size;
        options.serial = disk.serial.as_deref().map(Serial::new).transpose()?.unwrap_or_default();
        options.cache = match disk.cache {
            DiskCache::Writeback => CacheMode::Writeback,
            DiskCache::Writethrough => CacheMode::Writethrough,
        };
        options.discard = disk.discard;
        let group = disk.group.as_deref().and_then(|group| self.groups.get(group));
        options.limiters = match group {
            Some(group) => vec![group.clone()],
            None => limiter(disk.bw, disk.ops).into_iter().collect(),
        };
        options.on_error = match disk.on_error {
            OnError::Report => block::OnError::Report,
            OnError::Stop => block::OnError::Stop,
        };
        Ok(options)
    }
}

/// Whether the image's first bytes are those of a qcow2 image. A guest can write them too, so nothing is made of that.
fn begins_as_qcow2(image: &File) -> bool {
    let mut magic = [0; 4];
    // Direct I/O takes no such small piece, and has nothing to say here.
    image.read_exact_at(&mut magic, 0).is_ok() && magic == *b"QFI\xfb"
}

/// How many queues a disk has: one for each vCPU unless it says otherwise.
pub(super) fn queues(disk: &Disk, config: &Config) -> u16 {
    let vcpus = u16::try_from(config.cpus).unwrap_or(u16::MAX);
    disk.queues.map_or(vcpus.clamp(1, MAX_QUEUES), u16::from)
}

/// One limiter for each group, of what its disks say: those that say something must agree.
fn groups(config: &Config) -> Result<BTreeMap<&str, Arc<RateLimiter>>, BuildError> {
    let mut limits: BTreeMap<&str, (Option<RateLimit>, Option<RateLimit>)> = BTreeMap::new();
    for (what, disk) in config.all_disks() {
        let Some(group) = disk.group.as_deref() else { continue };
        let (bw, ops) = limits.entry(group).or_default();
        for (key, ours, theirs) in [("bw", disk.bw, bw), ("ops", disk.ops, ops)] {
            match (ours, &theirs) {
                (Some(ours), Some(theirs)) if ours != *theirs => {
                    let text = format!("{key} is another one than that of the group '{group}' before: give it once");
                    return Err(problem(what, &disk.path, text));
                }
                (Some(_), _) => *theirs = ours,
                (None, _) => (),
            }
        }
    }
    let limiters = limits.into_iter().filter_map(|(group, (bw, ops))| Some((group, limiter(bw, ops)?)));
    Ok(limiters.collect())
}

/// How Linux names virtio disks: vda to vdz, vdaa and so on.
fn name(index: usize) -> String {
    let mut letters = Vec::new();
    let mut rest = index + 1;
    while rest > 0 {
        letters.push(b'a' + ((rest - 1) % 26) as u8);
        rest = (rest - 1) / 26;
    }
    letters.extend(*b"dv");
    letters.iter().rev().map(|letter| char::from(*letter)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_as_linux_does() {
        let names: Vec<_> = [0, 1, 25, 26, 27, 51, 52, 701, 702].into_iter().map(name).collect();
        assert_eq!(names, ["vda", "vdb", "vdz", "vdaa", "vdab", "vdaz", "vdba", "vdzz", "vdaaa"]);
    }

    fn config(disks: &[&str]) -> Config {
        let disks = disks.iter().map(|disk| disk.parse().unwrap()).collect();
        Config { disks, ..Config::new("k") }
    }

    #[test]
    fn one_multi_queue_device_takes_all_that_have_no_wish_to_pci() {
        let transport = |config: &Config| Disks::new(config).unwrap().transport;
        assert_eq!(transport(&config(&["path=a"])), Transport::Mmio);
        assert_eq!(transport(&config(&["path=a", "path=b,queues=2"])), Transport::Pci);
        let two = Config { cpus: 2, ..config(&["path=a"]) };
        assert_eq!(transport(&two), Transport::Pci);
        assert_eq!(queues(&two.disks[0], &two), 2);
        assert_eq!(transport(&Config { transport: Some(Transport::Mmio), ..two }), Transport::Mmio);
        let with_net = |net: &str| Config { nets: vec![net.parse().unwrap()], ..config(&["path=a"]) };
        assert_eq!(transport(&with_net("tap=a")), Transport::Mmio);
        assert_eq!(transport(&with_net("tap=a,queues=2")), Transport::Pci);
        assert_eq!(transport(&with_net("fd=[3,4]")), Transport::Pci);
    }

    #[test]
    fn a_root_file_system_that_may_not_be_the_first_disk_is_refused() {
        let mut mixed = config(&["path=b"]);
        mixed.rootfs = Some(Disk::root("a,transport=pci").unwrap());
        let error = Disks::new(&mixed).err().unwrap().to_string();
        assert!(error.starts_with("rootfs a: shares the machine with disks on another transport"), "{error}");
        mixed.cmdline = Some("root=/dev/disk/by-id/virtio-a".into());
        assert!(Disks::new(&mixed).is_ok());
    }

    #[test]
    fn a_group_has_one_limit_whoever_says_it() {
        let same = config(&["path=a,group=g,bw=1M", "path=b,group=g", "path=c,group=g,bw=1M,ops=5", "path=d,group=h"]);
        assert_eq!(groups(&same).unwrap().keys().copied().collect::<Vec<_>>(), ["g"]);
        let error = groups(&config(&["path=a,group=g,bw=1M", "path=b,group=g,bw=2M"])).unwrap_err().to_string();
        assert_eq!(error, "disk b: bw is another one than that of the group 'g' before: give it once");
    }
}
