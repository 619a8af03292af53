// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A backend of vhost-user for networks, as another process would be one: it moves frames between rings and files that give and
//! take a frame with a virtio header a call, which are taps or sockets. The protocol is not ours, but that of the `vhost`
//! crate; the rings are worked off by our queues.

use std::fs::File;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use devices::GuestRam;
use devices::virtio::chain::Chain;
use devices::virtio::queue::{Queue, QueueConfig, QueueState};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vhost::vhost_user::message::*;
use vhost::vhost_user::{BackendReqHandler, Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};

/// Protocol features are there.
pub(super) const PROTOCOL_FEATURES: u64 = 1 << 30;
/// VERSION_1, MRG_RXBUF, and what a ring can have.
pub(super) const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 28 | 1 << 15;
/// Of the protocol: many queues.
pub(super) const MQ: u64 = 1;

/// Serves one connection until it ends: with a file for each queue pair, these features, and these of the protocol.
pub(super) fn serve(socket: UnixStream, wires: Vec<File>, features: u64, protocol: u64) -> JoinHandle<()> {
    for wire in &wires {
        fcntl_setfl(wire, fcntl_getfl(wire).unwrap() | OFlags::NONBLOCK).unwrap();
    }
    let rings = (0..2 * wires.len()).map(|_| Ring::default()).collect();
    let bridge = Bridge { wires, features, protocol, driver: 0, ram: None, regions: Vec::new(), rings };
    let mut handler = BackendReqHandler::from_stream(socket, Arc::new(Mutex::new(bridge)));
    thread::spawn(move || while handler.handle_request().is_ok() {})
}

struct Bridge {
    wires: Vec<File>,
    features: u64,
    protocol: u64,
    driver: u64,
    ram: Option<GuestRam>,
    /// Where the frontend has them, how large they are, and where the guest has them.
    regions: Vec<(u64, u64, u64)>,
    rings: Vec<Ring>,
}

#[derive(Default)]
struct Ring {
    config: QueueConfig,
    base: u16,
    kick: Option<File>,
    call: Option<File>,
    error: Option<File>,
    enabled: bool,
    running: Option<Running>,
}

struct Running {
    /// The thread ends when this does.
    stop: PipeWriter,
    thread: JoinHandle<u16>,
}

impl Running {
    fn stop(self) -> u16 {
        drop(self.stop);
        self.thread.join().unwrap()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        for running in self.rings.iter_mut().filter_map(|ring| ring.running.take()) {
            running.stop();
        }
    }
}

impl Bridge {
    fn ring(&mut self, index: u32) -> Result<&mut Ring> {
        self.rings.get_mut(index as usize).ok_or(Error::InvalidParam)
    }

    fn guest_address(&self, address: u64) -> Result<u64> {
        let region = self.regions.iter().find(|(at, size, _)| (*at..at + size).contains(&address));
        region.map(|(at, _, guest)| address - at + guest).ok_or(Error::InvalidParam)
    }

    /// Starts a ring if it may run.
    fn start(&mut self, index: u32) -> Result<()> {
        let (driver, ram) = (self.driver, self.ram.clone().ok_or(Error::InvalidParam)?);
        let wire = self.wires[index as usize / 2].try_clone().unwrap();
        let is_enabled_at_once = driver & PROTOCOL_FEATURES == 0;
        let ring = self.ring(index)?;
        if !(ring.enabled || is_enabled_at_once) || ring.running.is_some() {
            return Ok(());
        }
        let (Some(kick), Some(call)) = (ring.kick.take(), ring.call.take()) else { return Ok(()) };
        let error = ring.error.take().ok_or(Error::InvalidParam)?;
        let state = QueueState { next_avail: ring.base, next_used: ring.base, in_flight: Vec::new() };
        let queue = Queue::new(ring.config, 1024, driver, state, ram).map_err(|_| Error::InvalidParam)?;
        let (stopped, stop) = pipe().unwrap();
        let worker = Worker { queue, kick, call, error, wire, stop: stopped, chain: Chain::with_capacity(1024) };
        let is_receive = index.is_multiple_of(2);
        let thread = thread::spawn(move || if is_receive { worker.receive() } else { worker.transmit() });
        ring.running = Some(Running { stop, thread });
        Ok(())
    }
}

struct Worker {
    queue: Queue,
    kick: File,
    call: File,
    error: File,
    wire: File,
    stop: PipeReader,
    chain: Chain,
}

impl Worker {
    /// Waits for a kick, or for the wire; `false`: for the end.
    fn wait(&mut self, kick: bool, wire: bool) -> bool {
        let watch = |wanted: bool| if wanted { PollFlags::IN } else { PollFlags::empty() };
        let mut fds = [
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::new(&self.kick, watch(kick)),
            PollFd::new(&self.wire, watch(wire)),
        ];
        poll(&mut fds, None).unwrap();
        let [stop, kick, _] = fds.each_ref().map(|fd| !fd.revents().is_empty());
        if kick {
            self.kick.read_exact(&mut [0; 8]).unwrap();
        }
        !stop
    }

    fn call(&mut self) {
        if self.queue.needs_notification().unwrap() {
            self.call.write_all(&1u64.to_ne_bytes()).unwrap();
        }
    }

