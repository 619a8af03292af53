// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Two network cards on one bus and in one RAM, behind virtio-mmio or virtio-pci, for the tests: one whose guest can do
//! anything, and a neighbour whose driver means well and is never reset.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use vm_memory::{Bytes, FileOffset, GuestAddress, GuestRegionMmap, MmapRegion};
use vmm_sys_util::eventfd::EventFd;

use super::{Backend, MacAddress, Net, NetControl, NetOptions, QueueCounters, spec};
use crate::GuestRam;
use crate::bus;
use crate::interrupt::MsiMessage;
use crate::pci::mock::{MockMachine, MockVectors};
use crate::sys::doorbell;
use crate::virtio::mock::{Buffer, MockDriver, readable, writable};
use crate::virtio::queue::QueueState;
use crate::virtio::transport::mmio::{MmioTransport, QUEUE_NOTIFY};
use crate::virtio::transport::pci::mock::{MockFunction, QUEUE_VECTOR};
use crate::virtio::transport::pci::{self, PciTransport};
use crate::virtio::transport::{self};
use crate::virtio::{VirtioDevice, features};

/// RAM has a hole between 1 MiB and 2 MiB.
const RAM: [(GuestAddress, usize); 2] = [(GuestAddress(0), 1 << 20), (GuestAddress(2 << 20), 2 << 20)];
/// Where it is.
pub(super) const HOLE: u64 = 1 << 20;
pub(super) const RAM_END: u64 = 4 << 20;
pub(super) const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
pub(super) const UNTOUCHED: u8 = 0xee;

/// Where the attacked card's rings and buffers are, and the neighbour's.
pub(super) const BASE: u64 = 0x1_0000;
const NEIGHBOUR: u64 = 0x8_0000;
/// Within those: the rings of the queues, 4 KiB each, and buffers.
pub(super) const HEADER: u64 = 0x6000;
pub(super) const COMMAND: u64 = 0x6100;
pub(super) const ACK: u64 = 0x6f00;
pub(super) const FRAME: u64 = 0x7000;
pub(super) const BUFFER: u64 = 0x8000;

const QUEUE_SIZE: u16 = 16;
const DEVICE_STATUS: u64 = 0x70;
const DRIVER_OK: u32 = 15;
const NEEDS_RESET: u32 = 0x40;
const MMIO: u64 = 0xd000_0000;

/// Cards that were made so far.
static CARDS: AtomicU64 = AtomicU64::new(0);

pub(super) fn mac() -> MacAddress {
    MacAddress::new(MAC).unwrap()
}

pub(super) fn options() -> NetOptions {
    NetOptions { queue_size: QUEUE_SIZE, ..NetOptions::new(mac()) }
}

/// A frame of the card's to everybody, of a kind that nobody knows.
pub(super) fn frame(len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| (at * 7 % 251) as u8).collect();
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&MAC);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bus {
    Mmio,
    Pci,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tap,
    Stream,
}

pub(super) const PLACES: [(Bus, Kind); 4] =
    [(Bus::Mmio, Kind::Tap), (Bus::Pci, Kind::Tap), (Bus::Mmio, Kind::Stream), (Bus::Pci, Kind::Stream)];

/// The host's other end of a backend.
#[derive(Debug)]
pub(super) enum Peer {
    Tap(UnixDatagram),
    Stream(UnixStream),
}

impl Peer {
    pub(super) fn pair(kind: Kind) -> (Self, Backend) {
        match kind {
            Kind::Tap => {
                let (ours, theirs) = UnixDatagram::pair().unwrap();
                (Self::Tap(ours), Backend::Datagram { socket: theirs, vnet_header: true })
            }
            Kind::Stream => {
                let (ours, theirs) = UnixStream::pair().unwrap();
                (Self::Stream(ours), Backend::Stream { socket: theirs, reconnect: None })
            }
        }
    }

    pub(super) fn send(&self, frame: &[u8]) {
        match self {
            Self::Tap(socket) => drop(socket.send(&[&[0; 12], frame].concat()).unwrap()),
            Self::Stream(socket) => {
                let mut socket = socket;
                socket.write_all(&[&(frame.len() as u32).to_be_bytes(), frame].concat()).unwrap();
            }
        }
    }

