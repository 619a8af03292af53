// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A network card behind virtio-mmio: any register accesses, ring contents, descriptors, frames, commands, and bytes from
//! the backend.
//!
//! After each sequence the card must come back by a reset and pass a frame, unless its stream has ended. What reaches the
//! host is a frame of the length that one can have, with a header that says what was agreed upon, and from nobody but the
//! card where that is looked at.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};

use devices::GuestRam;
use devices::bus::BusDevice;
use devices::interrupt::InterruptLine;
use devices::virtio::VirtioDevice;
use devices::virtio::mock::{MockDriver, ram, readable, writable};
use devices::virtio::net::{Antispoof, Backend, MacAddress, Net, NetControl, NetOptions};
use devices::virtio::transport::Transport;
use devices::virtio::transport::mmio::MmioTransport;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

const RAM: u64 = 0x2_0000;
const RINGS: u64 = 0x1000;
const HEADER: u64 = 0x8000;
const COMMAND: u64 = 0x8100;
const ACK: u64 = 0x8200;
const FRAME: u64 = 0x9000;
const BUFFER: u64 = 0xa000;
const QUEUES: u16 = 3;
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

enum Peer {
    Tap(UnixDatagram),
    Stream(UnixStream),
}

impl Peer {
    /// Gives the card bytes, framed as they are. What there is no room for is lost.
    fn give(&mut self, bytes: &[u8]) {
        let _ = match self {
            Self::Tap(socket) => socket.send(bytes),
            Self::Stream(socket) => socket.write(bytes),
        };
    }

    /// What the card has sent.
    fn take(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 70_000];
        let result = match self {
            Self::Tap(socket) => socket.recv(&mut bytes),
            Self::Stream(socket) => socket.read(&mut bytes),
        };
        match result {
            Ok(0) => None,
            Ok(len) => Some(bytes[..len].to_vec()),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionReset), "{error}");
                None
            }
        }
    }
}

struct Machine {
    transport: MmioTransport,
    mem: GuestRam,
    line: EventFd,
    control: NetControl,
    features: u64,
    peer: Peer,
}

fn machine(is_stream: bool, guarded: bool) -> Machine {
    let (peer, backend) = if is_stream {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("a socket");
        (Peer::Stream(ours), Backend::Stream { socket: theirs, reconnect: None })
    } else {
        let (ours, theirs) = UnixDatagram::pair().expect("a pair");
        ours.set_nonblocking(true).expect("a socket");
        (Peer::Tap(ours), Backend::Datagram { socket: theirs, vnet_header: true })
    };
    let mut options = NetOptions::new(MacAddress::new(MAC).expect("an address"));
    options.antispoof = guarded.then(Antispoof::default);
    let net = Net::new("eth0", vec![backend], options).expect("a card");
    let (control, features) = (net.control(), net.features());
    let mem = ram(RAM as usize);
    let line = EventFd::new(0).expect("an eventfd");
    let raised: Box<dyn InterruptLine> = Box::new(line.try_clone().expect("a descriptor"));
    let transport = MmioTransport::new(Box::new(net), mem.clone(), raised).expect("doorbells");
    Machine { transport, mem, line, control, features, peer }
}

