// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A network card as a configuration has it, and as people write it: `tap=NAME,key=value,…`.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::str::FromStr;

use devices::virtio::net::{MAX_QUEUE_PAIRS, MAX_QUEUE_SIZE, MIN_MTU, MIN_QUEUE_SIZE, MacAddress};
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::forward::Forward;
use super::key_values::{Grammar, KeyValues};
use super::rate::{self, RateLimit};
use super::transport::{self, Transport};

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Net {
    /// What it is connected to.
    pub backend: NetBackend,
    /// Its address; without one, it gets [`default_mac`].
    #[serde(default, with = "super::text")]
    pub mac: Option<MacAddress>,
    /// The largest packet, in bytes without the Ethernet header, if the guest is to be told.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// How many queue pairs there are: one, or as many as there are descriptors, when nothing is said.
    #[serde(default)]
    pub queues: Option<NonZeroU16>,
    /// Descriptors of each queue: a power of two.
    #[serde(default = "default_queue_size")]
    pub queue_size: u16,
    /// How many bytes a second may go to the guest.
    #[serde(default)]
    pub bw_rx: Option<RateLimit>,
    /// How many bytes a second may come from the guest.
    #[serde(default)]
    pub bw_tx: Option<RateLimit>,
    /// How many frames a second may go to the guest.
    #[serde(default)]
    pub ops_rx: Option<RateLimit>,
    /// How many frames a second may come from the guest.
    #[serde(default)]
    pub ops_tx: Option<RateLimit>,
    /// Whether the guest may only send what is its own: from the card's address, and from those of `ip` if there are any.
    #[serde(default)]
    pub antispoof: bool,
    /// The addresses that the guest may send from, if it isn't free to choose.
    #[serde(default)]
    pub ip: Vec<IpAddr>,
    /// Whether the kernel's vhost-net moves the frames of a tap, or of the taps behind descriptors. Rate limits and `antispoof`
    /// can't be had with it.
    #[serde(default)]
    pub vhost: bool,
    /// How the guest finds it; the VM's way when nothing is said.
    #[serde(default)]
    pub transport: Option<Transport>,
}

/// What a network card is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NetBackend {
    /// A tap of the host's, which is made if it isn't there.
    Tap(String),
    /// Descriptors of taps or macvtaps that this process was started with, one for each queue pair.
    Fd(Vec<i32>),
    /// The socket of a passt that runs.
    Passt(PathBuf),
    /// A passt of its own.
    User(UserNet),
    /// The socket of a vhost-user-net backend that runs. It takes shared memory ([`Memory::shared`](super::Memory::shared)), and
    /// rate limits and `antispoof` can't be had with it.
    VhostUser(PathBuf),
}

/// How a guest is on the network by a passt of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct UserNet {
    /// Ports of the host's that lead to the guest.
    #[serde(default)]
    pub hostfwd: Vec<Forward>,
    /// The name servers that the guest is told of; the host's when there are none.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// Whether the guest reaches what listens at the host's loopback, by the address of its router.
    #[serde(default)]
    pub loopback: bool,
}

const fn default_queue_size() -> u16 {
    256
}

/// All keys, as the messages name them.
const KEYS: [&str; 19] = [
    "hostfwd",
    "dns",
    "loopback",
    "tap",
    "fd",
    "passt",
    "vhost-user",
    "mac",
    "mtu",
    "queues",
    "queue-size",
    "bw-rx",
    "bw-tx",
    "ops-rx",
    "ops-tx",
    "antispoof",
    "ip",
    "vhost",
    "transport",
];

const GRAMMAR: Grammar = Grammar {
    with_burst: &["bw-rx", "bw-tx", "ops-rx", "ops-tx"],
    repeated: &["hostfwd", "dns", "ip"],
    lists: &["fd"],
};

const BACKENDS: &str = "tap=NAME, fd=N, passt=SOCKET, vhost-user=SOCKET or user";

/// Bytes of an interface's name, the last of which is 0 (Linux `include/uapi/linux/if.h`, `IFNAMSIZ`).
const NAME_SIZE: usize = 16;

impl Net {
    /// A card with the defaults of everything else.
    pub fn new(backend: NetBackend) -> Self {
        Self {
            backend,
            mac: None,
            mtu: None,
            queues: None,
            queue_size: default_queue_size(),
            bw_rx: None,
            bw_tx: None,
            ops_rx: None,
            ops_tx: None,
            antispoof: false,
            ip: Vec::new(),
            vhost: false,
            transport: None,
        }
    }

    /// How many queue pairs it has.
    pub(crate) fn pairs(&self) -> u16 {
        match (&self.backend, self.queues) {
            (NetBackend::Fd(fds), None) => u16::try_from(fds.len()).unwrap_or(u16::MAX),
            (_, queues) => queues.map_or(1, u16::from),
        }
    }