    /// Waits for a frame; its virtio header comes with it.
    pub(super) fn receive(&self) -> ([u8; 12], Vec<u8>) {
        match self {
            Self::Tap(socket) => {
                let mut bytes = vec![0; 70_000];
                let len = socket.recv(&mut bytes).unwrap();
                (bytes[..12].try_into().unwrap(), bytes[12..len].to_vec())
            }
            Self::Stream(socket) => {
                let (mut socket, mut length) = (socket, [0; 4]);
                socket.read_exact(&mut length).unwrap();
                let mut frame = vec![0; u32::from_be_bytes(length) as usize];
                socket.read_exact(&mut frame).unwrap();
                ([0; 12], frame)
            }
        }
    }

    /// Nothing more has come.
    pub(super) fn is_silent(&self) -> bool {
        let mut byte = [0; 1];
        let result = match self {
            Self::Tap(socket) => {
                socket.set_nonblocking(true).unwrap();
                let result = socket.recv(&mut byte);
                socket.set_nonblocking(false).unwrap();
                result
            }
            Self::Stream(socket) => {
                socket.set_nonblocking(true).unwrap();
                let mut reader = socket;
                let result = reader.read(&mut byte);
                socket.set_nonblocking(false).unwrap();
                result
            }
        };
        result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

enum Host {
    Mmio(bus::Bus),
    Pci(MockMachine),
}

enum Way {
    Mmio { address: u64, line: EventFd, transport: Arc<MmioTransport> },
    Pci { function: MockFunction, vectors: Arc<MockVectors>, transport: Arc<PciTransport> },
}

/// One card, as its guest and its host see it.
pub(super) struct Seat {
    way: Way,
    host: Arc<Host>,
    pub(super) mem: GuestRam,
    /// Where its memory is.
    pub(super) base: u64,
    pub(super) control: NetControl,
    pub(super) peers: Vec<Peer>,
    /// What it offers.
    pub(super) features: u64,
    name: String,
}

/// The drivers of a card's queues.
pub(super) struct Drivers {
    pub(super) queues: Vec<MockDriver>,
}

impl Drivers {
    pub(super) fn rx(&mut self) -> &mut MockDriver {
        &mut self.queues[0]
    }
    pub(super) fn tx(&mut self) -> &mut MockDriver {
        &mut self.queues[1]
    }
    /// The control queue, which is the last one.
    pub(super) fn control(&mut self) -> &mut MockDriver {
        self.queues.last_mut().unwrap()
    }
}

impl Seat {
    pub(super) fn write(&self, register: u64, value: u32) {
        match (&*self.host, &self.way) {
            (Host::Mmio(bus), Way::Mmio { address, .. }) => bus.write(address + register, &value.to_le_bytes()),
            (Host::Pci(machine), Way::Pci { function, .. }) => {
                let (offset, width) = match register {
                    DEVICE_STATUS => (0x14, 1),
                    0x24 => (0x08, 4),
                    0x20 => (0x0c, 4),
                    0x30 => (0x16, 2),
                    0x38 => (0x18, 2),
                    0x44 => (0x1c, 2),
                    0x80 | 0x84 => (0x20 + register % 16, 4),
                    0x90 | 0x94 => (0x28 + register % 16, 4),
                    0xa0 | 0xa4 => (0x30 + register % 16, 4),
                    _ => return,
                };
                function.set(machine, offset, &value.to_le_bytes()[..width]);
            }
            _ => unreachable!(),
        }
    }

    pub(super) fn status(&self) -> u32 {
        match (&*self.host, &self.way) {
            (Host::Mmio(bus), Way::Mmio { address, .. }) => {
                let mut data = [0; 4];
                bus.read(address + DEVICE_STATUS, &mut data);
                u32::from_le_bytes(data)
            }
            (Host::Pci(machine), Way::Pci { function, .. }) => function.get::<1>(machine, 0x14) as u32,
            _ => unreachable!(),
        }
    }

    /// Reads two bytes of the configuration space.
    pub(super) fn config(&self, offset: u64) -> u16 {
        let mut data = [0; 2];
        match (&*self.host, &self.way) {
            (Host::Mmio(bus), Way::Mmio { address, .. }) => bus.read(address + 0x100 + offset, &mut data),
            (Host::Pci(machine), Way::Pci { function, .. }) => machine.read(function.config + offset, &mut data),
            _ => unreachable!(),
        }
        u16::from_le_bytes(data)
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.status() & NEEDS_RESET != 0
    }

    pub(super) fn ring(&self, queue: u32) {
        match (&*self.host, &self.way) {
            (Host::Mmio(_), _) => self.write(QUEUE_NOTIFY, queue),
            (Host::Pci(machine), Way::Pci { function, .. }) => function.notify(machine, queue as u16),
            _ => unreachable!(),
        }
    }

    pub(super) fn wait_interrupt(&self) {
        match &self.way {
            Way::Mmio { line, .. } => line.read().unwrap(),
            Way::Pci { vectors, .. } if vectors.listens.load(Ordering::Relaxed) => {
                // This is the kernel.
                while !doorbell::take(&vectors.any).unwrap() {
                    vectors.pump();
                    thread::yield_now();
                }
                0
            }
            Way::Pci { vectors, .. } => vectors.any.read().unwrap(),
        };
    }

    /// Waits until the kernel listens to so many events by itself.
    pub(super) fn connected(&self, events: usize) {
        let Way::Pci { vectors, .. } = &self.way else { unreachable!() };
        while vectors.pump() != events {
            thread::yield_now();
        }
    }

    /// Whether the kernel listens to events that it is asked to listen to from now on.
    pub(super) fn set_listens(&self, listens: bool) {
        let Way::Pci { vectors, .. } = &self.way else { unreachable!() };
        vectors.listens.store(listens, Ordering::Relaxed);
    }

    fn pci(&self) -> (&MockMachine, &MockFunction) {
        match (&*self.host, &self.way) {
            (Host::Pci(machine), Way::Pci { function, .. }) => (machine, function),
            _ => unreachable!(),
        }
    }

    /// Gives a queue another vector.
    pub(super) fn set_vector(&self, queue: u32, vector: u16) {
        let (machine, function) = self.pci();
        self.write(0x30, queue);
        function.set(machine, 0x1a, &vector.to_le_bytes());
    }

    /// Masks a vector, or unmasks it.
    pub(super) fn mask(&self, vector: u64, masked: bool) {
        let (machine, function) = self.pci();
        machine.write(function.table + 16 * vector + 12, &u32::from(masked).to_le_bytes());
    }

    /// The pending bits.
    pub(super) fn pending(&self) -> u64 {
        let (machine, function) = self.pci();
        machine.number::<8>(function.pba)
    }

    fn transport(&self) -> &dyn transport::Transport {
        match &self.way {
            Way::Mmio { transport, .. } => transport.as_ref(),
            Way::Pci { transport, .. } => transport.as_ref(),
        }
    }

    pub(super) fn stop(&self) -> Vec<(u16, Option<QueueState>)> {
        self.transport().stop()
    }

    pub(super) fn resume(&self) {
        self.transport().resume();
    }

    pub(super) fn reset(&self) {
        self.write(DEVICE_STATUS, 0);
    }

    /// Resets the device and goes as far as features are agreed upon.
    pub(super) fn negotiate(&self, accepted: u64) {
        self.reset();
        // Only now does nobody else write there any more.
        self.mem.write_slice(&[0; 0x6000], GuestAddress(self.base)).unwrap();
        let [low, high] = [accepted as u32, (accepted >> 32) as u32];
        for (register, value) in [(0x70, 1), (0x70, 3), (0x24, 0), (0x20, low), (0x24, 1), (0x20, high), (0x70, 11)] {
            self.write(register, value);
        }
        if let (Host::Pci(machine), Way::Pci { function, .. }) = (&*self.host, &self.way) {
            function.set(machine, 0x10, &0u16.to_le_bytes());
        }
    }

    /// Sets up a queue well.
    pub(super) fn queue(&self, index: u16) -> MockDriver {
        let driver = MockDriver::new(&self.mem, self.base + 0x1000 * u64::from(index), QUEUE_SIZE);
        let config = driver.config;
        self.write(0x30, index.into());
        self.write(0x38, config.size.into());
        if let (Host::Pci(machine), Way::Pci { function, .. }) = (&*self.host, &self.way) {
            function.set(machine, 0x1a, &QUEUE_VECTOR.to_le_bytes());
        }
        for (register, address) in
            [(0x80, config.descriptor_table), (0x90, config.avail_ring), (0xa0, config.used_ring)]
        {
            self.write(register, address as u32);
            self.write(register + 4, (address >> 32) as u32);
        }
        self.write(0x44, 1);
        driver
    }

    pub(super) fn driver_ok(&self) {
        self.write(DEVICE_STATUS, DRIVER_OK);
    }

    /// Drivers that have set up everything well, of a device that hasn't begun.
    pub(super) fn waiting_drivers(&self, accepted: u64) -> Drivers {
        self.negotiate(accepted | features::VERSION_1);
        let pairs = if accepted & spec::F_MQ == 0 { 1 } else { self.peers.len() as u16 };
        let queues =
            (0..2 * pairs + u16::from(accepted & spec::F_CTRL_VQ != 0)).map(|index| self.queue(index)).collect();
        self.mem.write_slice(&[UNTOUCHED; 0x8000], GuestAddress(self.base + HEADER)).unwrap();
        self.mem.write_slice(&[0; 12], GuestAddress(self.base + HEADER)).unwrap();
        Drivers { queues }
    }

    /// Drivers whose device has begun: with indirect descriptors, without events.
    pub(super) fn drivers(&self, accepted: u64) -> Drivers {
        let drivers = self.waiting_drivers(accepted | features::RING_INDIRECT_DESC);
        self.driver_ok();
        assert_eq!(self.status(), DRIVER_OK);
        drivers
    }

    /// All features of the device's own.
    pub(super) fn all_drivers(&self) -> Drivers {
        self.drivers(self.features)
    }

    /// Rings, and waits until the device has given something back or asks for a reset.
    pub(super) fn serve(&self, queue: u32, driver: &mut MockDriver) -> Option<(u32, u32)> {
        self.ring(queue);
        self.wait_used(driver)
    }

    pub(super) fn wait_used(&self, driver: &mut MockDriver) -> Option<(u32, u32)> {
        loop {
            if let Some(used) = driver.take_used() {
                return Some(used);
            }
            if self.needs_reset() {
                return None;
            }
            self.wait_interrupt();
        }
    }

    pub(super) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(self.base + at)).unwrap();
        bytes
    }

