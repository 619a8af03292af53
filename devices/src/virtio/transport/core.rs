// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The status machine (virtio 1.3 §2.1 and §3.1), shared by all transports.
//!
//! The guest controls the order and the value of every register write. A write that the specification doesn't allow in
//! the present state is ignored and counted; writing status 0 always resets the device and always revives it.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use vmm_sys_util::eventfd::EventFd;

use super::super::device::{QueueResources, StartError, VirtioDevice};
use super::super::notifier::{DeviceInterrupt, Notifier};
use super::super::queue::{Queue, QueueConfig, QueueError, QueueState};
use super::super::{features, status};
use crate::GuestRam;
use crate::sys::doorbell;
use crate::throttle::Throttle;
use crate::token_bucket::{Rate, TokenBucket};

/// The features of ring and transport that every device offers.
const COMMON_FEATURES: u64 = features::VERSION_1 | features::RING_EVENT_IDX | features::RING_INDIRECT_DESC;

/// All status bits that a driver may write.
const DRIVER_STATUS: u8 =
    status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK | status::FAILED;

/// One queue as the registers show it.
#[derive(Debug)]
struct Slot {
    max_size: u16,
    config: QueueConfig,
    ready: bool,
    /// Where a stopped queue goes on; `None`: that is lost, with what ran it.
    state: Option<QueueState>,
    running: bool,
    /// The host wants this one to stand still.
    stopped: bool,
    doorbell: EventFd,
}

impl Slot {
    /// What the device needs to run the queue, if it can be run.
    fn resources(&self, features: u64, mem: &GuestRam, notifier: &Arc<Notifier>) -> Result<QueueResources, NoStart> {
        let state = self.state.clone().ok_or(NoStart::Lost)?;
        let queue = Queue::new(self.config, self.max_size, features, state, mem.clone())?;
        let doorbell = self.doorbell.try_clone().map_err(NoStart::Doorbell)?;
        Ok(QueueResources { queue, doorbell, notifier: notifier.clone() })
    }
}

