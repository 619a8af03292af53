// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Looks at backends, finds out what they can do, and sets them up.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::lent::{Abilities, KernelNet, Vhost};
use super::offloads;
use super::options::{Backend, NetError, Reconnect};
use super::port::{Kind, Port};
use super::spec;
use super::stream::Stream;
use super::tap::Tap;
use super::user::{UserNet, Watcher};
use crate::sys::tap;

/// Backends that are ready.
#[derive(Debug)]
pub(super) struct Opened {
    /// One for each pair.
    pub(super) ports: Vec<Port>,
    /// Where offloads are set for all of them.
    pub(super) tap: Option<Arc<File>>,
    /// The offloads that they can do.
    pub(super) host_offloads: u64,
    /// What whoever works off the rings can do, if that isn't us.
    pub(super) vhost: Option<Abilities>,
}

/// A tap that was looked at.
struct Queue {
    file: Arc<File>,
    vnet_header: bool,
    /// The interface; `None`: a socket that plays one.
    interface: Option<String>,
    vhost: Option<File>,
}

impl Opened {
    pub(super) fn new(backends: Vec<Backend>) -> Result<Self, NetError> {
        let count = backends.len();
        let mut queues: Vec<Queue> = Vec::with_capacity(count);
        for backend in backends {
            let queue = match backend {
                Backend::Stream { socket, reconnect } if count == 1 => return Self::stream(socket, reconnect),
                Backend::Stream { .. } => return Err(NetError::StreamPairs(count)),
                Backend::VhostUser { socket, reconnect, pairs } if count == 1 => {
                    return Self::user(socket, reconnect, pairs).map_err(NetError::VhostUser);
                }
                Backend::VhostUser { .. } => return Err(NetError::MixedPairs),
                Backend::Tap { file, vnet_header } => {
                    let interface = Some(check(&file, vnet_header, count > 1)?);
                    Queue { file: Arc::new(file), vnet_header, interface, vhost: None }
                }
                Backend::VhostTap { file, vnet_header, vhost } => {
                    let interface = Some(check(&file, vnet_header, count > 1)?);
                    Queue { file: Arc::new(file), vnet_header, interface, vhost: Some(vhost) }
                }
                #[cfg(any(test, feature = "mock-driver"))]
                Backend::Datagram { socket, vnet_header } => {
                    let file = Arc::new(File::from(std::os::fd::OwnedFd::from(socket)));
                    Queue { file, vnet_header, interface: None, vhost: None }
                }
            };
            if let Some(first) = queues.first() {
                match (&first.interface, &queue.interface) {
                    (Some(a), Some(b)) if a != b => return Err(NetError::TwoInterfaces(a.clone(), b.clone())),
                    (a, b)
                        if a != b
                            || first.vnet_header != queue.vnet_header
                            || first.vhost.is_some() != queue.vhost.is_some() =>
                    {
                        return Err(NetError::MixedPairs);
                    }
                    _ => {}
                }
            }
            queues.push(queue);
        }
        Self::taps(queues)
    }

    fn stream(socket: UnixStream, reconnect: Option<Box<dyn Reconnect>>) -> Result<Self, NetError> {
        set_up("O_NONBLOCK", socket.set_nonblocking(true))?;
        let port = Port::new(Kind::Stream(Stream::new(socket, reconnect)));
        Ok(Self { ports: vec![port], tap: None, host_offloads: 0, vhost: None })
    }

    fn user(socket: UnixStream, reconnect: Option<Box<dyn Reconnect>>, pairs: u16) -> io::Result<Self> {
        let user = Arc::new(UserNet::new(socket, pairs)?);
        let mut watcher = Some(Watcher::new(user.clone(), reconnect)?);
        let port = |_| {
            let mut port = Port::new(Kind::User(watcher.take()));
            port.vhost = Some(Vhost::User(user.clone()));
            port
        };
        let ports = (0..pairs).map(port).collect();
        let offered = user.offered();
        let vhost = Some(Abilities::of_user(offered));
        Ok(Self { ports, tap: None, host_offloads: offered & offloads::ALL, vhost })
    }

    fn taps(queues: Vec<Queue>) -> Result<Self, NetError> {
        let ports = Vec::with_capacity(queues.len());
        let mut this = Self { ports, tap: None, host_offloads: 0, vhost: None };
        for Queue { file, vnet_header, interface, vhost } in queues {
            set_up("O_NONBLOCK", tap::set_nonblocking(&file))?;
            let is_kernels = interface.is_some();
            let is_first = this.ports.is_empty();
            if vnet_header && is_kernels {
                let size = libc::c_int::try_from(spec::HEADER_SIZE).unwrap_or(libc::c_int::MAX);
                set_up("TUNSETVNETHDRSZ", tap::set_header_size(&file, size))?;
            }
            if vnet_header && is_first {
                let takes = |flags| !is_kernels || tap::set_offload(&file, flags).is_ok();
                this.host_offloads = offloads::probe(takes);
                // Nobody has agreed upon any yet.
                if is_kernels && this.host_offloads != 0 {
                    set_up("TUNSETOFFLOAD", tap::set_offload(&file, 0))?;
                    this.tap = Some(file.clone());
                }
            }
            let vhost = vhost.map(|vhost| {
                let kernel = KernelNet::new(vhost, file.clone(), vnet_header);
                kernel.map_err(|source| NetError::SetUp { what: "/dev/vhost-net", source })
            });
            let vhost = vhost.transpose()?;
            if let Some(vhost) = &vhost {
                let abilities = vhost.abilities().map_err(NetError::VhostLacks)?;
                this.vhost = Some(this.vhost.map_or(abilities, |all| all.and(abilities)));
            }
            let mut tap = Tap::new(file, vnet_header, is_kernels);
            // A driver says when it uses more than the first pair.
            if !is_first {
                set_up("TUNSETQUEUE", tap.set_attached(false))?;
            }
            let mut port = Port::new(Kind::Tap(tap));
            port.vhost = vhost.map(Vhost::Kernel);
            this.ports.push(port);
        }
        Ok(this)
    }
}

fn set_up(what: &'static str, result: io::Result<()>) -> Result<(), NetError> {
    result.map_err(|source| NetError::SetUp { what, source })
}

/// Looks whether a tap was opened as it is needed; gives its interface.
fn check(file: &File, vnet_header: bool, several: bool) -> Result<String, NetError> {
    let tap::Interface { name, flags } = tap::interface(file).map_err(NetError::NotATap)?;
    let needed = [
        (tap::IFF_TAP, "IFF_TAP", Some(true)),
        (tap::IFF_NO_PI, "IFF_NO_PI", Some(true)),
        (tap::IFF_VNET_HDR, "IFF_VNET_HDR", Some(vnet_header)),
        (tap::IFF_MULTI_QUEUE, "IFF_MULTI_QUEUE", several.then_some(true)),
    ];
    let wrong = needed.into_iter().find(|(bit, _, needed)| needed.is_some_and(|needed| (flags & bit != 0) != needed));
    match wrong {
        Some((_, flag, needed)) => {
            Err(NetError::WrongFlag { interface: name, flag, needed: needed.unwrap_or_default() })
        }
        None => Ok(name),
    }
}
