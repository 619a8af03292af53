// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A socket device, its driver and a folder for the host's sockets, for the tests of this directory.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::host::port_path;
use super::spec::{self, Header};
use super::{Vsock, VsockOptions};
use crate::GuestRam;
use crate::virtio::device::{QueueResources, VirtioDevice};
use crate::virtio::mock::{Buffer, Interrupts, MockDriver, ram, readable, writable};
use crate::virtio::notifier::Notifier;
use crate::virtio::queue::{Queue, QueueState};

pub(super) const CID: u64 = 3;
/// Bytes of a buffer for packets to the guest.
pub(super) const ROOM: u64 = 4096;
/// What a packet is sent from.
const OUT: u64 = 0x4_0000;
/// Where buffers for packets to the guest are.
const IN: u64 = 0x20_0000;
const QUEUE: u16 = 64;

pub(super) struct Rig {
    pub(super) vsock: Vsock,
    pub(super) mem: GuestRam,
    pub(super) drivers: [MockDriver; 3],
    pub(super) doorbells: [EventFd; 3],
    pub(super) notifier: Arc<Notifier>,
    interrupts: EventFd,
    folder: TempDir,
    /// How many buffers were given.
    given: u64,
    /// Where each head's buffer is.
    rooms: [u64; QUEUE as usize],
}

impl Rig {
    /// A device that runs, without buffers for packets to the guest.
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(super) fn with(change: impl FnOnce(&mut VsockOptions)) -> Self {
        let mem = ram(0x80_0000);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v");
        let listener = UnixListener::bind(&path).unwrap();
        let mut options = VsockOptions { cid: CID as u32, host: Some((listener, path)), ports: Default::default() };
        change(&mut options);
        let interrupts = EventFd::new(libc::EFD_CLOEXEC).unwrap();
        let notifier = Arc::new(Notifier::new(Arc::new(Interrupts(interrupts.try_clone().unwrap()))));
        let mut rig = Self {
            vsock: Vsock::new("vsock", options).unwrap(),
            drivers: [0x1000, 0x2000, 0x3000].map(|base| MockDriver::new(&mem, base, QUEUE)),
            doorbells: [0, 1, 2].map(|_| EventFd::new(libc::EFD_CLOEXEC).unwrap()),
            notifier,
            interrupts,
            folder,
            given: 0,
            rooms: [0; QUEUE as usize],
            mem,
        };
        for index in 0..3 {
            rig.start(index, QueueState::default());
        }
        rig
    }

    /// A device that runs, with buffers for packets to the guest.
    pub(super) fn ready() -> Self {
        let mut rig = Self::new();
        rig.give(32);
        rig
    }

    pub(super) fn start(&mut self, index: u16, state: QueueState) {
        let driver = &self.drivers[usize::from(index)];
        let queue = Queue::new(driver.config, 256, 0, state, self.mem.clone()).unwrap();
        let doorbell = self.doorbells[usize::from(index)].try_clone().unwrap();
        let resources = QueueResources { queue, doorbell, notifier: self.notifier.clone() };
        self.vsock.start_queue(index, resources, 0).unwrap();
    }

    pub(super) fn ring(&self, index: u16) {
        self.doorbells[usize::from(index)].write(1).unwrap();
    }

    /// Gives buffers for packets to the guest.
    pub(super) fn give(&mut self, buffers: usize) {
        for _ in 0..buffers {
            let address = IN + (self.given % u64::from(QUEUE)) * ROOM;
            self.given += 1;
            let head = self.drivers[0].submit(&[writable(address, ROOM as u32)]);
            self.rooms[usize::from(head)] = address;
        }
        self.ring(spec::RECEIVE);
    }

    /// Sends buffers as a packet, and waits until it was taken.
    pub(super) fn submit(&mut self, buffers: &[Buffer]) {
        self.drivers[1].submit(buffers);
        self.ring(spec::TRANSMIT);
        let written = loop {
            if let Some((_, written)) = self.drivers[1].take_used() {
                break written;
            }
            self.interrupts.read().unwrap();
        };
        assert_eq!(written, 0, "nothing is written to what the guest sends");
    }

    pub(super) fn write_header(&self, header: Header) {
        self.mem.write_slice(&header.to_bytes(), GuestAddress(OUT)).unwrap();
    }

