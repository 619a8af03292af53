// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A socket device whose rings the kernel works off: its programs reach the guest by `AF_VSOCK`.
//!
//! Both rings are lent to the kernel's vhost-vsock once both run, and taken back when the first one stops. What this process
//! does meanwhile is to pass on interrupts, where the transport has no way for them without us. The guest controls the same as
//! ever, and the kernel has to bear it.

use std::fs::File;
use std::io;

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::device::{QUEUE_SIZES, VsockError, read_cid};
use super::spec;
use crate::sys::{doorbell, vhost};
use crate::virtio::active_queue::ActiveQueue;
use crate::virtio::device::{QueueResources, StartError, VirtioDevice};
use crate::virtio::features;
use crate::virtio::queue::{QueueError, QueueState};
use crate::virtio::vhost::{Kernel, Lines};
use crate::virtio::worker::{Event, FIRST_TOKEN, Service, Waits, Wake, Worker};

/// Feature: there are sockets for sequences of packets.
const F_SEQPACKET: u64 = 1 << 1;
/// What is offered to every driver.
const COMMON: u64 = features::VERSION_1 | features::RING_EVENT_IDX | features::RING_INDIRECT_DESC;

/// Tokens: the way of an interrupt has ended, and from here on two for each ring, for what it calls and for its errors.
const WAY_ENDED: u64 = FIRST_TOKEN;
const CALLS: u64 = FIRST_TOKEN + 1;
const ERRORS: u64 = FIRST_TOKEN + 3;

/// A socket device that the kernel serves.
#[derive(Debug)]
pub struct VhostVsock {
    cid: u32,
    offered: u64,
    worker: Worker<Relay>,
}

impl VhostVsock {
    /// A socket device on an open `/dev/vhost-vsock`, for a guest with this context ID. `name` stands in log lines and names the
    /// thread.
    ///
    /// # Errors
    ///
    /// When the context ID can't be a guest's or another guest of this host has it, or the kernel can't do what is needed.
    pub fn new(name: impl Into<String>, cid: u32, vhost: File) -> Result<Self, VsockError> {
        super::device::check_cid(cid)?;
        let set_up = |what| move |source| VsockError::SetUp { what, source };
        let kernel = Kernel::new(vhost).map_err(set_up("/dev/vhost-vsock"))?;
        vhost::vsock_set_guest_cid(kernel.file(), cid.into()).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => VsockError::CidTaken(cid),
            _ => VsockError::SetUp { what: "its context ID", source },
        })?;
        let offered = kernel.offered();
        if offered & COMMON != COMMON {
            let source = io::Error::other(format!("it has the features {offered:#x}, and {COMMON:#x} are needed"));
            return Err(VsockError::SetUp { what: "/dev/vhost-vsock", source });
        }
        let wake = Wake::new().map_err(set_up("an eventfd"))?;
        let name = name.into();
        let way_ended = eventfd().map_err(set_up("an eventfd"))?;
        let relay = Relay { name: name.clone(), kernel, way_ended, queues: [None, None], event: None, lent: None };
        let queues = QUEUE_SIZES.len();
        Ok(Self { cid, offered, worker: Worker::new(name, relay, queues, wake) })
    }
}

impl VirtioDevice for VhostVsock {
    fn device_type(&self) -> u32 {
        spec::DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        spec::F_STREAM | self.offered & F_SEQPACKET
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_cid(self.cid, offset, data);
    }

    fn start_queue(&mut self, index: u16, resources: QueueResources, features: u64) -> Result<(), StartError> {
        self.worker.start_queue(index, resources, features)
    }

    fn request_stop(&mut self, index: u16) {
        self.worker.request_stop(index);
    }

    fn stop_queue(&mut self, index: u16) -> Option<QueueState> {
        self.worker.stop_queue(index)
    }

    fn reset(&mut self) {
        let Self { cid: _, offered: _, worker } = self;
        worker.reset();
    }
}

fn eventfd() -> io::Result<EventFd> {
    EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)
}

/// What is done for the kernel.
#[derive(Debug)]
struct Relay {
    name: String,
    kernel: Kernel,
    /// Written when an interrupt has lost its way.
    way_ended: EventFd,
    /// The two rings that carry packets, with what their driver accepted.
    queues: [Option<(ActiveQueue, u64)>; 2],
    event: Option<ActiveQueue>,
    /// What the kernel tells us of the rings, while it has them.
    lent: Option<[Line; 2]>,
}

/// What the kernel tells of one ring.
#[derive(Debug)]
struct Line {
    call: EventFd,
    error: EventFd,
    /// What was used reaches the driver without us.
    is_connected: bool,
}