    fn keys(text: &str) -> Result<Self, String> {
        // The one word without a value.
        let (user, rest) = match text.strip_prefix("user") {
            Some(rest) if rest.is_empty() || rest.starts_with(',') => (true, rest),
            _ => (false, text),
        };
        let mut values = KeyValues::parse(rest, &GRAMMAR)?;
        let backend = take_backend(&mut values, user)?;
        let plain = Self::new(backend);
        let net = Self {
            mac: take_text(&mut values, "mac")?,
            mtu: values.take_number("mtu", "a number of bytes from 68 to 65535")?,
            queues: values.take_number("queues", "a number of queue pairs from 1 on")?,
            queue_size: values.take_number("queue-size", "a power of two from 4 to 1024")?.unwrap_or(plain.queue_size),
            bw_rx: rate::take(&mut values, "bw-rx")?,
            bw_tx: rate::take(&mut values, "bw-tx")?,
            ops_rx: rate::take(&mut values, "ops-rx")?,
            ops_tx: rate::take(&mut values, "ops-tx")?,
            antispoof: values.take_switch("antispoof")?.unwrap_or(plain.antispoof),
            ip: addresses(&values.take_all("ip"), "ip")?,
            vhost: values.take_switch("vhost")?.unwrap_or_default(),
            transport: values.take_one_of("transport", &transport::NAMES, transport::CHOICE)?,
            backend: plain.backend,
        };
        values.finish(&KEYS)?;
        net.check()?;
        Ok(net)
    }

    /// What can be judged without the host.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !self.queue_size.is_power_of_two() || !(MIN_QUEUE_SIZE..=MAX_QUEUE_SIZE).contains(&self.queue_size) {
            let size = self.queue_size;
            return Err(format!("queue-size={size}: give a power of two from {MIN_QUEUE_SIZE} to {MAX_QUEUE_SIZE}"));
        }
        if let Some(mtu) = self.mtu.filter(|mtu| *mtu < MIN_MTU) {
            return Err(format!("mtu={mtu}: give a number of bytes from {MIN_MTU} to 65535"));
        }
        let pairs = self.pairs();
        if pairs > MAX_QUEUE_PAIRS {
            return Err(format!("queues={pairs}: a network card has up to {MAX_QUEUE_PAIRS} queue pairs"));
        }
        if !self.ip.is_empty() && !self.antispoof {
            return Err("ip: says what antispoof=on allows the guest to send from: add that".to_owned());
        }
        self.check_vhost()?;
        match &self.backend {
            NetBackend::Tap(name) => check_name(name),
            NetBackend::Fd(fds) => check_fds(fds, pairs),
            NetBackend::Passt(_) | NetBackend::User(_) if pairs > 1 => {
                Err(format!("queues={pairs}: passt carries one queue pair: leave queues away, or use a tap"))
            }
            NetBackend::Passt(_) | NetBackend::VhostUser(_) => Ok(()),
            NetBackend::User(user) => user.check(),
        }
    }

    fn check_vhost(&self) -> Result<(), String> {
        let who = match &self.backend {
            NetBackend::VhostUser(_) => "vhost-user nobody would see to it, as the backend moves the frames",
            _ if self.vhost => "vhost=on nobody would see to it, as the kernel moves the frames",
            _ => return Ok(()),
        };
        if self.vhost && !matches!(self.backend, NetBackend::Tap(_) | NetBackend::Fd(_)) {
            return Err("vhost=on: the kernel moves a tap's frames: give tap= or fd=, or leave vhost away".to_owned());
        }
        match self.looked_at() {
            Some(key) => Err(format!("{key}: with {who}: give one of the two")),
            None => Ok(()),
        }
    }

    /// A key by which somebody has to look at each frame, if there is one.
    fn looked_at(&self) -> Option<&'static str> {
        let keys = [
            ("bw-rx", self.bw_rx.is_some()),
            ("bw-tx", self.bw_tx.is_some()),
            ("ops-rx", self.ops_rx.is_some()),
            ("ops-tx", self.ops_tx.is_some()),
            ("antispoof", self.antispoof),
        ];
        keys.into_iter().find_map(|(key, is_there)| is_there.then_some(key))
    }
}

impl UserNet {
    fn check(&self) -> Result<(), String> {
        for (at, forward) in self.hostfwd.iter().enumerate() {
            let clashes = |other: &Forward| other.protocol == forward.protocol && other.host_port == forward.host_port;
            if self.hostfwd.iter().take(at).any(clashes) {
                let port = forward.host_port;
                return Err(format!("hostfwd={forward}: port {port} is forwarded before: passt takes each one once"));
            }
        }
        Ok(())
    }
}