    /// Sends a packet, with `len` as it is in the header, and waits until it was taken.
    pub(super) fn send_raw(&mut self, header: Header, data: &[u8]) {
        self.write_header(header);
        self.mem.write_slice(data, GuestAddress(OUT + 0x100)).unwrap();
        let mut buffers = vec![readable(OUT, spec::HEADER_SIZE)];
        if !data.is_empty() {
            buffers.push(readable(OUT + 0x100, data.len() as u32));
        }
        self.submit(&buffers);
    }

    /// A header that the guest writes, with room for a lot.
    pub(super) fn header(guest: u32, host: u32, op: u16) -> Header {
        Header {
            src_cid: CID,
            dst_cid: spec::HOST_CID,
            src_port: guest,
            dst_port: host,
            kind: spec::TYPE_STREAM,
            op,
            buf_alloc: 1 << 20,
            ..Header::default()
        }
    }

    pub(super) fn send(&mut self, guest: u32, host: u32, op: u16) {
        self.send_raw(Self::header(guest, host, op), &[]);
    }

    pub(super) fn send_data(&mut self, guest: u32, host: u32, data: &[u8]) {
        self.send_raw(Header { len: data.len() as u32, ..Self::header(guest, host, spec::OP_RW) }, data);
    }

    pub(super) fn shut_down(&mut self, guest: u32, host: u32, flags: u32) {
        self.send_raw(Header { flags, ..Self::header(guest, host, spec::OP_SHUTDOWN) }, &[]);
    }

    /// The next packet to the guest, if there is one.
    pub(super) fn poll(&mut self) -> Option<(Header, Vec<u8>)> {
        let (head, written) = self.drivers[0].take_used()?;
        let address = self.rooms[head as usize];
        let words: spec::Words =
            std::array::from_fn(|at| self.mem.read_obj(GuestAddress(address + 4 * at as u64)).unwrap());
        let header = Header::from_words(words);
        assert_eq!(written, spec::HEADER_SIZE + header.len, "{header:?}");
        assert_eq!((header.src_cid, header.dst_cid), (spec::HOST_CID, CID));
        let mut data = vec![0; header.len as usize];
        self.mem.read_slice(&mut data, GuestAddress(address + u64::from(spec::HEADER_SIZE))).unwrap();
        Some((header, data))
    }

    /// Waits for the next packet to the guest.
    pub(super) fn next(&mut self) -> (Header, Vec<u8>) {
        loop {
            if let Some(packet) = self.poll() {
                return packet;
            }
            self.interrupts.read().unwrap();
        }
    }

    /// Waits for the next packet to the guest that is no word of credit; its operation, its flags and its data. The buffer is
    /// given again.
    pub(super) fn hear(&mut self) -> (u16, u32, Vec<u8>) {
        loop {
            let (header, data) = self.next();
            self.give(1);
            if !matches!(header.op, spec::OP_CREDIT_UPDATE | spec::OP_CREDIT_REQUEST) {
                return (header.op, header.flags, data);
            }
        }
    }

    /// Listens at a port of the host's.
    pub(super) fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(port_path(&self.path(), port)).unwrap()
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("v")
    }

    /// Connects the guest to a listener of the host's.
    pub(super) fn connect(&mut self, guest: u32, listener: &UnixListener, host: u32) -> UnixStream {
        self.send(guest, host, spec::OP_REQUEST);
        let stream = listener.accept().unwrap().0;
        assert_eq!(self.hear().0, spec::OP_RESPONSE);
        stream
    }

    /// Waits until all that was sent before was worked off: the answer to a packet for a connection that doesn't exist.
    pub(super) fn settle(&mut self) -> Vec<u16> {
        const NOBODY: u32 = 0xffff_0000;
        self.send(NOBODY, NOBODY, spec::OP_RW);
        let mut seen = Vec::new();
        loop {
            let (header, _) = self.next();
            self.give(1);
            if (header.op, header.dst_port) == (spec::OP_RST, NOBODY) {
                return seen;
            }
            seen.push(header.op);
        }
    }

    /// Resets the device as the transport does, and starts it again.
    pub(super) fn reset(&mut self) {
        for index in 0..3 {
            self.vsock.stop_queue(index);
        }
        self.vsock.reset();
        self.drivers = [0x1000, 0x2000, 0x3000].map(|base| {
            self.mem.write_slice(&[0; 0x1000], GuestAddress(base)).unwrap();
            MockDriver::new(&self.mem, base, QUEUE)
        });
        self.given = 0;
        for index in 0..3 {
            self.start(index, QueueState::default());
        }
    }
}