impl Machine {
    fn write(&self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    /// Resets the device and sets it up as a good driver does.
    fn initialize(&self, size: u16) -> Vec<MockDriver> {
        self.write(0x70, 0);
        // Only now does nobody else write there any more.
        self.mem.write_slice(&[0; 0x7000], GuestAddress(RINGS)).expect("the rings are in RAM");
        for (register, value) in [
            (0x70, 1),
            (0x70, 3),
            (0x24, 0),
            (0x20, self.features as u32),
            (0x24, 1),
            (0x20, (self.features >> 32) as u32 | 1),
            (0x70, 11),
        ] {
            self.write(register, value);
        }
        let queue = |index: u16| {
            let driver = MockDriver::new(&self.mem, RINGS + 0x1000 * u64::from(index), size);
            for (register, value) in [
                (0x30, u32::from(index)),
                (0x38, u32::from(size)),
                (0x80, driver.config.descriptor_table as u32),
                (0x84, 0),
                (0x90, driver.config.avail_ring as u32),
                (0x94, 0),
                (0xa0, driver.config.used_ring as u32),
                (0xa4, 0),
                (0x44, 1),
            ] {
                self.write(register, value);
            }
            driver
        };
        let drivers = (0..QUEUES).map(queue).collect();
        self.write(0x70, 15);
        drivers
    }

    /// Looks at what the card has sent.
    fn check(&mut self, guarded: bool) {
        while let Some(bytes) = self.peer.take() {
            if matches!(self.peer, Peer::Tap(_)) {
                assert!((12 + 14..=12 + 65_535 + 18).contains(&bytes.len()), "{} bytes", bytes.len());
                assert!(bytes[0] <= 1, "flags {:#x}", bytes[0]);
                assert!(!guarded || bytes[12 + 6..12 + 12] == MAC, "somebody else's");
            }
        }
    }

    /// Sends a frame and waits until it has come back.
    fn serves(&mut self, guarded: bool) {
        let mut drivers = self.initialize(16);
        self.check(guarded);
        let before = self.control.counters()[1].frames;
        self.mem.write_slice(&[0; 12], GuestAddress(HEADER)).expect("it is in RAM");
        self.mem
            .write_slice(&[&[0xff; 6], MAC.as_slice(), &[0x88, 0xb5]].concat(), GuestAddress(FRAME))
            .expect("it is in RAM");
        drivers[1].submit(&[readable(HEADER, 12), readable(FRAME, 60)]);
        self.write(0x50, 1);
        // Interrupts of before the reset may come first.
        while drivers[1].used_index() == 0 {
            self.check(guarded);
            self.line.read().expect("an interrupt");
        }
        assert_eq!(drivers[1].take_used(), Some((0, 0)));
        let after = self.control.counters()[1].frames;
        assert!(after == before + 1 || !self.control.link(), "the frame was sent");
    }
}

/// Eight bytes an action; the first byte says which. Its top bits say, in the first action, whether the backend is a stream,
/// and whether it is looked at who frames are from.
///
/// # Panics
///
/// When the device doesn't come back, or what reaches the host isn't what may.
pub fn run(data: &[u8]) {
    let first = data.first().copied().unwrap_or(0);
    let (is_stream, guarded) = (first & 0x80 != 0, first & 0x40 != 0);
    let mut machine = machine(is_stream, guarded);
    let mut drivers = machine.initialize(16);
    for action in data.chunks_exact(8) {
        let [what, a, b, c, d, e, f, g] = *action else { continue };
        let word = u32::from_le_bytes([d, e, f, g]);
        let queue = usize::from(b) % usize::from(QUEUES);
        let driver = &mut drivers[queue];
        match what & 15 {
            // A register access of any width.
            0 => machine.transport.write(u64::from(a) * 4, &word.to_le_bytes()),
            1 => machine.transport.write(u64::from(a), &vec![b; usize::from(c & 15)]),
            2 => machine.transport.read(u64::from(a) + u64::from(b & 1) * 0x100, &mut vec![0; usize::from(c & 15)]),
            // A descriptor, with an address in or near RAM, or anywhere.
            3 => {
                let address = if c & 0x80 != 0 { u64::MAX - u64::from(word) } else { u64::from(word) % (RAM + 0x1000) };
                driver.descriptor(u16::from(a & 15), address, u32::from(a) * 17, u16::from(c & 7), u16::from(g & 31));
            }
            // A frame with a header, from the card or not.
            4 | 5 => {
                machine.mem.write_slice(&[a, b, c, 0, d, 0, e, 0, f, 0, 0, 0], GuestAddress(HEADER)).expect("in RAM");
                let source = if g & 1 == 0 { MAC } else { [g; 6] };
                machine.mem.write_slice(&source, GuestAddress(FRAME + 6)).expect("in RAM");
                machine
                    .mem
                    .write_slice(
                        &[[8, 0], [8, 6], [0x81, 0], [0x86, 0xdd]][usize::from(g >> 6)],
                        GuestAddress(FRAME + 12),
                    )
                    .expect("in RAM");
                drivers[1].submit(&[readable(HEADER, 12), readable(FRAME, u32::from(g) * 17)]);
            }
            // A command.
            6 => {
                machine.mem.write_slice(&[a & 7, b & 3, c, d, e, f, g, 0], GuestAddress(COMMAND)).expect("in RAM");
                drivers[2].submit(&[readable(COMMAND, u32::from(a >> 4)), writable(ACK, 1)]);
            }
            // A buffer.
            7 | 8 => drop(drivers[0].submit(&[writable(BUFFER + u64::from(a) * 16, u32::from(c) * 16)])),
            9 => driver.offer(u16::from(a)),
            10 => driver.set_avail_index(u16::from_le_bytes([a, c])),
            // Bytes from the backend; of a stream, mostly with the length that they have.
            11 | 12 => {
                let frame = vec![c; usize::from(a) * 8];
                let length = if b & 7 == 0 { word } else { frame.len() as u32 };
                if is_stream {
                    machine.peer.give(&length.to_be_bytes());
                }
                machine.peer.give(&frame);
            }
            13 => machine.control.set_link(a & 1 != 0),
            _ if a & 3 != 3 => machine.write(0x50, u32::from(b & 3)),
            _ => drivers = machine.initialize(1 << (a >> 2 & 7)),
        }
        machine.check(guarded);
    }
    machine.control.set_link(true);
    machine.serves(guarded);
    machine.transport.stop();
    machine.check(guarded);
}
