// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A case: what is measured, by the side that asks for it.

use std::fmt;
use std::str::FromStr;

/// Bounds the threads and the connections.
const MAX_STREAMS: u32 = 64;
/// Less than any MTU, so that a datagram is one packet.
const MAX_BYTES: u32 = 1400;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Case {
    /// Bytes over so many TCP connections, from the side that asks.
    TcpSend(u32),
    /// The same to it.
    TcpReceive(u32),
    /// Datagrams of so many bytes, from the side that asks.
    UdpSend(u32),
    /// The same to it.
    UdpReceive(u32),
    /// A byte there and back over TCP, again and again.
    RoundTrips,
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "tcp-rr" {
            return Ok(Self::RoundTrips);
        }
        let (kind, number) = text.split_once(':').ok_or_else(|| format!("{text:?}: write it as KIND:N, or tcp-rr"))?;
        let up_to = |most: u32| {
            let number = number.parse().ok().filter(|number| (1..=most).contains(number));
            number.ok_or_else(|| format!("{text:?}: the number is from 1 to {most}"))
        };
        match kind {
            "tcp-send" => up_to(MAX_STREAMS).map(Self::TcpSend),
            "tcp-receive" => up_to(MAX_STREAMS).map(Self::TcpReceive),
            "udp-send" => up_to(MAX_BYTES).map(Self::UdpSend),
            "udp-receive" => up_to(MAX_BYTES).map(Self::UdpReceive),
            _ => Err(format!("{text:?}: {kind:?} is none of tcp-send, tcp-receive, udp-send, udp-receive")),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TcpSend(streams) => write!(f, "tcp-send:{streams}"),
            Self::TcpReceive(streams) => write!(f, "tcp-receive:{streams}"),
            Self::UdpSend(bytes) => write!(f, "udp-send:{bytes}"),
            Self::UdpReceive(bytes) => write!(f, "udp-receive:{bytes}"),
            Self::RoundTrips => f.write_str("tcp-rr"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_written_as_it_is_read() {
        for text in ["tcp-send:1", "tcp-receive:8", "udp-send:64", "udp-receive:1400", "tcp-rr"] {
            assert_eq!(text.parse::<Case>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_can_not_be_measured_is_refused() {
        for text in
            ["", "tcp-send", "tcp-send:0", "tcp-send:65", "udp-send:1401", "udp-send:-1", "tcp-rr:1", "sctp-send:1"]
        {
            assert!(text.parse::<Case>().is_err(), "{text}");
        }
    }
}
