// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A console and its driver, for the tests of this directory.

use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::Arc;

use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::spec::{self, Message, Role};
use super::{Console, ConsoleBackend, ConsolePort};
use crate::GuestRam;
use crate::virtio::device::{QueueResources, VirtioDevice};
use crate::virtio::mock::{Buffer, Interrupts, MockDriver, ram, readable, writable};
use crate::virtio::notifier::Notifier;
use crate::virtio::queue::{Queue, QueueState};

/// What the guest puts out of.
pub(super) const OUT: u64 = 0x20_0000;
/// Where buffers for input are.
const IN: u64 = 0x10_0000;
/// Bytes of one.
const ROOM: u64 = 0x1000;
const QUEUE: u16 = 16;

pub(super) struct Rig {
    pub(super) console: Console,
    pub(super) mem: GuestRam,
    pub(super) drivers: Vec<MockDriver>,
    doorbells: Vec<EventFd>,
    pub(super) notifier: Arc<Notifier>,
    interrupts: EventFd,
    pub(super) folder: TempDir,
    features: u64,
}

/// A port at a socket of this name in the folder.
pub(super) fn socket(folder: &TempDir, name: &str) -> ConsoleBackend {
    let listener = UnixListener::bind(folder.path().join(name)).unwrap();
    let sizes = UnixDatagram::bind(folder.path().join(format!("{name}.size"))).unwrap();
    ConsoleBackend::Socket { listener, sizes: Some(sizes) }
}

pub(super) fn port(name: Option<&str>, backend: ConsoleBackend) -> ConsolePort {
    ConsolePort { name: name.map(str::to_owned), backend, log: None }
}

impl Rig {
    /// One console without a name, at the socket `0`.
    pub(super) fn lone() -> Self {
        Self::new(|folder| vec![port(None, socket(folder, "0"))])
    }

    /// A console at the socket `0`, and a plain port at the socket `1`, both with names.
    pub(super) fn many() -> Self {
        Self::new(|folder| vec![port(Some("zero"), socket(folder, "0")), port(Some("one"), socket(folder, "1"))])
    }

    pub(super) fn new(ports: impl FnOnce(&TempDir) -> Vec<ConsolePort>) -> Self {
        let mem = ram(0x40_0000);
        let folder = tempfile::tempdir().unwrap();
        let console = Console::new("console", ports(&folder)).unwrap();
        let queues = console.queue_sizes().len() as u64;
        let interrupts = EventFd::new(libc::EFD_CLOEXEC).unwrap();
        let notifier = Arc::new(Notifier::new(Arc::new(Interrupts(interrupts.try_clone().unwrap()))));
        let mut rig = Self {
            features: console.features(),
            drivers: (0..queues).map(|at| MockDriver::new(&mem, 0x1000 * (at + 1), QUEUE)).collect(),
            doorbells: (0..queues).map(|_| EventFd::new(libc::EFD_CLOEXEC).unwrap()).collect(),
            console,
            notifier,
            interrupts,
            folder,
            mem,
        };
        for index in 0..queues as u16 {
            rig.start(index, QueueState::default());
        }
        rig
    }

    pub(super) fn start(&mut self, index: u16, state: QueueState) {
        let queue = Queue::new(self.drivers[usize::from(index)].config, 256, 0, state, self.mem.clone()).unwrap();
        let doorbell = self.doorbells[usize::from(index)].try_clone().unwrap();
        let resources = QueueResources { queue, doorbell, notifier: self.notifier.clone() };
        self.console.start_queue(index, resources, self.features).unwrap();
    }

    pub(super) fn ring(&self, index: u16) {
        self.doorbells[usize::from(index)].write(1).unwrap();
    }

    pub(super) fn attach(&self, name: &str) -> UnixStream {
        UnixStream::connect(self.folder.path().join(name)).unwrap()
    }

    /// Says how large the terminal at a socket is.
    pub(super) fn say_size(&self, name: &str, text: &str) {
        let to = self.folder.path().join(format!("{name}.size"));
        UnixDatagram::unbound().unwrap().send_to(text.as_bytes(), to).unwrap();
    }

