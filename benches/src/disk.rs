// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A disk under load: the block device with a driver in this process, and a plain `io_uring` loop on the same file, which
//! is the most that the host can give.

#![expect(unsafe_code, reason = "a ring takes raw pointers to buffers")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use devices::virtio::block::{Block, BlockOptions, EngineChoice};
use devices::virtio::mock::{MockDriver, ram, readable, writable};
use devices::virtio::queue::{Queue, QueueState};
use devices::virtio::{DeviceInterrupt, Notifier, QueueResources, VirtioDevice, features};
use io_uring::IoUring;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::sys::{self, CpuClock};

/// Bytes of the image.
const IMAGE: u64 = 256 << 20;

/// What is read or written.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Bytes of a request.
    pub block: u32,
    /// Write instead of read.
    pub write: bool,
    /// At random places, instead of one after the other.
    pub random: bool,
    /// Requests under way.
    pub depth: u16,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Requests a second.
    pub iops: f64,
    /// Processor time of a request, without the driver's.
    pub cpu: Duration,
}

impl Outcome {
    fn new(requests: u64, passed: Duration, cpu: Duration) -> Self {
        Self { iops: requests as f64 / passed.as_secs_f64(), cpu: cpu.div_f64(requests.max(1) as f64) }
    }
}

/// An image, full of bytes, in a folder.
pub fn image(folder: &Path) -> Result<tempfile::NamedTempFile> {
    let image = tempfile::NamedTempFile::new_in(folder).with_context(|| format!("no image in {}", folder.display()))?;
    let part = vec![0x42; 1 << 20];
    for at in (0..IMAGE).step_by(part.len()) {
        image.as_file().write_all_at(&part, at)?;
    }
    image.as_file().sync_all()?;
    Ok(image)
}

/// Opens the image for direct I/O, or for the page cache.
pub fn open(path: &Path, direct: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(if direct { libc::O_DIRECT } else { 0 }).open(path)
}

/// Where the requests go, one after the other.
struct Places {
    load: Load,
    state: u64,
    /// These are this one's share of the image.
    start: u64,
    blocks: u64,
}

impl Places {
    fn new(load: Load, part: u16, parts: u16) -> Self {
        let share = IMAGE / u64::from(parts);
        let blocks = share / u64::from(load.block);
        Self { load, state: 0x9e37_79b9_7f4a_7c15 + u64::from(part), start: share * u64::from(part), blocks }
    }

    fn next(&mut self) -> u64 {
        if self.load.random {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
        } else {
            self.state = self.state.wrapping_add(1);
        }
        self.start + self.state % self.blocks * u64::from(self.load.block)
    }
}

/// A plain loop for about `time`.
pub fn plain(file: &File, load: Load, time: Duration) -> Result<Outcome> {
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(u32::from(load.depth).next_power_of_two())
        .context("io_uring is not there")?;
    let mut places = Places::new(load, 0, 1);
    let mut buffers = Buffers::new(load);
    let (started, cpu) = (Instant::now(), sys::cpu_time(CpuClock::Process));
    let mut requests = 0;
    for tag in 0..u64::from(load.depth) {
        buffers.push(&mut ring, file, load.write, tag, places.next());
    }
    let mut under_way = u64::from(load.depth);
    let mut free = Vec::with_capacity(load.depth.into());
    while under_way > 0 {
        ring.submit_and_wait(1)?;
        for done in ring.completion() {
            anyhow::ensure!(done.result() == load.block.cast_signed(), "a request gave {}", done.result());
            free.push(done.user_data());
        }
        requests += free.len() as u64;
        under_way -= free.len() as u64;
        if started.elapsed() < time {
            under_way += free.len() as u64;
            for tag in free.drain(..) {
                buffers.push(&mut ring, file, load.write, tag, places.next());
            }
        }
        free.clear();
    }
    Ok(Outcome::new(requests, started.elapsed(), sys::cpu_time(CpuClock::Process) - cpu))
}

/// One buffer a request.
struct Buffers {
    memory: Vec<u8>,
    start: usize,
    block: usize,
}

impl Buffers {
    fn new(load: Load) -> Self {
        let block = load.block as usize;
        let memory = vec![0; block * usize::from(load.depth) + 4096];
        let start = memory.as_ptr().align_offset(4096);
        Self { memory, start, block }
    }

    fn push(&mut self, ring: &mut IoUring, file: &File, write: bool, tag: u64, offset: u64) {
        let at = self.start + tag as usize * self.block;
        let buffer = &mut self.memory[at..at + self.block];
        // SAFETY: `plain` waits for every completion before the buffers go, and uses a tag again only after it has come.
        unsafe { sys::push(ring, file.as_fd(), write, buffer, offset, tag) };
    }
}

/// The driver sleeps until it is interrupted, as a guest does.
#[derive(Debug)]
struct Interrupt(Vec<EventFd>);

impl DeviceInterrupt for Interrupt {
    fn queue(&self, index: u16) {
        self.0[usize::from(index)].write(1).expect("the counter is not full");
    }