    pub(super) fn put(&self, at: u64, bytes: &[u8]) {
        self.mem.write_slice(bytes, GuestAddress(self.base + at)).unwrap();
    }

    /// A buffer that is the card's own.
    pub(super) fn readable(&self, at: u64, len: usize) -> Buffer {
        readable(self.base + at, len as u32)
    }

    pub(super) fn writable(&self, at: u64, len: usize) -> Buffer {
        writable(self.base + at, len as u32)
    }

    /// Makes a frame available with the header that is there.
    pub(super) fn offer(&self, drivers: &mut Drivers, frame: &[u8]) -> u16 {
        self.put(FRAME, frame);
        drivers.tx().submit(&[self.readable(HEADER, 12), self.readable(FRAME, frame.len())])
    }

    /// Sends a frame with this header; `None`: it was not sent, and came back all the same.
    pub(super) fn transmit(
        &self,
        drivers: &mut Drivers,
        header: [u8; 12],
        frame: &[u8],
    ) -> Option<([u8; 12], Vec<u8>)> {
        self.put(HEADER, &header);
        // A thread that is awake needs no doorbell.
        let before = self.counters(1).frames;
        let head = self.offer(drivers, frame);
        assert_eq!(self.serve(1, drivers.tx()), Some((head.into(), 0)));
        if self.counters(1).frames == before {
            assert!(self.peers[0].is_silent());
            return None;
        }
        Some(self.peers[0].receive())
    }