    /// Gives a buffer of a queue's for the device to write.
    pub(super) fn give(&mut self, index: u16) {
        let address = IN + u64::from(index) * ROOM;
        self.drivers[usize::from(index)].submit(&[writable(address, ROOM as u32)]);
        self.ring(index);
    }

    /// Waits until a queue's next buffer was used; gives how much was written.
    pub(super) fn used(&mut self, index: u16) -> u32 {
        loop {
            if let Some((_, written)) = self.drivers[usize::from(index)].take_used() {
                return written;
            }
            self.interrupts.read().unwrap();
        }
    }

    /// Gives a buffer, and waits for what is written into it.
    pub(super) fn take(&mut self, index: u16) -> Vec<u8> {
        self.give(index);
        self.taken(index)
    }

    /// Waits for what is written into a buffer that was given.
    pub(super) fn taken(&mut self, index: u16) -> Vec<u8> {
        let mut bytes = vec![0; self.used(index) as usize];
        self.mem.read_slice(&mut bytes, GuestAddress(IN + u64::from(index) * ROOM)).unwrap();
        bytes
    }

    /// Submits buffers for the device to read, and waits until they are back.
    pub(super) fn submit(&mut self, index: u16, buffers: &[Buffer]) {
        self.drivers[usize::from(index)].submit(buffers);
        self.ring(index);
        assert_eq!(self.used(index), 0, "nothing is written to what the guest puts out");
    }

    /// Puts bytes out at a port.
    pub(super) fn put_out(&mut self, port: usize, bytes: &[u8]) {
        self.mem.write_slice(bytes, GuestAddress(OUT)).unwrap();
        self.submit(Role::first_queue(port) + 1, &[readable(OUT, bytes.len() as u32)]);
    }

    /// Takes what is put in at a port.
    pub(super) fn take_in(&mut self, port: usize) -> Vec<u8> {
        self.take(Role::first_queue(port))
    }

    pub(super) fn say(&mut self, message: Message) {
        self.mem.write_slice(&message, GuestAddress(OUT)).unwrap();
        self.submit(spec::CONTROL_TRANSMIT, &[readable(OUT, 8)]);
    }

    /// The next control message: port, event, value, and what follows.
    pub(super) fn hear(&mut self) -> (u32, u16, u16, Vec<u8>) {
        let bytes = self.take(spec::CONTROL_RECEIVE);
        let (message, rest) = bytes.split_first_chunk().unwrap();
        let (port, event, value) = spec::parse(*message);
        (port, event, value, rest.to_vec())
    }

    /// Has a driver find all ports and open them, as Linux does.
    pub(super) fn open(mut self, ports: u32) -> Self {
        self.say(spec::message(0, spec::DEVICE_READY, 1));
        for port in 0..ports {
            assert_eq!(self.hear(), (port, spec::DEVICE_ADD, 1, vec![]));
        }
        for port in 0..ports {
            self.say(spec::message(port, spec::PORT_READY, 1));
            while self.hear().1 != spec::PORT_OPEN {}
            self.say(spec::message(port, spec::PORT_OPEN, 1));
        }
        self
    }

    /// Waits until the driver is told that the configuration space has changed.
    pub(super) fn wait_for_config(&self) {
        while self.interrupts.read().unwrap() < 1 << 32 {}
    }

    /// What the configuration space has: columns, rows, ports.
    pub(super) fn config(&self) -> (u16, u16, u32) {
        let mut bytes = [0; 12];
        self.console.read_config(0, &mut bytes);
        assert_eq!(bytes[8..], [0; 4]);
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        (half(0), half(2), u32::from_le_bytes(bytes[4..8].try_into().unwrap()))
    }

    /// Resets the device as the transport does, and starts it again.
    pub(super) fn reset(&mut self) {
        let queues = self.drivers.len();
        for index in 0..queues as u16 {
            self.console.stop_queue(index);
        }
        self.console.reset();
        for (at, driver) in self.drivers.iter_mut().enumerate() {
            let base = 0x1000 * (at as u64 + 1);
            self.mem.write_slice(&[0; 0x1000], GuestAddress(base)).unwrap();
            *driver = MockDriver::new(&self.mem, base, QUEUE);
        }
        for index in 0..queues as u16 {
            self.start(index, QueueState::default());
        }
    }
}