    /// The ring can't be trusted.
    fn fail(mut self) -> u16 {
        self.error.write_all(&1u64.to_ne_bytes()).unwrap();
        self.wait(false, false);
        self.queue.state().next_avail
    }

    fn transmit(mut self) -> u16 {
        loop {
            loop {
                let (head, usable) = match self.queue.pop(&mut self.chain) {
                    Ok(Some(popped)) => popped,
                    Ok(None) => break,
                    Err(_) => return self.fail(),
                };
                if usable.is_ok() {
                    let mut frame = Vec::new();
                    for segment in self.chain.readable() {
                        let at = frame.len();
                        frame.resize(at + segment.len as usize, 0);
                        self.queue.mem().read_slice(&mut frame[at..], segment.address).unwrap();
                    }
                    // What has no room is lost.
                    let _ = self.wire.write(&frame);
                }
                self.queue.complete(head, 0).unwrap();
            }
            self.call();
            if !self.queue.enable_doorbell().unwrap() && !self.wait(true, false) {
                return self.queue.state().next_avail;
            }
        }
    }

    fn receive(mut self) -> u16 {
        let mut frame = vec![0; 70_000];
        loop {
            let Ok(available) = self.queue.available() else { return self.fail() };
            if available == 0 {
                if !self.queue.enable_doorbell().unwrap() && !self.wait(true, false) {
                    return self.queue.state().next_avail;
                }
                continue;
            }
            match self.wire.read(&mut frame) {
                Ok(len) => {
                    // All of it is in one chain.
                    frame[10..12].copy_from_slice(&1u16.to_le_bytes());
                    let Ok(Some((head, usable))) = self.queue.pop(&mut self.chain) else { return self.fail() };
                    let mut written = 0;
                    for segment in self.chain.writable().iter().filter(|_| usable.is_ok()) {
                        let part = &frame[written..len.min(written + segment.len as usize)];
                        self.queue.mem().write_slice(part, segment.address).unwrap();
                        written += part.len();
                    }
                    self.queue.complete(head, written as u32).unwrap();
                    self.call();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.wait(false, true) {
                        return self.queue.state().next_avail;
                    }
                }
                // The wire has ended.
                Err(_) => {
                    self.wait(false, false);
                    return self.queue.state().next_avail;
                }
            }
        }
    }
}

impl VhostUserBackendReqHandlerMut for Bridge {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(self.features)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        assert_eq!(features & !self.features, 0, "what is accepted was offered");
        self.driver = features;
        Ok(())
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::from_bits_truncate(self.protocol))
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        // The crate offers to answer each request by itself.
        let offered = self.protocol | VhostUserProtocolFeatures::REPLY_ACK.bits();
        assert_eq!(features & !offered, 0, "what is accepted was offered");
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.wires.len() as u64)
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<vhost::VhostUserMemoryRegionBase>>> {
        let mapped = regions.iter().zip(files).map(|(region, file)| {
            let part = FileOffset::new(file, region.mmap_offset);
            let mapping = MmapRegion::from_file(part, region.memory_size as usize).unwrap();
            GuestRegionMmap::new(mapping, GuestAddress(region.guest_phys_addr)).unwrap()
        });
        self.ram = Some(GuestRam::from_regions(mapped.collect()).unwrap());
        self.regions = regions.iter().map(|r| (r.user_addr, r.memory_size, r.guest_phys_addr)).collect();
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        self.ring(index)?.config.size = num as u16;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        _: u64,
    ) -> Result<()> {
        let [descriptor_table, avail_ring, used_ring] = [descriptor, available, used].map(|at| self.guest_address(at));
        let config = &mut self.ring(index)?.config;
        *config = QueueConfig {
            size: config.size,
            descriptor_table: descriptor_table?,
            avail_ring: avail_ring?,
            used_ring: used_ring?,
        };
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.ring(index)?.base = base as u16;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let ring = self.ring(index)?;
        if let Some(running) = ring.running.take() {
            ring.base = running.stop();
        }
        Ok(VhostUserVringState::new(index, ring.base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(index.into())?.kick = fd;
        self.start(index.into())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(index.into())?.call = fd;
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        self.ring(index.into())?.error = fd;
        Ok(())
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        self.ring(index)?.enabled = enable;
        self.start(index)
    }

    // None of the rest is asked for.

    fn reset_owner(&mut self) -> Result<()> {
        Err(Error::InvalidParam)
    }

    fn reset_device(&mut self) -> Result<()> {
        Err(Error::InvalidParam)
    }

    fn get_config(&mut self, _: u32, _: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        Err(Error::InvalidParam)
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        Err(Error::InvalidParam)
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        Err(Error::InvalidParam)
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        Err(Error::InvalidParam)
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        Err(Error::InvalidParam)
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        Err(Error::InvalidParam)
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Err(Error::InvalidParam)
    }

    fn add_mem_region(
        &mut self,
        _: &VhostUserSingleMemoryRegion,
        _: File,
        _: Option<bool>,
    ) -> Result<Option<vhost::VhostUserMemoryRegionBase>> {
        Err(Error::InvalidParam)
    }

    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> Result<()> {
        Err(Error::InvalidParam)
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        Err(Error::InvalidParam)
    }

    fn check_device_state(&mut self) -> Result<()> {
        Err(Error::InvalidParam)
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        Err(Error::InvalidParam)
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> Result<()> {
        Err(Error::InvalidParam)
    }
}