impl Relay {
    /// Lends both rings. Should that fail, the device needs a reset.
    fn lend(&mut self, waits: &Waits) -> io::Result<()> {
        let [Some((receive, features)), Some((transmit, _))] = &mut self.queues else { return Ok(()) };
        // What the transport has agreed upon beside that is none of the kernel's.
        let features = *features & self.kernel.offered();
        let mut lines = Vec::with_capacity(2);
        for (ring, queue) in (0u32..).zip([receive, transmit]) {
            let line = Line { call: eventfd()?, error: eventfd()?, is_connected: false };
            let (base, has_given_back) = queue.queue().hand_over().map_err(io::Error::other)?;
            if has_given_back {
                queue.notifier().used(queue.index());
            }
            let kick = queue.doorbell().try_clone()?;
            let told = Lines { kick: &kick, call: &line.call, error: &line.error };
            self.kernel.set_up(ring, features, queue.queue(), base, &told)?;
            lines.push(line);
        }
        let lines: Result<[Line; 2], _> = lines.try_into();
        let Ok(lines) = lines else { return Ok(()) };
        // Whatever fails from here on, it is taken back.
        let lines = self.lent.insert(lines);
        vhost::vsock_set_running(self.kernel.file(), true)?;
        for (at, (line, queue)) in (0u64..).zip(lines.iter_mut().zip(self.queues.iter().flatten())) {
            let (queue, _) = queue;
            waits.unwatch(queue.doorbell());
            line.is_connected = queue.notifier().connect(queue.index(), &line.call, &self.way_ended);
            if !line.is_connected {
                waits.watch(&line.call, CALLS.saturating_add(at), EventSet::IN)?;
            }
            waits.watch(&line.error, ERRORS.saturating_add(at), EventSet::IN)?;
            // A ring of the doorbell before it began is nobody's.
            doorbell::ring(queue.doorbell())?;
        }
        Ok(())
    }

    /// Takes both rings back. When this returns, the kernel touches none.
    fn take_back(&mut self, waits: &Waits) {
        let Some(lines) = self.lent.take() else { return };
        // Fails only for a descriptor that is none of vhost-vsock's.
        if let Err(error) = vhost::vsock_set_running(self.kernel.file(), false) {
            tracing::warn!(device = self.name, "the kernel doesn't stop: {error}");
        }
        for (ring, (line, queue)) in (0u32..).zip(lines.into_iter().zip(&mut self.queues)) {
            waits.unwatch(&line.call);
            waits.unwatch(&line.error);
            let Some((queue, _)) = queue else { continue };
            if line.is_connected {
                queue.notifier().disconnect(queue.index());
            }
            match self.kernel.base(ring) {
                Ok(base) => queue.queue().go_on_at(base),
                Err(error) => {
                    tracing::warn!(device = self.name, ring, "where the kernel has stopped is not known: {error}");
                    queue.notifier().set_needs_reset();
                }
            }
            // It may have used something and not have come to say so. One interrupt too many harms nobody.
            queue.notifier().used(queue.index());
        }
    }

    /// The way of an interrupt has ended: it is passed on from here.
    fn look_at_ways(&mut self, waits: &Waits) {
        // It says nothing by its count.
        let _ = self.way_ended.read();
        let Some(lines) = &mut self.lent else { return };
        for (at, (line, queue)) in (0u64..).zip(lines.iter_mut().zip(self.queues.iter().flatten())) {
            let (queue, _) = queue;
            if line.is_connected && !queue.notifier().is_connected(queue.index()) {
                line.is_connected = false;
                if let Err(error) = waits.watch(&line.call, CALLS.saturating_add(at), EventSet::IN) {
                    tracing::warn!(device = self.name, "interrupts can't be passed on: {error}");
                }
            }
        }
    }

    /// Something was used, or went wrong.
    fn hear(&self, token: u64) {
        let Some([receive, transmit]) = &self.lent else { return };
        let [receive_queue, transmit_queue] = &self.queues;
        let is_receive = token.wrapping_sub(CALLS).is_multiple_of(2);
        let (line, queue) = if is_receive { (receive, receive_queue) } else { (transmit, transmit_queue) };
        let Some((queue, _)) = queue else { return };
        if token >= ERRORS {
            let _ = line.error.read();
            tracing::warn!(device = self.name, queue = queue.index(), "the kernel can't go on with a ring");
            queue.notifier().set_needs_reset();
        } else {
            let _ = line.call.read();
            queue.notifier().used(queue.index());
        }
    }
}

impl Service for Relay {
    fn begin(&mut self, waits: &mut Waits) {
        if let Err(error) = waits.watch(&self.way_ended, WAY_ENDED, EventSet::IN) {
            tracing::warn!(device = self.name, "interrupts can't be watched: {error}");
        }
    }

    fn start(&mut self, queue: ActiveQueue, features: u64, waits: &mut Waits) {
        let notifier = queue.notifier().clone();
        match queue.index() {
            spec::RECEIVE => self.queues[0] = Some((queue, features)),
            spec::TRANSMIT => self.queues[1] = Some((queue, features)),
            _ => self.event = Some(queue),
        }
        if self.lent.is_none()
            && self.queues.iter().all(Option::is_some)
            && let Err(error) = self.lend(waits)
        {
            tracing::warn!(device = self.name, "the kernel doesn't take its rings: {error}");
            self.take_back(waits);
            notifier.set_needs_reset();
        }
    }

    fn stop(&mut self, index: u16, waits: &mut Waits) -> Option<QueueState> {
        let queue = match index {
            spec::RECEIVE | spec::TRANSMIT => {
                self.take_back(waits);
                self.queues.get_mut(usize::from(index))?.take()?.0
            }
            _ => self.event.take()?,
        };
        Some(queue.into_state())
    }

    fn serve(&mut self, event: Event, waits: &mut Waits) -> Result<(), QueueError> {
        match event {
            Event::Ready { token: WAY_ENDED, .. } => self.look_at_ways(waits),
            Event::Ready { token, .. } => self.hear(token),
            Event::Queue(_) | Event::Poked | Event::Time => {}
        }
        Ok(())
    }

    fn reset(&mut self, waits: &mut Waits) {
        self.take_back(waits);
        let Self { name: _, kernel: _, way_ended: _, queues, event, lent } = self;
        (*queues, *event, *lent) = ([None, None], None, None);
    }
}