    fn config(&self) {}
}

fn eventfd() -> EventFd {
    EventFd::new(libc::EFD_CLOEXEC).expect("there are descriptors")
}

/// The device, with a driver for each of its queues, for about `time`.
pub fn device(
    file: File,
    direct: bool,
    engine: EngineChoice,
    queues: u16,
    load: Load,
    time: Duration,
) -> Result<Outcome> {
    let mut options = BlockOptions::default();
    (options.engine, options.direct, options.queues, options.queue_size) = (engine, direct, queues, 512);
    let mut block = Block::new("bench", file, options)?;
    let accepted = block.features() | features::RING_EVENT_IDX | features::VERSION_1;
    let interrupt = Arc::new(Interrupt((0..queues).map(|_| eventfd()).collect()));
    let notifier = Arc::new(Notifier::new(interrupt.clone()));
    let mut drivers = Vec::new();
    for index in 0..queues {
        let mem = ram(Driver::DATA as usize + usize::from(load.depth) * load.block as usize);
        let ring = MockDriver::new(&mem, 0x1000, 512);
        let queue = Queue::new(ring.config, 512, accepted, QueueState::default(), mem)?;
        let doorbell = eventfd();
        let resources = QueueResources { queue, doorbell: doorbell.try_clone()?, notifier: notifier.clone() };
        block.start_queue(index, resources, accepted)?;
        let interrupt = interrupt.0[usize::from(index)].try_clone()?;
        drivers.push(Driver { ring, doorbell, interrupt, places: Places::new(load, index, queues) });
    }
    let (started, cpu) = (Instant::now(), sys::cpu_time(CpuClock::Process));
    let threads: Vec<_> =
        drivers.into_iter().map(|driver| thread::spawn(move || driver.run(load, started + time))).collect();
    let (mut requests, mut drivers_cpu) = (0, Duration::ZERO);
    for thread in threads {
        let (done, cpu) = thread.join().expect("the driver doesn't panic");
        requests += done;
        drivers_cpu += cpu;
    }
    let passed = started.elapsed();
    Ok(Outcome::new(requests, passed, (sys::cpu_time(CpuClock::Process) - cpu).saturating_sub(drivers_cpu)))
}

/// A driver that keeps a number of requests under way.
struct Driver {
    ring: MockDriver,
    doorbell: EventFd,
    interrupt: EventFd,
    places: Places,
}

impl Driver {
    const HEADERS: u64 = 0x1_0000;
    const STATUS: u64 = 0x2_0000;
    const DATA: u64 = 0x10_0000;

    /// Runs until `end`; how many requests were done, and the processor time that the driver took.
    fn run(mut self, load: Load, end: Instant) -> (u64, Duration) {
        let cpu = sys::cpu_time(CpuClock::Thread);
        for request in 0..u64::from(load.depth) {
            let data = (Self::DATA + request * u64::from(load.block), load.block);
            let data = if load.write { readable(data.0, data.1) } else { writable(data.0, data.1) };
            self.ring.chain(&[readable(Self::HEADERS + 16 * request, 16), data, writable(Self::STATUS + request, 1)]);
        }
        let mut before = self.ring.avail_index();
        let mut done = 0;
        for request in 0..load.depth {
            self.offer(load, request);
        }
        let (mut under_way, mut seen) = (load.depth, 0u16);
        loop {
            // EVENT_IDX: a doorbell is wanted when the index that the device names is among those just offered.
            fence(Ordering::SeqCst);
            let now = self.ring.avail_index();
            if now.wrapping_sub(self.ring.avail_event()).wrapping_sub(1) < now.wrapping_sub(before) {
                self.doorbell.write(1).expect("the counter is not full");
            }
            before = now;
            while self.ring.used_index() == seen {
                self.ring.set_used_event(seen);
                fence(Ordering::SeqCst);
                if self.ring.used_index() == seen {
                    self.interrupt.read().expect("the eventfd is open");
                }
            }
            let goes_on = Instant::now() < end;
            while let Some((head, _)) = self.ring.take_used() {
                let request = (head / 3) as u16;
                let status: u8 =
                    self.ring.mem.read_obj(GuestAddress(Self::STATUS + u64::from(request))).expect("it is in RAM");
                assert_eq!(status, 0);
                (done, seen, under_way) = (done + 1, seen.wrapping_add(1), under_way - 1);
                if goes_on {
                    self.offer(load, request);
                    under_way += 1;
                }
            }
            if under_way == 0 {
                return (done, sys::cpu_time(CpuClock::Thread) - cpu);
            }
        }
    }

    fn offer(&mut self, load: Load, request: u16) {
        let header = [u64::from(load.write), self.places.next() / 512];
        let address = GuestAddress(Self::HEADERS + 16 * u64::from(request));
        self.ring.mem.write_obj(header, address).expect("it is in RAM");
        self.ring.offer(3 * request);
    }
}
