// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The entropy device, the balloon, a console with two ports or a socket device behind virtio-mmio: any register accesses, ring
//! contents, descriptors, page numbers, statistics, answers, control messages and packets, while the host changes its mind, types,
//! and closes streams.
//!
//! After each sequence the device must come back by a reset and do what it is for. A balloon never says more than there is.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, SyncSender};

use devices::GuestRam;
use devices::bus::BusDevice;
use devices::interrupt::InterruptLine;
use devices::virtio::VirtioDevice;
use devices::virtio::balloon::{Balloon, BalloonControl, BalloonOptions};
use devices::virtio::console::{Console, ConsoleBackend, ConsoleControl, ConsolePort};
use devices::virtio::mock::{Buffer, MockDriver, ram, readable, writable};
use devices::virtio::rng::Rng;
use devices::virtio::transport::Transport;
use devices::virtio::transport::mmio::MmioTransport;
use devices::virtio::vsock::{PortHandler, Vsock, VsockOptions};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

const RAM: u64 = 0x4_0000;
const RINGS: u64 = 0x1000;
const DATA: u64 = 0x8000;
/// A page that holds something before the device is to serve.
const PAGE: u64 = 0x3_0000;

struct Machine {
    transport: MmioTransport,
    mem: GuestRam,
    line: EventFd,
    kind: Kind,
    features: u64,
    queues: u16,
}

/// Which device it is, and the host's way to it.
enum Kind {
    Rng,
    Balloon(BalloonControl),
    /// With the other end of its first port.
    Console(ConsoleControl, UnixStream),
    /// With the streams that the guest has opened.
    Vsock(Receiver<UnixStream>),
}

/// The port of the host's that somebody serves.
const PORT: u32 = 1;
const CID: u32 = 3;

/// Hands over a few streams, and closes the others.
#[derive(Debug)]
struct Streams(SyncSender<UnixStream>);

impl PortHandler for Streams {
    fn connected(&mut self, stream: UnixStream) {
        let _ = stream.set_nonblocking(true).map(|()| self.0.try_send(stream));
    }
}

fn vsock() -> (Vsock, Kind) {
    let (sender, streams) = mpsc::sync_channel(4);
    let handler: Box<dyn PortHandler> = Box::new(Streams(sender));
    let options = VsockOptions { cid: CID, host: None, ports: [(PORT, handler)].into() };
    (Vsock::new("vsock", options).expect("a socket device"), Kind::Vsock(streams))
}

