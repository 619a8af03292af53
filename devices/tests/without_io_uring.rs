// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A host that refuses `io_uring`, be it for its limits or its rules, still has disks.

use std::sync::Arc;

use devices::virtio::block::{Block, BlockOptions, EngineChoice};
use devices::virtio::mock::{MockDriver, ram, readable, writable};
use devices::virtio::queue::{Queue, QueueState};
use devices::virtio::{DeviceInterrupt, Notifier, QueueResources, VirtioDevice};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vmm_sys_util::eventfd::EventFd;

#[derive(Debug)]
struct Interrupt(EventFd);

impl DeviceInterrupt for Interrupt {
    fn queue(&self, _: u16) {
        self.0.write(1).unwrap();
    }
    fn config(&self) {}
}

/// Runs `what` when no descriptor is left, so that no ring can be made.
fn without_descriptors<T>(what: impl FnOnce() -> T) -> T {
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..before }).unwrap();
    let result = what();
    setrlimit(Resource::Nofile, before).unwrap();
    result
}

#[test]
fn automatic_does_without_and_a_name_is_an_error() {
    let open = || {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        file
    };
    let options = |engine| {
        let mut options = BlockOptions::default();
        options.engine = engine;
        options
    };
    let file = open();
    let error = without_descriptors(|| Block::new("vda", file, options(EngineChoice::IoUring)).unwrap_err());
    assert_eq!(
        error.to_string(),
        "io_uring can't be used on this host: Too many open files (os error 24); engine=sync needs none"
    );
    let file = open();
    let mut block = without_descriptors(|| Block::new("vda", file, options(EngineChoice::Automatic)).unwrap());

    let mem = ram(1 << 20);
    let mut driver = MockDriver::new(&mem, 0x1000, 16);
    let (doorbell, interrupt) = (EventFd::new(0).unwrap(), Arc::new(Interrupt(EventFd::new(0).unwrap())));
    let queue = Queue::new(driver.config, 256, 0, QueueState::default(), mem).unwrap();
    let notifier = Arc::new(Notifier::new(interrupt.clone()));
    driver.submit(&[readable(0x4000, 16), writable(0x8000, 512), writable(0x5000, 1)]);
    block.start_queue(0, QueueResources { queue, doorbell, notifier }, 0).unwrap();
    interrupt.0.read().unwrap();
    assert_eq!(driver.take_used(), Some((0, 513)));
}
