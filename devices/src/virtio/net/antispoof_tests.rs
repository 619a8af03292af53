// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;
use crate::virtio::net::machine::{MAC, mac};

const OTHER_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const OTHER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 8);
const ANY_V4: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 8);
const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The link-local address that belongs to the card's MAC address.
fn link_local() -> Ipv6Addr {
    let [a, b, c, d, e, f] = MAC.map(u16::from);
    Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f)
}

fn both() -> Antispoof {
    Antispoof { ipv4: vec![V4], ipv6: vec![V6] }
}

fn ethernet(source: [u8; 6], ethertype: u16, rest: &[u8]) -> Vec<u8> {
    [&[0xff; 6], source.as_slice(), &ethertype.to_be_bytes(), rest].concat()
}

fn arp(hardware: [u8; 6], sender: Ipv4Addr) -> Vec<u8> {
    let rest = [&[0, 1, 8, 0, 6, 4, 0, 1], hardware.as_slice(), &sender.octets(), &[0; 6], &V4.octets()].concat();
    ethernet(MAC, 0x0806, &rest)
}

/// An IPv4 packet with so many words of options, and UDP ports.
fn ipv4(source: Ipv4Addr, target: Ipv4Addr, options: u8, protocol: u8, ports: [u16; 2]) -> Vec<u8> {
    let head = [0x45 + options, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0];
    let options = vec![1; usize::from(options) * 4];
    let ports = ports.map(u16::to_be_bytes).concat();
    let rest = [&head, source.octets().as_slice(), &target.octets(), &options, &ports, &[0; 16]].concat();
    ethernet(MAC, 0x0800, &rest)
}

fn ipv6(source: Ipv6Addr, target: Ipv6Addr, next: u8, rest: &[u8]) -> Vec<u8> {
    let head = [0x60, 0, 0, 0, 0, rest.len() as u8, next, 64];
    ethernet(MAC, 0x86dd, &[&head, source.octets().as_slice(), &target.octets(), rest].concat())
}

/// A neighbour advertisement.
fn advertises(address: Ipv6Addr) -> Vec<u8> {
    [&[136, 0, 0, 0, 0, 0, 0, 0], address.octets().as_slice()].concat()
}

fn changed(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn permits(antispoof: &Antispoof, frame: &[u8]) -> bool {
    antispoof.permits(mac(), &frame[..frame.len().min(LOOKED_AT)], None)
}

#[test]
fn what_is_the_guests_own_is_let_through() {
    let broadcast = Ipv4Addr::BROADCAST;
    for (name, frame) in [
        ("ARP", arp(MAC, V4)),
        ("an ARP probe", arp(MAC, ANY_V4)),
        ("IPv4", ipv4(V4, OTHER_V4, 0, 6, [1, 2])),
        ("IPv4 with options", ipv4(V4, OTHER_V4, 10, 6, [1, 2])),
        ("a later fragment", changed(ipv4(V4, OTHER_V4, 0, 17, [0, 0]), 20, &[0x20, 7])),
        ("DHCP", ipv4(ANY_V4, broadcast, 0, 17, [68, 67])),
        ("DHCP with options", ipv4(ANY_V4, broadcast, 2, 17, [68, 67])),
        ("IPv6", ipv6(V6, OTHER_V6, 6, &[0; 20])),
        ("link-local IPv6", ipv6(link_local(), OTHER_V6, 6, &[0; 20])),
        ("duplicate address detection", ipv6(Ipv6Addr::UNSPECIFIED, ALL_NODES, 58, &[135; 24])),
        ("joining a group", ipv6(Ipv6Addr::UNSPECIFIED, ALL_NODES, 0, &[58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0])),
        ("an advertisement", ipv6(V6, ALL_NODES, 58, &advertises(V6))),
        ("one of a link-local address", ipv6(V6, ALL_NODES, 58, &advertises(link_local()))),
        ("fragments of IPv6", ipv6(V6, OTHER_V6, 44, &[58, 0, 0, 1, 0, 0, 0, 0])),
    ] {
        assert!(permits(&both(), &frame), "{name}");
    }
}

#[test]
fn what_is_somebody_elses_is_not_let_through() {
    let broadcast = Ipv4Addr::BROADCAST;
    let tagged = |tag: u16| ethernet(MAC, tag, &[&[0, 1, 8, 6], &arp(MAC, OTHER_V4)[14..]].concat());
    let behind = |next, header: &[u8]| ipv6(V6, ALL_NODES, next, &[header, &advertises(OTHER_V6)].concat());
    for (name, frame) in [
        ("another source", changed(ipv4(V4, OTHER_V4, 0, 6, [1, 2]), 6, &OTHER_MAC)),
        ("an 802.1Q tag", tagged(0x8100)),
        ("an 802.1ad tag", tagged(0x88a8)),
        ("an old tag", tagged(0x9100)),
        ("an unknown kind", ethernet(MAC, 0x88b5, &[0; 46])),
        ("a length instead of a kind", ethernet(MAC, 46, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0])),
        ("ARP of another address", arp(MAC, OTHER_V4)),
        ("ARP of another card", arp(OTHER_MAC, V4)),
        ("ARP of another kind", changed(arp(MAC, V4), 18, &[8])),
        ("IPv4 of another address", ipv4(OTHER_V4, V4, 0, 6, [1, 2])),
        ("a fragment of another address", changed(ipv4(OTHER_V4, V4, 0, 17, [0, 0]), 20, &[0x20, 7])),
        ("IPv4 that says that it is IPv6", changed(ipv4(V4, OTHER_V4, 0, 6, [1, 2]), 14, &[0x65])),
        ("an IPv4 header that is too short", changed(ipv4(V4, OTHER_V4, 0, 6, [1, 2]), 14, &[0x44])),
        ("no address to anybody but all", ipv4(ANY_V4, OTHER_V4, 0, 17, [68, 67])),
        ("no address to another port", ipv4(ANY_V4, broadcast, 0, 17, [68, 53])),
        ("no address and no UDP", ipv4(ANY_V4, broadcast, 0, 6, [68, 67])),
        ("no address in a later fragment", changed(ipv4(ANY_V4, broadcast, 0, 17, [68, 67]), 20, &[0, 1])),
        ("IPv6 of another address", ipv6(OTHER_V6, V6, 6, &[0; 20])),
        ("IPv6 that says that it is IPv4", changed(ipv6(V6, OTHER_V6, 6, &[0; 20]), 14, &[0x45])),
        ("almost link-local", ipv6(Ipv6Addr::new(0xfe80, 0, 0, 1, 0, 0, 0, 1), V6, 6, &[0; 20])),
        ("no address to one", ipv6(Ipv6Addr::UNSPECIFIED, V6, 58, &[135; 24])),
        ("no address and another's", ipv6(Ipv6Addr::UNSPECIFIED, ALL_NODES, 58, &advertises(OTHER_V6))),
        ("an advertisement of another's", ipv6(V6, ALL_NODES, 58, &advertises(OTHER_V6))),
        ("a link-local address that may be the router's", ipv6(ROUTER, V6, 6, &[0; 20])),
        ("an advertisement of that", ipv6(V6, ALL_NODES, 58, &advertises(ROUTER))),
        ("a router's word", ipv6(link_local(), ALL_NODES, 58, &[134; 24])),
        ("a router's word to one", ipv6(V6, OTHER_V6, 58, &[137; 40])),
        ("one behind options", behind(0, &[58, 0, 1, 4, 0, 0, 0, 0])),
        ("one behind a route", behind(43, &[58, 0, 0, 0, 0, 0, 0, 0])),
        ("one far behind", behind(60, &[&[58, 30][..], &[0; 246]].concat())),
        ("one behind what never ends", behind(60, &[60, 0, 1, 4, 0, 0, 0, 0].repeat(40))),
    ] {
        assert!(!permits(&both(), &frame), "{name}");
    }
}