/// A packet's header (virtio 1.3 §5.10.6), from one of a few ports.
fn packet(guest: u32, host: u32, op: u8, len: u32, flags: u32, alloc: u32) -> Vec<u8> {
    let words = [CID, 0, 2, 0, guest, host, len, 1 | u32::from(op) << 16, flags, alloc, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn console() -> (Console, Kind) {
    let pair = || UnixStream::pair().expect("a pair");
    let ((ours, theirs), (_, nobody)) = (pair(), pair());
    for socket in [&ours, &theirs, &nobody] {
        socket.set_nonblocking(true).expect("a socket");
    }
    let port = |name: Option<&str>, socket: UnixStream| {
        let (input, output) = (socket.try_clone().expect("a descriptor"), socket);
        let backend = ConsoleBackend::Streams { input: Some(Box::new(input)), output: Some(Box::new(output)) };
        ConsolePort { name: name.map(str::to_owned), backend, log: None }
    };
    let ports = vec![port(None, theirs), port(Some("agent"), nobody)];
    let console = Console::new("console", ports).expect("a console");
    let control = console.control();
    (console, Kind::Console(control, ours))
}

fn machine(first: u8) -> Machine {
    let (device, kind): (Box<dyn VirtioDevice>, _) = if first & 0x80 != 0 {
        let mut options = BalloonOptions::new(RAM);
        (options.deflate_on_oom, options.free_page_reporting, options.free_page_hinting) = (true, true, true);
        let balloon = Balloon::new("balloon", options).expect("a balloon");
        let control = balloon.control();
        (Box::new(balloon), Kind::Balloon(control))
    } else if first & 0x40 != 0 {
        let (console, kind) = console();
        (Box::new(console), kind)
    } else if first & 0x20 != 0 {
        let (vsock, kind) = vsock();
        (Box::new(vsock), kind)
    } else {
        (Box::new(Rng::new("rng", None).expect("an entropy device")), Kind::Rng)
    };
    let (features, queues) = (device.features(), device.queue_sizes().len() as u16);
    let mem = ram(RAM as usize);
    let line = EventFd::new(0).expect("an eventfd");
    let raised: Box<dyn InterruptLine> = Box::new(line.try_clone().expect("a descriptor"));
    let transport = MmioTransport::new(device, mem.clone(), raised).expect("doorbells");
    Machine { transport, mem, line, kind, features, queues }
}

impl Machine {
    fn write(&self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    /// Resets the device and sets it up as a good driver does.
    fn initialize(&self) -> Vec<MockDriver> {
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
            let driver = MockDriver::new(&self.mem, RINGS + 0x1000 * u64::from(index), 16);
            for (register, value) in [
                (0x30, u32::from(index)),
                (0x38, 16),
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
        let drivers = (0..self.queues).map(queue).collect();
        self.write(0x70, 15);
        drivers
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.mem.write_slice(bytes, GuestAddress(at)).expect("it is in RAM");
    }

    /// A balloon says no more than there is. What a console says is read, so that it has nobody to wait for.
    fn check(&self) {
        match &self.kind {
            Kind::Rng | Kind::Vsock(_) => {}
            Kind::Balloon(control) => assert!(control.actual() <= RAM && control.target() <= RAM),
            Kind::Console(_, peer) => {
                let (mut peer, mut bytes) = (peer, [0; 4096]);
                let end = loop {
                    match peer.read(&mut bytes) {
                        Ok(1..) => {}
                        end => break end,
                    }
                };
                assert!(end.is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "the port is closed");
            }
        }
    }

    /// Does what it is for.
    fn serves(&self) {
        let mut drivers = self.initialize();
        let (queue, buffers, written): (u32, &[Buffer], u32) = match &self.kind {
            Kind::Rng => (0, &[writable(DATA, 64)], 64),
            Kind::Balloon(_) => {
                self.put(PAGE, &[7; 4096]);
                self.put(DATA, &((PAGE >> 12) as u32).to_le_bytes());
                (0, &[readable(DATA, 4)], 0)
            }
            Kind::Console(..) => (1, &[readable(DATA, 100)], 0),
            // The answer to a request for a connection.
            Kind::Vsock(_) => {
                self.put(DATA, &packet(9, PORT, 1, 0, 0, 1 << 16));
                drivers[1].submit(&[readable(DATA, 44)]);
                self.write(0x50, 1);
                (0, &[writable(DATA + 0x1000, 4096)], 44)
            }
        };
        let driver = &mut drivers[queue as usize];
        driver.submit(buffers);
        self.write(0x50, queue);
        // Interrupts of before the reset may come first.
        while driver.used_index() == 0 {
            self.check();
            self.line.read().expect("an interrupt");
        }
        let mut page = [0; 4096];
        self.mem.read_slice(&mut page, GuestAddress(PAGE)).expect("it is in RAM");
        assert_eq!(driver.take_used(), Some((0, written)));
        assert!(!matches!(self.kind, Kind::Balloon(_)) || page == [0; 4096], "the page was given away");
    }
}

/// Eight bytes an action; the first byte says which. Its top bits say, in the first action, which device it is.
///
/// # Panics
///
/// When the device doesn't come back, a balloon says what can't be, or a console hangs up.
pub fn run(data: &[u8]) {
    let machine = machine(data.first().copied().unwrap_or(0));
    let mut drivers = machine.initialize();
    for action in data.chunks_exact(8) {
        let [what, a, b, c, d, e, f, g] = *action else { continue };
        let word = u32::from_le_bytes([d, e, f, g]);
        let queue = usize::from(b) % usize::from(machine.queues);
        let driver = &mut drivers[queue];
        match what & 15 {
            // A register access of any width; the configuration space begins at 0x100.
            0 => machine.transport.write(u64::from(a) * 4, &word.to_le_bytes()),
            1 => machine.transport.write(0xf0 + u64::from(a & 0x3f), &vec![b; usize::from(c & 15)]),
            2 => machine.transport.read(u64::from(a) + u64::from(b & 1) * 0x100, &mut vec![0; usize::from(c & 15)]),
            // A descriptor, with an address in or near RAM, or anywhere.
            3 => {
                let address = if c & 0x80 != 0 { u64::MAX - u64::from(word) } else { u64::from(word) % (RAM + 0x1000) };
                let len = if c & 0x40 != 0 { 16 << 20 } else { u32::from(a) * 65 };
                driver.descriptor(u16::from(a & 15), address, len, u16::from(c & 7), u16::from(g & 31));
            }
            // Page numbers: of RAM mostly, or any.
            4 | 5 => {
                let numbers = [u32::from(a), u32::from(c) % 0x50, word, word.wrapping_add(1)];
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                machine.put(DATA, &bytes);
                driver.submit(&[readable(DATA, u32::from(d & 31))]);
            }
            // Statistics.
            6 => {
                machine.put(DATA + 0x100, &[a & 15, 0, c, d, e, f, g, 0, 0, 0, a, c, d]);
                driver.submit(&[readable(DATA + 0x100, u32::from(g & 31))]);
            }
            // Buffers: reports, hints behind an answer, or for numbers.
            7 => drop(driver.submit(&[writable(u64::from(a) << 10, u32::from(c) << 8), writable(DATA, word & 0xffff)])),
            8 => {
                machine.put(DATA + 0x200, &[a & 7, 0, 0, c & 1]);
                driver.submit(&[readable(DATA + 0x200, 4), writable(u64::from(d) << 11, 0x1000)]);
            }
            9 => driver.offer(u16::from(a)),
            10 => driver.set_avail_index(u16::from_le_bytes([a, c])),
            // What the host does.
            11 => match &machine.kind {
                Kind::Rng => {}
                // One of the streams that are there is written to, or read, and then closed.
                Kind::Vsock(streams) => {
                    if let Ok(mut stream) = streams.try_recv() {
                        let _ = if a & 1 != 0 {
                            stream.write(&vec![c; usize::from(a) * 9])
                        } else {
                            stream.read(&mut [0; 999])
                        };
                        let _ = stream.shutdown(if a & 2 != 0 { Shutdown::Write } else { Shutdown::Both });
                    }
                }
                Kind::Balloon(control) => {
                    let asked = u64::from(word) << (a & 7);
                    assert_eq!(control.set_target(asked).is_ok(), asked <= RAM);
                    let _ = control.statistics();
                }
                // What there is no room for is lost.
                Kind::Console(_, peer) => drop((&*peer).write(&vec![c; usize::from(a) * 9])),
            },
            12 => match &machine.kind {
                Kind::Rng => {}
                Kind::Vsock(_) => {
                    let (guest, host, len) = (u32::from(a & 3), u32::from(c & 1) + PORT, u32::from(e & 127));
                    machine.put(DATA + 0x400, &packet(guest, host, d & 15, len, u32::from(f & 3), u32::from(g) << 4));
                    drivers[1].submit(&[readable(DATA + 0x400, 44), readable(DATA + 0x800, 100)]);
                }
                Kind::Balloon(control) => control.ask_for_free_pages().expect("it can be asked"),
                Kind::Console(control, _) => {
                    control.resize(usize::from(a & 3), u16::from(c), u16::from(d));
                    // A control message: a port, an event and a value (virtio 1.3 §5.3.6.2).
                    machine.put(DATA + 0x300, &[b & 3, 0, 0, e & 1, f & 15, 0, g & 1, 0]);
                    drivers[3].submit(&[readable(DATA + 0x300, u32::from(g >> 4))]);
                }
            },
            _ if a & 3 != 3 => machine.write(0x50, u32::from(b & 7)),
            _ => drivers = machine.initialize(),
        }
        machine.check();
    }
    machine.serves();
    machine.transport.stop();
    machine.check();
}