    /// Does a command of the control queue; gives the answer.
    pub(super) fn command(&self, drivers: &mut Drivers, command: &[u8]) -> u8 {
        self.put(COMMAND, command);
        self.put(ACK, &[UNTOUCHED]);
        let index = drivers.queues.len() as u32 - 1;
        let control = drivers.control();
        control.submit(&[self.readable(COMMAND, command.len()), self.writable(ACK, 1)]);
        assert_eq!(self.serve(index, control).unwrap().1, 1);
        self.bytes(ACK, 1)[0]
    }

    pub(super) fn counters(&self, queue: usize) -> QueueCounters {
        self.control.counters()[queue]
    }

    /// Waits until the thread of a pair sleeps, and nothing wakes it. One that spins never comes to that.
    pub(super) fn settles(&self, pair: usize) {
        let name = format!("{} q{pair}\n", self.name);
        let is_named = |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm == name);
        let tasks = || fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let task = loop {
            // A thread has its name a moment after it has begun.
            if let Some(task) = tasks().find(is_named) {
                break task;
            }
            thread::yield_now();
        };
        // What it has used of its processor, how often it was woken, and whether it sleeps.
        let look = || {
            let [times, status] = ["schedstat", "status"].map(|file| fs::read_to_string(task.join(file)).unwrap());
            let line = |key: &str| status.lines().find(|line| line.starts_with(key)).unwrap().to_owned();
            (times, line("voluntary_ctxt_switches"), line("State").contains("(sleeping)"))
        };
        let (mut before, mut same) = (look(), 0);
        while same < 3 {
            thread::yield_now();
            let now = look();
            same = if now == before && now.2 { same + 1 } else { 0 };
            before = now;
        }
    }

    /// A frame goes out and another one comes in, in a device that works. There are no buffers for others.
    pub(super) fn passes(&self, drivers: &mut Drivers) {
        let sent = frame(60);
        assert_eq!(self.transmit(drivers, [0; 12], &sent), Some(([0; 12], sent)));
        self.comes_in(drivers, &frame(100));
    }

    pub(super) fn comes_in(&self, drivers: &mut Drivers, frame: &[u8]) {
        let head = drivers.rx().submit(&[self.writable(BUFFER, 2000)]);
        self.ring(0);
        self.peers[0].send(frame);
        assert_eq!(self.wait_used(drivers.rx()), Some((head.into(), 12 + frame.len() as u32)));
        let mut expected = vec![0; 12];
        expected[10] = 1;
        expected.extend(frame);
        assert_eq!(self.bytes(BUFFER, expected.len()), expected);
    }

    /// After a reset, the device passes frames.
    pub(super) fn comes_back(&self) {
        let mut drivers = self.drivers(spec::F_CTRL_VQ);
        // What came before the reset is not for this driver.
        self.control.set_link(false);
        self.settles(0);
        self.control.set_link(true);
        self.passes(&mut drivers);
    }
}

