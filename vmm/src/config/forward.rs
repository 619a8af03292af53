// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A port of the host's that leads to the guest: `tcp:127.0.0.1:8080-:80`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A port of the host's that leads to the guest, as `tcp:[ADDR:]PORT-:PORT`; an IPv6 address is in brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Forward {
    /// What goes through it.
    pub protocol: Protocol,
    /// The address of the host's; all that it has when nothing is said.
    pub address: Option<IpAddr>,
    /// The host's port.
    pub host_port: NonZeroU16,
    /// The guest's port.
    pub guest_port: NonZeroU16,
}

/// What goes through a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |what: &str| format!("hostfwd={text}: {what}: write it as tcp:127.0.0.1:8080-:80");
        let (protocol, rest) = match text.split_once(':') {
            Some(("tcp", rest)) => (Protocol::Tcp, rest),
            Some(("udp", rest)) => (Protocol::Udp, rest),
            _ => return Err(bad("it begins with neither tcp nor udp")),
        };
        let (host, guest) = rest.rsplit_once('-').ok_or_else(|| bad("there is no '-' between host and guest"))?;
        let (address, host_port) = end(host).map_err(|what| bad(&what))?;
        let (inside, guest_port) = end(guest).map_err(|what| bad(&what))?;
        if inside.is_some() {
            return Err(bad("passt knows one guest, so no address is to follow the '-'"));
        }
        Ok(Self { protocol, address, host_port, guest_port })
    }
}

/// `80`, `:80`, `127.0.0.1:80` or `[::1]:80`.
fn end(text: &str) -> Result<(Option<IpAddr>, NonZeroU16), String> {
    let (address, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port = port.parse().map_err(|_| format!("'{port}' is no port from 1 to 65535"))?;
    let address = match address.strip_prefix('[').and_then(|address| address.strip_suffix(']')) {
        _ if address.is_empty() => None,
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => address.parse().ok().filter(IpAddr::is_ipv4),
    }
    .map_or_else(
        || if address.is_empty() { Ok(None) } else { Err(format!("'{address}' is no IPv4 address or [IPv6 address]")) },
        |address| Ok(Some(address)),
    )?;
    Ok((address, port))
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.protocol {
            Protocol::Tcp => "tcp:",
            Protocol::Udp => "udp:",
        })?;
        match self.address {
            None => Ok(()),
            Some(IpAddr::V4(address)) => write!(f, "{address}:"),
            Some(IpAddr::V6(address)) => write!(f, "[{address}]:"),
        }?;
        write!(f, "{}-:{}", self.host_port, self.guest_port)
    }
}

impl TryFrom<String> for Forward {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Forward> for String {
    fn from(forward: Forward) -> Self {
        forward.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_written_as_it_is_read() {
        for text in ["tcp:8080-:80", "tcp:127.0.0.1:8080-:80", "udp:[::1]:53-:5353", "udp:[fe80::1]:1-:65535"] {
            assert_eq!(text.parse::<Forward>().unwrap().to_string(), text);
        }
        for (text, short) in [("tcp::8080-:80", "tcp:8080-:80"), ("udp:53-53", "udp:53-:53")] {
            assert_eq!(text.parse::<Forward>().unwrap().to_string(), short);
        }
    }

    #[test]
    fn what_is_no_forward_is_named_with_its_cure() {
        for (text, what) in [
            ("8080-:80", "it begins with neither tcp nor udp"),
            ("sctp:80-:80", "it begins with neither tcp nor udp"),
            ("tcp:8080", "there is no '-' between host and guest"),
            ("tcp:8080:80", "there is no '-' between host and guest"),
            ("tcp:0-:80", "'0' is no port from 1 to 65535"),
            ("tcp:80-:65536", "'65536' is no port from 1 to 65535"),
            ("tcp:-:80", "'' is no port from 1 to 65535"),
            ("tcp:localhost:80-:80", "'localhost' is no IPv4 address or [IPv6 address]"),
            ("tcp:::1:80-:80", "'::1' is no IPv4 address or [IPv6 address]"),
            ("tcp:[127.0.0.1]:80-:80", "'[127.0.0.1]' is no IPv4 address or [IPv6 address]"),
            ("tcp:80-10.0.2.15:80", "passt knows one guest, so no address is to follow the '-'"),
        ] {
            let expected = format!("hostfwd={text}: {what}: write it as tcp:127.0.0.1:8080-:80");
            assert_eq!(text.parse::<Forward>(), Err(expected));
        }
    }
}