#[test]
fn a_frame_that_is_cut_off_is_not_let_through() {
    let frames = [
        (arp(MAC, V4), 42),
        (ipv4(V4, OTHER_V4, 3, 6, [1, 2]), 46),
        (ipv4(ANY_V4, Ipv4Addr::BROADCAST, 0, 17, [68, 67]), 38),
        (ipv6(V6, OTHER_V6, 6, &[0; 20]), 54),
        (ipv6(V6, ALL_NODES, 58, &advertises(V6)), 78),
    ];
    for (frame, needed) in frames {
        for len in 0..frame.len() {
            assert_eq!(permits(&both(), &frame[..len]), len >= needed, "{len} of {frame:?}");
        }
    }
}

#[test]
fn the_host_writes_no_checksum_over_what_was_looked_at() {
    for (frame, looked_at) in [
        (arp(MAC, V4), vec![6..14, 14..20, 22..28, 28..42]),
        (ipv4(V4, OTHER_V4, 2, 6, [1, 2]), vec![6..14, 14..42]),
        (ipv4(ANY_V4, Ipv4Addr::BROADCAST, 0, 17, [68, 67]), vec![6..14, 14..38]),
        (ipv6(V6, OTHER_V6, 6, &[0; 20]), vec![6..14, 14..15, 20..21, 22..54]),
        (ipv6(V6, ALL_NODES, 58, &advertises(V6)), vec![6..14, 14..15, 20..21, 22..55, 62..78]),
    ] {
        for at in 0..frame.len() {
            let is_looked_at = looked_at.iter().any(|range| range.contains(&at) || range.contains(&(at + 1)));
            assert_eq!(both().permits(mac(), &frame, Some(at)), !is_looked_at, "{at} in {frame:?}");
        }
        assert!(!both().permits(mac(), &frame, Some(6)) && both().permits(mac(), &frame, Some(usize::MAX)));
    }
}

#[test]
fn addresses_that_are_not_given_restrict_nothing() {
    let only_mac = Antispoof::default();
    for frame in [
        ipv4(OTHER_V4, V4, 0, 6, [1, 2]),
        ipv6(OTHER_V6, V6, 58, &advertises(OTHER_V6)),
        arp(MAC, OTHER_V4),
        ethernet(MAC, 0x88b5, &[]),
    ] {
        assert!(permits(&only_mac, &frame));
        assert!(!permits(&only_mac, &changed(frame, 6, &OTHER_MAC)));
    }
    assert!(!permits(&only_mac, &arp(OTHER_MAC, V4)));
    for word in [134, 137] {
        assert!(!permits(&only_mac, &ipv6(ROUTER, ALL_NODES, 58, &[word; 40])), "a guest is no router");
    }
    assert!(!permits(&only_mac, &ethernet(MAC, 0x05ff, &[0; 46])), "a length");
    assert!(!permits(&only_mac, &ethernet(MAC, 0x8100, &[0; 46])));
    let only_v4 = Antispoof { ipv4: vec![V4], ipv6: vec![] };
    assert!(permits(&only_v4, &ipv6(OTHER_V6, V6, 6, &[0; 20])));
    assert!(!permits(&only_v4, &ipv4(OTHER_V4, V4, 0, 6, [1, 2])));
    let only_v6 = Antispoof { ipv4: vec![], ipv6: vec![V6] };
    assert!(permits(&only_v6, &ipv4(OTHER_V4, V4, 0, 6, [1, 2])) && permits(&only_v6, &arp(MAC, OTHER_V4)));
    assert!(!permits(&only_v6, &ipv6(OTHER_V6, V6, 6, &[0; 20])));
}