/// Why a queue that the driver has set up doesn't run.
#[derive(Debug, Error)]
enum NoStart {
    #[error("what ran it has failed, and where it stood is lost")]
    Lost,
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error("its doorbell can't be had: {0}")]
    Doorbell(#[source] io::Error),
    #[error(transparent)]
    Device(#[from] StartError),
}

/// A device and the state that its driver sees.
#[derive(Debug)]
pub struct Core {
    device: Box<dyn VirtioDevice>,
    mem: GuestRam,
    notifier: Arc<Notifier>,
    slots: Vec<Slot>,
    status: u8,
    driver_features: u64,
    /// The host wants no queue to run.
    paused: bool,
    /// The guest lets the device touch its memory.
    bus_master: bool,
    illegal: Throttle,
    /// Each start of a queue takes one: a thread, and memory of the kernel's that it gives back in its own time, are made.
    starts: TokenBucket,
}

/// How often queues are started, once a burst of starts is used up: more than any driver resets its device, and far less
/// than a kernel can clear away behind it.
const STARTS: (u64, u64) = (200, 1024);
/// The longest that a vCPU waits for a start in one go.
const LONGEST_WAIT: Duration = Duration::from_millis(50);

impl Core {
    /// A device that has just been reset. Fails only when the host gives no eventfd for a doorbell.
    pub fn new(
        mut device: Box<dyn VirtioDevice>,
        mem: GuestRam,
        interrupt: Arc<dyn DeviceInterrupt>,
    ) -> Result<Self, io::Error> {
        let slots = device
            .queue_sizes()
            .iter()
            .map(|&max_size| {
                // Blocking reads: a worker sleeps in one. Writes never block, as the counter can't get near its end; whoever
                // gives the doorbell to somebody else sees to it that they don't block then either.
                let doorbell = EventFd::new(libc::EFD_CLOEXEC)?;
                let config = QueueConfig { size: max_size, ..QueueConfig::default() };
                let state = Some(QueueState::default());
                Ok(Slot { max_size, config, ready: false, state, running: false, stopped: false, doorbell })
            })
            .collect::<Result<_, io::Error>>()?;
        let notifier = Arc::new(Notifier::new(interrupt));
        device.attach(&notifier);
        Ok(Self {
            device,
            mem,
            notifier,
            slots,
            status: 0,
            driver_features: 0,
            paused: false,
            bus_master: true,
            illegal: Throttle::new(),
            starts: starts(),
        })
    }

    /// The device type (virtio 1.3 §5).
    pub fn device_type(&self) -> u32 {
        self.device.device_type()
    }

    /// What the driver may accept.
    pub fn offered_features(&self) -> u64 {
        self.device.features() | COMMON_FEATURES & !self.device.missing_features() | features::VERSION_1
    }

    /// What the driver has accepted so far.
    pub fn driver_features(&self) -> u64 {
        self.driver_features
    }

    /// The driver accepts features: word 0 holds bits 0 to 31, word 1 bits 32 to 63; there are no others.
    pub fn set_driver_features(&mut self, word: u32, value: u32) {
        if self.status & status::DRIVER == 0 || self.status & status::FEATURES_OK != 0 {
            return self.count_illegal("features are written outside of negotiation");
        }
        let value = u64::from(value);
        self.driver_features = match word {
            0 => self.driver_features & !0xffff_ffff | value,
            1 => self.driver_features & 0xffff_ffff | value << 32,
            _ => return self.count_illegal("feature bits beyond 63 are accepted"),
        };
    }

    /// The device status.
    pub fn status(&self) -> u8 {
        let needs_reset = if self.notifier.needs_reset() { status::DEVICE_NEEDS_RESET } else { 0 };
        self.status | needs_reset
    }

    /// The driver writes the device status.
    pub fn set_status(&mut self, value: u8) {
        if value == 0 {
            return self.reset();
        }
        let value = value & DRIVER_STATUS;
        let new = value & !self.status;
        if self.status & !value != 0 {
            return self.count_illegal("a status bit is cleared without a reset");
        }
        let state = self.status | new;
        let order = [
            (status::DRIVER, status::ACKNOWLEDGE),
            (status::FEATURES_OK, status::DRIVER),
            (status::DRIVER_OK, status::FEATURES_OK),
        ];
        if order.iter().any(|&(bit, needed)| new & bit != 0 && state & needed == 0) {
            return self.count_illegal("a status bit is set before its predecessor");
        }
        if new & status::FEATURES_OK != 0 && !self.features_acceptable() {
            // The driver reads the status back and finds the bit missing (virtio 1.3 §3.1.1, step 6).
            self.status |= new & !(status::FEATURES_OK | status::DRIVER_OK);
            return;
        }
        self.status = state;
        if new & status::DRIVER_OK != 0 {
            self.start_queues();
        }
    }

    /// How many queues there are.
    pub fn queue_count(&self) -> usize {
        self.slots.len()
    }

    /// The largest size of a queue; 0 says that there is no such queue.
    pub fn queue_max_size(&self, index: u32) -> u16 {
        self.slot(index).map_or(0, |slot| slot.max_size)
    }

    /// Whether the driver has set the queue ready.
    pub fn queue_ready(&self, index: u32) -> bool {
        self.slot(index).is_some_and(|slot| slot.ready)
    }

    /// What the driver has set up for a queue so far.
    pub fn queue_config(&self, index: u32) -> QueueConfig {
        self.slot(index).map_or(QueueConfig::default(), |slot| slot.config)
    }

    /// The driver changes a queue's set-up: possible until the queue is ready.
    pub fn configure_queue(&mut self, index: u32, change: impl FnOnce(&mut QueueConfig)) {
        match self.writable_slot(index) {
            Some(slot) if !slot.ready => change(&mut slot.config),
            _ => self.count_illegal("a queue that is ready, running or absent is changed"),
        }
    }

    /// The driver sets a queue ready, or takes that back: possible until DRIVER_OK.
    pub fn set_queue_ready(&mut self, index: u32, ready: bool) {
        match self.writable_slot(index) {
            Some(slot) => slot.ready = ready,
            None => self.count_illegal("a queue that is running or absent is made ready"),
        }
    }

    /// The doorbell of a queue, for the host to listen to.
    pub fn doorbell(&self, index: u32) -> Option<&EventFd> {
        self.slot(index).map(|slot| &slot.doorbell)
    }

    /// The driver rings a doorbell. In a VM most rings go past this, through `ioeventfd`.
    pub fn notify(&mut self, index: u32) {
        match self.slot(index).map(|slot| doorbell::ring(&slot.doorbell)) {
            Some(Ok(())) => (),
            Some(Err(_)) | None => self.count_illegal("a doorbell is rung that does not exist"),
        }
    }

    /// Reads the device's configuration space.
    pub fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        self.device.read_config(offset, data);
    }

    /// Writes the device's configuration space: possible once the driver has shown itself.
    pub fn write_config(&mut self, offset: u64, data: &[u8]) {
        if self.status & status::DRIVER == 0 {
            return self.count_illegal("the configuration is written before a driver is there");
        }
        self.device.write_config(offset, data);
    }

    /// Changes whenever the configuration space does.
    pub fn config_generation(&self) -> u32 {
        self.notifier.config_generation()
    }

    /// How many writes were ignored because the state didn't allow them.
    pub fn illegal_writes(&self) -> u64 {
        self.illegal.times()
    }

    /// Stops all queues, and gives the state of each that the driver has set up; `None` is one that is lost with what ran
    /// it. When it returns, the device touches no guest memory any more, nor will it before [`Self::resume`], whatever the
    /// driver does.
    pub fn stop(&mut self) -> Vec<(u16, Option<QueueState>)> {
        self.paused = true;
        self.stop_queues();
        let set_up = self.status & status::DRIVER_OK != 0;
        let slots = (0..).zip(&self.slots).filter(|(_, slot)| set_up && slot.ready);
        slots.map(|(index, slot)| (index, slot.state.clone())).collect()
    }

    /// Goes on where [`Self::stop`] has stopped.
    pub fn resume(&mut self) {
        self.paused = false;
        self.start_queues();
    }

    /// Whether the guest lets the device touch its memory; a transport that has no such bit leaves it so.
    pub fn bus_master(&self) -> bool {
        self.bus_master
    }

    /// Turns that on or off. While it is off, all queues are stopped, as nothing less keeps what is under way out of guest
    /// memory, the kernel's part of it included; they go on where they stopped. A driver that turns it to and fro waits
    /// for each start as it does after a reset.
    pub fn set_bus_master(&mut self, bus_master: bool) {
        self.bus_master = bus_master;
        if bus_master { self.start_queues() } else { self.stop_queues() }
    }

    /// Stops one queue, and gives its state, from which [`Self::start_queue`] goes on; `None`: there is no such queue, or its
    /// state is lost. When it returns, nothing touches the queue or the buffers in it before that, whatever the driver
    /// does.
    pub fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        self.slots.get_mut(usize::from(index))?.stopped = true;
        self.halt(index);
        self.slots.get(usize::from(index))?.state.clone()
    }

    /// Lets one queue go on that was stopped by itself, as soon as the driver has set it up and neither the host nor the
    /// guest has the device stopped.
    pub fn start_queue(&mut self, index: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(index)) {
            slot.stopped = false;
        }
        self.launch(index);
    }

    fn halt(&mut self, index: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(index))
            && std::mem::take(&mut slot.running)
        {
            slot.state = self.device.stop_queue(index);
        }
    }

    /// Starts a queue where it stands, if it may run. One that can't be started asks for a reset.
    fn launch(&mut self, index: u16) {
        let may_run = self.status & status::DRIVER_OK != 0 && !self.paused && self.bus_master;
        let slot = self.slots.get_mut(usize::from(index));
        let Some(slot) = slot.filter(|slot| may_run && slot.ready && !slot.running && !slot.stopped) else { return };
        // On the thread of the vCPU whose guest wants it so, for a bounded time; others of its vCPUs may wait with it.
        if let Some(wait) = self.starts.wait(Instant::now()) {
            std::thread::sleep(wait.min(LONGEST_WAIT));
        }
        self.starts.take(1, Instant::now());
        let resources = slot.resources(self.driver_features, &self.mem, &self.notifier);
        let started =
            resources.and_then(|resources| Ok(self.device.start_queue(index, resources, self.driver_features)?));
        slot.running = started.is_ok();
        if let Err(error) = started {
            if let Some(times) = self.illegal.hit() {
                tracing::warn!(device = self.device.device_type(), times, "queue {index} does not start: {error}");
            }
            self.notifier.set_needs_reset();
        }
    }

    fn start_queues(&mut self) {
        for index in self.indices() {
            self.launch(index);
        }
    }

    fn stop_queues(&mut self) {
        for (index, slot) in (0..).zip(&self.slots) {
            if slot.running {
                self.device.request_stop(index);
            }
        }
        for index in self.indices() {
            self.halt(index);
        }
    }

    fn indices(&self) -> std::ops::Range<u16> {
        0..u16::try_from(self.slots.len()).unwrap_or(u16::MAX)
    }

    fn slot(&self, index: u32) -> Option<&Slot> {
        self.slots.get(usize::try_from(index).ok()?)
    }

    /// A queue whose registers may still be written: they freeze at DRIVER_OK.
    fn writable_slot(&mut self, index: u32) -> Option<&mut Slot> {
        if self.status & status::DRIVER_OK != 0 {
            return None;
        }
        self.slots.get_mut(usize::try_from(index).ok()?)
    }

    fn features_acceptable(&self) -> bool {
        self.driver_features & !self.offered_features() == 0 && self.driver_features & features::VERSION_1 != 0
    }

    fn reset(&mut self) {
        self.stop_queues();
        // Every field is named, so that one that is added can't be forgotten.
        let Self {
            device,
            mem: _,
            notifier,
            slots,
            status,
            driver_features,
            paused: _,
            bus_master: _,
            illegal: _,
            starts: _,
        } = self;
        device.reset();
        notifier.clear_needs_reset();
        for Slot { max_size, config, ready, state, running: _, stopped: _, doorbell: _ } in slots {
            *config = QueueConfig { size: *max_size, ..QueueConfig::default() };
            *ready = false;
            *state = Some(QueueState::default());
        }
        *status = 0;
        *driver_features = 0;
    }

    fn count_illegal(&self, what: &str) {
        if let Some(times) = self.illegal.hit() {
            tracing::debug!(device = self.device.device_type(), times, "ignored: {what}");
        }
    }
}

fn starts() -> TokenBucket {
    let (per_second, burst) = STARTS;
    TokenBucket::new(Rate { per_second: NonZeroU64::new(per_second).unwrap_or(NonZeroU64::MIN), burst }, Instant::now())
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
