// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device: what it offers, its configuration space, and its queues.

use std::sync::Arc;
use std::time::Duration;

use super::control::{BalloonControl, BalloonError, Shared};
use super::service::Pump;
use super::spec::{self, Role};
use crate::virtio::device::{QueueResources, StartError, VirtioDevice};
use crate::virtio::notifier::Notifier;
use crate::virtio::queue::QueueState;
use crate::virtio::worker::{Wake, Worker};

/// Descriptors of each queue. A Linux driver needs 32 for its reports.
const QUEUE_SIZES: [u16; 5] = [128; 5];
/// How many queues there are without free page reporting, and without hinting too.
const WITHOUT_REPORTS: usize = 4;
const WITHOUT_BOTH: usize = 3;

/// What a balloon is made of.
#[derive(Clone, Debug)]
pub struct BalloonOptions {
    /// How much RAM the machine has, in bytes.
    pub ram: u64,
    /// How much of it the guest is to give at first, in bytes.
    pub target: u64,
    /// Whether a guest that is short of memory takes some out of the balloon by itself.
    pub deflate_on_oom: bool,
    /// Whether the guest tells of memory that it doesn't use, which the host takes then.
    pub free_page_reporting: bool,
    /// Whether the guest can be asked which memory it doesn't use.
    pub free_page_hinting: bool,
    /// How often the guest is asked what it has to say of its memory; it says so once if there is none.
    pub statistics_interval: Option<Duration>,
}

impl BalloonOptions {
    /// A balloon without anything in it.
    pub fn new(ram: u64) -> Self {
        Self {
            ram,
            target: 0,
            deflate_on_oom: false,
            free_page_reporting: false,
            free_page_hinting: false,
            statistics_interval: None,
        }
    }
}

/// A balloon, all of which is served by one thread once a driver uses it.
#[derive(Debug)]
pub struct Balloon {
    deflate_on_oom: bool,
    free_page_reporting: bool,
    free_page_hinting: bool,
    shared: Arc<Shared>,
    worker: Worker<Pump>,
}

impl Balloon {
    /// A balloon. `name` stands in log lines and names the thread.
    ///
    /// # Errors
    ///
    /// When the target is more than all RAM, or the host is short of descriptors.
    pub fn new(name: impl Into<String>, options: BalloonOptions) -> Result<Self, BalloonError> {
        let BalloonOptions { ram, target, deflate_on_oom, free_page_reporting, free_page_hinting, statistics_interval } =
            options;
        let name = name.into();
        let shared = Arc::new(Shared::new(ram, target, free_page_hinting)?);
        let wake = Wake::new().map_err(BalloonError::Eventfd)?;
        let pump = Pump::new(name.clone(), shared.clone(), statistics_interval);
        let worker = Worker::new(name, pump, QUEUE_SIZES.len(), wake);
        Ok(Self { deflate_on_oom, free_page_reporting, free_page_hinting, shared, worker })
    }

    /// What a host can do with it while it runs.
    pub fn control(&self) -> BalloonControl {
        BalloonControl(Arc::downgrade(&self.shared))
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        spec::DEVICE_TYPE
    }

    /// Statistics are always there: so the next queue has the same number for drivers that know it and for those that count
    /// the queues that there are. A driver that fills its free pages with something says with what, so that they aren't taken
    /// where they are to hold anything but zeros.
    fn features(&self) -> u64 {
        let optional = [
            (self.deflate_on_oom, spec::F_DEFLATE_ON_OOM),
            (self.free_page_hinting, spec::F_FREE_PAGE_HINT),
            (self.free_page_reporting, spec::F_PAGE_REPORTING),
            (self.free_page_hinting || self.free_page_reporting, spec::F_PAGE_POISON),
        ];
        optional.iter().filter(|(is_on, _)| *is_on).fold(spec::F_STATS_VQ, |all, (_, feature)| all | feature)
    }

    fn queue_sizes(&self) -> &[u16] {
        let all = &QUEUE_SIZES[..];
        let count = match (self.free_page_reporting, self.free_page_hinting) {
            (true, _) => all.len(),
            (false, true) => WITHOUT_REPORTS,
            (false, false) => WITHOUT_BOTH,
        };
        all.get(..count).unwrap_or(all)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.shared.read_config(offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.shared.write_config(offset, data);
    }

    fn attach(&mut self, notifier: &Arc<Notifier>) {
        self.shared.attach(notifier);
    }

    fn start_queue(&mut self, index: u16, resources: QueueResources, features: u64) -> Result<(), StartError> {
        Role::of(index, features).ok_or(StartError::NoSuchQueue { index })?;
        self.worker.start_queue(index, resources, features)
    }

    fn request_stop(&mut self, index: u16) {
        self.worker.request_stop(index);
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        self.worker.stop_queue(index)
    }

    fn reset(&mut self) {
        let Self { deflate_on_oom: _, free_page_reporting: _, free_page_hinting: _, shared, worker } = self;
        worker.reset();
        shared.reset();
    }
}