fn take_backend(values: &mut KeyValues<'_>, user: bool) -> Result<NetBackend, String> {
    let hostfwd = values.take_all("hostfwd");
    let dns = values.take_all("dns");
    let loopback = values.take_switch("loopback")?;
    if values.take("user").is_some() {
        return Err("user has no value: let it be the first word, as in user,mtu=1400".to_owned());
    }
    let [tap, fd, passt, vhost_user] = ["tap", "fd", "passt", "vhost-user"].map(|key| values.take(key));
    let given = [("hostfwd", !hostfwd.is_empty()), ("dns", !dns.is_empty()), ("loopback", loopback.is_some())];
    for (key, is_given) in given {
        if is_given && !user {
            return Err(format!("{key}: belongs to a passt of the card's own: write it as user,{key}=…"));
        }
    }
    match (user, tap, fd, passt, vhost_user) {
        (true, None, None, None, None) => Ok(NetBackend::User(UserNet {
            hostfwd: hostfwd.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            dns: addresses(&dns, "dns")?,
            loopback: loopback.unwrap_or(false),
        })),
        (false, Some(name), None, None, None) => Ok(NetBackend::Tap(name.to_owned())),
        (false, None, Some(list), None, None) => descriptors(list).map(NetBackend::Fd),
        (false, None, None, Some(path), None) => Ok(NetBackend::Passt(path.into())),
        (false, None, None, None, Some(path)) => Ok(NetBackend::VhostUser(path.into())),
        (false, None, None, None, None) => Err(format!("it isn't connected to anything: give {BACKENDS}")),
        _ => Err(format!("it can be connected to one thing only: give one of {BACKENDS}")),
    }
}

fn take_text<T: FromStr<Err: std::fmt::Display>>(values: &mut KeyValues<'_>, key: &str) -> Result<Option<T>, String> {
    values.take(key).map(|text| text.parse().map_err(|error| format!("{key}: {error}"))).transpose()
}

fn addresses(texts: &[&str], key: &str) -> Result<Vec<IpAddr>, String> {
    let address = |text: &&str| {
        text.parse().map_err(|_| format!("{key}={text}: give an IPv4 or IPv6 address, such as 192.0.2.1"))
    };
    texts.iter().map(address).collect()
}

/// `3`, `[3]` or `[3,4]`.
fn descriptors(text: &str) -> Result<Vec<i32>, String> {
    let list = text.strip_prefix('[').and_then(|list| list.strip_suffix(']')).unwrap_or(text);
    let bad = || format!("fd={text}: give a descriptor's number from 3 on, or several as fd=[3,4]");
    let number = |word: &str| word.parse::<i32>().map_err(|_| bad());
    list.split(',').map(number).collect()
}

fn check_fds(fds: &[i32], pairs: u16) -> Result<(), String> {
    if fds.len() != usize::from(pairs) {
        let count = fds.len();
        return Err(format!(
            "queues={pairs}: there is a queue pair for each descriptor, so {count}: leave queues away"
        ));
    }
    for (at, fd) in fds.iter().enumerate() {
        if *fd < 3 {
            return Err(format!("fd={fd}: 0, 1 and 2 are the standard streams: give a number from 3 on"));
        }
        if fds.iter().take(at).any(|before| before == fd) {
            return Err(format!("fd={fd} is given twice: each queue pair has a descriptor of its own"));
        }
    }
    Ok(())
}

/// What the kernel takes for a name (Linux `net/core/dev.c`, `dev_valid_name`); with a `%` it would choose one itself.
fn check_name(name: &str) -> Result<(), String> {
    let odd = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace();
    if name.is_empty() || name.len() >= NAME_SIZE || name == "." || name == ".." || name.contains(odd) {
        let max = NAME_SIZE - 1;
        return Err(format!("tap={name}: give an interface's name: 1 to {max} bytes, without blanks and / : %"));
    }
    Ok(())
}

/// `tap=NAME,key=value,…`
impl FromStr for Net {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::keys(text).map_err(|problem| ConfigError::Net { text: text.to_owned(), problem })
    }
}

/// The address of a card that was given none: always the same for the same name of a VM and index of the card, and marked as
/// locally administered.
///
/// It is made of the lowest 48 bits of the name's 64-bit FNV-1a hash, where the index follows the name as four bytes, the
/// lowest first. The two lowest bits of the first byte are then set to `10`: not a group's, and locally administered.
pub fn default_mac(vm: &str, index: u32) -> MacAddress {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let bytes = vm.bytes().chain(index.to_le_bytes());
    let hash = bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    let [_, _, first, b, c, d, e, f] = hash.to_be_bytes();
    let bytes = [(first & 0xfc) | 0x02, b, c, d, e, f];
    MacAddress::new(bytes).expect("an address with these two bits is a card's")
}

#[cfg(test)]
#[path = "net_tests.rs"]
mod tests;
