// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A qcow2 image under requests that are under way at the same time: by threads of the queue's pool.

use std::fs::{self, OpenOptions};
use std::process::Command;

use devices::virtio::block::{Block, BlockOptions, ImageFormat};
use devices::virtio::mock::{readable, writable};
use running::Running;
use sound::assert_sound;
use vm_memory::{Bytes, GuestAddress};

#[path = "running/mod.rs"]
mod running;

#[path = "sound/mod.rs"]
mod sound;

const CLUSTER: usize = 64 << 10;
const CLUSTERS: usize = 64;
const HEADERS: u64 = 0x4000;
const STATUSES: u64 = 0x5000;
const RANGE: u64 = 0x6000;
const DATA: u64 = 0x1_0000;
const WRITE: u64 = 1;
const FLUSH: u64 = 4;
const DISCARD: u64 = 11;

/// Two halves of a cluster, one across the border of two others, a discarded one and a flush: none of them waits for another.
#[test]
fn requests_for_neighbouring_clusters_leave_a_sound_image_that_holds_them_all() {
    let folder = tempfile::tempdir().unwrap();
    let qemu_img = |arguments: &[&str]| {
        let output = Command::new("qemu-img").args(arguments).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    qemu_img(&["create", "-f", "qcow2", "image", &(CLUSTER * CLUSTERS).to_string()]);
    let path = folder.path().join("image");
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut options = BlockOptions::default();
    options.format = ImageFormat::Qcow2;
    let mut disk = Running::new(Block::new("vda", file, options).unwrap(), 1 << 20);
    let mut expected = vec![0u8; CLUSTER * CLUSTERS];
    for round in 0..200usize {
        // Far enough apart for the requests of a round, anywhere for those of others.
        let at = |step: usize| (round * 7 + step * 13) % CLUSTERS * CLUSTER;
        let (halves, across, discarded) = (at(0), (at(1) + CLUSTER / 2).min(expected.len() - CLUSTER), at(3));
        let writes = [(halves, CLUSTER / 2), (halves + CLUSTER / 2, CLUSTER / 2), (across, CLUSTER)];
        let mut place = DATA;
        for (slot, (offset, len)) in (0u64..).zip(writes) {
            let byte = ((round * 3 + slot as usize) % 255 + 1) as u8;
            expected[offset..offset + len].fill(byte);
            disk.driver.mem.write_slice(&vec![byte; len], GuestAddress(place)).unwrap();
            submit(&mut disk, slot, WRITE, offset, &[readable(place, len as u32)]);
            place += len as u64;
        }
        expected[discarded..discarded + CLUSTER].fill(0);
        disk.driver.mem.write_obj([discarded as u64 / 512, CLUSTER as u64 / 512], GuestAddress(RANGE)).unwrap();
        submit(&mut disk, 3, DISCARD, 0, &[readable(RANGE, 16)]);
        submit(&mut disk, 4, FLUSH, 0, &[]);
        disk.ring(5);
        let statuses: [u8; 5] = disk.driver.mem.read_obj(GuestAddress(STATUSES)).unwrap();
        assert_eq!(statuses, [0; 5], "round {round}");
    }
    drop(disk);
    assert_sound(&path);
    fs::write(folder.path().join("expected"), expected).unwrap();
    qemu_img(&["compare", "-f", "qcow2", "-F", "raw", "image", "expected"]);
}

fn submit(disk: &mut Running, slot: u64, kind: u64, offset: usize, data: &[devices::virtio::mock::Buffer]) {
    let (header, status) = (HEADERS + 16 * slot, STATUSES + slot);
    disk.driver.mem.write_obj([kind, offset as u64 / 512], GuestAddress(header)).unwrap();
    disk.driver.mem.write_obj(0xffu8, GuestAddress(status)).unwrap();
    let buffers = [&[readable(header, 16)], data, &[writable(status, 1)]].concat();
    disk.driver.submit(&buffers);
}
