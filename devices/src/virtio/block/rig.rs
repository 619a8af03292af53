// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk, its driver and its interrupts, for the tests of this directory.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::{Block, BlockOptions, EngineChoice};
use crate::GuestRam;
use crate::skip::{folder_on_disk, open_direct, skip};
use crate::sys::disk::direct_alignment;
use crate::virtio::device::{QueueResources, VirtioDevice};
use crate::virtio::mock::{Buffer, MockDriver, ram, readable, writable};
use crate::virtio::notifier::{DeviceInterrupt, Notifier};
use crate::virtio::queue::{Queue, QueueState};

pub(super) const ENGINES: [EngineChoice; 2] = [EngineChoice::Sync, EngineChoice::IoUring];

pub(super) const SECTORS: u64 = 64;
pub(super) const HEADER: u64 = 0x4000;
pub(super) const STATUS: u64 = 0x5000;
pub(super) const DATA: u64 = 0x8000;
pub(super) const UNTOUCHED: u8 = 0xee;

/// Options with an engine that is asked for by name.
pub(super) fn options(engine: EngineChoice) -> BlockOptions {
    BlockOptions { engine, ..BlockOptions::default() }
}

/// Sector `n` is full of bytes `n + 1`.
pub(super) fn image() -> File {
    let file = tempfile::tempfile().unwrap();
    for sector in 0..SECTORS {
        file.write_all_at(&[sector as u8 + 1; 512], sector * 512).unwrap();
    }
    file
}

/// The image in a folder of its own, open for direct I/O; nothing, which is said, where the file system has none.
pub(super) fn direct() -> Option<(TempDir, File)> {
    direct_with((0..SECTORS).flat_map(|sector| [sector as u8 + 1; 512]).collect())
}

/// The same with other content.
pub(super) fn direct_with(content: Vec<u8>) -> Option<(TempDir, File)> {
    let folder = folder_on_disk();
    let path = folder.path().join("image");
    std::fs::write(&path, content).unwrap();
    let file = open_direct(&path)?;
    file.sync_all().unwrap();
    Some((folder, file))
}

/// The image, where direct I/O takes single sectors.
pub(super) fn direct_sectors() -> Option<(TempDir, File)> {
    let (folder, file) = direct()?;
    if direct_alignment(&file).is_some_and(|alignment| alignment.offset > 512) {
        skip("direct I/O takes no single sectors here");
        return None;
    }
    Some((folder, file))
}

/// Interrupts that a test can wait for.
#[derive(Debug)]
pub(super) struct Interrupts {
    pub(super) used: EventFd,
    pub(super) config: EventFd,
}

impl DeviceInterrupt for Interrupts {
    fn queue(&self, _: u16) {
        self.used.write(1).unwrap();
    }
    fn config(&self) {
        self.config.write(1).unwrap();
    }
}

pub(super) fn eventfd() -> EventFd {
    EventFd::new(libc::EFD_CLOEXEC).unwrap()
}

pub(super) struct Rig {
    pub(super) block: Block,
    pub(super) driver: MockDriver,
    pub(super) mem: GuestRam,
    pub(super) file: File,
    pub(super) doorbell: EventFd,
    pub(super) interrupts: Arc<Interrupts>,
    pub(super) notifier: Arc<Notifier>,
    /// What the driver accepts: all of the device's, unless a test takes some away.
    pub(super) features: u64,
}

impl Rig {
    pub(super) fn new(options: BlockOptions) -> Self {
        Self::on(image(), options)
    }

    pub(super) fn on(file: File, options: BlockOptions) -> Self {
        let mem = ram(0x40_0000);
        mem.write_slice(&[UNTOUCHED; 0x10000], GuestAddress(HEADER)).unwrap();
        let interrupts = Arc::new(Interrupts { used: eventfd(), config: eventfd() });
        let driver = MockDriver::new(&mem, 0x1000, 16);
        let notifier = Arc::new(Notifier::new(interrupts.clone()));
        let mut block = Block::new("vda", file.try_clone().unwrap(), options).unwrap();
        block.attach(&notifier);
        let features = block.features();
        Self { block, driver, mem, file, doorbell: eventfd(), interrupts, notifier, features }
    }

    pub(super) fn running(options: BlockOptions) -> Self {
        let mut rig = Self::new(options);
        rig.start(QueueState::default());
        rig
    }

    pub(super) fn start(&mut self, state: QueueState) {
        let queue = Queue::new(self.driver.config, 256, 0, state, self.mem.clone()).unwrap();
        let doorbell = self.doorbell.try_clone().unwrap();
        let resources = QueueResources { queue, doorbell, notifier: self.notifier.clone() };
        self.block.start_queue(0, resources, self.features).unwrap();
    }

    pub(super) fn write_header(&self, kind: u32, sector: u64) {
        let header = [u64::from(kind).to_le_bytes(), sector.to_le_bytes()].concat();
        self.mem.write_slice(&header, GuestAddress(HEADER)).unwrap();
    }

    /// Waits until the worker, which is about to sleep, has taken what the doorbell was rung for.
    pub(super) fn wait_until_the_doorbell_is_taken(&self) {
        let info = format!("/proc/self/fdinfo/{}", self.doorbell.as_raw_fd());
        let taken = |line: &str| line.strip_prefix("eventfd-count:").is_some_and(|count| count.trim() == "0");
        while !std::fs::read_to_string(&info).unwrap().lines().any(taken) {
            std::thread::yield_now();
        }
    }

    /// Waits for the next chain that comes back: its head, and how much was written.
    pub(super) fn wait_used(&mut self) -> (u32, u32) {
        loop {
            if let Some(used) = self.driver.take_used() {
                return used;
            }
            self.interrupts.used.read().unwrap();
        }
    }

    /// Makes one request and waits for it; the status byte and the used length.
    pub(super) fn request(&mut self, kind: u32, sector: u64, buffers: &[Buffer]) -> (u8, u32) {
        self.write_header(kind, sector);
        self.submit(buffers)
    }

    /// The same with whatever stands in the header.
    pub(super) fn submit(&mut self, buffers: &[Buffer]) -> (u8, u32) {
        self.mem.write_obj(UNTOUCHED, GuestAddress(STATUS)).unwrap();
        self.driver.submit(buffers);
        self.doorbell.write(1).unwrap();
        let (_, written) = self.wait_used();
        (self.status(), written)
    }

    pub(super) fn status(&self) -> u8 {
        self.mem.read_obj(GuestAddress(STATUS)).unwrap()
    }

    /// A request whose data is one buffer.
    pub(super) fn simple(&mut self, kind: u32, sector: u64, data: Buffer) -> (u8, u32) {
        self.request(kind, sector, &[readable(HEADER, 16), data, writable(STATUS, 1)])
    }

    pub(super) fn guest(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub(super) fn host(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.file.metadata().unwrap().len() as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}
