// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a network card is made of, and what it is told about itself.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
#[cfg(any(test, feature = "mock-driver"))]
use std::os::unix::net::UnixDatagram;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use thiserror::Error;

use super::mac::MacAddress;
use crate::token_bucket::RateLimiter;

/// The most queue pairs of a card.
pub const MAX_QUEUE_PAIRS: u16 = 64;
/// The largest queue, in descriptors.
pub const MAX_QUEUE_SIZE: u16 = 1024;
/// The smallest queue, in descriptors.
pub const MIN_QUEUE_SIZE: u16 = 4;
/// The smallest MTU (virtio 1.3 §5.1.4.1), in bytes.
pub const MIN_MTU: u16 = 68;

/// The host's side of one queue pair.
#[derive(Debug)]
pub enum Backend {
    /// A tap or macvtap, open with `IFF_TAP` and `IFF_NO_PI`, and with `IFF_MULTI_QUEUE` if there are several pairs.
    Tap {
        /// The open device.
        file: File,
        /// It was made with `IFF_VNET_HDR`: only then it can do offloads.
        vnet_header: bool,
    },
    /// The same, whose frames the kernel moves: between the tap and the guest's rings, without us.
    VhostTap {
        /// The open device.
        file: File,
        /// It was made with `IFF_VNET_HDR`: only then it can do offloads.
        vnet_header: bool,
        /// An open `/dev/vhost-net`, which nobody has used yet.
        vhost: File,
    },
    /// A backend of vhost-user, which has the rings of all pairs. It is one for all of them.
    VhostUser {
        /// The socket, connected.
        socket: UnixStream,
        /// How to get another one when this one ends. Without it, the link stays down then.
        reconnect: Option<Box<dyn Reconnect>>,
        /// Queue pairs.
        pairs: u16,
    },
    /// The stream of passt: each frame behind its length of four bytes, big endian. It can do no offloads.
    Stream {
        /// The socket, connected.
        socket: UnixStream,
        /// How to get another one when this one ends. Without it, the link stays down then.
        reconnect: Option<Box<dyn Reconnect>>,
    },
    /// A datagram socket that plays a tap, for tests, fuzz targets and benchmarks.
    #[cfg(any(test, feature = "mock-driver"))]
    Datagram {
        /// One end of a pair.
        socket: UnixDatagram,
        /// Each frame has a virtio header in front.
        vnet_header: bool,
    },
}

/// The way to a new socket when the old one has ended.
pub trait Reconnect: Debug + Send {
    /// Tries to connect, once, and doesn't wait for anybody: the card's frames wait meanwhile. It is called again after a
    /// pause that grows from [`super::FIRST_PAUSE`] to [`super::LONGEST_PAUSE`].
    ///
    /// # Errors
    ///
    /// When nobody is there yet. [`io::ErrorKind::PermissionDenied`] says that somebody is who isn't wanted, or doesn't want us.
    fn try_connect(&mut self) -> io::Result<UnixStream>;
}

/// What a card is told about itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NetOptions {
    /// The card's address.
    pub mac: MacAddress,
    /// The largest packet, in bytes without the Ethernet header, if the guest is to be told; at least [`MIN_MTU`].
    pub mtu: Option<u16>,
    /// Descriptors of a queue: a power of two from [`MIN_QUEUE_SIZE`] to [`MAX_QUEUE_SIZE`].
    pub queue_size: u16,
    /// Every frame to the guest waits until all of these let it in.
    pub rx_limiters: Vec<Arc<RateLimiter>>,
    /// Every frame of the guest's waits until all of these let it in.
    pub tx_limiters: Vec<Arc<RateLimiter>>,
    /// Who the guest may say that it is; `None`: anybody.
    pub antispoof: Option<Antispoof>,
}

impl NetOptions {
    /// A card of this address, with queues of 256 descriptors and no limits.
    pub fn new(mac: MacAddress) -> Self {
        Self { mac, mtu: None, queue_size: 256, rx_limiters: Vec::new(), tx_limiters: Vec::new(), antispoof: None }
    }
}

/// Who the guest may say that it is. Its source address is always the card's, in ARP too, and no frame has a VLAN tag.
///
/// Where addresses of either kind are given, a frame is IPv4, ARP or IPv6, and nothing else. An empty list doesn't
/// restrict packets of its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Antispoof {
    /// Its IPv4 addresses. 0.0.0.0 stays possible for DHCP requests and ARP probes.
    pub ipv4: Vec<Ipv4Addr>,
    /// Its IPv6 addresses. The link-local one that belongs to the MAC address stays possible, and `::` to link-local groups, as duplicate address detection
    /// wants it.
    pub ipv6: Vec<Ipv6Addr>,
}

/// Why there can't be such a card.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetError {
    /// The VM that had the card has ended.
    #[error("the network card is gone with its VM")]
    Ended,
    /// A number of queue pairs that can't be.
    #[error("{0} queue pairs: a network card has 1 to {MAX_QUEUE_PAIRS}")]
    BadQueuePairs(usize),
    /// A queue size that can't be.
    #[error("a queue size of {0} is not a power of two from {MIN_QUEUE_SIZE} to {MAX_QUEUE_SIZE}")]
    BadQueueSize(u16),
    /// An MTU that can't be.
    #[error("an MTU of {0} bytes: the least is {MIN_MTU}")]
    BadMtu(u16),
    /// A stream has nothing that could be divided.
    #[error("a stream socket carries one queue pair, not {0}")]
    StreamPairs(usize),
    /// Some pairs have a tap and others have none, or some have a header and others have none.
    #[error("all queue pairs of a network card are of one kind: taps of one interface, opened with the same flags")]
    MixedPairs,
    /// The file is no tap, or its interface is gone.
    #[error("it is no tap: {0}")]
    NotATap(#[source] io::Error),
    /// The tap was made with other flags.
    #[error("the tap {interface} was opened {}", match (flag, needed) {
        (flag, true) => format!("without {flag}, which is needed"),
        (flag, false) => format!("with {flag}, which it must not be"),
    })]
    WrongFlag {
        /// Its name.
        interface: String,
        /// As in `linux/if_tun.h`.
        flag: &'static str,
        /// Whether it should be there.
        needed: bool,
    },
    /// The kernel is too old.
    #[error("this kernel's vhost-net lacks {0}, which every card needs: leave vhost=on away, or use a newer kernel")]
    VhostLacks(&'static str),
    /// The backend of vhost-user can't be used.
    #[error("the vhost-user backend can't be used: {0}")]
    VhostUser(#[source] io::Error),
    /// Nobody would see to it.
    #[error("{0} can't be had with vhost: whoever moves the frames then doesn't look at that")]
    NotEnforced(&'static str),
    /// The taps are several interfaces.
    #[error("the queue pairs are of two interfaces, {0} and {1}")]
    TwoInterfaces(String, String),
    /// The host refuses what a card needs of its tap or socket.
    #[error("it can't be set up: {what}: {source}")]
    SetUp {
        /// What was tried.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}