pub(super) struct Machine {
    pub(super) card: Seat,
    pub(super) neighbour: Seat,
    neighbour_drivers: Mutex<Drivers>,
}

impl Machine {
    pub(super) fn new(place: (Bus, Kind), options: NetOptions) -> Self {
        Self::with_pairs(place, options, 1)
    }

    /// A machine whose card has so many queue pairs.
    pub(super) fn with_pairs((bus, kind): (Bus, Kind), options: NetOptions, pairs: usize) -> Self {
        Self::on(bus, options, (0..pairs).map(|_| Peer::pair(kind)).collect(), Peer::pair(kind))
    }

    /// A machine whose cards have these backends.
    pub(super) fn on(bus: Bus, options: NetOptions, pairs: Vec<(Peer, Backend)>, neighbour: (Peer, Backend)) -> Self {
        let (peers, backends) = pairs.into_iter().unzip();
        let mem = GuestRam::from_ranges(&RAM).unwrap();
        Self::in_ram(mem, bus, options, (peers, backends), neighbour)
    }

    /// The same, where the card's backend has all of its queue pairs, and the RAM is a file.
    pub(super) fn with_user(bus: Bus, peers: Vec<Peer>, backend: Backend) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(RAM_END).unwrap();
        let region = |(address, size): (GuestAddress, usize)| {
            let part = FileOffset::new(file.try_clone().unwrap(), address.0);
            GuestRegionMmap::new(MmapRegion::from_file(part, size).unwrap(), address).unwrap()
        };
        let mem = GuestRam::from_regions(RAM.map(region).into()).unwrap();
        let machine = Self::in_ram(mem, bus, self::options(), (peers, vec![backend]), Peer::pair(Kind::Tap));
        if let Way::Pci { vectors, .. } = &machine.card.way {
            vectors.listens.store(true, Ordering::Relaxed);
        }
        machine
    }

    fn in_ram(
        mem: GuestRam,
        bus: Bus,
        options: NetOptions,
        (peers, backends): (Vec<Peer>, Vec<Backend>),
        (peer, backend): (Peer, Backend),
    ) -> Self {
        let cards = [(options, peers, backends), (self::options(), vec![peer], vec![backend])];
        let mut host = match bus {
            Bus::Mmio => Host::Mmio(bus::Bus::new()),
            Bus::Pci => Host::Pci(MockMachine::new()),
        };
        let mut made = Vec::new();
        for (index, (options, peers, backends)) in (0u64..).zip(cards) {
            // Its threads have names of their own.
            let name = format!("eth{}", CARDS.fetch_add(1, Ordering::Relaxed));
            let net = Net::new(&name, backends, options).unwrap();
            let (control, offered) = (net.control(), net.features());
            made.push((add(&mut host, index, net, &mem), control, offered, peers, name));
        }
        let host = Arc::new(host);
        let mut seats = made.into_iter().zip([BASE, NEIGHBOUR]).map(|((way, control, features, peers, name), base)| {
            Seat { way, host: host.clone(), mem: mem.clone(), base, control, peers, features, name }
        });
        let (card, neighbour) = (seats.next().unwrap(), seats.next().unwrap());
        let neighbour_drivers = Mutex::new(neighbour.drivers(0));
        Self { card, neighbour, neighbour_drivers }
    }

    /// The neighbour has a buffer under way.
    pub(super) fn neighbour_begins(&self) {
        let mut drivers = self.neighbour_drivers.lock().unwrap();
        drivers.rx().submit(&[self.neighbour.writable(BUFFER, 2000)]);
        self.neighbour.ring(0);
    }

    /// A frame comes in for it, and others pass.
    pub(super) fn neighbour_works(&self) {
        let mut drivers = self.neighbour_drivers.lock().unwrap();
        self.neighbour.peers[0].send(&frame(333));
        assert_eq!(self.neighbour.wait_used(drivers.rx()).unwrap().1, 345);
        self.neighbour.passes(&mut drivers);
    }
}

fn add(host: &mut Host, index: u64, net: Net, mem: &GuestRam) -> Way {
    match host {
        Host::Mmio(bus) => {
            let line = EventFd::new(libc::EFD_CLOEXEC).unwrap();
            let interrupt = Box::new(line.try_clone().unwrap());
            let transport = Arc::new(MmioTransport::new(Box::new(net), mem.clone(), interrupt).unwrap());
            let address = MMIO + 0x1000 * index;
            bus.insert(address, 0x1000, transport.clone()).unwrap();
            Way::Mmio { address, line, transport }
        }
        Host::Pci(machine) => {
            let vectors = MockVectors::new(pci::vectors(&net).unwrap());
            let doorbells = machine.doorbells.clone();
            let transport = PciTransport::new(Box::new(net), mem.clone(), vectors.clone(), doorbells).unwrap();
            let function = MockFunction::probe(machine, machine.pci.add(transport.clone()).unwrap());
            for vector in [0, QUEUE_VECTOR] {
                function.set_vector(machine, vector, MsiMessage { address: 0xfee0_0000, data: 0x40 });
            }
            Way::Pci { function, vectors, transport }
        }
    }
}
