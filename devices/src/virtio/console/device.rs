// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The device: what it offers, its configuration space, and its queues.

use std::fmt::{self, Debug};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use thiserror::Error;

use super::port::Port;
use super::service::Ports;
use super::spec;
use crate::virtio::device::{QueueResources, StartError, VirtioDevice, copy_config};
use crate::virtio::queue::QueueState;
use crate::virtio::worker::{Wake, Worker};

/// The most ports that a device has.
pub const MAX_PORTS: usize = 16;
/// The longest name of a port, in bytes.
pub const MAX_NAME: usize = 64;

/// Descriptors of a port's queues: a Linux driver fills those for input with buffers of a page each.
const PORT_QUEUE: u16 = 64;
/// Descriptors of the queues for control messages.
const CONTROL_QUEUE: u16 = 64;

/// Something that a port reads when its descriptor is readable, once each time.
pub trait PortInput: Read + AsRawFd + Send {}

impl<T: Read + AsRawFd + Send> PortInput for T {}

/// Something that a port writes. It says [`io::ErrorKind::WouldBlock`] rather than wait, or it holds the device up.
pub trait PortOutput: Write + AsRawFd + Send {}

impl<T: Write + AsRawFd + Send> PortOutput for T {}

/// Who is at a port on the host's side.
pub enum ConsoleBackend {
    /// Whatever is there from the start.
    Streams {
        /// Where input comes from, until its end.
        input: Option<Box<dyn PortInput>>,
        /// Where output goes.
        output: Option<Box<dyn PortOutput>>,
    },
    /// Whoever connects, one after the other. The last 64 KiB of output are shown to each; who comes while another one is there
    /// takes its place.
    Socket {
        /// Where to connect.
        listener: UnixListener,
        /// Each datagram `COLUMNS ROWS` says how large the terminal is.
        sizes: Option<UnixDatagram>,
    },
}

impl Debug for ConsoleBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Streams { .. } => "Streams",
            Self::Socket { .. } => "Socket",
        })
    }
}

/// What a port is made of.
#[derive(Debug)]
pub struct ConsolePort {
    /// What the guest calls it: `/dev/virtio-ports/NAME` in Linux.
    pub name: Option<String>,
    /// Who is at it.
    pub backend: ConsoleBackend,
    /// A file that gets all output beside that, up to [`MAX_LOG`](super::MAX_LOG) bytes.
    pub log: Option<File>,
}

/// Why there is no such device.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConsoleError {
    /// Too few ports, or too many.
    #[error("{0} ports: a console has 1 to {MAX_PORTS}")]
    Ports(usize),
    /// Not a name.
    #[error("{0:?} can't be a port's name: give 1 to {MAX_NAME} letters, digits, dots, dashes and underscores")]
    BadName(String),
    /// Something that every device needs can't be had.
    #[error("{what} can't be set up: {source}")]
    SetUp {
        /// What it is.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

/// Whether a port may have this name: it becomes a file's in the guest.
pub fn is_port_name(name: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_fine)
}

/// How large the terminals at the ports are, as the host says.
#[derive(Debug)]
pub(super) struct Sizes(Vec<AtomicU32>);

impl Sizes {
    /// Columns and rows; zero when nobody has said.
    pub(super) fn get(&self, port: usize) -> (u16, u16) {
        let packed = self.0.get(port).map_or(0, |size| size.load(Ordering::Acquire)).to_le_bytes();
        let [a, b, c, d] = packed;
        (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
    }

    /// `false`: there is no such port.
    pub(super) fn set(&self, port: usize, columns: u16, rows: u16) -> bool {
        let ([a, b], [c, d]) = (columns.to_le_bytes(), rows.to_le_bytes());
        let size = self.0.get(port);
        size.inspect(|size| size.store(u32::from_le_bytes([a, b, c, d]), Ordering::Release)).is_some()
    }
}

/// What a host can do with the ports of a running VM, from any thread.
#[derive(Clone, Debug)]
pub struct ConsoleControl {
    sizes: Arc<Sizes>,
    wake: Wake,
}

impl ConsoleControl {
    /// Tells the guest how large the terminal at a port is, in characters. `false`: there is no such port.
    pub fn resize(&self, port: usize, columns: u16, rows: u16) -> bool {
        let is_there = self.sizes.set(port, columns, rows);
        if is_there {
            self.wake.poke();
        }
        is_there
    }
}

/// A console with one or more ports, all of which is served by one thread. Port 0 is a console, further ones are plain.
#[derive(Debug)]
pub struct Console {
    /// Of the first port and of each further one, two queues, and two for control messages.
    queue_sizes: Vec<u16>,
    ports: u32,
    is_multiport: bool,
    control: ConsoleControl,
    worker: Worker<Ports>,
}

impl Console {
    /// A console. `name` stands in log lines and names the thread.
    ///
    /// # Errors
    ///
    /// When there are too few or too many ports, one has no good name, or the host is short of something.
    pub fn new(name: impl Into<String>, ports: Vec<ConsolePort>) -> Result<Self, ConsoleError> {
        let name = name.into();
        let count = u32::try_from(ports.len()).ok().filter(|_| (1..=MAX_PORTS).contains(&ports.len()));
        let count = count.ok_or(ConsoleError::Ports(ports.len()))?;
        let names = ports.iter().filter_map(|port| port.name.as_ref());
        if let Some(bad) = names.into_iter().find(|name| !is_port_name(name)) {
            return Err(ConsoleError::BadName(bad.clone()));
        }
        // A lone console without a name needs no control messages. Without them, the guest learns its size from the
        // configuration space, which all drivers read alike: Linux before 6.15 takes the two numbers of a control message
        // for each other.
        let is_multiport = count > 1 || ports.iter().any(|port| port.name.is_some());
        let set_up = |what| move |source| ConsoleError::SetUp { what, source };
        let wake = Wake::new().map_err(set_up("an eventfd"))?;
        let sizes = Arc::new(Sizes(ports.iter().map(|_| AtomicU32::new(0)).collect()));
        let ports = (0..).zip(ports).map(|(index, port)| Port::new(index, &name, port));
        let ports = ports.collect::<io::Result<Vec<_>>>().map_err(set_up("a socket that doesn't block"))?;
        let further = if is_multiport { ports.len() } else { 0 };
        let mut queue_sizes = vec![PORT_QUEUE; 2];
        if is_multiport {
            queue_sizes.extend([CONTROL_QUEUE; 2]);
            queue_sizes.extend(std::iter::repeat_n(PORT_QUEUE, further.saturating_sub(1).saturating_mul(2)));
        }
        let control = ConsoleControl { sizes: sizes.clone(), wake: wake.clone() };
        let worker = Worker::new(name.clone(), Ports::new(name, ports, sizes), queue_sizes.len(), wake);
        Ok(Self { queue_sizes, ports: count, is_multiport, control, worker })
    }

    /// What the host can do with it while it runs.
    pub fn control(&self) -> ConsoleControl {
        self.control.clone()
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> u32 {
        spec::DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        spec::F_SIZE | if self.is_multiport { spec::F_MULTIPORT } else { 0 }
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    /// Columns and rows of port 0, and how many ports there are (§5.3.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let (columns, rows) = self.control.sizes.get(0);
        let ([a, b], [c, d], [e, f, g, h]) = (columns.to_le_bytes(), rows.to_le_bytes(), self.ports.to_le_bytes());
        let config = [a, b, c, d, e, f, g, h];
        copy_config(&config, offset, data);
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
        let Self { queue_sizes: _, ports: _, is_multiport: _, control: _, worker } = self;
        worker.reset();
    }
}
