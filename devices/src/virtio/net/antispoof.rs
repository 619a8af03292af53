// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Who a frame says that it is from.
//!
//! The guest controls every byte of a frame, and may have others change it on the way: another vCPU, and the host itself,
//! which writes a checksum where the guest tells it to. So the bytes that are looked at here are a copy of ours, which is
//! what gets sent, and none of them may be where that checksum goes.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::mac::MacAddress;
use super::options::Antispoof;

/// How many bytes of a frame are copied to be looked at, at most: all headers that matter lie in there, or the frame is not
/// let through.
pub(super) const LOOKED_AT: usize = 192;

/// What is less is a length (IEEE 802.3).
const ETHERTYPE_LEAST: u16 = 0x0600;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// What a tag begins with: 802.1Q, 802.1ad, and what was used before that.
const ETHERTYPES_TAG: [u16; 3] = [0x8100, 0x88a8, 0x9100];

const HOP_BY_HOP: u8 = 0;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
/// ICMPv6: I am at this address.
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// The beginning of a frame, and where the host will write a checksum.
struct Frame<'a> {
    bytes: &'a [u8],
    checksum_at: Option<usize>,
}

impl Frame<'_> {
    /// Bytes that stay what they are. `None`: there are not so many, or the checksum goes there.
    fn get(&self, range: Range<usize>) -> Option<&[u8]> {
        let checksum = |at: usize| at < range.end && at.saturating_add(2) > range.start;
        if self.checksum_at.is_some_and(checksum) {
            return None;
        }
        self.bytes.get(range)
    }

    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.bytes::<1>(at).map(|[byte]| byte)
    }

    fn word(&self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_be_bytes)
    }
}

impl Antispoof {
    /// Whether a frame that begins with these bytes, [`LOOKED_AT`] or all that it has, may be sent by the card of this
    /// address. The host writes a checksum of two bytes at `checksum_at`.
    pub(super) fn permits(&self, mac: MacAddress, bytes: &[u8], checksum_at: Option<usize>) -> bool {
        self.check(mac, &Frame { bytes, checksum_at }).is_some()
    }

    fn check(&self, mac: MacAddress, frame: &Frame<'_>) -> Option<()> {
        let source: [u8; 6] = frame.bytes(6)?;
        let ethertype = frame.word(12)?;
        let restricts = !self.ipv4.is_empty() || !self.ipv6.is_empty();
        let permitted = match ethertype {
            // Whatever is behind a tag would be looked at by nobody.
            tag if ETHERTYPES_TAG.contains(&tag) => false,
            ETHERTYPE_ARP => self.permits_arp(mac, frame)?,
            ETHERTYPE_IPV4 => self.ipv4.is_empty() || self.permits_ipv4(frame)?,
            ETHERTYPE_IPV6 => self.permits_ipv6(mac, frame)?,
            // A length: what is behind it may be anything, ARP and the frames of bridges too.
            0..ETHERTYPE_LEAST => false,
            _ => !restricts,
        };
        (source == mac.bytes() && permitted).then_some(())
    }

    /// Ethernet and IPv4, from the card's address and one of its own, or from none yet (RFC 5227 §2.1.1).
    fn permits_arp(&self, mac: MacAddress, frame: &Frame<'_>) -> Option<bool> {
        let kind: [u8; 6] = frame.bytes(14)?;
        let hardware: [u8; 6] = frame.bytes(22)?;
        let address = Ipv4Addr::from(frame.bytes::<4>(28)?);
        // All of it is there: what it asks for too.
        frame.get(32..42)?;
        let is_own = self.ipv4.is_empty() || address.is_unspecified() || self.ipv4.contains(&address);
        Some(kind == [0, 1, 8, 0, 6, 4] && hardware == mac.bytes() && is_own)
    }

    fn permits_ipv4(&self, frame: &Frame<'_>) -> Option<bool> {
        let first = frame.byte(14)?;
        let header = usize::from(first & 0xf).checked_mul(4)?;
        if first >> 4 != 4 || header < 20 {
            return Some(false);
        }
        let end = header.checked_add(14)?;
        frame.get(14..end)?;
        let source = Ipv4Addr::from(frame.bytes::<4>(26)?);
        if !source.is_unspecified() {
            return Some(self.ipv4.contains(&source));
        }
        // Who has no address yet asks all for one by DHCP (RFC 2131 §4.1), and does nothing else. Only the first fragment
        // has the ports.
        let is_first = frame.word(20)? & 0x1fff == 0;
        let is_to_all = Ipv4Addr::from(frame.bytes::<4>(30)?).is_broadcast();
        let ports = (frame.word(end)?, frame.word(end.checked_add(2)?)?);
        Some(is_first && is_to_all && frame.byte(23)? == UDP && ports == (68, 67))
    }

    fn permits_ipv6(&self, mac: MacAddress, frame: &Frame<'_>) -> Option<bool> {
        if frame.byte(14)? >> 4 != 6 {
            return Some(false);
        }
        if self.ipv6.is_empty() {
            return self.permits_icmpv6(mac, frame);
        }
        let source = Ipv6Addr::from(frame.bytes::<16>(22)?);
        let target = Ipv6Addr::from(frame.bytes::<16>(38)?);
        if source.is_unspecified() {
            // Duplicate address detection (RFC 4862 §5.4.2), looking for a router, and joining the groups for that.
            let [first, second, ..] = target.octets();
            return Some((first, second) == (0xff, 0x02) && self.permits_icmpv6(mac, frame)?);
        }
        Some(self.is_own(mac, source) && self.permits_icmpv6(mac, frame)?)
    }

    /// One that was given, or the link-local one that belongs to the card's MAC address (RFC 4291, appendix A). Any other of
    /// the link might be the router's.
    fn is_own(&self, mac: MacAddress, address: Ipv6Addr) -> bool {
        let [a, b, c, d, e, f] = mac.bytes();
        let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
        self.ipv6.is_empty() || address.octets() == link_local || self.ipv6.contains(&address)
    }

    /// Whether the packet is anything but a router's word, or the claim to have an address of others. Nobody believes one in
    /// fragments (RFC 6980).
    fn permits_icmpv6(&self, mac: MacAddress, frame: &Frame<'_>) -> Option<bool> {
        let (mut next, mut at) = (frame.byte(20)?, 54usize);
        // Ends: each turn goes on by 8 bytes at least, and the frame's copy is bounded.
        while matches!(next, HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS) {
            let [following, units] = frame.bytes(at)?;
            at = usize::from(units).checked_add(1)?.checked_mul(8)?.checked_add(at)?;
            next = following;
        }
        if next != ICMPV6 {
            return Some(true);
        }
        match frame.byte(at)? {
            ROUTER_ADVERTISEMENT | REDIRECT => Some(false),
            NEIGHBOUR_ADVERTISEMENT => Some(self.is_own(mac, Ipv6Addr::from(frame.bytes::<16>(at.checked_add(8)?)?))),
            _ => Some(true),
        }
    }
}

#[cfg(test)]
#[path = "antispoof_tests.rs"]
mod tests;
